"""Alarm events: alarms that follow each other closely enough are one."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float64]
    IntArray = npt.NDArray[np.int64]


def count_events(times_s: FloatArray, part: IntArray, tolerance_s: float, renewal_s: float) -> int:
    """Events among alarms; one that lasts counts again each time it has gone on for so long.

    Args:
        times_s: Times of the alarms, in order within each part, shape ``(n,)``.
        part: What each belongs to, equal ones together; events never reach from one part into the next.
        tolerance_s: Alarms at most so far apart are one event.
        renewal_s: An event counts once more for each such time it has lasted.

    Example:
        >>> count_events(np.array([0.0, 1.0, 2.0, 9.0, 10.0]), np.array([0, 0, 0, 0, 1]), 1.0, 60.0)
        3
        >>> count_events(np.array([0.0, 1.0, 2.0, 9.0, 10.0]), np.array([0, 0, 0, 0, 1]), 1.0, 2.0)
        4
    """
    if not len(times_s):
        return 0
    new = (np.diff(part) != 0) | (np.diff(times_s) > tolerance_s)
    lasted = times_s[np.append(new, True)] - times_s[np.append(True, new)]
    return int(np.sum(1 + np.floor(lasted / renewal_s)))


class GrowingEvents:
    """Alarm events while alarming steps are added one by one, in any order.

    Args:
        times_s: Times of all steps, shape ``(n,)``.
        part: As :func:`count_events` has it, of all steps.
        tolerance_s: Likewise.
        renewal_s: Likewise.

    Attributes:
        count: What :func:`count_events` says of the steps so far.
    """

    def __init__(self, times_s: FloatArray, part: IntArray, tolerance_s: float, renewal_s: float) -> None:
        self.count = 0
        self._times: list[float] = times_s.tolist()
        self._part: list[int] = part.tolist()
        self._tolerance_s, self._renewal_s = tolerance_s, renewal_s
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, step: int) -> None:
        """One more step alarms."""
        starts, ends = self._starts, self._ends
        after = bisect_right(starts, step)
        first = after - int(after > 0 and self._one(ends[after - 1], step))
        last = after + int(after < len(starts) and self._one(step, starts[after]))
        self.count -= sum(self._size(event) for event in range(first, last))
        start, end = min([step, *starts[first:last]]), max([step, *ends[first:last]])
        starts[first:last], ends[first:last] = [start], [end]
        self.count += self._size(first)

    def _one(self, step: int, later: int) -> bool:
        """Whether two alarms belong to one event."""
        return self._part[step] == self._part[later] and self._times[later] - self._times[step] <= self._tolerance_s

    def _size(self, event: int) -> int:
        """How often an event counts."""
        lasted = self._times[self._ends[event]] - self._times[self._starts[event]]
        return 1 + math.floor(lasted / self._renewal_s)
