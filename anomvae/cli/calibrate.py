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
    from anomvae.bundle import Calibration, SeriesFacts
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
            help="Column whose groups get calibrations of their own; '' for none; default: as before. A series keeps its own: leave it out.",
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
    series = bundle.manifest.series
    _show(result, None if series is None else series.batch)
    if series is not None:
        _warn_of_unlike(data, series)
    reference = str(folder) if no_track else track(result.bundle, folder, tracking_uri)
    console = out()
    console.print(f"bundle {escape(folder)}, report {escape(folder / 'report.html')}", soft_wrap=True)
    console.print(f"next: [bold]anomvae score DATA --model {escape(reference)}[/bold]", soft_wrap=True)


def _warn_of_unlike(data: str, facts: SeriesFacts) -> None:
    import pyarrow as pa

    from anomvae.cli.series_score import warn_of_unlike
    from anomvae.data.reading import open_rows

    names = [name for name in (facts.time, facts.asset) if name is not None]
    types = {name: None if name == facts.time else pa.string() for name in names}
    source = open_rows(data, types=types)
    batches = list(source.batches(columns=names))
    if batches:
        warn_of_unlike(pa.Table.from_batches(batches), facts)


def _show(result: RecalibrationResult, whole_before: Calibration | None) -> None:
    """Says what is promised now, and what was.

    Args:
        result: Of the recalibration.
        whole_before: The calibration of steps of whole series that it replaces; None: there was none.
    """
    console, before = out(), result.before
    manifest = result.bundle.manifest
    now, unit = manifest.calibration, unit_of(manifest)
    if result.left_out:
        console.print(f"{result.left_out:,} rows are labelled as anomalies, or not at all, and do not calibrate")
    had_alarmed = f"; of these rows {result.would_have_alarmed:.2%} would have alarmed before, where {before.alarm_rate:.2%} were stated"
    if manifest.series is None:
        _show_promise(before, now, unit, had_alarmed)
    else:
        console.print("[bold]newest steps by their past[/bold]")
        _show_promise(before, now, unit, had_alarmed, indent="  ")
        if manifest.series.batch is not None:
            console.print("[bold]steps of whole series[/bold]")
            _show_promise(whole_before, manifest.series.batch, unit, indent="  ")
    console.print(f"weights untouched: scoring part of the graph {result.scoring_digest}", soft_wrap=True)
    _warn(result)


def _show_promise(
    before: Calibration | None, now: Calibration, unit: str, had_alarmed: str = "", *, indent: str = ""
) -> None:
    was = "" if before is None else f"was {before.score_threshold:.4g} {unit} and "
    change = f"the score's threshold {was}is {now.score_threshold:.4g}{'' if was else f' {unit}'}{had_alarmed}"
    for line in [*promise(now, unit), change]:
        out().print(indent + escape(line), soft_wrap=True)


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
