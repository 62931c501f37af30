"""`anomvae fit`: from a file of normal rows to a registered detector."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomvae.cli.console import err, escape, out, table, warn
from anomvae.cli.options import Data, Label, TrackingUri
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
    label: Label = None,
    drop: Annotated[
        list[str] | None, typer.Option("--drop", help="Column to leave out; repeat it for more.", show_default=False)
    ] = None,
    time: Annotated[
        str | None,
        typer.Option("--time", help="Column that orders the rows: the latest calibrate.", show_default=False),
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", help="Column that groups the rows: groups stay whole.", show_default=False)
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

    overrides: dict[str, Any] = {
        "name": name,
        "alarm_rate": alarm_rate,
        "label": label,
        "drop": tuple(drop or ()),
        "time": time,
        "by": by,
        "seed": seed,
        "device": device,
        "effort": effort,
        "private": True if private else None,
        "columns": dict.fromkeys(categorical, "categorical") if categorical else None,
    }
    settings = settings_from_toml(config, overrides) if config else settings_from({}, overrides)
    folder = out_folder or Path("models") / settings.name
    with TrainingProgress() as progress:
        result = fit_bundle(data, settings, folder, hooks=[progress], on_prepared=_show_data)
    _show_result(result)
    reference = str(folder) if no_track else _track(result, folder, tracking_uri)
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
        warn("--time decides the split, so the groups of --by are not kept whole")
    how = {"random": "at random", "time": f"by time ({split.column}), the latest rows calibrate"}.get(
        split.how, f"by group ({split.column}), groups stay whole"
    )
    anomalies = (
        f"; {len(prepared.labelled_rows):,} labelled anomalies are kept for evaluation"
        if len(prepared.labelled_rows)
        else ""
    )
    console.print(
        f"split {escape(how)}: {len(split.train):,} rows train, {len(split.validation):,} validate, "
        f"{len(split.calibration):,} calibrate{anomalies}",
        soft_wrap=True,
    )


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
    console.print(
        f"calibrated on {calibration.rows:,} rows: at most {calibration.alarm_rate:.2%} of normal rows alarm "
        f"(score above {calibration.score_threshold:.4g} nats); rates down to {calibration.smallest_alarm_rate:.2g} are supported",
        soft_wrap=True,
    )
    console.print(f"exported one ONNX graph; largest difference from the model {result.parity:.1e} (at most 1e-04)")
    if result.evaluation:
        found = result.evaluation
        console.print(
            f"on the labelled rows: AUROC {found.auroc:.3f}, average precision {found.average_precision:.3f}; of "
            f"{found.anomalies:,} anomalies {found.recall:.1%} alarm, of {found.rows - found.anomalies:,} held-out normal rows "
            f"{found.false_alarm_rate:.1%} ({found.false_alarm_low:.1%} to {found.false_alarm_high:.1%})",
            soft_wrap=True,
        )
    for warning in result.warnings:
        warn(warning)


def _track(result: FitResult, folder: Path, tracking_uri: str | None) -> str:
    """Logs and registers; a server that does not answer costs nothing but a later command."""
    from anomvae.errors import TrackingError

    to = f" --tracking-uri {tracking_uri}" if tracking_uri else ""
    later = f"the bundle is safe in {folder}; log it later with `anomvae models log {folder}{to}`"
    try:
        from anomvae.tracking.runs import log_bundle
    except ImportError:
        warn(f"MLflow is not installed, so the model is not registered (pip install 'anomvae[mlflow]'); {later}")
        return str(folder)
    try:
        with err().status("logging to MLflow"):
            run = log_bundle(result.bundle, tracking_uri=tracking_uri)
    except TrackingError as error:
        warn(f"{error}; {later}")
        return str(folder)
    aliases = ", ".join(run.aliases)
    out().print(
        f"registered as {escape(run.model_name)} version {run.version} ({aliases}); open with: {escape(run.how_to_open)}",
        soft_wrap=True,
    )
    return f"{run.model_name}/{run.version}"


def _show_next(reference: str, folder: Path) -> None:
    console = out()
    console.print(f"bundle {escape(folder)}, report {escape(folder / 'report.html')}", soft_wrap=True)
    console.print(f"next: [bold]anomvae score DATA --model {escape(reference)}[/bold]", soft_wrap=True)
