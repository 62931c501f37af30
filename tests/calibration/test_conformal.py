"""Conformal p-values: the guarantee by simulation, ties and thresholds."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from anomvae.calibration import TIE, p_values, threshold
from anomvae.calibration.conformal import check_alarm_rate, raised
from anomvae.errors import SettingError, TooFewRowsError

Scores = npt.NDArray[np.float64]

SCORES = st.floats(-1e6, 1e6, allow_nan=False)
FEW_VALUES = st.integers(-3, 3).map(float)  # many duplicates


def scores_of(size: st.SearchStrategy[int] | int) -> st.SearchStrategy[Scores]:
    return st.one_of(npst.arrays(np.float64, size, elements=SCORES), npst.arrays(np.float64, size, elements=FEW_VALUES))


def counted(score: float, calibration: Scores, tie: float) -> float:
    """The definition, read off the formula, with a tolerance of ties."""
    reach = score - tie * max(1.0, abs(score))
    return float(1 + sum(bool(c >= reach) for c in calibration)) / (len(calibration) + 1)


@settings(deadline=None)
@given(scores_of(st.integers(1, 5)), scores_of(st.integers(1, 40)))
def test_a_p_value_is_the_share_of_calibration_rows_at_least_as_strange(scores: Scores, calibration: Scores) -> None:
    found = p_values(scores, calibration)
    for p, score in zip(found, scores, strict=True):  # the tolerance is known but for what float32 rounds
        assert counted(score, calibration, 0.998 * TIE) - 1e-12 <= p <= counted(score, calibration, 1.002 * TIE) + 1e-12


def drawn(kind: str, size: int, draw: np.random.Generator) -> Scores:
    if kind == "continuous":
        return 100.0 * draw.normal(size=size)
    if kind == "heavy tails":
        return draw.standard_cauchy(size=size)
    values = {"ties": 20, "many ties": 2, "constant": 1}[kind]
    return draw.integers(0, values, size).astype(np.float64)


@pytest.mark.parametrize("m", [1, 9, 99, 500])
@pytest.mark.parametrize("kind", ["continuous", "ties", "many ties", "constant", "heavy tails"])
def test_normal_rows_are_flagged_at_most_alpha_of_the_time(m: int, kind: str) -> None:
    draw = np.random.default_rng([m, len(kind)])
    repeats, n = 400, 50
    flagged: dict[float, list[float]] = {alpha: [] for alpha in (0.01, 0.05, 0.1, 0.3, 0.5, 0.9)}
    for _ in range(repeats):
        scores = drawn(kind, m + n, draw)
        p = p_values(scores[m:], scores[:m])
        for alpha, shares in flagged.items():
            shares.append(float(np.mean(p <= alpha)))
    for alpha, shares in flagged.items():
        error = np.std(shares) / math.sqrt(repeats)
        assert np.mean(shares) <= alpha + 4 * error + 1e-9
        if kind == "continuous" and alpha * (m + 1) >= 1:  # neither is the rate wasted
            assert np.mean(shares) >= math.floor(alpha * (m + 1)) / (m + 1) - 4 * error - 0.01


@settings(deadline=None)
@given(scores_of(st.integers(2, 50)), scores_of(st.integers(1, 50)))
def test_a_stranger_row_never_has_a_larger_p_value(scores: Scores, calibration: Scores) -> None:
    assert (np.diff(p_values(np.sort(scores), calibration)) <= 0).all()


@settings(deadline=None)
@given(scores_of(st.integers(1, 20)), scores_of(st.integers(1, 50)))
def test_p_values_are_multiples_of_one_in_m_plus_one_from_there_to_one(scores: Scores, calibration: Scores) -> None:
    steps = p_values(scores, calibration) * (len(calibration) + 1)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-9)
    assert (steps >= 1 - 1e-9).all()
    assert (steps <= len(calibration) + 1 + 1e-9).all()


@settings(deadline=None)
@given(scores_of(st.integers(1, 20)), scores_of(st.integers(1, 50)), st.integers(0, 99))
def test_the_order_of_the_calibration_rows_does_not_matter(scores: Scores, calibration: Scores, seed: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(calibration)
    np.testing.assert_array_equal(p_values(scores, calibration), p_values(scores, shuffled))


def test_one_row_against_one_row() -> None:
    assert p_values(np.array([2.0]), np.array([1.0])).tolist() == [0.5]
    assert p_values(np.array([1.0]), np.array([1.0])).tolist() == [1.0]
    assert p_values(np.array([0.0]), np.array([1.0])).tolist() == [1.0]


def test_no_rows_and_no_calibration_rows_are_answered_too() -> None:
    assert p_values(np.array([]), np.array([1.0])).shape == (0,)
    assert p_values(np.array([5.0]), np.array([])).tolist() == [1.0]


def test_a_repeated_row_gets_the_p_value_of_the_row_it_repeats_in_spite_of_rounding() -> None:
    calibration = np.array([1.0, 5.0, 5.0, 1000.0])
    for score in (5.0, 5.0 * (1 + 5e-5), 5.0 * (1 - 5e-5)):
        assert p_values(np.array([score]), calibration).tolist() == [0.8]
    assert p_values(np.array([5.0 * (1 + 3e-4)]), calibration).tolist() == [0.4]
    assert p_values(np.array([1000.05]), calibration).tolist() == [0.4]


def test_what_cannot_be_scored_gets_the_smallest_p_value() -> None:
    calibration = np.arange(99.0)
    assert p_values(np.array([np.nan, np.inf, -np.inf]), calibration).tolist() == [0.01, 0.01, 1.0]


def test_calibration_rows_that_could_not_be_scored_count_as_strange() -> None:
    calibration = np.array([0.0, 1.0, np.nan, np.inf])
    assert p_values(np.array([5.0, np.inf, np.nan, -5.0]), calibration).tolist() == [0.6, 0.6, 0.2, 1.0]


@settings(deadline=None, max_examples=200)
@given(scores_of(st.integers(1, 300)), st.floats(0.004, 0.999), scores_of(st.integers(1, 30)))
def test_a_row_alarms_when_it_is_above_the_threshold_and_only_then(
    calibration: Scores, rate: float, scores: Scores
) -> None:
    calibration, scores = calibration.astype(np.float32).astype(np.float64), np.concatenate([scores, calibration])
    try:
        limit = threshold(calibration, rate)
    except TooFewRowsError:
        assert not (p_values(scores, calibration) <= rate).any()
        return
    alarms = p_values(scores, calibration) <= rate + 1e-9
    np.testing.assert_array_equal(alarms, scores.astype(np.float32) > raised(np.array([limit])))
    clearly = np.abs(scores - limit) > 3 * TIE * np.maximum(1.0, np.maximum(np.abs(scores), abs(limit)))
    np.testing.assert_array_equal(alarms[clearly], (scores > limit)[clearly])


@settings(deadline=None)
@given(scores_of(st.integers(2, 300)), st.floats(0.004, 0.999))
def test_the_threshold_is_the_smallest_that_keeps_the_rate(calibration: Scores, rate: float) -> None:
    m = len(calibration)
    try:
        limit = threshold(calibration, rate)
    except TooFewRowsError:
        return
    may_alarm = rate * (m + 1) + 1e-9
    assert np.sum(calibration > limit) + 1 <= may_alarm
    assert np.sum(calibration >= limit) + 1 > may_alarm or limit == calibration.min()


@settings(deadline=None)
@given(st.floats(2e-4, 0.95))
def test_the_rows_needed_are_exactly_those_that_support_the_rate(rate: float) -> None:
    with pytest.raises(TooFewRowsError) as caught:
        threshold(np.array([]), rate)
    needed = caught.value.rows_needed
    assert np.isfinite(threshold(np.zeros(needed), rate))
    with pytest.raises(TooFewRowsError, match=rf"at least {needed:,}"):
        threshold(np.zeros(needed - 1), rate)


@pytest.mark.parametrize(("rate", "needed"), [(0.01, 99), (0.1, 9), (0.001, 999), (0.5, 1), (1 / 3, 2), (0.0001, 9999)])
def test_round_rates_need_round_numbers_of_rows(rate: float, needed: int) -> None:
    threshold(np.zeros(needed), rate)
    with pytest.raises(TooFewRowsError) as caught:
        threshold(np.zeros(needed - 1), rate)
    assert caught.value.rows_needed == needed


def test_the_refusal_names_the_smallest_rate_that_is_supported_and_it_is() -> None:
    with pytest.raises(TooFewRowsError, match=r"the smallest rate they support is 0\.05"):
        threshold(np.zeros(19), 0.01)
    threshold(np.zeros(19), 0.05)


def test_a_rate_a_hair_below_one_lets_all_but_the_most_normal_rows_alarm() -> None:
    assert threshold(np.arange(3.0), 1 - 1e-12) == 0.0
    with pytest.raises(TooFewRowsError):
        threshold(np.array([]), 1 - 1e-12)


@pytest.mark.parametrize("rate", [0.0, 1.0, -1.0, -0.0, 2.0, math.nan, math.inf, -math.inf])
def test_what_is_no_share_of_rows_is_refused_as_an_alarm_rate(rate: float) -> None:
    with pytest.raises(SettingError, match="a share of rows, above 0 and below 1"):
        check_alarm_rate(rate)
    with pytest.raises(SettingError):
        threshold(np.zeros(1000), rate)


@pytest.mark.parametrize("rate", [1e-12, 0.01, 0.5, 1 - 1e-12])
def test_shares_of_rows_are_accepted_as_an_alarm_rate(rate: float) -> None:
    check_alarm_rate(rate)


@settings(deadline=None)
@given(npst.arrays(np.float32, 20, elements=st.floats(width=32)))
def test_raising_never_lowers_a_score_and_keeps_the_order(scores: npt.NDArray[np.float32]) -> None:
    ascending = np.sort(scores[~np.isnan(scores)])
    moved = raised(ascending)
    assert (moved >= ascending).all()
    assert (moved[:-1] <= moved[1:]).all()
    assert raised(np.array([np.nan, np.inf, -np.inf])).tolist() == [np.inf, np.inf, -np.inf]


@settings(deadline=None)
@given(st.floats(-(2.0**100), 2.0**100, width=32))
def test_raising_leads_to_the_largest_score_that_ties(score: float) -> None:
    """The tolerance is the new score's: raising and lowering are each other's inverse."""
    limit = float(raised(np.array([score]))[0])
    assert limit - TIE * max(1.0, abs(limit)) == pytest.approx(score, rel=2e-7, abs=2e-7)
