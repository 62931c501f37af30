"""Anomalous ranges, and whether and when alarms find them: no step is ever credited for its neighbour's alarm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from anomvae.errors import SchemaError, SettingError
from anomvae.evaluation.events import GrowingEvents, count_events
from anomvae.evaluation.measures import clopper_pearson

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

HOUR_S, DAY_S = 3_600.0, 86_400.0
_JITTER = 0.5


class Range(NamedTuple):
    """An anomalous range.

    Attributes:
        series: Code of its series.
        start_s: Time of its first step.
        end_s: Time of its last step.
    """

    series: int
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Ranges:
    """Ranges of steps, in order.

    Attributes:
        first: Position of the first step of each, shape ``(r,)``.
        last: Position of the last step of each, shape ``(r,)``.
    """

    first: IntArray
    last: IntArray

    def __len__(self) -> int:
        return len(self.first)


def find_ranges(flags: BoolArray, series: IntArray) -> Ranges:
    """The longest runs of flagged steps; a run never goes on from one series into the next.

    Args:
        flags: Shape ``(n,)``.
        series: Code of the series of each step, the steps of a series together, shape ``(n,)``.

    Example:
        >>> flags = np.array([True, True, True, False, True])
        >>> found = find_ranges(flags, np.array([0, 0, 1, 1, 1]))
        >>> found.first.tolist(), found.last.tolist()
        ([0, 2, 4], [1, 2, 4])
    """
    if not len(flags):
        return Ranges(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    new = np.append(True, np.diff(series) != 0)
    begins = flags & (new | ~np.append(False, flags[:-1]))
    ends = flags & np.append(new[1:] | ~flags[1:], True)
    return Ranges(np.flatnonzero(begins), np.flatnonzero(ends))


@dataclass(frozen=True, slots=True)
class EventSettings:
    """What counts as one alarm, and as found.

    Attributes:
        alarms_per_day: Alarm events per series and day that the normal part may raise.
        step_s: Length of a step, seconds; None: the median difference of the times.
        tolerance_steps: Alarms at most so many steps apart are one event; 1 merges neighbouring steps only.
        renewal_s: An event that lasts counts once more each time it has gone on for so long (at least a step): else a
            detector that alarms all day would raise one alarm. None: an hour, or a tenth of the mean time between the
            alarms of the budget if that is shorter, so that alarms can fill no more than about a tenth of the time.
        slack_s: An alarm so long after the end of a range, and before the next, still finds it.
        recovery_s: Normal steps so long after a range are left out of the normal part (those in its slack always are).
    """

    alarms_per_day: float = 1.0
    step_s: float | None = None
    tolerance_steps: int = 10
    renewal_s: float | None = None
    slack_s: float = 0.0
    recovery_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("alarms_per_day", "slack_s", "recovery_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingError(f"{name} is {getattr(self, name)}; it must be a number of at least 0")
        if self.step_s is not None and not 0 < self.step_s < math.inf:
            raise SettingError(f"step_s is {self.step_s}; a step must be longer than 0 seconds")
        if self.tolerance_steps < 1:
            raise SettingError(f"tolerance_steps is {self.tolerance_steps}; it must be at least 1 (neighbouring steps)")
        if self.renewal_s is not None and not self.renewal_s > 0:
            raise SettingError(
                f"renewal_s is {self.renewal_s}; it must be more than 0 (inf: a lasting event counts once)"
            )


@dataclass(frozen=True, slots=True)
class LabelledSteps:
    """Steps of one or several series with what is true of them.

    Attributes:
        anomalous: Labels, shape ``(n,)``.
        series: Code of the series of each step: its asset, or its sequence where recordings of an asset are far apart.
        times_s: Times, seconds, shape ``(n,)``; None: the steps of a series follow each other at `step_s` in the order given.
        channel: One sensor's values, missing as NaN, from which each series' period is taken; None: not given.
    """

    anomalous: BoolArray
    series: IntArray
    times_s: FloatArray | None = None
    channel: FloatArray | None = None

    def __post_init__(self) -> None:
        for name in ("series", "times_s", "channel"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.anomalous):
                raise SchemaError(f"there are {len(self.anomalous):,} labels and {len(values):,} of {name}")
        if self.times_s is not None and not np.isfinite(self.times_s).all():
            step = int(np.flatnonzero(~np.isfinite(self.times_s))[0])
            raise SchemaError(f"step {step:,} has no time; leave out steps without one")

    def __len__(self) -> int:
        return len(self.anomalous)

    def order(self) -> IntArray:
        """Positions of the steps by series and time; steps at the same time stay as they are."""
        if self.times_s is None:
            return np.argsort(self.series, kind="stable")
        return np.lexsort((self.times_s, self.series))

    def take(self, steps: IntArray) -> LabelledSteps:
        """The steps named by position."""
        times, channel = (None if values is None else values[steps] for values in (self.times_s, self.channel))
        return LabelledSteps(self.anomalous[steps], self.series[steps], times, channel)


@dataclass(frozen=True, slots=True)
class Detection:
    """What alarms found, and what they cost.

    Attributes:
        ranges: Anomalous ranges.
        detected: Of these, with an alarm.
        recall_low: Lower end of the 95 % interval of the event recall.
        recall_high: Upper end.
        recall_by_chance: Event recall of alarms that come at random as often as in the normal part: long ranges are found by
            any detector that alarms now and then.
        delays_s: Time from the start of each detected range to its first alarm.
        undetected: The others.
        normal_steps: Scored steps of the normal part.
        false_alarms: Of these, alarming.
        false_events: Alarm events in the normal part.
        normal_days: Length of the normal part over all series, days.
    """

    ranges: int
    detected: int
    recall_low: float
    recall_high: float
    recall_by_chance: float
    delays_s: tuple[float, ...]
    undetected: tuple[Range, ...]
    normal_steps: int
    false_alarms: int
    false_events: int
    normal_days: float

    @property
    def recall(self) -> float:
        """Event recall: share of ranges with an alarm."""
        return self.detected / self.ranges

    @property
    def false_alarm_rate(self) -> float:
        """Share of the scored normal steps that alarm; 0 of none."""
        return self.false_alarms / max(1, self.normal_steps)

    @property
    def false_events_per_day(self) -> float:
        """Alarm events per series and day of the normal part; 0 without one."""
        return self.false_events / self.normal_days if self.normal_days else 0.0

    @property
    def delay_median_s(self) -> float | None:
        """Median delay of the detected ranges; None: none was."""
        return float(np.median(self.delays_s)) if self.delays_s else None

    @property
    def delay_mean_s(self) -> float | None:
        """Mean delay of the detected ranges; None: none was."""
        return float(np.mean(self.delays_s)) if self.delays_s else None

    def as_metrics(self, suffix: str = "") -> dict[str, float]:
        """The measures by name; delays are left out where no range was detected.

        Args:
            suffix: Ends each name.
        """
        found = {
            "event_recall": self.recall,
            "event_recall_low": self.recall_low,
            "event_recall_high": self.recall_high,
            "event_recall_by_chance": self.recall_by_chance,
            "delay_median_s": self.delay_median_s,
            "delay_mean_s": self.delay_mean_s,
            "false_alarm_rate": self.false_alarm_rate,
            "false_events_per_day": self.false_events_per_day,
        }
        return {f"{name}{suffix}": float(value) for name, value in found.items() if value is not None}


class Timeline:
    """Labelled steps in order, with their ranges and their normal part: built once, then asked about many detectors.

    Args:
        steps: By series and time, see :meth:`LabelledSteps.order`.
        settings: What counts as one alarm, and as found.

    Attributes:
        times_s: Times, seconds, shape ``(n,)``.
        step_s: Length of a step, seconds.
        ranges: Anomalous ranges.
        normal: Steps of the normal part.

    Raises:
        SchemaError: The steps are out of order.
        SettingError: The length of a step is neither given nor to be seen from the times.
    """

    def __init__(self, steps: LabelledSteps, settings: EventSettings) -> None:
        self.steps, self.settings = steps, settings
        self.step_s = _typical_step(steps) if settings.step_s is None else settings.step_s
        self.times_s = _place_in_series(steps.series) * self.step_s if steps.times_s is None else steps.times_s
        if (np.diff(steps.series) < 0).any() or (np.diff(self.times_s)[np.diff(steps.series) == 0] < 0).any():
            raise SchemaError("the steps are not in order of series and time; sort them first")
        self.ranges = find_ranges(steps.anomalous, steps.series)
        self.normal = ~steps.anomalous
        recovered = self._last_within(max(settings.slack_s, settings.recovery_s))
        for begin, end in zip(self.ranges.last.tolist(), recovered.tolist(), strict=True):
            self.normal[begin : end + 1] = False
        breaks = np.diff(self.normal, prepend=False) | (np.diff(steps.series, prepend=steps.series[:1]) != 0)
        self._part = np.cumsum(breaks)

    @property
    def normal_days(self) -> float:
        """Length of the normal part over all series, days: a step's length for each of its steps."""
        return int(np.sum(self.normal)) * self.step_s / DAY_S

    @property
    def allowed_events(self) -> int:
        """Alarm events that the normal part may raise."""
        return math.floor(self.settings.alarms_per_day * self.normal_days + 1e-9)

    def detect(self, alarm: BoolArray, scored: BoolArray | None = None) -> Detection:
        """Compares alarms with the ranges.

        Args:
            alarm: Shape ``(n,)``, in the order of the steps.
            scored: Which steps were scored at all; None: all.

        Raises:
            SchemaError: There are no ranges.
        """
        if not len(self.ranges):
            raise SchemaError("the labels mark no anomalies, so that none can be found; evaluation needs some")
        alarms = np.append(np.flatnonzero(alarm), len(alarm))
        first, limit = alarms[np.searchsorted(alarms, self.ranges.first)], self._last_within(self.settings.slack_s)
        found = first <= limit
        delays = self.times_s[first[found]] - self.times_s[self.ranges.first[found]]
        scored_normal = self.normal if scored is None else self.normal & scored
        false_events, days = self.count_events(alarm), (limit - self.ranges.first + 1) * self.step_s / DAY_S
        chance = -np.expm1(-days * false_events / self.normal_days) if self.normal_days else np.zeros(1)
        return Detection(
            len(self.ranges),
            int(np.sum(found)),
            *clopper_pearson(int(np.sum(found)), len(self.ranges)),
            recall_by_chance=float(np.mean(chance)),
            delays_s=tuple(delays.tolist()),
            undetected=tuple(self._range(number) for number in np.flatnonzero(~found).tolist()),
            normal_steps=int(np.sum(scored_normal)),
            false_alarms=int(np.sum(alarm & scored_normal)),
            false_events=false_events,
            normal_days=self.normal_days,
        )

    def count_events(self, alarm: BoolArray) -> int:
        """Alarm events in the normal part."""
        steps = np.flatnonzero(alarm & self.normal)
        return count_events(self.times_s[steps], self._part[steps], self._tolerance_s, self._renewal_s)

    def threshold_within_budget(self, score: FloatArray) -> float:
        """The lowest threshold down to which the normal part raises no more alarm events than allowed.

        A step alarms above it. Thresholds are tried from the highest score downwards and the first that raises too many
        events ends the search: events merge again at low thresholds, which must not pay.

        Args:
            score: Shape ``(n,)``, in the order of the steps; NaN never alarms.

        Returns:
            The threshold; minus infinity where the budget allows an alarm at every scored step.
        """
        steps = np.flatnonzero(self.normal & ~np.isnan(score))
        steps = steps[np.argsort(-score[steps], kind="stable")]
        scores = score[steps]
        events = GrowingEvents(self.times_s, self._part, self._tolerance_s, self._renewal_s)
        allowed = self.allowed_events
        ends = np.append(scores[1:] != scores[:-1], True)[: len(scores)]  # equal scores alarm together
        for place, (step, end) in enumerate(zip(steps.tolist(), ends.tolist(), strict=True)):
            events.add(step)
            if end and events.count > allowed:
                return float(scores[place])
        return -math.inf

    @property
    def _tolerance_s(self) -> float:
        return (self.settings.tolerance_steps + _JITTER) * self.step_s

    @property
    def _renewal_s(self) -> float:
        renewal, budget = self.settings.renewal_s, self.settings.alarms_per_day
        if renewal is None:
            renewal = min(HOUR_S, DAY_S / (10 * budget)) if budget else HOUR_S
        return max(renewal, self.step_s)

    def _range(self, number: int) -> Range:
        first, last = int(self.ranges.first[number]), int(self.ranges.last[number])
        return Range(int(self.steps.series[first]), float(self.times_s[first]), float(self.times_s[last]))

    def _last_within(self, after_s: float) -> IntArray:
        """Last step of each range's series that is at most so long after the range and before the next."""
        ranges, times_s = self.ranges, self.times_s
        if not after_s or not len(ranges):
            return ranges.last
        series_ends = np.flatnonzero(np.append(np.diff(self.steps.series) != 0, True))
        ends = series_ends[np.searchsorted(series_ends, ranges.last)]
        ends = np.minimum(ends, np.append(ranges.first[1:] - 1, len(times_s)))
        pairs = zip(ranges.last.tolist(), ends.tolist(), strict=True)
        within = [
            np.searchsorted(times_s[last : end + 1], times_s[last] + after_s, side="right") for last, end in pairs
        ]
        return ranges.last + np.array(within, dtype=np.int64) - 1


def _place_in_series(series: IntArray) -> FloatArray:
    """Number of each step within its series."""
    place = np.arange(len(series))
    starts = np.flatnonzero(np.diff(series, prepend=series[:1] - 1) != 0)
    return (place - np.repeat(starts, np.diff(starts, append=len(series)))).astype(np.float64)


def _typical_step(steps: LabelledSteps) -> float:
    """Median time from step to step within a series."""
    if steps.times_s is None:
        raise SettingError("the steps have no times; say how long a step is (step_s)")
    apart = np.diff(steps.times_s)[np.diff(steps.series) == 0]
    apart = apart[apart > 0]
    if not len(apart):
        raise SettingError("the times do not tell how long a step is, no two steps of a series differ; say it (step_s)")
    return float(np.median(apart))
