"""The rule by which timed rows of one asset become steps of a sequence; the same for whole tables and for streams."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

HOLE_SHARE = 8
"""Up to an eighth of a window may be missing in one piece by default; a longer gap begins the sequence anew."""


class Arrival(enum.Enum):
    """What a row's time makes of it."""

    NEXT = "next"
    """It is the next step of its sequence, after zero or more missing steps."""
    FIRST = "first"
    """A sequence begins with it: the asset is new, or the gap before it was too long."""
    REPEATED = "repeated"
    """It falls within half a step of the row before it, which stands for both."""
    LATE = "late"
    """Its time lies before that of the newest row of its asset."""


class Placed(NamedTuple):
    """Where a row goes.

    Attributes:
        arrival: What it is.
        missing: Missing steps between the row before and this one; 0 unless `arrival` is NEXT.
    """

    arrival: Arrival
    missing: int = 0


@dataclass(frozen=True, slots=True)
class Cadence:
    """Steps of equal length, counted from row to row, so that jitter and a drifting clock do no harm.

    A row less than half a step after the one before it is repeated; one k steps later (rounded) leaves k - 1 steps missing;
    more than `longest_gap` missing steps begin a new sequence.

    Attributes:
        step_s: Length of a step, seconds (or whatever the time column counts).
        longest_gap: Most missing steps within a sequence.
    """

    step_s: float
    longest_gap: int

    def place(self, time_s: float, newest_s: float | None) -> Placed:
        """Places one row.

        Args:
            time_s: Its time.
            newest_s: Time of the newest row of its asset that was placed NEXT or FIRST; None: there is none.

        Example:
            >>> Cadence(1.0, longest_gap=2).place(13.1, 10.0)
            Placed(arrival=<Arrival.NEXT: 'next'>, missing=2)
        """
        if newest_s is None:
            return Placed(Arrival.FIRST)
        apart = (time_s - newest_s) / self.step_s
        if apart < 0.0:
            return Placed(Arrival.LATE)
        if apart < 0.5:  # noqa: PLR2004  half a step
            return Placed(Arrival.REPEATED)
        missing = max(0, int(np.floor(apart + 0.5)) - 1) if apart < self.longest_gap + 2 else self.longest_gap + 1
        return Placed(Arrival.FIRST) if missing > self.longest_gap else Placed(Arrival.NEXT, missing)

    def place_all(self, times_s: FloatArray, begins: BoolArray | None = None) -> tuple[BoolArray, BoolArray, IntArray]:
        """Places rows that lie in order of time; what :meth:`place` says of each after the other.

        Args:
            times_s: Ascending from one row that begins to the next, shape ``(n,)``.
            begins: Rows with which a sequence begins whatever lies before them, as the first of each asset and the first after
                it was off, shape ``(n,)``; None: the first row alone.

        Returns:
            Which rows are kept (not repeated), which begin a sequence, and the missing steps before each; shape ``(n,)``.
        """
        n = len(times_s)
        starts = np.zeros(n, dtype=np.bool_) if begins is None else begins.copy()
        starts[:1] = True
        kept = self._kept(times_s, starts)
        missing = np.zeros(n, dtype=np.int64)
        places = np.flatnonzero(kept)
        steps = np.clip(np.diff(times_s[places]) / self.step_s, 0.0, self.longest_gap + 2.0)
        holes = np.maximum(np.floor(steps + 0.5).astype(np.int64) - 1, 0)
        starts[places[1:]] |= holes > self.longest_gap
        missing[places[1:]] = np.where(starts[places[1:]], 0, holes)
        return kept, starts, missing

    def _kept(self, times_s: FloatArray, starts: BoolArray) -> BoolArray:
        """Rows that are not repeated. Only one close to the row before it can be, and it is if it is close to the last kept."""
        kept = np.ones(len(times_s), dtype=np.bool_)
        close = 1 + np.flatnonzero((np.diff(times_s) / self.step_s < 0.5) & ~starts[1:])  # noqa: PLR2004
        newest = 0.0
        for i, before, time in zip(close.tolist(), times_s[close - 1].tolist(), times_s[close].tolist(), strict=True):
            if kept[i - 1]:
                newest = before
            kept[i] = (time - newest) / self.step_s >= 0.5  # noqa: PLR2004
        return kept


def default_gap(window: int) -> int:
    """Most missing steps in one piece for windows of a length.

    Example:
        >>> default_gap(64)
        8
    """
    return max(1, window // HOLE_SHARE)
