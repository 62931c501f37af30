"""What a fresh detector says of its own data: for the report, the card and the user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from anomvae.report.contents import Reason, ReportContents, ScoredRows, StrangeRow
from anomvae.scoring.reasons import REASON_OUTPUTS, ReasonWriter
from anomvae.vae.gaussian import kl_from_standard

if TYPE_CHECKING:
    from anomvae.bundle import Manifest, TrainingRecord
    from anomvae.data.encoding import EncodedRows
    from anomvae.fitting.preparation import PreparedData
    from anomvae.scoring.session import GraphSession
    from anomvae.training.loop import History
    from anomvae.vae.model import TableVAE

    Arrays = dict[str, npt.NDArray[np.generic]]

MAX_ROWS_SHOWN = 5_000
STRANGEST = 12
REASONS = 3
ACTIVE_NATS = 0.01
"""A latent dimension whose mean KL is smaller carries nothing; Burda et al. (2016) count units in the same spirit."""
FIELDS = ("score", "reconstruction_error", "p_value", "p_value_reconstruction", "alarm", "contribution", "latent")


@dataclass(frozen=True, slots=True)
class Findings:
    """What a fresh detector says of its data.

    Attributes:
        train: A sample of the training rows, scored.
        validation: Validation rows, scored.
        calibration: Calibration rows, scored.
        labelled: Labelled anomalies, scored; None without any.
        strangest: The strangest normal rows, with reasons.
        latent_nats: Mean KL of each latent dimension, shape ``(k,)``.
        warnings: Sentences the user must see.
    """

    train: ScoredRows
    validation: ScoredRows
    calibration: ScoredRows
    labelled: ScoredRows | None
    strangest: tuple[StrangeRow, ...]
    latent_nats: npt.NDArray[np.float64]
    warnings: tuple[str, ...]

    def contents(self, manifest: Manifest, record: TrainingRecord) -> ReportContents:
        """The report's contents."""
        return ReportContents(
            manifest,
            record,
            self.train,
            self.validation,
            self.calibration,
            self.labelled,
            self.strangest,
            self.latent_nats,
            self.warnings,
        )


def look_at(
    manifest: Manifest, prepared: PreparedData, session: GraphSession, model: TableVAE, history: History
) -> Findings:
    """Scores the parts of the data with the exported graph and says what stands out."""
    split, draw = prepared.split, np.random.default_rng([manifest.provenance.seed, 4])
    parts = {}
    for name, positions in (
        ("train", split.train),
        ("validation", split.validation),
        ("calibration", split.calibration),
    ):
        shown = np.sort(draw.choice(positions, min(len(positions), MAX_ROWS_SHOWN), replace=False))
        parts[name] = _scored(session, prepared.normal.take(shown))
    labelled = _scored(session, prepared.labelled) if len(prepared.labelled_rows) else None
    nats = _latent_nats(model, prepared.normal.take(split.validation[:MAX_ROWS_SHOWN]))
    return Findings(
        parts["train"],
        parts["validation"],
        parts["calibration"],
        labelled,
        _strangest(manifest, prepared, session),
        nats,
        _warnings(manifest, prepared, parts["validation"], nats, history),
    )


def _scored(session: GraphSession, rows: EncodedRows) -> ScoredRows:
    joined = session.run_in_chunks(rows, FIELDS)
    wide = {name: value.astype(np.float64) for name, value in joined.items()}
    return ScoredRows(
        score=wide["score"],
        reconstruction_error=wide["reconstruction_error"],
        p_value=wide["p_value"],
        p_value_reconstruction=wide["p_value_reconstruction"],
        alarm=joined["alarm"].astype(np.bool_),
        contribution=wide["contribution"],
        latent=wide["latent"],
    )


def _strangest(manifest: Manifest, prepared: PreparedData, session: GraphSession) -> tuple[StrangeRow, ...]:
    n = len(prepared.normal)
    scores = session.run_in_chunks(prepared.normal, ["score"])["score"].astype(np.float64)
    positions = np.argsort(-scores, kind="stable")[:STRANGEST]
    rows = prepared.normal.take(positions)
    outputs = [name for name in (*FIELDS, *REASON_OUTPUTS) if name in session.outputs]
    found = session.run(rows, list(dict.fromkeys(outputs)))
    reasons = _reasons_of(manifest, rows, found)
    part_of = np.full(n, "train", dtype=object)
    part_of[prepared.split.validation], part_of[prepared.split.calibration] = "validation", "calibration"
    return tuple(
        StrangeRow(
            row=int(prepared.normal_rows[position]) + 1,
            part=str(part_of[position]),
            score=float(found["score"][i]),
            p_value=float(found["p_value"][i]),
            reasons=tuple(_reason(reason) for reason in reasons[i]),
        )
        for i, position in enumerate(positions)
    )


def _reasons_of(manifest: Manifest, rows: EncodedRows, found: Arrays) -> list[list[dict[str, object]]]:
    writer = ReasonWriter(manifest, REASONS)
    reasons: list[list[dict[str, object]]] = writer.write([writer.pick(rows, found)]).to_pylist()
    return reasons


def _reason(raw: dict[str, object]) -> Reason:
    def text(cell: object) -> str | None:
        return f"{cell:.5g}" if isinstance(cell, float) else (None if cell is None else str(cell))

    return Reason(str(raw["column"]), float(str(raw["contribution"])), text(raw["value"]), text(raw["expected"]))


def _latent_nats(model: TableVAE, rows: EncodedRows) -> npt.NDArray[np.float64]:
    if not model.settings.is_variational or len(rows) == 0:
        return np.empty(0)
    total = torch.zeros(model.k)
    chunk = model.layout.chunk_rows(MAX_ROWS_SHOWN)
    with torch.no_grad():
        for start in range(0, len(rows), chunk):
            part = rows.take(slice(start, start + chunk))
            prepared = model.preparation(torch.from_numpy(part.numeric), torch.from_numpy(part.categorical))
            total += kl_from_standard(model.posterior(prepared.features())).sum(dim=0)
    return (total / len(rows)).numpy().astype(np.float64)


def _warnings(
    manifest: Manifest,
    prepared: PreparedData,
    validation: ScoredRows,
    nats: npt.NDArray[np.float64],
    history: History,
) -> tuple[str, ...]:
    found = []
    calibration = manifest.calibration
    if history.stopped == "interrupted":
        found.append("Training was interrupted; the best weights up to then were kept.")
    if history.stopped == "diverged":
        found.append(
            "Training diverged; the best weights up to then were kept. Ask for a lower training.learning_rate."
        )
    if len(nats) and not (nats > ACTIVE_NATS).any():
        found.append(
            "Posterior collapse: no latent dimension carries information, so the detector sees columns one by one and no "
            "relation between them. A smaller model.beta or more rows may help."
        )
    alarms, n = int(validation.alarm.sum()), len(validation.alarm)
    if n and alarms > 3 * max(1.0, calibration.alarm_rate * n) + 3:
        found.append(
            f"{alarms:,} of {n:,} validation rows alarm ({alarms / n:.1%}) where {calibration.alarm_rate:.1%} was asked for: "
            "the validation rows differ from the calibration rows; normal data that moves over time or by group does this."
        )
    if calibration.rows < 2 / calibration.alarm_rate:
        found.append(
            f"{calibration.rows:,} calibration rows just support an alarm rate of {calibration.alarm_rate:g}: the threshold "
            "rests on the one or two strangest of them. More normal rows make it steadier."
        )
    if manifest.split.train < 20 * len(manifest.columns):
        found.append(
            f"{manifest.split.train:,} training rows are few for {len(manifest.columns)} columns; expect weak detection."
        )
    if prepared.unlabelled:
        found.append(f"{prepared.unlabelled:,} rows have no label and were neither learnt from nor evaluated.")
    infinite = [column.name for column in manifest.columns if column.infinite_is_missing]
    if infinite:
        found.append(f"Infinities count as missing cells in: {', '.join(infinite[:10])}.")
    return tuple(found)
