"""Whatever happens in whatever order, every caller gets exactly its own rows' answers, once, or one clear error."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from anomvae.errors import DeadlineError, ScoringError, StoppingError
from anomvae.scoring.batcher import SWEEP_S
from anomvae.scoring.policy import BatchPolicy

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from anomvae.scoring.jobs import Answered, Job
    from tests.scoring.conftest import Bench, Call, EchoRunner

EXAMPLES = int(os.environ.get("BATCHER_EXAMPLES", "150"))
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
EPSILON_S = 1e-6
LANES = (
    (0, ("score",), None),
    (0, ("score",), 0.5),
    (0, ("pair", "score"), None),
    (1, ("score",), None),
    (1, (), None),
)


@dataclass(eq=False)
class Caller:
    """One that submitted, and what is known of how it ended."""

    job: Job
    future: asyncio.Future[Answered]
    poisoned: bool
    ids: list[int]
    checked: bool = False
    calls_at_end: int | None = None
    taken_at_end: int = 0

    @property
    def ended(self) -> bool:
        return self.calls_at_end is not None


submissions = st.fixed_dictionaries(
    {
        "lane": st.integers(0, len(LANES) - 1),
        "n": st.sampled_from([0, 1, 1, 1, 2, 3, 5, 8, 17, 40]),
        "poison": st.sampled_from([False, False, False, True]),
        "patience_s": st.sampled_from([None, None, None, 0.0, 0.005, 0.05, 1.0]),
        "max_rows": st.sampled_from([0, 0, 0, 1, 3, 100]),
    }
)


class Interleavings(RuleBasedStateMachine):
    """Callers come, leave, fail and expire while calls begin and end, in any order."""

    make: ClassVar[Callable[..., Bench]]
    bench: Bench | None = None

    @initialize(
        threads=st.integers(1, 4),
        max_rows=st.integers(1, 16),
        enough_rows=st.sampled_from([1, 4, 64]),
        max_wait_s=st.sampled_from([0.0, 0.002, 0.03, 10.0]),
    )
    def begin(self, threads: int, max_rows: int, enough_rows: int, max_wait_s: float) -> None:
        policy = BatchPolicy(max_rows, enough_rows, max_wait_s)
        self.bench = type(self).make(policy, threads=threads)
        self.runners: list[EchoRunner] = [self.bench.runner, self.bench.make_runner(3)]
        self.callers: list[Caller] = []
        self.owner: dict[int, tuple[Caller, int]] = {}
        self.stopped = False

    @property
    def it(self) -> Bench:
        assert self.bench is not None
        return self.bench

    # What may happen.

    @rule(wanted=st.lists(submissions, min_size=1, max_size=5))
    def callers_come(self, wanted: list[dict[str, Any]]) -> None:
        if self.stopped:  # no precondition: threads decide when, and what hypothesis draws must not depend on them
            return
        jobs = []
        for each in wanted:
            runner, outputs, alarm_rate = LANES[each["lane"]]
            deadline = None if each["patience_s"] is None else self.it.now + each["patience_s"]
            jobs.append(
                self.it.job(
                    each["n"],
                    poison=each["poison"],
                    outputs=outputs,
                    alarm_rate=alarm_rate,
                    runner=self.runners[runner],
                    deadline=deadline,
                    max_rows=each["max_rows"],
                )
            )
        futures = self.it.submit(*jobs)
        for job, future, each in zip(jobs, futures, wanted, strict=True):
            ids = job.rows.numeric[:, 0].astype(int).tolist()
            caller = Caller(job, future, each["poison"] and each["n"] > 0, ids)
            self.callers.append(caller)
            self.owner.update({number: (caller, place) for place, number in enumerate(ids)})

    @rule(seconds=st.sampled_from([0.001, 0.002, 0.02, 0.06, 1.1]))
    def time_passes(self, seconds: float) -> None:
        self.it.tick(seconds)

    @rule(which=st.integers(0, 3), end=st.sampled_from(["answers", "answers", "answers", "fails", "too few", "exits"]))
    def a_call_ends(self, which: int, end: Any) -> None:
        held = self.bench.held if self.bench is not None else []
        if not held:
            return
        self.it.let_go(held[which % len(held)], end)

    @rule(which=st.integers(0, 30), departed=st.booleans())
    def a_caller_leaves(self, which: int, departed: bool) -> None:
        waiting = [caller for caller in self.callers if not caller.future.done()]
        if not waiting:
            return
        caller = waiting[which % len(waiting)]
        caller.calls_at_end, caller.taken_at_end = len(self.it.calls), caller.job.taken
        if departed:
            caller.future.set_exception(ConnectionResetError())
        else:
            caller.future.cancel()
        self.it.settle()

    @rule(sure=st.integers(0, 3))
    def it_is_stopped(self, sure: int) -> None:
        if sure or self.stopped or self.bench is None or len(self.callers) <= 3:
            return
        self.stopped = True
        stopping = self.it.loop.create_task(self.it.batcher.stop())
        self.it.turn()
        assert all(caller.future.done() for caller in self.callers)
        for caller in self.callers:
            if not caller.ended:
                caller.calls_at_end, caller.taken_at_end = len(self.it.calls), caller.job.taken
        self.it.open_gates()
        self.it.run(stopping)  # type: ignore[arg-type]  # a task will do
        with pytest.raises(StoppingError):
            self.it.batcher.submit(self.it.job())

    # What must hold whenever nothing moves.

    @invariant()
    def calls_hold_only_rows_that_go_together(self) -> None:
        if self.bench is None:
            return
        for number, call in enumerate(self.it.calls):
            owners = {self.owner[each][0]: None for each in call.ids}
            limits = [self.it.policy.max_rows, *(o.job.max_rows for o in owners if o.job.max_rows)]
            assert len(call.ids) <= min(limits)
            for caller in owners:
                job = caller.job
                assert (job.runner, job.outputs, job.alarm_rate) == (call.runner, call.outputs, call.alarm_rate)
                own = [self.owner[each][1] for each in call.ids if self.owner[each][0] is caller]
                assert own == list(range(own[0], own[0] + len(own)))
                if caller.calls_at_end is not None and number >= caller.calls_at_end:
                    assert own[-1] < caller.taken_at_end, "rows were run that had been withdrawn"
            if owners and all(caller.ids for caller in self.callers):  # a caller without rows shows in no call
                gone = [o for o in owners if o.calls_at_end is not None and number >= o.calls_at_end]
                assert len(gone) < len(owners), "a call was made for nobody"

    @invariant()
    def rows_are_run_again_only_after_a_failure_and_then_alone(self) -> None:
        if self.bench is None:
            return
        seen: dict[int, Call] = {}
        for call in self.it.calls:
            for each in call.ids:
                if each in seen:
                    assert seen[each].failed
                    mates = {self.owner[other][0] for other in seen[each].ids}
                    assert len(mates) > 1 or any(not caller.ids for caller in self.callers)
                    assert len({self.owner[other][0] for other in call.ids}) == 1
                seen[each] = call

    @invariant()
    def whoever_was_answered_got_exactly_its_own(self) -> None:
        if self.bench is None:
            return
        for caller in self.callers:
            if caller.future.done() and not caller.checked:
                self._check_end(caller)
                caller.checked = True
                if not caller.ended:
                    caller.calls_at_end, caller.taken_at_end = len(self.it.calls), caller.job.taken
        expired = [c for c in self.callers if c.future.done() and _is(c.future, DeadlineError)]
        assert len(self.it.notes.expiries) == len(expired)

    def _check_end(self, caller: Caller) -> None:
        future, job = caller.future, caller.job
        if future.cancelled() or _is(future, ConnectionResetError):
            assert caller.ended
            return
        error = future.exception()
        if error is None:
            assert not caller.poisoned
            assert self.it.right(job, future.result())
            assert future.result().queue_s >= 0
        elif isinstance(error, ScoringError):
            own = set(caller.ids)
            lone = [call for call in self.it.calls if call.failed and own.issuperset(call.ids)]
            assert lone, "a caller failed though no call of its rows alone did"
            assert "4711" not in str(error)
        elif isinstance(error, DeadlineError):
            assert job.deadline is not None
            assert self.it.now >= job.deadline
        else:
            assert isinstance(error, StoppingError)
            assert self.stopped

    @invariant()
    def nobody_waits_without_need(self) -> None:
        if self.bench is None or self.stopped:
            return
        batcher, now = self.it.batcher, self.it.now
        late = now - SWEEP_S - EPSILON_S
        for caller in self.callers:
            if not caller.future.done():
                assert caller.job.deadline is None or caller.job.deadline > late
                assert caller.job in batcher._live
        if batcher._running < self.it.threads:
            busy = {call.runner for call in self.it.held}
            for job in batcher._queue:
                assert job.runner in busy, "a job waits though its runner is idle and a thread is free"
                assert now - job.arrived < self.it.policy.max_wait_s + EPSILON_S or job.future.done()

    @invariant()
    def nothing_goes_wrong_unseen(self) -> None:
        if self.bench is not None:
            assert not self.it.complaints

    def teardown(self) -> None:
        if self.bench is None:
            return
        try:
            if not self.stopped:
                self._everyone_is_answered_in_the_end()
        finally:
            self.it.close()
        batcher = self.it.batcher
        assert not batcher._live
        assert not batcher._running
        assert not self.it.complaints

    def _everyone_is_answered_in_the_end(self) -> None:
        self.it.let_all_go()
        self.it.tick(10.1)
        self.it.let_all_go()
        self.whoever_was_answered_got_exactly_its_own()
        assert all(caller.future.done() for caller in self.callers)
        self.it.run(self.it.batcher.drained())
        self.it.tick(1.0)
        assert not self.it.batcher._queue
        assert not self.it.batcher._queue._running
        assert self.it.batcher._sweeper is None


def _is(future: asyncio.Future[Answered], kind: type[Exception]) -> bool:
    return not future.cancelled() and isinstance(future.exception(), kind)


def test_any_interleaving_gives_every_caller_its_own_or_one_clear_error(make_bench: Callable[..., Bench]) -> None:
    Interleavings.make = staticmethod(make_bench)
    run_state_machine_as_test(
        Interleavings,
        settings=settings(
            max_examples=EXAMPLES,
            phases=PHASES,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
