"""Answers to a file: Parquet, Arrow, CSV or JSON lines, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from anomvae.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

SUFFIXES = (".parquet", ".pq", ".csv", ".jsonl", ".ndjson", ".json", ".arrow", ".feather")


class _Writer(Protocol):
    def write_batch(self, batch: pa.RecordBatch) -> None:
        """Writes one batch."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers on their way to a file.

    Attributes:
        batches: The answers, as they come.
        schema: Their schema.
        plain: By column: what turns a cell into what JSON should say; others are said as they are.
    """

    batches: Iterable[pa.RecordBatch]
    schema: pa.Schema
    plain: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)


def write_answers(out: str, answers: Answers) -> int:
    """Writes answers as they come, in constant memory; the file appears only when it is complete.

    Args:
        out: File name, whose suffix says the format, or `-` for JSON lines on standard output.
        answers: What to write.

    Returns:
        Rows written.

    Raises:
        OutputError: The suffix is unknown, the place cannot be written, or the disk is full.
    """
    if out == "-":
        try:
            rows = _pump(_JsonLines(sys.stdout, answers), answers)
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"standard output cannot be written: {error.strerror or 'the system refuses'}") from error
        return rows
    path = Path(out)
    refuse_suffix(path)
    staging: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        os.close(handle)
        staging = Path(name)
        rows = _write_to(staging, path.suffix.lower(), answers)
        staging.chmod(0o644)
        staging.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or 'the system refuses'}") from error
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


def _write_to(staging: Path, suffix: str, answers: Answers) -> int:
    schema = answers.schema
    if suffix in (".parquet", ".pq"):
        texts = _leaf_texts(schema)
        with pq.ParquetWriter(staging, schema, use_dictionary=texts or False, write_statistics=False) as writer:
            return _pump(writer, answers)
    if suffix in (".arrow", ".feather"):
        with pa.ipc.new_file(str(staging), schema) as writer:
            return _pump(writer, answers)
    if suffix == ".csv":
        flat = pa.schema([pa.field(f.name, pa.string()) if pa.types.is_nested(f.type) else f for f in schema])
        with pacsv.CSVWriter(staging, flat) as writer:
            return _pump(_FlatCsv(writer, flat, answers), answers)
    with staging.open("w", encoding="utf-8") as stream:
        return _pump(_JsonLines(stream, answers), answers)


def _pump(writer: _Writer, answers: Answers) -> int:
    rows = 0
    for batch in answers.batches:
        writer.write_batch(batch)
        rows += batch.num_rows
    return rows


def _leaf_texts(schema: pa.Schema) -> list[str]:
    """Columns worth a dictionary: text, also within the reasons; numbers hardly repeat."""
    names = [part.name for part in schema if pa.types.is_string(part.type)]
    for column in schema:
        if pa.types.is_list(column.type) and pa.types.is_struct(column.type.value_type):
            inner = [part for part in column.type.value_type if pa.types.is_string(part.type)]
            names += [f"{column.name}.list.element.{part.name}" for part in inner]
    return names


class _JsonLines:
    """One JSON object a row."""

    def __init__(self, stream: TextIO, answers: Answers) -> None:
        self._stream, self._plain = stream, answers.plain

    def write_batch(self, batch: pa.RecordBatch) -> None:
        columns = {name: _plain_cells(batch.column(name), self._plain.get(name)) for name in batch.schema.names}
        names = list(columns)
        lines = [_json(dict(zip(names, row, strict=True))) for row in zip(*columns.values(), strict=True)]
        if lines:
            self._stream.write("\n".join(lines) + "\n")


class _FlatCsv:
    """CSV has no lists: they become JSON text."""

    def __init__(self, writer: Any, schema: pa.Schema, answers: Answers) -> None:
        self._writer, self._schema, self._plain = writer, schema, answers.plain

    def write_batch(self, batch: pa.RecordBatch) -> None:
        columns = []
        for name in self._schema.names:
            cells = batch.column(name)
            if pa.types.is_nested(cells.type):
                cells = pa.array([_json(cell) for cell in _plain_cells(cells, self._plain.get(name))], pa.string())
            columns.append(cells)
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))


def _json(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False, allow_nan=False)


def _plain_cells(cells: pa.Array, convert: Callable[[Any], Any] | None) -> list[Any]:
    """Cells as JSON can say them: what is not finite is null."""
    plain: list[Any] = cells.to_pylist()
    if convert is not None:
        return [convert(cell) for cell in plain]
    if pa.types.is_floating(cells.type):
        return [cell if cell is not None and math.isfinite(cell) else None for cell in plain]
    return plain
