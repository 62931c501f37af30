"""What the reports of series show, as plain arrays: nothing here knows torch, files or HTML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anomvae.bundle import Manifest, TrainingRecord
    from anomvae.data.concerns import Concern
    from anomvae.data.series import Sequences
    from anomvae.report.contents import FloatArray, IntArray

BoolArray = npt.NDArray[np.bool_]
VALIDATION, CALIBRATION, SCORED = "validation", "calibration", "scored"


@dataclass(frozen=True, slots=True)
class JudgedSteps:
    """Verdicts on the steps of rows laid out in sequences: m steps, a assets.

    Attributes:
        sequences: The rows, laid out.
        score: What decides, the score or the reconstruction error, NaN where a step has none, shape ``(m,)``.
        p_value: Of the verdict, likewise.
        alarm: The verdicts, shape ``(m,)``.
        threshold: What decides is held against it, by asset; NaN: not known; shape ``(a,)``.
        part: Place in `parts` of what each step is part of, -1: not to be shown; shape ``(m,)``.
        parts: Names: `validation` and `calibration`, or `scored`.
        truth: Steps labelled as anomalous, shape ``(m,)``; None: no labels.
    """

    sequences: Sequences
    score: FloatArray
    p_value: FloatArray
    alarm: BoolArray
    threshold: FloatArray
    part: npt.NDArray[np.int8]
    parts: tuple[str, ...]
    truth: BoolArray | None = None

    @property
    def known(self) -> IntArray:
        """Positions of the steps that have a verdict and may be shown."""
        return np.flatnonzero(np.isfinite(self.score) & (self.part >= 0))

    @property
    def excess(self) -> FloatArray:
        """How far above the threshold of its asset each step is; above 0 where no threshold is known."""
        threshold = self.threshold[self.sequences.asset]
        excess: FloatArray = self.score - np.where(np.isfinite(threshold), threshold, 0.0)
        return excess


@dataclass(frozen=True, slots=True)
class StrangeStretch:
    """A strange stretch of one sequence: t steps of d channels.

    Attributes:
        asset: Its name, empty where there is but one.
        part: What the step at `peak` is part of.
        time_s: Time of each step, shape ``(t,)``.
        row: Row number of each step in the data as read, from 1; 0: the step is missing; shape ``(t,)``.
        observed: Raw units, NaN where missing, shape ``(t, d)``.
        expected: What was expected, raw units, shape ``(t, d)``; NaN: nothing is known.
        deviation: One standard deviation of it, shape ``(t, d)``.
        contribution: What each channel adds to the score above what it usually adds, shape ``(t, d)``.
        score: Shape ``(t,)``, NaN where missing.
        threshold: Alarms lie above; NaN: not known.
        alarm: Shape ``(t,)``.
        p_value: Of the step at `peak`.
        peak: Position of the strangest step.
        span_s: Times of the first and the last alarm around `peak`, which may lie beyond the stretch; NaN without an alarm.
        truth: Steps labelled as anomalous, shape ``(t,)``; None: no labels.
    """

    asset: str
    part: str
    time_s: FloatArray
    row: IntArray
    observed: FloatArray
    expected: FloatArray
    deviation: FloatArray
    contribution: FloatArray
    score: FloatArray
    threshold: float
    alarm: BoolArray
    p_value: float
    peak: int
    span_s: tuple[float, float] = (float("nan"), float("nan"))
    truth: BoolArray | None = None


@dataclass(frozen=True, slots=True)
class AssetTrace:
    """Scores of one asset's steps in order of time, k steps.

    Attributes:
        asset: Its name.
        time_s: Shape ``(k,)``.
        sequence: Number of each step's sequence, shape ``(k,)``.
        score: NaN where a step has none, shape ``(k,)``.
        alarm: Shape ``(k,)``.
        threshold: NaN: not known.
        part: Name of each step's part, by its place in `parts`, shape ``(k,)``.
        parts: Names.
        truth: Steps labelled as anomalous; None: no labels.
    """

    asset: str
    time_s: FloatArray
    sequence: IntArray
    score: FloatArray
    alarm: BoolArray
    threshold: float
    part: npt.NDArray[np.int8]
    parts: tuple[str, ...]
    truth: BoolArray | None = None


@dataclass(frozen=True, slots=True)
class ChannelShare:
    """What a channel adds.

    Attributes:
        channel: Its name.
        usual: What it adds to the score of an ordinary step, the median.
        strange: Its share of what alarming steps have above that.
    """

    channel: str
    usual: float
    strange: float


@dataclass(frozen=True, slots=True)
class CheckedSteps:
    """P-values of steps in order of time, k steps.

    Attributes:
        name: What they are, in a few words.
        p_value: Shape ``(k,)``.
        segment: Number of each step's sequence, shape ``(k,)``.
        asset: Number of each step's asset, shape ``(k,)``.
    """

    name: str
    p_value: FloatArray
    segment: IntArray
    asset: IntArray

    def of(self, asset: int) -> CheckedSteps:
        """Those of one asset."""
        chosen = self.asset == asset
        return CheckedSteps(self.name, self.p_value[chosen], self.segment[chosen], self.asset[chosen])


@dataclass(frozen=True, slots=True)
class SeriesReport:
    """All that the report of a fit shows.

    Attributes:
        manifest: Of a detector of series.
        record: Parameters, metrics and curves by member.
        stretches: The strangest of the held-out steps, strangest first.
        traces: Scores over time, the assets with the worst step first.
        more_assets: Assets that are not drawn.
        shares: By channel, the strangest first.
        checks: Validation steps, each judged by all windows that cover it, then by its past.
        calibration: The calibration steps, by all windows that cover them.
        assets: Names of the assets, by their numbers in `checks` and `calibration`.
        concerns: What stands out in the data.
        warnings: Sentences a reader must see first.
    """

    manifest: Manifest
    record: TrainingRecord
    stretches: tuple[StrangeStretch, ...]
    traces: tuple[AssetTrace, ...]
    more_assets: int
    shares: tuple[ChannelShare, ...]
    checks: tuple[CheckedSteps, CheckedSteps]
    calibration: CheckedSteps
    assets: tuple[str, ...]
    concerns: tuple[Concern, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AlarmRun:
    """Alarms of an asset that follow one another.

    Attributes:
        asset: Its name.
        begin_s: Time of the first.
        end_s: Time of the last.
        first: Row number of the first, from 1.
        last: Row number of the last.
        alarms: How many there are.
        peak: Highest score.
        p_value: The smallest.
        channels: Those that add most to the strangest step, strongest first.
    """

    asset: str
    begin_s: float
    end_s: float
    first: int
    last: int
    alarms: int
    peak: float
    p_value: float
    channels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ScoredSeries:
    """All that the report of a scored table shows.

    Attributes:
        manifest: Of the detector that scored it.
        name: Where the rows came from.
        rows: Rows read.
        scored: Of these, with a score.
        alarms: Of these, alarms.
        alarm_rate: Stated share of normal rows that may alarm.
        past_only: Whether each step was judged by its past alone.
        unscored: Rows without a score, by reason.
        labelled: Rows labelled as anomalous; None: no labels.
        stretches: The strangest, strangest first.
        traces: Scores over time, the assets with the worst step first.
        more_assets: Assets that are not drawn.
        shares: By channel, the strangest first.
        runs: Alarms that follow one another, the earliest first.
        more_runs: Runs that are not told of.
        measures: Of an evaluation, by name.
        warnings: Sentences a reader must see first.
    """

    manifest: Manifest
    name: str
    rows: int
    scored: int
    alarms: int
    alarm_rate: float
    past_only: bool
    unscored: Mapping[str, int]
    labelled: int | None
    stretches: tuple[StrangeStretch, ...]
    traces: tuple[AssetTrace, ...]
    more_assets: int
    shares: tuple[ChannelShare, ...]
    runs: tuple[AlarmRun, ...]
    more_runs: int = 0
    measures: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
