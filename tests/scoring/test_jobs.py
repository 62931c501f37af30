from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from anomvae.data.encoding import EncodedRows
from anomvae.scoring.jobs import Batch, Job, JobQueue
from anomvae.scoring.policy import BatchPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT_S = 0.5


class Silent:
    """A runner that is never run."""

    def run(self, rows: EncodedRows, outputs: Any, alarm_rate: float | None = None) -> dict[str, Any]:
        raise AssertionError


RUNNER = Silent()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


class Queue(JobQueue):
    """A queue with its jobs' maker."""

    def __init__(self, loop: asyncio.AbstractEventLoop, max_rows: int = 8) -> None:
        super().__init__(BatchPolicy(max_rows, enough_rows=64, max_wait_s=WAIT_S))
        self._loop = loop

    def add(self, n: int, arrived: float = 0.0, **more: Any) -> Job:
        rows = EncodedRows(np.arange(n, dtype=np.float32)[:, None], np.zeros((n, 0), dtype=np.int64))
        job = Job(more.pop("runner", RUNNER), "press", rows, more.pop("outputs", ("score",)), **more)
        job.future, job.arrived = self._loop.create_future(), arrived
        self.push(job)
        return job


@pytest.fixture
def queue(loop: asyncio.AbstractEventLoop) -> Queue:
    return Queue(loop)


def taken(batch: Batch | None) -> list[tuple[Job, int, int]]:
    assert batch is not None
    return [(piece.job, piece.start, piece.stop) for piece in batch.pieces]


def test_what_waits_for_an_idle_runner_goes_together_in_order(queue: Queue) -> None:
    jobs = [queue.add(n) for n in (1, 0, 3)]
    batch = queue.next_batch(0.0)
    assert taken(batch) == [(jobs[0], 0, 1), (jobs[1], 0, 0), (jobs[2], 0, 3)]
    assert batch is not None
    assert (batch.n_rows, batch.reason) == (4, "idle")
    assert not queue


def test_beside_a_batch_of_the_same_runner_rows_wait_for_company_but_not_for_long(queue: Queue) -> None:
    queue.add(1)
    running = queue.next_batch(0.0)
    queue.add(2, arrived=1.0)
    assert queue.next_batch(1.0) is None
    assert queue.next_wait_s(1.25) == pytest.approx(WAIT_S - 0.25)
    late = queue.next_batch(1.0 + WAIT_S)
    assert running is not None
    assert late is not None
    assert late.reason == "waited"
    queue.finished(running)
    queue.finished(late)
    assert not queue._running


def test_beside_a_batch_of_another_runner_nobody_waits(queue: Queue) -> None:
    queue.add(1)
    queue.next_batch(0.0)
    queue.add(1, runner=Silent())
    batch = queue.next_batch(0.0)
    assert batch is not None
    assert batch.reason == "idle"


def test_a_large_job_gives_a_chunk_and_lets_the_small_ones_go_first(queue: Queue) -> None:
    large, small = queue.add(20), queue.add(1)
    assert taken(queue.next_batch(0.0)) == [(large, 0, 8)]
    assert taken(queue.next_batch(0.0)) == [(small, 0, 1), (large, 8, 15)]
    assert taken(queue.next_batch(0.0)) == [(large, 15, 20)]  # the rest of it waits for nobody
    assert not queue


def test_no_batch_holds_more_rows_than_any_of_its_jobs_allows(queue: Queue) -> None:
    narrow, wide, free = queue.add(5, max_rows=2), queue.add(5, max_rows=100), queue.add(5)
    pieces = []
    while (batch := queue.next_batch(0.0)) is not None:
        pieces.append([(piece.job, piece.stop - piece.start) for piece in batch.pieces])
        queue.finished(batch)
    assert sorted(n for batch in pieces for job, n in batch if job is narrow) == [1, 2, 2]
    assert all(len(batch) == 1 for batch in pieces if batch[0][0] is narrow)
    assert max(n for batch in pieces for _, n in batch) == 5
    assert {id(job) for batch in pieces for job, _ in batch} == {id(narrow), id(wide), id(free)}


@pytest.mark.parametrize(
    "more",
    [
        {"outputs": ("alarm",)},
        {"outputs": ("alarm", "score")},
        {"alarm_rate": 0.1},
        {"runner": Silent()},
        {"quiet": True},
        {"watch": lambda rows, found: None},
        {"max_rows": 3},
    ],
)
def test_jobs_that_want_something_else_never_share_a_batch(queue: Queue, more: dict[str, Any]) -> None:
    one, other = queue.add(1), queue.add(1, **more)
    assert taken(queue.next_batch(0.0)) == [(one, 0, 1)]
    assert taken(queue.next_batch(9.0)) == [(other, 0, 1)]


def test_lanes_take_turns(queue: Queue) -> None:
    for rate in (None, 0.1, 0.2):
        queue.add(24, alarm_rate=rate)
    rates = []
    while (batch := queue.next_batch(0.0)) is not None:
        rates.append(batch.pieces[0].job.alarm_rate)
    assert rates == [None, 0.1, 0.2] * 3


def test_behind_a_running_batch_only_a_full_one_lines_up(queue: Queue) -> None:
    queue.add(7)
    assert queue.next_batch(9.0, only_full=True) is None
    queue.add(1)
    batch = queue.next_batch(9.0, only_full=True)
    assert batch is not None
    assert (batch.n_rows, batch.reason) == (8, "full")


def test_full_lanes_do_not_starve_one_that_has_waited_long_enough(queue: Queue) -> None:
    small = queue.add(1, alarm_rate=0.1)
    large = queue.add(80)
    assert taken(queue.next_batch(WAIT_S / 2, only_full=True)) == [(large, 0, 8)]
    assert taken(queue.next_batch(WAIT_S, only_full=True)) == [(small, 0, 1)]
    assert taken(queue.next_batch(WAIT_S, only_full=True)) == [(large, 8, 16)]


def test_answered_jobs_are_forgotten_before_they_fill_a_batch(queue: Queue) -> None:
    gone = queue.add(7)
    assert isinstance(gone.future, asyncio.Future)
    gone.future.cancel()
    queue.add(1)
    assert queue.next_batch(0.0, only_full=True) is None
    queue.drop_answered()
    assert gone not in list(queue)
    assert queue.next_wait_s(0.0) == WAIT_S
    last = queue.next_batch(0.0)
    assert last is not None
    assert last.n_rows == 1
    assert queue.next_wait_s(0.0) is None


def test_rows_of_one_job_go_without_a_copy(queue: Queue) -> None:
    job = queue.add(8)
    batch = queue.next_batch(0.0)
    assert batch is not None
    assert batch.rows() is job.rows


def test_rows_of_many_jobs_stand_one_after_the_other(queue: Queue) -> None:
    for n in (3, 0, 2):
        queue.add(n)
    batch = queue.next_batch(0.0)
    assert batch is not None
    assert batch.rows().numeric[:, 0].tolist() == [0, 1, 2, 0, 1]
    assert len(batch.rows()) == batch.n_rows


def grouped(queue: Queue, group: list[int] | None, n: int) -> Job:
    job = queue.add(n)
    job.rows = EncodedRows(job.rows.numeric, job.rows.categorical, None if group is None else np.array(group))
    return job


def batches(queue: Queue) -> list[EncodedRows]:
    """The rows of all batches there are."""
    return [batch.rows() for batch in iter(lambda: queue.next_batch(10.0), None)]


def test_rows_keep_their_groups_in_a_batch_and_rows_of_none_have_the_number_of_none(queue: Queue) -> None:
    for group, n in (([0, 1], 2), (None, 1), ([2, 3, 0, 1], 4)):
        grouped(queue, group, n)
    (rows,) = batches(queue)
    assert rows.group is not None
    assert rows.group.dtype == np.int64
    assert rows.group.tolist() == [0, 1, -1, 2, 3, 0, 1]
    assert rows.numeric[:, 0].tolist() == [0, 1, 0, 0, 1, 2, 3]


def test_a_large_jobs_pieces_keep_their_rows_groups(queue: Queue) -> None:
    grouped(queue, list(range(20)), 20)
    parts = batches(queue)
    assert len(parts) == 3
    for part in parts:
        assert part.group is not None
        np.testing.assert_array_equal(part.group, part.numeric[:, 0])


def test_a_batch_without_groups_has_none(queue: Queue) -> None:
    queue.add(2)
    queue.add(3)
    (rows,) = batches(queue)
    assert len(rows) == 5
    assert rows.group is None
