"""The newest steps of every asset, from which windows are made; what a restart must read again to have them back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from anomvae.streaming.placement import Fate, Placement
from anomvae.streaming.sequence import HALF, Mark, Sequence
from anomvae.streaming.slots import Slots

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Sequence as Rows

    from anomvae.data.cadence import Cadence
    from anomvae.streaming.contracts import Place
    from anomvae.streaming.placement import TimedRows

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class _Steps(NamedTuple):
    """Rows sorted by asset, and what their times make of them; all but the last of shape ``(n,)``."""

    kept: BoolArray
    begins: BoolArray
    missing: IntArray
    anchor: IntArray
    lease: IntArray
    fate: npt.NDArray[np.int8]
    ended: dict[int, Mark]
    """Slots whose newest row found them off, and their newest anchor."""


class _Sorted(NamedTuple):
    """Rows sorted by slot; `clock` and `lease` are their partition's at each."""

    slot: IntArray
    time: FloatArray
    offset: IntArray
    clock: FloatArray
    lease: IntArray
    off: BoolArray
    first: IntArray
    """Positions of each asset's first row."""


@dataclass(slots=True)
class _Partition:
    """Assets of a partition, and how far its records' times have come."""

    number: int
    slots: dict[str, int]
    clock: float = -np.inf
    set_at: int = 0
    """Offset of the record that set the clock."""


class AssetWindows:
    r"""Places rows on the steps of their assets' sequences, partition by partition.

    The state after a record is a function of the records that lie from :meth:`replay_from` on, so that reading those again
    rebuilds it. Two things make that so. First, whether a row is a step depends on the step before it, and so on backwards. But
    a row at least half a step after *every* earlier row of its asset is a step wherever reading began: no earlier row can be
    taken for a step that it repeats. Such rows are *anchors*; where nothing is repeated, every row is one, and
    :class:`~anomvae.streaming.sequence.Sequence` says which are where rows are repeated, late or found the asset off. A window
    is rebuilt from the newest anchor at or before its first step. Second, what makes an asset be forgotten compares with its
    own newest rows alone: how far its partition's clock (the newest time in it) has gone on since, and how many records. For
    that, the record that had set the clock as it stood at the anchor is read again, too; where assets keep the same time, that
    is the anchor or a neighbour.

    A row that is late changes nothing, but as many in a row as a window has steps mean that the asset's clock was set back, or
    had been ahead: with the next its sequence begins anew.

    Args:
        window: Steps a window, w.
        width: Numbers that are remembered of a step, c.
        cadence: By which rows become steps.
        idle_s: Silence after which an asset is forgotten, seconds of its partition's clock.
        max_replay: Offsets over which a window, and a restart, reaches back.
        max_assets: Most assets of a partition. Only where this binds do answers depend on how records are batched.
        outlasted: Steps without an alarm that an event outlasts; None: there are no events. After a restart, more of each
            asset's newest rows than that are found again as they were, so that no event is open that was not.
    """

    def __init__(  # noqa: PLR0913  all that places a row
        self,
        window: int,
        width: int,
        cadence: Cadence,
        *,
        idle_s: float,
        max_replay: int,
        max_assets: int,
        outlasted: int | None = None,
    ) -> None:
        self.window, self.width, self.cadence = window, width, cadence
        self._idle_s, self._max_replay, self._max_assets = idle_s, max_replay, max_assets
        self._history, self._outlasted = max(window - 1, 1), outlasted
        self._slots = Slots(self._history, width)
        self._partitions: dict[tuple[str, int], _Partition] = {}
        self._next_number = 0

    @property
    def n_assets(self) -> int:
        """Assets that have a window or part of one."""
        return sum(len(partition.slots) for partition in self._partitions.values())

    def restate(
        self, width: int, steps_of: Callable[[list[str], npt.NDArray[np.float32]], npt.NDArray[np.float32]]
    ) -> None:
        """Remembers something else of the steps there are.

        Args:
            width: Numbers of a step from now on, c.
            steps_of: What they are, shape ``(k, h, c)``, of k assets by name and of h steps of each as they were remembered.
        """
        self.width = width
        self._slots.restate(width, steps_of)

    def forget(self, place: Place) -> None:
        """Drops a partition."""
        partition = self._partitions.pop(place, None)
        if partition is not None:
            self._slots.free(list(partition.slots.values()))

    def replay_from(self, place: Place, answered: int) -> int:
        """Offset from which records must be read again for the state that the record at `answered` needs."""
        partition = self._partitions.get(place)
        if partition is None or not partition.slots:
            return answered
        mine = self._slots.of(partition.number)
        low = int(self._slots.lease[mine].min())
        if self._outlasted is not None:
            low = min(low, int(self._slots.past[mine].min()))
        return min(answered, max(low, answered - self._max_replay))

    def place(self, rows: TimedRows) -> Placement:
        """Places rows; the order of records within each partition must be that of their offsets."""
        n = len(rows.names)
        fate = np.full(n, Fate.FILLING, dtype=np.int8)
        lease, end = np.full((2, n), -1, dtype=np.int64)
        if not n:
            return Placement(fate, lease, 0, 0, np.empty((0, self.width), np.float32), end, self.window)
        slot, clock, set_at = self._look_up(rows)
        order = np.argsort(slot, kind="stable")
        by_slot = slot[order]
        first = np.flatnonzero(np.diff(by_slot, prepend=-1))
        times, offsets, off = rows.time_s[order], rows.offset[order], rows.off[order]
        found = _Sorted(by_slot, times, offsets, clock[order], set_at[order], off, first)
        steps = self._steps(found)
        tape, at, reach, leases, count = self._write(found, steps, rows.values[order])
        kept = np.flatnonzero(steps.kept)
        whole = count >= self.window
        far = found.offset[kept] - reach > self._max_replay
        steps.fate[kept[whole & ~far]] = Fate.STEP
        fate[order] = steps.fate
        lease[order[kept]], end[order[kept]] = leases, at
        last = np.append(first[1:], n) - 1
        self._slots.clock[by_slot[last]] = found.clock[last]
        for ended, mark in steps.ended.items():
            self._slots.count[ended], self._slots.need[ended], self._slots.lease[ended] = 0, *mark
        if self._outlasted is not None:
            past = self._remember(found, steps)
            lease[order] = np.where(lease[order] < 0, -1, np.minimum(lease[order], past))
        return Placement(fate, lease, int((whole & far).sum()), self._evict(rows), tape, end, self.window)

    def _remember(self, rows: _Sorted, steps: _Steps) -> IntArray:
        """Of each row, from where on its asset's rows before it are found again, more of them than an event outlasts.

        Every so often what the asset's next window needs is written down; what was written down before the last time is old
        enough.
        """
        assert self._outlasted is not None  # noqa: S101  for the type checker
        slots, concerned = self._slots, rows.slot[rows.first]
        fresh = slots.past[concerned] < 0
        slots.past[concerned[fresh]] = slots.recent[concerned[fresh]] = steps.lease[rows.first[fresh]]
        past = np.repeat(slots.past[concerned], np.diff(np.append(rows.first, len(rows.slot))))
        counted = steps.kept | (steps.fate == Fate.OFF)
        slots.since[concerned] += np.add.reduceat(counted.astype(np.int64), rows.first)
        due = concerned[slots.since[concerned] > self._outlasted]
        slots.past[due], slots.recent[due], slots.since[due] = slots.recent[due], slots.lease[due], 0
        return past

    def _look_up(self, rows: TimedRows) -> tuple[IntArray, FloatArray, IntArray]:
        """Slots of rows, new ones where there were none; the clock at each row, and the offset that set it."""
        n = len(rows.names)
        slot, lease = np.empty((2, n), dtype=np.int64)
        clock = np.empty(n, dtype=np.float64)
        for place, here in _by_place(rows.places):
            partition = self._partitions.get(place)
            if partition is None:
                partition = self._partitions[place] = _Partition(self._next_number, {})
                self._next_number += 1
            slots, names = partition.slots, rows.names if isinstance(here, slice) else [rows.names[i] for i in here]
            fresh = [name for name in dict.fromkeys(names) if name not in slots]
            slots.update(zip(fresh, self._slots.take(fresh, partition.number), strict=True))
            slot[here] = [slots[name] for name in names]
            times, offsets = rows.time_s[here], rows.offset[here]
            running = np.maximum.accumulate(np.append(partition.clock, times))
            setter = np.maximum.accumulate(np.where(times > running[:-1], np.arange(len(times)), -1))
            set_at = np.where(setter >= 0, offsets[setter], partition.set_at)
            clock[here], lease[here] = running[1:], set_at
            partition.clock, partition.set_at = float(running[-1]), int(set_at[-1])
        return slot, clock, lease

    def _steps(self, rows: _Sorted) -> _Steps:
        """What becomes of rows: all at once where each is a step, one by one for the assets where one is not."""
        n, slots = len(rows.slot), self._slots
        concerned = rows.slot[rows.first]
        time, offset, clock = (np.roll(part, 1) for part in (rows.time, rows.offset, rows.clock))
        time[rows.first], offset[rows.first] = slots.newest[concerned], slots.kept[concerned]
        clock[rows.first] = slots.clock[concerned]
        anew = (rows.clock - clock > self._idle_s) | (rows.offset - offset > self._max_replay)
        anew[rows.first] |= slots.kept[concerned] < 0
        apart = np.where(anew, np.inf, (rows.time - time) / self.cadence.step_s)
        plain = (apart >= HALF) & ~rows.off
        quiet = (
            (slots.count[concerned] > 0)
            & (slots.settling[concerned] == 0)
            & (slots.seen[concerned] <= slots.newest[concerned])
        )
        plain[rows.first] &= anew[rows.first] | quiet
        missing = np.floor(np.clip(apart, 0.0, self.cadence.longest_gap + 2) + 0.5).astype(np.int64) - 1
        missing = np.maximum(missing, 0)
        begins = anew | (missing > self.cadence.longest_gap)
        missing[begins] = 0
        fate = np.full(n, Fate.FILLING, np.int8)
        steps = _Steps(np.ones(n, np.bool_), begins, missing, rows.offset.copy(), rows.lease.copy(), fate, {})
        last = np.append(rows.first[1:], n) - 1
        simple = np.logical_and.reduceat(plain, rows.first)
        done = last[simple]
        slots.newest[rows.slot[done]] = slots.seen[rows.slot[done]] = rows.time[done]
        slots.kept[rows.slot[done]] = rows.offset[done]
        slots.late[rows.slot[done]] = slots.settling[rows.slot[done]] = 0
        for which in np.flatnonzero(~simple).tolist():
            self._one_by_one(rows, range(int(rows.first[which]), int(last[which]) + 1), steps)
        return steps

    def _one_by_one(self, rows: _Sorted, here: range, steps: _Steps) -> None:
        """The same for the rows of one asset, by the rule itself."""
        slots, slot = self._slots, int(rows.slot[here[0]])
        asset = Sequence(
            self.cadence,
            self.window,
            self._idle_s,
            self._max_replay,
            newest=float(slots.newest[slot]),
            kept_at=int(slots.kept[slot]),
            off=not slots.count[slot],
            seen=float(slots.seen[slot]),
            clock=float(slots.clock[slot]),
            late=int(slots.late[slot]),
            settling=int(slots.settling[slot]),
            mark=slots.mark_of(slot),
        )
        for i in here:
            taken = asset.take(
                float(rows.time[i]),
                int(rows.offset[i]),
                float(rows.clock[i]),
                int(rows.lease[i]),
                off=bool(rows.off[i]),
            )
            steps.fate[i], steps.kept[i] = taken.fate, taken.fate is Fate.FILLING
            steps.begins[i], steps.missing[i] = taken.begins, taken.missing
            steps.anchor[i], steps.lease[i] = taken.mark
        slots.newest[slot], slots.seen[slot], slots.kept[slot] = asset.newest, asset.seen, asset.kept_at
        slots.late[slot], slots.settling[slot] = asset.late, asset.settling
        if asset.off:
            steps.ended[slot] = asset.mark

    def _write(
        self, rows: _Sorted, steps: _Steps, values: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], IntArray, IntArray, IntArray, IntArray]:
        """Writes the steps behind what is known of their assets, and remembers the newest.

        Each asset's part of the tape begins with an entry that stands for all before, then its history, then the new steps.

        Returns:
            The tape; and of each row that is a step its position on it, the anchor of its window with the record that had set
            the clock there, and the steps of its sequence.
        """
        slots, history = self._slots, self._history
        kept = np.flatnonzero(steps.kept)
        slot = rows.slot[kept]
        first = np.flatnonzero(np.diff(slot, prepend=-1))
        last = np.append(first[1:], len(kept))[: len(first)] - 1
        assets, rows_each = slot[first], last - first + 1
        begins = steps.begins[kept]
        ahead = np.where(begins, 1, steps.missing[kept] + 1)
        total = np.cumsum(ahead)
        forward = total - np.repeat(total[first] - ahead[first], rows_each)
        length = 1 + history + forward[last]
        start = np.cumsum(length) - length
        at = np.repeat(start, rows_each) + history + forward
        past = start[:, None] + np.arange(1, history + 1)

        tape = np.full((int(length.sum()), self.width), np.nan, dtype=np.float32)
        tape[past], tape[at] = slots.values[assets], values[kept]
        anchors, leases = np.full((2, len(tape)), -1, dtype=np.int64)
        anchors[past], anchors[at], anchors[start] = slots.anchors[assets], steps.anchor[kept], slots.need[assets]
        leases[past], leases[at], leases[start] = slots.leases[assets], steps.lease[kept], slots.lease[assets]
        marked = anchors >= 0
        marked[start] = True
        mark = np.maximum.accumulate(np.where(marked, np.arange(len(tape)), 0))

        begun = np.maximum.accumulate(np.where(begins, np.arange(len(kept)), -1))
        fresh = begun >= np.repeat(first, rows_each)
        count = np.where(fresh, total - total[begun] + 1, np.repeat(slots.count[assets], rows_each) + forward)
        of_window = mark[at - np.minimum(count, self.window) + 1]

        recent = at[last][:, None] + np.arange(1 - history, 1)
        slots.values[assets], slots.anchors[assets], slots.leases[assets] = (
            tape[recent],
            anchors[recent],
            leases[recent],
        )
        slots.count[assets] = count[last]
        of_next = mark[at[last] - np.minimum(count[last], history) + 1]
        slots.need[assets], slots.lease[assets] = anchors[of_next], leases[of_next]
        return tape, at, anchors[of_window], leases[of_window], count

    def _evict(self, rows: TimedRows) -> int:
        """Forgets assets that would be begun anew with their next record anyhow, and the oldest of too many."""
        evicted = 0
        newest = dict(zip(rows.places, rows.offset.tolist(), strict=True))
        for place, offset in newest.items():
            partition, slots = self._partitions[place], self._slots
            mine = slots.of(partition.number)
            gone = (partition.clock - slots.clock[mine] > self._idle_s) | (offset - slots.kept[mine] > self._max_replay)
            spare = len(mine) - int(gone.sum()) - self._max_assets
            if spare > 0:
                left = np.flatnonzero(~gone)
                gone[left[np.argsort(slots.kept[mine[left]], kind="stable")[:spare]]] = True
            for slot in mine[gone].tolist():
                del partition.slots[slots.names[slot]]
            slots.free(mine[gone].tolist())
            evicted += int(gone.sum())
        return evicted


def _by_place(places: Rows[tuple[str, int]]) -> list[tuple[tuple[str, int], slice | list[int]]]:
    """Positions by partition; a slice where there is but one."""
    different = dict.fromkeys(places)
    if len(different) == 1:
        return [(next(iter(different)), slice(None))]
    found: dict[tuple[str, int], list[int]] = {place: [] for place in different}
    for i, place in enumerate(places):
        found[place].append(i)
    return list(found.items())
