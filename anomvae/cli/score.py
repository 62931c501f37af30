"""`anomvae score`: rows in, verdicts out."""

from __future__ import annotations

import glob
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anomvae.cli.console import err, warn
from anomvae.cli.options import AlarmRate, Data, Model, TrackingUri
from anomvae.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pyarrow as pa

    from anomvae.scoring import Scorer


UNKNOWN_SHARE = 0.5


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
    tracking_uri: TrackingUri = None,
) -> None:
    """Score rows: score, p-values, verdict and reasons, a row for a row, in constant memory."""
    from anomvae.data.reading import open_rows
    from anomvae.data.writing import Answers, refuse_suffix, write_answers
    from anomvae.detector import find_bundle
    from anomvae.scoring import Scorer
    from anomvae.scoring.needs import arrow_types
    from anomvae.scoring.reasons import natural_reasons

    if out != "-":
        refuse_suffix(Path(out))
        _refuse_own_input(Path(out), data)
    scorer = Scorer(find_bundle(model, tracking_uri=tracking_uri))
    scorer.check_alarm_rate(alarm_rate)
    source = open_rows(data, types=arrow_types(scorer.manifest))
    schema = scorer.schema(source.schema, top)
    needed = scorer.needed_columns(source.schema.names)
    alarms = _Tally()
    started = time.monotonic()
    batches = scorer.score_batches(
        source.batches(columns=needed, batch_rows=32_768), source.schema, top=top, alarm_rate=alarm_rate
    )
    plain = {"reasons": natural_reasons(scorer.manifest)}
    rows = write_answers(out, Answers(alarms.watch(batches), schema, plain))
    seconds = time.monotonic() - started
    where = "" if out == "-" else f" to {out}"
    share = f" ({alarms.count / rows:.2%})" if rows else ""
    rate = scorer.manifest.calibration.alarm_rate if alarm_rate is None else alarm_rate
    _warn_of_unknown(scorer, rows)
    err().print(
        f"{rows:,} rows scored{where} in {seconds:.1f} s ({rows / max(seconds, 1e-9):,.0f} rows/s): {alarms.count:,} alarms{share} "
        f"at a stated rate of {rate:.2%} of normal rows",
        soft_wrap=True,
    )


def _warn_of_unknown(scorer: Scorer, rows: int) -> None:
    """Warns of columns that hold mostly values training never saw: they may be written otherwise, and all alarm."""
    for column, count in scorer.unknown_cells.items():
        if rows and count > UNKNOWN_SHARE * rows:
            warn(
                f"column {column!r} holds values that training never saw in {count:,} of {rows:,} rows; "
                "see whether they are written otherwise (`anomvae models show`)"
            )


def _refuse_own_input(out: Path, data: str) -> None:
    """Answers must not replace the measurements they answer."""
    read = [Path(data).expanduser(), *map(Path, glob.glob(data))]  # noqa: PTH207  the pattern may be absolute
    if any(
        out.resolve() == path.resolve() or (path.is_dir() and path.resolve() in out.resolve().parents) for path in read
    ):
        raise OutputError(f"{out} is, or lies among, the data to be scored; name another file for the answers")


class _Tally:
    """Counts alarms as batches go by."""

    def __init__(self) -> None:
        self.count = 0

    def watch(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The same batches."""
        import pyarrow.compute as pc

        for batch in batches:
            self.count += pc.sum(batch.column("alarm")).as_py() or 0
            yield batch
