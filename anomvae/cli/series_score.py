"""What `anomvae score` and `anomvae evaluate` do with a detector of series."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import typer

from anomvae.cli.console import err, escape, out, table, warn
from anomvae.cli.places import write_report
from anomvae.errors import MissingExtraError, SettingError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pyarrow as pa

    from anomvae.bundle import Bundle, Manifest, SeriesFacts
    from anomvae.data.series import Sequences
    from anomvae.data.step import TimeUnit
    from anomvae.evaluation.series import SeriesEvaluation
    from anomvae.scoring.series import SeriesScoring


class SeriesOptions(NamedTuple):
    """How a series is scored; see :meth:`anomvae.scoring.series.SeriesScoring.score`."""

    top: int = 3
    alarm_rate: float | None = None
    past_only: bool | None = None
    stride: int | None = None

    def check(self, facts: SeriesFacts) -> None:
        """Refuses a stride that windows of the detector leave no room for.

        Raises:
            SettingError: See above.
        """
        if self.stride is not None and not 1 <= self.stride <= facts.window:
            raise SettingError(
                f"--stride is {self.stride:,}; state a --stride from 1 to {facts.window:,}, the steps of the model's windows"
            )


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
    options.check(scoring.facts)
    draw = None if report is None else _drawing()
    started = time.monotonic()
    rows = open_rows(data, types=arrow_types(bundle.manifest)).table()
    answers = scoring.score(rows, **options._asdict())
    natural = natural_reasons(bundle.manifest)
    plain = {"reasons": lambda reasons: [] if reasons is None else natural(reasons)}
    count = write_answers(where, Answers(iter(answers.to_batches(32_768)), answers.schema, plain))
    seconds = time.monotonic() - started
    if report is not None and draw is not None:
        write_report(report, draw(scoring, rows, answers, str(data), options))
        err().print(f"report {escape(report)}", soft_wrap=True)
    alarms = int(np.count_nonzero(answers["alarm"].to_numpy()))
    _warn_of_unscored(rows, answers, bundle.manifest)
    warn_of_unlike(rows, scoring.facts)
    rate = bundle.manifest.calibration.alarm_rate if options.alarm_rate is None else options.alarm_rate
    to = "" if where == "-" else f" to {where}"
    err().print(
        f"{count:,} rows scored{to} in {seconds:.1f} s ({count / max(seconds, 1e-9):,.0f} rows/s): {alarms:,} alarms"
        f"{f' ({alarms / count:.2%})' if count else ''} at a stated rate of {rate:.2%} of normal rows",
        soft_wrap=True,
    )


def _drawing() -> Callable[[SeriesScoring, pa.Table, pa.Table, str, SeriesOptions], str]:
    """What draws a report of scored rows: their strangest stretches, channel by channel.

    Raises:
        MissingExtraError: What it takes is not installed.
    """
    try:
        from anomvae.report.series_scored import look_at_scored, render_scored_series
    except ImportError as error:
        raise MissingExtraError("--report", "train") from error

    def draw(scoring: SeriesScoring, rows: pa.Table, answers: pa.Table, name: str, options: SeriesOptions) -> str:
        rate, by_past = options.alarm_rate, options.past_only
        return render_scored_series(
            look_at_scored(scoring, rows, answers, name=name, alarm_rate=rate, past_only=by_past)
        )

    return draw


def _warn_of_unscored(rows: pa.Table, answers: pa.Table, manifest: Manifest) -> None:
    from anomvae.data.sequences import coarse_words, interval_words
    from anomvae.data.series import sequences_for

    reasons = [reason for reason in answers["reason"].to_pylist() if reason is not None]
    if answers.num_rows and len(reasons) > UNSCORED_SHARE * answers.num_rows:
        counts = {reason: reasons.count(reason) for reason in sorted(set(reasons))}
        told = ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
        sequences = sequences_for(rows, manifest)
        why = None if coarse_words(sequences) else interval_words(sequences)  # a coarser interval is told by itself
        told_why = "" if why is None else f": {why}"
        warn(f"{len(reasons):,} of {answers.num_rows:,} rows have no score ({told}); see the column `reason`{told_why}")


def warn_of_unlike(rows: pa.Table, facts: SeriesFacts) -> None:
    """Warns of rows at a coarser interval than the model's step, and of assets that it does not know.

    Args:
        rows: At least the time, and the asset's column if there is one.
        facts: The detector's.
    """
    from anomvae.data.sequences import coarse_words
    from anomvae.data.series import times_for
    from anomvae.data.strangers import find_strangers

    for words in (coarse_words(times_for(rows, facts)), find_strangers(rows, facts).words):
        if words is not None:
            warn(words)


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
    options.check(scoring.facts)
    rows = open_rows(data, types=arrow_types(bundle.manifest)).table()
    labels = read_labels(rows, label)
    sequences = sequences_for(rows, bundle.manifest)
    unit, per_day = sequences.unit, wanted.budget(sequences.unit)
    answers = scoring.score(rows, **{**options._asdict(), "top": 0})
    kept = ~labels.unknown
    score = answers["score"].to_numpy().astype(float)[kept]
    alarm = answers["alarm"].to_numpy().astype(bool)[kept]
    times = sequences.time_s / (unit.per_second or 1.0)
    steps = LabelledSteps(
        labels.anomalous[kept], sequences.asset_of_row[kept], times[kept], _first_channel(sequences)[kept]
    )
    rate = bundle.manifest.calibration.alarm_rate if options.alarm_rate is None else options.alarm_rate
    if unit.per_second is None:
        lasting = scoring.facts.window * scoring.facts.step_s
        settings = SeriesSettings(EventSettings(0.0, renewal_s=lasting), alarm_rate=rate, unit=unit.name)
    else:
        settings = SeriesSettings(EventSettings(per_day), alarm_rate=rate)
    found = evaluate_series(score, alarm, steps, settings)
    warn_of_unlike(rows, scoring.facts)
    _warn_of_no_budget(found, scoring.facts)
    if wanted.as_json:
        typer.echo(json.dumps(found.as_metrics(), indent=2))
        return
    console = out()
    console.print(found.headline(), soft_wrap=True)
    console.print(
        table("ranking", ("by", "ROC", "precision-recall"), found.ranking_rows(), right=("ROC", "precision-recall"))
    )
    console.print(table("events", found.detection_columns(), found.detection_rows()))


def _warn_of_no_budget(found: SeriesEvaluation, facts: SeriesFacts) -> None:
    """Says why the budget allows no alarm, where it was not stated so."""
    if found.unit is not None:
        warn(
            f"nobody knows the unit of the numbers of {facts.time!r}, so there is no budget of alarms a day: in its place stands what "
            f"is found without any alarm in normal parts, delays are in {found.unit}, and an event that lasts counts once more "
            f"each {facts.window:,} steps; write timestamps, or milliseconds since 1970, for figures by the day"
        )
    elif found.alarms_per_day > 0 and found.allowed_events == 0:
        warn(
            f"the normal parts last {found.at_budget.normal_days:.2g} days, in which {found.alarms_per_day:g} a day is less than one "
            "alarm: the budget's column is of no alarm at all; state more with --alarms-per-day, or bring longer normal parts"
        )


class Wanted(NamedTuple):
    """What is asked of an evaluation of series.

    Attributes:
        alarms_per_day: Alarms that may come from the normal steps of an asset a day, for the recall at a budget; None: one.
        as_json: Whether the measures are printed as JSON.
    """

    alarms_per_day: float | None = None
    as_json: bool = False

    def budget(self, unit: TimeUnit) -> float:
        """Alarms a day.

        Raises:
            SettingError: They were stated, and nobody knows how long a day is in the unit of the times.
        """
        if self.alarms_per_day is not None and unit.per_second is None:
            raise SettingError(
                f"--alarms-per-day cannot be had: times are numbers in {unit.name}, and nobody knows how many a day has; write "
                "timestamps, or milliseconds since 1970, or leave it out"
            )
        return 1.0 if self.alarms_per_day is None else self.alarms_per_day


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
