"""How long a step between rows is, and in which unit: stated, or told by the rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from anomvae.data.encoding import NUMBER_TYPE, is_text
from anomvae.errors import SchemaError, SettingError

if TYPE_CHECKING:
    import pyarrow as pa

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

EPOCH_UNITS = ((1e17, "ns", 1e9), (1e14, "us", 1e6), (1e11, "ms", 1e3), (1e9, "s", 1.0))
"""Numbers from here on count time since 1970 in this unit: in the next longer one they would lie beyond the year 5100."""
LONGEST = 1.5
"""Usual intervals that a stated step may last: rows half a step apart count as steps, so a longer one would not thin them evenly."""
TWICE = 0.9
"""Share of the rows at the time of another from which on they are taken for the same rows."""


@dataclass(frozen=True, slots=True)
class TimeUnit:
    """What one of a time is.

    Attributes:
        name: As `s`, or the time column in words where nobody knows.
        per_second: How many a second has; None: nobody knows.
    """

    name: str = "s"
    per_second: float | None = 1.0

    @classmethod
    def of(cls, times: FloatArray, kind: pa.DataType, column: str) -> TimeUnit:
        """The unit of a column's times: seconds of instants; of numbers what their size tells, if all are so large.

        Args:
            times: As :func:`~anomvae.data.times.read_times` reads them, shape ``(n,)``.
            kind: Arrow type of the column.
            column: Its name.

        Example:
            >>> import pyarrow as pa
            >>> [TimeUnit.of(np.array([t, t + 3]), pa.int64(), "t").name for t in (7.0, 1.7e9, 1.7e12)]
            ["units of 't'", 's', 'ms']
        """
        if NUMBER_TYPE.fullmatch(str(kind)) is None:
            return cls()
        least = float(np.abs(times).min(initial=np.inf)) if len(times) else 0.0
        for size, name, per_second in EPOCH_UNITS:
            if least >= size:
                return cls(name, per_second)
        return cls(f"units of {column!r}", None)

    def say(self, length: float) -> str:
        """A length of time.

        Example:
            >>> TimeUnit("units of 'minute'", None).say(3.0), TimeUnit("ms", 1e3).say(1000.0)
            ("3 (in units of 'minute')", '1,000 ms')
        """
        number = f"{length:,.6g}" if length < 1e6 else f"{length:,.0f}"  # noqa: PLR2004  from there on it has an exponent
        return f"{number} (in {self.name})" if self.per_second is None else f"{number} {self.name}"


@dataclass(frozen=True, slots=True)
class TimedRows:
    """Rows that are to tell how long a step is; n of them.

    Attributes:
        cells: The column of the time.
        time: Its name.
        asset: Column of the assets; None: there is none.
        times: What the cells were read as, shape ``(n,)``.
        asset_of_row: Number of each row's asset, shape ``(n,)``.
        numbers: The channels, shape ``(n, d)``.
        order: Row numbers sorted by asset and time, shape ``(n,)``.
    """

    cells: pa.ChunkedArray
    time: str
    asset: str | None
    times: FloatArray
    asset_of_row: IntArray
    numbers: npt.NDArray[np.float32]
    order: IntArray

    def usual_step(self, median: float | None) -> float:
        """The median interval as a step.

        Args:
            median: Between neighbouring rows of an asset; None: no asset has two.

        Raises:
            SchemaError: It is none.
        """
        if median is None:
            raise SchemaError(
                f"no asset has two rows, so {self.time!r} tells no step between rows; bring longer sequences, or state it with "
                "--every"
            )
        if median <= 0.0:
            raise SchemaError(self._why_none())
        return median

    def _why_none(self) -> str:
        """Why most rows have the time of the row before, and what to do."""
        time, asset = self.time, self.asset
        same = np.diff(self.asset_of_row[self.order]) == 0
        apart = np.diff(self.times[self.order])[same]
        is_finer = not is_text(self.cells.type) and pc.count_distinct(self.cells).as_py() > len(np.unique(self.times))
        if is_finer or float(np.median(apart)) > 0.0:
            return (
                f"the times of {time!r} lie closer together than can be told apart, which is about a microsecond, so they tell no "
                "step between rows; count them as numbers from a nearer beginning, such as nanoseconds since the first row"
            )
        numbers = self.numbers[self.order]
        before, after = numbers[:-1][same][apart == 0.0], numbers[1:][same][apart == 0.0]
        alike = ((before == after) | (np.isnan(before) & np.isnan(after))).all(axis=1)
        if float(alike.mean()) >= TWICE:
            return (
                f"most rows come twice, with the same {time!r} and the same channels, so they tell no step between rows; leave the "
                "second of each out"
            )
        other = "if several assets share the table, name their column with --by"
        if asset is not None:
            other = f"if {asset!r} does not tell all assets apart, name a column that does with --by"
        return (
            f"most rows have the same {time!r} as the row before, so it tells no step between rows; {other}; else state the step "
            "with --every"
        )


def stated_step(every_s: float, unit: TimeUnit, median: float | None, longest_gap: int) -> float:
    """A stated length of a step in the unit of the times.

    Args:
        every_s: As it was stated, seconds; where nobody knows the unit of the times, in that.
        unit: Of the times.
        median: Median interval between neighbouring rows; None: unknown.
        longest_gap: Most missing steps in one piece.

    Raises:
        SettingError: It is no length of time, or so short beside the rows' interval that another unit must be meant, or longer.
    """
    if not (math.isfinite(every_s) and every_s > 0):
        raise SettingError("--every must be a length of time above 0, for instance 1s")
    step = every_s * (unit.per_second or 1.0)
    if median and step > LONGEST * median:
        raise SettingError(
            f"--every is {unit.say(step)}, and rows lie {unit.say(median)} apart: what is between would be lost, and unevenly; resample "
            "the data to that interval first, to means over it, say, and stream them so, or leave --every out"
        )
    if unit.per_second is None and median is not None and median >= (longest_gap + 2) * step:
        raise SettingError(
            f"--every is so short that no two rows follow one another: the usual interval is {unit.say(median)}, which nobody "
            "can turn into seconds; state a number without a unit, or leave --every out to take the usual"
        )
    return step
