"""The one path that every request takes, whatever it came by: admitted, decoded, batched, answered, counted."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from anomvae.errors import DeadlineError, InputError, OverloadedError, StoppingError
from anomvae.scoring.batcher import TOO_LATE
from anomvae.scoring.jobs import Job, Promise
from anomvae.serving.permits import Permit
from anomvae.serving.shadow import Shadow
from anomvae.serving.status import status_of
from anomvae.serving.watch import RowWatch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import numpy as np
    import numpy.typing as npt

    from anomvae.observability import Log, Metrics
    from anomvae.scoring.batcher import Batcher
    from anomvae.scoring.jobs import Answered, Watch
    from anomvae.serving.exchange import Decoded
    from anomvae.serving.model import ServedModel
    from anomvae.serving.models import ModelTable
    from anomvae.serving.tokens import Tokens

    Arrays = dict[str, npt.NDArray[np.generic]]
    Done = Callable[[Any, BaseException | None], None]

LARGE_BYTES = 65_536
"""Bodies from this size on are decoded, and answers to as many cells encoded, on a thread of their own."""
CELL_BYTES = 8


class CallerGoneError(Exception):
    """The caller closed the connection before it was answered."""


class Call(NamedTuple):
    """What is known of a request beside its body.

    Attributes:
        protocol: Label for metrics until the request is decoded.
        timeout_s: The caller's patience, in seconds.
        trace_id: Of the caller's trace.
    """

    protocol: str
    timeout_s: float | None = None
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """What callers may ask for.

    Attributes:
        max_inflight_rows: Most rows admitted and not yet answered.
        timeout_s: Longest time a request may take, in seconds; a caller may ask for less.
    """

    max_inflight_rows: int = 200_000
    timeout_s: float = 30.0


class Service:
    """Answers decoded requests.

    Args:
        models: What is served.
        batcher: Runs rows; started.
        metrics: Counts.
        log: Tells what went wrong.
        tokens: Who may ask.
        limits: How much.

    Attributes:
        stopping: Whether requests are no longer taken.
        draining: Whether readiness is off, while requests are still answered.
        requests: How many are being worked on.
    """

    def __init__(
        self,
        models: ModelTable,
        batcher: Batcher,
        metrics: Metrics,
        log: Log,
        *,
        tokens: Tokens,
        limits: ServiceLimits | None = None,
    ) -> None:
        self.models, self.batcher, self.metrics, self.log, self.tokens = models, batcher, metrics, log, tokens
        self.limits = limits or ServiceLimits()
        self.rows = Permit(self.limits.max_inflight_rows, "rows")
        self.shadow = Shadow(models, batcher, metrics)
        self.reload: Callable[[str], Awaitable[None]] | None = None
        self.stopping = False
        self.draining = False
        self._codecs = ThreadPoolExecutor(max(1, batcher.threads), thread_name_prefix="codec")
        self._watches: WeakKeyDictionary[ServedModel, RowWatch] = WeakKeyDictionary()
        self.requests = 0
        metrics.inflight_limit(self.rows.limit)
        metrics.follow_inflight(lambda: self.requests, lambda: self.rows.used)

    @property
    def ready(self) -> bool:
        """Whether requests will be answered: all models are loaded and the daemon is not about to stop."""
        return self.models.complete and not (self.draining or self.stopping)

    def authorize(self, authorization: str | None) -> None:
        """Refuses a caller without a valid token.

        Raises:
            UnauthorizedError: Tokens are wanted, and the header holds none of them.
        """
        self.tokens.check(authorization)

    def refused(self, model: str, protocol: str, error: BaseException) -> None:
        """Counts a request that was refused before it could be answered."""
        self.metrics.request(model if model in self.models.names else "", protocol, _code(protocol, error), 0, 0.0)

    async def load(self, name: str) -> None:
        """Looks at a model's reference now, and loads what it names.

        Raises:
            UnknownModelError: No such model is served.
            AnomvaeError: What it names was refused, or cannot be found.
        """
        model = self.models.get(name)
        if self.reload is not None:
            await self.reload(model.name)

    async def answer(  # noqa: PLR0913  all but the first two are asked for by name
        self,
        model: ServedModel,
        decode: Callable[[], Decoded],
        *,
        protocol: str,
        size_bytes: int,
        heavy: bool = False,
        timeout_s: float | None = None,
        trace_id: str | None = None,
        on_linger: Callable[[asyncio.Future[Any]], None] | None = None,
    ) -> Any:
        """Answers a request.

        Args:
            model: The version to score with.
            decode: Reads the request; runs on a thread if the request is large.
            protocol: Label for metrics until the request is decoded.
            size_bytes: Size of the request.
            heavy: Whether few bytes can stand for many cells, so that it is read on a thread whatever its size.
            timeout_s: The caller's patience, in seconds.
            trace_id: Of the caller's trace.
            on_linger: Gets the future of an answer that takes long, to fail it with `CallerGoneError` should the caller go.

        Returns:
            What :attr:`Decoded.encode` made of the answers.

        Raises:
            AnomvaeError: The request is wrong, too large, too late, or too much; see :func:`status_of`.
            CallerGoneError: The caller went away.
        """
        ticket = _Ticket(self, model, Call(protocol, timeout_s, trace_id))
        try:
            self._admit()
            decoded = await self._in_time([decode], ticket) if heavy or size_bytes >= LARGE_BYTES else decode()
            job = ticket.admit(decoded)
            future = self.batcher.submit(job)
            if on_linger is not None:
                job.on_linger = lambda: on_linger(future)
            answered = await future
            encode_at = time.monotonic()
            reply = await self._encode(decoded, answered.arrays)
            ticket.answered(decoded, answered, time.monotonic() - encode_at)
        except BaseException as error:
            ticket.failed(error)
            raise
        else:
            return reply
        finally:
            ticket.end()

    def answer_soon(self, model: ServedModel, decode: Callable[[], Decoded], done: Done, call: Call) -> Promise | None:
        """Answers a small request without a task: the same path as :meth:`answer`, for callers who do not await.

        Args:
            model: The version to score with.
            decode: Reads the request; runs now.
            done: Called once, now or later on the event loop, with the answer or the error.
            call: What else is known of the request.

        Returns:
            What fails with `CallerGoneError` should the caller go; None if the request is done already.
        """
        ticket = _Ticket(self, model, call)
        try:
            self._admit()
            decoded = decode()
            job = ticket.admit(decoded)
            promise = Promise(lambda answered, error: self._finish(ticket, decoded, answered, error, done))
            self.batcher.submit_soon(job, promise)
        except Exception as error:  # noqa: BLE001  handed over
            ticket.failed(error)
            ticket.end()
            done(None, error)
            return None
        return promise

    def _finish(
        self, ticket: _Ticket, decoded: Decoded, answered: Answered | None, error: BaseException | None, done: Done
    ) -> None:
        reply = None
        try:
            if answered is not None:
                encode_at = time.monotonic()
                reply = decoded.encode(answered.arrays)
                ticket.answered(decoded, answered, time.monotonic() - encode_at)
        except Exception as failure:  # noqa: BLE001  handed over
            error = failure
        if error is not None:
            ticket.failed(error)
        ticket.end()
        try:
            done(reply, error)
        except Exception as failure:  # noqa: BLE001  the batcher has others to answer
            self.log.error("request failed", model=ticket.model.name, error=failure)  # noqa: TRY400  no logger

    def _admit(self) -> None:
        """Refuses before the request costs anything."""
        if self.stopping:
            raise StoppingError("the daemon is stopping; send the request to another instance, or later")
        self.rows.check()

    def close(self) -> None:
        """Ends the codec threads."""
        self._codecs.shutdown(wait=False, cancel_futures=True)

    async def _off_loop(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._codecs, call)

    async def _in_time(self, pending: list[Callable[[], Decoded]], ticket: _Ticket) -> Decoded:
        """Reads a request on a thread; one that takes too long is left to itself there, and nobody waits for it."""
        try:
            async with asyncio.timeout(ticket.patience_s):
                decoded: Decoded = await self._off_loop(lambda: pending.pop()())  # noqa: PLW0108  popped on the thread
                return decoded
        except TimeoutError:
            self.metrics.expired(ticket.model.name)
            raise DeadlineError(TOO_LATE) from None
        finally:
            pending.clear()  # the threads' queue keeps what was given up, and would keep its body

    async def _encode(self, decoded: Decoded, arrays: Arrays) -> Any:
        cells = sum(array.size for array in arrays.values())
        if cells * CELL_BYTES < LARGE_BYTES:
            return decoded.encode(arrays)
        return await self._off_loop(lambda: decoded.encode(arrays))

    def watch_of(self, model: ServedModel, *, own_rate: bool) -> Watch:
        """What notes a batch's rows and answers, on the thread that ran it."""
        watch = self._watches.get(model)
        if watch is None:
            watch = self._watches[model] = RowWatch(model, self.metrics)
            if model in self.models.current:  # and was not replaced since the request was read
                self.metrics.follow_calibration(model.name, watch.trust)
        return watch.at_own_rate if own_rate else watch.at_another_rate


class _Ticket:
    """What a request holds on its way, and how it ended."""

    __slots__ = (
        "_code",
        "_decoded_at",
        "_protocol",
        "_rows",
        "_service",
        "_started",
        "_taken",
        "_trace_id",
        "model",
        "patience_s",
    )

    def __init__(self, service: Service, model: ServedModel, call: Call) -> None:
        self._service, self.model, self._protocol, self._trace_id = service, model, call.protocol, call.trace_id
        self._started = self._decoded_at = time.monotonic()
        self._rows = self._taken = 0
        longest = service.limits.timeout_s
        self.patience_s = longest if call.timeout_s is None else min(longest, call.timeout_s)
        self._code = "OK" if call.protocol == "grpc" else "200"
        service.requests += 1

    def admit(self, decoded: Decoded) -> Job:
        """Takes the permit for a request's rows; its job.

        Raises:
            OverloadedError: Too many rows are in flight.
            RequestTooLargeError: It alone has too many.
        """
        service, model = self._service, self.model
        self._protocol, self._rows = decoded.protocol, len(decoded.rows)
        if decoded.timeout_s is not None:
            self.patience_s = min(self.patience_s, decoded.timeout_s)
        service.rows.take(self._rows)
        self._taken = self._rows
        self._decoded_at = time.monotonic()
        return Job(
            model.session,
            model.name,
            decoded.rows,
            decoded.outputs,
            decoded.alarm_rate,
            self._started + self.patience_s,
            service.watch_of(model, own_rate=decoded.alarm_rate is None),
            max_rows=model.session.chunk_rows,
        )

    def answered(self, decoded: Decoded, answered: Answered, encode_s: float) -> None:
        """Notes the stages of a request that was answered, and lets the challenger have a look at it."""
        service, name = self._service, self.model.name
        service.metrics.stages(name, self._decoded_at - self._started, answered.queue_s, answered.run_s, encode_s)
        if service.shadow.share:
            service.shadow.look(self.model, decoded, answered.arrays)

    def failed(self, error: BaseException) -> None:
        """Counts and logs why a request was not answered."""
        service, name = self._service, self.model.name
        self._code = _code(self._protocol, error)
        if isinstance(error, OverloadedError):
            service.metrics.shed(name, "rows")
        elif isinstance(error, CallerGoneError):
            service.metrics.cancelled(name, "departed")
        elif isinstance(error, asyncio.CancelledError):
            service.metrics.cancelled(name, "cancelled")
        elif isinstance(error, DeadlineError) and self.patience_s < service.limits.timeout_s:
            pass  # the caller's own deadline
        elif not isinstance(error, InputError | StoppingError):
            status = status_of(error)
            service.log.error(
                "request failed",
                model=name,
                protocol=self._protocol,
                status=status.http,
                trace_id=self._trace_id,
                error=error,
            )

    def end(self) -> None:
        """Gives back what the request held, and counts it."""
        service = self._service
        if self._taken:
            service.rows.give(self._taken)
        seconds = time.monotonic() - self._started
        service.requests -= 1
        service.metrics.request(self.model.name, self._protocol, self._code, self._rows, seconds, self._trace_id)


def _code(protocol: str, error: BaseException) -> str:
    if isinstance(error, CallerGoneError):
        return "499"
    status = status_of(error)
    return status.grpc if protocol == "grpc" else str(status.http)
