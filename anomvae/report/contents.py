"""What the report shows, as plain arrays: nothing here knows torch, files or HTML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from anomvae.bundle import Manifest, TrainingRecord
    from anomvae.calibration import TailFit
    from anomvae.evaluation.power_result import PowerResult
    from anomvae.vae.diagnostics import LatentUse, Relations

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """Answers of the exported graph for a part of the rows.

    Attributes:
        score: Negative ELBO, nats, shape ``(n,)``; higher is stranger.
        reconstruction_error: Shape ``(n,)``.
        p_value: Calibrated p-value of the score, shape ``(n,)``.
        p_value_reconstruction: The same of the reconstruction error.
        p_value_verdict: The one that the verdict is held against.
        alarm: The verdicts, shape ``(n,)``.
        contribution: Nats each column adds, shape ``(n, d + c)``, in the order of ``manifest.scored``.
        latent: Posterior means, shape ``(n, k)``.
        fold: Fold of each row, whose network has not seen it and gave both scores, shape ``(n,)``; None where one network
            scored all rows.
    """

    score: FloatArray
    reconstruction_error: FloatArray
    p_value: FloatArray
    p_value_reconstruction: FloatArray
    p_value_verdict: FloatArray
    alarm: npt.NDArray[np.bool_]
    contribution: FloatArray
    latent: FloatArray
    fold: IntArray | None = None


@dataclass(frozen=True, slots=True)
class Reason:
    """One column's part in a score.

    Attributes:
        column: Its name.
        contribution: Nats it adds.
        value: What the row holds, as text; None where the cell is missing.
        expected: What the detector expected to see, as text.
    """

    column: str
    contribution: float
    value: str | None
    expected: str | None


@dataclass(frozen=True, slots=True)
class StrangeRow:
    """A row of the data that the detector finds strange.

    Attributes:
        row: Row number in the data as read, from 1.
        part: `train`, `validation`, `calibration` or `labelled`.
        score: Nats.
        p_value: Calibrated p-value.
        reasons: Strongest first; none where cells must not be told.
    """

    row: int
    part: str
    score: float
    p_value: float
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class ReportContents:
    """All that the report shows.

    Under `cross` calibration every row trains and calibrates: `calibration` then holds the normal rows, each scored by the
    network of its fold, and `train` and `validation` are not looked at.

    Attributes:
        manifest: Columns, split, calibration, provenance.
        record: Parameters, metrics, curves, evaluation.
        train: Rows the weights were fitted on (at most some thousands, drawn at random).
        validation: Rows that decided when to stop.
        calibration: Rows the p-values come from.
        labelled: Labelled anomalies, None without labels.
        strangest: The strangest normal rows, with reasons, strongest first.
        latent_use: How validation rows use the latent space; None for a plain autoencoder.
        warnings: Sentences a reader must see first.
        relations: What relations between columns say of validation rows; None where that cannot be told.
        tails: Fits of the score's tail and of the reconstruction error's; None where none was fitted.
        power: What the detector notices, column by column; None where that was not measured.
    """

    manifest: Manifest
    record: TrainingRecord
    train: ScoredRows
    validation: ScoredRows
    calibration: ScoredRows
    labelled: ScoredRows | None
    strangest: tuple[StrangeRow, ...]
    latent_use: LatentUse | None
    warnings: tuple[str, ...] = field(default=())
    relations: Relations | None = None
    tails: tuple[TailFit, TailFit] | None = None
    power: PowerResult | None = None
