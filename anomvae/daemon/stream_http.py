"""What a stream tells over HTTP: metrics, and whether it lives and is ready. The standard library does: nobody scores here."""

from __future__ import annotations

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from anomvae.daemon.http_server import listen

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from anomvae.observability.stream_metrics import StreamMetrics

PATIENCE_S = 10.0
"""How long a caller may take to say what it wants."""
MOST_CALLERS = 32
"""Callers at a time; more wait in the system's queue."""


class StatusServer:
    """Answers `/metrics`, `/health/live` and `/health/ready` on threads of its own.

    `/health` is readiness too, and `/v2` may stand before the health routes, as those of the daemon are named.

    Args:
        host: Address to listen on.
        port: 0: any free one.
        metrics: What `/metrics` shows.
        live: Whether the stream goes on.
        ready: Whether it answers: source and sinks are connected, and nothing told it to stop.

    Attributes:
        port: The port it listens on.

    Raises:
        SettingError: The address is not here, or the port is taken.
    """

    def __init__(
        self, host: str, port: int, metrics: StreamMetrics, live: Callable[[], bool], ready: Callable[[], bool]
    ) -> None:
        listener = listen(host, port, 64)
        self.port: int = listener.getsockname()[1]
        self._metrics = metrics
        self._tellers = {"/health": ready, "/health/ready": ready, "/health/live": live}
        self._server = _Server(listener, self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="status", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, path: str, accept: str) -> tuple[int, bytes, str]:
        route = path.partition("?")[0]
        if route == "/metrics":
            return 200, *self._metrics.render(accept)
        teller = self._tellers.get(route.removeprefix("/v2"))
        if teller is None:
            routes = ", ".join(["/metrics", *self._tellers])
            return (
                404,
                json.dumps({"error": f"there is no such route; there are {routes}"}).encode(),
                "application/json",
            )
        fine = teller()
        return 200 if fine else 503, json.dumps({"ok": fine}).encode(), "application/json"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        answer = self._answer

        class Handler(BaseHTTPRequestHandler):
            timeout = PATIENCE_S
            server_version, sys_version = "anomvae", ""

            def do_GET(self) -> None:
                status, body, kind = answer(self.path, self.headers.get("accept", ""))
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815  the library's name

            def log_message(self, format: str, *_: object) -> None:  # noqa: A002  the library's name
                """A scrape is no event."""

        return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(listener.getsockname()[:2], handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self._permits = threading.Semaphore(MOST_CALLERS)

    def process_request_thread(self, request: object, client_address: object) -> None:
        with self._permits, contextlib.suppress(OSError):
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]  # handed on as they are

    def handle_error(self, request: object, client_address: object) -> None:
        """A caller that hangs up is no event either."""
