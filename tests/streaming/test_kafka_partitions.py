from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from anomvae.streaming.contracts import Place, Progress
from anomvae.streaming.kafka_partitions import Partitions
from anomvae.streaming.kafka_progress import metadata_of, progress_of

OFFSETS = st.integers(0, 2**62)


@given(answered=OFFSETS, replay_from=OFFSETS, lookback=OFFSETS)
def test_progress_survives_a_commit(answered: int, replay_from: int, lookback: int) -> None:
    progress = Progress(answered, min(answered, replay_from))
    assert progress_of(answered, metadata_of(progress), lookback) == (progress, True)
    assert len(metadata_of(progress)) < 64  # brokers allow 4096 bytes


@given(answered=OFFSETS, metadata=st.none() | st.text(), lookback=OFFSETS)
def test_metadata_of_others_means_the_stated_lookback(answered: int, metadata: str | None, lookback: int) -> None:
    assert progress_of(answered, metadata, lookback) == (Progress(answered, max(0, answered - lookback)), False)


@pytest.mark.parametrize(
    "metadata",
    ["{}", "[]", "3", "null", '{"v":2,"replay_from":5}', '{"v":1,"replay_from":"5"}', '{"v":1,"replay_from":-1}'],
)
def test_metadata_that_is_not_ours_or_newer_is_not_believed(metadata: str) -> None:
    assert progress_of(10, metadata) == (Progress(10, 10), False)


def test_a_replay_never_begins_behind_what_is_answered() -> None:
    assert progress_of(10, '{"v":1,"replay_from":12}') == (Progress(10, 10), True)


class Caller(RuleBasedStateMachine):
    """What a caller is told, whatever the group does between its calls, against the partitions' own account."""

    PARTITIONS = st.integers(0, 3)

    def __init__(self) -> None:
        super().__init__()
        self.mine = Partitions("t")
        self.told: dict[Place, int] = {}

    @rule(partition=PARTITIONS)
    def given_by_the_group(self, partition: int) -> None:
        if partition not in self.mine.due:
            self.mine.given([partition])

    @rule(partition=PARTITIONS)
    def taken_by_the_group(self, partition: int) -> None:
        was_read = partition in self.mine.due
        assert self.mine.taken([partition]) == [partition] * was_read
        assert partition not in self.mine.waiting

    @rule(at=st.integers(0, 5))
    def all_that_wait_begin(self, at: int) -> None:
        self.mine.begin(
            {partition: known or Progress(at + 5, at) for partition, known in dict(self.mine.waiting).items()}
        )
        assert not self.mine.waiting

    @rule()
    def rewound(self) -> None:
        read = list(self.mine.due)
        assert self.mine.again(self.mine.due) == read
        assert not self.mine.due

    @rule(partition=PARTITIONS)
    def log_made_anew(self, partition: int) -> None:
        if partition in self.mine.due:
            self.mine.again([partition], Progress(1, 1))
            assert self.mine.waiting[partition] == Progress(1, 1)

    @rule()
    def caller_is_told(self) -> None:
        assigned, revoked = self.mine.tell()
        for place in revoked:
            del self.told[place]  # it had been told of it
        for place, progress in assigned.items():
            assert place not in self.told, "assigned twice"
            self.told[place] = progress.replay_from
        assert set(self.told) == {Place("t", partition) for partition in self.mine.due}

    @rule(partition=PARTITIONS)
    def record_comes(self, partition: int) -> None:
        if partition in self.mine.due:
            self.mine.passed(partition, self.mine.due[partition] + 2)
            assert partition not in self.mine.asked

    @invariant()
    def a_partition_waits_or_is_read(self) -> None:
        assert not set(self.mine.waiting) & set(self.mine.due)
        assert set(self.mine.asked) <= set(self.mine.due)
        assert all(self.mine.owns(Place("t", partition)) for partition in self.mine.due)
        assert not self.mine.owns(Place("u", 0))


Caller.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestCaller = Caller.TestCase


def test_a_commit_goes_to_the_end_of_the_log_only_where_nothing_waits_for_an_answer() -> None:
    mine = Partitions("t")
    mine.given([0])
    mine.begin({0: Progress(5, 3)})
    assert not mine.reached(0, 6), "nothing was committed that could be moved"
    mine.passed(0, 5)
    assert (mine.passing(0, Progress(6, 4)), mine.left(0, 9)) == (Progress(6, 4), 3)
    mine.committed[0] = Progress(6, 4)
    assert not mine.reached(0, 6)
    assert mine.reached(0, 8), "two marks lie behind the last record"
    assert (mine.passing(0, Progress(6, 4)), mine.left(0, 9)) == (Progress(8, 4), 1)
    assert mine.passing(0, Progress(5, 4)) == Progress(5, 4), "a record waits"
    mine.passed(0, 8)
    assert mine.passing(0, Progress(9, 4)) == Progress(9, 4)
    mine.taken([0])
    assert not mine.reached(0, 9), "taken from us meanwhile"
