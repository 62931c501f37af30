"""`anomvae calibrate`: another promise for a detector that is fitted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anomvae.cli.console import err, escape, out, warn
from anomvae.cli.options import (
    AlarmRate,
    AlarmsPerDay,
    Confidence,
    Data,
    Decision,
    Label,
    Model,
    RowsPerDay,
    Tail,
    TrackingUri,
)
from anomvae.cli.promise import promise, unit_of
from anomvae.errors import MissingExtraError, SettingError

if TYPE_CHECKING:
    from anomvae.fitting.recalibration import RecalibrationResult

UNLIKELY = 1e-3
DECISIONS = ("elbo", "reconstruction", "both")


def calibrate(
    data: Data,
    model: Model,
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            help="Column whose groups get calibrations of their own; '' for none; default: as before.",
            show_default=False,
        ),
    ] = None,
    alarm_rate: AlarmRate = None,
    alarms_per_day: AlarmsPerDay = None,
    rows_per_day: RowsPerDay = None,
    confidence: Confidence = None,
    tail: Tail = None,
    decision: Decision = None,
    label: Label = None,
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the new bundle; default: models/NAME-recalibrated.", show_default=False),
    ] = None,
    tracking_uri: TrackingUri = None,
    no_track: Annotated[
        bool, typer.Option("--no-track", help="Write the bundle only; log and register nothing.")
    ] = False,
) -> None:
    """Calibrate a fitted detector again, on normal rows it has not seen: a new version, the weights untouched.

    What is not said stays as it was: the rate, the confidence, the verdict, the groups.
    """
    try:
        from anomvae.fitting.recalibration import RecalibrationSettings, recalibrate_bundle
    except ImportError as error:
        raise MissingExtraError("`anomvae calibrate`", "train") from error
    from anomvae.cli.tracking import track
    from anomvae.detector import find_bundle

    if decision is not None and decision not in DECISIONS:
        raise SettingError(f"--decision is {decision!r}; it must be one of {', '.join(DECISIONS)}")
    settings = RecalibrationSettings(
        alarm_rate=alarm_rate,
        alarms_per_day=alarms_per_day,
        rows_per_day=rows_per_day,
        confidence=confidence,
        tail=tail,
        decision=decision,  # type: ignore[arg-type]
        by=by,
        label=label,
    )
    bundle = find_bundle(model, tracking_uri=tracking_uri)
    folder = out_folder or Path("models") / f"{bundle.manifest.name}-recalibrated"
    with err().status("scoring normal rows"):
        result = recalibrate_bundle(data, bundle, settings, folder)
    _show(result)
    reference = str(folder) if no_track else track(result.bundle, folder, tracking_uri)
    console = out()
    console.print(f"bundle {escape(folder)}, report {escape(folder / 'report.html')}", soft_wrap=True)
    console.print(f"next: [bold]anomvae score DATA --model {escape(reference)}[/bold]", soft_wrap=True)


def _show(result: RecalibrationResult) -> None:
    console, before = out(), result.before
    now = result.bundle.manifest.calibration
    if result.left_out:
        console.print(f"{result.left_out:,} rows are labelled as anomalies, or not at all, and do not calibrate")
    unit = unit_of(result.bundle.manifest)
    for line in promise(now, unit):
        console.print(escape(line), soft_wrap=True)
    console.print(
        f"the score's threshold was {before.score_threshold:.4g} {unit} and is {now.score_threshold:.4g}; of these rows "
        f"{result.would_have_alarmed:.2%} would have alarmed before, where {before.alarm_rate:.2%} were stated",
        soft_wrap=True,
    )
    console.print(f"weights untouched: scoring part of the graph {result.scoring_digest}", soft_wrap=True)
    _warn(result)


def _warn(result: RecalibrationResult) -> None:
    from math import exp

    before, now = result.before, result.bundle.manifest.calibration
    if now.by is not None and not now.groups:
        warn(
            f"no group of {now.by!r} has rows enough for a calibration of its own: all are held against the rows of all"
        )
    expected = before.alarm_rate * result.rows
    if not result.would_have_alarmed and exp(-expected) < UNLIKELY:
        warn(
            "none of these rows would have alarmed before, which chance hardly explains: rows that the fit has had do so; "
            "name normal rows that it has not seen"
        )
    if result.would_have_alarmed > 3 * before.alarm_rate + 3 / max(1, result.rows):
        warn(
            "many more of these rows would have alarmed than was stated: if they are normal, normal has moved, and a new fit "
            "finds more than a new calibration"
        )
