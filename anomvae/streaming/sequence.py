"""The rule of one asset, row by row; and from which of its rows on reading again finds the same state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from anomvae.data.cadence import Arrival
from anomvae.streaming.placement import Fate

if TYPE_CHECKING:
    from anomvae.data.cadence import Cadence

HALF = 0.5
"""Of a step: closer to the row before, a row is repeated."""


class Mark(NamedTuple):
    """An anchor: its offset, and that of the record that had set the partition's clock as it stood there."""

    offset: int
    lease: int


class Taken(NamedTuple):
    """What became of a row.

    Attributes:
        fate: FILLING for a step, whose window is for the caller to find.
        mark: The newest anchor, this row or one before.
        begins: Whether a sequence begins with it.
        missing: Missing steps between the step before and this one.
    """

    fate: Fate
    mark: Mark
    begins: bool = False
    missing: int = 0


@dataclass(slots=True)
class Sequence:
    """One asset as its newest row left it.

    Attributes:
        cadence: By which rows become steps.
        patience: Late rows in a row that change nothing, w; with the next the sequence begins anew.
        idle_s: Silence after which the asset is forgotten, seconds of its partition's clock.
        max_replay: Offsets after which it is forgotten; an anchor is never older than half of them.
        newest: Time of the newest row that was a step or found the asset off.
        kept_at: Offset of that row; -1: there is none.
        off: Whether that row found it off.
        seen: Newest time since the clock was last set back, repeated rows included.
        clock: The partition's clock at the last row.
        late: Late rows since the last that was not.
        settling: Rows that must go on before one of them is an anchor again.
        mark: The newest anchor.
    """

    cadence: Cadence
    patience: int
    idle_s: float
    max_replay: int
    newest: float
    kept_at: int
    off: bool
    seen: float
    clock: float
    late: int
    settling: int
    mark: Mark

    def take(self, time: float, offset: int, clock: float, lease: int, *, off: bool) -> Taken:
        """Takes the asset's next row.

        Args:
            time: Its time, seconds.
            offset: Its offset.
            clock: The partition's clock with it, seconds.
            lease: Offset of the record that set that clock.
            off: Whether it finds the asset off.
        """
        anew = self.kept_at < 0 or clock - self.clock > self.idle_s or offset - self.kept_at > self.max_replay
        self.clock = clock
        if anew:
            self.seen, self.settling, self.late = -np.inf, 0, 0
        elif time < self.newest:
            self.late += 1
            if self.late <= self.patience:
                return Taken(Fate.LATE, self.mark)
            # Whoever begins to read among the late rows knows nothing of the row that was ahead of them and takes some of
            # them for steps. As many rows as are late at most, and one for a step that they would repeat, set that right.
            anew, self.seen, self.settling = True, -np.inf, self.patience + 2
        placed = self.cadence.place(time, None if anew or self.off else self.newest)
        if placed.arrival is Arrival.REPEATED and not off:
            self.late, self.seen = 0, max(self.seen, time)
            return Taken(Fate.REPEATED, self.mark)
        begins = placed.arrival is Arrival.FIRST
        if self._goes_on(time, begins=begins and not anew, off=off):
            self.settling = max(self.settling - 1, 0)
            self.mark = self.mark if self.settling else Mark(offset, lease)
        elif offset - self.mark.offset > self.max_replay // 2:
            # No restart reads so far back. One may place such rows otherwise, but the asset must not go unscored for ever.
            self.mark, self.settling = Mark(offset, lease), 0
        self.late, self.seen = 0, max(self.seen, time)
        self.newest, self.kept_at, self.off = time, offset, off
        return Taken(Fate.OFF, self.mark) if off else Taken(Fate.FILLING, self.mark, begins, placed.missing)

    def _goes_on(self, time: float, *, begins: bool, off: bool) -> bool:
        """Whether a row is found the same wherever among the rows before it reading begins."""
        if off:
            return time >= self.seen
        if begins and self.off:
            # Late rows behind the one that found the asset off would be steps without it.
            return self.mark.offset == self.kept_at and not self.late
        arrival = self.cadence.place(time, self.seen).arrival
        return arrival is Arrival.FIRST or (arrival is Arrival.NEXT and not begins)
