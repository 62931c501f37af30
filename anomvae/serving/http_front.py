"""HTTP: the routes that score take a straight way in, everything else goes through starlette."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl

import orjson

from anomvae.errors import OverloadedError, RequestError, SlowRequestError, StoppingError, UnauthorizedError
from anomvae.serving.arrow import ArrowLimits, decode_score_arrow
from anomvae.serving.bodies import BodyLimits, Held, read_body
from anomvae.serving.exchange import ARROW_STREAM, JSON, trace_id_of
from anomvae.serving.invocations import decode_invocations
from anomvae.serving.permits import Permit
from anomvae.serving.records import decode_score
from anomvae.serving.service import CallerGoneError
from anomvae.serving.status import status_of
from anomvae.serving.v2 import decode_infer
from anomvae.serving.wishes import MAX_ROWS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.types import ASGIApp, Receive, Scope, Send

    from anomvae.serving.exchange import Decoded, Headers, Reply
    from anomvae.serving.model import ServedModel
    from anomvae.serving.service import Service

    Decode = Callable[[], Decoded]

MAX_BUFFERED_BYTES = 256 * 2**20
OPEN_PATHS = frozenset({"/v2/health/live", "/v2/health/ready", "/ping", "/health"})
"""Probes: they tell nothing but that the daemon is there, and ask for no token."""
_CLOSE = (b"connection", b"close")


class Target(NamedTuple):
    """What a path that scores names.

    Attributes:
        protocol: Label for metrics.
        model: Name of the model; empty: the default one.
        version: Its version; empty: the one in service.
    """

    protocol: str
    model: str = ""
    version: str = ""


def target_of(path: str) -> Target | None:
    """The target of a path that scores by POST; None for any other path.

    Example:
        >>> target_of("/v2/models/press/infer")
        Target(protocol='v2-json', model='press', version='')
        >>> target_of("/metrics") is None
        True
    """
    parts = path.split("/")
    match parts[1:]:
        case ["v2", "models", name, "infer"]:
            return Target("v2-json", name)
        case ["v1", "models", name, "score"]:
            return Target("v1-json", name)
        case ["v2", "models", name, "versions", version, "infer"]:
            return Target("v2-json", name, version)
        case ["invocations"]:
            return Target("mlflow")
    return None


class HttpFront:
    """The ASGI application.

    Args:
        service: Answers.
        other: Takes every request that does not score.
        limits: Of bodies.
        max_buffered_bytes: Most bytes of bodies held, as they came and unpacked, over all requests.
    """

    def __init__(
        self,
        service: Service,
        other: ASGIApp,
        limits: BodyLimits | None = None,
        max_buffered_bytes: int = MAX_BUFFERED_BYTES,
    ) -> None:
        self._service = service
        self._other = other
        self._limits = limits or BodyLimits()
        self._buffered = Permit(max_buffered_bytes, "bytes")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, after ASGI 3."""
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        target = target_of(scope["path"]) if scope["method"] == "POST" else None
        held = Held(self._buffered)
        try:
            await self._answer(scope, receive, send, headers, target, held)
        except asyncio.CancelledError:  # at the end of a drain
            await send_error(
                send, StoppingError("the daemon stopped before this was answered; send it again"), closing=True
            )
        finally:
            held.release()

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, headers: Headers, target: Target | None, held: Held
    ) -> None:
        service = self._service
        try:
            if scope["path"] not in OPEN_PATHS:
                service.authorize(headers.get("authorization"))
            answer = None if target is None else await self._read(target, scope, receive, headers, held)
        except CallerGoneError:
            return
        except Exception as error:  # noqa: BLE001  the table says what the caller is told
            service.refused(target.model if target else "", target.protocol if target else "other", error)
            # A body that did not come in time may go on coming, drop by drop.
            await send_error(send, error, closing=service.draining or isinstance(error, SlowRequestError))
            return
        if answer is None:
            await self._other(scope, receive, send)
            return
        try:
            reply: Reply = await answer
        except CallerGoneError:
            return
        except Exception as error:  # noqa: BLE001  as above; the service has counted it
            await send_error(send, error, closing=service.draining)
            return
        await send_reply(send, 200, reply.body, reply.media_type, reply.headers, closing=service.draining)

    async def _read(
        self, target: Target, scope: Scope, receive: Receive, headers: Headers, held: Held
    ) -> Awaitable[Reply]:
        """Reads a request; what is left to do is to answer it."""
        service = self._service
        model = service.models.get(target.model, target.version)
        timeout_s = timeout_of(headers)
        query = _query(scope["query_string"])
        if query and target.protocol != "v1-json":
            raise RequestError("this route takes no options in its query; the body has parameters for them")
        try:
            body = await read_body(receive, headers, self._limits, held)
        except OverloadedError:
            service.metrics.shed(model.name, "bytes")
            raise
        return service.answer(
            model,
            decoder(target, model, body, headers, query, service.rows.limit),
            protocol=target.protocol,
            size_bytes=len(body),
            heavy=is_arrow(headers),
            timeout_s=timeout_s,
            trace_id=trace_id_of(headers.get("traceparent")),
            on_linger=lambda future: _watch_caller(receive, future),
        )


def decoder(
    target: Target, model: ServedModel, body: bytes, headers: Headers, query: Mapping[str, str], max_rows: int
) -> Decode:
    """How to read a request; by its path, then by its content type.

    Args:
        target: What its path names.
        model: The version to score with.
        body: All of it.
        headers: By lower-case name.
        query: Options of its query.
        max_rows: Most rows it may hold; more are refused before their cells are read.
    """
    most = min(max_rows, MAX_ROWS)
    if target.protocol == "v2-json":
        return lambda: decode_infer(model, body, headers, max_rows=most)
    if target.protocol == "mlflow":
        return lambda: decode_invocations(model, body, headers, max_rows=most)
    if is_arrow(headers):
        return lambda: decode_score_arrow(model, body, headers, query, limits=ArrowLimits(rows=most))
    return lambda: decode_score(model, body, headers, query, max_rows=most)


def is_arrow(headers: Headers) -> bool:
    """Whether a body is an Arrow stream."""
    return headers.get("content-type", JSON).partition(";")[0].strip().lower() == ARROW_STREAM


def _query(query: bytes) -> dict[str, str]:
    if not query:
        return {}
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=20)
    except (UnicodeDecodeError, ValueError):
        raise RequestError("the query string cannot be read; write ?top=3&alarm_rate=0.01") from None
    if len(dict(pairs)) < len(pairs):
        raise RequestError("the query string gives an option twice; give each once")
    return dict(pairs)


def timeout_of(headers: Headers) -> float | None:
    """The caller's patience: the header `x-request-timeout`, in seconds."""
    stated = headers.get("x-request-timeout")
    if stated is None:
        return None
    try:
        timeout_s = float(stated)
    except ValueError:
        timeout_s = -1.0
    if not 0 < timeout_s < float("inf"):
        raise RequestError("the header x-request-timeout must be a number of seconds above 0")
    return timeout_s


def _watch_caller(receive: Receive, future: asyncio.Future[Any]) -> None:
    """Fails a future once its caller has closed the connection."""

    async def watch() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            message = await receive()
            if message["type"] == "http.disconnect" and not future.done():
                future.set_exception(CallerGoneError())

    task = asyncio.ensure_future(watch())
    future.add_done_callback(lambda _: task.cancel())


def told(error: BaseException) -> tuple[int, bytes, list[tuple[str, str]]]:
    """An error as HTTP tells it: status, body `{"error": "one sentence"}`, headers."""
    status = status_of(error)
    headers: list[tuple[str, str]] = []
    if isinstance(error, OverloadedError):
        headers.append(("retry-after", f"{error.retry_after_s:.0f}"))
    if isinstance(error, UnauthorizedError):
        headers.append(("www-authenticate", "Bearer"))
    return status.http, orjson.dumps({"error": status.message}), headers


async def send_error(send: Send, error: BaseException, *, closing: bool = False) -> None:
    """Answers with an error; closes the connection where the request's body may not have been read."""
    status, body, headers = told(error)
    await send_reply(send, status, body, JSON, headers, closing=closing or status in (401, 413, 500))


async def send_reply(
    send: Send,
    status: int,
    body: bytes,
    media_type: str,
    headers: list[tuple[str, str]] | tuple[tuple[str, str], ...] = (),
    *,
    closing: bool = False,
) -> None:
    """Sends an answer in one go.

    Args:
        send: Of the request.
        status: HTTP status code.
        body: All of it.
        media_type: Of the body.
        headers: More headers.
        closing: Whether the connection is closed afterwards.
    """
    wire = [(b"content-type", media_type.encode()), (b"content-length", str(len(body)).encode())]
    wire += [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers]
    if closing:
        wire.append(_CLOSE)
    await send({"type": "http.response.start", "status": status, "headers": wire})
    await send({"type": "http.response.body", "body": body})
