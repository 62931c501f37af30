"""Faults of the field, to be put into one column of normal rows at a time.

Sensors drift, stick, spike and get noisy; data engineers mix up units and columns; people leave cells empty or choose the
wrong word. Each fault here is one sentence of arithmetic on the cells of a column; standard deviation, mean and range are
those of training, as the manifest has them. Cells that are missing take no part, nor do rows that a fault leaves as they are:
a sensor that sticks at the value it should show is right. Numbers come out in the steps in which the column is read.

A fault that grows with time (drift) is a shift that gets larger; where it is caught can be read from the curve of shifts.

References:
    Sensor Network Data Fault Types (Ni et al., 2009): offset, gain, stuck-at, spike, noise;
    Sensor Faults: Detection Methods and Prevalence in Real-World Datasets (Sharma et al., 2010): short, noise, constant;
    A Taxonomy of Dirty Data (Kim et al., 2003): missing and wrong data;
    JENGA: A Framework to Study the Impact of Data Errors on the Predictions of Machine Learning Models (Schelter et al., 2021):
    missing, swapped, scaled and noisy cells
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from anomvae.bundle import Column
    from anomvae.evaluation.resolution import Resolution

    FloatArray = npt.NDArray[np.float64]
    IntArray = npt.NDArray[np.int64]

GAINS = {"doubled": 2.0, "halved": 0.5}
"""What a gain fault does to a cell's distance from the mean."""
NOISE_STD = 3.0
"""Standard deviation of the added noise, in those of the column."""
BEYOND = 0.5
"""How far outside the training range a spike lies, in widths of that range."""
UNITS: dict[str, tuple[float, float]] = {
    "x1000": (1000.0, 0.0),
    "x0.001": (0.001, 0.0),
    "x10": (10.0, 0.0),
    "x0.1": (0.1, 0.0),
    "x25.4": (25.4, 0.0),
    "fahrenheit": (1.8, 32.0),
}
"""Mistaken units, as factor and offset: kilo, milli, a decimal place either way, inches as millimetres, °C as °F."""
SIGNS = {"up": 1.0, "down": -1.0}

NUMERIC_FAULTS = ("stuck", "spike", "noise", "gain", "unit", "swapped", "missing")
CATEGORICAL_FAULTS = ("wrong", "unseen", "stuck", "missing")


class Rows(Protocol):
    """Rows as the arrays of :class:`anomvae.data.encoding.EncodedRows`."""

    @property
    def numeric(self) -> npt.NDArray[np.float32]:
        """Raw units, NaN where missing, shape ``(n, d)``."""

    @property
    def categorical(self) -> npt.NDArray[np.int64]:
        """Codes of the manifest's categories, shape ``(n, c)``."""


@dataclass(frozen=True, slots=True)
class NumberColumn:
    """A column of numbers or dates, with what faults need to know of it.

    Attributes:
        column: Facts of training.
        at: Position among the number columns.
        resolution: How finely it is read.
        partner: Position of the column it may be swapped with; None without any.
    """

    column: Column
    at: int
    resolution: Resolution
    partner: int | None = None

    @property
    def std(self) -> float:
        """Standard deviation in training; 0 where it is not known."""
        return float(self.column.std or 0.0)


@dataclass(frozen=True, slots=True)
class Faulty:
    """Faulty cells of one column.

    Attributes:
        fault: What was done: `shift` or one of `NUMERIC_FAULTS` or `CATEGORICAL_FAULTS`.
        of: Rows they were made from, positions, shape ``(m,)``.
        cells: What the column shows now, shape ``(m,)``.
        variants: Names of the ways in which the fault was injected; empty where there is one way.
        variant: Which of them, row by row, shape ``(m,)``.
        size: Of a shift: standard deviations.
        other: What the column it is swapped with shows now, shape ``(m,)``.
    """

    fault: str
    of: IntArray
    cells: FloatArray | IntArray
    variants: tuple[str, ...] = ()
    variant: IntArray | None = None
    size: float | None = None
    other: FloatArray | None = None


def dealt(n: int, ways: int, draw: np.random.Generator) -> IntArray:
    """Which of some ways each of n rows goes: as many rows each, as far as n allows, in drawn order."""
    return np.asarray(draw.permutation(np.arange(n) % ways), dtype=np.int64)


def shift_sizes(column: NumberColumn, sizes: Sequence[float]) -> list[float]:
    """The sizes that a shift of this column can have: whole steps where it has steps, at least one.

    Args:
        column: The column; without a standard deviation it has no sizes.
        sizes: Sizes wanted, ascending, standard deviations.
    """
    if column.std <= 0:
        return []
    step = column.resolution.step / column.std
    if step <= 0:
        return list(sizes)
    return sorted({max(1, round(size / step)) * step for size in sizes})


def shift(cells: FloatArray, signs: FloatArray, size: float, column: NumberColumn) -> FloatArray:
    """Offset (bias): the cell is so many standard deviations too high or too low."""
    return column.resolution.read(cells + signs * size * column.std)


def stuck(cells: FloatArray, pool: FloatArray, draw: np.random.Generator) -> FloatArray:
    """Stuck-at (constant): the cell shows the value that another row of the column holds.

    A detector of single rows sees a sensor that sticks at v as rows that hold v. Each row gets a value of its own, so that
    the share caught is the average over the values at which the sensor may stick, not the luck of one.
    """
    return pool[draw.integers(0, len(pool), len(cells))]


def spike(cells: FloatArray, variant: IntArray, column: NumberColumn) -> FloatArray | None:
    """Spike (short, out of range): the cell lies half a width of the training range above or below that range.

    A limit on the column would catch every one of these. None where the range has no width.
    """
    low, high = column.column.low, column.column.high
    if low is None or high is None or high <= low:
        return None
    ends = np.array([high + BEYOND * (high - low), low - BEYOND * (high - low)])
    return column.resolution.read(ends[variant] + np.zeros(len(cells)))


def noise(cells: FloatArray, column: NumberColumn, draw: np.random.Generator) -> FloatArray:
    """High noise: normal noise of three standard deviations of the column is added to the cell."""
    return column.resolution.read(cells + NOISE_STD * column.std * draw.standard_normal(len(cells)))


def gain(cells: FloatArray, variant: IntArray, column: NumberColumn) -> FloatArray:
    """Gain: the cell lies twice as far from the training mean as it should, or half as far."""
    mean = float(column.column.mean or 0.0)
    return column.resolution.read(mean + np.array(list(GAINS.values()))[variant] * (cells - mean))


def unit(cells: FloatArray, variant: IntArray) -> FloatArray:
    """Unit error: the cell is given in another unit (x1000, x0.001, x10, x0.1, inches as millimetres, °C as °F)."""
    factor, offset = np.array(list(UNITS.values())).T
    return np.asarray(cells * factor[variant] + offset[variant], dtype=np.float64)


def wrong_category(codes: IntArray, known: int, draw: np.random.Generator) -> IntArray:
    """Wrong category: another of the known values, each as likely as the next."""
    return np.asarray((codes + draw.integers(1, known, len(codes))) % known, dtype=np.int64)


def partners(columns: Sequence[Column]) -> list[int | None]:
    """For each number column the one it would be mistaken for most easily: the nearest as normal distributions.

    Nearest by Jeffreys' divergence of means and standard deviations, which is small only where the values of each would
    pass in the other; numbers are not swapped with dates.

    Args:
        columns: The number and date columns, in the order of the graph's input.

    References:
        An Invariant Form for the Prior Probability in Estimation Problems (Jeffreys, 1946)
    """
    std = np.array([column.std or 0.0 for column in columns])
    mean = np.array([column.mean or 0.0 for column in columns])
    is_date = np.array([column.kind == "date" for column in columns], dtype=bool)
    found: list[int | None] = []
    for j in range(len(columns)):
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            ratio = (std / std[j]) ** 2
            apart = ratio + 1 / ratio + (mean - mean[j]) ** 2 * (1 / std**2 + 1 / std[j] ** 2)
        apart[(std <= 0) | (is_date != is_date[j]) | ~np.isfinite(apart)] = np.inf
        apart[j] = np.inf
        nearest = int(np.argmin(apart))
        found.append(nearest if np.isfinite(apart[nearest]) else None)
    return found


def number_faults(
    rows: Rows, column: NumberColumn, of: IntArray, sizes: Sequence[float], draw: np.random.Generator
) -> Iterator[Faulty]:
    """All faults of a column of numbers or dates.

    Args:
        rows: The normal rows.
        column: The column.
        of: Rows to inject into, positions; the cell is there in all of them.
        sizes: Sizes of the shift, ascending, standard deviations.
        draw: Of every draw.
    """
    every = rows.numeric[:, column.at].astype(np.float64)
    cells, n = every[of], len(of)
    keep = _Changed(of, rows.numeric[of, column.at])
    ways = dealt(n, len(SIGNS), draw)
    signs = np.array(list(SIGNS.values()))[ways]
    for size in shift_sizes(column, sizes):
        yield keep(Faulty("shift", of, shift(cells, signs, size, column), tuple(SIGNS), ways, size))
    yield keep(Faulty("stuck", of, stuck(cells, every[np.isfinite(every)], draw)))
    ways = dealt(n, 2, draw)
    beyond = spike(cells, ways, column)
    if beyond is not None:
        yield keep(Faulty("spike", of, beyond, ("above", "below"), ways))
    if column.std > 0:
        yield keep(Faulty("noise", of, noise(cells, column, draw)))
        ways = dealt(n, len(GAINS), draw)
        yield keep(Faulty("gain", of, gain(cells, ways, column), tuple(GAINS), ways))
    if column.column.kind == "numeric":
        ways = dealt(n, len(UNITS), draw)
        yield keep(Faulty("unit", of, unit(cells, ways), tuple(UNITS), ways))
    if column.partner is not None:
        other = rows.numeric[of, column.partner].astype(np.float64)
        yield keep(Faulty("swapped", of, other, other=cells), only=np.isfinite(other))
    yield keep(Faulty("missing", of, np.full(n, np.nan)))


def category_faults(rows: Rows, at: int, column: Column, of: IntArray, draw: np.random.Generator) -> Iterator[Faulty]:
    """All faults of a column of categories or flags; arguments as of :func:`number_faults`.

    `unseen` is a value that training never saw, or only in cells too rare to learn; flags have no such fault. `missing` is a
    value never seen where training saw no missing cell.
    """
    every, known, n = rows.categorical[:, at], len(column.categories), len(of)
    codes = every[of]
    keep = _Changed(of, codes)
    if known > 1:
        yield keep(Faulty("wrong", of, wrong_category(codes, known, draw)))
    if column.kind == "categorical":
        yield keep(Faulty("unseen", of, np.full(n, column.unknown_code, dtype=np.int64)))
    pool = every[every < known]
    yield keep(Faulty("stuck", of, pool[draw.integers(0, len(pool), n)]))
    missing = column.unknown_code if column.missing_code is None else column.missing_code
    yield keep(Faulty("missing", of, np.full(n, missing, dtype=np.int64)))


def has_cell(rows: Rows, column: Column, at: int) -> npt.NDArray[np.bool_]:
    """In which rows a column holds a finite number, or a known category, shape ``(n,)``."""
    if column.is_numeric:
        return np.asarray(np.isfinite(rows.numeric[:, at]), dtype=np.bool_)
    return np.asarray(rows.categorical[:, at] < len(column.categories), dtype=np.bool_)


class _Changed:
    """Keeps the rows that a fault has changed, as the graph sees their cells.

    Args:
        of: Positions of the rows.
        before: The cells as they were.
    """

    def __init__(self, of: IntArray, before: npt.NDArray[np.float32] | IntArray) -> None:
        self.of, self.before = of, before

    def __call__(self, faulty: Faulty, only: npt.NDArray[np.bool_] | None = None) -> Faulty:
        with np.errstate(over="ignore"):
            changed = faulty.cells.astype(self.before.dtype) != self.before
        keep = changed if only is None else changed & only
        return Faulty(
            faulty.fault,
            faulty.of[keep],
            faulty.cells[keep],
            faulty.variants,
            None if faulty.variant is None else faulty.variant[keep],
            faulty.size,
            None if faulty.other is None else faulty.other[keep],
        )
