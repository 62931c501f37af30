"""TLS for MQTT connections."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from anomvae.errors import SettingError

if TYPE_CHECKING:
    from anomvae.streaming.mqtt import MqttTls


class _TlsSocket(ssl.SSLSocket):
    """Closes itself when the handshake fails, which paho leaves to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def tls_context(tls: MqttTls) -> ssl.SSLContext:
    """What trusts and is trusted.

    Raises:
        SettingError: A file is missing or not what it should be.
    """
    name = tls.authority
    try:
        context = ssl.create_default_context(cafile=tls.authority)
        context.sslsocket_class = _TlsSocket
        if tls.certificate is not None:
            name = tls.certificate
            context.load_cert_chain(tls.certificate, tls.key, password=_no_password)
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError | PermissionError)
        why = "it is missing or may not be read" if missing else "it is not the PEM file it should be"
        raise SettingError(f"{name} cannot be used for TLS: {why}") from None
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")  # OpenSSL would ask on the terminal
