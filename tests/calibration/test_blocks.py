"""Rows in order of time: what they are worth, the p-values they give, what is refused, and intervals of alarm rates."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter
from scipy.stats import binom, norm

from anomvae.bundle import Calibration
from anomvae.bundle.promise import DECISIONS
from anomvae.calibration import (
    Budget,
    CalibrationRows,
    Dependence,
    autocorrelation_time,
    calibrate,
    conditional_p_values,
    dependence,
    rate_interval,
)
from anomvae.calibration.blocks import (
    block_p_values,
    conditional_block_p_values,
    equivalent_scores,
)
from anomvae.calibration.tables import conformal_ranks
from anomvae.calibration.tail import MIN_ROWS, SMALLEST_SHARE
from anomvae.errors import SettingError, TooFewRowsError

Floats = npt.NDArray[np.float64]
worths = st.integers(1, 400).flatmap(lambda m: st.tuples(st.just(m), st.integers(1, m)))


def autoregressive(m: int, rho: float, seed: int = 0) -> Floats:
    """Standard normal, stationary; its autocorrelation time is (1 + rho) / (1 - rho)."""
    noise = np.random.default_rng([m, seed]).normal(size=m)
    noise[0] /= np.sqrt(1 - rho**2)
    found: Floats = lfilter([1.0], [1.0, -rho], noise) * np.sqrt(1 - rho**2)
    return found


def one_segment(m: int) -> npt.NDArray[np.int64]:
    return np.zeros(m, dtype=np.int64)


def series_rows(m: int, rho: float, seed: int = 0, **more: Any) -> CalibrationRows:
    score = autoregressive(m, rho, seed)
    return CalibrationRows(score, 0.3 * score + autoregressive(m, rho, seed + 1000), segment=one_segment(m), **more)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, 0.98])
def test_the_autocorrelation_time_is_that_of_the_process(rho: float) -> None:
    found = autocorrelation_time(autoregressive(100_000, rho), one_segment(100_000))
    assert found == pytest.approx((1 + rho) / (1 - rho), rel=0.2)


def test_the_scatter_of_a_mean_is_that_of_as_many_independent_rows() -> None:
    runs = np.stack([autoregressive(2000, 0.8, seed) for seed in range(300)])
    times = [autocorrelation_time(run, one_segment(2000)) for run in runs]
    assert runs.mean(axis=1).var() * 2000 == pytest.approx(np.mean(times), rel=0.25)


@pytest.mark.parametrize("values", [np.ones(50), np.tile([1.0, -1.0], 40), np.array([3.0])])
def test_what_does_not_vary_or_swings_back_and_forth_counts_in_full(values: Floats) -> None:
    assert autocorrelation_time(values, one_segment(len(values))) == 1.0


def test_no_pair_of_rows_crosses_a_segment() -> None:
    values = autoregressive(3000, 0.9)
    assert autocorrelation_time(values, np.arange(3000)) == 1.0
    thirds = np.repeat([2, 0, 1], 1000)
    expected = autocorrelation_time(values, thirds)
    interleaved = np.arange(3000).reshape(3, 1000).T.ravel()
    assert autocorrelation_time(values[interleaved], thirds[interleaved]) == pytest.approx(expected)
    assert expected != autocorrelation_time(values, one_segment(3000))


def test_segments_that_differ_in_level_are_dependence_unless_their_shares_are_fixed() -> None:
    draw = np.random.default_rng(0)
    segment = np.repeat(np.arange(40), 100)
    values = draw.normal(size=4000) + 3 * draw.normal(size=40)[segment]
    assert autocorrelation_time(values, segment) == pytest.approx(1 + 99 * 0.9, rel=0.25)
    assert autocorrelation_time(values, segment, stratum=segment) < 1.5


def test_alarms_in_clusters_show_though_the_scores_do_not() -> None:
    draw = np.random.default_rng(0)
    scores = draw.normal(size=20_000)
    for begin in draw.integers(0, 19_990, 20):
        scores[begin : begin + 10] += 6.0
    found = dependence([scores], one_segment(20_000), alarm_rate=0.01)
    assert found.time == pytest.approx(10, rel=0.3)
    assert dependence([scores], one_segment(20_000), alarm_rate=0.5).time < 2


def test_the_most_dependent_score_decides_whatever_its_units() -> None:
    calm, slow = autoregressive(5000, 0.0), autoregressive(5000, 0.9, 1)
    alone = dependence([slow], one_segment(5000), 0.05)
    assert dependence([calm, slow], one_segment(5000), 0.05) == alone
    assert dependence([np.exp(slow)], one_segment(5000), 0.05) == alone
    spoilt = np.where(slow > 2.5, np.nan, slow)
    assert dependence([spoilt], one_segment(5000), 0.05).time == pytest.approx(alone.time, rel=0.1)


def test_segments_that_do_not_go_with_the_rows_are_refused() -> None:
    with pytest.raises(SettingError, match="4 segment numbers do not go with the scores"):
        dependence([np.zeros(5)], one_segment(4), 0.1)


@given(worths)
def test_p_values_rise_from_that_of_the_effective_rows_and_are_never_below_the_conformal_ones(
    worth: tuple[int, int],
) -> None:
    m, n = worth
    found = block_p_values(m, n)
    assert found.shape == (m + 1,)
    assert found[0] == pytest.approx(1 / (n + 1))
    assert found[-1] == 1.0
    assert (np.diff(found) >= 0).all()
    assert (found >= conformal_ranks(m) - 1e-12).all()
    assert (found <= np.maximum((1 + n * np.arange(m + 1) / m) / (n + 1), 1 / (n + 1)) + 1e-12)[:-1].all()
    assert block_p_values(m, m) == pytest.approx(conformal_ranks(m))


@settings(deadline=None, max_examples=30)
@given(worths)
def test_with_confidence_they_are_those_of_the_effective_rows_at_the_same_shares(worth: tuple[int, int]) -> None:
    m, n = worth
    found, bounds = conditional_block_p_values(m, n, 0.9), conditional_p_values(n, 0.9)
    assert (np.diff(found) >= 0).all()
    assert (found[0], found[-1]) == (bounds[0], 1.0)
    assert (found >= block_p_values(m, n) - 1e-12).all()
    assert conditional_block_p_values(n, n, 0.9) == pytest.approx(bounds)


def test_equivalent_scores_have_the_distribution_of_the_rows() -> None:
    scores = autoregressive(1001, 0.5)
    few = equivalent_scores(scores, 77)
    assert np.isin(few, scores).all()
    places = np.searchsorted(np.sort(scores), few)
    assert np.abs(places / 1001 - (np.arange(77) + 0.5) / 77).max() <= 1 / 1001
    assert (equivalent_scores(scores, 1001) == np.sort(scores)).all()
    scores[3] = np.nan
    assert np.isnan(equivalent_scores(scores, 77)[-1])


def mean_rate(rho: float, m: int, rate: float, *, in_time: bool, runs: int = 120) -> float:
    """The share of normal rows beyond the threshold, known here, on average over calibrations, over the stated one."""
    found = []
    for seed in range(runs):
        rows = series_rows(m, rho, seed)
        rows = rows if in_time else dataclasses.replace(rows, segment=None)
        found.append(norm.sf(calibrate(rows, Budget.of(rate)).facts.score_threshold) / rate)
    return float(np.mean(found))


def test_the_alarm_rate_holds_where_neighbours_resemble_one_another() -> None:
    assert mean_rate(0.9, 1000, 0.05, in_time=False) > 1.05
    assert 0.8 < mean_rate(0.9, 1000, 0.05, in_time=True) < 1.02


def test_the_alarm_rate_is_hardly_lower_where_they_do_not() -> None:
    assert 0.9 < mean_rate(0.0, 1000, 0.05, in_time=True, runs=60) < 1.03


def test_the_confidence_covers_dependent_rows_too() -> None:
    above: dict[bool, list[bool]] = {True: [], False: []}
    for seed in range(100):
        rows = series_rows(2000, 0.9, seed)
        for in_time, found in above.items():
            asked = rows if in_time else dataclasses.replace(rows, segment=None)
            facts = calibrate(asked, Budget.of(0.1, confidence=0.9)).facts
            found.append(bool(norm.sf(facts.score_threshold) > 0.1))
    assert np.mean(above[False]) > 0.2
    assert np.mean(above[True]) <= 0.1


@pytest.mark.parametrize("decision", DECISIONS)
def test_the_manifest_says_what_the_rows_are_worth_and_what_that_supports(decision: Any) -> None:
    rows = series_rows(3000, 0.8)
    found = calibrate(rows, Budget.of(0.05), decision=decision)
    facts, seen = found.facts, dependence([rows.score, rows.reconstruction], one_segment(3000), 0.05)
    assert (facts.rows, facts.effective_rows, facts.block) == (3000, seen.effective_rows, seen.block)
    assert 200 < seen.effective_rows < 600
    assert facts.smallest_alarm_rate == pytest.approx(1 / (seen.effective_rows + 1))
    strange = np.array([1e9])
    for factor, alarms in ((1.0 + 1e-5, True), (0.99, False)):
        rate = facts.smallest_alarm_rate * factor
        assert found.tables.verdicts(strange, strange, rate).alarm.tolist() == [alarms]
    verdicts = found.tables.verdicts(rows.score, rows.reconstruction, 0.05)
    assert 0.03 < verdicts.alarm.mean() <= 0.05
    assert Calibration.from_raw(json.loads(json.dumps(dataclasses.asdict(facts)))) == facts


def test_a_manifest_that_knows_of_no_effective_rows_is_read() -> None:
    raw = dataclasses.asdict(calibrate(series_rows(200, 0.0), Budget.of(0.2)).facts)
    del raw["effective_rows"], raw["block"]
    assert Calibration.from_raw(raw).effective_rows is None


def test_a_budget_beyond_the_effective_rows_is_met_as_well_as_may_be_and_said() -> None:
    rows = series_rows(1000, 0.9)
    found = calibrate(rows, Budget.of(0.01))
    assert (found.facts.effective_rows or 0) < 99 <= found.facts.rows
    assert found.facts.smallest_alarm_rate <= 0.01
    alarms = found.tables.verdicts(rows.score.astype(np.float32), rows.reconstruction.astype(np.float32), 0.01).alarm
    assert 0 < alarms.mean() < 0.01  # the rows at hand, of which the strangest set the threshold


def test_too_few_rows_for_a_budget_are_refused_however_they_depend() -> None:
    with pytest.raises(TooFewRowsError, match="98 calibration rows in order of time are worth"):
        calibrate(series_rows(98, 0.9), Budget.of(0.01))


def test_a_certainty_beyond_the_effective_rows_is_refused_with_the_rows_it_takes() -> None:
    rows, budget = series_rows(1000, 0.9), Budget.of(0.01, confidence=0.9)
    found = dependence([rows.score, rows.reconstruction], one_segment(1000), 0.01)
    needed = int(np.ceil(budget.rows_needed * found.time))
    with pytest.raises(TooFewRowsError) as caught:
        calibrate(rows, budget)
    assert caught.value.rows_needed == needed
    said = str(caught.value)
    assert f"1,000 calibration rows in order of time are worth {found.effective_rows:,} independent ones" in said
    assert f"it takes about {needed:,} such rows, {needed - 1000:,} more; bring more normal rows" in said
    calibrate(dataclasses.replace(rows, segment=None), Budget.of(0.01))


def test_a_group_has_a_table_of_its_own_where_its_effective_rows_support_the_rate() -> None:
    draw = np.random.default_rng(0)
    score = np.concatenate([autoregressive(1500, 0.95), draw.normal(size=1500) + 50.0])
    group = ["slow"] * 1500 + ["fast"] * 1500
    rows = CalibrationRows(score, score, group, segment=np.repeat([0, 1], 1500))
    facts = calibrate(rows, Budget.of(0.01), by="asset").facts
    assert [(one.name, one.rows) for one in facts.groups] == [("fast", 1500)]
    assert facts.groups_pooled == 1
    fast = dependence([score[1500:]], one_segment(1500), 0.01)
    assert (facts.groups[0].effective_rows, facts.groups[0].block) == (fast.effective_rows, fast.block)
    plain = calibrate(dataclasses.replace(rows, segment=None), Budget.of(0.01), by="asset").facts
    assert [(one.name, one.effective_rows) for one in plain.groups] == [("slow", None), ("fast", None)]


def test_a_tail_reaches_as_far_beyond_the_effective_rows_as_beyond_independent_ones() -> None:
    rows = series_rows(3000, 0.8)
    found = calibrate(rows, Budget.of(0.001), tail=True)
    worth = found.facts.effective_rows
    assert worth is not None
    assert found.facts.smallest_alarm_rate == pytest.approx(SMALLEST_SHARE / (worth + 1))
    assert found.tails is not None
    assert found.tails[0].rows == worth
    assert found.facts.score_threshold >= rows.score.max()
    strange = rows.score.max() + np.array([1.0, 2.0, 3.0])
    verdicts = found.tables.verdicts(strange, strange, 0.001)
    assert (verdicts.p_value <= np.float32(1 / (worth + 1))).all()
    assert (np.diff(verdicts.p_value) < 0).all()
    assert verdicts.tail.all()


def test_a_tail_takes_effective_rows_too() -> None:
    rows = series_rows(200, 0.9)
    worth = dependence([rows.score, rows.reconstruction], one_segment(200), 0.2).effective_rows
    assert worth < MIN_ROWS
    with pytest.raises(TooFewRowsError, match=rf"worth {worth} independent ones .* too few to fit a tail to"):
        calibrate(rows, Budget.of(0.2), tail=True)


def interval_holds(rho: float, runs: int = 150, m: int = 4000, rate: float = 0.05) -> tuple[float, float]:
    """How often the 95 % interval holds the true rate; the same for an interval that takes rows as independent."""
    threshold, held, naive = norm.isf(rate), [], []
    for seed in range(runs):
        scores = autoregressive(m, rho, seed)
        found = rate_interval(scores, one_segment(m), threshold)
        held.append(found.low <= rate <= found.high)
        low, high = binom.ppf([0.025, 0.975], m, rate) / m
        naive.append(low <= found.rate <= high)
    return float(np.mean(held)), float(np.mean(naive))


def test_the_interval_of_a_rate_holds_it_where_alarms_come_in_clusters() -> None:
    held, naive = interval_holds(0.95)
    assert held >= 0.9
    assert naive < 0.8


def test_and_where_they_do_not() -> None:
    assert interval_holds(0.0)[0] >= 0.92


def test_without_an_alarm_the_interval_is_open_as_far_as_the_effective_rows_leave_it() -> None:
    scores = autoregressive(2000, 0.9)
    found = rate_interval(scores, one_segment(2000), threshold=99.0)
    assert (found.rate, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(1 - 0.025 ** (1 / found.effective_rows))
    assert found.effective_rows < 400


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 60), st.floats(-2.0, 2.0))
def test_an_interval_holds_the_rate_that_was_found(sizes: list[int], block: int, threshold: float) -> None:
    segments = np.repeat(np.arange(len(sizes)), sizes)
    scores = autoregressive(len(segments), 0.5)
    found = rate_interval(scores, segments, threshold, block=block)
    assert 0.0 <= found.low <= found.rate <= found.high <= 1.0
    assert found.low < found.high
    assert found.rate == np.mean(scores > threshold)
    wider = rate_interval(scores, segments, threshold, confidence=0.99, block=block)
    assert wider.low <= found.low
    assert found.high <= wider.high


def test_what_cannot_be_scored_alarms() -> None:
    assert rate_interval(np.array([np.nan, 0.0, 0.0, 0.0]), one_segment(4), 1.0).rate == 0.25


def test_intervals_without_rows_confidence_or_a_block_are_refused() -> None:
    rows = np.zeros(10), one_segment(10), 1.0
    with pytest.raises(TooFewRowsError, match="no rows"):
        rate_interval(np.zeros(0), one_segment(0), 1.0)
    with pytest.raises(SettingError, match="the confidence is 1"):
        rate_interval(*rows, confidence=1.0)
    with pytest.raises(SettingError, match="the block is 0"):
        rate_interval(*rows, block=0)


def test_blocks_grow_with_rows_and_with_dependence() -> None:
    assert Dependence(10_000, 1.0).block == 1
    assert Dependence(1000, 5.0).block < Dependence(8000, 5.0).block < Dependence(8000, 50.0).block
    assert Dependence(40, 40.0).block <= 40
