"""The times that records say."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from anomvae.data.times import NUMBER, read_time
from anomvae.errors import CellError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomvae.streaming.contracts import Record

    FloatArray = npt.NDArray[np.float64]

MILLISECONDS_FROM = 1e11
"""Numbers from here on are milliseconds: as seconds they would lie beyond the year 5100, as milliseconds after March 1973."""
_YEAR_1 = -62_135_596_800.0


def latest_times(records: Sequence[Record], arrived_s: float) -> FloatArray:
    """When records were written as their source has it, Unix seconds, shape ``(n,)``; when they came where it keeps no times."""
    return np.array([arrived_s if record.stamp_s is None else record.stamp_s for record in records], np.float64)


def times_of(cells: Sequence[Any], *, unix: bool = True) -> FloatArray:
    """Unix seconds that cells say, NaN where one says none; each is read as it would be alone.

    ISO 8601 text without an offset is UTC. Numbers, also as text, are seconds, and milliseconds from 1e11 on.

    Args:
        cells: Text, numbers, datetimes or dates; n of them.
        unix: Whether numbers are such; else they are taken as they are.

    Returns:
        Shape ``(n,)``.

    Example:
        >>> times_of(["2024-01-01T00:00:00.5Z", 1704067200.5, 1704067200500, "soon"])
        array([1.7040672e+09, 1.7040672e+09, 1.7040672e+09,           nan])
    """
    times = _all_at_once(cells)
    if times is None:
        times = np.array([_time_of(cell) for cell in cells], dtype=np.float64)
    large = np.abs(times) >= MILLISECONDS_FROM
    if not (unix and large.any()):
        return times
    large &= np.fromiter(map(_is_number, cells), np.bool_, len(times))
    return np.where(large, times / 1000.0, times)


def _all_at_once(cells: Sequence[Any]) -> FloatArray | None:
    """The usual: numbers, or timestamps that all name their offset or all name none."""
    kinds = set(map(type, cells))
    try:
        if kinds <= {float, int}:
            numbers = np.array(cells, dtype=np.float64)
            return np.where(np.isfinite(numbers), numbers, math.nan)
        if kinds != {str}:
            return None
        text = pa.array(cells)
        for kind in (pa.timestamp("us", "UTC"), pa.timestamp("us")):
            try:
                times: FloatArray = pc.cast(pc.cast(text, kind), pa.int64()).to_numpy() / 1_000_000
            except pa.ArrowInvalid:
                continue
            return times if times.min() >= _YEAR_1 else None
    except (OverflowError, pa.ArrowException):
        pass
    return None


def _is_number(cell: Any) -> bool:
    """Whether a time is a count: a date in the year 9999 is none, however many seconds it is away."""
    return isinstance(cell, (int, float)) or (isinstance(cell, str) and NUMBER.fullmatch(cell.strip()) is not None)


def _time_of(cell: Any) -> float:
    try:
        return read_time(cell, "time")
    except CellError:
        return math.nan
