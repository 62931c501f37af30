"""Calibration-conditional p-values: the promise by simulation, against the Beta law, and the rows that a rate takes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from anomvae.calibration import conditional_p_values, rows_needed_for
from anomvae.calibration.conditional import FEW, MOST_RATE
from anomvae.errors import SettingError

Shares = npt.NDArray[np.float64]


def true_shares(m: int, counts: npt.NDArray[np.int64], draws: int) -> Shares:
    """Share of all rows beyond the (a + 1)-th largest of m calibration scores, for the counts a, by sorting; `(draws, a)`."""
    draw = np.random.default_rng(m)
    found = np.empty((draws, len(counts)))
    for number in range(draws):
        found[number] = np.sort(draw.random(m))[counts]
    return found


def broken(m: int, confidence: float, draws: int) -> float:
    """How often some rate up to `MOST_RATE` is not kept: every count is looked at, not a grid."""
    table = conditional_p_values(m, confidence)
    promised = np.flatnonzero(table <= MOST_RATE)
    return float((true_shares(m, promised, draws) > table[promised]).any(axis=1).mean())


@pytest.mark.parametrize(("m", "draws"), [(60, 20_000), (300, 10_000), (5000, 5_000)])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_all_rates_are_kept_at_once_with_the_stated_confidence(m: int, draws: int, confidence: float) -> None:
    missed, error = broken(m, confidence, draws), math.sqrt(confidence * (1.0 - confidence) / draws)
    assert missed <= 1.0 - confidence + 3 * error
    if np.count_nonzero(conditional_p_values(m, confidence) <= MOST_RATE) > 1:  # neither is it kept needlessly often
        assert missed >= 0.6 * (1.0 - confidence) - 3 * error


def test_plain_p_values_would_break_the_promise() -> None:
    counts = np.arange(29)
    over = (true_shares(300, counts, 2_000) > (counts + 1) / 301).any(axis=1).mean()
    assert over > 0.5


@pytest.mark.parametrize("m", [1, 7, 60, 300, 5000])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_each_rate_on_its_own_is_kept_with_at_least_the_stated_confidence(m: int, confidence: float) -> None:
    table = conditional_p_values(m, confidence)
    counts = np.unique(np.geomspace(1, m, 40).astype(int)) - 1
    kept = beta.cdf(table[counts], counts + 1, m - counts)  # also of rates beyond MOST_RATE
    assert (kept >= confidence - 2e-3).all()


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3000), st.sampled_from([0.5, 0.8, 0.95, 0.999]))
def test_entries_rise_from_above_zero_to_one_and_never_undercut_the_plain_p_value(m: int, confidence: float) -> None:
    table = conditional_p_values(m, confidence)
    assert table.shape == (m + 1,)
    assert table.dtype == np.float64
    assert table[0] > 0
    assert table[-1] == 1.0
    assert (np.diff(table) >= 0).all()
    assert (table >= np.arange(1, m + 2) / (m + 1) - 1e-15).all()


def test_more_confidence_never_lowers_a_p_value() -> None:
    tables = [conditional_p_values(700, confidence) for confidence in (0.5, 0.7, 0.9, 0.95, 0.99, 0.999)]
    assert all((low <= high).all() for low, high in itertools.pairwise(tables))


def test_discrete_scores_alarm_less_often_than_stated() -> None:
    draw, m, values = np.random.default_rng(4), 300, 40
    table = conditional_p_values(m, 0.9)
    missed = 0
    for _ in range(2_000):
        calibration = np.sort(draw.geometric(0.1, m).clip(1, values))
        scores = np.arange(1, values + 1)
        p = table[m - np.searchsorted(calibration, scores, side="left")]
        beyond = 0.9 ** (scores - 1.0)  # true share of rows with this score or a higher one
        alarmed = np.array([beyond[p <= rate].max(initial=0.0) for rate in p[p <= MOST_RATE]])
        missed += bool((alarmed > p[p <= MOST_RATE]).any())
    assert missed / 2_000 <= 0.1 + 3 * math.sqrt(0.09 / 2_000)


def test_one_row_says_what_one_row_can() -> None:
    np.testing.assert_allclose(conditional_p_values(1, 0.9), [0.9, 1.0])


def test_a_million_rows_cost_little_power() -> None:
    table = conditional_p_values(10**6, 0.95)
    assert table.shape == (10**6 + 1,)
    assert (np.diff(table) >= 0).all()
    assert 3e-6 < table[0] < 8e-6  # one bound alone takes 3e-6
    assert 0.01 < table[9_999] < 0.0106


def test_a_table_is_made_once_and_cannot_be_written_to() -> None:
    table = conditional_p_values(100, 0.9)
    assert conditional_p_values(100, 0.9) is table
    with pytest.raises(ValueError, match="read-only"):
        table[0] = 0.0


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_up_to_few_rows_exactly_those_that_reach_the_needed_number_support_a_rate(confidence: float) -> None:
    rows = np.arange(1, FEW + 1)
    smallest = np.array([conditional_p_values(int(m), confidence)[0] for m in rows])
    for rate in np.geomspace(0.03, 0.6, 40):
        needed = rows_needed_for(float(rate), confidence)
        np.testing.assert_array_equal(smallest <= rate, rows >= needed)


@pytest.mark.parametrize("rate", [0.005, 0.0013, 0.0002, 0.00001])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_the_rows_needed_are_enough_and_five_per_cent_fewer_are_not(rate: float, confidence: float) -> None:
    needed = rows_needed_for(rate, confidence)
    for more in (0, 1, 7, needed // 50, needed // 9, needed):
        assert conditional_p_values(needed + more, confidence)[0] <= rate
    assert conditional_p_values(int(0.95 * needed), confidence)[0] > rate


def test_without_confidence_the_plain_number_of_rows_is_needed() -> None:
    assert rows_needed_for(0.01, None) == 99
    assert rows_needed_for(0.01, 0.95) > 299  # which one bound alone would take


def test_rates_beyond_all_reach_still_have_an_answer() -> None:
    assert 1e12 < rows_needed_for(1e-12, 0.95) < 1e14


@pytest.mark.parametrize("confidence", [0.0, 0.49, 1.0, 95.0, math.nan])
def test_what_is_no_confidence_is_refused(confidence: float) -> None:
    with pytest.raises(SettingError, match="--confidence"):
        conditional_p_values(100, confidence)
    with pytest.raises(SettingError, match="--confidence"):
        rows_needed_for(0.01, confidence)


def test_no_rows_are_refused() -> None:
    with pytest.raises(SettingError, match="at least 1"):
        conditional_p_values(0, 0.9)
