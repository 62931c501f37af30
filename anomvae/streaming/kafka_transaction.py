"""Answers and progress in one Kafka transaction: both become visible, or neither does."""

from __future__ import annotations

import contextlib
import math
import time
import uuid
from typing import TYPE_CHECKING

from anomvae.errors import SettingError, StreamError
from anomvae.streaming.kafka import KafkaError, KafkaException
from anomvae.streaming.kafka_sink import UNSENDABLE, KafkaSink, Outbox, sink_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anomvae.observability.logs import Log
    from anomvae.streaming.contracts import Place, Progress
    from anomvae.streaming.kafka import Cluster
    from anomvae.streaming.kafka_source import KafkaSource

CALL_S = 10.0
"""Longest time in one call of the client, which is then called again."""
LONGEST_PAUSE_S = 5.0
FENCED = frozenset(
    {
        KafkaError._FENCED,  # noqa: SLF001 - the library's names for its own errors begin so
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.INVALID_PRODUCER_ID_MAPPING,
        KafkaError.TRANSACTION_COORDINATOR_FENCED,
    }
)


class _AwayError(Exception):
    """The cluster cannot be reached now."""


class _AbortedError(Exception):
    """The transaction cannot be committed; the error says whether the producer can go on."""

    def __init__(self, error: KafkaError) -> None:
        super().__init__(error.name())
        self.error = error


class KafkaTransaction:
    """One producer a process, whose transactions carry the group's offsets and their metadata.

    A coordinator refuses offsets of a member that the group has given up (KIP-447, generation and member id), so that two
    processes never both answer a record, and partitions may move without a producer each. The transactional id is therefore
    the process's own, and new with each process. What a process that died had not committed is aborted by the cluster after
    `transaction.timeout.ms` (30 s here), and the group's other members wait that long for its offsets; with a name that is
    kept from start to start (`instance`), the next process of that name aborts it at once.

    Args:
        source: Whose progress is committed.
        cluster: Where answers go; the same cluster.
        log: Told of aborted transactions.
        instance: Name of this process, kept over its restarts; no two that run may share one. None: none is kept.

    Raises:
        SettingError: The source lies on another cluster.
        StreamError: The cluster does not let us begin.
    """

    def __init__(self, source: KafkaSource, cluster: Cluster, log: Log, instance: str | None = None) -> None:
        self._source, self._cluster, self._log, self._instance = source, cluster, log, instance
        self.aborted = 0
        name = f"anomvae-{source.group}-{instance or uuid.uuid4().hex}"
        timed = {"transactional.id": name, "transaction.timeout.ms": 30_000, "message.timeout.ms": 30_000}
        self._outbox = Outbox(cluster, {**sink_settings(cluster.address), **timed}, log)
        self._begun = False
        self._entered = False
        with contextlib.suppress(_AwayError):  # then the first batch insists
            self._enter(patience_s=0.0)
            self._check_cluster()

    def sink(self, topic: str) -> KafkaSink:
        """A sink whose messages belong to the transaction.

        Raises:
            SettingError: There is no such topic.
        """
        if self._entered:  # else the cluster is away
            self._outbox.find(topic)
        return KafkaSink(self._outbox, topic)

    @property
    def healthy(self) -> bool:
        """Whether the cluster is reached, as far as is known."""
        return self._outbox.link.up

    def begin(self) -> None:
        """Opens the transaction of one batch.

        Raises:
            StreamError: The producer cannot go on.
        """
        if not self._entered:
            self._enter()
            self._check_cluster()
        try:
            self._outbox.producer.begin_transaction()
        except KafkaException as error:
            raise self._outbox.link.gone(error.args[0]) from None
        self._begun = True

    def commit(self, progress: Mapping[Place, Progress]) -> bool:
        """Commits the batch and how far it brought its partitions.

        Args:
            progress: By partition.

        Returns:
            False: it was aborted, since partitions have gone, the group has gone on without us, or the cluster lost the
            transaction. Nothing of it is visible, and the source delivers the batch again.

        Raises:
            StreamError: It can never succeed: a message is refused, or another process runs under our name.
        """
        try:
            self._send_offsets(progress)
            self._insist(lambda: self._outbox.producer.commit_transaction(CALL_S))
        except _AbortedError as aborted:
            self._abort(aborted.error)
            return False
        finally:
            self._begun = False
        self._outbox.link.met()
        return True

    def _send_offsets(self, progress: Mapping[Place, Progress]) -> None:
        if not progress:
            return
        offsets, membership = self._source.offsets(progress), self._source.membership()
        if offsets is None or membership is None:
            raise _AbortedError(KafkaError(KafkaError._ASSIGNMENT_LOST))  # noqa: SLF001
        self._insist(lambda: self._outbox.producer.send_offsets_to_transaction(offsets, membership, CALL_S))

    def _enter(self, patience_s: float = math.inf) -> None:
        """Makes itself known to the coordinator, which ends what a process of the same name left open."""
        try:
            self._insist(lambda: self._outbox.producer.init_transactions(CALL_S), patience_s)
        except _AbortedError as aborted:
            raise self._outbox.link.gone(aborted.error) from None
        self._entered = True
        self._outbox.link.met()

    def _check_cluster(self) -> None:
        try:
            ours, theirs = self._outbox.producer.cluster_id(timeout=CALL_S), self._source.cluster_id()
        except KafkaException as error:
            raise _AwayError from error
        if ours != theirs:
            raise SettingError(
                f"{self._cluster.address} lies on another cluster than the source; "
                "exactly once needs both on one, so leave --exactly-once out"
            )

    def _insist(self, call: Callable[[], None], patience_s: float = math.inf) -> None:
        """Calls until it is done, or can no longer be."""
        pause_s, began_s = 0.1, time.monotonic()
        while True:
            try:
                return call()
            except KafkaException as raised:
                error = raised.args[0]
                if error.fatal() or error.txn_requires_abort() or not error.retriable():
                    raise _AbortedError(error) from None
                self._outbox.link.heed(error)
                if time.monotonic() - began_s >= patience_s:
                    raise _AwayError from None
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _abort(self, error: KafkaError) -> None:
        self.aborted += 1
        self._log.warning("transaction aborted", address=str(self._cluster.address), error=error.name())
        failures = self._outbox.take_failures()
        if error.fatal() or error.code() in FENCED:
            self._renew()
        else:
            try:
                self._insist(lambda: self._outbox.producer.abort_transaction(CALL_S))
            except _AbortedError:
                self._renew()
        for failure in [*failures, *self._outbox.take_failures()]:
            if failure.code() in UNSENDABLE:
                raise self._outbox.link.gone(failure)
        self._source.rewind()

    def _renew(self) -> None:
        """Goes on with a new producer, after the cluster has closed the door on this one."""
        if self._instance is not None:
            raise StreamError(
                f"another process streams as instance {self._instance!r} of the same group, or the cluster has given our "
                "transaction up; give each process a name of its own and start it again"
            )
        self._outbox.renew()
        self._enter()

    def close(self) -> None:
        """Aborts what is open and leaves."""
        if self._begun:
            try:
                self._outbox.producer.abort_transaction(CALL_S)
            except KafkaException as error:
                self._log.warning("transaction left open", error=error.args[0].name())
        self._outbox.close()
