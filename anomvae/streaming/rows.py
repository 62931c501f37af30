"""Rows of cells as JSON holds them, read column by column into what the graph takes; a row that cannot be read harms no other."""

from __future__ import annotations

from itertools import chain
from operator import itemgetter
from types import NoneType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anomvae.data.encoding import NUMBER_TYPE, EncodedRows, codes_of, numbers_of, text_of
from anomvae.errors import LONGEST_NAME, CellError, ColumnMismatchError, RowError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from anomvae.bundle import Column, Manifest
    from anomvae.streaming.codec import Cause, Row
    from anomvae.streaming.contracts import Record

    IntArray = npt.NDArray[np.int64]

T = TypeVar("T")

_NUMBERS = frozenset({float, int, bool, NoneType})
_PLAIN = _NUMBERS | {str}
_NESTED = frozenset({list, dict, tuple})
_REMEMBERED = 100_000
"""Different cells of a column that are remembered; keys are few, but a column of free text must not fill the memory."""
_LONGEST_REMEMBERED = 200
"""Characters of such a cell."""
_OF_FILES = "is there a header?"
"""What is asked of a table whose columns are all unknown; a record has its names within."""
_SHAPES = 256
"""Different sets of fields of which is remembered what they lack."""


class Unreadable(NamedTuple):
    """A row that cannot be read.

    Attributes:
        row: Its position.
        cause: The sort of reason.
        reason: What is wrong, as a sentence without values.
    """

    row: int
    cause: Cause
    reason: str


class Sifted(NamedTuple):
    """Rows that could be read, and those that could not.

    Attributes:
        rows: Positions of the first; None: all.
        encoded: Those, encoded.
        bad: The others, in order.
    """

    rows: list[int] | None
    encoded: EncodedRows
    bad: list[Unreadable]


class RowReader:
    """Reads the scored cells of rows, and the group where the calibration has groups.

    A cell is read as it would be alone, whatever the rows beside it hold. A missing cell is null; a row that lacks a scored
    column altogether cannot be read, since the column may have been renamed.

    Args:
        manifest: The detector's.

    Attributes:
        columns: The scored columns.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.columns = manifest.columns
        self._numeric, self._categorical = manifest.numeric, manifest.categorical
        self._names = frozenset(column.name for column in manifest.columns)
        self._pick = _picker([column.name for column in self._numeric])
        self._has_dates = any(column.origin is not None for column in self._numeric)
        self._books = [PerCell(column.name, _code_reader(column)) for column in self._categorical]
        group = manifest.calibration.group_column
        self._group = None if group is None else (group.name, PerCell(group.name, _code_reader(group)))
        self._told: dict[tuple[str, ...], str] = {}

    def sift(self, rows: Sequence[Row]) -> Sifted:
        """Reads rows, leaving out those that cannot be read."""
        try:
            return Sifted(None, self.read(rows), [])
        except RowError:
            pass
        lacking = {i: self._lacking(row) for i, row in enumerate(rows) if not self._names <= row.keys()}
        bad = [Unreadable(i, "columns", reason) for i, reason in lacking.items()]
        good: list[int] = []
        self._sort_out(rows, [i for i in range(len(rows)) if i not in lacking], good, bad)
        return Sifted(good, self.read([rows[i] for i in good]), sorted(bad))

    def read(self, rows: Sequence[Row]) -> EncodedRows:
        """Encodes rows.

        Raises:
            ColumnMismatchError: A row lacks a column.
            CellError: A cell is nothing its column can be.
        """
        numbers = self._plain_numbers(rows)
        if numbers is None:
            numbers = np.empty((len(rows), len(self._numeric)), dtype=np.float64)
            for j, column in enumerate(self._numeric):
                numbers[:, j] = _numbers(_cells(rows, column.name), column)
        codes = np.empty((len(rows), len(self._categorical)), dtype=np.int64)
        for j, (column, book) in enumerate(zip(self._categorical, self._books, strict=True)):
            codes[:, j] = book.of(_cells(rows, column.name))
        group = None
        if self._group is not None:
            name, groups = self._group
            group = np.array(groups.of([row.get(name) for row in rows]), dtype=np.int64)
        with np.errstate(over="ignore", invalid="ignore"):
            return EncodedRows(numbers.astype(np.float32), codes, group)

    def _plain_numbers(self, rows: Sequence[Row]) -> npt.NDArray[np.float64] | None:
        """All numbers at once, where they are numbers and nothing else."""
        if self._has_dates:
            return None
        try:
            cells = list(chain.from_iterable(map(self._pick, rows)))
            if not _NUMBERS.issuperset(map(type, cells)):
                return None
            return np.array(cells, dtype=np.float64).reshape(len(rows), len(self._numeric))
        except (KeyError, OverflowError):
            return None

    def _sort_out(self, rows: Sequence[Row], places: list[int], good: list[int], bad: list[Unreadable]) -> None:
        """Parts what can be read from what cannot, by halves: few bad rows cost little."""
        if not places:
            return
        try:
            self.read([rows[i] for i in places])
        except RowError as error:
            if len(places) == 1:
                bad.append(Unreadable(places[0], "cells", str(error)))
                return
            middle = len(places) // 2
            self._sort_out(rows, places[:middle], good, bad)
            self._sort_out(rows, places[middle:], good, bad)
        else:
            good.extend(places)

    def _lacking(self, row: Row) -> str:
        """What a row lacks; a source that has renamed a column sends many that lack the same."""
        shape = tuple(row)
        if (told := self._told.get(shape)) is not None:
            return told
        lacking = [column.name for column in self.columns if column.name not in row]
        told = str(ColumnMismatchError(lacking, [name for name in row if name not in self._names]))
        if _OF_FILES in told:
            told = str(ColumnMismatchError(lacking, []))
        if len(self._told) < _SHAPES and sum(map(len, shape)) <= _LONGEST_REMEMBERED * len(self.columns):
            self._told[shape] = told
        return told


class PerCell(Generic[T]):
    """What each cell of a column is read as; every different cell is read once and remembered.

    Args:
        name: The column's name, for messages.
        read: Reads one cell.
    """

    def __init__(self, name: str, read: Callable[[Any], T]) -> None:
        self._name, self._read = name, read
        self._found: dict[type, _Found[T]] = {}

    def of(self, cells: Sequence[Any]) -> list[T]:
        """What cells are read as.

        Raises:
            CellError: One of them cannot be.
        """
        kinds = set(map(type, cells))
        if kinds & _NESTED:
            raise CellError(
                f"column {_short(self._name)} holds a list or an object; a cell is one number, text or flag"
            )
        for kind in kinds - self._found.keys():
            self._found[kind] = _Found(self._read)
        if len(kinds) == 1:
            return list(map(self._found[kinds.pop()].__getitem__, cells))
        found = self._found
        return [found[type(cell)][cell] for cell in cells]


class _Found(dict[Any, T]):
    """Cells of one type: 1, 1.0 and true are equal, and not the same cell."""

    def __init__(self, read: Callable[[Any], T]) -> None:
        super().__init__()
        self._read = read

    def __missing__(self, cell: Any) -> T:
        found = self._read(cell)
        if len(self) < _REMEMBERED and (not hasattr(cell, "__len__") or len(cell) <= _LONGEST_REMEMBERED):
            self[cell] = found
        return found


class Given:
    """Rows as they came, for those who name categories that training never saw.

    Args:
        rows: Cells by column name.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def column(self, name: str) -> pa.Array:
        """A column as text."""
        return pa.array([cell_text(row.get(name)) for row in self._rows], pa.string())


def asset_reader(column: Column) -> PerCell[tuple[str | None, int]]:
    """Reads the cells of an asset's column: a name, the same for cells that mean the same asset, and its code.

    The name is None where the cell names none.
    """
    of_code = _code_reader(column)
    numbers = NUMBER_TYPE.fullmatch(column.type) is not None

    def read(cell: Any) -> tuple[str | None, int]:
        code = of_code(cell)
        if code < len(column.categories):
            return column.categories[code], code
        text = cell_text(cell)
        text = None if text is None else text.strip()
        if text and numbers and isinstance(cell, str):
            text = _number_text(text)
        return text or None, code

    return PerCell(column.name, read)


def asset_cells(rows: Sequence[Row], field: str, records: Sequence[Record] | None) -> list[Any]:
    """What rows say of their assets.

    Args:
        rows: Cells by column name.
        field: Of the asset.
        records: Record of each, whose key names the asset of a row that lacks the field; None: keys name none.
    """
    cells = [row.get(field) for row in rows]
    if records is None:
        return cells
    keys = [b"" if record.key is None else record.key for record in records]
    return [
        key.decode(errors="replace") or None if cell is None else cell for cell, key in zip(cells, keys, strict=True)
    ]


def unnested(cells: list[Any]) -> list[Any]:
    """Cells, with those missing that hold a list or an object."""
    if _NESTED.isdisjoint(map(type, cells)):
        return cells
    return [None if type(cell) in _NESTED else cell for cell in cells]


def cell_text(cell: Any) -> str | None:
    """A cell as text: whole numbers without a decimal point, flags as `true` and `false`; None where it is missing."""
    if isinstance(cell, str):
        return cell
    try:
        text: str | None = text_of(pa.array([cell]))[0].as_py()
    except (pa.ArrowException, OverflowError):
        return str(cell)
    return text


def _number_text(text: str) -> str:
    """Text that holds a whole number as that number is written."""
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else text


def _code_reader(column: Column) -> Callable[[Any], int]:
    def read(cell: Any) -> int:
        try:
            cells = pa.array([cell])
        except (pa.ArrowException, OverflowError):
            cells = pa.array([str(cell)], pa.string())
        return int(codes_of(cells, column)[0])

    return read


def _cells(rows: Sequence[Row], name: str) -> list[Any]:
    try:
        return [row[name] for row in rows]
    except KeyError:
        raise ColumnMismatchError([name], []) from None


def _numbers(cells: list[Any], column: Column) -> npt.NDArray[np.float64]:
    kinds = set(map(type, cells))
    if kinds & _NESTED:
        raise CellError(f"column {_short(column.name)} holds a list or an object; a cell is one number, text or flag")
    try:
        if kinds <= _NUMBERS and column.origin is None:
            return np.array(cells, dtype=np.float64)
        if not kinds <= _PLAIN:
            found = pa.array(cells)
        elif column.origin is None:
            found = pa.array([_number_as_text(cell) for cell in cells], pa.string())
        else:
            found = _instants(pa.array(cells))
        return numbers_of(found, column.name, column.origin)
    except (pa.ArrowException, OverflowError, CellError):
        what = "numbers" if column.origin is None else "dates"
        raise CellError(
            f"column {_short(column.name)} holds cells that are no {what}, where the detector expects {what}"
        ) from None


def _instants(cells: pa.Array) -> pa.Array:
    """Dates as text that all name their offset from UTC as instants; others as they are."""
    if not pa.types.is_string(cells.type):
        return cells
    try:
        return pc.cast(cells, pa.timestamp("us", "UTC"))
    except pa.ArrowInvalid:
        return cells


def _number_as_text(cell: Any) -> str | None:
    if cell is None or isinstance(cell, str):
        return cell
    return str(int(cell)) if isinstance(cell, bool) else repr(cell)


def _picker(names: Sequence[str]) -> Callable[[Row], Sequence[Any]]:
    if len(names) > 1:
        return itemgetter(*names)
    return lambda row: [row[name] for name in names]


def _short(name: str) -> str:
    return repr(name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}...")
