"""Records of a Kafka topic, shared by the members of a consumer group, each partition from where its commit says."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from anomvae.streaming.contracts import Delivery, Origin, Progress, Record
from anomvae.streaming.kafka import (
    OFFSET_BEGINNING,
    TIMESTAMP_NOT_AVAILABLE,
    Cluster,
    Consumer,
    KafkaError,
    KafkaException,
    Link,
    Message,
    TopicPartition,
    open_client,
    transient,
)
from anomvae.streaming.kafka_partitions import Partitions
from anomvae.streaming.kafka_progress import metadata_of, progress_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from anomvae.observability.logs import Log
    from anomvae.streaming.contracts import Headers, Place
    from anomvae.streaming.kafka_reading import Reading

LOOKUP_S = 5.0
"""Longest wait for an answer about offsets within one poll."""
FORGOTTEN = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError._ASSIGNMENT_LOST,  # noqa: SLF001 - the library's names for its own errors begin so
    }
)
"""What a commit answers once the group has gone on without this member."""


class KafkaSource:
    """Reads a topic as a member of a consumer group (a :class:`~anomvae.streaming.contracts.Source`).

    Partitions move between members one by one (cooperative rebalancing, KIP-429). A partition that comes is read from the
    offset that its commit's metadata names; should retention have taken that, from the earliest there is, and
    :attr:`cut_short` says so. While the caller does not poll, at most 32 MiB are fetched ahead.

    Args:
        cluster: Where the topic is.
        reading: How it is read.
        log: Told of what comes and goes.

    Attributes:
        cut_short: Partitions of which retention took records that were yet to be read: the offset asked for, and the
            earliest there was.
    """

    def __init__(self, cluster: Cluster, reading: Reading, log: Log) -> None:
        self.cut_short: dict[Place, tuple[int, int]] = {}
        self._reading, self._log = reading, log
        self._topic = cluster.address.name
        self._link = Link(cluster.address, log)
        self._mine = Partitions(self._topic)
        self._owed: dict[Place, Progress] = {}
        self._held = False
        self._consumer = open_client(Consumer, cluster.settings(reading.settings()), self._link, cluster.address)
        self._consumer.subscribe([self._topic], on_assign=self._given, on_revoke=self._taken, on_lost=self._taken)

    @property
    def healthy(self) -> bool:
        """Whether the cluster is reached, as far as is known, and all that was given to us is being read."""
        return self._link.up and not self._mine.waiting

    @property
    def group(self) -> str:
        """The consumer group."""
        return self._reading.group

    def poll(self, most: int, wait_s: float) -> Delivery:
        """Up to `most` records as soon as there is one.

        Args:
            most: Most records. 0 stops fetching and keeps the place in the group, for a caller that is behind.
            wait_s: Longest wait for the first one, in seconds.

        Raises:
            StreamError: The client cannot go on.
        """
        self._link.check()
        self._pay(self._owed)
        self._begin()
        self._hold(most == 0)
        records = self._records(self._messages(most, wait_s))
        if not records:
            self._link.look(self._consumer, self._topic)
        self._link.check()
        assigned, revoked = self._mine.tell()
        return Delivery(records, assigned, revoked)

    def commit(self, progress: Mapping[Place, Progress]) -> None:
        """Makes progress durable: now or, while the cluster cannot be reached, as soon as it can.

        Raises:
            StreamError: The cluster refuses it.
        """
        self._pay({**self._owed, **progress})

    def lag(self) -> dict[Place, int]:
        """Records between the next one to deliver and the end of the log, as of the last fetch; 0 once that was reached.

        Until then offsets count that hold no record: marks of transactions, and what was compacted.
        """
        lag = {}
        for partition in self._mine.due:
            _, high = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), cached=True)
            if high >= 0:
                lag[self._mine.place(partition)] = self._mine.left(partition, high)
        return lag

    def close(self) -> None:
        """Commits what is owed and leaves the group, so that the others need not wait for this member."""
        with contextlib.suppress(KafkaException):
            self._pay(self._owed)
            self._consumer.close()

    # What a transaction needs.

    def offsets(self, progress: Mapping[Place, Progress]) -> list[TopicPartition] | None:
        """What a transaction commits; None: some of it is no longer ours."""
        return _offsets(self._passing(progress)) if all(self._mine.owns(place) for place in progress) else None

    def membership(self) -> Any | None:
        """What a transaction shows the group's coordinator, so that it refuses a member that was given up (KIP-447).

        None: we are no member now. One that was given up becomes a member again only after a poll has told so.
        """
        membership = self._consumer.consumer_group_metadata()
        return membership if self._consumer.memberid() else None  # in this order: a member after is one before

    def cluster_id(self) -> str:
        """Which cluster it is.

        Raises:
            KafkaException: It cannot be reached.
        """
        return self._consumer.cluster_id(timeout=LOOKUP_S)

    def rewind(self) -> None:
        """Goes back to what is committed: the next poll reports all partitions as revoked and assigned."""
        self._consumer.incremental_unassign(self._listed(self._mine.again(self._mine.due)))

    # Callbacks of the group, which run within a poll.

    def _given(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.incremental_assign(
            []
        )  # accepted; where each begins is asked outside of the callback, and may take a while
        self._mine.given(each.partition for each in partitions)

    def _taken(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.incremental_unassign(self._listed(self._mine.taken(each.partition for each in partitions)))

    def _listed(self, partitions: Iterable[int]) -> list[TopicPartition]:
        return [TopicPartition(self._topic, partition) for partition in partitions]

    # Where to begin.

    def _begin(self) -> None:
        """Finds out where partitions begin that have come, and begins them; in the next poll, if there is no answer yet."""
        if not self._mine.waiting:
            return
        try:
            committed = _sound(self._consumer.committed(self._listed(self._mine.waiting), timeout=LOOKUP_S))
            begun = {each.partition: self._beginning(each) for each in committed}
            self._consumer.incremental_assign(
                [
                    TopicPartition(self._topic, partition, progress.replay_from or OFFSET_BEGINNING)
                    for partition, progress in begun.items()
                ]
            )
        except KafkaException as error:
            self._link.heed(error.args[0])
            return
        self._link.met()
        self._mine.begin(begun)

    def _beginning(self, committed: TopicPartition) -> Progress:
        partition = committed.partition
        if (known := self._mine.waiting[partition]) is not None:
            return known
        if committed.offset >= 0:
            progress, said = progress_of(committed.offset, committed.metadata, self._reading.lookback)
            if not said:
                self._log.warning("commit without replay offset", topic=self._topic, partition=partition)
            return progress
        if self._reading.start == "earliest":
            return Progress(0, 0)
        _, end = self._consumer.get_watermark_offsets(committed, timeout=LOOKUP_S)
        progress = Progress(end, end)
        # Else a restart before the first record would begin at a later end, and leave what came in between unanswered.
        self._consumer.commit(offsets=_offsets({self._mine.place(partition): progress}), asynchronous=False)
        return progress

    # Records.

    def _hold(self, hold: bool) -> None:
        if hold:
            self._consumer.pause(self._listed(self._mine.due))  # each time: some may have come since
        elif self._held:
            self._consumer.resume(self._listed(self._mine.due))
        self._held = hold

    def _messages(self, most: int, wait_s: float) -> list[Message]:
        """What lies ready; else what comes first, and what lies ready then: a full batch is worth no wait."""
        try:
            messages = self._consumer.consume(most, 0.0) if most else []
            if not messages:
                messages = self._consumer.consume(1, wait_s)
                if messages and most > 1:
                    messages += self._consumer.consume(most - 1, 0.0)
        except KafkaException as error:
            self._link.heed(error.args[0])
            return []
        return messages

    def _records(self, messages: Sequence[Message]) -> list[Record]:
        records = []
        mine, topic = self._mine, self._topic
        dues = mine.due
        anew: set[int] = set()
        for message in messages:
            error = message.error()
            partition: Any = message.partition()
            offset: Any = message.offset()
            if error is not None:
                self._heed(error, partition, offset)
                continue
            if offset == dues.get(partition) and partition not in mine.asked:
                dues[partition] = offset + 1
            elif not self._passed(partition, offset, anew):
                continue
            records.append(_record(message, Origin(topic, partition, offset)))
        if records:
            self._link.met()
        return [each for each in records if each.origin.partition not in anew] if anew else records

    def _heed(self, error: KafkaError, partition: int, offset: int) -> None:
        """Takes in what came in place of a record."""
        if error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - the library's name
            self._link.heed(error)
            return
        self._link.met()
        if self._mine.reached(partition, offset):  # so that others too, who know offsets only, see no lag
            self._owed[self._mine.place(partition)] = self._mine.committed[partition]

    def _passed(self, partition: int, offset: int, anew: set[int]) -> bool:
        """Whether a record that may not be the next of its partition is to be delivered; it has been passed then."""
        due = self._mine.due.get(partition)
        if due is None:
            return False  # taken from us meanwhile
        if offset < due:
            self._restart(partition, offset)
            anew.add(partition)
            return False
        if offset != due or partition in self._mine.asked:
            self._look_for_loss(partition, offset)
        self._mine.passed(partition, offset)
        return True

    def _restart(self, partition: int, offset: int) -> None:
        """Our offset lay behind the end of the log: the topic was made anew."""
        self._log.warning("log begins anew", topic=self._topic, partition=partition, offset=offset)
        self._consumer.incremental_unassign(self._listed(self._mine.again([partition], Progress(offset, offset))))

    def _look_for_loss(self, partition: int, offset: int) -> None:
        """Says whether records have left the log before they were read; holes that transactions leave are no loss."""
        asked = self._mine.asked.get(partition, self._mine.due[partition])
        low, _ = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), cached=True)
        if 0 < asked < low <= offset:
            self.cut_short[self._mine.place(partition)] = (asked, low)
            self._log.warning(
                "records have left the log", topic=self._topic, partition=partition, asked=asked, first=low
            )

    # Commits.

    def _pay(self, progress: Mapping[Place, Progress]) -> None:
        owed = self._passing({place: each for place, each in progress.items() if self._mine.owns(place)})
        self._owed = {}
        if not owed:
            return
        try:
            _sound(self._consumer.commit(offsets=_offsets(owed), asynchronous=False))
        except KafkaException as error:
            told: KafkaError = error.args[0]
            if transient(told):
                self._owed = owed
            elif told.code() not in FORGOTTEN:  # those will be answered again, by whoever has them now
                raise self._link.gone(told) from None
            self._link.heed(told)
        else:
            self._link.met()
            self._mine.committed |= {place.partition: each for place, each in owed.items()}

    def _passing(self, progress: Mapping[Place, Progress]) -> dict[Place, Progress]:
        return {place: self._mine.passing(place.partition, each) for place, each in progress.items()}


def _sound(partitions: list[TopicPartition]) -> list[TopicPartition]:
    for each in partitions:
        if each.error is not None:
            raise KafkaException(each.error)
    return partitions


def _offsets(progress: Mapping[Place, Progress]) -> list[TopicPartition]:
    return [
        TopicPartition(place.topic, place.partition, each.answered, metadata_of(each))
        for place, each in progress.items()
    ]


def _record(message: Message, origin: Origin) -> Record:
    kind, stamp_ms = message.timestamp()
    stamp_s = None if kind == TIMESTAMP_NOT_AVAILABLE else stamp_ms / 1000.0
    return Record(message.value() or b"", origin, message.key(), stamp_s, _headers(message))


def _headers(message: Message) -> Headers:
    headers: Any = message.headers()
    return tuple((name, value or b"") for name, value in headers) if headers else ()
