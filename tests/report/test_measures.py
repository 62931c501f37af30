"""The numbers the report works out itself, against reference implementations."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, ks_2samp
from sklearn.metrics import roc_auc_score

from anomvae.report.measures import Share, above, ranking, sameness


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_intervals_of_shares_are_those_of_clopper_and_pearson(hits_of_n: tuple[int, int]) -> None:
    expected = binomtest(*hits_of_n).proportion_ci(0.95, "exact")
    assert Share(*hits_of_n).interval == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_a_share_of_nothing_could_be_anything() -> None:
    assert Share(0, 0).interval == (0.0, 1.0)
    assert np.isnan(Share(0, 0).value)


def test_the_chance_to_score_above_is_the_area_under_the_roc_curve_ties_included() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 9, 60).astype(float), rng.integers(2, 12, 40).astype(float)
    truth = np.repeat([0, 1], [60, 40])
    expected = roc_auc_score(truth, np.concatenate([first, second]))
    assert above(first, second) == pytest.approx(expected)
    curves = ranking(first, second)
    assert curves is not None
    assert curves.auroc == pytest.approx(expected)


def test_sameness_is_the_two_sample_test_of_kolmogorov_and_smirnov() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(0, 1, 300), rng.normal(0.2, 1, 200)
    expected = ks_2samp(first, second, method="asymp")
    gap, p = sameness(first, second)
    assert gap == pytest.approx(expected.statistic)
    assert p == pytest.approx(expected.pvalue, rel=0.3)  # theirs corrects for small samples


def test_infinite_scores_rank_first_and_rows_without_a_score_are_left_out() -> None:
    curves = ranking(np.array([0.0, 1.0, np.nan]), np.array([np.inf, 2.0]))
    assert curves is not None
    assert curves.auroc == 1.0
    assert ranking(np.array([np.nan]), np.array([1.0])) is None


def test_the_report_needs_neither_torch_nor_onnx_nor_mlflow() -> None:
    code = "import sys, anomvae.report; sys.exit(len({'torch', 'mlflow', 'onnx', 'matplotlib'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
