"""Rows of a CSV file: read whole to find out its types, or streamed with known ones."""

from __future__ import annotations

import atexit
import csv
import time
import weakref
from contextlib import closing, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.csv as pacsv

from anomvae.data.csv_cells import CellReader, Writing, best_of, is_date, votes_of, writing_of
from anomvae.data.csv_dialect import data_rows, sniff_csv
from anomvae.data.source import BATCH_ROWS, damage_reported, file_digest, sliced, wanted
from anomvae.data.text_cells import MISSING_WORDS, Mark, clean, number_evidence
from anomvae.errors import DataFileError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from anomvae.data.csv_dialect import TextFile

_BLOCK_BYTES = 1 << 20
"""Text read at a time; also the evidence on which a stream's decimal marks are decided."""


_HELD: weakref.WeakSet[_BlankRows] = weakref.WeakSet()
_LET_GO_S = 0.5


class _BlankRows:
    """Has pyarrow skip rows of nothing but delimiters and spaces, and refuse others with too few or too many cells."""

    def __init__(self, delimiter: str) -> None:
        self._blank = delimiter + " \t\r\n"
        _HELD.add(self)

    def __call__(self, row: pacsv.InvalidRow) -> str:
        """What becomes of a row."""
        return "error" if row.text.strip(self._blank) else "skip"


@atexit.register
def _wait_for_readers() -> None:
    """Waits until pyarrow's threads have let go of what they call; one that does so once Python has ended aborts the process."""
    end_s = time.monotonic() + _LET_GO_S
    while len(_HELD) and time.monotonic() < end_s:
        time.sleep(0.005)


class _UnparsedNumberError(Exception):
    """pyarrow met a number column's cell that it cannot parse by itself."""


class CsvSource:
    """Rows of one CSV file.

    Without `types` they are inferred from all of the file, which is then held in memory. With them the file is
    streamed, and columns that `types` does not name stay text; those that it names without a type are inferred from all
    of the file and held in memory.

    Args:
        file: The text.
        types: Arrow type by column name; None: to be inferred.

    Raises:
        DataFileError: There is no header, or a quote never closes.
        SchemaError: A column name appears twice.
    """

    def __init__(self, file: TextFile, types: Mapping[str, pa.DataType | None] | None) -> None:
        self.name = file.name
        self._file = file
        self._dialect = sniff_csv(file)
        self._types = None if types is None else {name: kind for name, kind in types.items() if kind is not None}
        self._open = [name for name, kind in (types or {}).items() if kind is None and name in self._dialect.names]

    @cached_property
    def schema(self) -> pa.Schema:
        """Column names and Arrow types."""
        if self._types is None:
            return self._inferred.schema
        types = self._types | {field.name: field.type for field in self._beside.schema}
        names = [name for name in self._dialect.names if name not in self._dialect.spare or name in types]
        return pa.schema([(name, types.get(name, pa.string())) for name in names])

    @property
    def n_rows(self) -> int | None:
        """Number of rows, where they have been read."""
        return self._inferred.num_rows if "_inferred" in self.__dict__ else None

    def batches(self, columns: Sequence[str] | None = None, batch_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """See `RowSource`."""
        names = wanted(self.schema, columns)
        if self._types is None:
            yield from self._inferred.select(names).to_batches(max_chunksize=batch_rows)
            return
        for batch in self._typed(names or self.schema.names[:1]):
            yield from sliced(batch.select(names), batch_rows)

    def table(self) -> pa.Table:
        """All rows at once."""
        return self._inferred if self._types is None else pa.Table.from_batches(self.batches(), schema=self.schema)

    def digest(self) -> str:
        """sha256 of the file."""
        return file_digest(self._file.path)

    def _typed(self, names: list[str]) -> Iterator[pa.RecordBatch]:
        """Blocks in the wanted types: those streamed, with their part of those held."""
        held = self._beside.select([name for name in names if name in self._beside.schema.names])
        streamed = [name for name in names if name not in held.schema.names]
        if not streamed:
            yield from held.to_batches()
            return
        n_done = 0
        for batch in self._streamed(streamed):
            part = held.slice(n_done, batch.num_rows)
            n_done += batch.num_rows
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            columns |= {name: part.column(name).combine_chunks() for name in part.schema.names}
            yield pa.RecordBatch.from_arrays([columns[name] for name in names], names)

    def _streamed(self, names: list[str]) -> Iterator[pa.RecordBatch]:
        """Blocks of columns whose types are known: numbers parsed by pyarrow as far as it goes, then cell by cell."""
        reader = CellReader(self.schema, self._writing, self.name)
        n_done = 0
        try:
            for batch in self._stream(names, self._writing.direct, self._writing.decimal_point):
                yield reader.read(batch, n_done)
                n_done += batch.num_rows
        except _UnparsedNumberError:
            n_seen = 0
            for batch in self._stream(names):
                n_known = min(batch.num_rows, max(0, n_done - n_seen))
                if n_known < batch.num_rows:
                    yield reader.read(batch.slice(n_known), n_seen + n_known)
                n_seen += batch.num_rows

    @cached_property
    def _writing(self) -> Writing:
        types = {
            field.name: field.type for field in self.schema if pa.types.is_floating(field.type) or is_date(field.type)
        }
        empty = pa.schema([(name, pa.string()) for name in types]).empty_table()
        with closing(self._stream(list(types))) as blocks:
            sample = next(blocks, empty) if types else empty
        return writing_of(sample, types, self._dialect.delimiter)

    @cached_property
    def _inferred(self) -> pa.Table:
        """The whole table."""
        return self._infer(self._dialect.names)

    @cached_property
    def _beside(self) -> pa.Table:
        """The columns that are named without a type."""
        return self._infer(self._open)

    def _infer(self, names: Sequence[str]) -> pa.Table:
        """Columns, each of the narrowest type that holds all of its cells."""
        if not names:
            return pa.table({})
        table = self._whole(names)
        for name in self._dialect.spare:
            if name in table.schema.names and table.column(name).null_count == table.num_rows:
                table = table.drop_columns([name])
        text = {field.name: clean(table.column(field.name)) for field in table.schema if pa.types.is_string(field.type)}
        found = {name: number_evidence(cells) for name, cells in text.items()}
        fractions = [field.name for field in table.schema if pa.types.is_floating(field.type)]
        votes = votes_of(found)
        if fractions and "," in votes:  # then 1.234 in another column may be a thousand and more
            again = self._whole(fractions, as_text=True)
            text |= {name: clean(again.column(name)) for name in fractions}
            found |= {name: number_evidence(text[name]) for name in fractions}
            votes = votes_of(found)
        elif fractions:
            votes.add(".")
        columns = dict(zip(table.schema.names, table.columns, strict=True))
        for name, cells in text.items():
            columns[name] = best_of(cells, found[name].settle(votes, self._dialect.delimiter))
        return pa.table(columns)

    def _whole(self, names: Sequence[str], *, as_text: bool = False) -> pa.Table:
        """All rows of columns, with inferred types or as text."""
        if not self._dialect.has_rows:
            return pa.schema([(name, pa.string()) for name in names]).empty_table()
        types = dict.fromkeys(names, pa.string()) if as_text else None
        with self._explained(), self._file.open() as stream:
            return pacsv.read_csv(stream, **self._options(names, types))

    def _stream(
        self, names: Sequence[str], numbers: frozenset[str] = frozenset(), decimal_point: Mark = "."
    ) -> Generator[pa.RecordBatch]:
        """Blocks of rows: text, but for the columns in `numbers`."""
        if not self._dialect.has_rows:
            return
        types = {name: pa.float64() if name in numbers else pa.string() for name in names}
        with self._explained(), self._file.open() as stream:
            reader = pacsv.open_csv(stream, **self._options(names, types, decimal_point))
            try:
                yield from reader
            finally:
                reader.close()

    def _options(
        self, names: Sequence[str], types: Mapping[str, pa.DataType] | None, decimal_point: Mark = "."
    ) -> dict[str, object]:
        dialect = self._dialect
        block_bytes = max(_BLOCK_BYTES, 16 * len("".join(dialect.names)))
        return {
            "read_options": pacsv.ReadOptions(
                column_names=dialect.names, skip_rows=dialect.header_lines, block_size=block_bytes
            ),
            "parse_options": pacsv.ParseOptions(
                delimiter=dialect.delimiter,
                newlines_in_values=self._file.n_quotes > 0,
                invalid_row_handler=_BlankRows(dialect.delimiter),
            ),
            "convert_options": pacsv.ConvertOptions(
                column_types=types,
                include_columns=list(names),
                decimal_point=decimal_point,
                null_values=MISSING_WORDS,
                strings_can_be_null=True,
            ),
        }

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns what pyarrow says, which quotes cells, into a sentence that does not."""
        with damage_reported(self.name, "CSV"):
            try:
                yield
            except pa.ArrowInvalid as error:
                if "CSV conversion error" in str(error):
                    raise _UnparsedNumberError from None
                if "columns, got" in str(error):
                    raise self._ragged() from None
                if "straddling" in str(error):
                    message = (
                        f"{self.name} holds a row of several megabytes, or a quote that never closes; mend that row"
                    )
                    raise DataFileError(message) from None
                raise

    def _ragged(self) -> DataFileError:
        expected = len(self._dialect.names)
        try:
            for number, row in enumerate(data_rows(self._file, self._dialect.delimiter), start=1):
                if len(row) != expected:
                    return DataFileError(
                        f"row {number} of {self.name} has {len(row)} cells where the header has {expected}; "
                        "mend that row, or quote the cells that hold a delimiter"
                    )
        except csv.Error:
            pass
        return DataFileError(f"{self.name} has rows with more or fewer cells than its header's {expected}; mend them")
