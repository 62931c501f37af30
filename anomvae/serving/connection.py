"""One HTTP connection, on uvicorn's httptools protocol, with limits on headers and on how slowly they may come."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

MOST_HEADERS = 100
LINGER_S = 1.0
"""How long a quiet connection is kept when the daemon stops, in seconds: a request may be on its way to it."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What a connection may do before a request of it is looked at.

    Attributes:
        max_header_bytes: Most bytes of request line and headers together.
        header_timeout_s: Longest time from a request's first byte, or from the connection's opening, to the end of its
            headers, in seconds.
        max_connections: Most connections at once.
    """

    max_header_bytes: int = 32 * 1024
    header_timeout_s: float = 10.0
    max_connections: int = 1000


def limited_connection(limits: ConnectionLimits, on_refused: Callable[[], None]) -> type[HttpToolsProtocol]:
    """A protocol class for uvicorn.

    Args:
        limits: What a connection may do.
        on_refused: Called for each connection that is one too many.
    """

    class LimitedConnection(_LimitedConnection):
        pass

    LimitedConnection.limits = limits
    LimitedConnection.on_refused = (on_refused,)
    return LimitedConnection


class _LimitedConnection(HttpToolsProtocol):
    limits: ClassVar[ConnectionLimits]
    on_refused: ClassVar[Sequence[Callable[[], None]]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_bytes = 0
        self._too_large = False
        self._in_headers = False
        self._headers_due: asyncio.TimerHandle | None = None
        self._ending: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            for tell in self.on_refused:
                tell()
            self._end(503, "too many connections are open here; try again later", b"retry-after: 1\r\n")
            return
        self._headers_due = self.loop.call_later(self.limits.header_timeout_s, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_time()
        if self._ending is not None:
            self._ending.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():  # refused; what still comes is not read
            return
        super().data_received(data)
        if self._in_headers and self._headers_due is None and not self.transport.is_closing():
            self._headers_due = self.loop.call_later(self.limits.header_timeout_s, self._too_slow)

    def on_message_begin(self) -> None:
        self._header_bytes = 0
        self._in_headers = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._on_time()
        super().on_headers_complete()

    def shutdown(self) -> None:
        """Ends the connection once what was asked is answered; a quiet one after a while, for what may be on its way."""
        if self.cycle is not None and not self.cycle.response_complete:
            super().shutdown()
            return
        if self._ending is None:
            self._ending = self.loop.call_later(LINGER_S, self._end_if_quiet)

    def _end_if_quiet(self) -> None:
        if not self.transport.is_closing():
            super().shutdown()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  the text is uvicorn's
        if self._too_large:
            self._end(431, f"the request's headers are larger than {self.limits.max_header_bytes:,} bytes")
        else:
            self._end(400, "the request is not HTTP")

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > self.limits.max_header_bytes or len(self.headers) > MOST_HEADERS:
            self._too_large = True
            raise ValueError("headers too large")  # the parser stops, and uvicorn calls send_400_response

    def _on_time(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _too_slow(self) -> None:
        self._headers_due = None
        if not self.transport.is_closing():
            self._end(408, f"the request's headers did not arrive within {self.limits.header_timeout_s:g} seconds")

    def _end(self, status: int, message: str, headers: bytes = b"") -> None:
        """Answers without a request, and closes."""
        body = orjson.dumps({"error": message})
        head = b"HTTP/1.1 %d %s\r\n" % (status, HTTPStatus(status).phrase.encode())
        head += b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
        self.transport.write(head + headers + b"\r\n" + body)
        self.transport.close()
