"""Rows of a JSON lines file: one object a line, keys are columns."""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pajson

from anomvae.data.source import BATCH_ROWS, damage_reported, file_digest, sliced, wanted
from anomvae.data.text_cells import clean, first_stranger, read_numbers
from anomvae.errors import CellError, DataFileError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from anomvae.data.csv_dialect import TextFile

_CHUNK_BYTES = 4 << 20


class JsonLinesSource:
    """Rows of one JSON lines file, streamed; a first pass over all of it finds columns and types.

    Args:
        file: The text.
        types: Arrow type by column name, where known; None: to be inferred, as of columns that it does not name.

    Raises:
        DataFileError: A line is damaged, or the file holds one JSON array.
    """

    n_rows = None

    def __init__(self, file: TextFile, types: Mapping[str, pa.DataType | None] | None) -> None:
        self.name = file.name
        self._file = file
        self._types = {name: kind for name, kind in (types or {}).items() if kind is not None}
        with damage_reported(file.name, "text"), file.open_text() as text:
            head = text.read(1024).lstrip()
        if head.startswith("["):
            raise DataFileError(f"{file.name} holds a JSON array; write one object a line instead")

    @cached_property
    def schema(self) -> pa.Schema:
        """Column names and Arrow types: those asked for, the others inferred from all rows."""
        found: dict[str, pa.DataType] = {}
        for chunk, first_line in self._chunks():
            try:
                fields = {field.name: field.type for field in _parse(chunk).schema}
            except pa.ArrowInvalid:
                fields = _types_of(list(self._objects(chunk, first_line)))
            for name, kind in fields.items():
                found[name] = _common(found[name], kind) if name in found else kind
        return pa.schema([(name, self._types.get(name, kind)) for name, kind in found.items()])

    def batches(self, columns: Sequence[str] | None = None, batch_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """See `RowSource`."""
        schema = pa.schema([self.schema.field(name) for name in wanted(self.schema, columns)])
        n_before = 0
        for chunk, first_line in self._chunks():
            try:
                table = _parse(chunk, schema)
            except pa.ArrowInvalid:
                objects = list(self._objects(chunk, first_line))
                cells = [self._column([row.get(field.name) for row in objects], field, n_before) for field in schema]
                table = pa.Table.from_arrays(cells, schema=schema)
            n_before += table.num_rows
            for batch in table.combine_chunks().to_batches():
                yield from sliced(batch, batch_rows)

    def table(self) -> pa.Table:
        """All rows at once."""
        return pa.Table.from_batches(self.batches(), schema=self.schema)

    def digest(self) -> str:
        """sha256 of the file."""
        return file_digest(self._file.path)

    def _chunks(self) -> Iterator[tuple[bytes, int]]:
        """Whole lines, a few megabytes at a time, each with the number of its first line."""
        line, held = 1, b""
        with damage_reported(self.name, "JSON lines"), self._file.open() as stream:
            while block := stream.read(_CHUNK_BYTES):
                head, newline, rest = (held + block).rpartition(b"\n")
                held = rest
                if newline:
                    chunk = head + newline
                    if chunk.strip():
                        yield chunk.removeprefix(b"\xef\xbb\xbf") if line == 1 else chunk, line
                    line += chunk.count(b"\n")
        if held.strip():
            yield held.removeprefix(b"\xef\xbb\xbf") if line == 1 else held, line

    def _objects(self, chunk: bytes, first_line: int) -> Iterator[dict[str, Any]]:
        """The objects of a chunk, line by line.

        Raises:
            DataFileError: A line holds no object; names it.
        """
        for number, line in enumerate(chunk.split(b"\n"), start=first_line):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise DataFileError(f"line {number} of {self.name} is no JSON object; mend or remove that line")
            yield row

    def _column(self, cells: list[Any], field: pa.Field, n_before: int) -> pa.Array:
        """Cells of mixed types as the one type the column must have."""
        kind = field.type
        try:
            if pa.types.is_floating(kind):
                return self._numbers(cells, field, n_before)
            if pa.types.is_string(kind):
                return pa.array([_as_text(cell) for cell in cells], kind)
            if pa.types.is_temporal(kind):
                return pc.cast(clean(pa.array([_as_text(cell) for cell in cells], pa.string())), kind)
            return pa.array(cells, kind)
        except (pa.ArrowException, OverflowError, ValueError, TypeError):
            raise CellError(
                f"column {field.name!r} of {self.name} holds cells that cannot be read as {kind}; mend them"
            ) from None

    def _numbers(self, cells: list[Any], field: pa.Field, n_before: int) -> pa.Array:
        text = clean(pa.array([_as_text(cell, is_number=True) for cell in cells], pa.string()))
        values = read_numbers(text, ".")
        stranger = first_stranger(text, values)
        if stranger is not None:
            raise CellError(
                f"column {field.name!r} of {self.name} holds text where the detector expects numbers, first at row "
                f"{n_before + stranger + 1}; mend or empty these cells (null counts as missing)"
            )
        return pc.cast(values, field.type)


def _parse(chunk: bytes, schema: pa.Schema | None = None) -> pa.Table:
    """A chunk as pyarrow reads it.

    Raises:
        ArrowInvalid: A damaged line, or cells of types that do not go together; its message may quote cells.
    """
    options = pajson.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore" if schema else "infer")
    table = pajson.read_json(
        pa.BufferReader(chunk), read_options=pajson.ReadOptions(block_size=_CHUNK_BYTES // 4), parse_options=options
    )
    return table if schema is None else table.select(schema.names)


def _types_of(objects: Sequence[Mapping[str, Any]]) -> dict[str, pa.DataType]:
    """Type of each column of objects whose cells do not all have the same."""
    names = dict.fromkeys(name for row in objects for name in row)
    return {name: _type_of([row[name] for row in objects if row.get(name) is not None]) for name in names}


def _type_of(cells: list[Any]) -> pa.DataType:
    kinds = {type(cell) for cell in cells}
    if kinds == {int, float}:
        return pa.float64()
    if len(kinds) > 1 and not kinds <= {list, dict}:
        return pa.string()
    try:
        kind = pa.array(cells).type
    except OverflowError:
        return pa.float64()
    except (pa.ArrowException, ValueError):
        return pa.string()
    if pa.types.is_string(kind):
        try:
            return pc.cast(pa.array(cells), pa.timestamp("s")).type
        except pa.ArrowInvalid:
            pass  # plain text
    return kind


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The narrowest type that holds the cells of both."""
    if one == other:
        return one
    try:
        pair = [pa.schema([("cells", one)]), pa.schema([("cells", other)])]
        return pa.unify_schemas(pair, promote_options="permissive").field("cells").type
    except pa.ArrowException:
        return pa.string()


def _as_text(cell: Any, *, is_number: bool = False) -> str | None:
    """A cell as the text it has in the file; booleans as `true` and `false`, or 1 and 0 among numbers."""
    if cell is None or isinstance(cell, str):
        return cell
    if isinstance(cell, bool) and is_number:
        return "1" if cell else "0"
    return json.dumps(cell)
