"""One HTTP connection, on uvicorn's httptools protocol: limits on headers and on how slowly they come, and a fast lane."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from anomvae.serving.exchange import ARROW_STREAM, JSON
from anomvae.serving.fast_lane import MAX_BYTES
from anomvae.serving.http_front import told
from anomvae.serving.service import CallerGoneError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from anomvae.scoring.jobs import Promise
    from anomvae.serving.fast_lane import FastLane
    from anomvae.serving.http_front import Target

MOST_HEADERS = 100
MOST_WAITING = 64
"""Requests that may wait behind one that is being answered, on one connection."""
STUCK_S = 30.0
"""How long a caller may leave an answer unread, in seconds."""
RESERVE = 16
"""Connections beyond the most allowed that may still look whether the daemon lives, and read its metrics."""
ALWAYS = frozenset({b"/v2/health/live", b"/v2/health/ready", b"/ping", b"/health", b"/metrics"})
LINGER_S = 1.0
"""How long a quiet connection is kept when the daemon stops, in seconds: a request may be on its way to it."""
_CROWD = (503, "too many connections are open here; try again later", b"retry-after: 1\r\n")
_CLOSING = frozenset({401, 413, 500})
_LONG_WAY = frozenset({b"expect", b"content-encoding", b"transfer-encoding", b"upgrade"})
_ARROW = ARROW_STREAM.encode()


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What a connection may do before a request of it is looked at.

    Attributes:
        max_header_bytes: Most bytes of request line and headers together.
        header_timeout_s: Longest time from a request's first byte, or from the connection's opening, to the end of its
            headers, in seconds.
        body_timeout_s: Longest time from the headers to the end of a small body, in seconds.
        max_connections: Most connections at once.
    """

    max_header_bytes: int = 32 * 1024
    header_timeout_s: float = 10.0
    body_timeout_s: float = 20.0
    max_connections: int = 1000


def limited_connection(
    limits: ConnectionLimits, on_ended: Callable[[int], None], lane: FastLane | None = None
) -> type[HttpToolsProtocol]:
    """A protocol class for uvicorn.

    Args:
        limits: What a connection may do.
        on_ended: Called with the status of each answer that is given before a request is known.
        lane: The short way for small requests; None: all go the long way.
    """

    class LimitedConnection(_LimitedConnection):
        pass

    LimitedConnection.limits = limits
    LimitedConnection.told = (on_ended,)
    LimitedConnection.lane = lane
    return LimitedConnection


class _LaneCycle:
    """A request in the fast lane, with what uvicorn's protocol asks of a request and its response."""

    __slots__ = (
        "_connection",
        "body",
        "disconnected",
        "keep_alive",
        "more_body",
        "promise",
        "response_complete",
        "target",
    )

    def __init__(self, connection: _LimitedConnection, target: Target, *, keep_alive: bool) -> None:
        self._connection = connection
        self.target = target
        self.keep_alive = keep_alive
        self.body = bytearray()
        self.more_body = True
        self.disconnected = False
        self.response_complete = False
        self.promise: Promise | None = None

    @property
    def message_event(self) -> _LaneCycle:
        """Uvicorn sets it when something happened: more body, its end, or the caller's."""
        return self

    def set(self) -> None:
        """Something happened."""
        if self.disconnected:
            if self.promise is not None:
                self.promise.set_exception(CallerGoneError())
        elif not self.more_body and not self.response_complete and self.promise is None:
            self._connection.answer_in_lane(self)


class _LimitedConnection(HttpToolsProtocol):
    limits: ClassVar[ConnectionLimits]
    told: ClassVar[Sequence[Callable[[int], None]]]
    lane: ClassVar[FastLane | None]
    default_lines: ClassVar[tuple[object, bytes]] = (None, b"")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_bytes = 0
        self._silent_bytes = 0
        self._refusal: tuple[int, str, bytes] | None = None
        self._last_words: tuple[int, str, bytes] | None = None
        self._crowded = self._in_headers = False
        self._in_lane: _LaneCycle | None = None
        self._due: asyncio.TimerHandle | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None

    # --- the connection

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._crowded = len(self.connections) > self.limits.max_connections
        if len(self.connections) > self.limits.max_connections + RESERVE:
            self._end(*_CROWD)
            return
        self._due = self.loop.call_later(self.limits.header_timeout_s, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._due, self._ending, self._stuck):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._last_words is not None or self.transport.is_closing():  # what still comes is not read
            return
        self._silent_bytes += len(data)
        super().data_received(data)
        if self._silent_bytes > self.limits.max_header_bytes and self.parser is not None:
            self._end(431, self._headers_too_large(), b"")  # a header, or a chunk's extension, that does not end
        elif self._due is None and not self.transport.is_closing():
            self._watch_the_clock()

    def eof_received(self) -> bool:  # type: ignore[override]
        """A caller that has said all may still wait for the answer."""
        if self.scheme != "http" or not self._is_busy():
            return False
        self.cycle.keep_alive = False
        return True

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stuck is None:
            self._stuck = self.loop.call_later(STUCK_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # else it would wait for ever for a caller who does not read
        else:
            super().timeout_keep_alive_handler()

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

    # --- what the parser finds

    def on_message_begin(self) -> None:
        self._unset_keepalive_if_required()
        self._in_headers = True
        self._header_bytes = self._silent_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._header_bytes += len(url)
        if self._header_bytes > self.limits.max_header_bytes:
            self._refuse(431, self._headers_too_large(), b"")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer: both count."""
        self._silent_bytes = 0
        self._header_bytes += len(name) + len(value) + 4
        if self._header_bytes > self.limits.max_header_bytes or len(self.headers) >= MOST_HEADERS:
            self._refuse(431, self._headers_too_large(), b"")
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))  # all that uvicorn's own does; a call less for each of many

    def on_body(self, body: bytes) -> None:
        self._silent_bytes = 0
        super().on_body(body)

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._on_time()
        if self._crowded and self.url.partition(b"?")[0] not in ALWAYS:
            self._refuse(*_CROWD)
        if len(self.pipeline) >= MOST_WAITING:
            self._refuse(400, "too many requests wait on this connection; read their answers first", b"")
        target = self._target()
        self._in_lane = None
        if target is None:
            super().on_headers_complete()
        else:
            keep_alive = self.parser.get_http_version() == "1.1" and self.parser.should_keep_alive()
            self._in_lane = _LaneCycle(self, target, keep_alive=keep_alive)
            self.cycle = self._in_lane  # type: ignore[assignment]  # uvicorn asks no more of it than it has

    def on_message_complete(self) -> None:
        self._silent_bytes = 0
        self._on_time()
        super().on_message_complete()
        if (
            self.cycle is not None and self.cycle.response_complete and not self.pipeline
        ):  # answered before it was all here
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        if self.cycle is not None and self.cycle.response_complete and self.cycle.more_body and self._due is None:
            # Answered before it was all here: what still comes is nobody's, and has its time.
            self._due = self.loop.call_later(self.limits.body_timeout_s, self.transport.abort)
        super().on_response_complete()
        if self._last_words is not None and not self._is_busy():
            words, self._last_words = self._last_words, None
            self._end(*words)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  the text is uvicorn's
        self._end(*(self._refusal or (400, "the request is not HTTP", b"")))

    def _refuse(self, status: int, message: str, headers: bytes) -> NoReturn:
        """Stops the parser; uvicorn then calls `send_400_response`."""
        self._refusal = (status, message, headers)
        raise ValueError(message)

    def _headers_too_large(self) -> str:
        return f"the request's headers are larger than {self.limits.max_header_bytes:,} bytes, or too many"

    def _is_busy(self) -> bool:
        """Whether a request that is all here is still to be answered."""
        return bool(self.pipeline) or not (self.cycle is None or self.cycle.response_complete or self.cycle.more_body)

    # --- the fast lane

    def answer_in_lane(self, cycle: _LaneCycle) -> None:
        """Answers a request that is all here."""
        self._on_time()
        assert self.lane is not None  # noqa: S101  else there is no such cycle
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in self.headers}
        try:
            cycle.promise = self.lane.answer(
                cycle.target,
                headers,
                bytes(cycle.body),
                lambda status, body, media_type, more: self._reply(cycle, status, body, media_type, more),
            )
        except Exception as error:  # noqa: BLE001  the parser would take it for a fault of the request
            status, body, more = told(error)
            self._reply(cycle, status, body, JSON, more)

    def _target(self) -> Target | None:
        """What the request names, if it can take the fast lane."""
        if self.lane is None or self.parser.get_method() != b"POST":
            return None
        target = self.lane.target(self.url)
        busy = self.pipeline or (self.cycle is not None and not self.cycle.response_complete)
        if target is None or busy or self.flow.write_paused:
            return None
        size = -1
        for name, value in self.headers:
            if name == b"content-length":
                size = int(value)
            elif name in _LONG_WAY or (name == b"content-type" and value.lower().startswith(_ARROW)):
                return None  # an Arrow stream may unpack to a million rows, however small it is
        return target if 0 <= size <= MAX_BYTES else None

    def _reply(self, cycle: _LaneCycle, status: int, body: bytes, media_type: str, more: list[tuple[str, str]]) -> None:
        if cycle.disconnected or self.transport.is_closing():
            return
        closing = not cycle.keep_alive or status in _CLOSING or (self.lane is not None and self.lane.closing)
        head = [STATUS_LINE[status], self._default_headers(), b"content-type: ", media_type.encode()]
        head += [b"\r\ncontent-length: %d\r\n" % len(body)]
        head += [f"{name}: {value}\r\n".encode("latin-1", "replace") for name, value in more]
        head += [b"connection: close\r\n\r\n" if closing else b"\r\n", body]
        self.transport.write(b"".join(head))
        cycle.response_complete = True
        if closing:
            self.transport.close()
        self.on_response_complete()

    def _default_headers(self) -> bytes:
        """The headers of every answer as bytes; uvicorn makes a new list of them each second."""
        headers = self.server_state.default_headers
        if self.default_lines[0] is not headers:
            lines = b"".join(b"%s: %s\r\n" % header for header in headers)
            type(self).default_lines = (headers, lines)
        return self.default_lines[1]

    # --- clocks and ends

    def _watch_the_clock(self) -> None:
        """Sets a timer if headers, or a body in the fast lane, are not all here yet."""
        if self._in_headers:
            self._due = self.loop.call_later(self.limits.header_timeout_s, self._too_slow)
        elif self._in_lane is not None and self._in_lane.more_body:
            self._due = self.loop.call_later(self.limits.body_timeout_s, self._too_slow)

    def _on_time(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _too_slow(self) -> None:
        self._due = None
        if self.transport.is_closing():
            return
        if self._in_lane is not None and self._in_lane.more_body:
            self._end(408, f"the body did not arrive within {self.limits.body_timeout_s:g} seconds", b"")
        else:
            self._end(408, f"the request's headers did not arrive within {self.limits.header_timeout_s:g} seconds", b"")

    def _end(self, status: int, message: str, headers: bytes) -> None:
        """Answers without a request, after those that are still to be answered, and closes."""
        if self._is_busy():
            self._last_words = (status, message, headers)
            return
        for tell in self.told:
            tell(status)
        body = orjson.dumps({"error": message})
        head = b"HTTP/1.1 %d %s\r\n" % (status, HTTPStatus(status).phrase.encode())
        head += b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
        self.transport.write(head + headers + b"\r\n" + body)
        self.transport.close()
