"""The one path that every request takes, whatever it came by: admitted, decoded, batched, answered, counted."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from anomvae.errors import InputError, OverloadedError, StoppingError
from anomvae.scoring.jobs import Job
from anomvae.serving.permits import Permit
from anomvae.serving.shadow import Shadow
from anomvae.serving.status import status_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    import numpy.typing as npt

    from anomvae.data.encoding import EncodedRows
    from anomvae.observability import Log, Metrics
    from anomvae.scoring.batcher import Batcher
    from anomvae.serving.exchange import Decoded
    from anomvae.serving.model import ServedModel
    from anomvae.serving.models import ModelTable
    from anomvae.serving.tokens import Tokens

    Arrays = dict[str, npt.NDArray[np.generic]]

LARGE_BYTES = 65_536
"""Bodies from this size on are decoded, and answers to as many cells encoded, on a thread of their own."""
CELL_BYTES = 8


class CallerGoneError(Exception):
    """The caller closed the connection before it was answered."""


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
        self._watches: dict[tuple[int, bool], tuple[ServedModel, Callable[[EncodedRows, Arrays], None]]] = {}
        metrics.inflight_limit(self.rows.limit)

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
        self.models.get(name)
        if self.reload is not None:
            await self.reload(name)

    async def answer(  # noqa: PLR0913  all but the first two are asked for by name
        self,
        model: ServedModel,
        decode: Callable[[], Decoded],
        *,
        protocol: str,
        size_bytes: int,
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
            timeout_s: The caller's patience, in seconds.
            trace_id: Of the caller's trace.
            on_linger: Gets the future of an answer that takes long, to fail it with `CallerGoneError` should the caller go.

        Returns:
            What :attr:`Decoded.encode` made of the answers.

        Raises:
            AnomvaeError: The request is wrong, too large, too late, or too much; see :func:`status_of`.
            CallerGoneError: The caller went away.
        """
        clock, metrics = time.monotonic, self.metrics
        started = clock()
        metrics.started()
        rows, code = 0, "OK" if protocol == "grpc" else "200"
        try:
            self._admit()
            decoded = decode() if size_bytes < LARGE_BYTES else await self._off_loop(decode)
            protocol = decoded.protocol
            rows = len(decoded.rows)
            stated = (timeout_s, decoded.timeout_s, self.limits.timeout_s)
            patience = min(patience for patience in stated if patience is not None)
            self.rows.take(rows)
            try:
                decoded_at = clock()
                job = self._job(model, decoded, started + patience)
                if on_linger is not None:
                    job.on_linger = lambda: on_linger(job.future)
                answered = await self.batcher.submit(job)
                encode_at = clock()
                reply = await self._encode(decoded, answered.arrays)
                metrics.stages(model.name, decoded_at - started, answered.queue_s, answered.run_s, clock() - encode_at)
                if self.shadow.share:
                    self.shadow.look(model, decoded, answered.arrays)
            finally:
                self.rows.give(rows)
        except BaseException as error:
            code = _code(protocol, error)
            self._tell(model, protocol, error)
            raise
        else:
            return reply
        finally:
            metrics.ended()
            metrics.request(model.name, protocol, code, rows, clock() - started, trace_id)

    def _admit(self) -> None:
        """Refuses before the request costs anything."""
        if self.stopping:
            raise StoppingError("the daemon is stopping; send the request to another instance, or later")
        self.rows.check()

    def close(self) -> None:
        """Ends the codec threads."""
        self._codecs.shutdown(wait=False, cancel_futures=True)

    def _job(self, model: ServedModel, decoded: Decoded, deadline: float) -> Job:
        return Job(
            model.session,
            model.name,
            decoded.rows,
            decoded.outputs,
            decoded.alarm_rate,
            deadline,
            self._watch(model, own_rate=decoded.alarm_rate is None),
            max_rows=model.session.chunk_rows,
        )

    async def _off_loop(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._codecs, call)

    async def _encode(self, decoded: Decoded, arrays: Arrays) -> Any:
        cells = sum(array.size for array in arrays.values())
        if cells * CELL_BYTES < LARGE_BYTES:
            return decoded.encode(arrays)
        return await self._off_loop(lambda: decoded.encode(arrays))

    def _tell(self, model: ServedModel, protocol: str, error: BaseException) -> None:
        """Counts and logs why a request was not answered."""
        if isinstance(error, OverloadedError):
            self.metrics.shed(model.name, "rows")
        elif isinstance(error, CallerGoneError):
            self.metrics.cancelled(model.name, "departed")
        elif isinstance(error, asyncio.CancelledError):
            self.metrics.cancelled(model.name, "cancelled")
        elif not isinstance(error, InputError):
            status = status_of(error)
            self.log.error("request failed", model=model.name, protocol=protocol, status=status.http, error=error)

    def _watch(self, model: ServedModel, *, own_rate: bool) -> Callable[[EncodedRows, Arrays], None]:
        """What notes a batch's rows and answers, on the thread that ran it."""
        kept = self._watches.get((id(model), own_rate))
        if kept is None or kept[0] is not model:
            current = {id(served) for served in self.models.current}
            self._watches = {key: value for key, value in self._watches.items() if key[0] in current}
            kept = self._watches[id(model), own_rate] = (model, _watch(model, self.metrics, own_rate=own_rate))
        return kept[1]


def _code(protocol: str, error: BaseException) -> str:
    if isinstance(error, CallerGoneError):
        return "499"
    status = status_of(error)
    return status.grpc if protocol == "grpc" else str(status.http)


def _watch(model: ServedModel, metrics: Metrics, *, own_rate: bool) -> Callable[[EncodedRows, Arrays], None]:
    """Notes rows; verdicts only at the model's own alarm rate, since one at another says nothing of the stated one."""
    manifest = model.manifest
    threshold = manifest.calibration.score_threshold
    unknown = np.array([column.unknown_code for column in manifest.categorical], dtype=np.int64)
    missing = np.array(
        [-1 if column.missing_code is None else column.missing_code for column in manifest.categorical], dtype=np.int64
    )

    def watch(rows: EncodedRows, found: Mapping[str, Any]) -> None:
        metrics.rows(
            model.name,
            scores=found.get("score"),
            p_values=found.get("p_value"),
            alarms=found.get("alarm") if own_rate else None,
            threshold=threshold,
        )
        gone, strange = int(np.count_nonzero(np.isnan(rows.numeric))), 0
        if len(unknown):
            gone += int(np.count_nonzero(rows.categorical == missing))
            strange = int(np.count_nonzero(rows.categorical == unknown))
        if gone or strange:
            metrics.cells(model.name, missing=gone, unknown=strange)

    return watch
