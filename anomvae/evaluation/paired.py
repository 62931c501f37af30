"""Two detectors on the same labelled rows: how far apart they rank, with paired intervals.

Anomalies and normal rows are redrawn apart, each as many as there are, and every resample measures all scores on the same
rows: what makes a row hard for all cancels. The interval is the expanded percentile interval: its quantiles are further out
than those of the plain one, by Student's t at the size of the smaller class, without which intervals over few anomalies are
too narrow. Of nearly perfect rankings of few anomalies they are too narrow all the same. With a single anomaly, or a single
normal row, nothing is known: the interval is -1 to 1.

An interval holds for one comparison and one measure, and is not widened for several: that ours is better than every one of
them needs no widening (an intersection-union test); that some one of four is better than ours may be chance in up to a tenth
of cases.

References:
    Comparing the Areas under Two or More Correlated ROC Curves (DeLong et al., 1988), for pairing;
    What Teachers Should Know about the Bootstrap (Hesterberg, 2015), for the expanded percentile interval;
    Multiparameter Hypothesis Testing and Acceptance Sampling (Berger, 1982), for several comparisons
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from anomvae.errors import SchemaError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float64]
    IntArray = npt.NDArray[np.int64]
    BoolArray = npt.NDArray[np.bool_]

RESAMPLES = 1000
CONFIDENCE = 0.95
BLOCK_CELLS = 200_000
"""Rows times resamples worked on at once: few enough to stay in a core's cache."""
_STREAM = 11

Verdict = Literal["ours", "theirs", "alike"]


@dataclass(frozen=True, slots=True)
class Ranking:
    """How well a score ranks anomalies above normal rows.

    Attributes:
        auroc: Area under the ROC curve, 0 to 1; ties count half.
        average_precision: Average precision, 0 to 1.
    """

    auroc: float
    average_precision: float


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference of two measures, ours less theirs, with its paired interval.

    Attributes:
        estimate: The difference on the rows as they are, -1 to 1.
        low: Lower end of the interval.
        high: Upper end.
    """

    estimate: float
    low: float
    high: float

    @property
    def verdict(self) -> Verdict:
        """Who ranks better; `alike` where the interval holds zero.

        Example:
            >>> Difference(0.004, -0.008, 0.016).verdict
            'alike'
        """
        if self.low > 0:
            return "ours"
        return "theirs" if self.high < 0 else "alike"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Another detector beside ours on the same rows.

    Attributes:
        ranking: How the other ranks.
        auroc: Our area under the ROC curve less theirs.
        average_precision: Our average precision less theirs.
    """

    ranking: Ranking
    auroc: Difference
    average_precision: Difference


def ranking(score: FloatArray, anomalous: BoolArray) -> Ranking:
    """Area under the ROC curve and average precision, as scikit-learn defines them.

    Args:
        score: Shape ``(n,)``; higher is stranger.
        anomalous: Labels, shape ``(n,)``.

    Raises:
        SchemaError: There are no anomalies, or nothing else.
    """
    _refuse_one_class(anomalous)
    auroc, precision = _Places(score, anomalous).measures(*_as_they_are(anomalous))
    return Ranking(float(auroc[0]), float(precision[0]))


def compare(
    ours: FloatArray,
    others: Mapping[str, FloatArray],
    anomalous: BoolArray,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> dict[str, Comparison]:
    """Compares a score with others on the same rows by a paired, stratified bootstrap; the module says how.

    Args:
        ours: Shape ``(n,)``; higher is stranger.
        others: Scores of the same rows by name.
        anomalous: Labels, shape ``(n,)``.
        seed: Seed of the draws.
        resamples: How many.
        confidence: Of each interval, by itself.

    Raises:
        SchemaError: There are no anomalies, or nothing else.
    """
    _refuse_one_class(anomalous)
    places = [_Places(score, anomalous) for score in (ours, *others.values())]
    whole = np.array([place.measures(*_as_they_are(anomalous)) for place in places])[:, :, 0]
    redrawn = _resampled(places, anomalous, resamples, seed)
    level = _tail(min(int(anomalous.sum()), int((~anomalous).sum())), confidence)
    found = {}
    for number, name in enumerate(others, start=1):
        estimates, draws = whole[0] - whole[number], redrawn[0] - redrawn[number]
        auroc, precision = (
            _difference(float(estimate), drawn, level) for estimate, drawn in zip(estimates, draws, strict=True)
        )
        found[name] = Comparison(Ranking(*map(float, whole[number])), auroc, precision)
    return found


class _Places:
    """Where a score puts anomalies and normal rows among one another: all that resampling needs of it.

    Both measures depend on the order alone, and on normal rows only by the anomalies between which they fall: a resample
    is counted, not sorted.

    Args:
        score: Shape ``(n,)``.
        anomalous: Labels, shape ``(n,)``.
    """

    def __init__(self, score: FloatArray, anomalous: BoolArray) -> None:
        levels = np.unique(score[anomalous])
        low, high = (np.searchsorted(levels, score[~anomalous], side) for side in ("left", "right"))
        self.levels = len(levels)
        self.of_anomaly = self.levels - 1 - np.searchsorted(levels, score[anomalous])
        """Level of each anomaly, 0 the strangest."""
        self.of_normal = 2 * (self.levels - high) + (high > low)
        """2j where a normal row lies right above level j, 2j + 1 where it ties with it."""

    def measures(self, anomalies: IntArray, normal: IntArray) -> tuple[FloatArray, FloatArray]:
        """Both measures of resamples.

        Args:
            anomalies: Numbers of the anomalies drawn, shape ``(b, p)``.
            normal: Numbers of the normal rows drawn, shape ``(b, m)``.

        Returns:
            Areas under the ROC curve and average precisions, each of shape ``(b,)``.
        """
        hits = _counts(self.of_anomaly[anomalies], self.levels)
        passed = _counts(self.of_normal[normal], 2 * self.levels + 1).cumsum(axis=1)
        above, reached = passed[:, 0:-1:2], passed[:, 1::2]
        found = hits.cumsum(axis=1)
        p, m = anomalies.shape[1], normal.shape[1]
        auroc = 1.0 - (hits * (above + reached)).sum(axis=1) / (2.0 * p * m)
        precision = (hits * (found / np.maximum(found + reached, 1))).sum(axis=1) / p
        return auroc, precision


def _resampled(places: list[_Places], anomalous: BoolArray, resamples: int, seed: int) -> FloatArray:
    """Measures of every score on the same resamples, shape ``(scores, 2, resamples)``."""
    draw = np.random.default_rng([seed, _STREAM])
    p, m = int(anomalous.sum()), int((~anomalous).sum())
    size = max(1, BLOCK_CELLS // len(anomalous))
    blocks = []
    for start in range(0, resamples, size):
        b = min(size, resamples - start)
        drawn = draw.integers(0, p, (b, p)), draw.integers(0, m, (b, m))
        blocks.append(np.array([place.measures(*drawn) for place in places]))
    return np.concatenate(blocks, axis=2)


def _difference(estimate: float, draws: FloatArray, level: float | None) -> Difference:
    if level is None:
        return Difference(estimate, -1.0, 1.0)
    low, high = np.quantile(draws, [level, 1.0 - level])
    return Difference(estimate, float(low), float(high))


def _tail(n: int, confidence: float) -> float | None:
    """Share of resamples beyond each end of an expanded percentile interval; None where nothing is known."""
    from scipy.stats import norm, t

    if n < 2:  # noqa: PLR2004  no variance from one row
        return None
    return float(norm.cdf(np.sqrt(n / (n - 1)) * t.ppf((1.0 - confidence) / 2.0, n - 1)))


def _counts(values: IntArray, n: int) -> IntArray:
    """How often each of 0 to n - 1 stands in each row of values, shape ``(b, n)``."""
    b = len(values)
    return np.bincount((values + n * np.arange(b)[:, None]).ravel(), minlength=b * n).reshape(b, n)


def _as_they_are(anomalous: BoolArray) -> tuple[IntArray, IntArray]:
    """The resample that draws every row once."""
    return np.arange(int(anomalous.sum()))[None], np.arange(int((~anomalous).sum()))[None]


def _refuse_one_class(anomalous: BoolArray) -> None:
    if anomalous.all() or not anomalous.any():
        missing = "normal rows" if len(anomalous) and anomalous.all() else "anomalies"
        raise SchemaError(f"there are no {missing} to compare detectors on; a comparison needs both")
