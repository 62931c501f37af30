"""Several files of one kind as one source of rows."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pyarrow as pa

from anomvae.data.source import BATCH_ROWS, RowSource, wanted
from anomvae.errors import SchemaError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


class FileSetSource:
    """Rows of several files, one after the other; folders named `key=value` add columns.

    Args:
        name: As the user named the set.
        root: Folder under which `key=value` folders count, and from which paths count in the digest.
        parts: Files in order, each with its own source.

    Raises:
        SchemaError: A column has types in two files that do not go together.
    """

    def __init__(self, name: str, root: Path, parts: Sequence[tuple[Path, RowSource]]) -> None:
        self.name = name
        self._paths = [path.relative_to(root).as_posix() for path, _ in parts]
        self._sources = [source for _, source in parts]
        self._keys = [_keys_of(path) for path in self._paths]
        self.schema: pa.Schema = self._common_schema()

    @property
    def n_rows(self) -> int | None:
        """Number of rows, where every file knows its own."""
        counts = [source.n_rows for source in self._sources]
        return None if None in counts else sum(count for count in counts if count is not None)

    def batches(self, columns: Sequence[str] | None = None, batch_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """See `RowSource`."""
        schema = pa.schema([self.schema.field(name) for name in wanted(self.schema, columns)])
        for source, keys in zip(self._sources, self._keys, strict=True):
            present = set(source.schema.names)
            stored = {name for name in schema.names if name in present}
            needed = list(stored) or source.schema.names[:1]  # some column must be read to count the rows
            for batch in source.batches(needed, batch_rows):
                cells = [_cells(batch, field, stored, keys) for field in schema]
                yield pa.RecordBatch.from_arrays(cells, schema=schema)

    def table(self) -> pa.Table:
        """All rows at once."""
        return pa.Table.from_batches(self.batches(), schema=self.schema)

    def digest(self) -> str:
        """sha256 of what `sha256sum` prints of the files, by their paths under the folder."""
        lines = (
            f"{source.digest().removeprefix('sha256:')}  {path}\n"
            for path, source in zip(self._paths, self._sources, strict=True)
        )
        return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"

    def _common_schema(self) -> pa.Schema:
        types: dict[str, pa.DataType] = {}
        for source in self._sources:
            for field in source.schema:
                seen = types.get(field.name)
                types[field.name] = field.type if seen is None else self._common_type(field.name, seen, field.type)
        for key in dict.fromkeys(key for keys in self._keys for key in keys):
            values = [keys[key] for keys in self._keys if keys.get(key) is not None]
            is_whole = all(value.isascii() and value.isdigit() and len(value) < 18 for value in values if value)  # noqa: PLR2004
            types.setdefault(key, pa.int64() if values and is_whole else pa.string())
        return pa.schema(list(types.items()))

    def _common_type(self, column: str, one: pa.DataType, other: pa.DataType) -> pa.DataType:
        if one == other:
            return one
        try:
            pair = [pa.schema([(column, one)]), pa.schema([(column, other)])]
            return pa.unify_schemas(pair, promote_options="permissive").field(column).type
        except pa.ArrowException:
            message = (
                f"column {column!r} is {one} in some files of {self.name} and {other} in others; write it as one type"
            )
            raise SchemaError(message) from None


def _cells(batch: pa.RecordBatch, field: pa.Field, stored: set[str], keys: dict[str, str | None]) -> pa.Array:
    """A column of one file in the type it has in the set."""
    if field.name in stored:
        return batch.column(field.name).cast(field.type)
    value = pa.scalar(keys.get(field.name), pa.string()).cast(field.type)
    return pa.repeat(value, batch.num_rows)


def _keys_of(path: str) -> dict[str, str | None]:
    """`year=2024/site=a/x.parquet` -> the two keys."""
    pairs = (folder.split("=", 1) for folder in path.split("/")[:-1] if "=" in folder)
    return {unquote(key): None if value == _HIVE_NULL else unquote(value) for key, value in pairs}
