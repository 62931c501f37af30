"""What `anomvae score` and `anomvae evaluate` do with a detector of series."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import typer

from anomvae.cli.console import err, out, table, warn
from anomvae.errors import MissingExtraError, OutputError, SettingError

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from anomvae.bundle import Bundle
    from anomvae.data.series import Sequences
    from anomvae.scoring.series import SeriesScoring


class SeriesOptions(NamedTuple):
    """How a series is scored; see :meth:`anomvae.scoring.series.SeriesScoring.score`."""

    top: int = 3
    alarm_rate: float | None = None
    past_only: bool | None = None
    stride: int | None = None


UNSCORED_SHARE = 0.2


def score_series(data: Any, bundle: Bundle, where: str, options: SeriesOptions, report: Path | None = None) -> None:
    """Scores a file of series, a row for a row.

    Args:
        data: As of the command.
        bundle: Of a detector of series.
        where: File for the answers, or `-`.
        options: How.
        report: File for a report with the strangest stretches drawn; None: none.
    """
    from anomvae.data.reading import open_rows
    from anomvae.data.writing import Answers, write_answers
    from anomvae.scoring.needs import arrow_types
    from anomvae.scoring.reasons import natural_reasons
    from anomvae.scoring.series import SeriesScoring

    scoring = SeriesScoring(bundle)
    started = time.monotonic()
    rows = open_rows(data, types=arrow_types(bundle.manifest)).table()
    answers = scoring.score(rows, **options._asdict())
    natural = natural_reasons(bundle.manifest)
    plain = {"reasons": lambda reasons: [] if reasons is None else natural(reasons)}
    count = write_answers(where, Answers(iter(answers.to_batches(32_768)), answers.schema, plain))
    seconds = time.monotonic() - started
    if report is not None:
        _draw(report, scoring, rows, answers, str(data), options)
    alarms = int(np.count_nonzero(answers["alarm"].to_numpy()))
    _warn_of_unscored(answers)
    rate = bundle.manifest.calibration.alarm_rate if options.alarm_rate is None else options.alarm_rate
    to = "" if where == "-" else f" to {where}"
    err().print(
        f"{count:,} rows scored{to} in {seconds:.1f} s ({count / max(seconds, 1e-9):,.0f} rows/s): {alarms:,} alarms"
        f"{f' ({alarms / count:.2%})' if count else ''} at a stated rate of {rate:.2%} of normal rows",
        soft_wrap=True,
    )


def _draw(
    report: Path, scoring: SeriesScoring, rows: pa.Table, answers: pa.Table, name: str, options: SeriesOptions
) -> None:
    """Writes a report of scored rows: their strangest stretches, channel by channel."""
    try:
        from anomvae.report.series_scored import look_at_scored, render_scored_series
    except ImportError as error:
        raise MissingExtraError("--report", "train") from error

    seen = look_at_scored(scoring, rows, answers, name=name, alarm_rate=options.alarm_rate, past_only=options.past_only)
    try:
        report.write_text(render_scored_series(seen), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{report} cannot be written: {error.strerror}; name another file for the report") from None
    err().print(f"report {report}", soft_wrap=True)


def _warn_of_unscored(answers: pa.Table) -> None:
    reasons = [reason for reason in answers["reason"].to_pylist() if reason is not None]
    if answers.num_rows and len(reasons) > UNSCORED_SHARE * answers.num_rows:
        counts = {reason: reasons.count(reason) for reason in sorted(set(reasons))}
        told = ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
        warn(f"{len(reasons):,} of {answers.num_rows:,} rows have no score ({told}); see the column `reason`")


def evaluate_series_file(data: Any, bundle: Bundle, label: str, options: SeriesOptions, wanted: Wanted) -> None:
    """Evaluates a detector of series on labelled rows, and prints what was found.

    Args:
        data: As of the command.
        bundle: Of a detector of series.
        label: Column that marks anomalies.
        options: How rows are scored.
        wanted: What is asked of the evaluation.
    """
    from anomvae.data.labels import read_labels
    from anomvae.data.reading import open_rows
    from anomvae.data.series import sequences_for
    from anomvae.evaluation.ranges import EventSettings, LabelledSteps
    from anomvae.evaluation.series import SeriesSettings, evaluate_series
    from anomvae.scoring.needs import arrow_types
    from anomvae.scoring.series import SeriesScoring

    scoring = SeriesScoring(bundle)
    rows = open_rows(data, types=arrow_types(bundle.manifest)).table()
    labels = read_labels(rows, label)
    sequences = sequences_for(rows, bundle.manifest)
    answers = scoring.score(rows, **{**options._asdict(), "top": 0})
    kept = ~labels.unknown
    score = answers["score"].to_numpy().astype(float)[kept]
    alarm = answers["alarm"].to_numpy().astype(bool)[kept]
    steps = LabelledSteps(
        labels.anomalous[kept], sequences.asset_of_row[kept], sequences.time_s[kept], _first_channel(sequences)[kept]
    )
    rate = bundle.manifest.calibration.alarm_rate if options.alarm_rate is None else options.alarm_rate
    settings = SeriesSettings(EventSettings(alarms_per_day=wanted.alarms_per_day), alarm_rate=rate)
    found = evaluate_series(score, alarm, steps, settings)
    if wanted.as_json:
        typer.echo(json.dumps(found.as_metrics(), indent=2))
        return
    console = out()
    console.print(found.headline(), soft_wrap=True)
    console.print(
        table("ranking", ("by", "ROC", "precision-recall"), found.ranking_rows(), right=("ROC", "precision-recall"))
    )
    console.print(table("events", found.detection_columns(), found.detection_rows()))


class Wanted(NamedTuple):
    """What is asked of an evaluation of series.

    Attributes:
        alarms_per_day: Alarms that may come from the normal steps of an asset a day, for the recall at a budget.
        as_json: Whether the measures are printed as JSON.
    """

    alarms_per_day: float = 1.0
    as_json: bool = False


def _first_channel(sequences: Sequences) -> np.ndarray:
    """Values of the first channel by row, whose period decides how far buffers reach."""
    return sequences.to_rows(sequences.values[:, 0].astype(np.float64))


def refuse_for_series(bundle: Bundle, what: str) -> None:
    """Refuses a command that is for detectors of rows.

    Raises:
        SettingError: The bundle is one of series.
    """
    if bundle.manifest.series is not None:
        raise SettingError(f"{what} is for detectors of rows; the model {bundle.manifest.name!r} scores series")
