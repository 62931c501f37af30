"""Rows as they came, and what became of them: which are steps of their assets' sequences, and of which windows."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class Fate(enum.IntEnum):
    """What becomes of a row."""

    STEP = 0
    """The newest step of a whole window: it is scored."""
    FILLING = 1
    """A step of a sequence that has too few for a window yet."""
    REPEATED = 2
    """It falls within half a step of the row before it, which stands for both."""
    LATE = 3
    """Its time lies before that of its asset's newest row."""
    FUTURE = 4
    """Its time lies too far ahead."""
    OFF = 5
    """Its asset is off: the sequence ends with it."""


@dataclass(frozen=True, slots=True)
class TimedRows:
    """Rows in the order they came, n of them.

    Attributes:
        places: The partition of each.
        names: The asset of each.
        time_s: Times, shape ``(n,)``.
        offset: Offsets; never falling within a partition; shape ``(n,)``.
        values: What is remembered of each: its channels, NaN where missing, and what else is known; shape ``(n, c)``.
        off: Rows while their asset is off, shape ``(n,)``.
    """

    places: Sequence[tuple[str, int]]
    names: Sequence[str]
    time_s: FloatArray
    offset: IntArray
    values: npt.NDArray[np.float32]
    off: BoolArray


@dataclass(frozen=True, slots=True)
class Placement:
    """What became of n rows.

    Attributes:
        fate: :class:`Fate` of each, shape ``(n,)``.
        lease: Offset from which a row's window can be rebuilt and, where there are events, which of them are open; -1 for rows
            that are no steps; shape ``(n,)``.
        cut: Whole windows that were not used because they reach back too far.
        evicted: Assets forgotten with these rows.
        tape: The steps of all assets concerned, one after the other, shape ``(t, c)``.
        end: Position of each row on the tape, shape ``(n,)``.
        window: Steps a window, w.
    """

    fate: npt.NDArray[np.int8]
    lease: IntArray
    cut: int
    evicted: int
    tape: npt.NDArray[np.float32]
    end: IntArray
    window: int

    def windows(self, end: IntArray, columns: slice = slice(None), *, newest: bool = True) -> npt.NDArray[np.float32]:
        """Windows by the position of their newest step on the tape, shape ``(m, w, d)``.

        Args:
            end: Of rows whose fate is STEP, shape ``(m,)``.
            columns: Of the tape.
            newest: Whether the newest step is one of them; else they are a step shorter.
        """
        found: npt.NDArray[np.float32] = self.tape[end[:, None] + np.arange(1 - self.window, int(newest)), columns]
        return found
