"""Rows from whatever people have: Parquet, CSV, Arrow, JSON lines, folders of them, tables in memory."""

from __future__ import annotations

import glob
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from anomvae.bundle.folder import GRAPH, MANIFEST
from anomvae.data.csv_dialect import COMPRESSIONS, examine_text
from anomvae.data.csv_rows import CsvSource
from anomvae.data.file_set import FileSetSource
from anomvae.data.json_lines import JsonLinesSource
from anomvae.data.source import ArrowSource, ParquetSource, RowSource, TableSource, refuse_repeated_names
from anomvae.errors import DataFileError, SchemaError

if TYPE_CHECKING:
    from collections.abc import Mapping

_KINDS = {
    ".parquet": "Parquet",
    ".pq": "Parquet",
    ".csv": "CSV",
    ".tsv": "CSV",
    ".txt": "CSV",
    ".arrow": "Arrow",
    ".feather": "Arrow",
    ".ipc": "Arrow",
    ".jsonl": "JSON lines",
    ".ndjson": "JSON lines",
    ".json": "JSON lines",
}
_PACKED = (".gz", ".bz2", ".zst")
_TEXT = ("CSV", "JSON lines")
_MAGIC = {
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"\xff\xff\xff\xff": "Arrow",
    b"PK\x03\x04": "an Excel workbook or zip archive",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"FEA1": "Feather version 1",
    b"SQLite": "an SQLite database",
    b"\x89HDF": "HDF5",
}
_PANDAS_ERRORS = (pa.ArrowException, TypeError, ValueError, OverflowError)
_FORMATS = "Parquet, CSV, Arrow (Feather) or JSON lines"


def open_rows(data: Any, *, types: Mapping[str, pa.DataType | None] | None = None) -> RowSource:
    """Opens rows to learn from or to score.

    Args:
        data: A path, a folder or a glob of files of one kind, an Arrow table or record batch, or a pandas DataFrame.
            Files are told apart by suffix and first bytes; `~` is the home folder; `key=value` folders become columns.
        types: The Arrow type of each column the caller needs, where it is known. Text formats are then streamed and
            read as these types, other columns of a CSV file staying text; a type of None is inferred from all rows, and the
            column held in memory. Without `types`, all are inferred.

    Raises:
        DataFileError: A file is missing, empty, damaged or not what its name says.
        SchemaError: A column name appears twice, or a pandas column mixes types.
    """
    if isinstance(data, pa.Table):
        return TableSource(data)
    if isinstance(data, pa.RecordBatch):
        return TableSource(pa.Table.from_batches([data]))
    if type(data).__module__.startswith("pandas") and hasattr(data, "columns"):
        return TableSource(_from_pandas(data), "the DataFrame")
    if not isinstance(data, str | os.PathLike):
        raise SchemaError(f"rows come as a path, an Arrow table or a pandas DataFrame, not as {type(data).__name__}")
    return _open_named(os.fsdecode(data), types)


def _open_named(name: str, types: Mapping[str, pa.DataType | None] | None) -> RowSource:
    path = Path(name).expanduser()
    if path.is_dir():
        if all((path / file).is_file() for file in (MANIFEST, GRAPH)):
            raise DataFileError(f"{name} is the bundle of a detector and holds no rows; name a file or folder of data")
        return _open_set(name, path, [file for file in path.rglob("*") if _is_data(file, path)], types)
    if path.exists() or not glob.has_magic(name):
        return _open_file(path, name, types)
    found = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207  absolute patterns too
    if not found:
        raise DataFileError(f"no file matches {name}; check the pattern and the folder")
    root = Path(*path.parts[: next(i for i, part in enumerate(path.parts) if glob.has_magic(part))])
    return _open_set(name, root, [file for file in found if file.is_file()], types)


def _open_set(name: str, root: Path, files: list[Path], types: Mapping[str, pa.DataType | None] | None) -> RowSource:
    """Several files as one source, sorted by path."""
    if not files:
        raise DataFileError(f"{name} holds no data files; put {_FORMATS} files there, or name another folder")
    kinds = sorted({_kind_by_name(file) or _FORMATS for file in files})
    if len(kinds) > 1:
        raise DataFileError(
            f"{name} holds {' and '.join(kinds)} files; name those of one kind, such as '{name}/*.parquet'"
        )
    paths = sorted(files, key=lambda file: file.as_posix())
    return FileSetSource(name, root, [(path, _open_file(path, str(path), types)) for path in paths])


def _open_file(path: Path, name: str, types: Mapping[str, pa.DataType | None] | None) -> RowSource:
    head = _first_bytes(path, name)
    named, found = _kind_by_name(path), next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
    if named is None and found is None:
        raise DataFileError(f"{name} is of no known format: its name should end in one of {', '.join(_KINDS)}")
    packed = any(head.startswith(magic) for magic in COMPRESSIONS)
    is_other = found not in (None, named) if named in _TEXT else named is not None and found != named
    if is_other:
        looks = found or ("a compressed file" if packed else "text" if head.isascii() else "something else")
        raise DataFileError(
            f"{name} is named as {named} but holds {looks}; give it the right ending, or save it as {named}"
        )
    kind = named or found
    if kind == "Parquet":
        return ParquetSource(path, name)
    if kind == "Arrow":
        return ArrowSource(path, name, is_stream=not head.startswith(b"ARROW1"))
    if kind not in _TEXT:
        raise DataFileError(f"{name} holds {kind}, which cannot be read; save it as {_FORMATS}")
    text = examine_text(path, name)
    if text.is_empty:
        raise DataFileError(f"{name} is empty; give a file with a header and rows")
    return CsvSource(text, types) if kind == "CSV" else JsonLinesSource(text, types)


def _first_bytes(path: Path, name: str) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except FileNotFoundError:
        raise DataFileError(f"{name} does not exist; check the path") from None
    except PermissionError:
        raise DataFileError(f"{name} may not be read by this user; change its permissions or ask its owner") from None
    except (OSError, ValueError):
        raise DataFileError(f"{name} cannot be opened; check the path and the disk") from None
    if not head:
        raise DataFileError(f"{name} is empty (0 bytes); give a file with rows")
    return head


def _kind_by_name(path: Path) -> str | None:
    name = path.name.lower()
    stem, suffix = os.path.splitext(name)  # noqa: PTH122  suffix by suffix
    kind = _KINDS.get(os.path.splitext(stem)[1] if suffix in _PACKED else suffix)  # noqa: PTH122
    return kind if suffix not in _PACKED or kind in _TEXT else None


def _is_data(file: Path, root: Path) -> bool:
    hidden = any(part.startswith((".", "_")) for part in file.relative_to(root).parts)
    return not hidden and _kind_by_name(file) is not None and file.is_file()


def _from_pandas(frame: Any) -> pa.Table:
    """A DataFrame's columns as an Arrow table; its index is left out.

    Raises:
        SchemaError: A column name appears twice, or a column mixes types; names it.
    """
    names = [str(name) for name in frame.columns]
    refuse_repeated_names(names, "the DataFrame")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pyarrow's way of reading newer pandas is not the caller's concern
        try:
            return pa.Table.from_pandas(frame.set_axis(names, axis=1), preserve_index=False)
        except _PANDAS_ERRORS:
            mixed = next(
                (name for name, (_, cells) in zip(names, frame.items(), strict=True) if _is_mixed(cells)), None
            )
    if mixed is None:
        raise SchemaError("the DataFrame cannot be turned into an Arrow table; give it plain columns")
    raise SchemaError(f"column {mixed!r} of the DataFrame mixes types; make it all numbers or all text")


def _is_mixed(cells: Any) -> bool:
    try:
        pa.array(cells, from_pandas=True)
    except _PANDAS_ERRORS:
        return True
    return False
