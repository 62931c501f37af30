"""Simpler detectors against scikit-learn's preprocessing and plain formulas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from anomvae.bundle import Column
from anomvae.errors import TooFewRowsError
from anomvae.evaluation import score_baselines
from anomvae.evaluation.baselines import (
    FARTHEST,
    MAX_NORMAL_ROWS,
    VARIANCE_FLOOR,
    Features,
    drawn_rows,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

NUMBERS = tuple(Column(name, "numeric", "double") for name in "abc")
MIXED = (
    Column("flag", "boolean", "bool", categories=("false", "true")),
    *NUMBERS,
    Column("kind", "categorical", "string", categories=("x", "y", "z"), missing_code=3),
)


@dataclass(frozen=True)
class Rows:
    numeric: npt.NDArray[np.float32]
    categorical: npt.NDArray[np.int64]


def numbers(values: npt.NDArray[np.float64]) -> Rows:
    return Rows(values.astype(np.float32), np.empty((len(values), 0), dtype=np.int64))


def mixed(n: int, seed: int = 0) -> Rows:
    draw = np.random.default_rng(seed)
    cells = draw.normal([5, -100, 3e5], [1, 20, 4e4], (n, 3)).astype(np.float32)
    cells[draw.random(n) < 0.2, 1] = np.nan
    return Rows(cells, np.stack([draw.integers(0, 2, n), draw.integers(0, 4, n)], axis=1))


def scores(columns: Sequence[Column], normal: Rows, rows: Rows, seed: int = 0) -> dict[str, npt.NDArray[np.float64]]:
    return {found.key: found.score for found in score_baselines(columns, normal, rows, seed=seed)}


def test_numbers_are_standardised_and_imputed_as_scikit_learn_does_with_an_indicator() -> None:
    normal, rows = mixed(300), mixed(50, seed=1)
    rows.numeric[0, 0] = np.nan  # never missing in the rows learnt from: filled, without an indicator
    vectors = Features.of(MIXED, normal)(rows)
    scaler = StandardScaler().fit(normal.numeric.astype(np.float64))
    imputer = SimpleImputer(add_indicator=True).fit(scaler.transform(normal.numeric.astype(np.float64)))
    imputer.indicator_.error_on_new = False
    expected = imputer.transform(scaler.transform(rows.numeric.astype(np.float64)))
    np.testing.assert_allclose(vectors[:, :4], expected, atol=1e-9)


def test_categories_are_one_hot_a_missing_cell_is_one_of_them_and_an_unknown_none() -> None:
    normal = mixed(300)
    rows = Rows(normal.numeric[:4], np.array([[0, 0], [1, 3], [2, 4], [1, 2]]))  # 2 and 4: never seen
    vectors = Features.of(MIXED, normal)(rows)[:, 4:]
    encoder = OneHotEncoder(categories=[[0, 1], [0, 1, 2, 3]], handle_unknown="ignore", sparse_output=False)
    np.testing.assert_array_equal(vectors, encoder.fit([[0, 0]]).transform(rows.categorical))
    assert vectors[2].sum() == 0


def test_infinities_are_missing_where_the_detector_saw_some_and_far_out_where_not() -> None:
    seen = Column("a", "numeric", "double", infinite_is_missing=True)
    values = np.random.default_rng(0).normal(size=(100, 2))
    values[3, 0] = np.inf
    rows = numbers(np.array([[np.inf, 0.0], [0.0, -np.inf], [0.0, 1e30]]))
    vectors = Features.of((seen, NUMBERS[1]), numbers(values))(rows)
    assert vectors[0, [0, 2]].tolist() == [0.0, 1.0]
    assert vectors[1:, 1].tolist() == [-FARTHEST, FARTHEST]
    assert np.isfinite(vectors).all()


def test_a_constant_or_empty_column_stays_finite() -> None:
    values = np.random.default_rng(0).normal(size=(60, 3))
    values[:, 1], values[:, 2] = 0.1, np.nan
    found = scores(NUMBERS, numbers(values), numbers(np.array([[0.0, 0.1, np.nan], [0.0, 5.0, 2.0]])))
    for score in found.values():
        assert np.isfinite(score).all()
    assert found["nearest_neighbour"][1] > found["nearest_neighbour"][0]


def test_1_nn_is_the_distance_to_the_nearest_row() -> None:
    normal, rows = mixed(300), mixed(40, seed=1)
    features = Features.of(MIXED, normal)
    apart = features(rows)[:, None] - features(normal)[None]
    expected = np.sqrt((apart**2).sum(axis=2)).min(axis=1)
    np.testing.assert_allclose(scores(MIXED, normal, rows)["nearest_neighbour"], expected, atol=1e-6)


@pytest.mark.parametrize(("n", "d"), [(400, 3), (25, 60)])
def test_pca_is_the_mahalanobis_distance_also_of_fewer_rows_than_columns(n: int, d: int) -> None:
    columns = tuple(Column(f"x{j}", "numeric", "double") for j in range(d))
    draw = np.random.default_rng(2)
    normal, rows = (numbers(draw.normal(size=(size, d)) @ np.tri(d)) for size in (n, 30))
    features = Features.of(columns, normal)
    learnt, given = features(normal), features(rows)
    covariance = np.cov(learnt, rowvar=False) + VARIANCE_FLOOR * np.eye(d)
    centred = given - learnt.mean(axis=0)
    expected = (centred * np.linalg.solve(covariance, centred.T).T).sum(axis=1)
    np.testing.assert_allclose(scores(columns, normal, rows)["pca"], expected, rtol=1e-6)


def test_the_mixture_takes_as_many_components_as_there_are_clusters() -> None:
    draw = np.random.default_rng(3)
    one = draw.normal(size=(600, 2))
    four = one + 12 * np.stack([draw.integers(0, 2, 600), draw.integers(0, 2, 600)], axis=1)
    details = [score_baselines(NUMBERS[:2], numbers(cells), numbers(cells[:5]))[3].detail for cells in (one, four)]
    assert details[0].startswith("1 component by BIC")
    assert details[1].startswith("4 components by BIC")
    between = scores(NUMBERS[:2], numbers(four), numbers(np.array([[6.0, 6.0], [0.0, 12.0]])))["gaussian_mixture"]
    assert between[0] > between[1] + 5


def test_wide_rows_get_diagonal_covariances() -> None:
    columns = tuple(Column(f"x{j}", "numeric", "double") for j in range(70))
    values = np.random.default_rng(4).normal(size=(80, 70))
    assert "diagonal" in score_baselines(columns, numbers(values), numbers(values[:3]))[3].detail


def test_every_detector_finds_what_is_plain_to_see() -> None:
    strange = mixed(3, seed=2)
    strange.numeric[:] = [50.0, 900.0, 3e6]
    fresh = mixed(200, seed=1)
    rows = Rows(
        np.vstack([fresh.numeric, strange.numeric]), np.vstack([fresh.categorical, [[2, 4]] * len(strange.numeric)])
    )
    for key, score in scores(MIXED, mixed(500), rows).items():
        assert score.shape == (203,)
        assert score[200:].min() > score[:200].max(), key


def test_rows_are_scored_alike_in_one_piece_and_in_many(monkeypatch: pytest.MonkeyPatch) -> None:
    normal, rows = mixed(200), mixed(100, seed=1)
    whole = scores(MIXED, normal, rows)
    monkeypatch.setattr("anomvae.evaluation.baselines.CHUNK_CELLS", 70)
    for key, score in scores(MIXED, normal, rows).items():
        np.testing.assert_allclose(score, whole[key], rtol=1e-6, err_msg=key)


def test_a_seed_decides_every_draw_whatever_its_size() -> None:
    normal, rows = mixed(200), mixed(20, seed=1)
    first, again, other = (scores(MIXED, normal, rows, seed=seed) for seed in (2**63 - 1, 2**63 - 1, 3))
    assert all(np.array_equal(first[key], again[key]) for key in first)
    assert not np.array_equal(first["isolation_forest"], other["isolation_forest"])


def test_of_many_normal_rows_some_are_drawn() -> None:
    drawn = drawn_rows(MAX_NORMAL_ROWS + 5, seed=0)
    assert isinstance(drawn, np.ndarray)
    assert len(np.unique(drawn)) == MAX_NORMAL_ROWS
    assert drawn_rows(MAX_NORMAL_ROWS, seed=0) == slice(None)
    assert not np.array_equal(drawn, np.asarray(drawn_rows(MAX_NORMAL_ROWS + 5, seed=1)))


def test_too_few_normal_rows_are_refused() -> None:
    with pytest.raises(TooFewRowsError, match="19 normal rows are too few") as refusal:
        score_baselines(MIXED, mixed(19), mixed(5))
    assert refusal.value.rows_needed == 20


def test_no_rows_to_score_give_no_scores() -> None:
    assert {len(score) for score in scores(MIXED, mixed(30), mixed(0)).values()} == {0}
