"""`anomvae evaluate`: how a detector does on labelled rows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from anomvae.cli.baselines import put_beside, show_beside
from anomvae.cli.console import out, table, warn
from anomvae.cli.options import AlarmRate, Data, Model, PastOnly, Stride, TrackingUri
from anomvae.errors import MissingExtraError, SettingError

if TYPE_CHECKING:
    from anomvae.evaluation import Evaluation


def evaluate(
    data: Data,
    model: Model,
    label: Annotated[str, typer.Option("--label", help="Column that marks anomalies.", show_default=False)],
    alarm_rate: AlarmRate = None,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines", help="Compare with simpler detectors: 1-NN, PCA, isolation forest, Gaussian mixture."
        ),
    ] = False,
    normal: Annotated[
        str | None,
        typer.Option(
            "--normal",
            help="Rows that simpler detectors learn from: normal ones, or labelled ones of which the normal are taken; "
            "default: the data the model was fitted on, if still there.",
            metavar="DATA",
            show_default=False,
        ),
    ] = None,
    alarms_per_day: Annotated[
        float | None,
        typer.Option(
            "--alarms-per-day",
            help="Series: alarms a day that the normal part of an asset may raise, for the recall of events; default: 1.",
            show_default=False,
        ),
    ] = None,
    past_only: PastOnly = None,
    stride: Stride = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the measures as JSON.")] = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Evaluate a detector on labelled rows: ranking, recall at the alarm rate, false alarms with interval."""
    try:
        import sklearn  # noqa: F401

        from anomvae import evaluation
    except ImportError as error:
        raise MissingExtraError("`anomvae evaluate`", "train") from error
    from anomvae.cli.series_score import SeriesOptions, Wanted, evaluate_series_file
    from anomvae.data.comparison import LabelledRows
    from anomvae.data.encoding import encode
    from anomvae.data.labels import read_labels
    from anomvae.data.reading import open_rows
    from anomvae.detector import find_bundle
    from anomvae.scoring import Scorer
    from anomvae.scoring.needs import arrow_types

    if normal is not None and not baselines:
        raise SettingError("--normal names rows that simpler detectors learn from; give --baselines too")
    bundle = find_bundle(model, tracking_uri=tracking_uri)
    if bundle.manifest.series is not None:
        if baselines:
            raise SettingError("--baselines are for detectors of rows: leave it out")
        options = SeriesOptions(0, alarm_rate, past_only, stride)
        evaluate_series_file(data, bundle, label, options, Wanted(alarms_per_day, as_json))
        return
    if not (past_only is None and stride is None and alarms_per_day is None):
        raise SettingError(
            f"--past-only, --stride and --alarms-per-day are for series; the model {bundle.manifest.name!r} scores rows"
        )
    scorer = Scorer(bundle)
    scorer.check_alarm_rate(alarm_rate)
    rows = open_rows(data, types=arrow_types(scorer.manifest)).table()
    rate = scorer.manifest.calibration.alarm_rate if alarm_rate is None else alarm_rate
    labels = read_labels(rows, label)
    labelled = ~labels.unknown
    answers = scorer.score(rows.select(scorer.needed_columns(rows.schema.names)), top=0, alarm_rate=alarm_rate)
    scores = {name: answers[name].to_numpy() for name in ("score", "reconstruction_error")}
    score, distance = (values[labelled] for values in scores.values())
    alarm = answers["alarm"].to_numpy().astype(bool)[labelled]
    found = evaluation.evaluate(score, distance, alarm, labels.anomalous[labelled], rate)
    beside = None
    if baselines:
        evaluated = LabelledRows(data, encode(rows, scorer.manifest.columns), label, labels)
        beside = put_beside(evaluated, scores, scorer.manifest, normal)
        for warning in beside.chosen.warnings:
            warn(warning)
    if as_json:
        more = {} if beside is None else {"baselines": beside.as_json()}
        typer.echo(json.dumps(found.as_metrics() | more, indent=2))
        return
    _show(found, rate)
    if beside is not None:
        show_beside(beside, scorer.manifest.name)


def _show(found: Evaluation, rate: float) -> None:
    normal = found.rows - found.anomalies
    ranking = [
        ("score", f"{found.auroc:.4f}", f"{found.average_precision:.4f}"),
        ("reconstruction error", f"{found.auroc_reconstruction:.4f}", f"{found.average_precision_reconstruction:.4f}"),
    ]
    decisions = [
        ("anomalies that alarm", f"{found.recall:.2%}", f"{found.recall_low:.2%} to {found.recall_high:.2%}"),
        (
            "normal rows that alarm",
            f"{found.false_alarm_rate:.2%}",
            f"{found.false_alarm_low:.2%} to {found.false_alarm_high:.2%}",
        ),
        ("alarms that are anomalies", f"{found.precision:.2%}", ""),
    ]
    console = out()
    console.print(f"{found.rows:,} rows: {found.anomalies:,} anomalies, {normal:,} normal")
    console.print(table("ranking", ("by", "AUROC", "average precision"), ranking, right=("AUROC", "average precision")))
    console.print(
        table(
            f"verdicts at a stated rate of {rate:.2%}",
            ("share of", "found", "95 % interval"),
            decisions,
            right=("found",),
        )
    )
