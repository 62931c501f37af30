"""What a source, a sink and the pump between them promise one another."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Headers = tuple[tuple[str, bytes], ...]


class Origin(NamedTuple):
    """Where a record lies.

    Attributes:
        topic: Name of the topic, the filter or the file.
        partition: Number of the partition; 0 where there are none.
        offset: Place in the partition; records of a partition come in the order of their offsets, which may have holes.
    """

    topic: str
    partition: int
    offset: int


class Place(NamedTuple):
    """A partition of a source: what is assigned, replayed and committed by itself."""

    topic: str
    partition: int


class Record(NamedTuple):
    """One message as its source delivered it.

    Attributes:
        payload: The message; JSON unless the codec says otherwise.
        origin: Where it lies.
        key: The message's key, if any.
        stamp_s: The source's own time of the record (Kafka: the message's timestamp), Unix seconds; None: it keeps none.
            Rules about records from the future compare with this and not with a clock, so that a replay decides alike.
        headers: Names and values.
        digest: What tells it from others where its origin does not, since offsets begin anew with each process (MQTT, pipes);
            the same whenever it is delivered again. None: its origin tells.
    """

    payload: bytes
    origin: Origin
    key: bytes | None = None
    stamp_s: float | None = None
    headers: Headers = ()
    digest: bytes | None = None

    @property
    def place(self) -> Place:
        """The partition it came from."""
        return Place(self.origin.topic, self.origin.partition)


class Outgoing(NamedTuple):
    """One message to send.

    Attributes:
        payload: The message.
        key: The key that keeps an asset's messages in order.
        headers: Names and values.
        brief: What says the most important of it, for a sink that takes no message so large; None: it is small.
    """

    payload: bytes
    key: bytes | None = None
    headers: Headers = ()
    brief: Outgoing | None = None


class Progress(NamedTuple):
    """How far a partition is.

    Attributes:
        answered: Offset of the next record to answer: all before it have been.
        replay_from: Offset from which records must be read again to rebuild the state (windows, open events) that the
            record at `answered` will need; at most `answered`.
    """

    answered: int
    replay_from: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one turn of a source brought.

    Attributes:
        records: In order within each partition. After an assignment the source reads from `replay_from` on: records before
            `answered` are replayed, and fill state only.
        assigned: Partitions that came newly to this process, with how far they are.
        revoked: Partitions that went; their state is forgotten, since another process may go on with them. All that had
            been polled of them has been committed before, or will be read again by whom they went to.
        ended: Whether no record will ever come again (a file was read to its end).
    """

    records: Sequence[Record] = ()
    assigned: Mapping[Place, Progress] = field(default_factory=dict)
    revoked: Sequence[Place] = ()
    ended: bool = False


class Source(Protocol):
    """Where records come from. Called from one thread only."""

    def poll(self, most: int, wait_s: float) -> Delivery:
        """Up to `most` records, or none after about `wait_s` seconds.

        Raises:
            StreamError: The source is gone for good; a lost connection is not, it is tried again with growing pauses.
        """
        ...

    def commit(self, progress: Mapping[Place, Progress]) -> None:
        """Makes progress durable.

        Called only after the answers were acknowledged; progress of partitions that have been revoked meanwhile is ignored
        (their records will be answered again, by the process that has them now).
        """
        ...

    def lag(self) -> Mapping[Place, int]:
        """Records that lie unread in each assigned partition, as far as is known; cheap, for a metric."""
        ...

    @property
    def healthy(self) -> bool:
        """Whether it is connected as far as is known."""
        ...

    def close(self) -> None:
        """Leaves in good order."""
        ...


class Sink(Protocol):
    """Where messages go. Called from one thread only."""

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Queues messages, in order; may block while too many are unacknowledged."""
        ...

    def flush(self) -> None:
        """Waits until all that was sent is acknowledged (a file: written and flushed).

        Raises:
            StreamError: It cannot be delivered.
        """
        ...

    @property
    def healthy(self) -> bool:
        """Whether it is connected as far as is known."""
        ...

    def close(self) -> None:
        """Flushes and leaves."""
        ...


class Transaction(Protocol):
    """Output and progress that become visible together or not at all (Kafka to Kafka).

    The sinks of one transaction send within it.
    """

    def begin(self) -> None:
        """Opens the transaction of one batch."""
        ...

    def commit(self, progress: Mapping[Place, Progress]) -> bool:
        """Sends progress along and commits.

        Returns:
            False: the transaction was aborted (a rebalance, a fenced producer), nothing of the batch is visible, and the
            source will deliver from the last committed progress again (as revoked and assigned).
        """
        ...
