from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Producer

from anomvae.errors import SettingError, StreamError
from anomvae.streaming.contracts import Outgoing, Place, Progress
from anomvae.streaming.kafka_transaction import KafkaTransaction
from tests.streaming.kafka_front import TXN_OFFSET_COMMIT
from tests.streaming.kafka_reader import Reader, numbered, reading, until
from tests.streaming.read_committed import read_committed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anomvae.observability.logs import Log
    from tests.streaming.kafka_broker import Broker

ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID, COORDINATOR_LOADING = 22, 25, 14


class Copier:
    """Copies a topic into another, a batch a transaction."""

    def __init__(
        self, kafka: Broker, source: str, sink: str, group: str, log: Log, instance: str | None = None
    ) -> None:
        self.reader = Reader(kafka.cluster(source), reading(group), log)
        self.transaction = KafkaTransaction(self.reader.source, kafka.cluster(sink), log, instance)
        self.sink = self.transaction.sink(sink)
        self.amid: Callable[[], None] | None = None

    def turn(self, most: int = 1000) -> bool | None:
        """One batch; None: there was nothing."""
        before = len(self.reader.records)
        self.reader.poll(most)
        batch = self.reader.records[before:]
        if not batch:
            return None
        self.transaction.begin()
        self.sink.send([Outgoing(record.payload, record.key) for record in batch])
        amid, self.amid = self.amid, None
        if amid:
            amid()
        self.sink.flush()
        return self.transaction.commit(self.reader.progress(window=5))

    def until(self, outcome: bool) -> None:
        """Takes turns until one ends so."""
        while True:
            found = self.turn()
            if found is not None:
                assert found is outcome
                return

    def finish(self, count: int) -> None:
        """Takes turns until so many records are committed in all, and nothing is left."""
        until(lambda: self.turn() is None and sum(self.reader.answered.values()) == count, lambda: None)

    def close(self) -> None:
        self.transaction.close()
        self.reader.source.close()


@pytest.fixture
def topics(kafka: Broker) -> tuple[str, str]:
    source, sink = kafka.topic(2), kafka.topic(2)
    kafka.produce(source, numbered(100))
    return source, sink


@pytest.fixture
def copier(kafka_to_cut: Broker, topics: tuple[str, str], log: Log) -> Iterator[Copier]:
    with closing(Copier(kafka_to_cut, *topics, group=f"copy-{topics[0]}", log=log)) as made:
        yield made


def payloads(kafka: Broker, topic: str) -> list[bytes]:
    return [each.value or b"" for each in read_committed(kafka.address, topic, 2).committed]


def ends(kafka: Broker, copier: Copier, topic: str) -> dict[int, int]:
    return {place: at for place, (at, _) in kafka.committed(copier.reader.source.group, topic, 2).items()}


def test_answers_and_offsets_with_their_metadata_are_committed_together(
    kafka: Broker, topics: tuple[str, str], copier: Copier
) -> None:
    source, sink = topics
    copier.finish(100)
    assert sorted(payloads(kafka, sink)) == sorted(value for value, _ in numbered(100))
    found = kafka.committed(copier.reader.source.group, source, 2)
    assert found == {
        place.partition: (at, f'{{"v":1,"replay_from":{at - 5}}}') for place, at in copier.reader.answered.items()
    }
    assert copier.transaction.healthy


def test_offsets_do_not_move_before_the_transaction_commits(
    kafka: Broker, topics: tuple[str, str], copier: Copier
) -> None:
    source, sink = topics
    copier.reader.take(100)
    copier.transaction.begin()
    copier.sink.send([Outgoing(b"answer")])
    copier.sink.flush()
    log = read_committed(kafka.address, sink, 2)
    assert (log.committed, [each.value for each in log.open]) == ([], [b"answer"])
    assert ends(kafka, copier, source) == {}
    assert copier.transaction.commit(copier.reader.progress())
    assert payloads(kafka, sink) == [b"answer"]
    assert sum(ends(kafka, copier, source).values()) == 100


@pytest.mark.parametrize("code", [ILLEGAL_GENERATION, UNKNOWN_MEMBER_ID])
def test_a_member_the_group_has_given_up_commits_nothing_and_answers_again(
    kafka_to_cut: Broker, topics: tuple[str, str], copier: Copier, code: int
) -> None:
    kafka, front = kafka_to_cut, kafka_to_cut.front
    assert front is not None
    source, sink = topics
    front.refuse(TXN_OFFSET_COMMIT, code)
    copier.until(outcome=False)
    log = read_committed(kafka.address, sink, 2)
    assert not log.committed
    assert log.aborted
    assert not log.open
    assert ends(kafka, copier, source) == {}
    assert copier.transaction.aborted == 1
    copier.until(outcome=True)
    copier.finish(100)
    assert sorted(payloads(kafka, sink)) == sorted(value for value, _ in numbered(100))


def test_what_can_be_tried_again_is(kafka_to_cut: Broker, topics: tuple[str, str], copier: Copier) -> None:
    front = kafka_to_cut.front
    assert front is not None
    front.refuse(TXN_OFFSET_COMMIT, COORDINATOR_LOADING, COORDINATOR_LOADING)
    copier.until(outcome=True)
    assert copier.transaction.aborted == 0


def test_a_batch_with_partitions_that_went_is_aborted(kafka: Broker, topics: tuple[str, str], copier: Copier) -> None:
    source, sink = topics
    copier.reader.take(100)
    copier.transaction.begin()
    copier.sink.send([Outgoing(b"answer")])
    assert not copier.transaction.commit({**copier.reader.progress(), Place(source, 9): Progress(3, 3)})
    delivery = copier.reader.source.poll(1000, 0.1)
    assert set(delivery.revoked) == set(delivery.assigned) == {Place(source, 0), Place(source, 1)}
    assert payloads(kafka, sink) == []
    assert ends(kafka, copier, source) == {}


def test_a_fenced_producer_goes_on_as_a_new_one_when_its_name_is_its_own(
    kafka: Broker, topics: tuple[str, str], copier: Copier
) -> None:
    source, sink = topics
    copier.reader.take(100)
    copier.transaction.begin()
    copier.sink.send([Outgoing(b"lost")])
    copier.sink.flush()
    fence(kafka, copier.transaction._outbox._settings["transactional.id"])
    assert not copier.transaction.commit(copier.reader.progress())
    assert ends(kafka, copier, source) == {}
    copier.until(outcome=True)
    copier.finish(100)
    assert sorted(payloads(kafka, sink)) == sorted(value for value, _ in numbered(100))


def fence(kafka: Broker, name: str) -> None:
    usurper = Producer({"bootstrap.servers": kafka.address, "transactional.id": name})
    usurper.init_transactions(20)


def test_a_fenced_producer_with_a_kept_name_ends_the_stream_with_a_sentence(
    kafka: Broker, topics: tuple[str, str], log: Log
) -> None:
    source, sink = topics
    with ExitStack() as stack:
        first = stack.enter_context(closing(Copier(kafka, source, sink, "kept", log, instance="pod-0")))
        first.reader.take(100)
        first.transaction.begin()
        first.sink.send([Outgoing(b"of the first")])
        first.sink.flush()
        second = stack.enter_context(closing(Copier(kafka, source, sink, "kept", log, instance="pod-0")))
        with pytest.raises(StreamError, match=r"instance 'pod-0'.*name of its own"):
            first.transaction.commit(first.reader.progress())
        second.transaction.begin()
        second.sink.send([Outgoing(b"of the second")])
        assert second.transaction.commit({})
    assert payloads(kafka, sink) == [b"of the second"]
    assert kafka.committed("kept", source, 2) == {}


def test_a_message_that_can_never_be_sent_ends_the_stream_instead_of_aborting_for_ever(
    kafka: Broker, topics: tuple[str, str], copier: Copier
) -> None:
    copier.reader.take(100)
    copier.transaction.begin()
    with pytest.raises(StreamError, match="MSG_SIZE_TOO_LARGE"):
        copier.sink.send([Outgoing(bytes(5_000_000))])


def test_an_empty_batch_commits(copier: Copier) -> None:
    copier.transaction.begin()
    assert copier.transaction.commit({})


def test_the_connection_is_cut_in_the_midst_of_transactions_and_each_record_is_answered_once(
    kafka_to_cut: Broker, topics: tuple[str, str], copier: Copier
) -> None:
    kafka, front = kafka_to_cut, kafka_to_cut.front
    assert front is not None
    source, sink = topics
    copier.until(outcome=True)
    for round_ in range(4):
        kafka.produce(source, numbered(100))

        def cut() -> None:
            front.cut()
            threading.Timer(0.3, front.mend).start()

        copier.amid = cut
        copier.finish(100 * (round_ + 2))
    found = payloads(kafka, sink)
    assert {value: found.count(value) for value in found} == {value: 5 for value, _ in numbered(100)}


def test_source_and_sink_on_different_clusters_are_refused(
    kafka: Broker, mock_kafka: Broker, topics: tuple[str, str], log: Log
) -> None:
    reader = Reader(kafka.cluster(topics[0]), reading("apart"), log)
    with closing(reader.source), pytest.raises(SettingError, match="another cluster"):
        KafkaTransaction(reader.source, mock_kafka.cluster("elsewhere"), log)


def test_a_member_that_is_none_now_shows_no_membership(kafka: Broker, topics: tuple[str, str], log: Log) -> None:
    reader = Reader(kafka.cluster(topics[0]), reading("none"), log)
    with closing(reader.source):
        assert reader.source.membership() is None
        reader.take(100)
        assert reader.source.membership() is not None


def test_committed_readers_see_whole_transactions_only(kafka: Broker) -> None:
    """Of the log reader that the tests rely on, against the client's own calls."""
    topic = kafka.topic(1)
    producer = Producer({"bootstrap.servers": kafka.address, "transactional.id": topic})
    producer.init_transactions(20)
    for value, commits in [(b"a", True), (b"b", False), (b"c", True)]:
        producer.begin_transaction()
        producer.produce(topic, value)
        producer.flush()
        (producer.commit_transaction if commits else producer.abort_transaction)(20)
    kafka.produce(topic, [(b"plain", None)])
    producer.begin_transaction()
    producer.produce(topic, b"open")
    producer.flush()
    log = read_committed(kafka.address, topic, 1)
    producer.abort_transaction(20)
    assert [each.value for each in log.committed] == [b"a", b"c", b"plain"]
    assert [each.value for each in log.aborted] == [b"b"]
    assert [each.value for each in log.open] == [b"open"]
    assert [committed for *_, committed in log.markers] == [True, False, True]


KILLED = """
import sys, time
from anomvae.observability.logs import Log
from anomvae.streaming.addresses import parse_address
from anomvae.streaming.contracts import Outgoing, Progress
from anomvae.streaming.kafka import Cluster
from anomvae.streaming.kafka_reading import Reading
from anomvae.streaming.kafka_source import KafkaSource
from anomvae.streaming.kafka_transaction import KafkaTransaction

source_at, sink_at = (Cluster(parse_address(text), client={"log_level": "0"}) for text in sys.argv[1:])
source = KafkaSource(source_at, Reading("killed", session_timeout_s=3), Log())
transaction = KafkaTransaction(source, sink_at, Log(), "pod-0")
sink = transaction.sink(sink_at.address.name)
for last in (False, True):
    records = []
    while not records:
        records = source.poll(20, 0.1).records
    transaction.begin()
    sink.send([Outgoing(b"never answered" if last else record.payload, record.key) for record in records])
    sink.flush()
    if not last:
        ends = {record.place: record.origin.offset + 1 for record in records}
        assert transaction.commit({place: Progress(end, end) for place, end in ends.items()})
print("open", flush=True)
time.sleep(60)
"""


def test_a_killed_process_leaves_nothing_that_a_committed_reader_sees_twice(
    kafka: Broker, topics: tuple[str, str], log: Log
) -> None:
    source, sink = topics
    command = [sys.executable, "-c", KILLED, kafka.uri(source), kafka.uri(sink)]
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=path) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        process.kill()
    assert said == b"open\n"
    assert sum(at for at, _ in kafka.committed("killed", source, 2).values()) in range(1, 21)
    with closing(Copier(kafka, source, sink, "killed", log, instance="pod-0")) as copier:
        assert {each.value for each in read_committed(kafka.address, sink, 2).aborted} == {b"never answered"}
        copier.finish(100)
    assert sorted(payloads(kafka, sink)) == sorted(value for value, _ in numbered(100))
