"""The loop between a source and its sinks: poll, answer, send, wait for the acknowledgement, commit."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from anomvae.streaming.contracts import Place, Progress
from anomvae.streaming.settings import PumpSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from anomvae.streaming.contracts import Delivery, Origin, Outgoing, Record, Sink, Source, Transaction
    from anomvae.streaming.lane import Answered, BoolArray, Lane


@dataclass(frozen=True, slots=True)
class Sinks:
    """Where messages go.

    Attributes:
        answers: Of every record.
        dead_letters: Records that cannot be answered; None: they are told to the listener and skipped.
        events: Events; None: they go where the answers go.
        transaction: What makes output and progress visible together; None: a record may be answered twice after a crash.
    """

    answers: Sink
    dead_letters: Sink | None = None
    events: Sink | None = None
    transaction: Transaction | None = None

    @property
    def all(self) -> list[Sink]:
        """Each of them once."""
        return [sink for sink in (self.answers, self.dead_letters, self.events) if sink is not None]


class Turn(NamedTuple):
    """A turn of the pump that brought records, or the end of the stream and of events that were open.

    Attributes:
        answered: What they came to.
        records: Records delivered, replayed ones included.
        poll_s: Waited for them, seconds.
        answer_s: Spent on decoding, scoring and writing, seconds.
        send_s: Spent on sending, and on waiting for the acknowledgement of the batch before (of this one in a transaction).
    """

    answered: Answered
    records: int
    poll_s: float
    answer_s: float
    send_s: float


class Listener(Protocol):
    """Who is told what the pump does; called on the pump's thread."""

    def turn(self, turn: Turn) -> None:
        """A batch of records, or what the end of the stream ended, was answered and sent."""
        ...

    def skipped(self, origin: Origin, reason: str) -> None:
        """A record cannot be answered, and no sink takes it."""
        ...

    def partitions(self, assigned: Collection[Place], revoked: Collection[Place]) -> None:
        """Partitions came or went."""
        ...

    def aborted(self, records: int) -> None:
        """A transaction came to nothing; its records come again."""
        ...


class Pump:
    """Answers a stream until it ends or is told to stop.

    Progress is committed only once all answers before it are acknowledged. Without a transaction the next batch is scored while
    the last one is being acknowledged.

    Args:
        source: Where records come from.
        lane: Answers them.
        sinks: Where messages go.
        settings: How much is taken at a time.
        listener: Who is told.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        source: Source,
        lane: Lane,
        sinks: Sinks,
        settings: PumpSettings | None = None,
        listener: Listener | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._source, self._lane, self._sinks = source, lane, sinks
        self._settings, self._listener, self._clock = settings or PumpSettings(), listener, clock
        self._incoming: deque[Lane] = deque(maxlen=1)
        self._pending: dict[Place, Progress] = {}
        self._answered: dict[tuple[str, int], int] = {}
        self._behind: dict[tuple[str, int], int] = {}
        """Partitions that are being replayed, and the first offset that is not."""
        self._unsettled = False
        self._stopping = False
        self._beat_s = time.monotonic()

    @property
    def lane(self) -> Lane:
        """The lane that answers."""
        return self._lane

    @property
    def beat_s(self) -> float:
        """When the loop last turned, by `time.monotonic`; a turn takes long only while a sink is not to be reached."""
        return self._beat_s

    @property
    def healthy(self) -> bool:
        """Whether source and sinks are connected as far as is known."""
        return self._source.healthy and all(sink.healthy for sink in self._sinks.all)

    @property
    def partitions(self) -> int:
        """Partitions assigned."""
        return len(self._answered)

    def stop(self) -> None:
        """Ends the loop once the batch at hand is answered, acknowledged and committed; any thread or signal handler may call."""
        self._stopping = True

    def swap(self, lane: Lane) -> None:
        """Answers with another lane from the next batch on; it inherits the state that fits. Any thread may call."""
        self._incoming.append(lane)

    def run(self) -> None:
        """Runs until the stream has ended or :meth:`stop` was called; all that was answered is then committed.

        Raises:
            StreamError: The source or a sink is gone for good. What was not committed comes again at the next start.
        """
        while not self._stopping and self.turn():
            pass
        self._settle()

    def turn(self) -> bool:
        """One turn; False: the stream has ended."""
        self._beat_s = started = time.monotonic()
        if self._incoming:
            lane = self._incoming.pop()
            lane.inherit(self._lane)
            self._lane = lane
        delivery = self._source.poll(self._settings.records, 0.0 if self._unsettled else self._settings.wait_s)
        if delivery.assigned or delivery.revoked:
            self._follow(delivery)
        if delivery.records:
            self._take(delivery.records, time.monotonic() - started)
        else:
            self._rest()
        if delivery.ended:
            self._finish()
        return not delivery.ended

    def _follow(self, delivery: Delivery) -> None:
        """Makes and drops state with the partitions."""
        self._settle()
        for place in (*delivery.revoked, *delivery.assigned):
            self._forget(place)
        for place, progress in delivery.assigned.items():
            self._answered[place] = progress.answered
            if progress.replay_from < progress.answered:
                self._behind[place] = progress.answered
        if self._listener is not None:
            self._listener.partitions(list(delivery.assigned), list(delivery.revoked))

    def _rest(self) -> None:
        """Nothing came: what was sent is settled, and sinks are asked all the same, so that they notice whether they are cut off.

        Within transactions source and sinks lie on one cluster, and the source notices.
        """
        if self._unsettled:
            self._settle()
        elif self._sinks.transaction is None:
            self._flush()

    def _finish(self) -> None:
        """The stream has ended, and with it what is open."""
        self._settle()
        started = time.monotonic()
        answered = self._lane.finish()
        finished = time.monotonic()
        self._deliver(answered, {})
        self._settle()
        if answered.events and self._listener is not None:
            self._listener.turn(Turn(answered, 0, 0.0, finished - started, time.monotonic() - finished))

    def _take(self, records: Sequence[Record], poll_s: float) -> None:
        started = time.monotonic()
        answered = self._lane.answer(records, self._replayed(records), self._clock())
        scored = time.monotonic()
        self._deliver(answered, self._progress(records))
        if self._listener is not None:
            turn = Turn(answered, len(records), poll_s, scored - started, time.monotonic() - scored)
            self._listener.turn(turn)

    def _replayed(self, records: Sequence[Record]) -> BoolArray | None:
        if not self._behind:
            return None
        behind = self._behind
        replayed = np.array([record.origin[2] < behind.get(record.origin[:2], 0) for record in records], dtype=np.bool_)
        for place, last in {record.origin[:2]: record.origin[2] for record in records}.items():
            if last + 1 >= behind.get(place, 0):
                behind.pop(place, None)
        return replayed if replayed.any() else None

    def _progress(self, records: Sequence[Record]) -> dict[Place, Progress]:
        """How far the partitions of a batch are with it; those that are still replayed are as far as they were."""
        progress: dict[Place, Progress] = {}
        for at, last in {record.origin[:2]: record.origin[2] for record in records}.items():
            if at in self._behind:
                continue
            place, answered = Place(*at), max(self._answered.get(at, 0), last + 1)
            self._answered[at] = answered
            progress[place] = Progress(answered, self._lane.replay_from(place, answered))
        return progress

    def _deliver(self, answered: Answered, progress: dict[Place, Progress]) -> None:
        transaction = self._sinks.transaction
        if transaction is None:
            self._settle()
            self._send(answered)
            self._pending, self._unsettled = progress, True
            return
        if not progress and not (answered.answers or answered.dead or answered.events):
            return
        transaction.begin()
        self._send(answered)
        self._flush()
        if not transaction.commit(progress):
            for place in progress:
                self._forget(place)
            if self._listener is not None:
                self._listener.aborted(answered.counts.records)

    def _send(self, answered: Answered) -> None:
        sinks, letters = self._sinks, answered.dead
        _send_some(sinks.answers, answered.answers)
        _send_some(sinks.events or sinks.answers, answered.events)
        if sinks.dead_letters is not None:
            _send_some(sinks.dead_letters, [letter.message for letter in letters])
        elif self._listener is not None:
            for letter in letters:
                self._listener.skipped(letter.origin, letter.reason)

    def _settle(self) -> None:
        """Waits until the last batch is acknowledged, and commits it."""
        if not self._unsettled:
            return
        self._flush()
        pending, self._pending, self._unsettled = self._pending, {}, False
        if pending:
            self._source.commit(pending)

    def _flush(self) -> None:
        for sink in self._sinks.all:
            sink.flush()

    def _forget(self, place: Place) -> None:
        self._lane.forget(place)
        self._answered.pop(place, None)
        self._behind.pop(place, None)


def _send_some(sink: Sink, messages: Sequence[Outgoing]) -> None:
    if messages:
        sink.send(messages)
