"""What a fresh detector of series says of the steps it was not fitted on: for its report."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from anomvae.data.windows import StepMeans, Windows
from anomvae.fitting.series_model import tensors
from anomvae.fitting.series_preparation import CALIBRATION, TRAIN, VALIDATION
from anomvae.report.series_contents import CALIBRATION as CALIBRATING
from anomvae.report.series_contents import VALIDATION as VALIDATING
from anomvae.report.series_contents import CheckedSteps, JudgedSteps, SeriesReport
from anomvae.report.series_look import (
    Explainer,
    asset_traces,
    channel_shares,
    strange_stretches,
    thresholds_of,
    usual_contribution,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anomvae.bundle import Calibration, Manifest, TrainingRecord
    from anomvae.calibration import Calibrated
    from anomvae.data.series import Sequences
    from anomvae.fitting.series_model import FittedSeries
    from anomvae.fitting.series_preparation import PreparedSeries

    FloatArray = npt.NDArray[np.float64]
    IntArray = npt.NDArray[np.int64]

PIECE = 128
"""Windows scored at once."""
MOST_WINDOWS = 3_000
"""Of more held-out windows every second, third, ... tells, and the last of each sequence."""
MOST_SHARE = 4
"""Windows that tell are at most so large a part of a window apart."""


class Answers:
    """Scores of the held-out steps: by all windows that cover them, and by their past.

    Attributes:
        score: Mean over the windows that cover a step, NaN where none does, shape ``(m,)``.
        error: The same of the reconstruction error.
        online_score: Score of each step by its past, NaN where that is not known, shape ``(m,)``.
        online_error: The same of the reconstruction error.
    """

    def __init__(self, fitted: FittedSeries, prepared: PreparedSeries, window: int) -> None:
        parts = [prepared.windows(window, part, whole=False) for part in (VALIDATION, CALIBRATION)]
        starts = np.unique(np.concatenate([part.starts for part in parts]))
        every = min(max(1, window // MOST_SHARE), max(1, math.ceil(len(starts) / MOST_WINDOWS)))
        last = np.diff(prepared.sequences.sequence[starts], append=-1) != 0
        windows = Windows(prepared.sequences, window, starts[last | (np.arange(len(starts)) % every == 0)])
        total = len(prepared.sequences)
        means = StepMeans(total), StepMeans(total)
        self.online_score, self.online_error = np.full((2, total), np.nan)
        for first in range(0, len(windows), PIECE):
            part = windows.take(slice(first, first + PIECE))
            names = ("step_score", "step_error", "score", "reconstruction_error")
            told = run_model(fitted, part, names)
            for mean, name in zip(means, names[:2], strict=True):
                mean.add(part.starts, told[name])
            has_row = part.row >= 0
            self.online_score[part.newest[has_row]] = told["score"][has_row]
            self.online_error[part.newest[has_row]] = told["reconstruction_error"][has_row]
        self.score, self.error = (mean.means() for mean in means)


@torch.no_grad()
def run_model(fitted: FittedSeries, windows: Windows, names: Sequence[str]) -> Mapping[str, npt.NDArray[np.floating]]:
    """Answers of the fitted model to windows, by name of the output."""
    told = fitted.scorer(*tensors(windows.encoded()))
    return {name: getattr(told, name).numpy() for name in names}


def look_at_series(
    manifest: Manifest,
    record: TrainingRecord,
    prepared: PreparedSeries,
    fitted: FittedSeries,
    calibrated: tuple[Calibrated, Calibrated],
    warnings: tuple[str, ...] = (),
) -> SeriesReport:
    """Scores the steps that validate and calibrate, and gathers what its report shows.

    Args:
        manifest: Of the detector.
        record: Parameters, metrics and curves by member.
        prepared: The series.
        fitted: The detector that was calibrated, which has not seen these steps: that before any refit on all of them.
        calibrated: By the past of a step, and by all windows that cover it.
        warnings: Sentences a reader must see first.
    """
    facts = manifest.series
    if facts is None:
        raise ValueError("the manifest is of no series")
    sequences = prepared.sequences
    answers = Answers(fitted, prepared, facts.window)
    online, batch = calibrated
    judged, p_value = _judged(prepared, answers.score, answers.error, batch)
    _, p_online = _judged(prepared, answers.online_score, answers.online_error, online)
    explainer = Explainer(lambda windows, names: run_model(fitted, windows, names), facts.window)
    usual = usual_contribution(judged, explainer)
    traces, more = asset_traces(judged)
    return SeriesReport(
        manifest=manifest,
        record=record,
        stretches=strange_stretches(judged, explainer, usual),
        traces=traces,
        more_assets=more,
        shares=channel_shares(judged, explainer, usual),
        checks=(
            _checked(prepared, p_value, VALIDATION, "steps of a whole series"),
            _checked(prepared, p_online, VALIDATION, "newest steps, by their past"),
        ),
        calibration=_checked(prepared, p_value, CALIBRATION, "calibration steps"),
        assets=sequences.assets,
        concerns=prepared.concerns,
        warnings=warnings,
    )


def _judged(
    prepared: PreparedSeries, score: FloatArray, error: FloatArray, calibrated: Calibrated
) -> tuple[JudgedSteps, FloatArray]:
    """Verdicts on the held-out steps, and their p-values, NaN elsewhere."""
    sequences, facts = prepared.sequences, calibrated.facts
    has_score = np.isfinite(score) & (sequences.row >= 0) & (prepared.part != TRAIN)
    steps = np.flatnonzero(has_score)
    told = calibrated.tables.verdicts(
        score[steps], error[steps], facts.alarm_rate, group_numbers(sequences, facts)[sequences.asset[steps]]
    )
    decides = error if facts.decision == "reconstruction" else score
    p_value, alarm = np.full(len(sequences), np.nan), np.zeros(len(sequences), dtype=np.bool_)
    p_value[steps], alarm[steps] = told.p_value_verdict, told.alarm
    judged = JudgedSteps(
        sequences=sequences,
        score=np.where(has_score, decides, np.nan),
        p_value=p_value,
        alarm=alarm,
        threshold=thresholds_of(
            sequences.assets,
            {group.name: (group.score_threshold, group.reconstruction_threshold) for group in facts.groups},
            (facts.score_threshold, facts.reconstruction_threshold),
            facts.decision,
        ),
        part=np.where(prepared.part == TRAIN, -1, prepared.part - VALIDATION).astype(np.int8),
        parts=(VALIDATING, CALIBRATING),
    )
    return judged, p_value


def group_numbers(sequences: Sequences, facts: Calibration) -> IntArray:
    """Number of each asset's calibration table, shape ``(a,)``."""
    place = {group.name: number for number, group in enumerate(facts.groups)}
    return np.array([place.get(name, len(facts.groups)) for name in sequences.assets], dtype=np.int64)


def _checked(prepared: PreparedSeries, p_value: FloatArray, part: int, name: str) -> CheckedSteps:
    sequences = prepared.sequences
    steps = np.flatnonzero((prepared.part == part) & np.isfinite(p_value))
    return CheckedSteps(name, p_value[steps], sequences.sequence[steps], sequences.asset[steps])
