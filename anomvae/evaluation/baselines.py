"""Simpler detectors on the columns of ours: is the effort worth it?"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from anomvae.errors import TooFewRowsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from anomvae.bundle import Column

    FloatArray = npt.NDArray[np.float64]
    Score = Callable[[FloatArray], FloatArray]

MAX_NORMAL_ROWS = 20_000
"""Rows that simpler detectors learn from, at most: 1-NN compares every row with all of them."""
MIN_NORMAL_ROWS = 20
CHUNK_CELLS = 4_000_000
FARTHEST = 1e6
"""Standardised numbers are clipped here, infinities too: beyond, nothing is stranger."""
VARIANCE_FLOOR = 1e-2
"""Added to every variance, in units of squared standard deviations: columns that say the same make no zero variance."""
COMPONENTS = (1, 2, 4, 8, 16)
MAX_FULL_WIDTH = 64
"""Wider rows get diagonal covariances: full ones would take longer than our fit."""
_SMALLEST_SPREAD = 1e-7
_ROWS_A_COMPONENT = 8
_STREAM = 12


class Cells(Protocol):
    """Rows as the arrays of :class:`anomvae.data.encoding.EncodedRows`."""

    @property
    def numeric(self) -> npt.NDArray[np.float32]:
        """Raw units, NaN where missing, shape ``(n, d)``."""

    @property
    def categorical(self) -> npt.NDArray[np.int64]:
        """Codes of the manifest's categories, shape ``(n, c)``."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """A simpler detector and what it says of rows.

    Attributes:
        key: Its name in JSON.
        name: Its name for people.
        detail: How it was set up, as a clause.
        score: Shape ``(n,)``; higher is stranger.
    """

    key: str
    name: str
    detail: str
    score: FloatArray


@dataclass(frozen=True, slots=True)
class Features:
    """Rows as vectors: what columns mean to our detector, for detectors that take numbers alone.

    Numbers are standardised by the rows learnt from, missing ones filled with their mean; a column that has missing cells
    there gets an indicator beside it. Categories are one-hot, a missing cell being a category where our detector saw
    missing cells; an unknown category is all zeros. Infinities are missing where our detector saw some, as for it.

    Attributes:
        mean: Of each number column, shape ``(d,)``.
        scale: Standard deviation, 1 where a column is constant, shape ``(d,)``.
        indicated: Number columns with an indicator, shape ``(d,)``.
        infinite_is_missing: Shape ``(d,)``.
        sizes: One-hot columns of each category.
    """

    mean: FloatArray
    scale: FloatArray
    indicated: npt.NDArray[np.bool_]
    infinite_is_missing: npt.NDArray[np.bool_]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, columns: Sequence[Column], rows: Cells) -> Features:
        """Learns scales and indicators.

        Args:
            columns: The scored columns, in the manifest's order.
            rows: The rows to learn from.
        """
        infinite = np.array([column.infinite_is_missing for column in columns if column.is_numeric], dtype=bool)
        numbers = rows.numeric.astype(np.float64)
        finite = np.isfinite(numbers)
        count = np.maximum(finite.sum(axis=0), 1)
        mean = np.where(finite, numbers, 0.0).sum(axis=0) / count
        centred = np.where(finite, numbers - mean, 0.0)
        std = np.sqrt((centred**2).sum(axis=0) / count)
        return cls(
            mean=mean,
            scale=np.where(std > _SMALLEST_SPREAD * np.abs(mean), std, 1.0),
            indicated=np.asarray(_missing(numbers, infinite).any(axis=0), dtype=np.bool_),
            infinite_is_missing=infinite,
            sizes=tuple(column.unknown_code for column in columns if not column.is_numeric),
        )

    @property
    def width(self) -> int:
        """Numbers a row becomes."""
        return len(self.mean) + int(self.indicated.sum()) + sum(self.sizes)

    def __call__(self, rows: Cells) -> FloatArray:
        """The vectors of rows, shape ``(n, width)``."""
        numbers = rows.numeric.astype(np.float64)
        missing = _missing(numbers, self.infinite_is_missing)
        with np.errstate(invalid="ignore"):
            scaled = np.clip((numbers - self.mean) / self.scale, -FARTHEST, FARTHEST)
        parts = [np.where(missing, 0.0, scaled), missing[:, self.indicated].astype(np.float64)]
        for j, size in enumerate(self.sizes):
            parts.append((rows.categorical[:, j, None] == np.arange(size)).astype(np.float64))
        return np.concatenate(parts, axis=1)


def score_baselines(columns: Sequence[Column], normal: Cells, rows: Cells, *, seed: int = 0) -> list[Baseline]:
    """Fits four simpler detectors on normal rows and scores others with them; scikit-learn's, at their usual settings.

    1-NN: the distance to the nearest of the normal rows. PCA: the Mahalanobis distance over all principal components
    (not the reconstruction error, which ranked worse on most of 22 tables of ADBench). Isolation forest: 100 trees of 256 rows. Gaussian
    mixture: the negative log-likelihood, 1 to 16 components by the Bayesian information criterion.

    Args:
        columns: The scored columns, in the manifest's order.
        normal: Normal rows; of more than 20,000 that many are drawn, for all four.
        rows: Rows to score, n of them.
        seed: Seed of every draw.

    Raises:
        TooFewRowsError: There are too few normal rows to learn anything from.

    References:
        A Novel Anomaly Detection Scheme Based on Principal Component Classifier (Shyu et al., 2003);
        Isolation Forest (Liu et al., 2008); Estimating the Dimension of a Model (Schwarz, 1978), for the criterion
    """
    n = len(normal.numeric)
    if n < MIN_NORMAL_ROWS:
        raise TooFewRowsError(
            f"{n:,} normal rows are too few for simpler detectors to learn from; name at least {MIN_NORMAL_ROWS} with --normal",
            MIN_NORMAL_ROWS,
        )
    taken = _Taken(normal, drawn_rows(n, seed))
    features = Features.of(columns, taken)
    learnt, state = features(taken), seed % 2**32
    fitted = [
        ("nearest_neighbour", "1-NN", "distance to the nearest normal row", _nearest_neighbour(learnt)),
        ("pca", "PCA", "Mahalanobis distance over all components", _mahalanobis(learnt)),
        ("isolation_forest", "Isolation forest", "100 trees", _isolation_forest(learnt, state)),
        ("gaussian_mixture", "Gaussian mixture", *_gaussian_mixture(learnt, state)),
    ]
    found: list[list[FloatArray]] = [[] for _ in fitted]
    size = max(1, CHUNK_CELLS // max(1, features.width))
    for start in range(0, len(rows.numeric), size):
        chunk = features(_Taken(rows, slice(start, start + size)))
        for scores, (_, _, _, score) in zip(found, fitted, strict=True):
            scores.append(score(chunk))
    return [
        Baseline(key, name, detail, np.concatenate(scores) if scores else np.empty(0))
        for scores, (key, name, detail, _) in zip(found, fitted, strict=True)
    ]


def drawn_rows(n: int, seed: int) -> npt.NDArray[np.int64] | slice:
    """Which of n normal rows are learnt from: all, or as many as there may be, drawn at random."""
    if n <= MAX_NORMAL_ROWS:
        return slice(None)
    return np.sort(np.random.default_rng([seed, _STREAM]).choice(n, MAX_NORMAL_ROWS, replace=False))


class _Taken:
    """Some rows of others."""

    def __init__(self, rows: Cells, which: npt.NDArray[np.int64] | slice) -> None:
        self.numeric, self.categorical = rows.numeric[which], rows.categorical[which]


def _missing(numbers: FloatArray, infinite_is_missing: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    return np.isnan(numbers) | (np.isinf(numbers) & infinite_is_missing)


def _nearest_neighbour(learnt: FloatArray) -> Score:
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=1).fit(learnt)

    def score(rows: FloatArray) -> FloatArray:
        distances: FloatArray = search.kneighbors(rows)[0][:, 0]
        return distances

    return score


def _mahalanobis(learnt: FloatArray) -> Score:
    from sklearn.decomposition import PCA

    found = PCA().fit(learnt)

    def score(rows: FloatArray) -> FloatArray:
        centred = rows - found.mean_
        along = (centred @ found.components_.T) ** 2
        across = np.maximum((centred**2).sum(axis=1) - along.sum(axis=1), 0.0)  # of fewer rows than columns
        squared: FloatArray = (along / (found.explained_variance_ + VARIANCE_FLOOR)).sum(axis=1)
        squared += across / VARIANCE_FLOOR
        return squared

    return score


def _isolation_forest(learnt: FloatArray, state: int) -> Score:
    from sklearn.ensemble import IsolationForest

    forest = IsolationForest(n_estimators=100, random_state=state).fit(learnt)

    def score(rows: FloatArray) -> FloatArray:
        return -np.asarray(forest.score_samples(rows), dtype=np.float64)

    return score


def _gaussian_mixture(learnt: FloatArray, state: int) -> tuple[str, Score]:
    """The mixture whose Bayesian information criterion is lowest; doubling components stops where it rises."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    shape = "full" if learnt.shape[1] <= MAX_FULL_WIDTH else "diag"
    best: Any = None
    lowest = np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a mixture that has not quite settled still ranks
        for k in COMPONENTS:
            if k > 1 and len(learnt) < k * _ROWS_A_COMPONENT:
                break
            mixture = GaussianMixture(k, covariance_type=shape, reg_covar=VARIANCE_FLOOR, random_state=state)
            criterion = mixture.fit(learnt).bic(learnt)
            if best is not None and criterion >= lowest:
                break
            best, lowest = mixture, criterion

    def score(rows: FloatArray) -> FloatArray:
        return -np.asarray(best.score_samples(rows), dtype=np.float64)

    kind = "full" if shape == "full" else "diagonal"
    if best.n_components == 1:
        return f"1 component by BIC, {kind} covariance" + (": ranks as PCA does" if shape == "full" else ""), score
    return f"{best.n_components} components by BIC, {kind} covariances", score
