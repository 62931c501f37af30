"""`anomvae fit`: from a file of normal rows to a registered detector."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomvae.cli.console import escape, out, table, warn
from anomvae.cli.options import (
    AlarmsPerDay,
    Confidence,
    Data,
    Decision,
    Every,
    Label,
    Off,
    RowsPerDay,
    Stride,
    Tail,
    TrackingUri,
    Window,
)
from anomvae.cli.promise import promise
from anomvae.cli.tracking import track
from anomvae.errors import MissingExtraError

if TYPE_CHECKING:
    from anomvae.fitting import FitResult
    from anomvae.fitting.preparation import PreparedData

SHOWN_CATEGORIES = 6


def fit(
    data: Data,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the model; default: detector.", show_default=False)
    ] = None,
    alarm_rate: Annotated[
        float | None,
        typer.Option("--alarm-rate", help="Share of normal rows that may alarm; default: 0.01.", show_default=False),
    ] = None,
    alarms_per_day: AlarmsPerDay = None,
    rows_per_day: RowsPerDay = None,
    confidence: Confidence = None,
    tail: Tail = None,
    decision: Decision = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            "--calibration",
            help="cross: every row trains and calibrates; split: a part calibrates only; default: auto.",
            show_default=False,
        ),
    ] = None,
    label: Label = None,
    drop: Annotated[
        list[str] | None, typer.Option("--drop", help="Column to leave out; repeat it for more.", show_default=False)
    ] = None,
    time: Annotated[
        str | None,
        typer.Option("--time", help="Column that orders the rows: the latest calibrate.", show_default=False),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            help="Column that groups the rows: a group with the rows for it gets a calibration of its own.",
            show_default=False,
        ),
    ] = None,
    window: Window = None,
    stride: Stride = None,
    every: Every = None,
    past_only: Annotated[
        bool, typer.Option("--past-only", help="Series: judge steps by their past alone, in files too.")
    ] = False,
    off: Off = None,
    members: Annotated[
        str | None,
        typer.Option(
            "--members",
            help="Series: row (the table detector on each step), window (a convolutional VAE, a linear forecast, and the distance from known windows), or both; default: both.",
            show_default=False,
        ),
    ] = None,
    categorical: Annotated[
        list[str] | None,
        typer.Option("--categorical", help="Column whose numbers are codes; repeat it for more.", show_default=False),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file of settings; flags overrule it.", show_default=False)
    ] = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for the bundle; default: models/NAME.", show_default=False)
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Seed of every draw; default: 0.", show_default=False)
    ] = None,
    effort: Annotated[
        str | None,
        typer.Option(
            "--effort",
            help="quick, default or best: what ranking may cost in exemplars and steps; default: default.",
            show_default=False,
        ),
    ] = None,
    private: Annotated[
        bool,
        typer.Option("--private", help="Keep training rows and rare values out of the bundle; ranks worse."),
    ] = False,
    device: Annotated[
        str | None, typer.Option("--device", help="auto, cpu or cuda; default: auto.", show_default=False)
    ] = None,
    tracking_uri: TrackingUri = None,
    no_track: Annotated[
        bool, typer.Option("--no-track", help="Write the bundle only; log and register nothing.")
    ] = False,
) -> None:
    """Fit a detector on normal rows, calibrate it, export it to ONNX, log and register it."""
    try:
        from anomvae.fitting import fit_bundle, settings_from_toml
        from anomvae.fitting.settings import settings_from
    except ImportError as error:
        raise MissingExtraError("`anomvae fit`", "train") from error
    from anomvae.cli.progress import TrainingProgress
    from anomvae.cli.series_fit import Tracked, fit_series

    overrides: dict[str, Any] = {
        "name": name,
        "alarm_rate": alarm_rate,
        "alarms_per_day": alarms_per_day,
        "rows_per_day": rows_per_day,
        "confidence": confidence,
        "tail": tail,
        "decision": decision,
        "calibration": calibration,
        "label": label,
        "drop": tuple(drop or ()),
        "time": time,
        "by": by,
        "window": window,
        "stride": stride,
        "every": every,
        "past_only": True if past_only else None,
        "off": off,
        "members": members,
        "seed": seed,
        "device": device,
        "effort": effort,
        "private": True if private else None,
        "columns": dict.fromkeys(categorical, "categorical") if categorical else None,
    }
    settings = settings_from_toml(config, overrides) if config else settings_from({}, overrides)
    folder = out_folder or Path("models") / settings.name
    if settings.window is not None:
        fit_series(data, settings, folder, None if no_track else Tracked(tracking_uri))
        return
    with TrainingProgress() as progress:
        result = fit_bundle(data, settings, folder, hooks=[progress], on_prepared=_show_data)
    _show_result(result)
    reference = str(folder) if no_track else track(result.bundle, folder, tracking_uri)
    _show_next(reference, folder)


def _show_data(prepared: PreparedData) -> None:
    console, split = out(), prepared.split
    console.print(f"[bold]{escape(prepared.name)}[/bold]: {prepared.n_rows:,} rows")
    rows = [(column.name, column.kind, _facts(column), f"{column.missing_share:.1%}") for column in prepared.columns]
    console.print(table("columns scored", ("column", "kind", "seen in training", "missing"), rows, right=("missing",)))
    if prepared.schema.left_out:
        left = [(column.name, column.reason) for column in prepared.schema.left_out]
        console.print(table("left out", ("column", "why"), left))
    if split.how == "time" and any(column.role == "group" for column in prepared.schema.left_out):
        warn("--time decides what calibrates, so small groups of --by are not kept whole")
    how = {"random": "at random", "time": f"by time ({split.column}), the latest rows calibrate"}.get(
        split.how, f"by group ({split.column}), small groups stay whole"
    )
    anomalies = (
        f"; {len(prepared.labelled_rows):,} labelled anomalies are kept for evaluation"
        if len(prepared.labelled_rows)
        else ""
    )
    parts = (
        f"all {len(split.train):,} rows train and calibrate, in {split.fold_count} folds"
        if split.folds is not None
        else f"{len(split.train):,} rows train, {len(split.validation):,} validate, {len(split.calibration):,} calibrate"
    )
    console.print(f"divided {escape(how)}: {parts}{anomalies}", soft_wrap=True)


def _facts(column: Any) -> str:
    if column.categories:
        shown = ", ".join(column.categories[:SHOWN_CATEGORIES])
        more = len(column.categories) - SHOWN_CATEGORIES
        return f"{shown} and {more} more" if more > 0 else shown
    if column.low is None:
        return "no value in the training rows"
    unit = f" days since {column.origin}" if column.origin else ""
    return f"{column.low:.5g} to {column.high:.5g}{unit}"


def _show_result(result: FitResult) -> None:
    console, history = out(), result.history
    calibration = result.bundle.manifest.calibration
    ended = {"max_steps": "all steps taken", "no_gain": "no more gain"}
    why = ended.get(history.stopped, history.stopped)  # `interrupted` and `diverged` speak for themselves
    console.print(
        f"trained {history.steps:,} steps in {history.checks[-1].seconds:.1f} s ({why}); best validation bound "
        f"{history.best.validation_loss:.3f} nats at step {history.best.step:,}",
        soft_wrap=True,
    )
    if calibration.by is not None and not calibration.groups:
        warn(f"no group of {calibration.by!r} has rows enough for a calibration of its own")
    for line in promise(calibration):
        console.print(escape(line), soft_wrap=True)
    console.print(
        f"exported one ONNX graph; largest difference from the model {result.parity:.1e} (at most 1e-04, or eight times what float32 leaves open)"
    )
    if result.evaluation:
        found = result.evaluation
        told = (
            f"on the labelled rows: AUROC {found.auroc:.3f}, average precision {found.average_precision:.3f}; of "
            f"{found.anomalies:,} anomalies {found.recall:.1%} alarm"
        )
        if calibration.method == "split":  # all rows that calibrate alarm as often as stated, which tells nothing
            told += (
                f", of {found.rows - found.anomalies:,} held-out normal rows {found.false_alarm_rate:.1%} "
                f"({found.false_alarm_low:.1%} to {found.false_alarm_high:.1%})"
            )
        console.print(told, soft_wrap=True)
    for warning in result.warnings:
        warn(warning)


def _show_next(reference: str, folder: Path) -> None:
    console = out()
    console.print(f"bundle {escape(folder)}, report {escape(folder / 'report.html')}", soft_wrap=True)
    console.print(f"next: [bold]anomvae score DATA --model {escape(reference)}[/bold]", soft_wrap=True)
