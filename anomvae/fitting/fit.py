"""A fit: prepare, train, calibrate, export, check, explain, write. Read it from top to bottom."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from anomvae.bundle import Bundle, Calibration, Manifest, Split, TrainingRecord, write_bundle
from anomvae.bundle.folder import refuse_occupied
from anomvae.calibration import Calibrated, CalibrationRows, calibrate
from anomvae.calibration.conformal import ROUNDING
from anomvae.evaluation import Evaluation, evaluate
from anomvae.export.graph import export_graph
from anomvae.export.parity import check_parity, probe_rows
from anomvae.fitting.card import model_card
from anomvae.fitting.findings import Findings, look_at
from anomvae.fitting.model import FittedModel, calibration_scores, fit_model
from anomvae.fitting.preparation import PreparedData, prepare
from anomvae.fitting.provenance import provenance
from anomvae.fitting.settings import PRIVATE_LEAST
from anomvae.report import render
from anomvae.report.rates import crossed_p_values
from anomvae.training.loop import Check, History, Hook, choose_device
from anomvae.vae.scores import RowScorer
from anomvae.vae.weights import to_files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from anomvae.fitting.settings import FitSettings
    from anomvae.vae.model import TableVAE

PACKAGES = ("anomvae", "torch", "onnx", "onnxruntime", "numpy", "pyarrow", "pandas", "scikit-learn")


@dataclass(frozen=True, slots=True)
class FitResult:
    """What a fit leaves.

    Attributes:
        bundle: The bundle, written and verified.
        record: Parameters, metrics, curves.
        history: What happened in training.
        evaluation: Measures on labelled rows, None without labels.
        warnings: Sentences the user must see.
        parity: Largest relative difference between the graph and the model.
    """

    bundle: Bundle
    record: TrainingRecord
    history: History
    evaluation: Evaluation | None
    warnings: tuple[str, ...]
    parity: float


def fit_bundle(
    data: Any,
    settings: FitSettings,
    out: Path,
    *,
    hooks: Sequence[Hook] = (),
    on_prepared: Callable[[PreparedData], None] = lambda _: None,
) -> FitResult:
    """Fits a detector on normal rows and writes its bundle; writes nothing unless all of it holds.

    Args:
        data: File, folder, glob, or a pandas or Arrow table.
        settings: What to fit and how.
        out: The bundle's folder.
        hooks: Told of every step and check of the training.
        on_prepared: Told of the data once they are read, understood and divided.

    Raises:
        InputError: The data, the settings or the place to write to are wrong.
        ParityError: The exported graph does not answer as the model does.
    """
    started = time.monotonic()
    settings = settings.resolved()
    refuse_occupied(out.absolute())
    device = choose_device(settings.training.device)
    prepared = prepare(data, settings)
    on_prepared(prepared)
    fitted = fit_model(prepared, settings, device, hooks)
    model, history = fitted.model, fitted.history
    calibrated = calibrate_fit(fitted, prepared, settings)
    scorer, tables, alarm_rate = RowScorer(model).eval(), calibrated.tables, settings.budget.alarm_rate
    graph = export_graph(scorer, tables, alarm_rate)
    numbers, codes = probe_rows(
        prepared.normal.numeric, prepared.normal.categorical, model.layout.cardinalities, settings.training.seed
    )
    parity = check_parity(graph, scorer, tables, numbers, codes, alarm_rate)
    manifest = _manifest(prepared, settings, calibrated.facts, model, time.monotonic() - started)
    findings = look_at(manifest, prepared, fitted, calibrated)
    evaluation = _evaluation(findings, alarm_rate, settings.decision)
    record = _record(prepared, settings, history, evaluation, manifest, parity)
    record = replace(record, metrics={**record.metrics, **findings.metrics()})
    files = {
        "scorer.onnx": graph,
        **to_files(model),
        "training.json": record.to_json().encode(),
        "card.md": model_card(manifest, record, findings.warnings).encode(),
        "report.html": render(findings.contents(manifest, record)).encode(),
    }
    return FitResult(write_bundle(out, manifest, files), record, history, evaluation, findings.warnings, parity)


def calibrate_fit(fitted: FittedModel, prepared: PreparedData, settings: FitSettings) -> Calibrated:
    """Calibrates both scores on rows that the scoring weights have not seen, none answering for itself."""
    score, error = calibration_scores(fitted, prepared)
    folds = prepared.split.folds
    return calibrate(
        CalibrationRows(
            score,
            error,
            prepared.groups(prepared.split.calibration),
            prepared.by_type,
            PRIVATE_LEAST + 1 if settings.private else 1,
        ),
        settings.budget,
        decision=settings.decision,
        tail=settings.tail,
        by=settings.by,
        folds=0 if folds is None else int(folds.max()) + 1,
    )


def _manifest(
    prepared: PreparedData, settings: FitSettings, calibration: Calibration, model: TableVAE, seconds: float
) -> Manifest:
    split = prepared.split
    return Manifest(
        name=settings.name,
        kind="table",
        model=settings.model.kind,
        columns=prepared.columns,
        left_out=prepared.schema.left_out,
        split=Split(
            split.how,
            split.column,
            len(split.train),
            len(split.validation),
            len(split.calibration),
            len(prepared.labelled_rows),
            calibration.folds,
        ),
        calibration=calibration,
        provenance=provenance(prepared.name, prepared.digest, prepared.n_rows, settings.training.seed, seconds),
        latent=model.k,
        prior=settings.model.prior_in_force,
        exemplars=model.stored_sizes().exemplars,
        effort=settings.effort,
        private=settings.private,
    )


def _evaluation(findings: Findings, alarm_rate: float, decision: str) -> Evaluation | None:
    """Labelled anomalies against normal rows that neither training nor the threshold has seen.

    Those are the validation rows, which but chose when to stop; calibration rows would make false alarms look exactly as
    stated. Under folds each fold's rows are held against those of the others.
    """
    anomalies, normal = findings.labelled, findings.validation
    if anomalies is None or len(normal.score) == 0:
        return None
    if normal.fold is not None:
        normal = replace(normal, alarm=crossed_p_values(normal, decision) <= alarm_rate * (1.0 + ROUNDING))
    joined: list[npt.NDArray[Any]] = [
        np.concatenate([getattr(anomalies, name), getattr(normal, name)])
        for name in ("score", "reconstruction_error", "alarm")
    ]
    anomalous = np.arange(len(joined[0])) < len(anomalies.score)
    return evaluate(joined[0], joined[1], joined[2].astype(bool), anomalous, alarm_rate)


def _record(
    prepared: PreparedData,
    settings: FitSettings,
    history: History,
    evaluation: Evaluation | None,
    manifest: Manifest,
    parity: float,
) -> TrainingRecord:
    parameters: dict[str, Any] = {
        "alarm_rate": manifest.calibration.alarm_rate,
        "calibration": manifest.calibration.method,
        "settings_digest": settings.digest,
        "decision": settings.decision,
        "effort": settings.effort,
        "private": settings.private,
        "data": prepared.name,
        "rows": prepared.n_rows,
        "columns_scored": len(prepared.columns),
        "columns_left_out": len(prepared.schema.left_out),
        "split": prepared.split.how,
        **{f"model.{name}": value for name, value in asdict(settings.model).items()},
        **{f"training.{name}": value for name, value in asdict(settings.training).items()},
        "model.latent": manifest.latent,
        "model.prior": manifest.prior,
        "model.exemplars": manifest.exemplars,
        "model.novelty": settings.model.has_novelty,
        "model.beta": settings.model.kl_weight,
        "model.input_noise": settings.model.noise,
        "training.batch_rows": settings.training.batch_of(len(prepared.split.train)),
        "training.stopped": history.stopped,
    }
    best = history.best
    metrics = {
        "validation_loss": best.validation_loss,
        "train_loss": best.train_loss,
        "best_step": float(best.step),
        "steps": float(history.steps),
        "fit_seconds": manifest.provenance.fit_seconds,
        "training_seconds": history.checks[-1].seconds,
        "score_threshold": manifest.calibration.score_threshold,
        "reconstruction_threshold": manifest.calibration.reconstruction_threshold,
        "parity": parity,
    }
    curves = {
        name: [float(getattr(check, name)) for check in history.checks if _is_finite(check)]
        for name in ("step", "epoch", "train_loss", "validation_loss", "learning_rate", "seconds")
    }
    measures = evaluation.as_metrics() if evaluation else {}
    plain = {name: str(list(value)) if isinstance(value, tuple) else value for name, value in parameters.items()}
    return TrainingRecord(plain, metrics, curves, measures)


def _is_finite(check: Check) -> bool:
    return math.isfinite(check.validation_loss) and math.isfinite(check.train_loss)
