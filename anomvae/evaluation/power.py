"""Detection power without labels: faults are put into normal rows, and the detector is asked which it notices.

One column of one row at a time: what is found is what the detector makes of a single faulty cell among normal ones. The same
rows carry every size of a shift, half of them upwards and half downwards, so that each row counts once at each size and the
intervals of shares are exact. Rows that alarm untouched count as caught, so the share that alarms untouched stands beside
all others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from anomvae.errors import TooFewRowsError
from anomvae.evaluation.dose_response import Caught, smallest_shift
from anomvae.evaluation.faults import (
    CATEGORICAL_FAULTS,
    NUMERIC_FAULTS,
    Faulty,
    NumberColumn,
    category_faults,
    has_cell,
    number_faults,
    partners,
)
from anomvae.evaluation.power_result import (
    FEWEST_CHANGED,
    MIN_ROWS,
    ColumnPower,
    PowerResult,
    PowerSettings,
    ShiftPower,
)
from anomvae.evaluation.resolution import Resolution

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anomvae.bundle import Column

    IntArray = npt.NDArray[np.int64]

Alarms = Callable[[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.int64]], npt.NDArray[np.bool_]]
"""Verdicts of rows: numbers ``(m, d)``, codes ``(m, c)`` and the positions ``(m,)`` of the rows they were made from."""

SIZES = tuple(0.25 * 2 ** (k / 2) for k in range(13))
_GRIDS = (SIZES, SIZES[::2], (0.5, 2.0, 8.0, 16.0))
"""Sizes of a shift, finest first; wide tables get coarser ones."""
_ENOUGH_ROWS = 100
"""A finer grid is kept only while a column gets so many rows."""
_STREAM = 13
_SIGNIFICANT = 0.025


def measure_power(
    alarms: Alarms,
    numeric: npt.NDArray[np.float32],
    categorical: npt.NDArray[np.int64],
    columns: Sequence[Column],
    settings: PowerSettings,
) -> PowerResult:
    """Injects faults into normal rows, column by column, and counts which raise an alarm.

    Args:
        alarms: The detector's verdicts; it is told which row each faulty row was made from.
        numeric: Normal rows that the detector has not been fitted on: raw units, NaN where missing, shape ``(n, d)``.
        categorical: Their codes, shape ``(n, c)``.
        columns: The manifest's scored columns; numbers and categories in the order of their arrays.
        settings: How.

    Raises:
        TooFewRowsError: There are fewer than 20 rows.
    """
    n = len(numeric)
    if n < MIN_ROWS:
        raise TooFewRowsError(
            f"{n:,} normal rows are too few to inject faults into; give at least {MIN_ROWS} that the fit did not have",
            MIN_ROWS,
        )
    draw = np.random.default_rng([settings.seed, _STREAM])
    sample = np.sort(draw.choice(n, min(n, settings.rows), replace=False))
    verdicts = np.zeros(n, dtype=bool)
    verdicts[sample] = alarms(numeric[sample], categorical[sample], sample)
    work = _Work(alarms, _Arrays(numeric, categorical), columns, verdicts)
    rows, sizes = thinned(columns, len(sample), settings.budget_rows)
    found: list[ColumnPower] = []
    for at, column in work.places():
        there = sample[has_cell(work.rows, column, at)[sample]]
        of = np.sort(draw.choice(there, min(len(there), rows), replace=False))
        found.append(work.measure(column, at, of, sizes, draw))
    untouched = Caught(int(verdicts[sample].sum()), len(sample))
    return PowerResult(settings, len(sample), work.faulty_rows, untouched, tuple(found))


def thinned(columns: Sequence[Column], rows: int, budget_rows: int) -> tuple[int, tuple[float, ...]]:
    """Rows a column and sizes of a shift that keep the faulty rows within a budget.

    Args:
        columns: The scored columns.
        rows: Rows there are.
        budget_rows: Faulty rows aimed at.

    Example:
        >>> from anomvae.bundle import Column
        >>> thinned([Column("flow", "numeric", "double")] * 500, 300, 200_000)
        (36, (0.5, 2.0, 8.0, 16.0))
    """
    numbers = sum(column.is_numeric for column in columns)
    each, sizes = rows, SIZES
    for sizes in _GRIDS:
        made = numbers * (len(sizes) + len(NUMERIC_FAULTS)) + (len(columns) - numbers) * len(CATEGORICAL_FAULTS)
        each = min(rows, max(MIN_ROWS, budget_rows // max(1, made)))
        if each >= min(rows, _ENOUGH_ROWS):
            break
    return each, sizes


class _Arrays:
    """Rows as two arrays."""

    def __init__(self, numeric: npt.NDArray[np.float32], categorical: npt.NDArray[np.int64]) -> None:
        self.numeric, self.categorical = numeric, categorical


class _Work:
    """Faults of one column after the other, and their verdicts.

    Args:
        alarms: The detector's verdicts.
        rows: All normal rows.
        columns: The scored columns.
        untouched: Verdicts of the rows as they are, where known, shape ``(n,)``.
    """

    def __init__(
        self, alarms: Alarms, rows: _Arrays, columns: Sequence[Column], untouched: npt.NDArray[np.bool_]
    ) -> None:
        self.alarms, self.rows, self.columns, self.untouched = alarms, rows, columns, untouched
        self.numbers = [column for column in columns if column.is_numeric]
        self.partners = partners(self.numbers)
        self.faulty_rows = 0

    def places(self) -> Iterator[tuple[int, Column]]:
        """The columns, each with its position in its array."""
        next_at = {True: 0, False: 0}
        for column in self.columns:
            yield next_at[column.is_numeric], column
            next_at[column.is_numeric] += 1

    def measure(
        self, column: Column, at: int, of: IntArray, sizes: Sequence[float], draw: np.random.Generator
    ) -> ColumnPower:
        """All faults of one column, injected into the rows `of`."""
        if len(of) < MIN_ROWS:
            return ColumnPower(column.name, column.kind, 0, None, {})
        partner: int | None = None
        if column.is_numeric:
            partner = self.partners[at]
            facts = NumberColumn(column, at, Resolution.of(self.rows.numeric[:, at]), partner)
            faults = list(number_faults(self.rows, facts, of, sizes, draw))
        else:
            faults = list(category_faults(self.rows, at, column, of, draw))
        told = [fault for fault in faults if len(fault.of) >= FEWEST_CHANGED]
        verdicts = self._verdicts(told, column, at, partner)
        return ColumnPower(
            name=column.name,
            kind=column.kind,
            rows=len(of),
            shift=_shifts([pair for pair in zip(told, verdicts, strict=True) if pair[0].fault == "shift"]),
            faults={
                fault.fault: _count(verdict)
                for fault, verdict in zip(told, verdicts, strict=True)
                if fault.fault != "shift"
            },
            variants={
                fault.fault: _by_variant(fault, verdict)
                for fault, verdict in zip(told, verdicts, strict=True)
                if fault.fault != "shift" and fault.variants
            },
            partner=None if partner is None else self.numbers[partner].name,
            indistinct=any(
                fault.fault == "wrong" and _indistinct(verdict, self.untouched[fault.of])
                for fault, verdict in zip(told, verdicts, strict=True)
            ),
        )

    def _verdicts(
        self, faults: Sequence[Faulty], column: Column, at: int, partner: int | None
    ) -> list[npt.NDArray[np.bool_]]:
        """Alarms of all faulty rows of a column, fault by fault, answered at once."""
        if not faults:
            return []
        of = np.concatenate([fault.of for fault in faults])
        numeric, categorical = self.rows.numeric[of], self.rows.categorical[of]
        ends = np.cumsum([len(fault.of) for fault in faults])
        with np.errstate(over="ignore"):
            for fault, end in zip(faults, ends, strict=True):
                part = slice(end - len(fault.of), end)
                (numeric if column.is_numeric else categorical)[part, at] = fault.cells
                if fault.other is not None and partner is not None:
                    numeric[part, partner] = fault.other
        self.faulty_rows += len(of)
        return np.split(self.alarms(numeric, categorical, of).astype(bool), ends[:-1])


def _count(verdicts: npt.NDArray[np.bool_]) -> Caught:
    return Caught(int(verdicts.sum()), len(verdicts))


def _by_variant(fault: Faulty, verdicts: npt.NDArray[np.bool_]) -> dict[str, Caught]:
    return {name: _count(verdicts[fault.variant == at]) for at, name in enumerate(fault.variants)}


def _shifts(measured: Sequence[tuple[Faulty, npt.NDArray[np.bool_]]]) -> ShiftPower | None:
    if not measured:
        return None
    sizes = tuple(float(fault.size or 0.0) for fault, _ in measured)
    caught = tuple(_count(verdicts) for _, verdicts in measured)
    sides = [_by_variant(fault, verdicts) for fault, verdicts in measured]
    return ShiftPower(
        sizes,
        caught,
        tuple(side["up"] for side in sides),
        tuple(side["down"] for side in sides),
        smallest_shift(sizes, caught, 0.5),
        smallest_shift(sizes, caught, 0.9),
    )


def _indistinct(faulty: npt.NDArray[np.bool_], untouched: npt.NDArray[np.bool_]) -> bool:
    """Whether a fault raises no more alarms than the same rows untouched (McNemar's exact test, one-sided, 2.5 %)."""
    from scipy.stats import binomtest

    more, fewer = int((faulty & ~untouched).sum()), int((untouched & ~faulty).sum())
    return more == 0 or bool(binomtest(more, more + fewer, 0.5, alternative="greater").pvalue > _SIGNIFICANT)
