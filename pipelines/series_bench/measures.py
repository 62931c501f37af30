"""What scores and verdicts of a data set are worth, as figures by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from anomvae.evaluation.ranges import EventSettings, LabelledSteps
from anomvae.evaluation.series import SeriesSettings, evaluate_series

if TYPE_CHECKING:
    import numpy.typing as npt

    from pipelines.series_bench.sources import Dataset

    Floats = npt.NDArray[np.float64]
    Bools = npt.NDArray[np.bool_]

TAKEN = ("vus_pr", "vus_roc", "buffer_steps", "ranges", "normal_days", "event_recall_at_budget", "event_recall_by_chance_at_budget",
         "delay_median_s_at_budget", "false_events_per_day_at_budget")  # fmt: skip


def ranking_figures(score: Floats, data: Dataset) -> dict[str, float]:
    """Ranking, run by run, and what is found at the budget of alarms.

    Args:
        score: Of the scored rows, NaN where there is none, shape ``(n,)``.
        data: The rows.
    """
    judged = data.judged
    runs = data.assets[judged]
    steps = LabelledSteps(
        data.anomalous[judged], runs, data.times_s[judged], data.scored[data.channels[0]].to_numpy(np.float64)[judged]
    )
    settings = SeriesSettings(EventSettings(alarms_per_day=data.alarms_per_day))
    found = evaluate_series(score[judged], None, steps, settings).as_metrics()
    areas = _areas(score[judged], steps.anomalous, runs)
    figures = {"auroc": areas[0], "average_precision": areas[1], "runs_ranked": areas[2]}
    figures |= {name: found[name] for name in TAKEN if name in found}
    return figures | {"unscored": found["unscored"], "pooled_auroc": found["auroc"]}


def _areas(score: Floats, anomalous: Bools, runs: npt.NDArray[np.int64]) -> tuple[float, float, int]:
    """AUROC and average precision, means over the runs that have anomalies and others, and how many these are."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    score = np.where(np.isnan(score), -np.inf, score)
    found = []
    for run in np.unique(runs):
        own = runs == run
        if 0 < anomalous[own].sum() < own.sum():
            ranks = np.unique(score[own], return_inverse=True)[1]
            found.append((roc_auc_score(anomalous[own], ranks), average_precision_score(anomalous[own], ranks)))
    auroc, precision = np.mean(found, axis=0)
    return float(auroc), float(precision), len(found)


def alarm_figures(alarm: Bools, scored: Bools, data: Dataset) -> dict[str, float]:
    """Shares of the normal judged rows that alarm: of all, after each asset's first day (where there is more), and by asset.

    Args:
        alarm: Verdicts, shape ``(n,)``.
        scored: Which rows were scored at all, shape ``(n,)``.
        data: The rows.
    """
    normal = data.judged & ~data.anomalous & scored
    later = normal & ~data.first_day
    assets = data.assets
    by_asset = [float(alarm[own].mean()) for code in np.unique(assets) if (own := normal & (assets == code)).any()]
    figures: dict[str, float] = {
        "normal": int(normal.sum()),
        "alarms": int((alarm & normal).sum()),
        "later_normal": int(later.sum()),
        "later_alarms": int((alarm & later).sum()),
    }
    if by_asset:
        least, median, most = np.quantile(by_asset, (0.0, 0.5, 1.0)).tolist()
        figures |= {"asset_least": least, "asset_median": median, "asset_most": most}
    return figures
