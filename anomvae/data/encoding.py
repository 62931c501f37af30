"""Rows of a table as the two arrays the graph takes."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from anomvae.errors import CellError, ColumnMismatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from anomvae.bundle import Column, Manifest

TRUE_WORDS = ("true", "1", "1.0", "t", "yes", "y")
FALSE_WORDS = ("false", "0", "0.0", "f", "no", "n")
BOOLEAN_CATEGORIES = ("false", "true")
_DAY_US = 86_400_000_000
NUMBER_TYPE = re.compile(r"u?int\d+|float|double|halffloat|decimal\d*\(.*\)")
"""Arrow types of codes that are written as numbers."""


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """Rows as the graph's inputs.

    Attributes:
        numeric: Raw units, NaN where missing, float32, shape ``(n, d)``.
        categorical: Codes of the manifest's categories, int64, shape ``(n, c)``.
        group: Number of each row's group among those with a calibration table of their own, int64, shape ``(n,)``; any
            other number means none of them; None: not told.
    """

    numeric: npt.NDArray[np.float32]
    categorical: npt.NDArray[np.int64]
    group: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.numeric)

    def take(self, rows: npt.NDArray[np.int64] | slice) -> EncodedRows:
        """The rows named by position."""
        group = None if self.group is None else self.group[rows]
        return EncodedRows(self.numeric[rows], self.categorical[rows], group)

    def feeds(self) -> dict[str, npt.NDArray[np.generic]]:
        """The arrays by the names of the graph's inputs."""
        feeds: dict[str, npt.NDArray[np.generic]] = {"numeric": self.numeric, "categorical": self.categorical}
        return feeds if self.group is None else {**feeds, "group": self.group}


def encode(rows: pa.Table | pa.RecordBatch, columns: Sequence[Column], *, first_row: int = 0) -> EncodedRows:
    """Encodes rows for the graph.

    Args:
        rows: A table with at least the named columns; others are ignored.
        columns: The scored columns of a manifest, in any order; numbers and categories keep their order among
            themselves.
        first_row: Rows of the data before these, for messages.

    Raises:
        ColumnMismatchError: Columns are missing.
        CellError: A number column holds text.
    """
    require_columns(rows.schema.names, columns)
    numeric = [column for column in columns if column.is_numeric]
    categorical = [column for column in columns if not column.is_numeric]
    numbers = np.empty((rows.num_rows, len(numeric)), dtype=np.float32)
    codes = np.empty((rows.num_rows, len(categorical)), dtype=np.int64)
    with np.errstate(over="ignore", invalid="ignore"):
        for j, column in enumerate(numeric):
            numbers[:, j] = numbers_of(rows.column(column.name), column.name, column.origin, first_row)
    for j, column in enumerate(categorical):
        codes[:, j] = codes_of(rows.column(column.name), column)
    return EncodedRows(numbers, codes)


def encode_for(rows: pa.Table | pa.RecordBatch, manifest: Manifest, *, first_row: int = 0) -> EncodedRows:
    """Encodes rows for a detector: its columns, and the group where its calibration has groups and the rows the column.

    Args:
        rows: A table with at least the scored columns.
        manifest: The detector's.
        first_row: Rows of the data before these, for messages.

    Raises:
        ColumnMismatchError: Columns are missing.
        CellError: A number column holds text.
    """
    found = encode(rows, manifest.columns, first_row=first_row)
    column = manifest.calibration.group_column
    if column is None or column.name not in rows.schema.names:
        return found
    return replace(found, group=codes_of(rows.column(column.name), column))


def require_columns(present: Sequence[str], needed: Sequence[Column], known: Iterable[str] = ()) -> None:
    """Refuses rows that lack a column.

    Args:
        present: Columns of the rows.
        needed: Those they must have.
        known: Others that mean something.

    Raises:
        ColumnMismatchError: Columns are missing; names those that are there and not known, since one may be renamed.
    """
    have, told = set(present), {*known, *(column.name for column in needed)}
    missing = [column.name for column in needed if column.name not in have]
    if missing:
        raise ColumnMismatchError(missing, [name for name in present if name not in told])


def numbers_of(
    cells: pa.Array | pa.ChunkedArray, name: str, origin: str | None = None, first_row: int = 0
) -> npt.NDArray[np.float64]:
    """A column's cells as numbers, NaN where missing.

    Args:
        cells: Arrow cells of any type that can be a number, or dates.
        name: The column's name, for messages.
        origin: For dates: ISO instant from which days are counted.
        first_row: Rows of the data before these cells, for messages.

    Raises:
        CellError: Text, or another type that is no number.
    """
    kind = cells.type
    if pa.types.is_dictionary(kind):
        with contextlib.suppress(CellError, pa.ArrowException):  # maybe of a value that no cell names
            return _to_numpy(_spread(cells, lambda values: pa.array(numbers_of(values, name, origin))))
        cells = pc.cast(cells, kind.value_type)
        kind = cells.type
    if origin is not None:
        return _days_of(cells, name, origin)
    if pa.types.is_boolean(kind):
        cells = pc.cast(cells, pa.int8())
    elif pa.types.is_duration(kind):
        micros = pc.cast(pc.cast(cells, pa.duration("us"), safe=False), pa.int64())
        return _to_numpy(micros) / 1e6
    elif is_text(kind):
        return _parsed(cells, name, first_row)
    elif pa.types.is_null(kind):
        return np.full(len(cells), np.nan)
    elif pa.types.is_decimal(kind):
        cells = pc.cast(cells, pa.float64(), safe=False)
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise CellError(f"column {name!r} holds {kind} where the detector expects numbers")
    return _to_numpy(cells)


def codes_of(cells: pa.Array | pa.ChunkedArray, column: Column) -> npt.NDArray[np.int64]:
    """A category's cells as codes of the manifest.

    A missing cell gets the missing code where training saw missing cells, and the unknown code where it did not.
    """
    if pa.types.is_dictionary(cells.type):
        spread = _spread(cells, lambda values: pa.array(codes_of(values, column)))
        missing = column.unknown_code if column.missing_code is None else column.missing_code
        return _to_numpy(pc.fill_null(spread, missing)).astype(np.int64)
    text = text_of(cells)
    if column.kind == "boolean" or column.type == "bool":
        text = _canonical_booleans(text)
    elif NUMBER_TYPE.fullmatch(column.type) and is_text(cells.type):  # training read numbers: 007 and 7.0 are 7
        text = pc.replace_substring_regex(pc.utf8_trim_whitespace(text), r"^([+-]?)0*(\d+)(\.0*)?$", r"\1\2")
    codes = pc.index_in(text, value_set=pa.array(column.categories, pa.string()), skip_nulls=True)
    known = _to_numpy(pc.fill_null(codes, column.unknown_code)).astype(np.int64)
    if column.missing_code is not None:
        known[_to_numpy(pc.is_null(text)).astype(bool)] = column.missing_code
    return known


def _spread(cells: pa.Array | pa.ChunkedArray, read: Callable[[pa.Array], pa.Array]) -> pa.ChunkedArray:
    """What a dictionary's values are read as, cell by cell: each value is read once, however many cells name it."""
    chunks = cells.chunks if isinstance(cells, pa.ChunkedArray) else [cells]
    if not chunks:
        return pa.chunked_array([read(pa.array([], cells.type.value_type))])
    return pa.chunked_array([read(chunk.dictionary).take(chunk.indices) for chunk in chunks])


def text_of(cells: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """A category's cells as text: whole numbers without a decimal point, booleans as `true` and `false`."""
    kind = cells.type
    if pa.types.is_dictionary(kind):
        cells = pc.cast(cells, kind.value_type)
        kind = cells.type
    if pa.types.is_floating(kind):
        cells = pc.if_else(pc.is_nan(cells), pa.scalar(None, kind), cells)
        whole = pc.and_(
            pc.equal(pc.floor(cells), cells), pc.less(pc.abs(cells), 2.0**62)
        )  # cell by cell: no batch-mates
        as_whole = pc.cast(pc.if_else(whole, cells, pa.scalar(0, kind)), pa.int64())
        return pc.if_else(whole, pc.cast(as_whole, pa.string()), pc.cast(cells, pa.string()))
    return pc.cast(cells, pa.string())


def group_names(cells: pa.Array | pa.ChunkedArray) -> tuple[list[str | None], str]:
    """Groups of rows as text, and the type by which other cells of theirs are to be read.

    Text that holds nothing but numbers, or flags, counts as those: files differ in how they write them.

    Args:
        cells: Shape ``(n,)``; empty text is no group.
    """
    if pa.types.is_dictionary(cells.type):
        cells = pc.cast(cells, cells.type.value_type)
    if is_text(cells.type):
        trimmed = pc.utf8_trim_whitespace(pc.cast(cells, pa.string()))
        cells = pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), trimmed)
        if cells.null_count < len(cells):
            with contextlib.suppress(pa.ArrowInvalid):
                cells = pc.cast(cells, pa.float64())
        if (
            is_text(cells.type)
            and pc.all(pc.is_in(pc.utf8_lower(cells.drop_null()), pa.array(["true", "false"]))).as_py()
        ):
            cells = pc.cast(pc.utf8_lower(cells), pa.bool_())
    names: list[str | None] = text_of(cells).to_pylist()
    return names, str(cells.type)


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type holds text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _canonical_booleans(text: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    lower = pc.utf8_lower(pc.utf8_trim_whitespace(text))
    is_true = pc.is_in(lower, value_set=pa.array(TRUE_WORDS))
    is_false = pc.is_in(lower, value_set=pa.array(FALSE_WORDS))
    words = pc.if_else(is_true, "true", pc.if_else(is_false, "false", "?"))
    return pc.if_else(pc.is_null(text), pa.scalar(None, pa.string()), words)


def _parsed(cells: pa.Array | pa.ChunkedArray, name: str, first_row: int) -> npt.NDArray[np.float64]:
    """Numbers that arrived as text (JSON clients, CSV columns that were text elsewhere)."""
    trimmed = pc.utf8_trim_whitespace(pc.cast(cells, pa.string()))
    trimmed = pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), trimmed)
    try:
        return _to_numpy(pc.cast(trimmed, pa.float64()))
    except pa.ArrowInvalid:
        first = first_text_row(trimmed)
        raise CellError(
            f"column {name!r} holds text where the detector expects numbers, first at row {first_row + first:,}; "
            "mend or empty these cells (an empty cell counts as missing)"
        ) from None


def first_text_row(text: pa.Array | pa.ChunkedArray) -> int:
    """Number, from 1, of the first cell that is no number; 0 if all are.

    By halves: a million cells cost little more than reading them twice.
    """
    if _are_numbers(text):
        return 0
    low, high = 0, len(text)
    while high - low > 1:
        middle = (low + high) // 2
        if _are_numbers(text.slice(low, middle - low)):
            low = middle
        else:
            high = middle
    return low + 1


def _are_numbers(text: pa.Array | pa.ChunkedArray) -> bool:
    try:
        pc.cast(text, pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _days_of(cells: pa.Array | pa.ChunkedArray, name: str, origin: str) -> npt.NDArray[np.float64]:
    """Days since an origin; instants with a time zone are compared in UTC."""
    try:
        micros = pc.cast(pc.cast(cells, pa.timestamp("us"), safe=False), pa.int64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise CellError(f"column {name!r} holds cells that are no dates, where the detector expects dates") from None
    start = dt.datetime.fromisoformat(origin).replace(tzinfo=dt.UTC).timestamp() * 1e6
    days: npt.NDArray[np.float64] = (_to_numpy(micros) - start) / _DAY_US
    return days


def _to_numpy(cells: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """Cells as a NumPy array; nulls become NaN."""
    if isinstance(cells, pa.ChunkedArray):
        cells = cells.combine_chunks() if cells.num_chunks != 1 else cells.chunk(0)
        if isinstance(cells, pa.ChunkedArray):
            return cells.to_numpy()  # type: ignore[no-any-return]
    return cells.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
