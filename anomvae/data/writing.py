"""Answers to a file: Parquet, Arrow, CSV or JSON lines, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from anomvae.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SUFFIXES = (".parquet", ".pq", ".csv", ".jsonl", ".ndjson", ".json", ".arrow", ".feather")


class _Writer(Protocol):
    def write_batch(self, batch: pa.RecordBatch) -> None: ...
    def close(self) -> None: ...


def write_batches(out: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema, *, on_batch: Callable[[pa.RecordBatch], None]) -> int:
    """Writes batches as they come, in constant memory; the file appears only when it is complete.

    Args:
        out: File name, whose suffix says the format, or `-` for JSON lines on standard output.
        batches: What to write.
        schema: Their schema.
        on_batch: Told of every batch written.

    Returns:
        Rows written.

    Raises:
        OutputError: The suffix is unknown, the place cannot be written, or the disk is full.
    """
    if out == "-":
        return _pump(_JsonLines(sys.stdout), batches, on_batch)
    path = Path(out)
    refuse_suffix(path)
    staging: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        os.close(handle)
        staging = Path(name)
        rows = _write_to(staging, path.suffix, batches, schema, on_batch)
        staging.chmod(0o644)
        staging.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        if staging is not None:
            with contextlib.suppress(OSError):
                staging.unlink(missing_ok=True)
    return rows


def refuse_suffix(path: Path) -> None:
    """Refuses a file name that names no format.

    Raises:
        OutputError: See above.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(f"{path} names no format this writes; end it in one of {', '.join(SUFFIXES)}, or use `-`")


def _write_to(
    staging: Path,
    suffix: str,
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    on_batch: Callable[[pa.RecordBatch], None],
) -> int:
    kind = suffix.lower()
    if kind in (".parquet", ".pq"):
        texts = [name for name in _leaf_texts(schema)]
        with pq.ParquetWriter(staging, schema, use_dictionary=texts or False, write_statistics=False) as writer:
            return _pump(writer, batches, on_batch)
    if kind in (".arrow", ".feather"):
        with pa.ipc.new_file(str(staging), schema) as writer:
            return _pump(writer, batches, on_batch)
    if kind == ".csv":
        flat = pa.schema([pa.field(f.name, pa.string()) if pa.types.is_nested(f.type) else f for f in schema])
        with pacsv.CSVWriter(staging, flat) as writer:
            return _pump(_FlatCsv(writer, flat), batches, on_batch)
    with staging.open("w", encoding="utf-8") as stream:
        return _pump(_JsonLines(stream), batches, on_batch)


def _pump(writer: _Writer, batches: Iterable[pa.RecordBatch], on_batch: Callable[[pa.RecordBatch], None]) -> int:
    rows = 0
    for batch in batches:
        writer.write_batch(batch)
        rows += batch.num_rows
        on_batch(batch)
    return rows


def _leaf_texts(schema: pa.Schema) -> list[str]:
    """Columns worth a dictionary: text, also within the reasons; numbers hardly repeat."""
    names = [field.name for field in schema if pa.types.is_string(field.type)]
    for field in schema:
        if pa.types.is_list(field.type) and pa.types.is_struct(field.type.value_type):
            inner = [part for part in field.type.value_type if pa.types.is_string(part.type)]
            names += [f"{field.name}.list.element.{part.name}" for part in inner]
    return names


class _JsonLines:
    """One JSON object a row."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write_batch(self, batch: pa.RecordBatch) -> None:
        lines = [json.dumps(row, default=str, ensure_ascii=False, allow_nan=False) for row in plain_rows(batch)]
        if lines:
            self._stream.write("\n".join(lines) + "\n")

    def close(self) -> None:
        self._stream.flush()


class _FlatCsv:
    """CSV has no lists: they become JSON text."""

    def __init__(self, writer: Any, schema: pa.Schema) -> None:
        self._writer, self._schema = writer, schema

    def write_batch(self, batch: pa.RecordBatch) -> None:
        columns = []
        for name in self._schema.names:
            cells = batch.column(name)
            if pa.types.is_nested(cells.type):
                texts = [json.dumps(_plain(cell, cells.type), default=str, ensure_ascii=False) for cell in cells.to_pylist()]
                cells = pa.array(texts, pa.string())
            columns.append(cells)
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


def plain_rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Rows as JSON can say them: float32 at its own precision, what is not finite as null."""
    types = {field.name: field.type for field in batch.schema}
    return [{name: _plain(cell, types[name]) for name, cell in row.items()} for row in batch.to_pylist()]


def _plain(cell: Any, kind: pa.DataType) -> Any:
    if isinstance(cell, float):
        if not math.isfinite(cell):
            return None
        return float(f"{cell:.7g}") if pa.types.is_float32(kind) else cell
    if isinstance(cell, list):
        return [_plain(part, kind.value_type) for part in cell]
    if isinstance(cell, dict):
        return {name: _plain(part, kind.field(name).type) for name, part in cell.items()}
    return cell
