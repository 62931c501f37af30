"""Which stretches are shown, how times and shades are drawn, and what rates are told."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomvae.bundle import Column
from anomvae.data.series import read_sequences
from anomvae.report.series_axis import Clock, TimeAxis
from anomvae.report.series_contents import SCORED, CheckedSteps, JudgedSteps
from anomvae.report.series_drawing import LEVELS, heat_levels
from anomvae.report.series_look import Explainer, alarm_runs, asset_traces, strange_stretches
from anomvae.report.series_rates import found_rate

WINDOW = 8


def judged_of(lengths: list[int], scores: np.ndarray, threshold: float = 2.0) -> JudgedSteps:
    """One asset for each length, scored as told."""
    rows = pa.table(
        {
            "t": np.concatenate([np.arange(float(n)) for n in lengths]),
            "by": np.repeat([f"a{place}" for place in range(len(lengths))], lengths),
            "x": scores,
        }
    )
    columns = [Column("x", "numeric", "double")]
    sequences = read_sequences(rows, time="t", columns=columns, window=WINDOW, asset="by")
    score = scores[sequences.row]
    alarm = score > threshold
    limits = np.full(len(lengths), threshold)
    part = np.zeros(len(score), dtype=np.int8)
    return JudgedSteps(sequences, score, 1.0 / (1.0 + np.abs(score)), alarm, limits, part, (SCORED,))


def silent(windows: object, names: object) -> dict[str, np.ndarray]:
    k = len(windows)  # type: ignore[arg-type]
    steps = np.zeros((k, WINDOW, 1))
    every = {"step_contribution": steps, "step_expected": steps, "step_deviation": steps + 1.0}
    every |= {"contribution": steps[:, -1], "expected": steps[:, -1]}
    return {name: every[name] for name in names}  # type: ignore[attr-defined]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(WINDOW, 300), min_size=1, max_size=9), st.integers(0, 2**32 - 1))
def test_stretches_never_overlap_hold_the_worst_step_and_take_another_asset_while_there_is_one(
    lengths: list[int], seed: int
) -> None:
    judged = judged_of(lengths, np.random.default_rng(seed).standard_t(2, sum(lengths)))
    found = strange_stretches(judged, Explainer(silent, WINDOW), np.zeros(1))
    rows = np.concatenate([stretch.row for stretch in found])
    assert len(rows) == len(set(rows.tolist()))
    assert int(np.argmax(judged.score)) + 1 in rows
    assert len({stretch.asset for stretch in found}) == min(6, len(lengths))
    for stretch in found:
        assert stretch.score[stretch.peak] == np.max(stretch.score[[stretch.peak]])
        assert stretch.alarm[stretch.peak] == (stretch.score[stretch.peak] > 2.0)


def test_a_stretch_leaves_the_assets_beside_it_alone() -> None:
    """Assets of few steps lie side by side: what lies near a stretch of one is not near in time."""
    scores = np.zeros(3 * WINDOW)
    scores[[2, WINDOW + 2, 3 * WINDOW - 2]] = (9.0, 4.0, 8.0)
    judged = judged_of([WINDOW] * 3, scores)
    found = strange_stretches(judged, Explainer(silent, WINDOW), np.zeros(1))
    assert {stretch.asset for stretch in found} == {"a0", "a1", "a2"}


def test_a_run_of_alarms_longer_than_two_windows_is_shown_from_before_its_beginning_to_after_its_end() -> None:
    scores = np.zeros(400)
    scores[150:240] = 5.0 + np.arange(90) / 100.0
    (first, *_) = strange_stretches(judged_of([400], scores), Explainer(silent, WINDOW), np.zeros(1))
    assert first.row[0] <= 150
    assert first.row[-1] > 240
    assert first.span_s == (150.0, 239.0)


def test_runs_of_alarms_hold_every_alarm_once_and_bridge_short_pauses_only() -> None:
    scores = np.zeros(120)
    scores[[10, 12, 18, 40, 41, 100]] = 3.0
    scores[18] = 9.0
    runs, more = alarm_runs(judged_of([60, 60], scores), Explainer(silent, WINDOW), np.zeros(1), most=10)
    assert more == 0
    assert sorted((run.asset, run.first, run.last, run.alarms) for run in runs) == [
        ("a0", 11, 19, 3),
        ("a0", 41, 42, 2),
        ("a1", 101, 101, 1),
    ]
    assert max(run.peak for run in runs) == 9.0


def test_the_strangest_runs_are_told_and_the_others_counted() -> None:
    scores = np.zeros(200)
    scores[[20, 60, 100, 140]] = [3.0, 9.0, 4.0, 8.0]
    runs, more = alarm_runs(judged_of([200], scores), Explainer(silent, WINDOW), np.zeros(1), most=2)
    assert [run.first for run in runs] == [61, 141]
    assert more == 2


def test_assets_with_the_worst_step_are_drawn_and_the_others_counted() -> None:
    scores = np.zeros(15 * 20)
    scores[20 * np.arange(15) + 10] = np.arange(15.0)
    traces, more = asset_traces(judged_of([20] * 15, scores))
    assert [trace.asset for trace in traces] == [f"a{place}" for place in range(14, 2, -1)]
    assert more == 3


def test_past_only_explains_a_step_by_the_window_that_ends_with_it() -> None:
    rows = pa.table({"t": np.arange(40.0), "x": np.arange(40.0)})
    sequences = read_sequences(rows, time="t", columns=[Column("x", "numeric", "double")], window=WINDOW)

    def newest(windows: object, names: object) -> dict[str, np.ndarray]:
        series = windows.encoded().series  # type: ignore[attr-defined]
        every = {"contribution": series[:, -1], "expected": series[:, -2], "step_deviation": series}
        return {name: every[name] for name in names}  # type: ignore[attr-defined]

    contribution, expected, deviation = Explainer(newest, WINDOW, past_only=True).explain(sequences, 3, 20)
    steps = np.arange(3.0, 21.0)
    reached = steps >= WINDOW - 1
    assert np.array_equal(contribution[reached, 0], steps[reached])
    assert np.array_equal(expected[reached, 0], steps[reached] - 1)
    assert np.array_equal(deviation[reached, 0], steps[reached])
    assert np.isnan(contribution[~reached]).all()


def test_a_step_is_explained_by_the_mean_of_all_windows_that_cover_it() -> None:
    rows = pa.table({"t": np.arange(40.0), "x": np.arange(40.0)})
    sequences = read_sequences(rows, time="t", columns=[Column("x", "numeric", "double")], window=WINDOW)

    def by_place(windows: object, names: object) -> dict[str, np.ndarray]:
        places = np.broadcast_to(np.arange(WINDOW)[:, None], (len(windows), WINDOW, 1)).astype(float)  # type: ignore[arg-type]
        return dict.fromkeys(names, places)  # type: ignore[call-overload, no-any-return]

    contribution, *_ = Explainer(by_place, WINDOW).explain(sequences, 0, 39)
    assert contribution[0, 0] == 0.0  # covered by the first window alone
    assert contribution[39, 0] == WINDOW - 1
    assert np.allclose(contribution[WINDOW:-WINDOW, 0], (WINDOW - 1) / 2)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30))
def test_shades_follow_what_channels_add_and_the_strongest_is_darkest(values: list[float]) -> None:
    levels = heat_levels(np.array(values)[:, None])[:, 0]
    assert levels.min() >= 0
    assert levels.max() == (LEVELS if max(values) > 0 else 0)
    order = np.argsort(values)
    assert (np.diff(levels[order]) >= 0).all()


@given(
    st.lists(st.tuples(st.integers(1, 200), st.floats(1, 1e6)), min_size=1, max_size=8),
    st.sampled_from([0.01, 1.0, 60.0, 3600.0, 86_400.0]),
    st.booleans(),
)
@settings(deadline=None)
def test_steps_stand_from_left_to_right_and_ticks_have_room_whatever_the_gaps(
    pieces: list[tuple[int, float]], step_s: float, instants: bool
) -> None:
    now = 1.6e9
    times: list[npt.NDArray[np.floating]] = []
    sequence: list[int] = []
    for number, (steps, gap) in enumerate(pieces):
        times.append(now + step_s * np.arange(steps, dtype=np.float64))
        sequence += [number] * steps
        now = float(times[-1][-1]) + step_s * (2.0 + gap)
    axis = TimeAxis(np.concatenate(times).astype(np.float64), np.array(sequence), 100.0, 500.0)
    assert (np.diff(axis.x) > 0).all()
    assert axis.left[0] == pytest.approx(100.0)
    assert axis.right[-1] == pytest.approx(500.0)
    places = [x for x, _ in axis.ticks(Clock(instants=instants), most=5, room=78.0)]
    assert places
    assert all(100.0 <= x <= 500.0 for x in places)
    assert all(b - a >= 78.0 - 1e-6 for a, b in itertools.pairwise(places))


def test_ticks_stand_at_the_times_they_name() -> None:
    times = np.linspace(1.6e9, 1.6e9 + 3_590.0, 360)
    axis = TimeAxis(times, np.zeros(360, dtype=int), 0.0, 720.0)
    for x, text in axis.ticks(Clock(instants=True)):
        at = float(np.interp(x, axis.x, times))
        assert np.datetime64(round(at), "s").item().strftime("%H:%M") == text
        assert round(at) % 300 == 0


@pytest.mark.parametrize(
    ("time_type", "step_s", "time_s", "said"),
    [
        ("timestamp[us]", 1.0, 1.6e9, "13 September 2020, 12:26:40"),
        ("timestamp[us, tz=Europe/Berlin]", 1.0, 1.6e9, "13 September 2020, 12:26:40 UTC"),
        ("timestamp[us]", 0.01, 1.6e9 + 0.25, "13 September 2020, 12:26:40.25"),
        ("string", 1.0, 1.6e9, "13 September 2020, 12:26:40"),
        ("string", 1.0, 12.0, "12"),
        ("int64", 1.0, 1.6e9, "1.6\N{MULTIPLICATION SIGN}10\N{SUPERSCRIPT NINE}"),
    ],
)
def test_times_are_said_as_what_the_column_holds(time_type: str, step_s: float, time_s: float, said: str) -> None:
    assert Clock.of(time_type, step_s, np.array([time_s])).say(time_s) == said


@given(st.lists(st.integers(1, 100), min_size=8, max_size=200), st.sampled_from([0.01, 0.05, 0.1, 0.5]))
@settings(deadline=None, max_examples=40)
def test_the_rate_found_is_the_share_of_p_values_at_or_below_the_rate(hundredths: list[int], rate: float) -> None:
    p = np.array(hundredths, dtype=np.float32).astype(np.float64) / 100.0
    p = p.astype(np.float32).astype(np.float64)
    steps = CheckedSteps("", p, np.zeros(len(p), dtype=np.int64), np.zeros(len(p), dtype=np.int64))
    found = found_rate(steps, rate)
    assert found is not None
    assert found.rate == pytest.approx(np.mean(np.array(hundredths) <= round(rate * 100)))
    assert found.low <= found.rate <= found.high


def test_no_rate_is_told_of_a_handful_of_steps() -> None:
    few = np.ones(3, dtype=np.int64)
    assert found_rate(CheckedSteps("", few.astype(float), few, few), 0.1) is None
