"""gRPC: the Open Inference Protocol's service and gRPC's own health check."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError

from anomvae.errors import (
    OverloadedError,
    RequestError,
    SettingError,
    SlowRequestError,
    StoppingError,
    UnknownModelError,
)
from anomvae.serving.exchange import trace_id_of
from anomvae.serving.messages import HEALTH, INFERENCE, Method, methods_of
from anomvae.serving.metadata import model_config, model_metadata, repository_index, server_metadata
from anomvae.serving.service import LARGE_BYTES
from anomvae.serving.status import status_of
from anomvae.serving.v2_messages import decode_infer_message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from anomvae.serving.service import Service

    Answer = Callable[[Any, "Call"], Awaitable[dict[str, Any] | Any]]

OPEN_METHODS = frozenset({"ServerLive", "ServerReady", "Check"})
"""Probes: they tell nothing but that the daemon is there, and ask for no token."""
EMPTY_REQUESTS = frozenset({"ServerLive", "ServerReady"})
"""Their messages have no fields, so that nobody waits for them."""
MAX_METADATA_BYTES = 16 * 1024
MAX_CALLS = 1024
MESSAGE_TIMEOUT_S = 20.0
HANDSHAKE_TIMEOUT_S = 10.0
KEEPALIVE_S = 60.0


@dataclass(slots=True)
class Call:
    """A call, beside its message.

    Attributes:
        metadata: Of the caller, by lower-case key.
        size_bytes: Size of the message.
        timeout_s: Time the caller has left, if it set a deadline.
        model: Name of the model it is for, once known.
        counted: Whether the service counts how it ends.
    """

    metadata: Mapping[str, str]
    size_bytes: int
    timeout_s: float | None
    model: str = ""
    counted: bool = False

    @property
    def trace_id(self) -> str | None:
        """The trace id of a W3C `traceparent`, if there is a valid one."""
        return trace_id_of(self.metadata.get("traceparent"))


def make_grpc_server(
    service: Service,
    *,
    max_message_bytes: int,
    max_metadata_bytes: int = MAX_METADATA_BYTES,
    max_calls: int = MAX_CALLS,
    message_timeout_s: float = MESSAGE_TIMEOUT_S,
    keepalive_s: float = KEEPALIVE_S,
) -> grpc.aio.Server:
    """A server with the services on it; it is neither bound to a port nor started.

    Args:
        service: Answers.
        max_message_bytes: Largest message taken; gRPC itself refuses larger ones, with RESOURCE_EXHAUSTED.
        max_metadata_bytes: Most metadata taken with a call.
        max_calls: Most calls at once, beside as many probes; more are refused with RESOURCE_EXHAUSTED.
        message_timeout_s: Longest time the message of a call may take to arrive.
        keepalive_s: A silent connection is asked after this time whether it still lives; and a caller that asks that more
            than twice as often is sent away.
    """
    options = (
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", max_metadata_bytes),
        ("grpc.server_handshake_timeout_ms", round(HANDSHAKE_TIMEOUT_S * 1000)),
        ("grpc.keepalive_time_ms", round(keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_ping_interval_without_data_ms", round(keepalive_s * 500)),
        ("grpc.so_reuseport", 0),  # a second daemon on the port is an error, not half of the calls
    )
    server = grpc.aio.server(options=options)
    front = GrpcFront(service, max_calls=max_calls, message_timeout_s=message_timeout_s)
    for name, answers in front.answers.items():
        methods = methods_of(name)
        handlers = {
            # A stream of one message is the same on the wire, and gRPC leaves its reading to us: after the token was seen.
            method: grpc.stream_unary_rpc_method_handler(
                partial(front.handle, method, methods[method], answer),
                response_serializer=methods[method].response.SerializeToString,
            )
            for method, answer in answers.items()
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    return server


class GrpcFront:
    """Answers the methods of both services.

    Args:
        service: The path that all requests share.
        max_calls: Most calls at once, and most probes at once.
        message_timeout_s: Longest time the message of a call may take to arrive.

    Attributes:
        answers: What answers a method, by service and method.
    """

    def __init__(
        self, service: Service, *, max_calls: int = MAX_CALLS, message_timeout_s: float = MESSAGE_TIMEOUT_S
    ) -> None:
        self._service, self._max_calls, self._message_timeout_s = service, max_calls, message_timeout_s
        self._going = {True: 0, False: 0}
        self.answers: dict[str, dict[str, Answer]] = {
            INFERENCE: {
                "ServerLive": self._server_live,
                "ServerReady": self._server_ready,
                "ModelReady": self._model_ready,
                "ServerMetadata": self._server_metadata,
                "ModelMetadata": self._model_metadata,
                "ModelConfig": self._model_config,
                "ModelInfer": self._model_infer,
                "RepositoryIndex": self._repository_index,
                "RepositoryModelLoad": self._repository_model_load,
            },
            HEALTH: {"Check": self._check},
        }

    async def handle(self, name: str, method: Method, answer: Answer, _messages: Any, context: Any) -> Any:
        """Takes a call: the token, the message, the answer, and the status where there is none.

        Args:
            name: Of the method.
            method: Its messages.
            answer: Answers it, with a message or with the fields of one.
            _messages: The stream of the one message; it is read from the context.
            context: gRPC's.
        """
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        call = Call(metadata, 0, context.time_remaining())
        try:
            is_probe = name in OPEN_METHODS
            if not is_probe:
                self._service.authorize(metadata.get("authorization"))
            with self._place(is_probe=is_probe):
                request = None if name in EMPTY_REQUESTS else await self._read(method, call, context)
                answered = await answer(request, call)
                return method.response(**answered) if isinstance(answered, dict) else answered
        except Exception as error:  # noqa: BLE001  the last resort: the table says what the caller is told
            refused = error
        if not call.counted:
            self._service.refused(call.model, "grpc", refused)
        status = status_of(refused)
        after = (("retry-after", f"{refused.retry_after_s:.0f}"),) if isinstance(refused, OverloadedError) else ()
        return await context.abort(grpc.StatusCode[status.grpc], status.message, after)

    @contextmanager
    def _place(self, *, is_probe: bool) -> Iterator[None]:
        """A call's place among those that may go on at once; probes have places of their own."""
        if self._going[is_probe] >= self._max_calls:
            self._service.metrics.shed("", "connections")
            raise OverloadedError(f"{self._max_calls:,} calls are going on, which is the most there may be; try again")
        self._going[is_probe] += 1
        try:
            yield
        finally:
            self._going[is_probe] -= 1

    async def _read(self, method: Method, call: Call, context: Any) -> Any:
        """The message of a call. It is read here, so that a slow or a damaged one is the caller's fault."""
        try:
            async with asyncio.timeout(self._message_timeout_s):
                body = await context.read()
        except TimeoutError:
            raise SlowRequestError(
                f"the message did not arrive within {self._message_timeout_s:g} s; send it faster, or in parts"
            ) from None
        if body is grpc.aio.EOF:
            raise RequestError("the call came without a message")
        call.size_bytes = len(body)
        if len(body) < LARGE_BYTES:
            return _message(method.request, body)
        return await asyncio.to_thread(_message, method.request, body)

    async def _model_infer(self, request: Any, call: Call) -> Any:
        call.model = request.model_name
        model = self._service.models.get(request.model_name, request.model_version)
        call.counted = True
        return await self._service.answer(
            model,
            partial(decode_infer_message, model, request),
            protocol="grpc",
            size_bytes=call.size_bytes,
            timeout_s=call.timeout_s,
            trace_id=call.trace_id,
        )

    async def _server_live(self, _request: Any, _call: Call) -> dict[str, Any]:
        return {"live": True}

    async def _server_ready(self, _request: Any, _call: Call) -> dict[str, Any]:
        return {"ready": self._service.ready}

    async def _model_ready(self, request: Any, call: Call) -> dict[str, Any]:
        call.model = request.name
        try:
            self._service.models.get(request.name, request.version)
        except StoppingError:  # it is still being loaded
            return {"ready": False}
        return {"ready": True}

    async def _server_metadata(self, _request: Any, _call: Call) -> dict[str, Any]:
        return server_metadata()

    async def _model_metadata(self, request: Any, call: Call) -> dict[str, Any]:
        call.model = request.name
        return model_metadata(self._service.models.get(request.name, request.version))

    async def _model_config(self, request: Any, call: Call) -> dict[str, Any]:
        call.model = request.name
        return {"config": model_config(self._service.models.get(request.name, request.version))}

    async def _repository_index(self, _request: Any, _call: Call) -> dict[str, Any]:
        return {"models": repository_index(self._service.models.current)}

    async def _repository_model_load(self, request: Any, call: Call) -> dict[str, Any]:
        call.model = request.model_name
        if request.parameters:
            raise SettingError("a model is loaded as its reference says; the request's parameters cannot change it")
        await self._service.load(request.model_name)
        return {}

    async def _check(self, request: Any, _call: Call) -> dict[str, Any]:
        if request.service not in ("", INFERENCE, HEALTH):
            raise UnknownModelError(f"no such service is here; there are {INFERENCE} and {HEALTH}")
        return {"status": "SERVING" if self._service.ready else "NOT_SERVING"}


def _message(kind: Any, body: bytes) -> Any:
    try:
        return kind.FromString(body)
    except DecodeError:
        raise RequestError(f"the message cannot be read as {kind.DESCRIPTOR.name}") from None
