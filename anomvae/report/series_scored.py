"""The report of a scored table of series: the strangest stretches, the alarms, and scores over time."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from anomvae.data.series import asset_numbers, sequences_for
from anomvae.data.strangers import find_strangers
from anomvae.report.series import clock_of, drawn, facts_of, series_style
from anomvae.report.series_contents import SCORED, JudgedSteps, ScoredSeries
from anomvae.report.series_look import (
    APART,
    Explainer,
    alarm_runs,
    asset_traces,
    channel_shares,
    strange_stretches,
    thresholds_of,
    usual_contribution,
)
from anomvae.report.templates import filled
from anomvae.report.wording import NOTHING, instant, number, p_value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    import pyarrow as pa

    from anomvae.bundle import Calibration
    from anomvae.data.series import Sequences
    from anomvae.data.windows import Windows
    from anomvae.report.contents import FloatArray
    from anomvae.report.series_axis import Clock
    from anomvae.report.series_contents import AlarmRun, BoolArray
    from anomvae.scoring.series import SeriesScoring

MOST_RUNS = 50
_MOST_TILES = 4


def render_scored_series(contents: ScoredSeries) -> str:
    """The report as one HTML file: no script, no request, readable offline; the same contents give the same text.

    It draws values of the data: it is as private as they are.

    Args:
        contents: All that it shows.
    """
    manifest = contents.manifest
    facts = facts_of(manifest)
    times = np.array([run.begin_s for run in contents.runs])
    clock = clock_of(manifest, times)
    return filled(
        "scored_series.html",
        kind="scored series",
        series_css=series_style(),
        manifest=manifest,
        contents=contents,
        facts=facts,
        name=contents.name or "scored data",
        alarming=contents.alarms / contents.scored if contents.scored else 0.0,
        judged="its past alone" if contents.past_only else "all windows that cover it",
        created=instant(manifest.provenance.created),
        digest=manifest.provenance.digest.removeprefix("sha256:")[:12],
        **drawn(manifest, contents.stretches, contents.traces),
        runs=[_run_line(run, clock) for run in contents.runs],
        runs_in_all=len(contents.runs) + contents.more_runs,
        apart=APART,
        measures=[(name, number(value)) for name, value in list(contents.measures.items())[:_MOST_TILES]],
        unscored=[(reason, f"{rows:,}") for reason, rows in contents.unscored.items()],
    )


def look_at_scored(  # noqa: PLR0913  what was scored, how, and what is known of it
    scoring: SeriesScoring,
    rows: pa.Table,
    answers: pa.Table,
    *,
    name: str = "",
    alarm_rate: float | None = None,
    past_only: bool | None = None,
    truth: BoolArray | None = None,
    measures: Mapping[str, float] | None = None,
    warnings: tuple[str, ...] = (),
) -> ScoredSeries:
    """Gathers what the report of a scored table shows; asks the detector about the strangest stretches alone.

    Args:
        scoring: What scored the rows.
        rows: The rows, n of them.
        answers: What `scoring.score` answered to them, a row a row.
        name: Where they came from.
        alarm_rate: As it was given to `scoring.score`.
        past_only: Likewise.
        truth: Rows labelled as anomalous, shape ``(n,)``; None: no labels.
        measures: Of an evaluation, by name; the first four are shown.
        warnings: Sentences a reader must see first.
    """
    manifest = scoring.manifest
    facts = facts_of(manifest)
    by_past = facts.past_only if past_only is None else past_only
    calibration = manifest.calibration if by_past or facts.batch is None else facts.batch
    own_rate = alarm_rate is None or alarm_rate == calibration.alarm_rate
    judged = _judged(sequences_for(rows, manifest), answers, calibration, truth, own_rate=own_rate)
    sequences = judged.sequences

    def run(windows: Windows, names: Sequence[str]) -> Mapping[str, npt.NDArray[np.floating]]:
        found: Mapping[str, Any] = scoring.session.run(windows.encoded(), names)
        return found

    explainer = Explainer(run, facts.window, by_past, asset_numbers(sequences, rows, facts.asset_column))
    usual = usual_contribution(judged, explainer)
    traces, more_assets = asset_traces(judged)
    runs, more_runs = alarm_runs(judged, explainer, usual, MOST_RUNS)
    reasons = Counter(reason for reason in answers["reason"].to_pylist() if reason is not None)
    strangers = find_strangers(rows, facts).words
    return ScoredSeries(
        manifest=manifest,
        name=name,
        rows=rows.num_rows,
        scored=int(np.isfinite(_numbers(answers, "score")).sum()),
        alarms=int(answers["alarm"].to_numpy(zero_copy_only=False).sum()),
        alarm_rate=calibration.alarm_rate if alarm_rate is None else alarm_rate,
        past_only=by_past,
        unscored=dict(reasons.most_common()),
        labelled=None if truth is None else int(truth.sum()),
        stretches=strange_stretches(judged, explainer, usual),
        traces=traces,
        more_assets=more_assets,
        shares=channel_shares(judged, explainer, usual),
        runs=runs,
        more_runs=more_runs,
        measures={} if measures is None else measures,
        warnings=warnings if strangers is None else (strangers, *warnings),
    )


def _judged(
    sequences: Sequences, answers: pa.Table, calibration: Calibration, truth: BoolArray | None, *, own_rate: bool
) -> JudgedSteps:
    """The answers to rows as verdicts on steps."""
    by_error = calibration.decision == "reconstruction"
    has_row = sequences.row >= 0

    def of_steps(of_rows: npt.NDArray[Any], empty: float | bool) -> npt.NDArray[Any]:
        found = np.full(len(sequences), empty, dtype=of_rows.dtype)
        found[has_row] = of_rows[sequences.row[has_row]]
        return found

    score = of_steps(_numbers(answers, "reconstruction_error" if by_error else "score"), np.nan)
    alarm = of_steps(answers["alarm"].to_numpy(zero_copy_only=False).astype(np.bool_), empty=False)
    groups = {group.name: (group.score_threshold, group.reconstruction_threshold) for group in calibration.groups}
    pooled = (calibration.score_threshold, calibration.reconstruction_threshold)
    threshold = thresholds_of(sequences.assets, groups, pooled, calibration.decision)
    if not own_rate:
        table = np.array([name if name in groups else "" for name in sequences.assets])
        threshold = _thresholds_seen(score, alarm, table[sequences.asset], table, calibration.decision)
    return JudgedSteps(
        sequences=sequences,
        score=score,
        p_value=of_steps(_numbers(answers, "p_value_reconstruction" if by_error else "p_value"), np.nan),
        alarm=alarm,
        threshold=threshold,
        part=np.zeros(len(sequences), dtype=np.int8),
        parts=(SCORED,),
        truth=None if truth is None else of_steps(truth, empty=False),
    )


def _thresholds_seen(
    score: FloatArray, alarm: BoolArray, table_of_step: npt.NDArray[Any], table: npt.NDArray[Any], decision: str
) -> FloatArray:
    """Thresholds at another rate than the detector's own, as far as verdicts show them.

    That is the highest score without an alarm where there are alarms too; NaN elsewhere, and where two scores decide.
    """
    found = np.full(len(table), np.nan)
    if decision == "both":
        return found
    known = np.isfinite(score)
    for name in np.unique(table):
        quiet, loud = (score[known & (table_of_step == name) & (alarm == is_loud)] for is_loud in (False, True))
        if len(quiet) and len(loud):
            found[table == name] = quiet.max()
    return found


def _numbers(answers: pa.Table, name: str) -> FloatArray:
    """A column of the answers, NaN where null."""
    return np.asarray(answers[name].to_numpy(zero_copy_only=False), dtype=np.float64)


def _run_line(run: AlarmRun, clock: Clock) -> dict[str, str]:
    return {
        "asset": run.asset,
        "time": clock.span(run.begin_s, run.end_s) if run.alarms > 1 else clock.say(run.begin_s),
        "rows": f"{run.first:,}" if run.first == run.last else f"{run.first:,} to {run.last:,}",
        "alarms": f"{run.alarms:,}",
        "peak": number(run.peak),
        "p_value": p_value(run.p_value),
        "channels": ", ".join(run.channels) or NOTHING,
    }
