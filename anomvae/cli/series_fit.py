"""What `anomvae fit --window` does and prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from anomvae.cli.console import escape, out, table, warn
from anomvae.cli.promise import SPREADS, promise
from anomvae.cli.tracking import track
from anomvae.data.sequences import sequence_words

if TYPE_CHECKING:
    from pathlib import Path

    from anomvae.fitting.series import SeriesFit
    from anomvae.fitting.series_preparation import PreparedSeries
    from anomvae.fitting.settings import FitSettings


class Tracked(NamedTuple):
    """Where a model is logged and registered.

    Attributes:
        uri: Of the tracking server; None: the usual one.
    """

    uri: str | None


def fit_series(data: Any, settings: FitSettings, folder: Path, tracked: Tracked | None) -> None:
    """Fits a detector of series, says what it found and promises, and registers it.

    Args:
        data: As of the command.
        settings: With a window.
        folder: For the bundle.
        tracked: Where to log it; None: nowhere.
    """
    from anomvae.cli.progress import TrainingProgress
    from anomvae.fitting.series import fit_series_bundle

    with TrainingProgress() as progress:
        result = fit_series_bundle(data, settings, folder, hooks=[progress], on_prepared=_show_data)
    _show_result(result)
    reference = str(folder) if tracked is None else track(result.bundle, folder, tracked.uri)
    console = out()
    console.print(f"bundle {escape(folder)}, report {escape(folder / 'report.html')}", soft_wrap=True)
    console.print(
        f"next: [bold]anomvae score DATA --model {escape(reference)}[/bold], or [bold]anomvae stream --model "
        f"{escape(reference)} --from SOURCE --to SINK[/bold]",
        soft_wrap=True,
    )


def _show_data(prepared: PreparedSeries) -> None:
    console, sequences = out(), prepared.sequences
    console.print(f"[bold]{escape(prepared.name)}[/bold]: {prepared.n_rows:,} rows")
    rows = [
        (column.name, _range(column.low, column.high), f"{column.missing_share:.1%}") for column in prepared.columns
    ]
    console.print(table("channels", ("channel", "seen in training", "missing"), rows, right=("missing",)))
    if prepared.schema.left_out:
        left = [(column.name, column.reason) for column in prepared.schema.left_out]
        console.print(table("left out", ("column", "why"), left))
    console.print(escape(sequence_words(sequences)), soft_wrap=True)
    for concern in prepared.concerns:
        if concern.severity == "info":
            console.print(escape(concern.message), soft_wrap=True)
    if prepared.labelled:
        console.print(f"{prepared.labelled:,} rows labelled as anomalous were left out")


def _range(low: float | None, high: float | None) -> str:
    return "no value in the training rows" if low is None or high is None else f"{low:.5g} to {high:.5g}"


def _show_result(result: SeriesFit) -> None:
    console, manifest = out(), result.bundle.manifest
    for member, history in result.histories.items():
        ended = {"max_steps": "all steps taken", "no_gain": "no more gain"}
        what = {"row": "the judge of single steps", "window": "the judge of windows"}[member]
        console.print(
            f"trained {what}: {history.steps:,} steps in {history.checks[-1].seconds:.1f} s "
            f"({ended.get(history.stopped, history.stopped)}); best validation bound {history.best.validation_loss:.3f} nats "
            "a step",
            soft_wrap=True,
        )
    order = {judge: result.record.metrics.get(f"order_told_by_{judge}") for judge in ("window", "distance")}
    if order["window"] is not None and order["distance"] is not None:
        console.print(
            f"order of steps: halves of different normal windows stand out to the judge of windows at {order['window']:.2f}, by their "
            f"distance from known windows at {order['distance']:.2f}, where 0.50 is chance; each counts accordingly",
            soft_wrap=True,
        )
    explained = result.record.metrics.get("explained_by_the_past")
    if explained is not None:
        console.print(
            f"the past: {explained:.0%} of the variance of normal steps is foretold by the few steps before them; the forecast counts accordingly",
            soft_wrap=True,
        )
    facts = manifest.series
    batch, refitted_on = (None, None) if facts is None else (facts.batch, facts.refitted_on)
    for title, calibration in (("newest steps by their past", manifest.calibration), ("steps of whole series", batch)):
        if calibration is not None:
            console.print(f"[bold]{title}[/bold]")
            for line in promise(calibration, SPREADS, refitted_on):
                console.print("  " + escape(line), soft_wrap=True)
    console.print(
        f"exported one ONNX graph; largest difference from the model {result.parity:.1e} (at most 1e-04, or eight times what float32 leaves open)"
    )
    for warning in result.warnings:
        warn(warning)
