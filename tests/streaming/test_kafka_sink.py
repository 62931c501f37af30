from __future__ import annotations

import io
import threading
import time
from contextlib import closing
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from confluent_kafka import KafkaError, KafkaException
from hypothesis import given, settings
from hypothesis import strategies as st

from anomvae.errors import SettingError, StreamError
from anomvae.observability.logs import Log
from anomvae.streaming.addresses import parse_address
from anomvae.streaming.contracts import Outgoing
from anomvae.streaming.kafka import Cluster
from anomvae.streaming.kafka_sink import COMPRESSION, LOOKUP_S, KafkaSink, Outbox, sink_settings
from tests.streaming.kafka_front import PRODUCE
from tests.streaming.kafka_reader import numbered
from tests.streaming.read_committed import read_committed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.streaming.kafka_broker import Broker


def messages(count: int, assets: int = 8) -> list[Outgoing]:
    return [Outgoing(value, key, (("n", b"%d" % n),)) for n, (value, key) in enumerate(numbered(count, assets))]


def test_messages_of_a_key_lie_in_one_partition_in_the_order_they_were_sent(plain_kafka: Broker, log: Log) -> None:
    topic = plain_kafka.topic(4)
    sent = messages(5000, assets=16)
    with closing(KafkaSink.open(plain_kafka.cluster(topic), log)) as sink:
        for start in range(0, 5000, 700):
            sink.send(sent[start : start + 700])
        sink.flush()
        assert (sink.outbox.sent, sink.outbox.failed) == (5000, 0)
        assert sink.healthy
    found = read_committed(plain_kafka.address, topic, 4).committed
    assert len(found) == 5000
    for key in {message.key for message in sent}:
        ours = [each for each in found if each.key == key]
        assert len({each.partition for each in ours}) == 1
        assert [each.value for each in ours] == [each.payload for each in sent if each.key == key]
    assert {each.headers for each in found} == {each.headers for each in sent}


@pytest.mark.parametrize("compression", sorted(set(COMPRESSION) - {"snappy"}))
def test_every_compression_arrives(plain_kafka: Broker, log: Log, compression: str) -> None:
    topic = plain_kafka.topic(1)
    with closing(KafkaSink.open(plain_kafka.cluster(topic, compression=compression), log)) as sink:
        sink.send(messages(200))
        sink.flush()
    found = read_committed(plain_kafka.address, topic, 1).committed
    assert [each.value for each in found] == [each.payload for each in messages(200)]


@pytest.fixture(scope="module")
def lasting(plain_kafka: Broker) -> Iterator[tuple[KafkaSink, str]]:
    topic = plain_kafka.topic(1)
    with closing(KafkaSink.open(plain_kafka.cluster(topic, compression="none"), Log(io.StringIO()))) as sink:
        yield sink, topic


@settings(max_examples=30, deadline=None)
@given(
    sent=st.lists(
        st.builds(
            Outgoing,
            st.binary(max_size=50),
            st.none() | st.binary(min_size=1, max_size=8),
            st.lists(st.tuples(st.text("abc-", min_size=1, max_size=5), st.binary(max_size=9)), max_size=3).map(tuple),
            st.none(),
        ),
        max_size=20,
    )
)
def test_any_message_arrives_as_it_was_sent(
    plain_kafka: Broker, lasting: tuple[KafkaSink, str], sent: list[Outgoing]
) -> None:
    sink, topic = lasting
    before = len(read_committed(plain_kafka.address, topic, 1).committed)
    sink.send(sent)
    sink.flush()
    found = read_committed(plain_kafka.address, topic, 1).committed[before:]
    assert [Outgoing(each.value or b"", each.key, each.headers) for each in found] == sent


def test_a_full_buffer_is_waited_for(plain_kafka: Broker, log: Log) -> None:
    topic = plain_kafka.topic(2)
    cluster = plain_kafka.cluster(topic)
    small = Cluster(cluster.address, client={**cluster.client, "queue.buffering.max.messages": "100"})
    with closing(KafkaSink.open(small, log)) as sink:
        sink.send(messages(3000))
        sink.flush()
    assert len(read_committed(plain_kafka.address, topic, 2).committed) == 3000


def test_a_cut_connection_neither_loses_nor_repeats_nor_reorders(kafka_to_cut: Broker, log: Log) -> None:
    kafka, front = kafka_to_cut, kafka_to_cut.front
    assert front is not None
    topic = kafka.topic(2)
    sent = messages(4000)
    with closing(KafkaSink.open(kafka.cluster(topic), log)) as sink:
        for cut in range(4):
            sink.send(sent[cut * 1000 : cut * 1000 + 500])
            front.cut()
            back = threading.Timer(0.2, front.mend)
            back.start()
            sink.send(sent[cut * 1000 + 500 : cut * 1000 + 1000])
            sink.flush()
            back.join()
        assert sink.healthy
    found = read_committed(kafka.address, topic, 2).committed
    for key in {message.key for message in sent}:
        assert [each.value for each in found if each.key == key] == [each.payload for each in sent if each.key == key]


def test_health_comes_back_without_anything_to_send(kafka_to_cut: Broker, log: Log) -> None:
    kafka, front = kafka_to_cut, kafka_to_cut.front
    assert front is not None
    with closing(KafkaSink.open(kafka.cluster(kafka.topic(1)), log)) as sink:
        sink.send(messages(1))
        sink.flush()
        front.cut()
        end_s = time.monotonic() + 30
        while sink.healthy:
            assert time.monotonic() < end_s
            sink.send([])
            time.sleep(0.05)
        front.mend()
        while not sink.healthy:
            assert time.monotonic() < end_s
            sink.flush()
            time.sleep(0.05)


def test_a_cluster_that_is_not_there_is_never_taken_for_one_that_is(kafka_to_cut: Broker, log: Log) -> None:
    """An idle flush takes in the client's events, and hears of no message that was acknowledged."""
    kafka, front = kafka_to_cut, kafka_to_cut.front
    assert front is not None
    topic = kafka.topic(1)
    front.cut()
    sink = KafkaSink.open(kafka.cluster(topic), log)
    try:
        end_s = time.monotonic() + 30
        while sink.healthy:
            assert time.monotonic() < end_s
            sink.flush()
            time.sleep(0.05)
        for _ in range(12):
            sink.flush()
            assert not sink.healthy
            time.sleep(0.1)
    finally:
        front.mend()
        sink.close()


def test_a_message_that_is_too_large_ends_the_stream_with_a_sentence_that_does_not_show_it(
    plain_kafka: Broker, log: Log
) -> None:
    topic = plain_kafka.topic(1)
    with closing(KafkaSink.open(plain_kafka.cluster(topic), log)) as sink:
        with pytest.raises(StreamError, match="MSG_SIZE_TOO_LARGE") as refused:
            sink.send([Outgoing(b"secret" * 1_000_000)])
        assert "secret" not in str(refused.value)
        sink.send(messages(1))
    assert len(read_committed(plain_kafka.address, topic, 1).committed) == 1


def test_messages_that_could_not_be_sent_are_counted_and_told_by_flush(kafka_to_cut: Broker, log: Log) -> None:
    front = kafka_to_cut.front
    assert front is not None
    cluster = kafka_to_cut.cluster(kafka_to_cut.topic(1))
    hasty = Cluster(cluster.address, client={**cluster.client, "message.timeout.ms": "2000"})
    with closing(KafkaSink.open(hasty, log)) as sink:
        sink.send(messages(1))
        sink.flush()
        front.cut()
        sink.send(messages(3))
        with pytest.raises(StreamError, match="_MSG_TIMED_OUT"):
            sink.flush()
        assert (sink.outbox.sent, sink.outbox.failed) == (4, 3)
        assert not sink.healthy


def test_produce_requests_are_few(kafka_to_cut: Broker, log: Log) -> None:
    front = kafka_to_cut.front
    assert front is not None
    topic = kafka_to_cut.topic(1)
    with closing(KafkaSink.open(kafka_to_cut.cluster(topic), log)) as sink:
        before = front.calls[PRODUCE]
        sink.send(messages(5000))
        sink.flush()
        assert front.calls[PRODUCE] - before <= 20


@pytest.mark.parametrize("query", ["group=a", "start=latest", "compression=rar"])
def test_options_that_mean_nothing_to_a_sink_are_refused(log: Log, query: str) -> None:
    with pytest.raises(SettingError, match=query.split("=", maxsplit=1)[0]):
        KafkaSink.open(Cluster(parse_address(f"kafka://h/t?{query}")), log)


class Told(NamedTuple):
    """What a cluster says of a topic."""

    topics: dict[str, Any]

    @classmethod
    def of(cls, code: int | None) -> Told:
        return cls({"t": SimpleNamespace(error=None if code is None else KafkaError(code))})


def finding(monkeypatch: pytest.MonkeyPatch, log: Log, *answers: Told | KafkaException) -> Outbox:
    """An outbox of a cluster that answers so, the last answer again and again."""
    monkeypatch.setattr("anomvae.streaming.kafka_sink.CREATED_S", 0.1)
    monkeypatch.setattr("anomvae.streaming.kafka_sink.SLICE_S", 0.01)
    cluster = Cluster(parse_address("kafka://127.0.0.1:1/t"), client={"log_level": "0"})
    outbox, left = Outbox(cluster, sink_settings(cluster.address), log), list(answers)

    def list_topics(topic: str, timeout: float) -> Told:
        assert (topic, timeout) == ("t", LOOKUP_S)
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, KafkaException):
            raise answer
        return answer

    outbox.producer = SimpleNamespace(list_topics=list_topics)  # type: ignore[assignment]
    return outbox


def test_a_topic_that_the_cluster_has_not_and_does_not_make_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    outbox = finding(monkeypatch, log, Told.of(KafkaError.UNKNOWN_TOPIC_OR_PART))
    with pytest.raises(SettingError, match=r"^kafka://127\.0\.0\.1:1/t: the cluster has no topic 't' .*mend its name$"):
        outbox.find("t")


@pytest.mark.parametrize(
    "answers",
    [
        [Told.of(None)],
        [Told.of(KafkaError.UNKNOWN_TOPIC_OR_PART), Told.of(KafkaError.LEADER_NOT_AVAILABLE)],
        [Told.of(KafkaError.TOPIC_AUTHORIZATION_FAILED)],
        [Told({})],
        [KafkaException(KafkaError(KafkaError._TRANSPORT))],
    ],
    ids=["it is there", "it is made", "it may not be told", "nothing is said", "nobody answers"],
)
def test_a_topic_that_may_be_there_is_no_obstacle(
    monkeypatch: pytest.MonkeyPatch, log: Log, answers: list[Told | KafkaException]
) -> None:
    finding(monkeypatch, log, *answers).find("t")


def test_of_a_message_too_large_for_the_cluster_its_brief_form_is_sent(plain_kafka: Broker, log: Log) -> None:
    topic = plain_kafka.topic(1)
    large = Outgoing(b"x" * 1_100_000, b"A", (), Outgoing(b"brief", b"A", (("n", b"1"),)))
    with closing(KafkaSink.open(plain_kafka.cluster(topic), log)) as sink:
        sink.send([Outgoing(b"before", b"A"), large, Outgoing(b"after", b"A")])
        sink.flush()
        with pytest.raises(StreamError, match="too large"):
            sink.send([Outgoing(b"x" * 1_100_000)])
    found = read_committed(plain_kafka.address, topic, 1).committed
    assert [each.value for each in found] == [b"before", b"brief", b"after"]
