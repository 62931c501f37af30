"""Asks the daemon in this container how it is, and exits 0 when it answers 200: healthcheck.py [PATH]."""  # noqa: INP001  a script in the image, no package

from __future__ import annotations

import http.client
import os
import ssl
import sys

LIVE = "/v2/health/live"
TIMEOUT_S = 2.0


def healthy(path: str) -> bool:
    """Whether the probe at `path` answers 200.

    The port and whether it is TLS come from the daemon's own variables. A probe never leaves the container, so the
    certificate, which names the outside, is not checked.
    """
    port = int(os.environ.get("ANOMVAE_SERVE_PORT", "8080"))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    if os.environ.get("ANOMVAE_SERVE_TLS_CERT"):
        unchecked = ssl.create_default_context()
        unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=TIMEOUT_S, context=unchecked)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if healthy(sys.argv[1] if len(sys.argv) > 1 else LIVE) else 1)
