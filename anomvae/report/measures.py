"""The few numbers the report works out itself: intervals, checks of sameness, curves over thresholds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.special import betaincinv, kolmogorov
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
    """Two-sample Kolmogorov-Smirnov: largest gap of the two distribution functions and its p-value (asymptotic)."""
    first, second = np.sort(first[~np.isnan(first)]), np.sort(second[~np.isnan(second)])
    if not len(first) or not len(second):
        return 0.0, 1.0
    both = np.concatenate([first, second])
    gap = np.searchsorted(first, both, "right") / len(first) - np.searchsorted(second, both, "right") / len(second)
    largest = float(np.abs(gap).max())
    return largest, float(kolmogorov(largest * math.sqrt(len(first) * len(second) / (len(first) + len(second)))))


def rate_interval(rows: int, alarm_rate: float) -> tuple[float, float]:
    r"""Where the alarm rate in service lies, with 95 % confidence, given one draw of calibration rows.

    .. math:: \text{rate} \sim \mathrm{Beta}(k, m + 1 - k), \quad k = \lfloor \alpha (m + 1) \rfloor

    Args:
        rows: Calibration rows, m.
        alarm_rate: Stated rate.

    References:
        Testing for Outliers with Conformal p-values (Bates et al., 2023), arXiv:2104.08279
    """
    k = math.floor(alarm_rate * (rows + 1) + 1e-9)
    if k <= 0:
        return 0.0, 0.0
    if k > rows:
        return 1.0, 1.0
    return float(betaincinv(k, rows + 1 - k, 0.025)), float(betaincinv(k, rows + 1 - k, 0.975))


def deciding_p(rows: ScoredRows, decision: Literal["elbo", "reconstruction", "either"]) -> FloatArray:
    """The p-value that the verdict compares with the alarm rate; of two at half the rate each, twice the smaller."""
    if decision == "elbo":
        return rows.p_value
    if decision == "reconstruction":
        return rows.p_value_reconstruction
    return np.asarray(np.minimum(1.0, 2 * np.minimum(rows.p_value, rows.p_value_reconstruction)), dtype=np.float64)


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
                "alarm",
                "contribution",
                "latent",
            )
        )
    )
