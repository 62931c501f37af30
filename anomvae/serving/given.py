"""Rows as they were given: what answers need of them beside their scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from anomvae.errors import RequestError
from anomvae.serving.cells import arrow_cells, cells_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Given(Protocol):
    """Rows of a request, whatever they came in."""

    def has(self, name: str) -> bool:
        """Whether there is such a column."""

    def cells(self, name: str) -> list[Any]:
        """A column's cells as they came."""

    def column(self, name: str) -> pa.Array | pa.ChunkedArray:
        """A column's cells in Arrow."""


class GivenRecords:
    """Rows that came one by one.

    Args:
        records: Cells by column name, one mapping a row.
    """

    def __init__(self, records: Sequence[dict[str, Any]]) -> None:
        self._records = records

    def has(self, name: str) -> bool:
        """Whether any record has such a column."""
        return any(name in record for record in self._records)

    def cells(self, name: str) -> list[Any]:
        """A column's cells; None where a record lacks it."""
        return cells_of(self._records, name)

    def column(self, name: str) -> pa.Array:
        """A column's cells in Arrow; those of several types as text."""
        return arrow_cells(self.cells(name), name)


class GivenColumns:
    """Rows that came column by column.

    Args:
        columns: Cells by column name, all columns of one length.
    """

    def __init__(self, columns: Mapping[str, list[Any]]) -> None:
        self._columns = columns

    def has(self, name: str) -> bool:
        """Whether there is such a column."""
        return name in self._columns

    def cells(self, name: str) -> list[Any]:
        """A column's cells."""
        return self._columns[name]

    def column(self, name: str) -> pa.Array:
        """A column's cells in Arrow; those of several types as text."""
        return arrow_cells(self.cells(name), name)


class GivenTable:
    """Rows that came as Arrow.

    Args:
        table: The rows.
    """

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def has(self, name: str) -> bool:
        """Whether there is such a column."""
        return name in self._table.schema.names

    def cells(self, name: str) -> list[Any]:
        """A column's cells as Python holds them; instants that it cannot hold as text.

        Raises:
            RequestError: They can be written in no way, such as times in an unknown zone.
        """
        column = self._table.column(name)
        try:
            return column.to_pylist()  # type: ignore[no-any-return]
        except (pa.ArrowException, ValueError, OverflowError):
            pass  # nanoseconds, years beyond 9999
        try:
            return pc.cast(column, pa.string()).to_pylist()  # type: ignore[no-any-return]
        except pa.ArrowException:
            raise RequestError(
                f"column {name!r} holds cells that JSON cannot say; ask for the answer as an Arrow stream, or leave the column out"
            ) from None

    def column(self, name: str) -> pa.ChunkedArray:
        """A column's cells."""
        return self._table.column(name)
