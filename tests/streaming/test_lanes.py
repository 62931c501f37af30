"""Records in, answers out: for tables and for series, however records are batched and whatever lies between them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomvae.errors import SettingError, TooFewRowsError
from anomvae.scoring import Scorer
from anomvae.streaming.codec import make_codec
from anomvae.streaming.contracts import Origin, Place, Record
from anomvae.streaming.graph_runner import StreamModel
from anomvae.streaming.lane import Answered, Lane
from anomvae.streaming.series_lane import SeriesLane
from anomvae.streaming.settings import AnswerSettings, EventSettings, WindowSettings
from anomvae.streaming.table_lane import TableLane
from tests.conftest import mixed_table
from tests.streaming.toys import COLUMNS, NOW_S, WINDOW, Log, close, read, some_log, toy_lane, toy_model, toy_score

if TYPE_CHECKING:
    from anomvae.bundle import Bundle

START_S = 1_900_000_000.0


def step(i: float, flow: float = 1.0, heat: float = 0.0, machine: Any = "A", **more: Any) -> dict[str, Any]:
    return {"machine": machine, "when": START_S + i, "flow": flow, "heat": heat, **more}


def answer(lane: Lane, rows: list[Any], first: int = 0, **record: Any) -> Answered:
    payloads = [row if isinstance(row, bytes) else orjson.dumps(row) for row in rows]
    records = [Record(payload, Origin("in", 0, i), **record) for i, payload in enumerate(payloads, first)]
    return lane.answer(records, None, NOW_S)


def split(lane: Lane, log: Log, order: list[int], cuts: list[int]) -> Answered:
    """The same records in several batches."""
    records = log.records(order)
    ends = sorted({min(cut, len(records)) for cut in cuts} | {len(records)})
    whole = Answered()
    for start, end in zip([0, *ends], ends, strict=False):
        part = lane.answer(records[start:end], None, NOW_S)
        whole.answers += part.answers
        whole.dead += part.dead
        whole.events += part.events
    return whole


# --- series


def test_a_step_is_scored_with_the_window_that_it_ends() -> None:
    rows = [step(i, flow=float(i), heat=-1.0, machine="B", line=7) for i in range(6)]
    answers = read(answer(toy_lane(), rows).answers)
    assert [found.get("reason") for found in answers] == ["filling"] * 3 + [None] * 3
    values = np.array([[row["flow"], row["heat"]] for row in rows], dtype=np.float32)
    for i in (3, 4, 5):
        assert answers[i]["score"] == pytest.approx(toy_score(values[i + 1 - WINDOW : i + 1], asset=1), abs=1e-5)
        assert answers[i]["p_value"] == pytest.approx(1 / (1 + answers[i]["score"]), abs=1e-5)
        assert answers[i]["reconstruction_error"] == pytest.approx(answers[i]["score"] / 4, abs=1e-5)
    for found, row in zip(answers, rows, strict=True):
        assert list(found)[:3] == ["machine", "when", "line"]
        assert (found["machine"], found["when"], found["line"]) == ("B", row["when"], 7)
    assert (answers[0]["score"], answers[0]["p_value"], answers[0]["alarm"]) == (None, None, False)


def test_assets_without_a_scaling_of_their_own_share_the_last_code_and_nothing_else() -> None:
    rows = [step(i, flow=float(k), machine=f"new {k}") for i in range(4) for k in (1, 2)]
    answers = read(answer(toy_lane(), rows).answers)
    for k, found in ((1, answers[-2]), (2, answers[-1])):
        window = np.array([[k, 0.0]] * WINDOW, dtype=np.float32)
        assert found["score"] == pytest.approx(toy_score(window, asset=2), abs=1e-5)


def test_missing_steps_and_cells_are_nan() -> None:
    rows = [step(0), step(1), step(3, heat=None), {**step(4), "flow": " 2.5 "}]  # type: ignore[arg-type]
    found = read(answer(toy_lane(), rows).answers)[-1]
    nan = np.nan
    window = np.array([[1, 0], [nan, nan], [1, nan], [2.5, 0]], dtype=np.float32)
    assert found["score"] == pytest.approx(toy_score(window, asset=0), abs=1e-5)


def test_rows_that_are_no_steps_say_why_and_touch_no_window() -> None:
    model = toy_model(off="speed < 10")
    rows = [step(i, speed=50) for i in range(4)]
    odd = [step(3.2), step(1), step(NOW_S), step(4, speed=3)]
    lane = toy_lane(model)
    found = answer(lane, [*rows, *odd, *(step(5 + i) for i in range(4))])
    answers = read(found.answers)
    assert [one.get("reason") for one in answers[4:8]] == ["repeated", "late", "future", "off"]
    assert all((one["score"], one["alarm"], one["reasons"]) == (None, False, []) for one in answers[4:8])
    assert [one.get("reason") for one in answers[8:]] == ["filling"] * 3 + [None]
    assert found.counts.unscored == {"filling": 6, "repeated": 1, "late": 1, "future": 1, "off": 1}
    assert (found.counts.scored, found.counts.records, len(found.scores)) == (2, 12, 2)
    assert answers[-1]["score"] == pytest.approx(answers[3]["score"], abs=1e-5)


def test_whether_a_record_is_from_the_future_is_the_sources_own_clock_to_say() -> None:
    windows = WindowSettings(future_s=10.0)
    early = answer(toy_lane(windows=windows), [step(0), step(30)], stamp_s=START_S + 15.0)
    assert early.counts.unscored == {"filling": 1, "future": 1}
    counted = toy_lane(windows=WindowSettings(unix=False))
    assert answer(counted, [{**step(0), "when": 1e15}], stamp_s=0.0).counts.unscored == {"filling": 1}


def test_off_is_told_of_flags_and_text_as_of_numbers() -> None:
    rows = [step(0, state="idle"), step(1, state="run"), step(2), step(3, state="idle", speed="5")]
    text = answer(toy_lane(toy_model(off="state == 'idle'")), rows)
    assert [one["reason"] for one in read(text.answers)] == ["off", "filling", "filling", "off"]
    number = answer(toy_lane(toy_model(off="speed < 10")), rows)
    assert [one["reason"] for one in read(number.answers)] == ["filling"] * 3 + ["off"]


def test_an_alarm_has_reasons_and_the_rest_have_none_unless_asked() -> None:
    rows = [step(i, flow=1.0, heat=9.0 * (i == 5)) for i in range(6)]
    answers = read(answer(toy_lane(top=1), rows).answers)
    assert [found["alarm"] for found in answers] == [False] * 5 + [True]
    assert [len(found["reasons"]) for found in answers] == [0] * 5 + [1]
    assert answers[-1]["reasons"] == [{"column": "heat", "contribution": 9.0, "value": 9.0, "expected": 2.25}]
    every = read(answer(toy_lane(all_reasons=True), rows).answers)
    assert [[reason["column"] for reason in found["reasons"]] for found in every[3:]] == [["flow", "heat"]] * 2 + [
        ["heat", "flow"]
    ]
    assert read(answer(toy_lane(top=0), rows).answers)[-1]["reasons"] == []


def test_what_lies_in_the_tail_says_so() -> None:
    rows = [step(i, flow=1.0 if i < 5 else 100.0) for i in range(6)]
    answers = read(answer(toy_lane(), rows).answers)
    assert ["tail" in found for found in answers] == [False] * 5 + [True]
    assert answers[-1]["tail"] is True


@pytest.mark.parametrize(
    ("bad", "cause", "reason"),
    [
        (b"{", "format", "the payload is not JSON"),
        ({"machine": "A", "when": 1.0, "flow": 1.0}, "columns", "lack 'heat'"),
        (step(0, flow="4711 secret"), "cells", "column 'flow' holds cells that are no numbers"),  # type: ignore[arg-type]
        ({**step(0), "when": "secret"}, "time", "has no time in field 'when'"),
        ({**step(0), "when": [1]}, "time", "has no time in field 'when'"),
        (step(0, machine=None), "asset", "names no asset in field 'machine'"),
        (step(0, machine=" "), "asset", "names no asset in field 'machine'"),
        (step(0, machine={"secret": 1}), "asset", "names no asset in field 'machine'"),
    ],
)
def test_a_record_that_cannot_be_answered_becomes_a_letter_and_its_mates_do_not_notice(
    bad: Any, cause: str, reason: str
) -> None:
    rows = [step(i) for i in range(5)]
    good = answer(toy_lane(), rows)
    found = answer(toy_lane(), [*rows[:2], bad, *rows[2:]], key=b"k", headers=(("trace", b"7"),))
    assert [one["score"] for one in read(found.answers)] == [one["score"] for one in read(good.answers)]
    ((message, origin, told),) = found.dead
    assert (message.payload, message.key) == (bad if isinstance(bad, bytes) else orjson.dumps(bad), b"k")
    assert reason in told
    assert "secret" not in told
    headers = dict(message.headers)
    assert (headers["trace"], headers["anomvae-offset"], headers["anomvae-error"]) == (b"7", b"2", told.encode())
    assert (headers["anomvae-topic"], headers["anomvae-partition"], headers["anomvae-model-version"]) == (
        b"in",
        b"0",
        b"1",
    )
    assert (origin, found.counts.dead) == (Origin("in", 0, 2), {cause: 1})


def test_a_batch_of_nothing_but_bad_records_is_survived() -> None:
    found = answer(toy_lane(), [b"x", b"y", step(0, flow="z")])  # type: ignore[arg-type]
    assert (len(found.dead), found.answers) == (3, [])


def test_a_series_without_assets_is_one_a_partition() -> None:
    lane = toy_lane(toy_model(asset=None, assets=("only",)))
    rows = [{"when": f"2026-01-01T00:00:0{i}Z", "flow": 1.0, "heat": 0.0} for i in range(4)]
    answers = read(answer(lane, rows).answers)
    assert answers[-1]["score"] == pytest.approx(toy_score(np.array([[1, 0]] * 4, np.float32), asset=1), abs=1e-5)
    assert lane.n_assets == 1


def test_steps_at_the_same_time_in_different_partitions_have_names_of_their_own_where_no_asset_tells() -> None:
    lane = toy_lane(toy_model(asset=None, assets=("only",)))
    payload = orjson.dumps({"when": START_S, "flow": 1.0, "heat": 0.0})
    answers = lane.answer([Record(payload, Origin("in", partition, 0)) for partition in (0, 1)], None, NOW_S).answers
    assert len({one["event_id"] for one in read(answers)}) == 2


def test_one_arrow_message_holds_the_steps_of_many_assets() -> None:
    rows = [step(i, flow=float(i), machine=machine) for i in range(4) for machine in "AB"]
    table = pa.Table.from_pylist([{**row, "when": int(row["when"] * 1000)} for row in rows])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    lane = SeriesLane(toy_model(), make_codec("arrow"), AnswerSettings(), clock=lambda: NOW_S)
    found = read(answer(lane, [bytes(sink.getvalue().to_pybytes())]).answers)
    wanted = read(answer(toy_lane(), rows).answers)
    assert [one["score"] for one in found] == [one["score"] for one in wanted]
    assert [one["event_id"] for one in found] == [one["event_id"] for one in wanted]


@given(st.integers(0, 10**6), st.lists(st.integers(0, 60), max_size=8))
@settings(max_examples=25, deadline=None)
def test_series_are_answered_alike_however_records_are_batched(seed: int, cuts: list[int]) -> None:
    log = some_log(seed, 60)
    order = [partition for partition, records in log.partitions.items() for _ in records]
    events = EventSettings(quiet=1, least=2)
    whole, parts = (split(toy_lane(events=events), log, order, where) for where in ([], cuts))
    assert all(close(*pair) for pair in zip(read(whole.answers), read(parts.answers), strict=True))
    assert all(close(*pair) for pair in zip(read(whole.events), read(parts.events), strict=True))
    assert [letter.origin for letter in whole.dead] == [letter.origin for letter in parts.dead]


def test_wide_windows_are_placed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [step(i, flow=float(i % 5), machine=machine) for i in range(40) for machine in "ABC"]
    wanted = read(answer(toy_lane(), rows).answers)
    monkeypatch.setattr("anomvae.streaming.series_lane._TAPE_CELLS", 1)
    assert read(answer(toy_lane(), rows).answers) == wanted


def test_a_lane_of_series_takes_no_model_of_tables(fitted: Bundle) -> None:
    with pytest.raises(SettingError, match="scores tables"):
        SeriesLane(StreamModel(fitted.manifest, toy_model().session, "1"), make_codec("json"), AnswerSettings())


# --- tables


@pytest.fixture(scope="module")
def press(fitted: Bundle) -> StreamModel:
    return StreamModel(fitted.manifest, Scorer(fitted).session, "3")


def table_lane(model: StreamModel, events: EventSettings | None = None, **settings: Any) -> TableLane:
    answering = AnswerSettings(**{"threads": 2, **settings})
    return TableLane(model, make_codec("json"), answering, events, clock=lambda: NOW_S)


def table_rows(n: int, seed: int = 5) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = mixed_table(n, seed).to_pylist()
    for i in range(0, n, 7):
        rows[i]["temperature"] = 1000.0 * i
    for row in rows[::11]:
        row["material"] = "wood"
    return [{name: None if cell != cell else cell for name, cell in row.items()} for row in rows]  # noqa: PLR0124


def test_rows_are_answered_as_a_table_of_them_is(fitted: Bundle, press: StreamModel) -> None:
    rows = table_rows(400)
    found = answer(table_lane(press, top=2), rows)
    answers = read(found.answers)
    wanted = Scorer(fitted).score(pa.Table.from_pylist(rows)).to_pylist()
    assert len(answers) == len(wanted)
    for one, other in zip(answers, wanted, strict=True):
        for name in ("score", "p_value", "reconstruction_error"):
            assert one[name] == pytest.approx(other[name], rel=1e-5, abs=1e-5)
        assert (one["alarm"], one["part"], one["line"]) == (other["alarm"], other["part"], "A")
        assert "temperature" not in one
        assert [reason["column"] for reason in one["reasons"]] == (
            [reason["column"] for reason in other["reasons"]][:2] if one["alarm"] else []
        )
    assert found.counts.alarms == sum(other["alarm"] for other in wanted)
    assert (found.counts.scored, found.counts.unscored) == (400, {})
    strange = [reason for one in answers for reason in one["reasons"] if reason["column"] == "material"]
    assert any(reason["value"] == "wood" for reason in strange)


@given(st.lists(st.integers(0, 120), max_size=6))
@settings(max_examples=10, deadline=None)
def test_tables_are_answered_alike_however_records_are_batched(press: StreamModel, cuts: list[int]) -> None:
    log = Log()
    for i, row in enumerate(table_rows(120)):
        log.add(0, b"nonsense" if i % 17 == 3 else {**row, "pressure": str(row["pressure"])} if i % 5 == 0 else row)
    whole, parts = (split(table_lane(press), log, [0] * 120, where) for where in ([], cuts))
    assert all(close(*pair) for pair in zip(read(whole.answers), read(parts.answers), strict=True))
    assert len(parts.dead) == len(
        [i for i in range(120) if i % 17 == 3 or (i % 5 == 0 and table_rows(120)[i]["pressure"] is None)]
    )


def test_rows_are_named_by_asset_and_time_or_else_by_where_they_lie(press: StreamModel) -> None:
    rows = [{**table_rows(1)[0], "at": at} for at in ("2026-01-01T00:00:00Z", "2026-01-01T01:00:00+01:00", None)]
    named = table_lane(press, asset="line", time="at")
    ids = [one["event_id"] for one in read(answer(named, rows).answers)]
    assert ids[0] == ids[1] != ids[2]
    assert ids[:2] == [one["event_id"] for one in read(answer(named, rows, first=100).answers)][:2]
    many = [{**rows[0], "temperature": 50.0 + i, "material": None} for i in range(5)]
    assert len({one["event_id"] for one in read(answer(named, many).answers)}) == 5  # of one asset, at one time
    unnamed = table_lane(press)
    ids = [one["event_id"] for one in read(answer(unnamed, rows).answers)]
    assert len(set(ids)) == 3
    assert ids == [one["event_id"] for one in read(answer(unnamed, rows).answers)]
    assert ids != [one["event_id"] for one in read(answer(unnamed, rows, first=100).answers)]


def test_answers_keep_the_key_or_take_the_asset_for_one(press: StreamModel) -> None:
    rows = table_rows(1)
    lane = table_lane(press, asset="line", time="at")
    assert answer(lane, rows).answers[0].key == b"A"
    assert answer(lane, rows, key=b"k").answers[0].key == b"k"
    assert answer(table_lane(press), rows).answers[0].key is None


def test_latency_counts_from_the_sources_own_time(press: StreamModel) -> None:
    lane = table_lane(press)
    (stamped,) = read(answer(lane, table_rows(1), stamp_s=NOW_S - 1.5).answers)
    assert stamped["latency_s"] == 1.5
    (bare,) = read(
        lane.answer([Record(json.dumps(table_rows(1)[0]).encode(), Origin("in", 0, 0))], None, NOW_S - 0.25).answers
    )
    assert bare["latency_s"] == 0.25


def test_a_stated_rate_replaces_the_models(press: StreamModel) -> None:
    rows = table_rows(300)
    few, many = (answer(table_lane(press, alarm_rate=rate), rows).counts.alarms for rate in (0.05, 0.5))
    assert few < many
    with pytest.raises(TooFewRowsError):
        table_lane(press, alarm_rate=1e-9)


def test_alarms_of_tables_make_events_too(press: StreamModel) -> None:
    rows = [{**row, "at": START_S + i} for i, row in enumerate(table_rows(40))]
    for row in rows[10:20]:
        row["temperature"] = 1e6
    lane = table_lane(press, EventSettings(quiet=0, least=5), asset="line", time="at")
    events = read(answer(lane, rows).events)
    assert [(event["event"], event["asset"]) for event in events] == [("open", "A"), ("closed", "A")]
    assert (events[1]["start"], events[1]["alarms"]) == (START_S + 10, 10)
    assert events[1]["reasons"][0]["column"] == "temperature"


def test_one_time_far_ahead_neither_ends_the_events_of_others_nor_has_all_read_again(press: StreamModel) -> None:
    rows = [{**row, "at": START_S + i} for i, row in enumerate(table_rows(60))]
    rows[20] |= {"at": 4e9, "temperature": 50.0}
    for row in rows[10:20] + rows[21:30] + rows[-1:]:
        row["temperature"] = 1e6
    lane = table_lane(press, EventSettings(quiet=1), asset="line", time="at")
    events = read(answer(lane, rows, stamp_s=START_S + 60).events)
    assert {event["ended_by"] for event in events if event["event"] == "closed"} == {"quiet"}
    assert START_S + 29 in {event["end"] for event in events}
    assert lane.replay_from(Place("in", 0), 60) >= 50  # the last event is still open


def test_a_key_names_the_asset_where_the_record_does_not_if_it_was_said_to() -> None:
    rows = [{"when": START_S + i, **dict.fromkeys(COLUMNS, 0.5)} for i in range(3)]
    lost = answer(toy_lane(), rows, key=b"A")
    assert lost.counts.dead["asset"] == 3
    found = read(answer(toy_lane(key_is_asset=True), rows, key=b"A").answers)
    named = read(answer(toy_lane(), [{**row, "machine": "A"} for row in rows]).answers)
    assert [one["event_id"] for one in found] == [one["event_id"] for one in named]
    assert [one["score"] for one in found] == [one["score"] for one in named]
    assert [one["machine"] for one in found] == ["A"] * 3
    assert answer(toy_lane(key_is_asset=True), rows).counts.dead["asset"] == 3


def test_events_name_the_asset_that_a_key_names() -> None:
    rows = [
        {"when": START_S + i, **dict.fromkeys(COLUMNS, 9.0), **more}
        for i, more in enumerate([{}] * 3 + [{"machine": None}])
    ]
    told = answer(toy_lane(key_is_asset=True, events=EventSettings()), rows, key=b"A")
    assert [(event["event"], event["asset"]) for event in read(told.events)] == [("open", "A")]
    assert [one["machine"] for one in read(told.answers)] == ["A"] * 4
    said = answer(toy_lane(key_is_asset=True), [{**rows[0], "machine": "B"}], key=b"A")
    assert [one["machine"] for one in read(said.answers)] == ["B"]


def test_a_key_names_the_asset_of_a_table_row_too(press: StreamModel) -> None:
    row = {**{name: cell for name, cell in table_rows(1)[0].items() if name != "line"}, "at": START_S}
    keyed = table_lane(press, asset="line", time="at", key_is_asset=True)
    (found,) = read(answer(keyed, [row], key=b"A").answers)
    (named,) = read(answer(keyed, [{**row, "line": "A"}]).answers)
    assert (found["event_id"], found["line"]) == (named["event_id"], "A")


def test_events_of_table_rows_name_the_asset_that_a_key_names(press: StreamModel) -> None:
    rows = [
        {**{name: cell for name, cell in row.items() if name != "line"}, "at": START_S + i, "temperature": 1e6}
        for i, row in enumerate(table_rows(3))
    ]
    keyed = table_lane(press, EventSettings(), asset="line", time="at", key_is_asset=True)
    events = read(answer(keyed, rows, key=b"A").events)
    assert [(event["event"], event["asset"]) for event in events] == [("open", "A")]


@pytest.mark.parametrize("wrong", [{"top": -1}, {"top": 5000}, {"threads": 0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        AnswerSettings(**wrong)
    with pytest.raises(SettingError):
        WindowSettings(max_replay=0)
