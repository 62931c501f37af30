"""A small fit looked at: the odd stretch of its data is found, named and drawn; likewise in scored data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
import torch

from anomvae.calibration import calibrate
from anomvae.fitting.series import fit_series_bundle
from anomvae.fitting.series_findings import look_at_series
from anomvae.fitting.series_model import calibration_rows, fit_series_model
from anomvae.fitting.series_preparation import CALIBRATION, VALIDATION, prepare_series
from anomvae.fitting.settings import settings_from
from anomvae.report.series import render_series
from anomvae.report.series_scored import look_at_scored, render_scored_series
from anomvae.scoring.series import SeriesScoring

if TYPE_CHECKING:
    from anomvae.calibration import Calibrated
    from anomvae.fitting.series import SeriesFit
    from anomvae.fitting.series_model import FittedSeries
    from anomvae.fitting.series_preparation import PreparedSeries
    from anomvae.report.series_contents import ScoredSeries, SeriesReport

STEPS, ODD = 400, slice(352, 364)


def pumps(odd: slice = ODD, rise: float = 6.0, seed: int = 0) -> pa.Table:
    """Two pumps, a minute a row with one gap of two hours; of the first the pressure rises for a while."""
    rng = np.random.default_rng(seed)
    parts = []
    for place, name in enumerate(("north", "south")):
        seconds = 60.0 * np.arange(STEPS) + 7_200.0 * (np.arange(STEPS) >= STEPS // 2)
        phase = 2.0 * np.pi * np.arange(STEPS) / 24.0 + 0.05 * rng.normal(size=STEPS)
        flow = 10.0 * (place + 1) + np.sin(phase) + 0.1 * rng.normal(size=STEPS)
        pressure = 3.0 + np.cos(phase) + 0.1 * rng.normal(size=STEPS)
        if name == "north":
            pressure[odd] += rise
        times = pa.array((1e6 * (1.7e9 + seconds)).astype(np.int64), pa.timestamp("us"))
        cells = {"flow": flow, "pressure": pressure, "temperature": rng.normal(20.0, 1.0, STEPS)}
        parts.append(pa.table({"when": times, "pump": [name] * STEPS, **cells}))
    return pa.concat_tables(parts)


@dataclass(frozen=True)
class Looked:
    prepared: PreparedSeries
    fitted: FittedSeries
    calibrated: tuple[Calibrated, Calibrated]
    finished: SeriesFit
    contents: SeriesReport


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> Looked:
    overrides = {"window": 16, "time": "when", "by": "pump", "alarm_rate": 0.1, "training": {"max_steps": 30}}
    settings = settings_from({}, overrides)
    finished = fit_series_bundle(pumps(), settings, tmp_path_factory.mktemp("fit") / "bundle")
    prepared = prepare_series(pumps(), settings)
    fitted = fit_series_model(prepared, settings, torch.device("cpu"))
    online, batch = (
        calibrate(rows, settings.budget, decision=settings.decision, by=settings.by)
        for rows in calibration_rows(fitted, prepared, settings)
    )
    manifest, record = finished.bundle.manifest, finished.record
    contents = look_at_series(manifest, record, prepared, fitted, (online, batch), finished.warnings)
    return Looked(prepared, fitted, (online, batch), finished, contents)


@pytest.fixture(scope="module", params=["by all windows", "by the past"])
def scored(request: pytest.FixtureRequest, looked: Looked) -> ScoredSeries:
    scoring = SeriesScoring(looked.finished.bundle)
    rows = pumps(slice(100, 112), rise=60.0, seed=1).take(pa.array(np.random.default_rng(2).permutation(2 * STEPS)))
    past_only = request.param == "by the past"
    answers = scoring.score(rows, past_only=past_only)
    truth = np.zeros(2 * STEPS, dtype=np.bool_)
    return look_at_scored(scoring, rows, answers, name="march", past_only=past_only, truth=truth)


def test_the_odd_stretch_of_the_data_is_the_strangest(looked: Looked) -> None:
    worst = looked.contents.stretches[0]
    assert worst.asset == "north"
    assert ODD.start <= worst.row[worst.peak] - 1 < ODD.stop + 8
    card = render_series(looked.contents).partition('<p class="headline">')[2].partition("</p>")[0]
    assert "Mostly pressure" in card
    assert "above what was expected" in card


def test_stretches_show_held_out_steps_alone(looked: Looked) -> None:
    sequences, part = looked.prepared.sequences, looked.prepared.part
    for stretch in looked.contents.stretches:
        steps = sequences.step[stretch.row[stretch.row > 0] - 1]
        assert set(part[steps]) <= {VALIDATION, CALIBRATION}
        assert np.array_equal(sequences.values[steps], stretch.observed[stretch.row > 0].astype(np.float32))


def test_what_was_expected_lies_near_what_was_observed_where_nothing_is_odd(looked: Looked) -> None:
    quiet = [stretch for stretch in looked.contents.stretches if not stretch.alarm.any()]
    assert quiet
    for stretch in quiet:
        assert np.isfinite(stretch.expected).all()
        assert (stretch.deviation > 0).all()
        assert np.nanmedian(np.abs(stretch.observed - stretch.expected) / stretch.deviation) < 3.0


def test_verdicts_of_calibration_steps_alarm_about_as_stated(looked: Looked) -> None:
    p = looked.contents.calibration.p_value
    assert len(p) == len(looked.prepared.steps(CALIBRATION))
    assert float((p <= 0.1 + 1e-6).mean()) <= 0.1 + 1.0 / 16.0


def test_alarms_lie_above_the_threshold_that_is_drawn(looked: Looked) -> None:
    for trace in looked.contents.traces:
        known = np.isfinite(trace.score)
        assert np.array_equal(trace.score[known] > trace.threshold * (1 + 1e-6), trace.alarm[known])


def test_gap_and_assets_are_told_of(looked: Looked) -> None:
    data = render_series(looked.contents).partition('<section id="data"')[2]
    assert "jumps ahead" in data
    assert "2 assets apart" in data


def test_the_odd_stretch_of_scored_rows_in_any_order_is_found_by_its_rows(scored: ScoredSeries) -> None:
    order = np.random.default_rng(2).permutation(2 * STEPS)
    worst = scored.stretches[0]
    assert worst.asset == "north"
    assert 100 <= order[worst.row[worst.peak] - 1] < 120
    assert max(scored.runs, key=lambda run: run.peak).channels[0] == "pressure"
    assert scored.shares[0].channel == "pressure"


def test_the_page_of_scored_rows_counts_alarms_and_rows_without_a_score(scored: ScoredSeries) -> None:
    html = render_scored_series(scored)
    text = re.sub(r"<[^>]+>", "", html.partition("<body>")[2])
    assert f"{scored.alarms:,} alarm" in text
    assert ("filling" in text) == scored.past_only
    assert sum(run.alarms for run in scored.runs) == scored.alarms
    assert html.endswith("</html>\n")
    assert "<script" not in html
    assert "draw values of the data" in text


def test_at_another_rate_no_threshold_is_drawn_that_alarms_contradict(looked: Looked) -> None:
    scoring = SeriesScoring(looked.finished.bundle)
    rows = pumps(slice(100, 112), rise=60.0, seed=1)
    answers = scoring.score(rows, alarm_rate=0.3)
    contents = look_at_scored(scoring, rows, answers, alarm_rate=0.3)
    assert contents.alarm_rate == 0.3
    for trace in contents.traces:
        known = np.isfinite(trace.score) & np.isfinite(trace.threshold)
        assert known.any()
        assert np.array_equal(trace.score[known] > trace.threshold, trace.alarm[known])
