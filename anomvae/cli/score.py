"""`anomvae score`: rows in, verdicts out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anomvae.cli.console import err, warn
from anomvae.cli.options import AlarmRate, Data, Model, PastOnly, Stride, TrackingUri
from anomvae.cli.places import refuse_own_input, refuse_own_model, refuse_report
from anomvae.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pyarrow as pa

    from anomvae.scoring import Scorer
    from anomvae.scoring.discoveries import Discoveries


UNKNOWN_SHARE = 0.5
FDR_HELP = (
    "In place of the alarm rate: the share of false alarms to expect among the alarms, all rows taken together "
    "(Benjamini-Hochberg). The answers then wait on disk until all rows are scored."
)


def score(
    data: Data,
    model: Model,
    out: Annotated[
        str,
        typer.Option(
            "--out", "-o", help="File (.parquet, .csv, .jsonl, .arrow), or - for JSON lines.", metavar="FILE|-"
        ),
    ] = "-",
    top: Annotated[int, typer.Option("--top", help="Reasons a row.")] = 3,
    alarm_rate: AlarmRate = None,
    fdr: Annotated[
        float | None,
        typer.Option("--fdr", help=FDR_HELP, metavar="SHARE", show_default=False),
    ] = None,
    past_only: PastOnly = None,
    stride: Stride = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", help="Series: HTML file that draws the strangest stretches.", show_default=False),
    ] = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Score rows: score, p-values, verdict and reasons, a row for a row, in constant memory (--fdr: 8 bytes a row)."""
    from anomvae.cli.series_score import SeriesOptions, score_series
    from anomvae.data.reading import open_rows
    from anomvae.data.writing import Answers, refuse_suffix, write_answers
    from anomvae.detector import find_bundle
    from anomvae.scoring import Scorer
    from anomvae.scoring.discoveries import Discoveries
    from anomvae.scoring.needs import arrow_types
    from anomvae.scoring.reasons import natural_reasons

    if out != "-":
        refuse_suffix(Path(out))
        refuse_own_input(Path(out), data)
    if report is not None:
        refuse_own_input(report, data, "report")
    if fdr is not None and alarm_rate is not None:
        raise SettingError("--fdr and --alarm-rate exclude each other: state the one or the other")
    bundle = find_bundle(model, tracking_uri=tracking_uri)
    if out != "-":
        refuse_own_model(Path(out), bundle)
    if bundle.manifest.series is not None:
        if fdr is not None:
            raise SettingError(
                "--fdr takes rows that do not depend on one another, which steps of a series do: leave it out"
            )
        if report is not None:
            refuse_report(report, out, bundle)
        score_series(data, bundle, out, SeriesOptions(top, alarm_rate, past_only, stride), report)
        return
    if not (past_only is None and stride is None and report is None):
        raise SettingError(
            f"--past-only, --stride and --report are for series; the model {bundle.manifest.name!r} scores rows"
        )
    scorer = Scorer(bundle)
    scorer.check_alarm_rate(alarm_rate)
    discoveries = None if fdr is None else Discoveries(scorer.manifest, fdr)
    source = open_rows(data, types=arrow_types(scorer.manifest))
    schema = scorer.schema(source.schema, top)
    needed = scorer.needed_columns(source.schema.names)
    alarms = _Tally()
    started = time.monotonic()
    batches = scorer.score_batches(
        source.batches(columns=needed, batch_rows=32_768), source.schema, top=top, alarm_rate=alarm_rate
    )
    if discoveries is not None:
        batches = discoveries.decide_batches(batches, schema, None if out == "-" else Path(out).parent)
        schema = discoveries.schema(schema)
    plain = {"reasons": natural_reasons(scorer.manifest)}
    rows = write_answers(out, Answers(alarms.watch(batches), schema, plain))
    seconds = time.monotonic() - started
    _warn(scorer, alarms, rows, discoveries)
    rate = scorer.manifest.calibration.alarm_rate if alarm_rate is None else alarm_rate
    stated = f"a stated rate of {rate:.2%} of normal rows" if fdr is None else f"a false discovery rate of {fdr:.2%}"
    where = "" if out == "-" else f" to {out}"
    share = f" ({alarms.count / rows:.2%})" if rows else ""
    err().print(
        f"{rows:,} rows scored{where} in {seconds:.1f} s ({rows / max(seconds, 1e-9):,.0f} rows/s): {alarms.count:,} alarms{share} "
        f"at {stated}",
        soft_wrap=True,
    )


def _warn(scorer: Scorer, alarms: _Tally, rows: int, discoveries: Discoveries | None) -> None:
    """What a user must know of the answers."""
    _warn_of_unknown(scorer, rows)
    _warn_of_pooled(scorer, alarms.pooled, rows)
    if discoveries is not None and discoveries.shortage:
        warn(discoveries.shortage)
    if discoveries is not None and alarms.tail:
        warn(
            f"{alarms.tail:,} alarms rest on p-values that are extrapolated beyond all calibration rows (`tail`): for those the false "
            "discovery rate is an estimate, not a bound"
        )


def _warn_of_unknown(scorer: Scorer, rows: int) -> None:
    """Warns of columns that hold mostly values training never saw: they may be written otherwise, and all alarm."""
    for column, count in scorer.unknown_cells.items():
        if rows and count > UNKNOWN_SHARE * rows:
            warn(
                f"column {column!r} holds values that training never saw in {count:,} of {rows:,} rows; "
                "see whether they are written otherwise (`anomvae models show`)"
            )


def _warn_of_pooled(scorer: Scorer, pooled: int, rows: int) -> None:
    """Warns where most rows are of no group that the calibration knows: the column may be missing, or written otherwise."""
    by = scorer.manifest.calibration.by
    if scorer.manifest.calibration.groups and rows and pooled > UNKNOWN_SHARE * rows:
        warn(
            f"{pooled:,} of {rows:,} rows are of no group of {by!r} with a calibration of its own (`pooled`): they are held against "
            "the rows of all, which promises nothing for them; see whether the column is there and written as at the fit"
        )


class _Tally:
    """Counts alarms, those that rest on a tail, and pooled rows as batches go by."""

    def __init__(self) -> None:
        self.count = self.pooled = self.tail = 0

    def watch(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The same batches."""
        import pyarrow.compute as pc

        for batch in batches:
            self.count += pc.sum(batch.column("alarm")).as_py() or 0
            if "tail" in batch.schema.names:
                self.tail += pc.sum(pc.and_(batch.column("alarm"), batch.column("tail"))).as_py() or 0
            if "pooled" in batch.schema.names:
                self.pooled += pc.sum(batch.column("pooled")).as_py() or 0
            yield batch
