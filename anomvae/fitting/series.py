"""A fit of a series: prepare, train, calibrate twice, export, check, write. Read it from top to bottom."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from anomvae.bundle import Bundle, Manifest, SeriesFacts, Split, TrainingRecord, write_bundle
from anomvae.bundle.folder import refuse_occupied
from anomvae.bundle.series import ROWS_GRAPH
from anomvae.calibration import calibrate
from anomvae.errors import SettingError
from anomvae.export.series_graph import check_series_parity, export_batch_calibration, export_rows, export_series
from anomvae.fitting.provenance import provenance
from anomvae.fitting.series_card import series_card
from anomvae.fitting.series_findings import look_at_series
from anomvae.fitting.series_model import (
    FittedSeries,
    calibration_rows,
    fit_series_model,
    keep_all_windows,
    refit_series_model,
)
from anomvae.fitting.series_preparation import (
    CALIBRATION,
    TRAIN,
    VALIDATION,
    prepare_series,
    problems,
    thinned,
    trains_on_all,
)
from anomvae.report.series import render_series
from anomvae.training.loop import choose_device
from anomvae.vae.series_weights import series_files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from anomvae.calibration import Calibrated
    from anomvae.data.windows import Windows
    from anomvae.fitting.series_preparation import PreparedSeries
    from anomvae.fitting.settings import FitSettings
    from anomvae.training.loop import History, Hook

PROBE_WINDOWS = 64


@dataclass(frozen=True, slots=True)
class SeriesFit:
    """A finished fit of a series.

    Attributes:
        bundle: On disk.
        record: Parameters, metrics and curves.
        histories: What happened in training, by member.
        warnings: What a person should know, one sentence each.
        parity: Largest relative difference between graph and model.
    """

    bundle: Bundle
    record: TrainingRecord
    histories: dict[str, History]
    warnings: tuple[str, ...]
    parity: float


def fit_series_bundle(
    data: Any,
    settings: FitSettings,
    out: Path,
    *,
    hooks: Sequence[Hook] = (),
    on_prepared: Callable[[PreparedSeries], None] = lambda _: None,
) -> SeriesFit:
    """Fits a detector of series on normal rows and writes its bundle; writes nothing unless all of it holds.

    Args:
        data: File, folder, glob, or a pandas or Arrow table.
        settings: With `window` and `time`.
        out: The bundle's folder.
        hooks: Told of every step and check of the training.
        on_prepared: Told of the data once they are read, laid out and divided.

    Raises:
        InputError: The data, the settings or the place to write to are wrong.
        ParityError: The exported graph does not answer as the model does.
    """
    if settings.window is None:
        raise SettingError("a series is fitted with a window: state --window")
    started = time.monotonic()
    refuse_occupied(out.absolute())
    device = choose_device(settings.training.device)
    prepared = prepare_series(data, settings)
    on_prepared(prepared)
    fitted = fit_series_model(prepared, settings, device, hooks)
    online_rows, batch_rows = calibration_rows(fitted, prepared, settings)
    online, batch = (
        calibrate(rows, settings.budget, decision=settings.decision, tail=settings.tail, by=settings.by)
        for rows in (online_rows, batch_rows)
    )
    held_out = fitted  # has not seen the steps that the report shows
    if trains_on_all(settings, len(prepared.steps(TRAIN)), len(prepared.columns)):
        fitted = refit_series_model(prepared, fitted, settings, device)
    elif settings.calibration == "auto":
        fitted = keep_all_windows(prepared, fitted)
    rate = settings.budget.alarm_rate
    graph, rows_graph = export_series(fitted.scorer, online.tables, rate), export_rows(fitted.scorer)
    probe = _probe(prepared.windows(settings.window, CALIBRATION, whole=False))
    parity = check_series_parity(graph, fitted.scorer, online.tables, probe.encoded(), rate, rows_graph)
    manifest = _manifest(prepared, settings, fitted, (online, batch), time.monotonic() - started)
    warnings = (*problems(prepared.concerns), *_warnings(manifest))
    record = _record(prepared, settings, fitted, manifest, parity)
    files = {
        "scorer.onnx": graph,
        "batch.onnx": export_batch_calibration(batch.tables, rate),
        **({} if rows_graph is None else {ROWS_GRAPH: rows_graph}),
        **series_files(fitted.scorer),
        "training.json": record.to_json().encode(),
        "card.md": series_card(manifest, record, warnings).encode(),
        "report.html": render_series(
            look_at_series(manifest, record, prepared, held_out, (online, batch), warnings)
        ).encode(),
    }
    bundle = write_bundle(out, manifest, files)
    return SeriesFit(bundle, record, fitted.histories, warnings, parity)


def _probe(windows: Windows) -> Windows:
    return thinned(windows, PROBE_WINDOWS)


def _manifest(
    prepared: PreparedSeries,
    settings: FitSettings,
    fitted: FittedSeries,
    calibrated: tuple[Calibrated, Calibrated],
    seconds: float,
) -> Manifest:
    sequences = prepared.sequences
    online, batch = calibrated
    sizes = [len(prepared.steps(part)) for part in (TRAIN, VALIDATION, CALIBRATION)]
    facts = SeriesFacts(
        time=settings.time or "",
        asset=settings.by,
        asset_type=sequences.asset_type,
        assets=sequences.assets if settings.by is not None else (),
        window=settings.window or 0,
        stride=settings.stride,
        step_s=sequences.cadence.step_s,
        longest_gap=sequences.cadence.longest_gap,
        past_only=settings.past_only,
        off=settings.off,
        time_type=prepared.time_type,
        members=settings.members,
        exemplar_windows=fitted.exemplar_windows,
        batch=batch.facts,
        refitted_on=sum(sizes) if trains_on_all(settings, len(prepared.steps(TRAIN)), len(prepared.columns)) else None,
    )
    row = fitted.scorer.row
    return Manifest(
        name=settings.name,
        kind="series",
        model="vae" if settings.members == "window" else settings.model.kind,
        columns=prepared.columns,
        left_out=prepared.schema.left_out,
        split=Split("time", settings.time, sizes[0], sizes[1], sizes[2], prepared.labelled),
        calibration=online.facts,
        provenance=provenance(prepared.name, prepared.digest, prepared.n_rows, settings.training.seed, seconds),
        latent=fitted.scorer.window_model.settings.latent
        if fitted.scorer.window_model is not None
        else (row.model.k if row is not None else 0),
        prior="exemplars" if fitted.exemplars else "normal",
        exemplars=fitted.exemplars,
        effort=settings.effort,
        series=facts,
    )


def _warnings(manifest: Manifest) -> tuple[str, ...]:
    found = []
    calibration, batch = manifest.calibration, None if manifest.series is None else manifest.series.batch
    least = math.ceil(1.0 / calibration.alarm_rate) - 1
    worth = [
        each.effective_rows for each in (calibration, batch) if each is not None and each.effective_rows is not None
    ]
    if worth and min(worth) < least:
        apart = ", and assets differ from one another," if calibration.by is not None and not calibration.groups else ""
        found.append(
            f"{calibration.rows:,} calibration steps resemble their neighbours{apart} and are worth about "
            f"{min(worth):,} independent ones, where an alarm rate of {calibration.alarm_rate:.2%} takes {least:,}: "
            "the realised rate may differ from it by a factor of several. Bring longer series, state a shorter --window, or bear "
            "more alarms; with --confidence a fit refuses what it cannot promise."
        )
    if calibration.by is not None and not calibration.groups:
        found.append(
            f"No asset of {calibration.by!r} has calibration rows enough for a table of its own; all are held against all."
        )
    return tuple(found)


def _record(
    prepared: PreparedSeries, settings: FitSettings, fitted: FittedSeries, manifest: Manifest, parity: float
) -> TrainingRecord:
    facts = {} if manifest.series is None else asdict(replace(manifest.series, batch=None, assets=()))
    parameters: dict[str, Any] = {
        "alarm_rate": manifest.calibration.alarm_rate,
        "decision": settings.decision,
        "effort": settings.effort,
        "data": prepared.name,
        "rows": prepared.n_rows,
        "columns_scored": len(prepared.columns),
        "columns_left_out": len(prepared.schema.left_out),
        "assets": len(prepared.sequences.assets),
        "settings_digest": settings.digest,
        **{f"series.{name}": value for name, value in facts.items()},
        **{f"training.{name}": value for name, value in asdict(settings.training).items()},
    }
    metrics = {
        "fit_seconds": manifest.provenance.fit_seconds,
        "score_threshold": manifest.calibration.score_threshold,
        "reconstruction_threshold": manifest.calibration.reconstruction_threshold,
        "parity": parity,
        "effective_rows": float(manifest.calibration.effective_rows or 0),
    }
    if fitted.scorer.window_model is not None:
        metrics |= {f"order_told_by_{judge}": chance for judge, chance in fitted.order._asdict().items()}
    if fitted.forecast is not None:
        metrics |= {"explained_by_the_past": fitted.forecast.explained, "forecast_strength": fitted.forecast.strength}
    curves: dict[str, list[float]] = {}
    for member, history in fitted.histories.items():
        metrics |= {
            f"{member}_validation_loss": history.best.validation_loss,
            f"{member}_steps": float(history.steps),
            f"{member}_training_seconds": history.checks[-1].seconds,
        }
        for name in ("step", "train_loss", "validation_loss"):
            curves[f"{member}_{name}"] = [float(getattr(check, name)) for check in history.checks]
    plain = {name: str(list(value)) if isinstance(value, tuple) else value for name, value in parameters.items()}
    return TrainingRecord(plain, {name: value for name, value in metrics.items() if np.isfinite(value)}, curves, {})
