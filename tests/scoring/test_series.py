"""Whole series in, a row for a row out: by the past alone and by all windows, with their own calibrations, and why not."""

from __future__ import annotations

import datetime as dt
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomvae.bundle import read_bundle, write_bundle
from anomvae.bundle.series import ROWS_GRAPH
from anomvae.calibration import Budget, CalibrationRows, calibrate
from anomvae.data.series import sequences_for
from anomvae.data.windows import windows_of
from anomvae.errors import BundleError, ColumnMismatchError, SchemaError, SettingError, TooFewRowsError
from anomvae.export.graph import recalibrated_graph
from anomvae.export.series_graph import export_batch_calibration
from anomvae.scoring import GraphSession, Scorer
from anomvae.scoring.series import SeriesScoring
from anomvae.scoring.series_rows import row_member
from anomvae.streaming.codec import make_codec
from anomvae.streaming.contracts import Origin, Record
from anomvae.streaming.graph_runner import StreamModel
from anomvae.streaming.series_lane import SeriesLane
from anomvae.streaming.settings import AnswerSettings
from tests.streamed import WINDOW, assert_same, expected, pump_rows, pump_table, pumps

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anomvae.bundle import Bundle
    from anomvae.calibration import Calibrated

NOW_S = 1_800_000_000.0


@pytest.fixture(scope="module")
def scoring() -> SeriesScoring:
    return SeriesScoring(read_bundle(pumps().folder), threads=2)


def spoilt(n: int = 60) -> pa.Table:
    """Rows of known and unknown assets with gaps, repeats, empty cells and rows, and infinities."""
    table = pump_table(n, seed=3, assets=("A", "B", "C"))
    flow, heat = (table[name].to_numpy().copy() for name in ("flow", "heat"))
    flow[[5, 70, 130]] = np.nan, np.inf, 1e30
    flow[30] = heat[30] = np.nan
    heat[90:100] = np.nan
    table = table.set_column(2, "flow", pa.array(flow)).set_column(3, "heat", pa.array(heat))
    kept = np.setdiff1d(np.arange(3 * n), [10, 11, 100, 101, 102, 103])
    return table.take(pa.array(np.sort(np.append(kept, 140))))


def told(answers: pa.Table, name: str) -> list[Any]:
    found: list[Any] = answers[name].to_pylist()
    return found


# --- a row for a row


@pytest.mark.parametrize("past_only", [True, False])
def test_every_row_has_an_answer_or_a_reason(scoring: SeriesScoring, past_only: bool) -> None:
    rows = spoilt()
    answers = scoring.score(rows, past_only=past_only)
    assert answers.schema == scoring.schema(rows.schema)
    assert answers.num_rows == rows.num_rows
    assert answers["machine"].equals(rows["machine"])
    for row in answers.to_pylist():
        assert (row["reason"] is None) == (row["score"] is not None) == (row["reasons"] is not None)
        assert row["reason"] in (None, "filling", "repeated")
        assert row["alarm"] is False or row["reason"] is None
        assert row["score"] is None or (np.isfinite(row["score"]) and 0 < row["p_value"] <= 1)
    assert told(answers, "reason").count("repeated") == 1


def test_a_row_without_any_value_is_judged_by_the_steps_around_it(scoring: SeriesScoring) -> None:
    for past_only in (True, False):
        row = scoring.score(spoilt(), past_only=past_only).to_pylist()[28]
        assert row["reason"] is None
        assert row["reconstruction_error"] == 0.0


def test_the_first_rows_fill_the_window_where_the_past_alone_judges(scoring: SeriesScoring) -> None:
    rows = pump_table(40, seed=2)
    reasons = told(scoring.score(rows, past_only=True), "reason")
    assert reasons == (["filling"] * (WINDOW - 1) + [None] * (40 - WINDOW + 1)) * 2
    assert told(scoring.score(rows, past_only=False), "reason") == [None] * 80


def test_rows_may_come_in_any_order(scoring: SeriesScoring) -> None:
    rows, order = spoilt(), np.random.default_rng(0).permutation(spoilt().num_rows)
    repeated = {i for i, reason in enumerate(told(scoring.score(rows), "reason")) if reason == "repeated"}
    order = np.array(
        [i for i in order if i not in repeated]
    )  # which of two equal rows counts is decided by who comes first
    kept = np.sort(order)
    for past_only in (True, False):
        straight = scoring.score(rows.take(pa.array(kept)), past_only=past_only)
        mixed = scoring.score(rows.take(pa.array(order)), past_only=past_only)
        back = mixed.take(pa.array(np.argsort(order)))
        assert back.drop_columns(["reasons"]).equals(straight.drop_columns(["reasons"]))


def test_the_time_may_be_text_or_an_instant_with_a_zone(scoring: SeriesScoring) -> None:
    rows = pump_table(40, seed=2)
    wanted = told(scoring.score(rows), "score")
    zone = rows["when"].cast(pa.timestamp("us", "UTC")).cast(pa.timestamp("us", "Asia/Tokyo"))
    text = pa.array([when.replace(tzinfo=dt.UTC).isoformat() for when in rows["when"].to_pylist()])
    for cells in (zone, text):
        assert told(scoring.score(rows.set_column(0, "when", cells)), "score") == wanted


@pytest.mark.parametrize("past_only", [True, False])
@pytest.mark.parametrize("n", [0, 1, WINDOW - 1])
def test_tables_shorter_than_a_window_have_no_score(scoring: SeriesScoring, n: int, past_only: bool) -> None:
    answers = scoring.score(pump_table(20, assets=("A",)).slice(0, n), past_only=past_only)
    assert told(answers, "reason") == ["filling"] * n
    assert told(answers, "alarm") == [False] * n
    assert answers.schema == scoring.schema(pump_table(1).schema)


def test_an_asset_not_met_before_is_scaled_as_all_together(scoring: SeriesScoring) -> None:
    rows = pump_table(40, seed=2, assets=("Z",))
    windows = windows_of(sequences_for(rows, scoring.manifest), WINDOW)
    found = scoring.session.run(replace(windows, asset=np.array([2])).encoded(), ["score"])["score"].astype(float)
    np.testing.assert_allclose(told(scoring.score(rows, past_only=True), "score")[WINDOW - 1 :], found, rtol=1e-5)


# --- by the past, by all windows


def test_by_all_windows_a_step_has_the_mean_of_what_they_say(scoring: SeriesScoring) -> None:
    rows = pump_table(40, seed=2, assets=("B",))
    windows = windows_of(sequences_for(rows, scoring.manifest), WINDOW, asset=np.array([1]))
    found = scoring.session.run(windows.encoded(), ["step_score", "step_contribution"])
    answers = scoring.score(rows, past_only=False, top=2)
    for step in (0, 7, 20, 39):
        covering = [(k, step - k) for k in range(len(windows)) if 0 <= step - k < WINDOW]
        mean = np.mean([found["step_score"][k, at] for k, at in covering])
        assert told(answers, "score")[step] == pytest.approx(mean, rel=1e-5)
        parts = np.mean([found["step_contribution"][k, at] for k, at in covering], axis=0)
        reasons = {reason["column"]: reason["contribution"] for reason in told(answers, "reasons")[step]}
        assert [reasons["flow"], reasons["heat"]] == pytest.approx(parts.tolist(), rel=1e-4)


def test_windows_may_lie_further_apart_and_still_cover_every_step(scoring: SeriesScoring) -> None:
    rows = pump_table(45, seed=2)
    near, far = scoring.score(rows, stride=1), scoring.score(rows, stride=WINDOW)
    assert told(far, "reason") == [None] * 90
    assert told(near, "score") != told(far, "score")


@pytest.mark.parametrize("stride", [0, -1, WINDOW + 1])
def test_strides_that_leave_steps_out_are_refused(scoring: SeriesScoring, stride: int) -> None:
    with pytest.raises(SettingError, match="--stride"):
        scoring.score(pump_table(40), stride=stride)


def test_a_stride_says_nothing_where_the_past_alone_judges(scoring: SeriesScoring) -> None:
    with pytest.raises(SettingError, match="leave it out with --past-only"):
        scoring.score(pump_table(40), stride=2, past_only=True)


def test_the_bundle_says_how_steps_are_judged_unless_the_caller_does(scoring: SeriesScoring, tmp_path: Path) -> None:
    facts = scoring.manifest.series
    assert facts is not None
    bundle = changed(pumps(), tmp_path, series=replace(facts, past_only=True))
    rows = pump_table(40, seed=2)
    assert SeriesScoring(bundle).score(rows).equals(scoring.score(rows, past_only=True))
    assert SeriesScoring(bundle).score(rows, past_only=False).equals(scoring.score(rows))


def test_answers_do_not_depend_on_how_windows_are_batched(scoring: SeriesScoring) -> None:
    rows = spoilt()
    wanted = {past_only: scoring.score(rows, past_only=past_only) for past_only in (True, False)}
    before = scoring.session.chunk_rows
    try:
        for size in (1, 7, 16):
            scoring.session.chunk_rows = size
            for past_only, answers in wanted.items():
                assert scoring.score(rows, past_only=past_only).equals(answers)
    finally:
        scoring.session.chunk_rows = before


# --- rates and tables


def test_another_alarm_rate_is_that_of_the_calibration_that_judges(scoring: SeriesScoring) -> None:
    rows = pump_table(80, seed=5)
    for past_only in (True, False):
        answers = scoring.score(rows, past_only=past_only, alarm_rate=0.3)
        wanted = [p is not None and p <= 0.3 for p in told(answers, "p_value")]
        assert told(answers, "alarm") == wanted
        assert any(wanted)


def test_a_rate_that_only_the_other_calibration_supports_is_refused(tmp_path: Path) -> None:
    facts = pumps().manifest.series
    assert facts is not None
    assert facts.batch is not None
    weak = replace(facts.batch, smallest_alarm_rate=0.2)
    scoring = SeriesScoring(changed(pumps(), tmp_path, series=replace(facts, batch=weak)))
    rows = pump_table(40)
    scoring.score(rows, past_only=True, alarm_rate=0.1)
    with pytest.raises(TooFewRowsError, match=r"alarm rate of 0\.1"):
        scoring.score(rows, past_only=False, alarm_rate=0.1)


def test_each_calibration_goes_by_its_own_numbers_of_the_groups(tmp_path: Path) -> None:
    """Newest steps have a table for B alone, whole series one for A alone: number 0 is another asset in each."""
    online, batch = tables("B", shift=0.0), tables("A", shift=0.4)
    scoring = SeriesScoring(regrouped(online, batch, tmp_path))
    rows = pump_table(60, seed=5, assets=("A", "B", "C"))
    for past_only, made, own in ((True, online, "B"), (False, batch, "A")):
        answers = scoring.score(rows, past_only=past_only)
        scored = [row for row in answers.to_pylist() if row["reason"] is None]
        for row in scored:
            assert row["pooled"] is (row["machine"] != own)
        score, error = (np.array([row[name] for row in scored]) for name in ("score", "reconstruction_error"))
        number = np.array([int(row["machine"] != own) for row in scored])
        wanted = made.tables.verdicts(score, error, 0.05, number)
        np.testing.assert_allclose([row["p_value"] for row in scored], wanted.p_value, rtol=1e-5)
        assert [row["alarm"] for row in scored] == wanted.alarm.tolist()


def test_a_stream_goes_by_the_tables_of_newest_steps(tmp_path: Path) -> None:
    bundle = regrouped(tables("B", shift=0.0), tables("A", shift=0.4), tmp_path)
    rows = pump_rows(40, seed=6)
    assert_same(streamed(rows, [len(rows)], bundle), expected(rows, bundle))


@pytest.mark.parametrize("past_only", [True, False])
def test_where_only_the_other_calibration_has_groups_all_are_pooled(past_only: bool, tmp_path: Path) -> None:
    made = [tables("B", shift=0.0), tables(None, shift=0.0)]
    online, batch = made[::-1] if past_only else made
    scoring = SeriesScoring(regrouped(online, batch, tmp_path))
    answers = scoring.score(pump_table(40), past_only=past_only)
    assert {row["pooled"] for row in answers.to_pylist() if row["reason"] is None} == {True}


# --- streams


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(1, 119), max_size=6), st.integers(0, 3))
def test_a_stream_answers_as_the_table_does_in_any_split_into_batches(cuts: list[int], seed: int) -> None:
    rows = pump_rows(60, seed=seed + 1, strange_from=90)
    if seed % 2:
        rows = [row for row in rows if row["i"] % 17 and row["i"] not in range(50, 58)]  # missing steps and a gap
        for number, row in enumerate(rows):
            row["i"] = number
    assert_same(streamed(rows, cuts), expected(rows))


def streamed(
    rows: Sequence[dict[str, Any]], cuts: Sequence[int], bundle: Bundle | None = None, *, with_terms: bool = True
) -> list[dict[str, Any]]:
    """Answers of a stream's lane to rows that come in several batches."""
    bundle = bundle or pumps()
    session = GraphSession(bundle.graph, bundle.manifest.width)
    member = row_member(bundle.manifest, session, bundle.folder / ROWS_GRAPH) if with_terms else None
    model = StreamModel(bundle.manifest, session, "1", member)
    lane = SeriesLane(model, make_codec("json", None), AnswerSettings(threads=1), clock=lambda: NOW_S)
    records = [Record(orjson.dumps(row), Origin("in", 0, i), stamp_s=NOW_S) for i, row in enumerate(rows)]
    found = []
    ends = sorted({min(cut, len(rows)) for cut in cuts} | {len(rows)})
    for start, end in zip([0, *ends], ends, strict=False):
        found += lane.answer(records[start:end], None, NOW_S).answers
    assert len(found) == len(rows)
    return [orjson.loads(answer.payload) for answer in found]


# --- bad input


def test_what_the_rows_lack_is_named(scoring: SeriesScoring) -> None:
    rows = pump_table(40)
    for name in ("when", "machine", "flow"):
        with pytest.raises(ColumnMismatchError, match=name):
            scoring.score(rows.drop_columns([name]))
    with pytest.raises(SchemaError, match="2 empty cells, first at row 1"):
        scoring.score(rows.set_column(1, "machine", pa.array([None, None, *["A"] * 78])))
    with pytest.raises(SettingError, match="--top is 1001"):
        scoring.score(rows, top=1001)


def test_detectors_of_rows_and_of_series_are_not_mistaken(fitted: Bundle) -> None:
    with pytest.raises(SettingError, match="scores tables, not series"):
        SeriesScoring(fitted)
    with pytest.raises(SettingError, match="scores series"):
        Scorer(pumps())


def test_a_bundle_without_the_calibration_of_whole_series_says_so(tmp_path: Path) -> None:
    shutil.copytree(pumps().folder, tmp_path / "copy")
    bundle = replace(pumps(), folder=tmp_path / "copy")
    (tmp_path / "copy" / "batch.onnx").unlink()
    with pytest.raises(BundleError, match=r"lacks batch\.onnx"):
        SeriesScoring(bundle).score(pump_table(40), past_only=False)


# --- bundles made of others


def changed(bundle: Bundle, folder: Path, files: dict[str, bytes] | None = None, **facts: Any) -> Bundle:
    """A bundle with another manifest."""
    kept = {name: (bundle.folder / name).read_bytes() for name in bundle.manifest.files}
    return write_bundle(folder / "changed", replace(bundle.manifest, **facts), {**kept, **(files or {})})


def tables(own: str | None, shift: float) -> Calibrated:
    """A calibration with a table for one asset, or for none; the other asset has rows too few for it."""
    draw = np.random.default_rng(3)
    other = "A" if own == "B" else "B"
    names = None if own is None else [own] * 200 + [other] * 10
    scores = np.concatenate([draw.normal(size=200) + shift, draw.normal(size=10) + 3.0])
    return calibrate(
        CalibrationRows(scores, draw.gamma(2.0, size=210), names), Budget(0.05), by=None if own is None else "machine"
    )


def regrouped(online: Calibrated, batch: Calibrated, folder: Path) -> Bundle:
    """The small detector with other calibrations."""
    bundle = pumps()
    assert bundle.manifest.series is not None
    files = {
        "scorer.onnx": recalibrated_graph(bundle.graph.read_bytes(), online.tables, 0.05),
        "batch.onnx": export_batch_calibration(batch.tables, 0.05),
    }
    facts = replace(bundle.manifest.series, batch=batch.facts)
    return changed(bundle, folder, files, calibration=online.facts, series=facts)
