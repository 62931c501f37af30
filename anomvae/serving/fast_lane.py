"""The short way from a connection to the service and back, for small requests that score: no task, no ASGI, one write.

A request takes it if its path is one of a served model's, it has a body of a stated and small size, and nothing is asked of
the connection that only the long way knows. Whatever it passes on the way is the same: tokens, permits, the wire formats, the
batcher, the metrics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from anomvae.errors import StoppingError
from anomvae.serving.exchange import JSON, trace_id_of
from anomvae.serving.http_front import Target, decoder, timeout_of, told
from anomvae.serving.service import Call, CallerGoneError

if TYPE_CHECKING:
    from collections.abc import Callable

    from anomvae.scoring.jobs import Promise
    from anomvae.serving.exchange import Headers, Reply
    from anomvae.serving.service import Service

    Send = Callable[[int, bytes, str, list[tuple[str, str]]], None]
    """Gets status, body, media type and more headers."""

MAX_BYTES = 16_384
"""Larger bodies are decoded on a thread, or at least where other requests can come in between."""


class FastLane:
    """Answers small requests straight from their connections.

    Args:
        service: Answers.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._targets: dict[bytes, Target] = {b"/invocations": Target("mlflow")}
        for name in service.models.names:
            url = quote(name).encode()
            self._targets[b"/v2/models/%s/infer" % url] = Target("v2-json", name)
            self._targets[b"/v1/models/%s/score" % url] = Target("v1-json", name)

    @property
    def closing(self) -> bool:
        """Whether connections are closed once they are answered."""
        return self._service.draining

    def target(self, url: bytes) -> Target | None:
        """What a URL, as it came, names; None if the long way must find out."""
        return self._targets.get(url)

    def answer(self, target: Target, headers: Headers, body: bytes, send: Send) -> Promise | None:
        """Answers a request.

        Args:
            target: What its URL names.
            headers: By lower-case name.
            body: All of it.
            send: Called once, now or later, with the answer; not if the caller has gone.

        Returns:
            What to fail with `CallerGoneError` should the caller go; None if the request is done already.
        """
        service = self._service
        try:
            service.authorize(headers.get("authorization"))
            model = service.models.get(target.model)
            decode = decoder(target, model, body, headers, {}, service.rows.limit)
            call = Call(target.protocol, timeout_of(headers), trace_id_of(headers.get("traceparent")))
        except Exception as error:  # noqa: BLE001  the table says what the caller is told
            service.refused(target.model, target.protocol, error)
            _send_error(send, error)
            return None

        def done(reply: Reply | None, error: BaseException | None) -> None:
            if reply is not None:
                send(200, reply.body, reply.media_type, list(reply.headers))
            elif not isinstance(error, CallerGoneError):
                _send_error(send, error or StoppingError("the daemon stopped before it answered"))

        return service.answer_soon(model, decode, done, call)


def _send_error(send: Send, error: BaseException) -> None:
    status, body, headers = told(error)
    send(status, body, JSON, headers)
