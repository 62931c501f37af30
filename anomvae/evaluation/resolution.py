"""How finely a column is read, so that an injected fault does not give itself away by its decimals.

A thermometer that reads tenths still reads tenths when it is off by two degrees. A fault that leaves such steps would be
found for a value never seen before, and the figures would flatter the detector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float64]

MOST_CELLS = 20_000
"""Cells that the steps are read from, at most."""
REPEATING = 0.5
"""Where at most this share of cells are different values, the column is taken to repeat the values it has."""
_DECIMALS = range(-6, 7)
_FLOAT32 = 2.0**-24
_CLOSE = 0.1
"""Largest distance from a step, in steps, that rounding to float32 may explain; beyond it, steps cannot be told."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """The values that a column can show.

    Attributes:
        origin: One of them, raw units.
        step: Distance of neighbouring values; 0 where any value can be shown.
        values: The values themselves, ascending, of a column that repeats them without an even step; None otherwise.

    Example:
        >>> tenths = Resolution.of(np.array([20.1, 20.4, 20.5, 21.1], dtype=np.float32))
        >>> round(tenths.step, 6), tenths.read(np.array([20.2345])).round(4).tolist()
        (0.1, [20.2])
    """

    origin: float = 0.0
    step: float = 0.0
    values: FloatArray | None = None

    @classmethod
    def of(cls, cells: npt.NDArray[np.float32]) -> Resolution:
        """Works out how finely cells are read.

        Args:
            cells: A column's cells, raw units, shape ``(n,)``; those that are not finite are passed over.
        """
        finite = cells[np.isfinite(cells)][:MOST_CELLS].astype(np.float64)
        values = np.unique(finite)
        if len(values) < 2:  # noqa: PLR2004  one value has no neighbour
            return cls()
        step = _even_step(values) or _decimal_step(values)
        if step:
            return cls(float(values[0]), step)
        return cls(values=values) if len(values) <= REPEATING * len(finite) else cls()

    def read(self, values: FloatArray) -> FloatArray:
        """Values as the column would show them: those without a step of their own stay as they are.

        A column that repeats its values shows the nearest of them; beyond the first and the last, any value.
        """
        if self.step > 0:
            return np.asarray(self.origin + np.round((values - self.origin) / self.step) * self.step, dtype=np.float64)
        if self.values is None:
            return values
        right = np.clip(np.searchsorted(self.values, values), 1, len(self.values) - 1)
        below, above = self.values[right - 1], self.values[right]
        nearest = np.where(values - below <= above - values, below, above)
        inside = (values >= self.values[0]) & (values <= self.values[-1])
        return np.where(inside, nearest, values)


def _even_step(values: FloatArray) -> float:
    """The smallest gap, if all values lie whole multiples of it apart; else 0."""
    gap, reach = float(np.diff(values).min()), float(values[-1] - values[0])
    steps = round(reach / gap)
    step = reach / steps
    return step if _fits(values - values[0], step, float(np.abs(values).max())) else 0.0


def _decimal_step(values: FloatArray) -> float:
    """The largest step, a whole multiple of a power of ten, that all values lie whole multiples of apart; else 0."""
    away, largest, gap = values - values[0], float(np.abs(values).max()), float(np.diff(values).min())
    for decimals in _DECIMALS:
        unit = 10.0**-decimals
        if unit <= (1.0 + _CLOSE) * gap and _fits(away, unit, largest):
            return float(np.gcd.reduce(np.round(away / unit).astype(np.int64))) * unit
    return 0.0


def _fits(away: FloatArray, step: float, largest: float) -> bool:
    """Whether distances are whole steps, as far as float32 can tell."""
    allowed = 1e-6 + 4.0 * _FLOAT32 * largest / step
    return allowed < _CLOSE and bool(np.abs(away / step - np.round(away / step)).max() <= allowed)
