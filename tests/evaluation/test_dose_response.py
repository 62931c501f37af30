from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import isotonic_regression

from anomvae.evaluation import clopper_pearson
from anomvae.evaluation.dose_response import Caught, isotonic_shares, share_at, smallest_shift
from anomvae.evaluation.power import SIZES


def caught(*hits: int, rows: int = 100) -> list[Caught]:
    return [Caught(each, rows) for each in hits]


def test_the_curve_is_the_isotonic_regression_of_the_shares() -> None:
    found = isotonic_shares([1.0, 2.0, 4.0, 8.0], caught(10, 30, 20, 90))
    assert found == pytest.approx(isotonic_regression([0.1, 0.3, 0.2, 0.9]))


@pytest.mark.parametrize(("hits", "rows"), [(0, 30), (1, 30), (15, 30), (30, 30), (0, 0)])
def test_shares_have_exact_intervals(hits: int, rows: int) -> None:
    assert Caught(hits, rows).interval == pytest.approx(clopper_pearson(hits, rows))


def test_where_no_row_is_caught_at_one_size_and_all_at_the_next_the_answer_may_lie_anywhere_between() -> None:
    found = smallest_shift([1.0, 2.0, 4.0], caught(0, 0, 100), 0.5)
    assert found.low == 2.0
    assert found.high == 4.0
    assert found.size == pytest.approx(np.sqrt(8.0))


def test_a_shift_that_is_never_caught_so_often_has_no_size() -> None:
    found = smallest_shift([1.0, 16.0], caught(1, 30), 0.5)
    assert found.size is None
    assert found.high is None
    assert found.low == 16.0


def test_a_shift_that_is_always_caught_may_be_smaller_than_measured() -> None:
    found = smallest_shift([0.25, 1.0], caught(100, 100), 0.5)
    assert (found.size, found.low, found.high) == (0.25, 0.0, 0.25)


@given(st.lists(st.integers(0, 40), min_size=13, max_size=13), st.sampled_from([0.5, 0.9]))
def test_the_estimate_lies_in_its_interval(hits: list[int], level: float) -> None:
    found = smallest_shift(SIZES, caught(*hits, rows=40), level)
    assert found.low <= (found.size or SIZES[-1])
    if found.high is not None:
        assert found.size is not None
        assert found.size <= found.high


@pytest.mark.parametrize(("rows", "level"), [(20, 0.5), (300, 0.5), (300, 0.9)])
def test_the_interval_holds_the_true_size_at_least_95_times_in_100(rows: int, level: float) -> None:
    draw = np.random.default_rng(0)
    held = []
    for _ in range(1000):
        middle = draw.uniform(-0.5, 3.0)
        shares = 1 / (1 + np.exp(-1.5 * (np.log2(SIZES) - middle)))
        truth = 2 ** (middle + np.log(level / (1 - level)) / 1.5)
        found = smallest_shift(SIZES, [Caught(int(draw.binomial(rows, share)), rows) for share in shares], level)
        held.append(found.low <= truth <= (np.inf if found.high is None else found.high))
    assert np.mean(held) >= 0.95


def test_a_share_is_read_between_sizes_on_a_logarithmic_scale() -> None:
    assert share_at(2.0, [1.0, 4.0], caught(20, 60)) == pytest.approx(0.4)
    assert share_at(32.0, [1.0, 4.0], caught(20, 60)) == pytest.approx(0.6)
