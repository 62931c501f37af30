"""Rows of callers on their way through the batcher, and the queue they wait in; no threads, tasks or clocks."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from anomvae.data.encoding import EncodedRows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from anomvae.scoring.policy import BatchPolicy, Reason

    Arrays = dict[str, npt.NDArray[np.generic]]
    Watch = Callable[[EncodedRows, Arrays], None]
    Quick = Callable[["Runner", tuple[str, ...], int], bool]


class Runner(Protocol):
    """What a batch is run on: a :class:`~anomvae.scoring.session.GraphSession`."""

    def run(self, rows: EncodedRows, outputs: Sequence[str], alarm_rate: float | None = None) -> Arrays:
        """Answers for rows in one call."""
        ...


class Answered(NamedTuple):
    """A caller's answers.

    Attributes:
        arrays: Outputs by name, one entry a row, in the caller's order.
        queue_s: Time from submission until the first of its rows was run, in seconds.
        run_s: Time the graph ran on batches that held its rows, in seconds, the longest of them.
    """

    arrays: Arrays
    queue_s: float
    run_s: float


class Waiter(Protocol):
    """Who waits for a job: an asyncio future, or a :class:`Promise`."""

    def done(self) -> bool:
        """Whether it has its answer, or wants none any more."""
        ...

    def set_result(self, result: Answered, /) -> None:
        """Hands over the answers."""
        ...

    def set_exception(self, exception: BaseException, /) -> None:
        """Hands over the error."""
        ...


class Promise:
    """Calls back once, at once, with the answers or an error: for callers who do not await.

    Args:
        callback: Gets the one or the other; must not raise.
    """

    __slots__ = ("_callback",)

    def __init__(self, callback: Callable[[Answered | None, BaseException | None], None]) -> None:
        self._callback: Callable[[Answered | None, BaseException | None], None] | None = callback

    def done(self) -> bool:
        """Whether it has called back."""
        return self._callback is None

    def set_result(self, result: Answered, /) -> None:
        """Calls back with answers."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback(result, None)

    def set_exception(self, exception: BaseException, /) -> None:
        """Calls back with an error."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback(None, exception)


@dataclass(slots=True, eq=False)
class Job:
    """The rows of one caller.

    Attributes:
        runner: What answers them.
        model: Name of the model, for metrics.
        rows: n encoded rows.
        outputs: Outputs wanted.
        alarm_rate: Replaces the graph's default.
        deadline: Monotonic instant after which nobody waits for the answer any more; None: there is none.
        watch: Sees each batch's rows and answers, on the thread that ran it.
        on_linger: Called once if the job is still unanswered after a while, to look whether its caller is still there.
        quiet: Whether it leaves no trace in metrics of batches.
        max_rows: Most rows of it in one call; 0: the policy's.
    """

    runner: Runner
    model: str
    rows: EncodedRows
    outputs: tuple[str, ...]
    alarm_rate: float | None = None
    deadline: float | None = None
    watch: Watch | None = None
    on_linger: Callable[[], None] | None = None
    quiet: bool = False
    max_rows: int = 0
    # From here on the batcher's own.
    future: Waiter = field(init=False)
    arrived: float = field(default=0.0, init=False)
    started: float | None = field(default=None, init=False)
    run_s: float = field(default=0.0, init=False)
    taken: int = field(default=0, init=False)
    unanswered: int = field(default=0, init=False)
    whole: Arrays = field(default_factory=dict, init=False)

    def put(self, piece: Piece, found: Arrays) -> None:
        """Keeps the answers to some of the rows; on the event loop, as everything that changes a job."""
        n = len(self.rows)
        if piece.stop - piece.start == n:
            self.whole = found
            return
        for name, array in found.items():
            self.whole[name][piece.start : piece.stop] = array

    def make_room(self, found: Arrays) -> None:
        """Makes the arrays that the pieces of a job come together in, after the shapes of the first."""
        n = len(self.rows)
        self.whole = {name: np.empty((n, *array.shape[1:]), dtype=array.dtype) for name, array in found.items()}


class Piece(NamedTuple):
    """Some of a job's rows, in a batch.

    Attributes:
        job: Whose they are.
        start: First of them, among the job's rows.
        stop: The one after the last.
    """

    job: Job
    start: int
    stop: int


class Batch(NamedTuple):
    """Rows to run in one call.

    Attributes:
        pieces: Of which jobs, in order; all want the same of the same runner.
        n_rows: How many rows in all.
        reason: What closed it.
    """

    pieces: list[Piece]
    n_rows: int
    reason: Reason

    def rows(self) -> EncodedRows:
        """The rows, one after the other; without a copy where they are of one job."""
        parts = [_rows_of(piece) for piece in self.pieces]
        if len(parts) == 1:
            return parts[0]
        return EncodedRows(
            np.concatenate([part.numeric for part in parts]),
            np.concatenate([part.categorical for part in parts]),
            _groups_of(parts),
        )


def _groups_of(parts: list[EncodedRows]) -> npt.NDArray[np.int64] | None:
    """Groups of all rows, where any are told."""
    if all(part.group is None for part in parts):
        return None
    return np.concatenate([np.full(len(part), -1) if part.group is None else part.group for part in parts])


def _rows_of(piece: Piece) -> EncodedRows:
    rows = piece.job.rows
    whole = piece.stop - piece.start == len(rows)
    return rows if whole else rows.take(slice(piece.start, piece.stop))


class _Lane:
    """Jobs that can share a call: they want the same of the same runner, are cut, watched and counted alike."""

    __slots__ = ("jobs", "key", "max_rows", "n_rows", "runner")

    def __init__(self, key: tuple[object, ...], job: Job, max_rows: int) -> None:
        self.key = key
        self.runner = job.runner
        self.max_rows = max_rows
        self.jobs: deque[Job] = deque()
        self.n_rows = 0


class JobQueue:
    """The jobs that wait, by what they want; takes turns among lanes, and in a lane among jobs.

    A job larger than a batch gives one chunk and goes to the back of its lane, so that it never holds up small ones.

    Args:
        policy: When a batch closes.
    """

    def __init__(self, policy: BatchPolicy) -> None:
        self._policy = policy
        self._lanes: dict[tuple[object, ...], _Lane] = {}
        self._running: dict[int, int] = {}

    def push(self, job: Job) -> None:
        """Puts a job at the end of its lane."""
        limit = min(job.max_rows or self._policy.max_rows, self._policy.max_rows)
        key = (id(job.runner), job.outputs, job.alarm_rate, limit, job.model, job.watch, job.quiet)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(key, job, limit)
        lane.jobs.append(job)
        lane.n_rows += len(job.rows)

    def __iter__(self) -> Iterator[Job]:
        """Jobs that still have rows waiting."""
        for lane in self._lanes.values():
            yield from lane.jobs

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def next_batch(self, now: float, *, only_full: bool = False, quick: Quick | None = None) -> Batch | None:
        """The next batch that may be run on a free thread, or None: what waits should wait for company.

        Args:
            now: Monotonic instant.
            only_full: Whether the batch is to run after one that is running: there is none unless some lane can fill
                one; it is then the turn of the first lane that is full or has waited long enough.
            quick: Tells of a call whether it is so quick that it is run at once, whatever else is running.
        """
        self.drop_answered()
        crowded = only_full and any(lane.n_rows >= lane.max_rows for lane in self._lanes.values())
        for key, lane in list(self._lanes.items()):
            reason: Reason | None
            if quick is not None and quick(lane.runner, lane.jobs[0].outputs, min(lane.n_rows, lane.max_rows)):
                reason = "idle"
            elif only_full:
                reason = self._lines_up(lane, now) if crowded else None
            else:
                reason = self._closes(lane, now)
            if reason is not None:
                del self._lanes[key]  # to the back: lanes take turns
                batch = _take(lane, reason)
                if lane.jobs:
                    self._lanes[key] = lane
                self._running[id(lane.runner)] = self._running.get(id(lane.runner), 0) + 1
                return batch
        return None

    def finished(self, batch: Batch) -> None:
        """Notes that a batch is no longer running."""
        runner = id(batch.pieces[0].job.runner)
        self._running[runner] -= 1
        if not self._running[runner]:
            del self._running[runner]

    def next_wait_s(self, now: float) -> float | None:
        """Seconds until some lane's oldest row has waited long enough; None if nothing waits."""
        oldest = [lane.jobs[0].arrived for lane in self._lanes.values() if lane.jobs]
        return max(0.0, min(oldest) + self._policy.max_wait_s - now) if oldest else None

    def drop_answered(self) -> None:
        """Forgets jobs that were cancelled, expired or failed while they waited."""
        for key, lane in list(self._lanes.items()):
            _drop_answered(lane)
            if not lane.jobs:
                del self._lanes[key]

    def _lines_up(self, lane: _Lane, now: float) -> Reason | None:
        """As below, while all threads are busy and some lane is full: else the full ones would starve the others."""
        head = lane.jobs[0]
        if lane.n_rows >= lane.max_rows:
            return "full"
        return "waited" if head.taken or now - head.arrived >= self._policy.max_wait_s else None

    def _closes(self, lane: _Lane, now: float) -> Reason | None:
        head = lane.jobs[0]
        if head.taken or lane.n_rows >= lane.max_rows:  # the rest of a large job waits for nobody
            return "full"
        return self._policy.closes(lane.n_rows, now - head.arrived, busy=id(lane.runner) in self._running)


def _drop_answered(lane: _Lane) -> None:
    jobs = lane.jobs
    if any(job.future.done() for job in jobs):
        lane.jobs = deque(job for job in jobs if not job.future.done())
        lane.n_rows = sum(len(job.rows) - job.taken for job in lane.jobs)


def _take(lane: _Lane, reason: Reason) -> Batch:
    pieces: list[Piece] = []
    room = lane.max_rows
    jobs = lane.jobs
    turns = len(jobs)
    while turns and (room > 0 or len(jobs[0].rows) == 0):
        turns -= 1
        job = jobs.popleft()
        stop = min(len(job.rows), job.taken + room)
        pieces.append(Piece(job, job.taken, stop))
        room -= stop - job.taken
        job.taken = stop
        if stop < len(job.rows):
            jobs.append(job)
    n_rows = sum(piece.stop - piece.start for piece in pieces)
    lane.n_rows -= n_rows
    return Batch(pieces, n_rows, reason)
