"""How a detector does on labelled series: ranking, events found at a budget of alarms, and its own verdicts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from anomvae.errors import SchemaError, SettingError
from anomvae.evaluation.ranges import Detection, EventSettings, LabelledSteps, Timeline
from anomvae.evaluation.vus import DEFAULT_BUFFER, find_period, volume_under_surface, volumes_by_series

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from anomvae.evaluation.vus import Volume

    FloatArray = npt.NDArray[np.float64]
    BoolArray = npt.NDArray[np.bool_]

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SeriesSettings:
    """How series are evaluated.

    Attributes:
        events: What counts as one alarm, and as found; the budget of alarms.
        buffer_steps: Longest buffer of VUS; None: the period of each series' `channel`, 100 without a channel.
        volume: VUS as the mean over the series that have anomalies, each ranked by itself; or of all ranked together
            (then the default buffer is the median period).
        alarm_rate: Stated share of normal steps that may alarm, at which the verdicts are given; None: not told.
        unit: Of the times, in words, where nobody knows how many a second has: then nothing is told by the day. None: seconds.
    """

    events: EventSettings = field(default_factory=EventSettings)
    buffer_steps: int | None = None
    volume: Literal["mean", "pooled"] = "mean"
    alarm_rate: float | None = None
    unit: str | None = None

    def __post_init__(self) -> None:
        if self.buffer_steps is not None and self.buffer_steps < 0:
            raise SettingError(f"buffer_steps is {self.buffer_steps:,}; it must be at least 0")
        if self.volume not in {"mean", "pooled"}:
            raise SettingError(f"volume is {self.volume!r}; it must be 'mean' or 'pooled'")


@dataclass(frozen=True, slots=True)
class SeriesEvaluation:
    """Measures on labelled series.

    No measure is point-adjusted: an alarm counts for the step it stands at, and a range is found once or not at all.

    Attributes:
        steps: Steps evaluated.
        anomalies: Of these, anomalous.
        unscored: Steps without a score: they count as least strange and never alarm.
        series: Series.
        series_ranked: Series with both anomalous and normal steps, over which VUS is a mean.
        auroc: Area under the ROC curve of the steps' scores, all series together.
        average_precision: Their average precision.
        vus: Volumes under the surface.
        vus_by_series: Each series', by its code; empty where all are ranked together.
        buffer_steps: Longest buffer; the median over the series.
        alarms_per_day: The budget: alarm events per series and day of the normal part.
        allowed_events: What it comes to over the whole of the normal part.
        threshold: Score above which steps alarm at the budget.
        at_budget: What these alarms find.
        alarm_rate: Stated share of normal steps that may alarm; None: not told.
        verdict: What the detector's own alarms find; None: it gave none.
        unit: As it was stated.
    """

    steps: int
    anomalies: int
    unscored: int
    series: int
    series_ranked: int
    auroc: float
    average_precision: float
    vus: Volume
    vus_by_series: Mapping[int, Volume]
    buffer_steps: float
    alarms_per_day: float
    allowed_events: int
    threshold: float
    at_budget: Detection
    alarm_rate: float | None
    verdict: Detection | None
    unit: str | None = None

    def as_metrics(self) -> dict[str, float]:
        """The measures by name; those that there are not (a delay where nothing was detected) are left out.

        In a unit that nobody knows, delays are `delay_median` and `delay_mean`, and events are counted by steps.
        """
        metrics: dict[str, float] = {
            "steps": self.steps,
            "anomalies": self.anomalies,
            "unscored": self.unscored,
            "series": self.series,
            "ranges": self.at_budget.ranges,
            "normal_days": self.at_budget.normal_days,
            "auroc": self.auroc,
            "average_precision": self.average_precision,
            "vus_pr": self.vus.pr,
            "vus_roc": self.vus.roc,
            "buffer_steps": self.buffer_steps,
            "alarms_per_day": self.alarms_per_day,
        }
        metrics |= self.at_budget.as_metrics("_at_budget")
        if self.alarm_rate is not None:
            metrics["alarm_rate"] = self.alarm_rate
        if self.verdict is not None:
            metrics |= self.verdict.as_metrics()
        if self.unit is not None:
            metrics |= {"false_events_per_1000_steps": _by_steps(self.verdict or self.at_budget)}
            by_day = ("normal_days", "false_events_per_day")
            metrics = {_without_seconds(name): value for name, value in metrics.items() if not name.startswith(by_day)}
        return {name: float(value) for name, value in metrics.items()}

    def headline(self) -> str:
        """What was evaluated, in a line."""
        ranges, series = self.at_budget.ranges, self.series
        told = (
            f"{self.steps:,} steps of {series:,} series: {self.anomalies:,} anomalous in {_many(ranges, 'range')}, "
            f"{self.steps - self.anomalies:,} normal"
        )
        return f"{told}; {self.unscored:,} without a score count as least strange" if self.unscored else told

    def ranking_rows(self) -> list[Row]:
        """Rows of a table: by what is ranked, the area under ROC, and under precision and recall."""
        buffers = f"ranges, buffers up to {self.buffer_steps:g} steps"
        return [
            ("steps", f"{self.auroc:.4f}", f"{self.average_precision:.4f}"),
            (buffers, f"{self.vus.roc:.4f}", f"{self.vus.pr:.4f}"),
        ]

    def detection_rows(self) -> list[Row]:
        """Rows of a table: a measure, what it is at the budget of alarms, and by the detector's verdicts (if it gave any)."""
        columns = [self.at_budget] if self.verdict is None else [self.at_budget, self.verdict]
        cells = [_cells(found, self.unit) for found in columns]
        of = "" if self.unit is None else f", {self.unit}"
        names = (
            "ranges found",
            "95 % interval",
            "ranges found by chance",
            f"delay, median{of}",
            f"delay, mean{of}",
            "normal steps that alarm",
            "false events per series and day" if self.unit is None else "false events per 1,000 normal steps",
        )
        return [(name, *(cell[number] for cell in cells)) for number, name in enumerate(names)]

    def detection_columns(self) -> Row:
        """Headings of :meth:`detection_rows`."""
        budget = f"at {self.alarms_per_day:g} {'alarm' if self.alarms_per_day == 1 else 'alarms'} a day"
        if self.unit is not None and not self.alarms_per_day:
            budget = "at no false alarm"
        if self.verdict is None:
            return ("measure", budget)
        stated = "verdicts" if self.alarm_rate is None else f"verdicts at {self.alarm_rate:.2%}"
        return ("measure", budget, stated)


def evaluate_series(
    score: FloatArray, alarm: BoolArray | None, steps: LabelledSteps, settings: SeriesSettings | None = None
) -> SeriesEvaluation:
    """Evaluates scores and verdicts of time steps against labels.

    Args:
        score: Shape ``(n,)``; higher is stranger. NaN: the step was not scored; it counts as least strange and never alarms.
        alarm: The detector's verdicts, shape ``(n,)``; None: it gives none.
        steps: Labels, series and times, in any order.
        settings: How; None: the defaults.

    Raises:
        SchemaError: There are no anomalies, or nothing else, or no series with both; or the lengths differ.
        SettingError: The length of a step is neither given nor to be seen from the times.
    """
    from scipy.stats import rankdata
    from sklearn.metrics import average_precision_score, roc_auc_score

    settings = settings or SeriesSettings()
    _check(score, alarm, steps)
    order = steps.order()
    steps, score = steps.take(order), np.asarray(score[order], dtype=np.float64)
    scored = ~np.isnan(score)
    timeline = Timeline(steps, settings.events)
    ranks = rankdata(np.where(scored, score, -np.inf), method="dense")
    volume, by_series, buffers = _volumes(score, steps, settings)
    threshold = timeline.threshold_within_budget(score)
    with np.errstate(invalid="ignore"):
        above = score > threshold
    return SeriesEvaluation(
        steps=len(steps),
        anomalies=int(np.sum(steps.anomalous)),
        unscored=int(np.sum(~scored)),
        series=len(buffers),
        series_ranked=len(by_series) or len(buffers),
        auroc=float(roc_auc_score(steps.anomalous, ranks)),
        average_precision=float(average_precision_score(steps.anomalous, ranks)),
        vus=volume,
        vus_by_series=by_series,
        buffer_steps=float(np.median(list(buffers.values()))),
        alarms_per_day=settings.events.alarms_per_day,
        allowed_events=timeline.allowed_events,
        threshold=threshold,
        at_budget=timeline.detect(above, scored),
        alarm_rate=settings.alarm_rate,
        verdict=None if alarm is None else timeline.detect(alarm[order] & scored, scored),
        unit=settings.unit,
    )


def duration_words(seconds: float | None) -> str:
    """A delay in the unit that fits it.

    Example:
        >>> duration_words(7.31), duration_words(200), duration_words(8000), duration_words(None)
        ('7.3 s', '3.3 min', '2.2 h', '-')
    """
    if seconds is None:
        return "-"
    for unit, length in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def _check(score: FloatArray, alarm: BoolArray | None, steps: LabelledSteps) -> None:
    """The arrays are of one length, and there is something to compare."""
    for name, values in (("scores", score), ("verdicts", alarm)):
        if values is not None and len(values) != len(steps):
            raise SchemaError(f"there are {len(values):,} {name} and {len(steps):,} labelled steps")
    n_anomalous = int(np.sum(steps.anomalous))
    if not 0 < n_anomalous < len(steps):
        missing = "anomalies" if n_anomalous == 0 else "normal steps"
        raise SchemaError(
            f"the label column marks no {missing}, so that nothing can be compared; evaluation needs both"
        )


def _volumes(
    score: FloatArray, steps: LabelledSteps, settings: SeriesSettings
) -> tuple[Volume, Mapping[int, Volume], dict[int, int]]:
    """VUS, that of each series, and each series' longest buffer."""
    buffers = {}
    for code in np.unique(steps.series).tolist():
        if settings.buffer_steps is not None:
            buffers[code] = settings.buffer_steps
        elif steps.channel is None:
            buffers[code] = DEFAULT_BUFFER
        else:
            buffers[code] = find_period(steps.channel[steps.series == code])
    if settings.volume == "pooled":
        longest = int(np.median(list(buffers.values())))
        return volume_under_surface(score, steps.anomalous, longest, series=steps.series), {}, buffers
    volumes = volumes_by_series(score, steps.anomalous, steps.series, buffers)
    return volumes.mean, volumes.by_series, buffers


def _cells(found: Detection, unit: str | None) -> Row:
    """A column of the table of what was detected."""
    delays = (found.delay_median_s, found.delay_mean_s)
    return (
        f"{found.detected:,} of {found.ranges:,} ({found.recall:.2%})",
        f"{found.recall_low:.2%} to {found.recall_high:.2%}",
        f"{found.recall_by_chance:.2%}",
        *(duration_words(delay) if unit is None or delay is None else f"{delay:,.4g}" for delay in delays),
        f"{found.false_alarm_rate:.2%}",
        f"{found.false_events_per_day:.2f}" if unit is None else f"{_by_steps(found):.2f}",
    )


def _by_steps(found: Detection) -> float:
    """Alarm events per thousand steps of the normal part; 0 without one."""
    return 1_000 * found.false_events / max(1, found.normal_steps)


def _without_seconds(name: str) -> str:
    """A measure's name where its unit is not seconds."""
    return name.replace("_median_s", "_median").replace("_mean_s", "_mean")


def _many(count: int, thing: str) -> str:
    """A count with its noun."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"
