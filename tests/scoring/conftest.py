"""What tests of the batcher share: a loop whose time is an argument, and runners whose calls end when the test says so."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pytest

from anomvae.data.encoding import EncodedRows
from anomvae.scoring.batcher import Batcher
from anomvae.scoring.jobs import Answered, Job

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from anomvae.scoring.policy import BatchPolicy

    Arrays = dict[str, npt.NDArray[Any]]

End = Literal["answers", "fails", "too few", "exits"]
POISON = 1
PATIENCE_S = 30.0
"""Real time after which a test takes what it waits for as hung, in seconds."""


@dataclass(eq=False)
class Call:
    """A call of a runner: what it was asked, and the gate that holds it."""

    runner: EchoRunner
    ids: list[int]
    poisoned: bool
    outputs: tuple[str, ...]
    alarm_rate: float | None
    gate: threading.Event = field(default_factory=threading.Event)
    end: End = "answers"
    over: bool = False
    failed: bool = False


class EchoRunner:
    """Answers with numbers that only this runner, at this alarm rate, gives for just these rows.

    Args:
        salt: Tells it from other runners.
        calls: Where it notes its calls.
        gated: Whether calls wait for their gate.
    """

    def __init__(self, salt: int, calls: list[Call], *, gated: bool) -> None:
        self.salt, self.calls, self.gated = salt, calls, gated

    def run(self, rows: EncodedRows, outputs: Sequence[str], alarm_rate: float | None = None) -> Arrays:
        ids = rows.numeric[:, 0].astype(int).tolist()
        call = Call(self, ids, bool((rows.categorical == POISON).any()), tuple(outputs), alarm_rate)
        self.calls.append(call)
        if self.gated:
            assert call.gate.wait(PATIENCE_S)
        try:
            if call.end == "too few" and not (ids and outputs):
                call.end = "answers"  # there is nothing to leave out
            call.failed = call.poisoned or call.end != "answers"
            if call.end == "exits":
                raise SystemExit
            if call.poisoned or call.end == "fails":
                raise RuntimeError("secret 4711")
            return self.echo(ids[1:] if call.end == "too few" else ids, outputs, alarm_rate)
        finally:
            call.over = True

    def echo(self, ids: Sequence[int], outputs: Sequence[str], alarm_rate: float | None) -> Arrays:
        """The right answers."""
        each = np.asarray(ids, dtype=np.float64)
        salted = each * 8 + self.salt + (0.0 if alarm_rate is None else alarm_rate)
        answers = {"score": salted, "pair": np.stack([salted, -salted], axis=1), "alarm": each % 2 == 0}
        return {name: answers[name] for name in outputs}


class Notes:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, int, str]] = []
        self.failures: list[str] = []
        self.expiries: list[str] = []

    def batch(self, model: str, rows: int, reason: str) -> None:
        self.batches.append((model, rows, reason))

    def batch_failed(self, model: str) -> None:
        self.failures.append(model)

    def expired(self, model: str) -> None:
        self.expiries.append(model)


class _Loop(asyncio.SelectorEventLoop):
    """A loop that takes its time from the bench."""

    bench: Bench

    def time(self) -> float:
        return self.bench.now


class Bench:
    """A batcher under full control: time stands still unless moved, calls last until let go.

    Attributes:
        now: The time, in seconds.
        calls: Made of all runners, in order.
        notes: What the observer was told.
    """

    def __init__(self, policy: BatchPolicy, *, threads: int = 1, gated: bool = True, at_once_s: float = 0.0) -> None:
        self.now = 1000.0
        self.policy = policy
        self.gated = gated
        self.calls: list[Call] = []
        self.notes = Notes()
        self.loop = _Loop()
        self.loop.bench = self
        self.complaints: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        self.threads = threads
        self.batcher = Batcher(policy, threads=threads, observer=self.notes, at_once_s=at_once_s, clock=self._clock)
        self.runner = self.make_runner()
        self._next_id = 0
        self.run(self._start())

    def _clock(self) -> float:
        if not self.gated:  # calls then take some time of their own
            self.now += 1e-7
        return self.now

    async def _start(self) -> None:
        self.batcher.start()

    def make_runner(self, salt: int = 0) -> EchoRunner:
        """A runner that notes its calls here."""
        runner = EchoRunner(salt, self.calls, gated=self.gated)
        self._runners = [*getattr(self, "_runners", []), runner]
        return runner

    def rows(self, n: int, *, poison: bool = False) -> EncodedRows:
        """Rows that no other caller has."""
        ids = np.arange(self._next_id, self._next_id + n, dtype=np.float32)
        self._next_id += n
        kinds = np.zeros((n, 1), dtype=np.int64)
        if poison and n:
            kinds[n // 2] = POISON
        return EncodedRows(ids[:, None], kinds)

    def job(self, n: int = 1, *, poison: bool = False, outputs: tuple[str, ...] = ("score",), **more: Any) -> Job:
        """A caller's job of `n` rows of its own."""
        runner = more.pop("runner", self.runner)
        return Job(runner, more.pop("model", "press"), self.rows(n, poison=poison), outputs, **more)

    def submit(self, *jobs: Job) -> list[asyncio.Future[Answered]]:
        """Submits jobs within one turn of the loop, and settles."""

        async def all_at_once() -> list[asyncio.Future[Answered]]:
            return [self.batcher.submit(job) for job in jobs]

        futures: list[asyncio.Future[Answered]] = self.run(all_at_once())
        self.settle()
        return futures

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Runs to the end."""
        return self.loop.run_until_complete(coroutine)

    def turn(self) -> None:
        """One turn of the loop."""
        self.run(asyncio.sleep(0))

    @property
    def held(self) -> list[Call]:
        """Calls that wait at their gate, in an order that does not depend on which thread was first."""
        held = [call for call in self.calls if not call.over and not call.gate.is_set()]
        return sorted(held, key=lambda call: (call.ids, call.runner.salt, call.outputs, call.alarm_rate or 0.0))

    def settle(self) -> None:
        """Turns the loop until nothing moves any more but by the test's hand."""
        until = time.monotonic() + PATIENCE_S
        turns = 0
        while turns < 4 or not self._still():
            self.turn()
            turns += 1
            time.sleep(1e-5)
            assert time.monotonic() < until, "the batcher hangs"

    def _still(self) -> bool:
        running = self.batcher._running
        lined_up = self.batcher._inbox.qsize()
        held = len(self.held)
        entered = all(call.over or not call.gate.is_set() for call in self.calls)
        full = held == min(running, self.threads) and running == held + lined_up
        return entered and full and not self.batcher._drain_is_due

    def tick(self, seconds: float) -> None:
        """Moves the time, and settles."""
        self.now += seconds
        self.settle()

    def let_go(self, call: Call | None = None, end: End = "answers") -> None:
        """Ends a call, the oldest that is held by default, and settles."""
        call = call or self.held[0]
        call.end = end
        call.gate.set()
        self.settle()

    def let_all_go(self) -> None:
        """Ends calls until none is held."""
        while self.held:
            self.let_go()

    def right(self, job: Job, answered: Answered) -> bool:
        """Whether answers are exactly the job's own, in order."""
        assert isinstance(job.runner, EchoRunner)
        ids = job.rows.numeric[:, 0].astype(int).tolist()
        wanted = job.runner.echo(ids, job.outputs, job.alarm_rate)
        return list(answered.arrays) == list(wanted) and all(
            np.array_equal(answered.arrays[name], wanted[name]) for name in wanted
        )

    def open_gates(self) -> None:
        """Lets calls through from now on."""
        for runner in self._runners:
            runner.gated = False
        for call in self.calls:
            call.gate.set()

    def close(self) -> None:
        """Stops the batcher and its loop; nothing may be left."""
        if self.loop.is_closed():
            return
        stopping = self.loop.create_task(self.batcher.stop())
        self.turn()
        self.open_gates()
        self.loop.run_until_complete(stopping)
        assert not any(worker.is_alive() for worker in self.batcher._workers)
        self.turn()
        self.turn()
        self.run(self.loop.shutdown_default_executor())
        self.loop.close()


@pytest.fixture
def make_bench() -> Iterator[Callable[..., Bench]]:
    """Makes benches that end with the test."""
    made: list[Bench] = []

    def make(*arguments: Any, **settings: Any) -> Bench:
        made.append(Bench(*arguments, **settings))
        return made[-1]

    yield make
    for bench in made:
        bench.close()
