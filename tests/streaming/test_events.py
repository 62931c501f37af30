"""Alarms that follow each other are one event, and stay one across restarts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomvae.errors import SettingError
from anomvae.streaming.contracts import Place
from anomvae.streaming.events import EventMerger, Step
from anomvae.streaming.settings import EventSettings
from tests.streaming.toys import read

IN = Place("in", 0)


def steps(marks: str, *, asset: str = "A", first: int = 0, place: Place = IN, **more: Any) -> list[Step]:
    """Steps of an asset, a second apart: `!` alarms, `.` does not, `r` is repeated, `o` is off."""
    made = []
    for i, mark in enumerate(marks, first):
        reasons = (
            [{"column": "flow", "contribution": 1.0 + i, "value": 1.0 * i, "expected": 0.0}] if mark == "!" else []
        )
        one = Step(
            place, i, asset, asset, f"second {i}", float(i), counts=mark != "r", off=mark == "o", alarm=mark == "!",
            score=float(i % 7), p_value=0.5, lease=i, event_id=f"{asset}{i}", reasons=reasons, told=True,
        )  # fmt: skip
        made.append(one._replace(**more))
    return made


def merger(**setting: Any) -> EventMerger:
    return EventMerger(EventSettings(**{"quiet": 2, "announce": False, **setting}), "7", top=3)


def told(events: EventMerger, rows: list[Step]) -> list[dict[str, Any]]:
    return read(events.merge(rows))


def test_an_event_outlasts_so_many_steps_without_an_alarm() -> None:
    found = told(merger(), steps("..!!..!...!..."))
    assert [(event["start"], event["end"], event["alarms"], event["ended_by"]) for event in found] == [
        ("second 2", "second 6", 3, "quiet"),
        ("second 10", "second 10", 1, "quiet"),
    ]


def test_repeated_and_late_rows_are_no_steps() -> None:
    assert told(merger(), steps("!..rrrr!..")) == []


def test_an_event_says_when_it_was_worst_and_why() -> None:
    (event,) = told(merger(), steps("!!!!...", first=3))
    assert event["peak"] == {"time": "second 6", "score": 6.0, "p_value": 0.5}
    assert event["reasons"] == [{"column": "flow", "contribution": (4 + 5 + 6 + 7) / 4, "value": 6.0, "expected": 0.0}]
    assert (event["event"], event["event_id"], event["asset"], event["model_version"]) == ("closed", "A3", "A", "7")


def test_the_strongest_columns_of_all_alarms_are_its_reasons() -> None:
    def reason(column: str, nats: float) -> dict[str, Any]:
        return {"column": column, "contribution": nats, "value": nats, "expected": 0.0}

    rows = steps("!!...")
    rows[0] = rows[0]._replace(reasons=[reason("a", 5.0), reason("b", 1.0)])
    rows[1] = rows[1]._replace(reasons=[reason("c", 4.0), reason("b", 7.0), reason("a", 1.0)])
    (event,) = told(EventMerger(EventSettings(quiet=2, announce=False), "7", top=2), rows)
    assert [(one["column"], one["contribution"], one["value"]) for one in event["reasons"]] == [
        ("b", 4.0, 7.0),
        ("a", 3.0, 5.0),
    ]


def test_an_event_is_announced_once_it_has_alarms_enough() -> None:
    events = merger(least=3, announce=True)
    assert told(events, steps("!.!")) == []
    (opened,) = told(events, steps("!", first=3))
    assert (opened["event"], opened["alarms"], "ended_by" in opened) == ("open", 3, False)
    (closed,) = told(events, steps("...", first=4))
    assert (closed["event"], closed["event_id"]) == ("closed", opened["event_id"])
    assert events.told == {"open": 1, "closed": 1}


def test_an_event_with_too_few_alarms_is_never_told() -> None:
    assert told(merger(least=3, announce=True), steps("!!...!...")) == []


def test_an_asset_that_is_turned_off_ends_its_event() -> None:
    assert [event["ended_by"] for event in told(merger(), steps("!!o!"))] == ["off"]


def test_an_asset_that_is_heard_of_no_more_ends_its_event() -> None:
    events = merger(idle_s=10.0)
    assert told(events, steps("!")) == []
    assert told(events, steps("." * 10, asset="B", first=1)) == []
    (event,) = told(events, steps(".", asset="B", first=11))
    assert (event["asset"], event["ended_by"]) == ("A", "idle")


def test_an_event_lasts_no_longer_than_a_restart_reads_back() -> None:
    events = merger(max_replay=32)
    found = told(events, [*steps("!" * 40), *steps("...", first=40)])
    assert [(event["start"], event["alarms"], event["ended_by"]) for event in found] == [
        ("second 0", 16, "length"),
        ("second 16", 16, "length"),
        ("second 32", 8, "quiet"),
    ]


def test_an_event_that_has_just_begun_is_not_cut() -> None:
    found = told(merger(max_replay=32), [*steps("!" * 10, first=15), *steps("...", first=25)])
    assert [(event["start"], event["alarms"], event["ended_by"]) for event in found] == [("second 15", 10, "quiet")]


def test_an_open_event_holds_the_restart_back_to_its_first_alarm() -> None:
    events = merger()
    assert events.replay_from(IN, 0) == 0
    told(events, steps("..!!", lease=1))
    assert events.replay_from(IN, 4) == 1
    told(events, steps("...", first=4))
    assert events.replay_from(IN, 7) == 6  # the record that set the clock


def test_the_clock_of_a_partition_is_found_again_while_no_event_is_open() -> None:
    rows = [
        steps(mark, asset=asset, first=i)[0]
        for i, (asset, mark) in enumerate([("B", "."), ("A", "!"), ("B", "."), ("A", "!")])
    ]
    rows = [row._replace(time_s=time_s) for row, time_s in zip(rows, (1e5, 0.0, 1e5 + 1, 1.0), strict=True)]
    events, restarted = merger(idle_s=3600.0), merger(idle_s=3600.0)
    told(events, rows[:1])
    told(restarted, [row._replace(told=False) for row in rows[events.replay_from(IN, 1) : 1]])
    assert told(restarted, rows[1:]) == told(events, rows[1:]) == []


def test_the_end_of_the_stream_ends_all() -> None:
    events = merger()
    told(events, [*steps("!!"), *steps("!", asset="B", first=2)])
    assert [(event["asset"], event["ended_by"]) for event in read(events.finish())] == [
        ("A", "stream"),
        ("B", "stream"),
    ]
    assert read(events.finish()) == []


def test_the_end_of_a_run_that_answered_nothing_tells_nothing() -> None:
    replayed = [row._replace(told=False) for row in steps("!!")]
    idle, busy = merger(announce=True), merger(announce=True)
    assert (told(idle, replayed), read(idle.finish())) == ([], [])
    assert told(busy, [*replayed, *steps(".", asset="B", first=2)]) == []
    assert [(event["asset"], event["ended_by"]) for event in read(busy.finish())] == [("A", "stream")]


def test_only_partitions_in_which_a_record_was_answered_are_told_of_at_the_end() -> None:
    events, other = merger(), Place("in", 1)
    told(events, [*[row._replace(told=False) for row in steps("!")], *steps("!", asset="B", place=other)])
    assert [event["asset"] for event in read(events.finish())] == ["B"]


def test_a_partition_that_went_takes_its_events_along() -> None:
    events = merger()
    told(events, steps("!!"))
    events.forget(IN)
    assert (told(events, steps("...", first=2)), read(events.finish())) == ([], [])


def test_without_times_events_go_by_records_alone() -> None:
    rows = [step._replace(time=None, time_s=None) for step in steps("!!...")]
    events = merger()
    (event,) = told(events, rows)
    assert (event["start"], event["alarms"], event["ended_by"]) == (None, 2, "quiet")
    told(events, [step._replace(time=None, time_s=None) for step in steps("!", first=5)])
    assert events.replay_from(IN, 6) == 5


@given(
    st.lists(st.tuples(st.sampled_from("AB"), st.sampled_from("!!..r.o") | st.just("!")), max_size=100),
    st.integers(0, 100),
    st.integers(0, 100),
    st.integers(0, 5),
    st.sampled_from([1000, 40, 16]),
)
@settings(max_examples=400, deadline=None)
def test_however_rows_are_batched_and_wherever_reading_begins_anew_the_events_are_the_same(
    marks: list[tuple[str, str]], cut: int, crash: int, earlier: int, max_replay: int
) -> None:
    rows = [steps(mark, asset=asset, first=i)[0] for i, (asset, mark) in enumerate(marks)]
    setting = {"quiet": 1, "least": 2, "announce": True, "idle_s": 6.0, "max_replay": max_replay}
    whole = told(merger(**setting), rows)

    first = merger(**setting)
    crash = min(crash, len(rows))
    before = told(first, rows[: min(cut, crash)]) + told(first, rows[min(cut, crash) : crash])
    begin = max(0, first.replay_from(IN, crash) - earlier)
    second = merger(**setting)
    again = [row._replace(told=False) for row in rows[begin:crash]]
    assert told(second, again) == []
    assert before + told(second, rows[crash:]) == whole


@pytest.mark.parametrize("wrong", [{"quiet": -1}, {"least": 0}, {"idle_s": -1.0}, {"max_replay": 0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        EventSettings(**wrong)
