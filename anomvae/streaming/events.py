"""Alarms of an asset that follow each other, told as one event."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from anomvae.streaming.answers import outgoing
from anomvae.streaming.codec import as_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomvae.streaming.contracts import Outgoing, Place
    from anomvae.streaming.settings import EventSettings

Ending = Literal["quiet", "off", "idle", "length", "stream"]
"""Why an event ended: too long without an alarm, its asset was turned off or was heard of no more, it lasted as long as an event
may, or the stream ended."""


class Step(NamedTuple):
    """A row, as events see it.

    Attributes:
        place: Its partition.
        offset: Its offset.
        name: The asset.
        asset: The asset as the record, or else its key, says it; None: all records are one's.
        time: The time as the record says it; None: it says none.
        time_s: The time; None: it says none, or one that must not count.
        counts: Whether it is a step: neither repeated nor late.
        off: Whether its asset is off.
        alarm: Whether it alarms.
        score: NaN where it was not scored.
        p_value: Likewise.
        lease: Offset from which it can be scored again, and its asset's events before it are found again; -1: it is not scored.
        event_id: Of the record's own answer; the event that it opens bears it too.
        reasons: Of the alarm.
        told: Whether what it leads to is told; False: it is replayed, and has been.
    """

    place: Place
    offset: int
    name: str
    asset: Any
    time: Any
    time_s: float | None
    counts: bool
    off: bool
    alarm: bool
    score: float
    p_value: float
    lease: int
    event_id: str
    reasons: list[dict[str, Any]]
    told: bool


@dataclass(slots=True)
class _Open:
    """An event that has not ended."""

    first: Step
    peak: Step
    last: Step
    lease: int
    """Offset from which reading again finds it as it is."""
    alarms: int = 0
    quiet: int = 0
    clock: float = -math.inf
    """The partition's clock at the asset's last row."""
    reasons: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(slots=True)
class _Partition:
    """Events of a partition, and how far its records' times have come."""

    open: dict[str, _Open] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    """Assets whose event was cut at the begin of the span and may go on, with their steps without an alarm since the last."""
    span: int = -1
    """Of the offsets, which are cut into spans of equal length."""
    clock: float = -math.inf
    set_at: int = 0
    due_clock: float = math.inf
    """No event is idle before the clock shows this."""
    told: bool = False
    """Whether a row of it was told, and not all are replayed."""


class EventMerger:
    """Merges the alarms of each asset with hysteresis.

    An event opens with an alarm, goes on while at most so many steps without one lie between two, and has ended then; repeated and
    late records are no steps. One that lasts is cut, or a restart would have to read all of it: where a multiple of half of
    `max_replay` lies in the partition's offsets, if it began an eighth of that before. Whoever reads from a quarter before on
    cuts it too, though its begin is unknown; so the state is a function of the records from :meth:`replay_from` on.

    Args:
        settings: By what rule.
        version: The model's version.
        top: Reasons an event.
    """

    def __init__(self, settings: EventSettings, version: str, top: int) -> None:
        self._settings, self._version, self._top = settings, version, top
        self._partitions: dict[Place, _Partition] = {}
        self._span = max(1, settings.max_replay // 2)
        self.told: Counter[str] = Counter()

    def merge(self, steps: Sequence[Step]) -> list[Outgoing]:
        """Takes rows in, in order within each partition; gives what is to be told, in order."""
        messages: list[Outgoing] = []
        for step in steps:
            partition = self._partitions.get(step.place)
            if partition is None:
                partition = self._partitions[step.place] = _Partition()
            partition.told = partition.told or step.told
            if step.time_s is not None and step.time_s > partition.clock:
                partition.clock, partition.set_at = step.time_s, step.offset
            if step.offset // self._span != partition.span:
                self._cut(partition, step, messages)
            if partition.clock > partition.due_clock:
                self._close_idle(partition, step, messages)
            event = partition.open.get(step.name)
            if event is None:
                if not step.alarm:
                    self._stays_quiet(partition, step)
                    continue
                event = partition.open[step.name] = _Open(step, step, step, self._lease(partition, step))
            event.clock = partition.clock
            partition.due_clock = min(partition.due_clock, event.clock + self._settings.idle_s)
            self._go_on(partition, event, step, messages)
        return messages

    def replay_from(self, place: Place, answered: int) -> int:
        """Offset from which records must be read again to have the open events back."""
        partition = self._partitions.get(place)
        if partition is None:
            return answered
        low = min((event.lease for event in partition.open.values()), default=answered)
        if partition.cut:
            low = min(low, self._before_cut(partition))
        if partition.clock > -math.inf:
            low = min(low, partition.set_at)
        return min(answered, max(low, answered - self._settings.max_replay))

    def forget(self, place: Place) -> None:
        """Drops a partition's events without telling."""
        self._partitions.pop(place, None)

    def inherit(self, other: EventMerger) -> None:
        """Goes on with the open events of another model; they end under this one's name."""
        self._partitions = other._partitions

    def finish(self) -> list[Outgoing]:
        """Ends all events, since the stream has ended.

        Those of a partition of which all rows were replayed are not told: they have been, when what lay there was answered.
        """
        messages: list[Outgoing] = []
        for partition in self._partitions.values():
            for name in list(partition.open):
                self._close(partition, name, "stream", messages, told=partition.told)
        return messages

    def _go_on(self, partition: _Partition, event: _Open, step: Step, messages: list[Outgoing]) -> None:
        if step.alarm:
            self._extend(event, step, messages)
        elif step.off:
            self._close(partition, step.name, "off", messages, told=step.told)
        elif step.counts:
            event.quiet += 1
            if event.quiet > self._settings.quiet:
                self._close(partition, step.name, "quiet", messages, told=step.told)

    def _extend(self, event: _Open, step: Step, messages: list[Outgoing]) -> None:
        event.quiet, event.last = 0, step
        event.alarms += 1
        if step.score > event.peak.score:
            event.peak = step
        for reason in step.reasons:
            known = event.reasons.get(reason["column"])
            if known is None:
                event.reasons[reason["column"]] = [reason["contribution"], reason]
            else:
                known[0] += reason["contribution"]
                if reason["contribution"] > known[1]["contribution"]:
                    known[1] = reason
        if event.alarms == self._settings.least and self._settings.announce and step.told:
            messages.append(self._message(event, "open", None))

    def _lease(self, partition: _Partition, step: Step) -> int:
        """From where on an event is found again that opens with a step."""
        lease = step.lease if partition.clock == -math.inf else min(step.lease, partition.set_at)
        if partition.cut.pop(step.name, None) is not None:
            lease = min(lease, self._before_cut(partition))
        return lease

    def _before_cut(self, partition: _Partition) -> int:
        """From where on the last cut is made again."""
        return max(0, partition.span * self._span - self._span // 4)

    def _cut(self, partition: _Partition, step: Step, messages: list[Outgoing]) -> None:
        """Begins a span, and ends what has lasted."""
        begun, partition.span = partition.span, step.offset // self._span
        border = partition.span * self._span
        partition.cut.clear()
        if begun < 0:
            return
        for name, event in list(partition.open.items()):
            if event.first.offset <= border - self._span // 8:
                partition.cut[name] = event.quiet
                self._close(partition, name, "length", messages, told=step.told)

    def _stays_quiet(self, partition: _Partition, step: Step) -> None:
        """An asset whose event was cut short may end it without another alarm."""
        if step.name in partition.cut:
            partition.cut[step.name] += step.counts
            if step.off or partition.cut[step.name] > self._settings.quiet:
                del partition.cut[step.name]

    def _close_idle(self, partition: _Partition, step: Step, messages: list[Outgoing]) -> None:
        """Ends the events of assets that are heard of no more."""
        idle_s = self._settings.idle_s
        for name, event in list(partition.open.items()):
            if partition.clock - event.clock > idle_s:
                self._close(partition, name, "idle", messages, told=step.told)
        partition.due_clock = min((event.clock + idle_s for event in partition.open.values()), default=math.inf)

    def _close(self, partition: _Partition, name: str, ending: Ending, messages: list[Outgoing], *, told: bool) -> None:
        event = partition.open.pop(name)
        if told and event.alarms >= self._settings.least:
            messages.append(self._message(event, "closed", ending))

    def _message(self, event: _Open, state: str, ending: Ending | None) -> Outgoing:
        first, peak, last = event.first, event.peak, event.last
        self.told[state] += 1
        content = {
            "kind": "event",
            "event": state,
            "event_id": first.event_id,
            "asset": first.asset,
            "start": first.time,
            "end": last.time,
            "alarms": event.alarms,
            "peak": {"time": peak.time, "score": peak.score, "p_value": peak.p_value},
            "reasons": self._reasons(event),
            "model_version": self._version,
        }
        if ending is not None:
            content["ended_by"] = ending
        return outgoing(as_json(content), first.name.encode() if first.name else None)

    def _reasons(self, event: _Open) -> list[dict[str, Any]]:
        """The columns that gave most over all alarms: their mean contribution, and the cell that stood out most."""
        strongest = sorted(event.reasons.items(), key=lambda entry: -entry[1][0])[: self._top]
        return [{**reason, "contribution": total / event.alarms} for _, (total, reason) in strongest]
