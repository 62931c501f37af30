"""Ranking and decision measures, from scikit-learn and SciPy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from anomvae.errors import SchemaError

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Measures on labelled rows.

    Attributes:
        rows: Rows evaluated.
        anomalies: Of these, anomalous.
        auroc: Area under the ROC curve of the score.
        average_precision: Average precision of the score.
        auroc_reconstruction: Area under the ROC curve of the reconstruction error.
        average_precision_reconstruction: Its average precision.
        alarm_rate: Stated share of normal rows that may alarm.
        recall: Share of anomalies that alarm.
        recall_low: Lower end of its 95 % interval.
        recall_high: Upper end.
        false_alarm_rate: Share of normal rows that alarm.
        false_alarm_low: Lower end of its 95 % interval.
        false_alarm_high: Upper end.
        precision: Share of alarms that are anomalies; 0 without alarms.
    """

    rows: int
    anomalies: int
    auroc: float
    average_precision: float
    auroc_reconstruction: float
    average_precision_reconstruction: float
    alarm_rate: float
    recall: float
    recall_low: float
    recall_high: float
    false_alarm_rate: float
    false_alarm_low: float
    false_alarm_high: float
    precision: float

    def as_metrics(self) -> dict[str, float]:
        """The measures by name."""
        return {name: float(value) for name, value in asdict(self).items()}


def evaluate(
    score: npt.NDArray[np.float64],
    reconstruction_error: npt.NDArray[np.float64],
    alarm: npt.NDArray[np.bool_],
    anomalous: npt.NDArray[np.bool_],
    alarm_rate: float,
) -> Evaluation:
    """Evaluates scores and verdicts against labels.

    Args:
        score: Shape ``(n,)``; higher is stranger.
        reconstruction_error: Shape ``(n,)``.
        alarm: Verdicts, shape ``(n,)``.
        anomalous: Labels, shape ``(n,)``.
        alarm_rate: The stated rate.

    Raises:
        SchemaError: There are no anomalies, or nothing else, so that nothing can be ranked.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    hits, n_anomalies, n = int(np.sum(alarm & anomalous)), int(np.sum(anomalous)), len(anomalous)
    if not 0 < n_anomalies < n:
        missing = "anomalies" if n_anomalies == 0 else "normal rows"
        raise SchemaError(
            f"the label column marks no {missing}, so that nothing can be compared; evaluation needs both"
        )
    false_alarms, n_normal = int(np.sum(alarm & ~anomalous)), n - n_anomalies
    recall_low, recall_high = clopper_pearson(hits, n_anomalies)
    false_low, false_high = clopper_pearson(false_alarms, n_normal)
    return Evaluation(
        rows=n,
        anomalies=n_anomalies,
        auroc=float(roc_auc_score(anomalous, score)),
        average_precision=float(average_precision_score(anomalous, score)),
        auroc_reconstruction=float(roc_auc_score(anomalous, reconstruction_error)),
        average_precision_reconstruction=float(average_precision_score(anomalous, reconstruction_error)),
        alarm_rate=alarm_rate,
        recall=hits / n_anomalies,
        recall_low=recall_low,
        recall_high=recall_high,
        false_alarm_rate=false_alarms / n_normal,
        false_alarm_low=false_low,
        false_alarm_high=false_high,
        precision=hits / max(1, hits + false_alarms),
    )


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval of a binomial share.

    Args:
        successes: Count.
        trials: Out of; 0 gives (0, 1).
        confidence: Of the interval.

    References:
        The Use of Confidence or Fiducial Limits (Clopper and Pearson, 1934)
    """
    from scipy.stats import binomtest

    if trials == 0:
        return 0.0, 1.0
    interval = binomtest(successes, trials).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)
