"""The few numbers the report works out itself: intervals, checks of sameness, curves over thresholds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import kolmogorov
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from anomvae.evaluation import clopper_pearson

if TYPE_CHECKING:
    from anomvae.report.contents import FloatArray, ScoredRows


@dataclass(frozen=True, slots=True)
class Share:
    """A share with its 95 % interval.

    Attributes:
        hits: How many.
        n: Of how many.
    """

    hits: int
    n: int

    @property
    def value(self) -> float:
        """The share; NaN of nothing."""
        return self.hits / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Clopper-Pearson 95 % interval: never narrower than it may be.

        Example:
            >>> low, high = Share(5, 100).interval
            >>> round(low, 4), round(high, 4)
            (0.0164, 0.1128)
        """
        return clopper_pearson(self.hits, self.n)


@dataclass(frozen=True, slots=True)
class Ranking:
    """How well a score ranks anomalies above normal rows.

    Attributes:
        auroc: Area under the ROC curve: chance that an anomaly scores above a normal row.
        average_precision: Area under the precision-recall curve.
        false_alarms: False-alarm rates of the ROC curve, ascending.
        found: Shares of anomalies found at those.
        recall: Recalls of the precision-recall curve, ascending.
        precision: Precisions at those.
    """

    auroc: float
    average_precision: float
    false_alarms: FloatArray
    found: FloatArray
    recall: FloatArray
    precision: FloatArray


def ranking(normal: FloatArray, anomalies: FloatArray) -> Ranking | None:
    """Ranking curves of a score; None where a side has no rows.

    Infinite scores rank first or last, rows without a score (NaN) are left out.

    Args:
        normal: Scores of normal rows.
        anomalies: Scores of labelled anomalies.
    """
    normal, anomalies = normal[~np.isnan(normal)], anomalies[~np.isnan(anomalies)]
    if not len(normal) or not len(anomalies):
        return None
    largest = float(np.finfo(np.float64).max)
    score = np.clip(np.concatenate([normal, anomalies]), -largest, largest)
    truth = np.repeat([0, 1], [len(normal), len(anomalies)])
    false_alarms, found, _ = roc_curve(truth, score)
    precision, recall, _ = precision_recall_curve(truth, score, drop_intermediate=True)
    return Ranking(
        float(roc_auc_score(truth, score)),
        float(average_precision_score(truth, score)),
        false_alarms,
        found,
        recall[::-1],
        precision[::-1],
    )


def above(first: FloatArray, second: FloatArray) -> float:
    """Chance that a row of the second scores above a row of the first, ties counting half; NaN without rows."""
    first, second = first[~np.isnan(first)], second[~np.isnan(second)]
    if not len(first) or not len(second):
        return math.nan
    ordered = np.sort(first)
    below = np.searchsorted(ordered, second, "left") + np.searchsorted(ordered, second, "right")
    return float(below.mean() / 2 / len(first))


def sameness(first: FloatArray, second: FloatArray) -> tuple[float, float]:
    """Two-sample Kolmogorov-Smirnov: largest gap of the two distribution functions and its p-value (asymptotic).

    The gap is NaN where a side has no rows.
    """
    first, second = np.sort(first[~np.isnan(first)]), np.sort(second[~np.isnan(second)])
    if not len(first) or not len(second):
        return math.nan, 1.0
    both = np.concatenate([first, second])
    gap = np.searchsorted(first, both, "right") / len(first) - np.searchsorted(second, both, "right") / len(second)
    largest = float(np.abs(gap).max())
    return largest, float(kolmogorov(largest * math.sqrt(len(first) * len(second) / (len(first) + len(second)))))


def normal_rows(*parts: ScoredRows) -> ScoredRows:
    """Parts as one."""
    return type(parts[0])(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in (
                "score",
                "reconstruction_error",
                "p_value",
                "p_value_reconstruction",
                "p_value_verdict",
                "alarm",
                "contribution",
                "latent",
            )
        )
    )
