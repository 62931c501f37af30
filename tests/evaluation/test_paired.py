"""Paired differences against scikit-learn, DeLong's variance and known truths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from anomvae.errors import SchemaError
from anomvae.evaluation import compare, ranking
from anomvae.evaluation.paired import _Places

if TYPE_CHECKING:
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float64]
    BoolArray = npt.NDArray[np.bool_]


def two_detectors(
    anomalies: int, normal: int, lifts: tuple[float, float], alike: float, seed: int
) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Scores of two detectors that agree on rows as far as `alike` says, and lift anomalies by so much."""
    draw = np.random.default_rng(seed)
    anomalous = np.arange(anomalies + normal) < anomalies
    first, second = draw.normal(size=(2, anomalies + normal))
    second = alike * first + np.sqrt(1 - alike**2) * second
    return first + lifts[0] * anomalous, second + lifts[1] * anomalous, anomalous


@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 120),
    st.sampled_from([1, 2, 5, 40, 10_000]),
)
def test_measures_are_scikit_learns_ties_included(seed: int, n: int, levels: int) -> None:
    draw = np.random.default_rng(seed)
    anomalous = draw.permutation(np.arange(n) < draw.integers(1, n))
    score = draw.integers(0, levels, n).astype(np.float64)
    found = ranking(score, anomalous)
    assert found.auroc == pytest.approx(roc_auc_score(anomalous, score), abs=1e-12)
    assert found.average_precision == pytest.approx(average_precision_score(anomalous, score), abs=1e-12)


def test_measures_of_a_resample_are_scikit_learns_of_the_rows_drawn() -> None:
    draw = np.random.default_rng(1)
    anomalous = np.arange(90) < 25
    score = draw.integers(0, 30, 90).astype(np.float64)
    drawn = draw.integers(0, 25, (7, 25)), draw.integers(0, 65, (7, 65))
    auroc, precision = _Places(score, anomalous).measures(*drawn)
    for number, (strange, usual) in enumerate(zip(*drawn, strict=True)):
        rows = np.concatenate([score[:25][strange], score[25:][usual]])
        assert auroc[number] == pytest.approx(roc_auc_score(anomalous, rows), abs=1e-12)
        assert precision[number] == pytest.approx(average_precision_score(anomalous, rows), abs=1e-12)


def test_the_spread_of_the_auroc_difference_is_that_of_delong() -> None:
    ours, theirs, anomalous = two_detectors(400, 900, (1.4, 1.1), 0.6, seed=2)
    found = compare(ours, {"other": theirs}, anomalous, resamples=3000)["other"].auroc

    def placed(score: FloatArray) -> tuple[FloatArray, FloatArray]:
        wins = np.sign(score[anomalous][:, None] - score[~anomalous][None]) / 2 + 0.5
        return wins.mean(axis=1), wins.mean(axis=0)

    variance = sum(
        float(np.var(first - second, ddof=1)) / len(first)
        for first, second in zip(placed(ours), placed(theirs), strict=True)
    )
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.07)


@pytest.mark.parametrize("lifts", [(1.5, 1.5), (1.8, 1.2)])
def test_intervals_hold_the_truth_about_95_times_of_100(lifts: tuple[float, float]) -> None:
    truth = float(norm.cdf(lifts[0] / np.sqrt(2)) - norm.cdf(lifts[1] / np.sqrt(2)))
    many = two_detectors(150_000, 1_500_000, lifts, 0.7, seed=3)
    precise = ranking(many[0], many[2]).average_precision - ranking(many[1], many[2]).average_precision
    held = []
    for seed in range(250):
        ours, theirs, anomalous = two_detectors(30, 300, lifts, 0.7, seed=1000 + seed)
        found = compare(ours, {"other": theirs}, anomalous, seed=seed, resamples=500)["other"]
        held.append(
            (
                found.auroc.low <= truth <= found.auroc.high,
                found.average_precision.low <= precise <= found.average_precision.high,
            )
        )
    assert np.all(np.abs(np.mean(held, axis=0) - 0.95) < 0.045)


def test_what_is_hard_for_both_cancels() -> None:
    ours, theirs, anomalous = two_detectors(60, 600, (1.2, 1.2), 0.999, seed=4)
    _, apart, _ = two_detectors(60, 600, (1.2, 1.2), 0.0, seed=4)
    found = compare(ours, {"twin": theirs, "stranger": apart}, anomalous)
    widths = {name: each.auroc.high - each.auroc.low for name, each in found.items()}
    assert widths["twin"] < 0.1 * widths["stranger"]


def test_a_detector_beside_itself_differs_by_nothing() -> None:
    ours, _, anomalous = two_detectors(20, 80, (1.0, 1.0), 0.5, seed=5)
    found = compare(ours, {"again": np.exp(ours)}, anomalous)["again"]
    assert (found.auroc.estimate, found.auroc.low, found.auroc.high) == (0.0, 0.0, 0.0)
    assert found.average_precision.verdict == "alike"


def test_a_clear_lead_and_a_clear_lag_are_told_apart() -> None:
    ours, theirs, anomalous = two_detectors(200, 800, (2.5, 0.5), 0.5, seed=6)
    ahead = compare(ours, {"other": theirs}, anomalous)["other"]
    behind = compare(theirs, {"other": ours}, anomalous)["other"]
    assert (ahead.auroc.verdict, ahead.average_precision.verdict) == ("ours", "ours")
    assert (behind.auroc.verdict, behind.average_precision.verdict) == ("theirs", "theirs")
    assert ahead.auroc.estimate == pytest.approx(-behind.auroc.estimate)
    assert ahead.ranking == ranking(theirs, anomalous)


def test_the_same_seed_gives_the_same_interval_however_many_stand_beside() -> None:
    ours, theirs, anomalous = two_detectors(30, 90, (1.0, 0.8), 0.5, seed=7)
    alone = compare(ours, {"other": theirs}, anomalous, seed=1)["other"]
    crowd = compare(ours, {"first": -theirs, "other": theirs}, anomalous, seed=1)["other"]
    assert alone == crowd
    assert alone != compare(ours, {"other": theirs}, anomalous, seed=2)["other"]


def test_one_anomaly_says_nothing_and_few_say_little() -> None:
    ours, theirs, anomalous = two_detectors(1, 200, (2.0, 1.0), 0.5, seed=8)
    single = compare(ours, {"other": theirs}, anomalous)["other"].auroc
    assert (single.low, single.high) == (-1.0, 1.0)
    assert single.verdict == "alike"
    few, many = (compare(*_pair(n))["other"].auroc for n in (8, 800))
    assert few.high - few.low > np.sqrt(800 / 8) * (many.high - many.low)


def _pair(anomalies: int) -> tuple[FloatArray, dict[str, FloatArray], BoolArray]:
    ours, theirs, anomalous = two_detectors(anomalies, 20_000, (1.0, 1.0), 0.0, seed=9)
    return ours, {"other": theirs}, anomalous


@pytest.mark.parametrize("anomalous", [np.zeros(5, dtype=bool), np.ones(5, dtype=bool)])
def test_one_class_alone_is_refused(anomalous: BoolArray) -> None:
    with pytest.raises(SchemaError, match="needs both"):
        compare(np.arange(5.0), {"other": np.arange(5.0)}, anomalous)
    with pytest.raises(SchemaError, match="needs both"):
        ranking(np.arange(5.0), anomalous)
