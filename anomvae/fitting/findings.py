"""What a fresh detector says of its own data: for the report, the card and the user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from anomvae.fitting.power import measure_fit
from anomvae.report.contents import Reason, ReportContents, ScoredRows, StrangeRow
from anomvae.scoring.reasons import REASON_OUTPUTS, ReasonWriter
from anomvae.vae.diagnostics import LatentUse, Relations, compare_with_independent, explain_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomvae.bundle import Manifest, TrainingRecord
    from anomvae.calibration import Calibrated
    from anomvae.calibration.tail import TailFit
    from anomvae.data.encoding import EncodedRows
    from anomvae.evaluation.power_result import PowerResult
    from anomvae.fitting.model import FittedModel
    from anomvae.fitting.preparation import PreparedData
    from anomvae.training.loop import History
    from anomvae.vae.model import TableVAE

    Arrays = dict[str, npt.NDArray[np.generic]]
    IntArray = npt.NDArray[np.int64]

MAX_ROWS_SHOWN = 5_000
MOST_EXPLAINED = 1_000
"""Validation rows held against the prior and against independent columns."""
MOST_LEARNT = 20_000
"""Training rows that independent columns are learnt from."""
STRANGEST = 12
REASONS = 3


@dataclass(frozen=True, slots=True)
class Findings:
    """What a fresh detector says of its data.

    Attributes:
        train: A sample of the training rows, scored.
        validation: Validation rows, scored.
        calibration: Calibration rows, scored.
        labelled: Labelled anomalies, scored; None without any.
        strangest: The strangest normal rows, with reasons.
        latent: How validation rows use the latent space; None for an autoencoder.
        relations: What relations between columns say of validation rows; None where that cannot be told.
        tails: Fits of both scores' tails; None without.
        power: What the detector notices of faults in single columns; None where that was not measured.
        warnings: Sentences the user must see.
    """

    train: ScoredRows
    validation: ScoredRows
    calibration: ScoredRows
    labelled: ScoredRows | None
    strangest: tuple[StrangeRow, ...]
    latent: LatentUse | None
    relations: Relations | None
    tails: tuple[TailFit, TailFit] | None
    power: PowerResult | None
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
            self.latent,
            self.warnings,
            self.relations,
            self.tails,
            self.power,
        )

    def metrics(self) -> dict[str, float]:
        """What the training record keeps: latent dimensions and their use, nats a validation row."""
        found: dict[str, float] = {}
        if self.latent is not None:
            found["latent_dimensions"] = float(len(self.latent.kl))
            found["active_dimensions"] = float(self.latent.active.sum())
            found["mean_kl"] = self.latent.total
        if self.relations is not None:
            found["validation_score"] = self.relations.fit
            found["independent_score"] = self.relations.independent
        if self.power is not None:
            found |= self.power.as_metrics()
        return {name: value for name, value in found.items() if np.isfinite(value)}


def look_at(manifest: Manifest, prepared: PreparedData, fitted: FittedModel, calibrated: Calibrated) -> Findings:
    """Scores the parts of the data and says what stands out.

    The model answers, which the exported graph has been held against, and not the graph: of rows that it stores the graph
    would say that nothing is more normal, while here no row answers for itself.
    """
    split, draw = prepared.split, np.random.default_rng([manifest.provenance.seed, 4])
    scorer = _Scorer(manifest, prepared, fitted, calibrated)
    parts: dict[str, ScoredRows] = {}
    for name, positions in (
        ("train", split.train),
        ("validation", split.validation),
        ("calibration", split.calibration),
    ):
        if split.folds is not None and parts:  # every part is all rows
            parts[name] = parts["train"]
            continue
        shown = np.sort(draw.choice(positions, min(len(positions), MAX_ROWS_SHOWN), replace=False))
        parts[name] = _scored(scorer.normal(shown), None if split.folds is None else split.folds[shown])
    labelled = _scored(scorer.others(prepared.labelled)) if len(prepared.labelled_rows) else None
    latent, relations = _diagnose(manifest, prepared, fitted)
    power = measure_fit(manifest, prepared, fitted, calibrated)
    return Findings(
        parts["train"],
        parts["validation"],
        parts["calibration"],
        labelled,
        _strangest(manifest, prepared, scorer),
        latent,
        relations,
        calibrated.tails,
        power,
        _warnings(manifest, prepared, parts["validation"], fitted.history)
        + _latent_warnings(manifest, latent, relations),
    )


class _Scorer:
    """Answers for normal rows, none answering for itself, and for others; arguments as for :func:`look_at`."""

    def __init__(self, manifest: Manifest, prepared: PreparedData, fitted: FittedModel, calibrated: Calibrated) -> None:
        self.prepared, self.fitted, self.tables = prepared, fitted, calibrated.tables
        self.alarm_rate = manifest.calibration.alarm_rate
        self.numbers = {group.name: number for number, group in enumerate(manifest.calibration.groups)}

    def normal(self, positions: IntArray) -> Arrays:
        """Answers for normal rows by position, in their order; their latent means are all the detector's own."""
        rows = self.prepared.normal.take(positions)
        scores = self.fitted.explain(rows, positions)
        if self.fitted.folds is not None:  # axes of different networks mean different things
            scores["latent"] = _latent_means(self.fitted.model, rows)
        return self._judged(scores, self.prepared.groups(positions))

    def others(self, rows: EncodedRows) -> Arrays:
        """Answers for labelled rows, which the model does not know."""
        scores = self.fitted.explain(rows)
        return self._judged(scores, None if self.prepared.group is None else self.prepared.group[1])

    def _judged(self, scores: Arrays, groups: Sequence[str | None] | None) -> Arrays:
        group = (
            None if groups is None else np.array([self.numbers.get(name or "", -1) for name in groups], dtype=np.int64)
        )
        verdicts = self.tables.verdicts(scores["score"], scores["reconstruction_error"], self.alarm_rate, group)  # type: ignore[arg-type]
        return {**scores, **verdicts._asdict()}


@torch.no_grad()
def _latent_means(model: TableVAE, rows: EncodedRows) -> npt.NDArray[np.float32]:
    prepared = model.preparation(*_tensors(rows))
    means: npt.NDArray[np.float32] = model.posterior(prepared.features()).mean.numpy()
    return means


def _scored(answers: Arrays, fold: IntArray | None = None) -> ScoredRows:
    wide = {name: value.astype(np.float64) for name, value in answers.items()}
    return ScoredRows(
        score=wide["score"],
        reconstruction_error=wide["reconstruction_error"],
        p_value=wide["p_value"],
        p_value_reconstruction=wide["p_value_reconstruction"],
        p_value_verdict=wide["p_value_verdict"],
        alarm=answers["alarm"].astype(np.bool_),
        contribution=wide["contribution"],
        latent=wide["latent"],
        fold=fold,
    )


def _strangest(manifest: Manifest, prepared: PreparedData, scorer: _Scorer) -> tuple[StrangeRow, ...]:
    n = len(prepared.normal)
    scores, _ = scorer.fitted.score(prepared.normal, np.arange(n))
    positions = np.argsort(-scores.astype(np.float64), kind="stable")[:STRANGEST]
    rows, found = prepared.normal.take(positions), scorer.normal(positions)
    reasons: list[tuple[Reason, ...]] = [()] * len(positions)
    if not manifest.private:  # nats of single cells tell what they hold
        answers = {name: found[name] for name in REASON_OUTPUTS if found[name].shape[1]}
        reasons = [tuple(map(_reason, each)) for each in _reasons_of(manifest, rows, answers)]
    part_of = np.full(n, "train", dtype=object)
    part_of[prepared.split.validation], part_of[prepared.split.calibration] = "validation", "calibration"
    return tuple(
        StrangeRow(
            row=int(prepared.normal_rows[position]) + 1,
            part=str(part_of[position]),
            score=float(found["score"][i]),
            p_value=float(found["p_value"][i]),
            reasons=reasons[i],
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


def _diagnose(
    manifest: Manifest, prepared: PreparedData, fitted: FittedModel
) -> tuple[LatentUse | None, Relations | None]:
    """How validation rows use the latent space, and what relations between columns say of them."""
    split = prepared.split
    if not fitted.model.settings.is_variational or not len(split.validation):
        return None, None
    draw = np.random.default_rng([manifest.provenance.seed, 6])
    model, unmet, stored, met = fitted.witness(split)
    chosen = np.sort(draw.choice(len(unmet), min(len(unmet), MOST_EXPLAINED), replace=False))
    train = np.sort(draw.choice(met, min(len(met), MOST_LEARNT), replace=False))
    held_out, learnt = (_tensors(prepared.normal.take(positions)) for positions in (unmet[chosen], train))
    own = torch.from_numpy(stored[chosen])
    explained = explain_rows(model, *held_out, own, seed=manifest.provenance.seed)
    return explained.latent, compare_with_independent(model, explained.bound, held_out, learnt)


def _tensors(rows: EncodedRows) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(rows.numeric), torch.from_numpy(rows.categorical)


def _latent_warnings(manifest: Manifest, latent: LatentUse | None, relations: Relations | None) -> tuple[str, ...]:
    """Collapse, and relations that say nothing.

    Under exemplars a collapsed latent space is no fault: whole rows are stored, and relations with them. What is left to
    say is then said by the comparison with independent columns.
    """
    if latent is not None and not latent.active.any() and manifest.prior != "exemplars":
        return (
            "Posterior collapse: no latent dimension carries information, so the detector sees columns one by one and no "
            "relation between them. A smaller model.beta or more rows may help.",
        )
    if relations is not None and not relations.help:
        return (
            f"All columns together explain held-out rows no better ({relations.fit:.1f} nats a row) than each column on its own "
            f"({relations.independent:.1f} nats): relations between columns add nothing here, or the fit has not learnt them. "
            "A simpler detector, such as limits on each column, may do as well.",
        )
    return ()


def _warnings(
    manifest: Manifest,
    prepared: PreparedData,
    validation: ScoredRows,
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
    alarms, n = int(validation.alarm.sum()), len(validation.alarm)
    if prepared.split.folds is None and n and alarms > 3 * max(1.0, calibration.alarm_rate * n) + 3:
        found.append(
            f"{alarms:,} of {n:,} validation rows alarm ({alarms / n:.1%}) where {calibration.alarm_rate:.1%} was asked for: "
            "the validation rows differ from the calibration rows; normal data that moves over time or by group does this."
        )
    if calibration.rows < 2 / calibration.alarm_rate and calibration.tail is None:
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
