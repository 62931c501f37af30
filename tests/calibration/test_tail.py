"""Tails: known ones are found again, rates beyond the calibration rows are kept, and what has no tail is left alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy.stats import expon, genpareto, kstest, lognorm, norm, t

from anomvae.calibration import TailFit, fit_tail, p_values
from anomvae.calibration.tail import (
    LEAST_P,
    MIN_ROWS,
    NEARLY_EXPONENTIAL,
    SMALLEST_SHARE,
    _distance,
    _excess_at,
    _fit,
    _survival,
)
from anomvae.errors import SettingError, TooFewRowsError

Scores = npt.NDArray[np.float64]


def normal_scores(m: int = 1000, seed: int = 0) -> Scores:
    return np.random.default_rng(seed).normal(size=m)


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.3])
def test_the_estimator_recovers_a_generalised_pareto_distribution(shape: float) -> None:
    draw = np.random.default_rng(5)
    excess = np.sort(genpareto(shape, scale=7.0).rvs(20_000, random_state=draw))
    found, scale = _fit(excess)
    assert found == pytest.approx(shape, abs=0.03)
    assert scale == pytest.approx(7.0, rel=0.04)


def test_the_estimator_is_about_as_good_as_maximum_likelihood() -> None:
    draw, ours, theirs = np.random.default_rng(6), [], []
    for _ in range(40):
        excess = np.sort(genpareto(0.2).rvs(200, random_state=draw))
        ours.append(_fit(excess, prior=0.0)[0] - 0.2)
        theirs.append(genpareto.fit(excess, floc=0.0)[0] - 0.2)
    assert np.std(ours) <= 1.1 * np.std(theirs)
    assert abs(np.mean(ours)) < 0.05


def test_the_prior_draws_few_exceedances_towards_a_shape_of_one_half() -> None:
    excess = np.sort(expon.rvs(size=10, random_state=np.random.default_rng(2)))
    assert _fit(excess)[0] == pytest.approx((_fit(excess, prior=0.0)[0] + 0.5) / 2)


@pytest.mark.parametrize("shape", [-0.9, -0.3, -1e-10, 0.0, 1e-10, 0.3, 1.5])
def test_survival_and_its_inverse_are_those_of_scipy(shape: float) -> None:
    excess = np.linspace(0.0, 12.0, 50)
    np.testing.assert_allclose(_survival(excess, shape, 2.0), genpareto.sf(excess, shape, scale=2.0), atol=1e-12)
    survival = np.geomspace(1e-9, 1.0, 30)
    expected = genpareto.isf(survival, shape if abs(shape) > NEARLY_EXPONENTIAL else 0.0, scale=2.0)
    np.testing.assert_allclose(_excess_at(survival, shape, 2.0), expected, rtol=1e-6, atol=1e-12)


def test_shapes_around_zero_give_one_continuous_tail() -> None:
    excess = np.linspace(0.0, 20.0, 30)
    shapes = [0.99 * NEARLY_EXPONENTIAL, 1.01 * NEARLY_EXPONENTIAL, -1.01 * NEARLY_EXPONENTIAL]
    for shape in shapes:
        np.testing.assert_allclose(_survival(excess, shape, 1.0), np.exp(-excess), rtol=1e-6)


# The factor between the rate that a threshold keeps on average over fits and the stated one, for 300 and 3,000 rows, as
# measured with many more fits, and room for the chance of 150. The lower figure is small where the tail is light: the
# prior keeps thresholds high there.
LAWS = [
    pytest.param(genpareto(-0.3), 0.005, 0.8, id="shape -0.3"),
    pytest.param(expon(), 0.35, 1.6, id="exponential"),
    pytest.param(genpareto(0.3), 0.7, 2.1, id="shape 0.3"),
    pytest.param(norm(), 0.15, 1.8, id="normal"),
    pytest.param(t(3), 0.8, 2.6, id="Student t, 3"),
    pytest.param(lognorm(1.0), 0.6, 1.8, id="lognormal"),
]


@pytest.mark.parametrize(("law", "least", "most"), LAWS)
@pytest.mark.parametrize("m", [300, 3000])
def test_rates_beyond_the_calibration_rows_are_kept_within_a_known_factor(
    law: Any, least: float, most: float, m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomvae.calibration.tail.REPLICATES", 1)  # of the test of fit, which is not looked at
    draw = np.random.default_rng(8)
    fits = [fit_tail(law.ppf(draw.random(m))) for _ in range(150)]
    for beyond in (3, 10):
        factor = np.mean([law.sf(fit.score_at(1.0 / (beyond * m))) for fit in fits]) * beyond * m
        assert least <= factor <= most


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.floats(-3, 3), st.sampled_from([-0.5, 0.0, 0.8]))
def test_survival_is_finite_positive_and_never_rises_with_the_score(seed: int, moved: float, shape: float) -> None:
    fit = fit_tail(moved + genpareto(shape).ppf(np.random.default_rng(seed).random(60)))
    scores = np.concatenate([[-np.inf], np.linspace(-5, 50, 500), [1e6, 1e30, 3e38, 1e300, np.inf]])
    survival = fit.survival(scores)
    assert survival.dtype == np.float64
    assert np.isfinite(survival).all()
    assert (survival >= LEAST_P).all()
    assert (np.diff(survival) <= 0).all()


def test_the_tail_begins_where_the_conformal_p_values_are() -> None:
    scores = normal_scores()
    fit = fit_tail(scores)
    just_above = np.nextafter(fit.threshold, np.inf)
    assert fit.survival(np.array([fit.threshold]))[0] == fit.share
    assert fit.survival(np.array([just_above]))[0] == pytest.approx(fit.share, rel=1e-9)
    between = (fit.threshold + float(scores[scores > fit.threshold].min())) / 2
    assert p_values(np.array([between]), scores)[0] == pytest.approx(fit.share)
    assert fit.share == (fit.exceedances + 1) / 1001


def test_a_score_at_a_rate_is_the_one_whose_survival_it_is() -> None:
    fit = fit_tail(normal_scores())
    for rate in (fit.share, 0.01, 1e-3, 1e-4, fit.smallest_rate):
        assert fit.survival(np.array([fit.score_at(rate)]))[0] == pytest.approx(rate, rel=1e-9)


def test_rates_that_the_tail_does_not_reach_are_refused() -> None:
    fit = fit_tail(normal_scores())
    assert fit.smallest_rate == SMALLEST_SHARE / 1001
    for rate in (0.5, 0.9 * fit.smallest_rate, 0.0, math.nan):
        with pytest.raises(SettingError, match="supports"):
            fit.score_at(rate)
        with pytest.raises(SettingError, match="supports"):
            fit.interval(rate)


def test_beyond_the_end_point_of_a_bounded_tail_the_floor_is_left() -> None:
    fit = fit_tail(np.random.default_rng(1).random(2000))
    assert fit.shape < -0.5
    assert fit.survival(np.array([5.0, np.inf, np.nan])).tolist() == [LEAST_P] * 3


def test_nothing_but_the_unit_changes_with_the_unit() -> None:
    scores = normal_scores(400, 3)
    one, other = fit_tail(scores), fit_tail(1e-3 * scores + 50.0)
    assert other.shape == pytest.approx(one.shape, abs=1e-6)
    assert other.scale == pytest.approx(1e-3 * one.scale)
    assert other.ks_p == one.ks_p


@pytest.mark.parametrize(("m", "wanted"), [(50, 10), (100, 20), (225, 45), (10_000, 300)])
def test_the_largest_three_roots_of_m_scores_exceed_but_at_most_a_fifth(m: int, wanted: int) -> None:
    scores = normal_scores(m)
    fit = fit_tail(scores)
    assert fit.exceedances == wanted == np.count_nonzero(scores > fit.threshold)
    np.testing.assert_array_equal(fit.excess, np.sort(scores[scores > fit.threshold]) - fit.threshold)


def test_too_few_rows_are_refused_with_the_number_it_takes() -> None:
    with pytest.raises(TooFewRowsError, match="49 calibration rows") as refused:
        fit_tail(normal_scores(MIN_ROWS - 1))
    assert refused.value.rows_needed == MIN_ROWS


def assert_nothing_is_extrapolated(fit: TailFit, share: float) -> None:
    assert fit.scale == 0
    assert fit.smallest_rate == share
    assert fit.survival(np.array([-1e9, 0.0, 1e9, np.inf, np.nan])).tolist() == [share] * 5
    assert math.isnan(fit.ks)
    assert [part.shape for part in fit.quantiles()] == [(0,), (0,)]
    with pytest.raises(SettingError, match="could not be fitted"):
        fit.score_at(1e-3)


@pytest.mark.parametrize(
    "scores",
    [
        np.zeros(60),
        np.repeat([0.0, 1.0], 50),
        np.concatenate([normal_scores(), np.full(300, 9.0)]),
        np.full(99, -np.inf),
    ],
    ids=["constant", "two values", "tied at the top", "minus infinity"],
)
def test_scores_tied_at_the_top_have_no_tail(scores: Scores) -> None:
    fit = fit_tail(scores)
    assert_nothing_is_extrapolated(fit, (1 + np.count_nonzero(scores > fit.threshold)) / (len(scores) + 1))


@pytest.mark.parametrize("odd", [np.inf, np.nan])
def test_where_a_normal_row_scores_infinity_no_score_lies_beyond(odd: float) -> None:
    scores = normal_scores(200)
    scores[[3, 8]] = odd
    assert_nothing_is_extrapolated(fit_tail(scores), 3 / 201)
    assert_nothing_is_extrapolated(fit_tail(np.full(80, odd)), 81 / 81)


def test_scores_of_minus_infinity_are_merely_low() -> None:
    scores = np.where(normal_scores() < 0, -np.inf, normal_scores())
    assert fit_tail(scores).scale == fit_tail(normal_scores()).scale > 0


def test_of_scores_tied_with_the_threshold_none_exceeds_it() -> None:
    scores = np.sort(normal_scores())
    scores[880:930] = scores[880]  # the 95 largest begin within
    fit = fit_tail(scores)
    assert fit.threshold == scores[879]
    assert fit.exceedances == 120
    assert fit.scale > 0


@settings(deadline=None, max_examples=60)
@given(
    npst.arrays(
        np.float32, st.integers(50, 120), elements=st.floats(-100, 100, width=32) | st.integers(0, 3).map(float)
    )
)
def test_whatever_the_scores_the_tail_is_a_share(scores: npt.NDArray[np.float32]) -> None:
    fit = fit_tail(scores)
    survival = fit.survival(np.array([-np.inf, 0.0, 99.0, 1e4, np.inf, np.nan]))
    assert ((survival >= LEAST_P) & (survival <= 1.0)).all()
    if fit.scale > 0:
        low, high = fit.interval(fit.smallest_rate, replicates=5)
        assert math.isfinite(low)
        assert math.isfinite(high)


def test_the_distance_is_that_of_kolmogorov_and_smirnov() -> None:
    excess = np.sort(expon.rvs(size=80, random_state=np.random.default_rng(3)))
    assert _distance(excess, 0.2, 1.3) == pytest.approx(kstest(excess, genpareto(0.2, scale=1.3).cdf).statistic)


def test_the_p_value_of_the_fit_is_uniform_for_pareto_tails_and_small_for_others() -> None:
    draw = np.random.default_rng(9)
    good = np.array([fit_tail(genpareto(0.3).ppf(draw.random(400))).ks_p for _ in range(60)])
    assert np.mean(good <= 0.1) <= 0.22
    assert 0.3 <= np.median(good) <= 0.7
    two_humps = np.concatenate([normal_scores(950), normal_scores(50) / 10 + 20])
    assert fit_tail(two_humps).ks_p < 0.01


@pytest.mark.parametrize("law", [expon(), genpareto(0.3), norm()], ids=["exponential", "shape 0.3", "normal"])
def test_the_interval_holds_the_true_score_about_as_often_as_stated(law: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomvae.calibration.tail.REPLICATES", 1)
    draw, held, rate = np.random.default_rng(11), 0, 1 / 10_000
    for _ in range(80):
        low, high = fit_tail(law.ppf(draw.random(1000))).interval(rate, confidence=0.9, replicates=60)
        held += low <= law.isf(rate) <= high
    assert held / 80 >= 0.72


def test_more_confidence_makes_a_wider_interval_and_the_seed_makes_it_again() -> None:
    fit = fit_tail(normal_scores())
    narrow, wide = fit.interval(1e-4, confidence=0.5), fit.interval(1e-4, confidence=0.95)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    assert fit.interval(1e-4, confidence=0.5) == narrow
    assert fit.interval(1e-4, confidence=0.5, seed=7) != narrow


def test_observed_and_expected_quantiles_lie_along_a_line_for_a_good_fit() -> None:
    expected, observed = fit_tail(np.random.default_rng(5).exponential(size=5000)).quantiles()
    assert expected.shape == observed.shape == (213,)
    assert np.corrcoef(expected, observed)[0, 1] > 0.98
    assert (np.diff(expected) > 0).all()
