from __future__ import annotations

import asyncio
import gc
import itertools
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anomvae.errors import DeadlineError, ScoringError, StoppingError
from anomvae.scoring import GraphSession, batcher
from anomvae.scoring.batcher import SWEEP_S, Batcher
from anomvae.scoring.jobs import Job
from anomvae.scoring.policy import BatchPolicy
from anomvae.scoring.selftest import probe_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from anomvae.bundle import Bundle
    from anomvae.data.encoding import EncodedRows
    from tests.scoring.conftest import Bench

POLICY = BatchPolicy(max_rows=8, enough_rows=64, max_wait_s=0.002)


def test_an_idle_batcher_runs_at_once_whatever_it_could_wait_for(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(BatchPolicy(8, 64, 60.0))
    job = bench.job()
    (future,) = bench.submit(job)
    assert len(bench.held) == 1
    bench.let_go()
    assert bench.right(job, future.result())
    assert future.result().queue_s == 0


def test_what_arrives_in_one_turn_goes_out_together(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(POLICY)
    jobs = [bench.job(n) for n in (1, 2, 0, 3)]
    futures = bench.submit(*jobs)
    bench.let_go()
    assert bench.notes.batches == [("press", 6, "idle")]
    assert all(bench.right(job, future.result()) for job, future in zip(jobs, futures, strict=True))


def test_beside_a_busy_runner_small_jobs_wait_for_company_and_then_no_longer(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(POLICY, threads=2)
    bench.submit(bench.job())
    bench.submit(bench.job())
    assert len(bench.held) == 1
    bench.tick(0.001)
    bench.submit(bench.job())
    assert len(bench.held) == 1
    bench.tick(0.0011)
    assert [len(call.ids) for call in bench.held] == [1, 2]
    assert bench.notes.batches[-1] == ("press", 2, "waited")


def test_while_every_thread_is_busy_small_jobs_gather_instead_of_lining_up(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(POLICY)
    other = bench.make_runner(5)
    bench.submit(bench.job())
    for _ in range(3):
        bench.submit(bench.job(runner=other))
        bench.tick(0.01)
    assert bench.batcher._inbox.qsize() == 0
    bench.let_go()
    assert [len(call.ids) for call in bench.held] == [3]


def test_one_row_behind_ten_thousand_is_answered_after_a_few_chunks(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(POLICY)
    large, small = bench.job(10_000), bench.job(1)
    (late,) = bench.submit(large)
    (soon,) = bench.submit(small)
    for _ in range(4):  # one ran, one was lined up, one had its turn
        bench.let_go()
    assert bench.right(small, soon.result())
    bench.open_gates()
    assert bench.right(large, bench.run(_answer(late)))


def test_a_large_job_does_not_starve_those_who_want_other_outputs(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(POLICY)
    bench.submit(bench.job(10_000))
    small = bench.job(1, outputs=("alarm",))
    (soon,) = bench.submit(small)
    for _ in range(4):
        bench.tick(0.002)
        bench.let_go()
    assert bench.right(small, soon.result())


def test_a_slow_model_does_not_hold_up_another_while_a_thread_is_free(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(POLICY, threads=2)
    bench.submit(bench.job())
    other = bench.job(runner=bench.make_runner(5))
    (future,) = bench.submit(other)
    slow, quick = bench.held
    assert slow.runner is bench.runner
    bench.let_go(quick)
    assert bench.right(other, future.result())


def test_a_poisoned_caller_fails_alone(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(POLICY, gated=False)
    jobs = [bench.job(2), bench.job(3, poison=True), bench.job(1), bench.job(0)]
    futures = bench.submit(*jobs)
    for job, future in zip(jobs, futures, strict=True):
        if job is jobs[1]:
            assert isinstance(future.exception(), ScoringError)
            assert "4711" not in str(future.exception())
        else:
            assert bench.right(job, future.result())
    assert bench.notes.failures == ["press"]


def test_rows_that_failed_alone_are_not_run_again(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(POLICY, gated=False)
    (future,) = bench.submit(bench.job(3, poison=True))
    assert isinstance(future.exception(), ScoringError)
    assert len(bench.calls) == 1


@pytest.mark.parametrize("end", ["fails", "too few", "exits"])
def test_whatever_a_call_does_the_next_is_answered(make_bench: Callable[..., Bench], end: Any) -> None:
    bench = make_bench(POLICY)
    (failed,) = bench.submit(bench.job(2))
    bench.let_go(end=end)
    assert isinstance(failed.exception(), ScoringError)
    job = bench.job()
    (future,) = bench.submit(job)
    bench.let_go()
    assert bench.right(job, future.result())


def test_a_large_job_fails_once_and_its_other_rows_are_not_run(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(POLICY)
    (future,) = bench.submit(bench.job(80))
    bench.let_go(end="fails")
    assert isinstance(future.exception(), ScoringError)
    bench.let_all_go()
    assert len(bench.calls) <= 2  # the second was lined up
    assert not bench.batcher._queue


def test_chunks_that_do_not_fit_together_fail_their_caller_and_nobody_else(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(POLICY, gated=False)

    class Changing:
        calls = 0

        def run(self, rows: EncodedRows, outputs: Any, alarm_rate: float | None = None) -> dict[str, Any]:
            self.calls += 1
            return {"score": np.zeros((len(rows), self.calls))}

    runner = Changing()
    futures = bench.submit(bench.job(9, runner=runner), bench.job(1, runner=runner))
    assert isinstance(futures[0].exception(), ScoringError)
    assert futures[1].done()
    assert not bench.complaints


def test_cancelled_rows_that_were_not_given_to_a_thread_are_never_run(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(POLICY)
    bench.submit(bench.job())
    (future,) = bench.submit(bench.job(3))
    future.cancel()
    bench.let_all_go()
    assert len(bench.calls) == 1
    bench.tick(SWEEP_S)
    assert bench.run(bench.batcher.drained()) is None


def test_a_departed_caller_costs_nothing_even_if_its_batch_was_lined_up(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(POLICY)
    bench.submit(bench.job())
    (future,) = bench.submit(bench.job(8))
    assert bench.batcher._inbox.qsize() == 1
    future.cancel()
    bench.let_all_go()
    assert len(bench.calls) == 1


def test_a_cancelled_caller_does_not_hold_up_the_rest_of_its_batch(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(POLICY)
    jobs = [bench.job(2), bench.job(2)]
    gone, kept = bench.submit(*jobs)
    gone.cancel()
    bench.let_go()
    assert bench.right(jobs[1], kept.result())


def test_a_deadline_ends_a_job_even_while_a_thread_is_stuck_with_it(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(POLICY)
    futures = [bench.submit(bench.job(deadline=bench.now + 0.1))[0] for _ in range(2)]
    bench.tick(0.05)
    assert not any(future.done() for future in futures)
    bench.tick(0.1)
    assert all(isinstance(future.exception(), DeadlineError) for future in futures)
    bench.tick(1.0)
    assert bench.notes.expiries == ["press", "press"]
    assert not bench.batcher._queue, "rows nobody waits for are still held"


def test_who_comes_too_late_costs_nothing_and_is_counted(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(POLICY)
    (future,) = bench.submit(bench.job(deadline=bench.now))
    assert isinstance(future.exception(), DeadlineError)
    assert bench.notes.expiries == ["press"]
    assert not bench.calls


def test_a_job_that_lingers_is_looked_after_once(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(POLICY)
    looks: list[int] = []
    bench.submit(bench.job(on_linger=lambda: looks.append(1)))
    bench.tick(SWEEP_S / 2)
    assert not looks
    bench.tick(SWEEP_S)
    bench.tick(SWEEP_S)
    assert len(looks) == 1


def test_trouble_while_looking_after_one_caller_does_not_end_the_watch_over_others(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(POLICY)

    def trouble() -> None:
        raise RuntimeError

    bench.submit(bench.job(on_linger=trouble))
    (future,) = bench.submit(bench.job(deadline=bench.now + 0.1))
    for _ in range(10):
        bench.tick(SWEEP_S)
    assert isinstance(future.exception(), DeadlineError)
    assert len(bench.complaints) == 1


def test_stopping_fails_what_is_unanswered_and_takes_no_more(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(POLICY)
    futures = [*bench.submit(bench.job()), *bench.submit(bench.job(80)), *bench.submit(bench.job(1))]
    bench.close()
    assert all(isinstance(future.exception(), StoppingError) for future in futures)
    with pytest.raises(StoppingError):
        bench.batcher.submit(bench.job())
    assert len(bench.calls) == 1
    assert not bench.complaints


def test_a_call_that_never_ends_does_not_keep_the_batcher_from_stopping(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher, "JOIN_S", 0.01)
    bench = make_bench(POLICY, threads=3)
    bench.submit(*(bench.job(runner=bench.make_runner(salt)) for salt in range(3)))
    assert len(bench.held) == 3
    bench.run(bench.batcher.stop())
    assert any(worker.is_alive() for worker in bench.batcher._workers)


def test_it_is_drained_when_the_last_is_answered_and_not_before(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(POLICY)
    bench.submit(bench.job(), bench.job(outputs=("pair",)))
    drained = bench.loop.create_task(bench.batcher.drained())
    bench.let_go()
    assert not drained.done()
    bench.let_go()
    assert drained.done()


def test_who_looks_on_sees_each_row_once_and_cannot_fail_those_looked_at(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(POLICY, gated=False)
    seen: list[int] = []

    def watch(rows: EncodedRows, found: dict[str, Any]) -> None:
        assert len(found["score"]) == len(rows)
        seen.extend(rows.numeric[:, 0].astype(int).tolist())
        raise RuntimeError

    job = bench.job(30, watch=watch)
    (future,) = bench.submit(job)
    assert bench.right(job, future.result())
    assert sorted(seen) == list(range(30))


def test_a_quiet_job_leaves_no_trace_and_hides_nobody_elses(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(POLICY, gated=False)
    seen: list[int] = []
    quiet = bench.job(1, quiet=True)
    loud = bench.job(5, watch=lambda rows, found: seen.append(len(rows)))
    bench.submit(quiet, loud)
    assert [batch[:2] for batch in bench.notes.batches] == [("press", 5)]
    assert seen == [5]


def test_an_answered_job_is_freed_without_the_garbage_collector(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(POLICY, gated=False)
    freed = []
    gc.disable()
    try:
        for n in (1, 30):
            job = bench.job(n)
            job.on_linger = lambda job=job: job.future.cancel()  # a cycle
            freed.append(weakref.ref(job.rows.numeric))
            futures = bench.submit(job)
            futures.clear()
            del job
        bench.tick(SWEEP_S)
        assert [ref() for ref in freed] == [None, None]
    finally:
        gc.enable()


@given(
    sizes=st.lists(st.tuples(st.integers(0, 30), st.sampled_from([None, 0.5]), st.booleans()), max_size=12),
    at_once_s=st.sampled_from([0.0, 60.0]),
    threads=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_calls_made_at_once_answer_as_calls_on_threads_do(
    make_bench: Callable[..., Bench],
    sizes: list[tuple[int, float | None, bool]],
    at_once_s: float,
    threads: int,
) -> None:
    bench = make_bench(POLICY, threads=threads, gated=False, at_once_s=at_once_s)
    try:
        for _ in range(2):  # the first calls tell how long they take
            jobs = [bench.job(n, alarm_rate=rate, poison=poison) for n, rate, poison in sizes]
            for job, future, (n, _, poison) in zip(jobs, bench.submit(*jobs), sizes, strict=True):
                if poison and n:
                    assert isinstance(future.exception(), ScoringError)
                else:
                    assert bench.right(job, future.result())
        bench.run(bench.batcher.drained())
        assert not bench.complaints
        assert not bench.batcher._queue._running
    finally:
        bench.close()


def test_a_large_job_of_quick_chunks_lets_the_loop_turn(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(POLICY, gated=False, at_once_s=60.0)
    bench.submit(bench.job(8))  # tells how long a full call takes
    made: list[int] = []

    async def between() -> None:
        future = bench.batcher.submit(bench.job(800))
        for _ in range(20):
            await asyncio.sleep(0)
            made.append(len(bench.calls))
        await future

    bench.run(between())
    assert all(after - before <= 1 for before, after in itertools.pairwise(made))
    assert made[-1] < 101


async def _answer(future: asyncio.Future[Any]) -> Any:
    return await future


def test_many_clients_of_a_real_graph_get_its_answers_bit_for_bit(fitted: Bundle) -> None:
    session = GraphSession(fitted.graph, fitted.manifest.width)
    rows = probe_rows(fitted.manifest, 700, seed=3)
    rates = (None, 0.02, 0.2)
    wanted = {rate: session.run_in_chunks(rows, session.outputs, rate) for rate in rates}

    async def client(shared: Batcher, seed: int) -> None:
        draw = np.random.default_rng(seed)
        for _ in range(25):
            n = int(draw.choice([0, 1, 2, 7, 60, 500]))
            start = int(draw.integers(0, len(rows) - n + 1))
            names = tuple(draw.permutation(session.outputs)[: draw.integers(1, len(session.outputs) + 1)].tolist())
            rate = rates[int(draw.integers(0, 3))]
            here = slice(start, start + n)
            job = Job(session, "press", rows.take(here), names, rate, max_rows=session.chunk_rows)
            found = (await shared.submit(job)).arrays
            assert tuple(found) == names
            for name in names:
                np.testing.assert_array_equal(found[name], wanted[rate][name][here])

    async def all_of_them() -> None:
        notes = _Nobody()
        shared = Batcher(BatchPolicy(128, max_wait_s=0.0005), threads=3, observer=notes)
        shared.start()
        try:
            await asyncio.gather(*(client(shared, seed) for seed in range(8)))
            await shared.drained()
        finally:
            await shared.stop()

    asyncio.run(all_of_them())


class _Nobody:
    def batch(self, model: str, rows: int, reason: str) -> None:
        assert rows <= 128

    def batch_failed(self, model: str) -> None:
        raise AssertionError

    def expired(self, model: str) -> None:
        raise AssertionError
