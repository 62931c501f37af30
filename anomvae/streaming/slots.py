"""What is remembered of each asset, as columns of arrays that grow with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from anomvae.streaming.sequence import Mark

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_FIRST = 64
_NOBODY = -1
_AT_ONCE = 256


class Slots:
    """Columns with a row an asset, s of them; rows given back are used again.

    Args:
        history: Steps remembered of an asset, h.
        width: Numbers of a step, c.

    Attributes:
        names: Asset of each slot.
        owner: Number of the partition that a slot belongs to, -1 while nobody uses it, shape ``(s,)``.
        values: The newest steps, the newest last, shape ``(s, h, c)``.
        anchors: Offset of the newest anchor at or before each of those steps, -1 for missing ones, shape ``(s, h)``.
        leases: Offset of the record that had set the partition's clock as it stood at each of those anchors, shape ``(s, h)``.
        count: Steps of the sequence so far; 0: the asset is off; shape ``(s,)``.
        newest: Time of the newest row that was a step or found the asset off, shape ``(s,)``.
        kept: Offset of that row; -1: there is none; shape ``(s,)``.
        late: Late rows since the last that was not, shape ``(s,)``.
        settling: Rows that must go on before one of them is an anchor again, shape ``(s,)``.
        seen: Newest time since the clock was last set back, repeated rows included, shape ``(s,)``.
        need: Offset of the anchor that the asset's next window can be rebuilt from; its newest anchor while it is off; shape ``(s,)``.
        lease: Offset of the record that had set the partition's clock as it stood there, shape ``(s,)``.
        past: What `lease` was before at least as many rows as an event outlasts, -1 where none was taken, shape ``(s,)``.
        recent: What it was later, shape ``(s,)``.
        since: Rows since then that were steps or found the asset off, shape ``(s,)``.
        clock: The partition's clock at the asset's last row, shape ``(s,)``.
    """

    def __init__(self, history: int, width: int) -> None:
        self.names: list[str] = []
        self.values = np.empty((0, history, width), dtype=np.float32)
        self.anchors, self.leases = (np.empty((0, history), dtype=np.int64) for _ in range(2))
        self.owner, self.count, self.kept, self.need = (np.empty(0, dtype=np.int64) for _ in range(4))
        self.lease, self.late, self.settling = (np.empty(0, dtype=np.int64) for _ in range(3))
        self.past, self.recent, self.since = (np.empty(0, dtype=np.int64) for _ in range(3))
        self.newest, self.seen, self.clock = (np.empty(0, dtype=np.float64) for _ in range(3))
        self._unused: list[int] = []

    def take(self, names: Sequence[str], owner: int) -> list[int]:
        """Slots for assets not met before."""
        while len(self._unused) < len(names):
            self._grow()
        taken = [self._unused.pop() for _ in names]
        for slot, name in zip(taken, names, strict=True):
            self.names[slot] = name
        self.owner[taken] = owner
        self.kept[taken] = self.need[taken] = self.lease[taken] = -1
        self.past[taken] = self.recent[taken] = -1
        self.count[taken] = self.since[taken] = self.late[taken] = self.settling[taken] = 0
        self.seen[taken] = self.clock[taken] = self.newest[taken] = -np.inf
        self.anchors[taken] = self.leases[taken] = -1
        return taken

    def free(self, slots: Sequence[int]) -> None:
        """Takes slots back."""
        self.owner[slots] = _NOBODY
        for slot in slots:
            self.names[slot] = ""
        self._unused.extend(slots)

    def restate(
        self, width: int, steps_of: Callable[[list[str], npt.NDArray[np.float32]], npt.NDArray[np.float32]]
    ) -> None:
        """Other values of the steps there are; arguments as for :meth:`AssetWindows.restate`."""
        before = self.values
        self.values = np.empty((*before.shape[:2], width), dtype=np.float32)
        used = np.flatnonzero(self.owner != _NOBODY)
        for first in range(0, len(used), _AT_ONCE):
            part = used[first : first + _AT_ONCE]
            self.values[part] = steps_of([self.names[slot] for slot in part.tolist()], before[part])

    def of(self, owner: int) -> npt.NDArray[np.int64]:
        """The slots of a partition."""
        return np.flatnonzero(self.owner == owner)

    def mark_of(self, slot: int) -> Mark:
        """The newest anchor of an asset."""
        marked = np.flatnonzero(self.anchors[slot] >= 0)
        if not self.count[slot] or not len(marked):
            return Mark(int(self.need[slot]), int(self.lease[slot]))
        newest = int(marked[-1])
        return Mark(int(self.anchors[slot, newest]), int(self.leases[slot, newest]))

    def _grow(self) -> None:
        size = len(self.owner)
        more = max(_FIRST, size // 4)  # by a quarter: twice the space would mostly be for nobody
        for name in (
            "values",
            "anchors",
            "leases",
            "owner",
            "count",
            "kept",
            "need",
            "lease",
            "late",
            "settling",
            "past",
            "recent",
            "since",
            "newest",
            "seen",
            "clock",
        ):
            column = getattr(self, name)
            # In place, so that never two copies are held; nobody else has a view of it.
            column.resize((size + more, *column.shape[1:]), refcheck=False)
        self.owner[size:] = _NOBODY
        self.names.extend([""] * more)
        self._unused.extend(range(size + more - 1, size - 1, -1))
