"""Cells as JSON holds them, read straight into the two arrays that the graph takes."""

from __future__ import annotations

from itertools import chain
from operator import itemgetter
from types import NoneType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anomvae.data.encoding import NUMBER_TYPE, EncodedRows, codes_of, numbers_of, require_columns, text_of
from anomvae.errors import CellError
from anomvae.scoring.reasons import ReasonWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from anomvae.bundle import Column, Manifest
    from anomvae.serving.model import ServedModel

    Record = dict[str, Any]
    Codes = dict[Any, int]

_NUMBERS = frozenset({float, int, bool, NoneType})
_NESTED = frozenset({list, dict, tuple})


class Layout:
    """What reading rows needs to know of a detector's columns, worked out once.

    Args:
        manifest: The detector's.

    Attributes:
        manifest: The same.
        numeric: Columns of the graph's `numeric` input.
        categorical: Columns of the graph's `categorical` input.
        carried: Names of the columns that go along to the answers.
        scored: Names of the columns that are scored.
        read: Names of the columns that are looked at: these and the groups', where groups have calibrations of their own.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.numeric, self.categorical = manifest.numeric, manifest.categorical
        self.carried = manifest.carried
        self.scored = frozenset(column.name for column in manifest.columns)
        group = manifest.calibration.group_column
        self._group = None if group is None else _Lookup(group)
        self.read = self.scored if group is None else self.scored | {group.name}
        self._lookups = tuple(_Lookup(column) for column in self.categorical)
        self._numbers = _picker([column.name for column in self.numeric])
        self._has_dates = any(column.origin is not None for column in self.numeric)
        self._writers: dict[int, ReasonWriter] = {}

    def writer(self, top: int) -> ReasonWriter:
        """The writer of so many reasons a row."""
        most = min(top, len(self.manifest.columns))
        if most not in self._writers:
            self._writers[most] = ReasonWriter(self.manifest, most)
        return self._writers[most]

    def encode_records(self, records: Sequence[Record]) -> EncodedRows:
        """Encodes rows that came one by one; a key that other rows have and a row lacks is a missing cell.

        Raises:
            ColumnMismatchError: No record has a column.
            CellError: A cell is nothing its column can be.
        """
        found = self._plain_records(records)
        if found is not None:
            return found  # also no records at all: they lack nothing
        names = dict.fromkeys(chain.from_iterable(records))
        return self.encode_columns({name: cells_of(records, name) if name in self.read else () for name in names})

    def encode_columns(self, columns: Mapping[str, Sequence[Any]]) -> EncodedRows:
        """Encodes rows that came column by column; the scored columns are all of one length.

        Raises:
            ColumnMismatchError: Columns are missing.
            CellError: A cell is nothing its column can be.
        """
        require_columns(list(columns), self.manifest.columns)
        n = len(columns[self.manifest.columns[0].name])
        numbers = np.empty((n, len(self.numeric)), dtype=np.float32)
        codes = np.empty((n, len(self.categorical)), dtype=np.int64)
        with np.errstate(over="ignore", invalid="ignore"):
            for j, column in enumerate(self.numeric):
                numbers[:, j] = _numbers(columns[column.name], column)
        for j, lookup in enumerate(self._lookups):
            codes[:, j] = lookup.codes(columns[lookup.column.name])
        group = self._group
        told = None if group is None else columns.get(group.column.name)
        groups = None if group is None or told is None else group.array(told)
        return EncodedRows(numbers, codes, groups)

    def _plain_records(self, records: Sequence[Record]) -> EncodedRows | None:
        """Records that lack no key and hold plain numbers and words, all at once; None where one is otherwise."""
        if self._has_dates:
            return None
        try:
            cells = list(chain.from_iterable(map(self._numbers, records)))
            if not _NUMBERS.issuperset(map(type, cells)):
                return None
            numbers = np.array(cells, dtype=np.float64).reshape(len(records), len(self.numeric))
            codes = np.empty((len(records), len(self._lookups)), dtype=np.int64)
            for j, lookup in enumerate(self._lookups):
                found = lookup.plain_codes([record[lookup.column.name] for record in records])
                if found is None:
                    return None
                codes[:, j] = found
        except (KeyError, OverflowError):
            return None
        group = None if self._group is None else self._group.array(cells_of(records, self._group.column.name))
        with np.errstate(over="ignore", invalid="ignore"):
            return EncodedRows(numbers.astype(np.float32), codes, group)


_LAYOUTS: WeakKeyDictionary[ServedModel, Layout] = WeakKeyDictionary()


def layout_of(model: ServedModel) -> Layout:
    """The layout of a served model's columns, worked out on its first request and dropped with the model."""
    found = _LAYOUTS.get(model)
    if found is None:
        found = _LAYOUTS[model] = Layout(model.manifest)
    return found


def encode_cells(columns: Mapping[str, Sequence[Any]], manifest: Manifest) -> EncodedRows:
    """Encodes cells as JSON holds them, just as :func:`anomvae.data.encoding.encode_for` does the same cells in Arrow.

    Args:
        columns: Cells by column name, all columns of one length; None is missing.
        manifest: The detector's.

    Raises:
        ColumnMismatchError: Columns are missing.
        CellError: A cell is nothing its column can be.
    """
    return Layout(manifest).encode_columns(columns)


def cells_of(records: Sequence[Record], name: str) -> list[Any]:
    """A column of records; None where a record lacks it."""
    return [record.get(name) for record in records]


def arrow_cells(cells: Sequence[Any], name: str, *, numbers: bool = False) -> pa.Array:
    """Cells as Arrow holds them; those of several types become text, each as it would alone.

    Args:
        cells: Of a column.
        name: The column's name, for messages.
        numbers: Whether the column is one of numbers: flags are then 1 and 0.

    Raises:
        CellError: A cell is a list or an object.
    """
    kinds = refuse_nested(cells, name) - {NoneType}
    if len(kinds) <= 1 or kinds == {int, float}:  # Arrow would also take flags for numbers
        try:
            return pa.array(cells)
        except (pa.ArrowException, OverflowError):
            pass  # whole numbers beyond 64 bits, or beyond those that doubles hold
    if numbers:
        return pa.array([_as_number_text(cell) for cell in cells], pa.string())
    texts = np.full(len(cells), None, dtype=object)
    for kind in kinds:
        here = [row for row, cell in enumerate(cells) if type(cell) is kind]
        texts[here] = _texts([cells[row] for row in here])
    return pa.array(texts, pa.string())


def refuse_nested(cells: Sequence[Any], name: str) -> set[type]:
    """Refuses cells that hold several.

    Returns:
        The types of the cells.

    Raises:
        CellError: A cell is a list or an object.
    """
    kinds = set(map(type, cells))
    if kinds & _NESTED:
        row = next(row for row, cell in enumerate(cells, start=1) if type(cell) in _NESTED)
        raise CellError(f"column {name!r} holds a list or an object at row {row:,}; a cell is one number, text or flag")
    return kinds


class _Lookup:
    """Codes of a category's plain cells: words of text columns, whole numbers of codes, flags of booleans.

    All other cells, such as "yes" in a boolean column, are left to the encoding of tables.
    """

    def __init__(self, column: Column) -> None:
        self.column = column
        missing = column.unknown_code if column.missing_code is None else column.missing_code
        codes: Codes = {word: code for code, word in enumerate(column.categories)}
        if column.kind == "boolean" or column.type == "bool":
            codes = {word == "true": code for word, code in codes.items() if word in ("true", "false")}
            plain: type = bool
        elif NUMBER_TYPE.fullmatch(column.type):
            codes = {int(word): code for word, code in codes.items() if _is_whole(word)}
            plain = int
        else:
            plain = str
        self._codes: Codes = {**codes, None: missing}
        self._plain = frozenset({plain, NoneType})

    def plain_codes(self, cells: Sequence[Any]) -> list[int] | None:
        """Codes of cells that are all plain; None where one is not."""
        if not self._plain.issuperset(map(type, cells)):
            return None
        find, unknown = self._codes.get, self.column.unknown_code
        return [find(cell, unknown) for cell in cells]

    def codes(self, cells: Sequence[Any]) -> list[int] | npt.NDArray[np.int64]:
        """Codes of any cells."""
        found = self.plain_codes(cells)
        return codes_of(arrow_cells(cells, self.column.name), self.column) if found is None else found

    def array(self, cells: Sequence[Any]) -> npt.NDArray[np.int64]:
        """The same as an array."""
        return np.asarray(self.codes(cells), dtype=np.int64)


def _numbers(cells: Sequence[Any], column: Column) -> npt.NDArray[np.float64]:
    if column.origin is None and _NUMBERS.issuperset(map(type, cells)):
        try:
            return np.array(cells, dtype=np.float64)
        except OverflowError:
            row = next(row for row, cell in enumerate(cells, start=1) if _is_beyond(cell))
            raise CellError(
                f"column {column.name!r} holds a whole number beyond all floating point numbers at row {row:,}"
            ) from None
    found = arrow_cells(cells, column.name, numbers=True)
    if column.origin is not None and pa.types.is_string(found.type):
        found = _instants(found)
    return numbers_of(found, column.name, column.origin)


def _instants(texts: pa.Array) -> pa.Array:
    """Dates that all name their offset from UTC as instants; others as they are."""
    try:
        return pc.cast(texts, pa.timestamp("us", "UTC"))
    except pa.ArrowInvalid:
        return texts


def _picker(names: Sequence[str]) -> Callable[[Record], Sequence[Any]]:
    if len(names) > 1:
        return itemgetter(*names)
    return lambda record: [record[name] for name in names]


def _texts(cells: Sequence[Any]) -> list[str | None]:
    """Cells of one type as the text of a category."""
    try:
        return text_of(pa.array(cells)).to_pylist()  # type: ignore[no-any-return]
    except OverflowError:
        return [str(cell) for cell in cells]


def _as_number_text(cell: Any) -> str | None:
    if isinstance(cell, bool):
        return "1" if cell else "0"
    return None if cell is None else str(cell)


def _is_whole(word: str) -> bool:
    digits = word.removeprefix("-")
    return digits.isascii() and digits.isdigit() and str(int(digits)) == digits and word != "-0"


def _is_beyond(cell: Any) -> bool:
    try:
        float(cell or 0)
    except OverflowError:
        return True
    return False
