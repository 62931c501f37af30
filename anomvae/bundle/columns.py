"""Columns that a detector scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ColumnKind = Literal["numeric", "date", "boolean", "categorical"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column the detector scores.

    Numbers and dates go into the graph's `numeric` input, booleans and categories into `categorical`, each in the
    manifest's order.

    Attributes:
        name: Name in the table.
        kind: What it is to the model.
        type: Arrow type it had in training, for people.
        categories: Known values in code order; the code after the last means unknown or missing.
        missing_code: Code of a missing cell where missing cells were seen in training: the model then leaves the cell
            out; None where they were not: a missing cell then counts as unknown.
        infinite_is_missing: Whether infinities were seen in training: they are then missing cells. Where they were not,
            an infinity is as strange as a number can be.
        missing_share: Share of missing cells in training, 0 to 1.
        low: Smallest finite value in training, raw units (numbers and dates); of a private bundle mean - 3 std.
        high: Largest finite value in training, raw units; of a private bundle mean + 3 std.
        mean: Mean in training, raw units; values far out are drawn in to 20 interquartile ranges from the median first.
        std: Standard deviation in training, raw units, likewise.
        origin: Dates only: ISO instant from which days are counted.
    """

    name: str
    kind: ColumnKind
    type: str
    categories: tuple[str, ...] = ()
    missing_code: int | None = None
    infinite_is_missing: bool = False
    missing_share: float = 0.0
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    std: float | None = None
    origin: str | None = None

    @property
    def is_numeric(self) -> bool:
        """Whether it goes into the graph's `numeric` input."""
        return self.kind in ("numeric", "date")

    @property
    def n_codes(self) -> int:
        """Number of codes of a category, missing and unknown included.

        Example:
            >>> Column("kind", "categorical", "string", categories=("a", "b")).n_codes
            3
        """
        return len(self.categories) + (self.missing_code is not None) + 1

    @property
    def unknown_code(self) -> int:
        """The last code: a value never seen in training."""
        return self.n_codes - 1
