"""The batcher: rows of many callers share calls of the graph; every caller gets exactly its own answers.

The event loop owns the queue. Each turn of the loop ends with a look at it: whatever arrived in that turn goes out together,
so an idle daemon answers at once and a busy one batches without any added wait. Long-lived threads run the graph; a call that
is known to take less time than handing it to a thread and back is made where it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, NamedTuple, Protocol

from anomvae.errors import DeadlineError, ScoringError, StoppingError
from anomvae.scoring.jobs import Answered, Batch, JobQueue, Piece
from anomvae.scoring.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable

    from anomvae.data.encoding import EncodedRows
    from anomvae.scoring.jobs import Arrays, Job, Promise, Runner, Waiter, Watch
    from anomvae.scoring.policy import BatchPolicy

SWEEP_S = 0.02
"""How often expired and lingering jobs are looked for while any are unanswered, in seconds."""
JOIN_S = 5.0
"""How long a stopping batcher waits for calls that run, all of them together, in seconds."""
TOO_LATE = "the time for this request was up before its rows were scored"


class BatchObserver(Protocol):
    """What the batcher reports; the metrics."""

    def batch(self, model: str, rows: int, reason: str) -> None:
        """A batch goes to a thread."""
        ...

    def batch_failed(self, model: str) -> None:
        """The graph failed on a batch."""
        ...

    def expired(self, model: str) -> None:
        """A job's deadline passed before it was answered."""
        ...


class _Outcome(NamedTuple):
    """What became of a batch's pieces."""

    answers: list[Arrays | Exception]
    run_s: float


class Batcher:
    """Batches jobs by rows; confined to one event loop, except for the threads it starts.

    Args:
        policy: When a batch closes.
        threads: Threads that run the graph side by side.
        observer: Is told of batches, failures and expiries.
        at_once_s: Calls expected to take no longer are made on the event loop, in seconds; 0: none.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        policy: BatchPolicy,
        *,
        threads: int = 1,
        observer: BatchObserver,
        at_once_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.threads = threads
        self._queue = JobQueue(policy)
        self._observer = observer
        self._clock = clock
        self._at_once_s = at_once_s
        self._pace = Pace()
        self._live: set[Job] = set()
        self._running = 0
        self._drain_is_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._empty.set()
        self._closed = False
        self._inbox: SimpleQueue[Batch | None] = SimpleQueue()
        self._workers: list[threading.Thread] = []

    def start(self) -> None:
        """Starts the threads; call it on the event loop that will submit."""
        self._loop = asyncio.get_running_loop()
        for number in range(self.threads):
            worker = threading.Thread(target=self._work, name=f"score-{number}", daemon=True)
            worker.start()
            self._workers.append(worker)

    def submit(self, job: Job) -> asyncio.Future[Answered]:
        """Takes a job on.

        Args:
            job: Fresh; its deadline is on the batcher's clock.

        Returns:
            Its answers; cancelling the future withdraws the rows that have not been run. Fails with a
            :class:`~anomvae.errors.DeadlineError` once the deadline has passed, and with a
            :class:`~anomvae.errors.ScoringError` if the graph failed on its rows.

        Raises:
            StoppingError: The batcher was stopped.
        """
        future: asyncio.Future[Answered] = self._loop.create_future()
        self._enter(job, future)
        return future

    def submit_soon(self, job: Job, promise: Promise) -> None:
        """The same for a caller who does not await.

        Raises:
            StoppingError: The batcher was stopped.
        """
        self._enter(job, promise)

    def _enter(self, job: Job, waiter: Waiter) -> None:
        if self._closed:
            raise StoppingError("the daemon is stopping; send the request to another instance, or later")
        job.future = waiter
        job.arrived = self._clock()
        job.unanswered = max(1, len(job.rows))
        if job.deadline is not None and job.arrived >= job.deadline:  # it took too long to read: it shall not cost more
            self._observer.expired(job.model)
            self._fail(job, DeadlineError(TOO_LATE))
            return
        self._live.add(job)
        self._empty.clear()
        self._queue.push(job)
        self._look_soon()
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    async def drained(self) -> None:
        """Waits until every job has been answered."""
        await self._empty.wait()

    async def stop(self) -> None:
        """Takes no more jobs, fails those still unanswered, and ends the threads."""
        self._closed = True
        for job in list(self._live):
            self._fail(job, StoppingError("the daemon stopped before these rows were answered; send them again"))
        for timer in (self._timer, self._sweeper):
            if timer is not None:
                timer.cancel()
        for _ in self._workers:
            self._inbox.put(None)
        await asyncio.to_thread(_join, self._workers)

    def _look_soon(self) -> None:
        if not self._drain_is_due:
            self._drain_is_due = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Hands batches to free threads; while all are busy, one batch each may line up behind."""
        self._drain_is_due = False
        now = self._clock()
        quick = self._is_quick if self._at_once_s else None
        while self._running < 2 * self.threads:
            batch = self._queue.next_batch(now, only_full=self._running >= self.threads, quick=quick)
            if batch is None:
                break
            self._begin(batch, now)
            job = batch.pieces[0].job
            if quick is not None and quick(job.runner, job.outputs, batch.n_rows):
                self._deliver(batch, _run(batch, self._observer, self._clock, self._loop.call_soon), alone=True)
                if self._queue:
                    self._look_soon()
                break  # between two calls the loop turns: a large job of quick chunks must not hold up everybody
            self._running += 1
            self._inbox.put(batch)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running < self.threads:  # else a thread that gets free looks anew
            wait_s = self._queue.next_wait_s(now)
            if wait_s is not None:
                self._timer = self._loop.call_later(wait_s, self._dispatch)

    def _is_quick(self, runner: Runner, outputs: tuple[str, ...], n_rows: int) -> bool:
        expected_s = self._pace.expected_s(runner, outputs, n_rows)
        return expected_s is not None and expected_s <= self._at_once_s

    def _begin(self, batch: Batch, now: float) -> None:
        first = batch.pieces[0].job
        for piece in batch.pieces:
            if piece.job.started is None:
                piece.job.started = now
        if not first.quiet:
            self._observer.batch(first.model, batch.n_rows, batch.reason)

    def _finished(self, batch: Batch, outcome: _Outcome) -> None:
        """Back on the event loop."""
        self._running -= 1
        self._deliver(batch, outcome, alone=False)
        if self._queue:
            self._look_soon()

    def _deliver(self, batch: Batch, outcome: _Outcome, *, alone: bool) -> None:
        """Gives every caller its own."""
        self._queue.finished(batch)
        first = batch.pieces[0].job
        if outcome.run_s:
            self._pace.note(first.runner, first.outputs, batch.n_rows, outcome.run_s, alone=alone)
        for piece, found in zip(batch.pieces, outcome.answers, strict=True):
            job = piece.job
            if job.future.done():
                self._forget(job)
                continue
            if isinstance(found, Exception):
                self._fail(job, found)
                continue
            try:
                self._give(piece, found, outcome.run_s)
            except Exception as error:  # noqa: BLE001  chunks that do not fit together; the mates still get theirs
                self._fail(job, _failure(error))

    def _give(self, piece: Piece, found: Arrays, run_s: float) -> None:
        job, n = piece.job, piece.stop - piece.start
        if n < len(job.rows) and not job.whole:
            job.make_room(found)
        job.put(piece, found)
        job.run_s = max(job.run_s, run_s)
        job.unanswered -= max(1, n)
        if job.unanswered <= 0:
            started = job.arrived if job.started is None else job.started
            job.future.set_result(Answered(job.whole, started - job.arrived, job.run_s))
            self._forget(job)

    def _fail(self, job: Job, error: Exception) -> None:
        if not job.future.done():
            job.future.set_exception(error)
        self._forget(job)

    def _forget(self, job: Job) -> None:
        job.on_linger = None  # it may refer to the job: without that cycle the rows are freed at once
        job.whole = {}
        self._live.discard(job)
        if not self._live:
            self._empty.set()

    def _sweep(self) -> None:
        """Ends jobs nobody waits for any longer; also those a thread is stuck with, so that no caller hangs."""
        now, ended = self._clock(), False
        try:
            for job in list(self._live):
                if job.future.done():
                    ended = True
                    self._forget(job)
                elif job.deadline is not None and now >= job.deadline:
                    ended = True
                    self._fail(job, DeadlineError(TOO_LATE))
                    self._observer.expired(job.model)
                elif job.on_linger is not None and now - job.arrived >= SWEEP_S:
                    call, job.on_linger = job.on_linger, None
                    call()
        finally:  # one caller's trouble must not end the watch over the others
            if ended:
                self._queue.drop_answered()
            self._sweeper = self._loop.call_later(SWEEP_S, self._sweep) if self._live else None

    def _work(self) -> None:
        """A thread: runs batches until it is told to end."""
        while (batch := self._inbox.get()) is not None:
            try:
                outcome = _run(batch, self._observer, self._clock, _now)
            except BaseException as error:  # noqa: BLE001  the thread outlives an observer, too
                outcome = _Outcome([_failure(error) for _ in batch.pieces], 0.0)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._finished, batch, outcome)
            del batch, outcome  # a thread at rest holds nobody's rows


def _run(batch: Batch, observer: BatchObserver, clock: Callable[[], float], look: Callable[..., object]) -> _Outcome:
    """Runs a batch; where it fails, each caller's rows alone, so that no one suffers for another's.

    Whoever watches looks on by `look`: at once on a thread, on the event loop once the answers have gone out.
    """
    started = clock()
    if all(piece.job.future.done() for piece in batch.pieces):  # departed while it was lined up
        return _Outcome([{} for _ in batch.pieces], 0.0)
    try:
        answers: list[Arrays | Exception] = [*_answers(batch, look)]
    except BaseException as error:  # noqa: BLE001  whatever the runtime raises; its text may hold data
        if not batch.pieces[0].job.quiet:
            observer.batch_failed(batch.pieces[0].job.model)
        answers = [_alone(piece, look) for piece in batch.pieces] if len(batch.pieces) > 1 else [_failure(error)]
    return _Outcome(answers, clock() - started)


def _answers(batch: Batch, look: Callable[..., object]) -> list[Arrays]:
    """Each piece's answers, as views of the batch's."""
    job = batch.pieces[0].job
    rows = batch.rows()
    found = job.runner.run(rows, job.outputs, job.alarm_rate)
    if any(len(array) != batch.n_rows for array in found.values()):
        raise ScoringError("the graph gave another number of answers than it got rows")
    if job.watch is not None:
        look(_look_on, job.watch, rows, found)
    if len(batch.pieces) == 1:
        return [found]
    answers, start = [], 0
    for piece in batch.pieces:
        stop = start + piece.stop - piece.start
        answers.append({name: array[start:stop] for name, array in found.items()})
        start = stop
    return answers


def _now(call: Callable[..., None], *arguments: object) -> None:
    call(*arguments)


def _look_on(watch: Watch, rows: EncodedRows, found: Arrays) -> None:
    with contextlib.suppress(Exception):  # looking on must not fail those who are looked at
        watch(rows, found)


def _alone(piece: Piece, look: Callable[..., object]) -> Arrays | Exception:
    if piece.job.future.done():
        return {}
    try:
        return _answers(Batch([piece], piece.stop - piece.start, "idle"), look)[0]
    except BaseException as error:  # noqa: BLE001  as above
        return _failure(error)


def _failure(error: BaseException) -> ScoringError:
    return ScoringError(f"the graph failed on these rows ({type(error).__name__}); the daemon's log tells more")


def _join(workers: list[threading.Thread]) -> None:
    until = time.monotonic() + JOIN_S
    for worker in workers:
        worker.join(max(0.0, until - time.monotonic()))
