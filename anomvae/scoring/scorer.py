"""Rows in, answers out: encoded, run in chunks on every core, explained."""

from __future__ import annotations

import os
from collections import Counter, deque
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from anomvae.data.encoding import encode_for, require_columns
from anomvae.errors import SettingError
from anomvae.scoring.exact import FLAGS, exact
from anomvae.scoring.rates import require_supported
from anomvae.scoring.reasons import REASON_OUTPUTS, Picks, ReasonWriter
from anomvae.scoring.session import GraphSession

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    import numpy.typing as npt

    from anomvae.bundle import Bundle, Manifest
    from anomvae.data.encoding import EncodedRows

    Arrays = dict[str, npt.NDArray[np.generic]]

ANSWER_OUTPUTS = (
    "score",
    "p_value",
    "reconstruction_error",
    "p_value_reconstruction",
    "p_value_verdict",
    "alarm",
    "tail",
    "pooled",
)
"""What an answer holds, as far as the graph has it: `p_value_verdict` only where both scores give the verdict, `pooled` only
with groups, `tail` not in bundles of format 1."""


def answer_outputs(present: Collection[str]) -> tuple[str, ...]:
    """The answer's columns, of the outputs that a graph has."""
    return tuple(name for name in ANSWER_OUTPUTS if name in present)


MAX_TOP = 1000


class Scorer:
    """Scores tables with a bundle.

    Args:
        bundle: A verified bundle.
        threads: Threads that run the graph side by side; None: one a core.

    Attributes:
        answered: The answer's columns, reasons aside.
        unknown_cells: Cells scored so far, by category column, that held a value training never saw.

    Raises:
        SettingError: The bundle is one of series.
    """

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        if bundle.manifest.series is not None:
            raise SettingError(
                f"the model {bundle.manifest.name!r} scores series: use `anomvae score`, `evaluate`, `replay` or `stream`"
            )
        self.bundle = bundle
        self.threads = threads or os.cpu_count() or 1
        self.unknown_cells: Counter[str] = Counter()
        self._counting = Lock()
        self.session = GraphSession(bundle.graph, bundle.manifest.width)
        self.answered = answer_outputs(self.session.outputs)

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest

    def schema(self, rows: pa.Schema, top: int = 3) -> pa.Schema:
        """Schema of the answers to rows of a schema: carried columns, then the answers."""
        writer = ReasonWriter(self.manifest, _checked_top(top))
        carried = [rows.field(name) for name in self.carried(rows.names)]
        answers = [pa.field(name, pa.bool_() if name in FLAGS else pa.float64()) for name in self.answered]
        taken = {field.name for field in answers} | {"reasons"}
        carried = [field for field in carried if field.name not in taken]
        return pa.schema([*carried, *answers, pa.field("reasons", writer.type)])

    def carried(self, present: Sequence[str]) -> list[str]:
        """Identifier, time and group columns that rows have, in the manifest's order."""
        return [name for name in self.manifest.carried if name in present]

    def needed_columns(self, present: Sequence[str]) -> list[str]:
        """Columns to read: the scored ones and the carried ones, in the order they are present.

        Raises:
            ColumnMismatchError: Scored columns are missing.
        """
        require_columns(present, self.manifest.columns)
        needed = {column.name for column in self.manifest.columns} | set(self.manifest.carried)
        return [name for name in present if name in needed]

    def score(self, rows: pa.Table | pa.RecordBatch, *, top: int = 3, alarm_rate: float | None = None) -> pa.Table:
        """Scores rows.

        Args:
            rows: At least the columns of the manifest, in any order.
            top: Reasons a row.
            alarm_rate: Replaces the bundle's; the calibration rows must support it.

        Returns:
            A row per row, in order: carried columns, `score`, `p_value`, `reconstruction_error`,
            `p_value_reconstruction`, `alarm`, `tail`, `reasons`; with both scores in the verdict also `p_value_verdict`,
            with groups also `pooled`.

        Raises:
            RowError: The rows do not fit the detector.
            TooFewRowsError: The calibration rows do not support the alarm rate.
        """
        schema = self.schema(rows.schema, top)
        batches = list(self.score_batches(_slices(rows), rows.schema, top=top, alarm_rate=alarm_rate))
        return pa.Table.from_batches(batches, schema)

    def score_batches(
        self, batches: Iterable[pa.RecordBatch], rows: pa.Schema, *, top: int = 3, alarm_rate: float | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Scores a stream of batches in constant memory; answers come in order, a batch for a batch.

        Args:
            batches: Rows, all of one schema.
            rows: That schema.
            top: Reasons a row.
            alarm_rate: Replaces the bundle's.

        Raises:
            RowError: The rows do not fit the detector.
            TooFewRowsError: The calibration rows do not support the alarm rate.
        """
        self.check_alarm_rate(alarm_rate)
        schema = self.schema(rows, top)
        writer = ReasonWriter(self.manifest, _checked_top(top))
        waiting: deque[Future[pa.RecordBatch]] = deque()
        first_row = 0
        with ThreadPoolExecutor(self.threads, thread_name_prefix="score") as pool:
            try:
                for batch in batches:
                    waiting.append(pool.submit(self._answer_batch, batch, schema, writer, alarm_rate, first_row))
                    first_row += batch.num_rows
                    while len(waiting) > self.threads + 1:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)

    def answers(self, rows: EncodedRows, outputs: Sequence[str], alarm_rate: float | None = None) -> Arrays:
        """Any of the graph's outputs for encoded rows, chunk by chunk.

        Args:
            rows: n encoded rows.
            outputs: Names; those that the graph does not have, for want of such columns, are left out.
            alarm_rate: Replaces the bundle's.
        """
        wanted = [name for name in outputs if name in self.session.outputs]
        return self.session.run_in_chunks(rows, wanted, alarm_rate)

    def check_alarm_rate(self, alarm_rate: float | None) -> None:
        """Refuses a rate that the calibration rows do not support.

        Raises:
            SettingError: It is no share.
            TooFewRowsError: It is below the smallest rate.
        """
        require_supported(self.manifest, alarm_rate)

    def _answer_batch(
        self,
        batch: pa.RecordBatch,
        schema: pa.Schema,
        writer: ReasonWriter,
        alarm_rate: float | None,
        first_row: int,
    ) -> pa.RecordBatch:
        rows = encode_for(batch, self.manifest, first_row=first_row)
        self._count_unknown(rows)
        wanted = [*self.answered, *(name for name in REASON_OUTPUTS if name in self.session.outputs)]
        answers: list[Arrays] = []
        picks: list[Picks] = []
        size = self.session.chunk_rows
        for start in range(0, len(rows), size):  # picked while the chunk is still in the cache
            chunk = rows.take(slice(start, start + size))
            found = self.session.run(chunk, wanted, alarm_rate)
            picks.append(writer.pick(chunk, found))
            answers.append({name: found[name] for name in self.answered})
        columns = {name: batch.column(name) for name in schema.names if name in self.carried(batch.schema.names)}
        for name in self.answered:
            column = np.concatenate([chunk[name] for chunk in answers]) if answers else np.empty(0, np.float32)
            columns[name] = pa.array(exact(self.manifest, name, column))
        columns["reasons"] = writer.write(picks, batch)
        return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)

    def _count_unknown(self, rows: EncodedRows) -> None:
        unknown = [column.unknown_code for column in self.manifest.categorical]
        counts = (rows.categorical == np.array(unknown, dtype=np.int64)).sum(axis=0)
        with self._counting:
            for column, count in zip(self.manifest.categorical, counts, strict=True):
                self.unknown_cells[column.name] += int(count)


def _slices(rows: pa.Table | pa.RecordBatch, size: int = 32_768) -> Iterator[pa.RecordBatch]:
    if isinstance(rows, pa.RecordBatch):
        rows = pa.Table.from_batches([rows])
    for start in range(0, rows.num_rows, size):  # slices of a table may hold several chunks; a batch holds one
        yield from rows.slice(start, size).combine_chunks().to_batches()


def _checked_top(top: int) -> int:
    if not 0 <= top <= MAX_TOP:
        raise SettingError(f"--top is {top}; it must be 0 to {MAX_TOP}")
    return top
