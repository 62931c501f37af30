"""Cells of a CSV file turned into the types they must have, or refused by row number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from anomvae.data.text_cells import (
    DateOrder,
    Mark,
    NumberEvidence,
    clean,
    date_orders,
    first_stranger,
    number_evidence,
    read_dates,
    read_numbers,
)
from anomvae.errors import CellError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Writing:
    """How a file writes numbers and dates, decided once for all of its rows.

    Attributes:
        decimal_point: Mark of most number columns.
        marks: Decimal mark of each number column; None where it could be either.
        orders: Order of day and month of each date column; None where it could be either.
    """

    decimal_point: Mark
    marks: dict[str, Mark | None]
    orders: dict[str, DateOrder | None]

    @property
    def direct(self) -> frozenset[str]:
        """Number columns that a parser knowing only the decimal point can read."""
        return frozenset(name for name, mark in self.marks.items() if mark == self.decimal_point)


def writing_of(sample: pa.RecordBatch | pa.Table, types: Mapping[str, pa.DataType], delimiter: str) -> Writing:
    """Finds how a file writes numbers and dates.

    Args:
        sample: Its first rows as text, number and date columns at least.
        types: The type each column must have.
        delimiter: The file's.
    """
    cells = dict(zip(sample.schema.names, sample.columns, strict=True))
    text = {name: clean(cells[name]) for name, kind in types.items() if _is_number(kind) or is_date(kind)}
    found = {name: number_evidence(text[name]) for name, kind in types.items() if _is_number(kind)}
    votes = votes_of(found)
    usual: Mark = "," if votes == {","} else "."
    marks = {name: evidence.settle(votes, delimiter) if evidence.marks else usual for name, evidence in found.items()}
    orders: dict[str, DateOrder | None] = {}
    for name, kind in types.items():
        if is_date(kind):
            possible = date_orders(text[name])
            orders[name] = possible[0] if len(possible) == 1 else None if possible else "day first"
    return Writing(usual, marks, orders)


def votes_of(found: Mapping[str, NumberEvidence]) -> set[Mark]:
    """Decimal marks of the columns that leave no doubt."""
    return {mark for evidence in found.values() if len(evidence.marks) == 1 for mark in evidence.marks}


def is_date(kind: pa.DataType) -> bool:
    """Whether a type is a date or an instant."""
    return bool(pa.types.is_date(kind) or pa.types.is_timestamp(kind))


def best_of(text: pa.ChunkedArray, mark: Mark | None) -> pa.ChunkedArray:
    """A whole column of clean text as numbers or dates where all of its cells are, else as it is."""
    if mark is not None:
        return read_numbers(text, mark)
    orders = date_orders(text)
    dates = read_dates(text, orders[0]) if len(orders) == 1 else None
    return text if dates is None else dates


@dataclass(frozen=True, slots=True)
class CellReader:
    """Turns blocks of text into columns of the wanted types.

    Attributes:
        schema: The wanted types.
        writing: How the file writes numbers and dates.
        source: The file, for messages.
    """

    schema: pa.Schema
    writing: Writing
    source: str

    def read(self, batch: pa.RecordBatch, n_before: int) -> pa.RecordBatch:
        """A block in the wanted types.

        Args:
            batch: Columns of text, or already of the wanted type.
            n_before: Rows of the file before this block.

        Raises:
            CellError: A cell is not what its column should hold; names column and row.
        """
        known = {field.name: field for field in self.schema}
        fields = [known[name] for name in batch.schema.names]
        cells = [self._column(column, field, n_before) for column, field in zip(batch.columns, fields, strict=True)]
        return pa.RecordBatch.from_arrays(cells, schema=pa.schema(fields))

    def _column(self, cells: pa.Array, field: pa.Field, n_before: int) -> pa.Array:
        if not pa.types.is_string(cells.type):
            return pc.cast(cells, field.type)
        text = clean(cells)
        if _is_number(field.type):
            return pc.cast(self._numbers(text, field.name, n_before), field.type)
        if is_date(field.type):
            return self._dates(text, field, n_before)
        try:
            return pc.cast(text, field.type)
        except pa.ArrowException:
            message = f"{self._where(field.name)} holds cells that cannot be read as {field.type}; mend or empty them"
            raise CellError(message) from None

    def _numbers(self, text: pa.Array, name: str, n_before: int) -> pa.Array:
        mark = self.writing.marks[name]
        if mark is None:
            place = pc.index(pc.match_substring(text, ","), pa.scalar(value=True)).as_py()
            if place >= 0:
                raise CellError(
                    f"{self._where(name)} writes numbers that can be read in two ways, first at row "
                    f"{n_before + place + 1}: the comma may part decimals or thousands; write them with a decimal point"
                )
        values = read_numbers(text, mark or ".")
        stranger = first_stranger(text, values)
        if stranger is not None:
            raise CellError(
                f"{self._where(name)} holds text where the detector expects numbers, first at row "
                f"{n_before + stranger + 1}; mend or empty these cells (an empty cell counts as missing)"
            )
        return values

    def _dates(self, text: pa.Array, field: pa.Field, n_before: int) -> pa.Array:
        order = self.writing.orders[field.name]
        if order is None:
            raise CellError(
                f"{self._where(field.name)} holds dates whose day and month cannot be told apart; write year-month-day"
            )
        dates = read_dates(text, order)
        if dates is None:
            stranger = next((i for i in range(len(text)) if read_dates(text.slice(i, 1), order) is None), None)
            place = "in several forms" if stranger is None else f"or other text, first at row {n_before + stranger + 1}"
            raise CellError(
                f"{self._where(field.name)} holds dates {place}, where the detector expects dates in one form; "
                "write them as year-month-day"
            )
        return pc.cast(dates, field.type, safe=False)

    def _where(self, column: str) -> str:
        return f"column {column!r} of {self.source}"


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind))
