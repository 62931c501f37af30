"""The pump answers every record, whatever crashes, goes and comes; and exactly once where a transaction holds all together."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomvae.errors import StreamError
from anomvae.streaming.contracts import Delivery, Outgoing, Place, Progress
from anomvae.streaming.pump import Pump, Sinks, Turn
from anomvae.streaming.settings import EventSettings, PumpSettings, WindowSettings
from tests.streaming.toys import ListSink, Log, LogSource, close, read, some_log, toy_lane, toy_model

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from anomvae.streaming.contracts import Origin
    from anomvae.streaming.lane import Lane

QUIET = EventSettings(quiet=1, least=2)


class Buffered(ListSink):
    """A sink within a transaction: what is sent is seen only once it is committed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[Outgoing] = []

    def send(self, messages: Sequence[Outgoing]) -> None:
        self.open += messages


class ToyTransaction:
    """Makes messages and progress visible together, or neither."""

    def __init__(self, sinks: Sequence[Buffered], source: LogSource, draw: random.Random) -> None:
        self._sinks, self._source, self._draw = sinks, source, draw

    def begin(self) -> None:
        for sink in self._sinks:
            assert sink.open == []

    def commit(self, progress: Mapping[Place, Progress]) -> bool:
        kept = self._draw.random() < 0.7
        if kept:
            self._source.commit(progress)
        else:
            partitions = [place.partition for place in progress]
            self._source.revoke(*partitions)
            self._source.assign(*partitions)
        for sink in self._sinks:
            if kept:
                sink.messages += sink.open
            sink.open = []
        return kept


def unbroken(log: Log, **lane: Any) -> tuple[dict[Any, Any], list[dict[str, Any]], int]:
    """Answers by number, events and dead letters of one run, record by record."""
    source, sinks = LogSource(log, {}), Sinks(ListSink(), ListSink(), ListSink())
    source.assign(*log.partitions)
    Pump(source, toy_lane(**lane), sinks, PumpSettings(records=1, wait_s=0.0)).run()
    assert isinstance(sinks.answers, ListSink)
    answers = {answer["n"]: answer for answer in read(sinks.answers.messages)}
    return answers, read(sinks.events.messages), len(sinks.dead_letters.messages)  # type: ignore[union-attr]


@given(seed=st.integers(0, 10**6), events=st.booleans(), most=st.integers(1, 30))
@settings(max_examples=10, deadline=None)
def test_after_crashes_and_rebalances_every_record_is_answered_as_in_an_unbroken_run(
    seed: int, events: bool, most: int
) -> None:
    log, draw = some_log(seed), random.Random(seed)
    lane: dict[str, Any] = {"events": QUIET if events else None}
    wanted, _, dead = unbroken(log, **lane)
    committed: dict[Place, Progress] = {}
    sinks = Sinks(ListSink(), ListSink(), ListSink())
    for _ in range(6):
        source = LogSource(log, committed, draw.choices(range(2), k=80))
        mine = draw.sample(range(2), draw.randint(1, 2))
        source.assign(*mine)
        pump = Pump(source, toy_lane(**lane), sinks, PumpSettings(records=most, wait_s=0.0))
        for _ in range(draw.randrange(8)):
            pump.turn()
            if draw.random() < 0.2:
                source.revoke(*mine)
                mine = draw.sample(range(2), draw.randint(1, 2))
                source.assign(*mine)
        # and now it is killed
    source = LogSource(log, committed)
    source.assign(0, 1)
    Pump(source, toy_lane(**lane), sinks, PumpSettings(records=most, wait_s=0.0)).run()
    assert {place.partition: found.answered for place, found in committed.items()} == {
        partition: len(records) for partition, records in log.partitions.items() if records
    }
    assert isinstance(sinks.answers, ListSink)
    assert isinstance(sinks.dead_letters, ListSink)
    found = read(sinks.answers.messages)
    assert {answer["n"] for answer in found} == set(wanted)
    assert all(close(answer, wanted[answer["n"]]) for answer in found)
    assert len({(letter.payload, letter.headers[-4:-2]) for letter in sinks.dead_letters.messages}) == dead


@given(seed=st.integers(0, 10**6), most=st.integers(1, 30))
@settings(max_examples=10, deadline=None)
def test_in_transactions_every_record_is_answered_and_every_event_told_exactly_once(seed: int, most: int) -> None:
    log, draw = some_log(seed), random.Random(seed)
    wanted, events, dead = unbroken(log, events=QUIET)
    committed: dict[Place, Progress] = {}
    answers, letters, told = Buffered(), Buffered(), Buffered()
    for last in [False] * 5 + [True]:
        source = LogSource(log, committed, draw.choices(range(2), k=80))
        source.assign(0, 1)
        transaction = ToyTransaction((answers, letters, told), source, draw)
        pump = Pump(source, toy_lane(events=QUIET), Sinks(answers, letters, told, transaction), PumpSettings(most, 0.0))
        for sink in (answers, letters, told):
            sink.open = []
        turns = 0
        while pump.turn():
            turns += 1
            if not last and turns >= draw.randrange(1, 6):
                break
        else:
            break
    found = read(answers.messages)
    assert sorted(answer["n"] for answer in found) == sorted(wanted)
    assert all(close(answer, wanted[answer["n"]]) for answer in found)
    assert len(letters.messages) == dead

    def by_id(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
        return sorted((event["event_id"], event["event"]) for event in messages if event.get("ended_by") != "stream")

    assert by_id(read(told.messages)) == by_id(events)


def test_replayed_records_fill_windows_and_are_not_answered_again() -> None:
    log = Log()
    for i in range(10):
        log.add(0, {"machine": "A", "when": 1e9 + i, "flow": float(i), "heat": 0.0, "n": i})
    wanted, _, _ = unbroken(log)
    source, sink = LogSource(log, {Place("in", 0): Progress(7, 4)}), ListSink()
    source.assign(0)
    heard = Heard()
    Pump(source, toy_lane(), Sinks(sink), PumpSettings(5, 0.0), heard).run()
    found = read(sink.messages)
    assert [answer["n"] for answer in found] == [7, 8, 9]
    assert all(close(answer, wanted[answer["n"]]) for answer in found)
    assert sum(turn.answered.counts.replayed for turn in heard.turns) == 3
    assert sum(turn.answered.counts.records for turn in heard.turns) == 3


class Heard:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.skips: list[tuple[Origin, str]] = []
        self.moves: list[tuple[list[Place], list[Place]]] = []
        self.aborts: list[int] = []

    def turn(self, turn: Turn) -> None:
        self.turns.append(turn)

    def skipped(self, origin: Origin, reason: str) -> None:
        self.skips.append((origin, reason))

    def partitions(self, assigned: Collection[Place], revoked: Collection[Place]) -> None:
        self.moves.append((list(assigned), list(revoked)))

    def aborted(self, records: int) -> None:
        self.aborts.append(records)


def rows_of(n: int, machine: str = "A") -> Log:
    log = Log()
    for i in range(n):
        log.add(0, {"machine": machine, "when": 1e9 + i, "flow": 1.0, "heat": 0.0, "n": i})
    return log


class Slow(ListSink):
    """A sink that acknowledges nothing until told to."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = False

    def flush(self) -> None:
        if self.fails:
            raise StreamError("the sink is gone")
        super().flush()


def test_nothing_is_committed_that_was_not_acknowledged() -> None:
    committed: dict[Place, Progress] = {}
    source, sink = LogSource(rows_of(9), committed), Slow()
    source.assign(0)
    pump = Pump(source, toy_lane(), Sinks(sink), PumpSettings(3, 0.0))
    pump.turn()
    assert (len(sink.messages), committed) == (3, {})
    pump.turn()
    assert (len(sink.messages), sink.flushed, committed) == (6, 3, {Place("in", 0): Progress(3, 0)})
    sink.fails = True
    with pytest.raises(StreamError):
        pump.run()
    assert committed == {Place("in", 0): Progress(3, 0)}


class Endless:
    """A source that always has one more record, and stops the pump after some."""

    healthy = True

    def __init__(self, log: Log, after: int) -> None:
        self._inner, self._after = LogSource(log, {}), after
        self._inner.assign(0)
        self.committed: dict[Place, Progress] = {}
        self.pump: Pump | None = None

    def poll(self, most: int, wait_s: float) -> Delivery:
        self._after -= 1
        if self._after == 0 and self.pump is not None:
            threading.Thread(target=self.pump.stop).run()
        return self._inner.poll(most, wait_s)

    def commit(self, progress: Mapping[Place, Progress]) -> None:
        self.committed.update(progress)

    def lag(self) -> dict[Place, int]:
        return {}

    def close(self) -> None:
        pass


def test_a_stop_answers_and_commits_the_batch_at_hand_and_no_more() -> None:
    source, sink = Endless(rows_of(100), after=4), ListSink()
    source.pump = pump = Pump(source, toy_lane(), Sinks(sink), PumpSettings(10, 0.0))
    pump.run()
    assert (len(sink.messages), sink.flushed) == (40, 40)
    assert source.committed[Place("in", 0)].answered == 40


def test_bad_records_are_told_and_skipped_where_no_sink_takes_them() -> None:
    log = rows_of(3)
    log.add(0, b"[]")
    source, sink, heard = LogSource(log, {}), ListSink(), Heard()
    source.assign(0)
    Pump(source, toy_lane(), Sinks(sink), PumpSettings(10, 0.0), heard).run()
    assert len(sink.messages) == 3
    assert [(origin.offset, reason) for origin, reason in heard.skips] == [
        (3, "the payload is JSON, but no object of cells by column name")
    ]
    assert heard.turns[0].answered.counts.dead == {"format": 1}
    assert heard.moves == [([Place("in", 0)], [])]


@pytest.mark.parametrize(("other", "keeps"), [({}, True), ({"longest_gap": 1}, False), ({"window": 3}, False)])
def test_a_new_lane_goes_on_with_windows_made_by_the_same_rule(other: dict[str, Any], keeps: bool) -> None:
    log, sink = rows_of(20), ListSink()
    source = LogSource(log, {})
    source.assign(0)
    pump = Pump(source, toy_lane(), Sinks(sink), PumpSettings(10, 0.0))
    pump.turn()
    window = other.get("window", 4)
    new: Lane = toy_lane(toy_model(version="2", **other))
    pump.swap(new)
    pump.turn()
    pump.run()
    answers = read(sink.messages)
    assert [answer["model_version"] for answer in answers] == ["1"] * 10 + ["2"] * 10
    filling = [answer["n"] for answer in answers if answer.get("reason") == "filling"]
    assert filling == [0, 1, 2] + ([] if keeps else list(range(10, 9 + window)))


def test_open_events_are_told_when_the_stream_ends() -> None:
    log, answers, told = Log(), ListSink(), ListSink()
    for i in range(6):
        log.add(0, {"machine": "A", "when": 1e9 + i, "flow": 9.0, "heat": 9.0})
    source = LogSource(log, {})
    source.assign(0)
    Pump(
        source, toy_lane(events=EventSettings(announce=False)), Sinks(answers, events=told), PumpSettings(4, 0.0)
    ).run()
    assert len(answers.messages) == 6
    (event,) = read(told.messages)
    assert (event["event"], event["ended_by"], event["alarms"], told.flushed) == ("closed", "stream", 3, 1)


def test_events_that_the_end_of_the_stream_ends_are_told_to_the_listener() -> None:
    log, heard = Log(), Heard()
    for i in range(6):
        log.add(0, {"machine": "A", "when": 1e9 + i, "flow": 9.0, "heat": 9.0})
    source, settings = LogSource(log, {}), PumpSettings(4, 0.0)
    source.assign(0)
    Pump(source, toy_lane(events=EventSettings(announce=False)), Sinks(ListSink()), settings, heard).run()
    assert [dict(turn.answered.counts.events) for turn in heard.turns] == [{}, {}, {"closed": 1}]
    assert (heard.turns[-1].records, heard.turns[-1].answered.counts.records) == (0, 0)


class Quiet(LogSource):
    """A source that has nothing more to give, and does not end."""

    def poll(self, most: int, wait_s: float) -> Delivery:
        return replace(super().poll(most, wait_s), ended=False)


class Distant(ListSink):
    """A sink that learns whether it is connected only when it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = False
        self.healthy = True

    def flush(self) -> None:
        self.healthy = not self.cut


def test_a_sink_that_is_cut_off_while_nothing_comes_is_noticed() -> None:
    log, sink, letters = rows_of(3), Distant(), Distant()
    source = Quiet(log, {})
    source.assign(0)
    pump = Pump(source, toy_lane(), Sinks(sink, letters), PumpSettings(10, 0.0))
    for _ in range(3):
        assert pump.turn()
    found = [pump.healthy]
    for end in (sink, letters):
        for end.cut in (True, False):
            pump.turn()
            found.append(pump.healthy)
    assert found == [True, False, True, False, True]


def test_within_transactions_nothing_is_flushed_between_them() -> None:
    sink = Distant()
    source = Quiet(rows_of(0), {})
    sink.cut = True
    pump = Pump(source, toy_lane(), Sinks(sink, transaction=ToyTransaction([], source, random.Random(0))))
    assert pump.turn()
    assert sink.healthy


def test_windows_of_no_partition_outlive_it() -> None:
    log, sink = rows_of(8), ListSink()
    source = LogSource(log, {Place("in", 0): Progress(0, 0)})
    source.assign(0)
    lane = toy_lane(windows=WindowSettings())
    pump = Pump(source, lane, Sinks(sink), PumpSettings(5, 0.0))
    pump.turn()
    assert (lane.n_assets, pump.partitions) == (1, 1)
    source.revoke(0)
    pump.turn()
    assert (lane.n_assets, pump.partitions, pump.healthy) == (0, 0, True)
