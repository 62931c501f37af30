"""Where rows come from: tables in memory, Parquet and Arrow files, batch by batch or all at once."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from anomvae.errors import ColumnMismatchError, DataFileError, SchemaError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

BATCH_ROWS = 65_536
_MAX_CELLS = 524_288
"""Most cells a Parquet batch holds: 4 MiB of float64."""
_READ_BYTES = 65_536


class RowSource(Protocol):
    """Rows that can be read more than once.

    Attributes:
        name: As the user named it, for messages and provenance.
        schema: Column names and Arrow types.
        n_rows: Where known without reading everything, else None.
    """

    @property
    def name(self) -> str: ...  # noqa: D102  the class says it

    @property
    def schema(self) -> pa.Schema: ...  # noqa: D102  the class says it

    @property
    def n_rows(self) -> int | None: ...  # noqa: D102  the class says it

    def batches(self, columns: Sequence[str] | None = None, batch_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """Rows in order.

        Args:
            columns: Columns wanted, in this order; None: all.
            batch_rows: Most rows of a batch; wide tables come in smaller ones.

        Raises:
            ColumnMismatchError: A wanted column is not there.
            DataFileError: The file is damaged.
            CellError: A cell is not what its column's type says.
        """

    def table(self) -> pa.Table:
        """All rows at once; raises what `batches` raises."""

    def digest(self) -> str:
        """`sha256:...` of the content: a file's bytes, or the cells of a table in memory."""


class TableSource:
    """Rows of a table in memory.

    Args:
        table: The rows.
        name: For messages.

    Raises:
        SchemaError: A column name appears twice.
    """

    def __init__(self, table: pa.Table, name: str = "the table in memory") -> None:
        refuse_repeated_names(table.schema.names, name)
        self.name = name
        self._table = table.replace_schema_metadata(None)

    @property
    def schema(self) -> pa.Schema:
        """Column names and Arrow types."""
        return self._table.schema

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self._table.num_rows)

    def batches(self, columns: Sequence[str] | None = None, batch_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """See `RowSource`."""
        yield from self._table.select(wanted(self.schema, columns)).to_batches(max_chunksize=batch_rows)

    def table(self) -> pa.Table:
        """The table."""
        return self._table

    def digest(self) -> str:
        """sha256 of names, types and cells; how the table is cut into chunks does not matter."""
        whole = hashlib.sha256()
        for name, cells in zip(self._table.schema.names, self._table.columns, strict=True):
            whole.update(f"{name}\0{cells.type}\0{len(cells)}\0".encode())
            _hash_cells(cells, whole)
        return f"sha256:{whole.hexdigest()}"


class ParquetSource:
    """Rows of one Parquet file, read page by page so that even a file of one row group needs little memory.

    Args:
        path: The file.
        name: As the user named it.

    Raises:
        DataFileError: The file is damaged.
        SchemaError: A column name appears twice.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._path = path
        with damage_reported(name, "Parquet"), self._open() as file:
            self.schema: pa.Schema = file.schema_arrow.remove_metadata()
            self.n_rows: int = file.metadata.num_rows
        refuse_repeated_names(self.schema.names, name)

    def batches(self, columns: Sequence[str] | None = None, batch_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """See `RowSource`."""
        names = wanted(self.schema, columns)
        rows = min(batch_rows, max(1024, _MAX_CELLS // max(1, len(names))))
        with damage_reported(self.name, "Parquet"), self._open() as file:
            for batch in file.iter_batches(rows, columns=names):
                yield batch.select(names).replace_schema_metadata(None)

    def table(self) -> pa.Table:
        """All rows at once."""
        with damage_reported(self.name, "Parquet"), self._open() as file:
            return file.read().replace_schema_metadata(None)

    def digest(self) -> str:
        """sha256 of the file."""
        return file_digest(self._path)

    def _open(self) -> pq.ParquetFile:
        return pq.ParquetFile(self._path, pre_buffer=False, buffer_size=_READ_BYTES)


class ArrowSource:
    """Rows of one Arrow IPC file (Feather) or stream.

    Args:
        path: The file.
        name: As the user named it.
        is_stream: Whether it is an IPC stream, which has no footer.

    Raises:
        DataFileError: The file is damaged.
        SchemaError: A column name appears twice.
    """

    def __init__(self, path: Path, name: str, *, is_stream: bool) -> None:
        self.name = name
        self.n_rows: int | None = None
        self._path = path
        self._is_stream = is_stream
        with damage_reported(name, "Arrow"), pa.memory_map(str(path)) as file:
            reader = pa.ipc.open_stream(file) if is_stream else pa.ipc.open_file(file)
            self.schema: pa.Schema = reader.schema.remove_metadata()
            if not is_stream:
                self.n_rows = sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))
        refuse_repeated_names(self.schema.names, name)

    def batches(self, columns: Sequence[str] | None = None, batch_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """See `RowSource`."""
        names = wanted(self.schema, columns)
        with damage_reported(self.name, "Arrow"), pa.memory_map(str(self._path)) as file:
            for batch in self._stored(file):
                yield from sliced(batch.select(names).replace_schema_metadata(None), batch_rows)

    def table(self) -> pa.Table:
        """All rows at once."""
        return pa.Table.from_batches(self.batches(), schema=self.schema)

    def digest(self) -> str:
        """sha256 of the file."""
        return file_digest(self._path)

    def _stored(self, file: pa.NativeFile) -> Iterator[pa.RecordBatch]:
        if self._is_stream:
            yield from pa.ipc.open_stream(file)
            return
        reader = pa.ipc.open_file(file)
        for i in range(reader.num_record_batches):
            yield reader.get_batch(i)


def wanted(schema: pa.Schema, columns: Sequence[str] | None) -> list[str]:
    """The columns to read.

    Raises:
        ColumnMismatchError: One is not there.
    """
    if columns is None:
        return list(schema.names)
    present = set(schema.names)
    missing = [name for name in columns if name not in present]
    if missing:
        raise ColumnMismatchError(missing, [name for name in schema.names if name not in columns])
    return list(columns)


def sliced(batch: pa.RecordBatch, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """A batch cut into batches of at most so many rows; empty ones are left out."""
    for start in range(0, batch.num_rows, batch_rows):
        yield batch.slice(start, batch_rows)


def refuse_repeated_names(names: Sequence[str], source: str) -> None:
    """Refuses columns that share a name.

    Raises:
        SchemaError: Names them.
    """
    twice = sorted({name for name in names if list(names).count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        listed = ", ".join(map(repr, twice[:8])) + (" and others" if len(twice) > 8 else "")  # noqa: PLR2004
        raise SchemaError(f"{source} has more than one column named {listed}; give each column its own name")


@contextmanager
def damage_reported(name: str, kind: str) -> Iterator[None]:
    """Turns what pyarrow says of a damaged file into one sentence without the values it may hold.

    Raises:
        DataFileError: pyarrow could not read on.
    """
    try:
        yield
    except (MemoryError, DataFileError):
        raise
    except (pa.ArrowException, OSError):
        message = (
            f"{name} is damaged, cut off or still being written: it cannot be read as {kind}; write or copy it anew"
        )
        raise DataFileError(message) from None


def file_digest(path: Path) -> str:
    """`sha256:...` of a file's bytes, what `sha256sum` prints."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


class _HashSink:
    """A file to write to that keeps only the hash."""

    closed = False

    def __init__(self, whole: hashlib._Hash) -> None:
        self._whole = whole

    def write(self, data: pa.Buffer | bytes) -> int:
        self._whole.update(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is open."""


def _hash_cells(cells: pa.ChunkedArray, whole: hashlib._Hash) -> None:
    """Adds a column to a hash, blind to its chunks and to what lies under its missing cells."""
    if pa.types.is_dictionary(cells.type):
        cells = pc.cast(cells, cells.type.value_type)
    array = pa.concat_arrays(cells.chunks) if cells.num_chunks else pa.array([], cells.type)
    if array.null_count:
        whole.update(np.packbits(pc.is_valid(array).to_numpy(zero_copy_only=False)).tobytes())
        array = pc.drop_null(array)
    batch = pa.RecordBatch.from_arrays([array], names=["cells"])
    with pa.PythonFile(_HashSink(whole), mode="w") as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
