"""Messages to Kafka topics: in order by key, once each, acknowledged by all replicas."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from anomvae.errors import SettingError
from anomvae.streaming.kafka import (
    COMMON_OPTIONS,
    SLICE_S,
    Cluster,
    KafkaError,
    KafkaException,
    Link,
    Message,
    Producer,
    open_client,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomvae.observability.logs import Log
    from anomvae.streaming.addresses import Address
    from anomvae.streaming.contracts import Outgoing

SINK_OPTIONS = (*COMMON_OPTIONS, "compression")
COMPRESSION = ("none", "gzip", "snappy", "lz4", "zstd")
UNSENDABLE = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.INVALID_RECORD,
        KafkaError.POLICY_VIOLATION,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001 - the library's names for its own errors begin so
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
    }
)
"""What is wrong with a message, or with where it goes, however often it is sent."""
ANY_PARTITION = -1
"""As the partitioner has it."""
LOOKUP_S = 3.0
"""Longest wait for an answer about a topic at the start."""
CREATED_S = 5.0
"""How long a cluster that makes topics when they are first asked for may take to do so."""


def sink_settings(address: Address) -> dict[str, Any]:
    """A producer's settings.

    Raises:
        SettingError: An option of the address is not known, or is none of its words.
    """
    address.allow(SINK_OPTIONS, "a Kafka sink")
    return {
        "enable.idempotence": True,  # with it come acks=all, order under retries, and no copy of what was sent twice
        "acks": "all",
        "compression.type": address.choice("compression", COMPRESSION, "lz4"),
        "partitioner": "murmur2_random",  # as the Java clients do: a key lands where their readers expect it
        "linger.ms": 5,  # a batch is on its way while the next is scored, and not only once it is flushed
        "batch.size": 2**20,
        "batch.num.messages": 10_000,
        "queue.buffering.max.kbytes": 64 * 1024,
        "queue.buffering.max.messages": 100_000,
        "delivery.report.only.error": True,
        "message.timeout.ms": 0,  # a cluster that is away comes back; what cannot be is told at once
    }


class Outbox:
    """A producer that several sinks of one cluster may share.

    Args:
        cluster: Where to; the topic of its address says nothing here.
        settings: The producer's settings, as :func:`sink_settings` gives them.
        log: Told when the connection goes and comes.
    """

    def __init__(self, cluster: Cluster, settings: dict[str, Any], log: Log) -> None:
        self.link = Link(cluster.address, log)
        self.sent = self.failed = 0
        self._cluster, self._settings = cluster, settings
        self._failures: list[KafkaError] = []
        self._transactional = "transactional.id" in settings
        self._asked = 0
        self.producer = self._opened()

    def renew(self) -> None:
        """Lets the producer go, with all it has not delivered, and makes another."""
        self.producer.purge()
        self.producer.flush(0)
        self._failures.clear()
        self.producer = self._opened()

    def send(self, topic: str, messages: Sequence[Outgoing]) -> None:
        """Queues messages, and waits while 64 MiB or 100,000 messages are on their way; of those too large their brief forms.

        Raises:
            StreamError: One can never be sent, or the client cannot go on.
        """
        for message in messages:
            while not self._queued(topic, message):
                self.producer.poll(SLICE_S)
                self.link.check()
        self.sent += len(messages)
        self.producer.poll(0)

    def flush(self) -> None:
        """Waits for all acknowledgements, as long as it takes.

        Raises:
            StreamError: A message was refused for good. In a transaction, what can be tried again is left to its commit.
        """
        while self.producer.flush(SLICE_S):
            self.link.check()
        self.link.check()
        refused = [each for each in self._failures if not self._transactional or each.code() in UNSENDABLE]
        if refused:
            self._failures.clear()
            raise self.link.gone(refused[0])
        # All is acknowledged. If that was nothing, a cluster that was gone may still be.
        self.link.look(self.producer, self._cluster.address.name, at_once=self.sent != self._asked)
        self._asked = self.sent

    def find(self, topic: str) -> None:
        """Looks whether there is a topic, so that a mistyped one is told at the start, and not by the first message to it.

        A cluster that does not answer soon, or may not tell us, is no obstacle: messages will show.

        Raises:
            SettingError: The cluster says that there is none, and makes none.
        """
        end_s = time.monotonic() + CREATED_S
        while True:
            try:
                found = self.producer.list_topics(topic, timeout=LOOKUP_S).topics.get(topic)
            except KafkaException:
                return
            if found is None or found.error is None or found.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                return
            if time.monotonic() >= end_s:
                raise SettingError(
                    f"{self._cluster.address}: the cluster has no topic {topic!r} and makes none; create it, or mend its name"
                )
            time.sleep(SLICE_S)

    def take_failures(self) -> list[KafkaError]:
        """Why messages failed since the last call."""
        failures, self._failures = self._failures, []
        return failures

    def close(self) -> None:
        """Lets the producer go; what is not acknowledged yet is given up."""
        self.producer.purge()
        self.producer.flush(SLICE_S)

    def _opened(self) -> Producer:
        return open_client(Producer, self._cluster.settings(self._settings), self.link, self._cluster.address)

    def _queued(self, topic: str, message: Outgoing) -> bool:
        try:
            if message.headers:
                headers: Any = list(message.headers)
                self.producer.produce(topic, message.payload, message.key, on_delivery=self._heed, headers=headers)
            else:  # by position: by name takes half as long again
                self.producer.produce(topic, message.payload, message.key, ANY_PARTITION, self._heed)
        except BufferError:
            return False
        except KafkaException as error:
            if error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE and message.brief is not None:
                return self._queued(topic, message.brief)
            if not self._transactional or error.args[0].code() in UNSENDABLE:
                raise self.link.gone(error.args[0]) from None
            self._failures.append(error.args[0])  # the transaction is lost already; its commit will find out
        return True

    def _heed(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self.failed += 1
            self._failures.append(error)
            self.link.heed(error)


class KafkaSink:
    """Sends to one topic (a :class:`~anomvae.streaming.contracts.Sink`). Messages of a key stay in the order they were sent.

    Args:
        outbox: The producer.
        topic: The topic.
    """

    def __init__(self, outbox: Outbox, topic: str) -> None:
        self._outbox, self._topic = outbox, topic

    @classmethod
    def open(cls, cluster: Cluster, log: Log) -> KafkaSink:
        """A sink with a producer of its own.

        Raises:
            SettingError: The address or the credentials cannot be used, or there is no such topic.
        """
        outbox = Outbox(cluster, sink_settings(cluster.address), log)
        outbox.find(cluster.address.name)
        return cls(outbox, cluster.address.name)

    @property
    def healthy(self) -> bool:
        """Whether the cluster is reached, as far as the last `send` or `flush` could tell."""
        return self._outbox.link.up

    @property
    def outbox(self) -> Outbox:
        """Its producer, with counts of messages."""
        return self._outbox

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Queues messages, in order; waits while too many are unacknowledged."""
        self._outbox.send(self._topic, messages)

    def flush(self) -> None:
        """Waits until all is acknowledged; with nothing sent, a cheap way to keep :attr:`healthy` true."""
        self._outbox.flush()

    def close(self) -> None:
        """Flushes and leaves.

        Raises:
            StreamError: Something could not be delivered.
        """
        try:
            self._outbox.flush()
        finally:
            self._outbox.close()
