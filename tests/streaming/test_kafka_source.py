from __future__ import annotations

import json
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from anomvae.errors import SettingError, StreamError
from anomvae.streaming.addresses import parse_address
from anomvae.streaming.contracts import Place, Progress
from anomvae.streaming.kafka import Cluster
from anomvae.streaming.kafka_reading import Reading
from anomvae.streaming.kafka_source import KafkaSource
from tests.streaming.kafka_broker import SESSION_S
from tests.streaming.kafka_front import FETCH, OFFSET_COMMIT
from tests.streaming.kafka_reader import Reader, numbered, reading, until

if TYPE_CHECKING:
    import io

    from anomvae.observability.logs import Log
    from tests.streaming.kafka_broker import Broker

SLOW = {"session_timeout_s": 6.0}
"""The simulated cluster waits three seconds for others to join."""


def test_records_come_once_each_in_the_order_of_their_partition_with_key_time_and_headers(
    kafka: Broker, log: Log
) -> None:
    topic = kafka.topic(3)
    kafka.produce(topic, numbered(300))
    producer = Producer({"bootstrap.servers": kafka.address})
    producer.produce(topic, b"last", b"k", headers=[("origin", b"press"), ("empty", None)], timestamp=1_700_000_000_500)
    producer.flush()
    reader = Reader(kafka.cluster(topic), reading("order"), log)
    with closing(reader.source):
        records = reader.take(301)
        assert len({record.payload for record in records}) == 301
        for partition in range(3):
            offsets = [record.origin.offset for record in records if record.origin.partition == partition]
            assert offsets == list(range(len(offsets)))
        [last] = [record for record in records if record.payload == b"last"]
        assert (last.key, last.headers) == (b"k", (("origin", b"press"), ("empty", b"")))
        assert last.stamp_s == 1_700_000_000.5
        assert reader.source.healthy
        assert set(reader.source.lag().values()) == {0}


def test_what_was_committed_is_where_another_member_goes_on_and_what_the_windows_need_is_read_again(
    kafka: Broker, log: Log
) -> None:
    topic = kafka.topic(2)
    kafka.produce(topic, [(b"%d" % number, None) for number in range(100)], partition=0)
    kafka.produce(topic, [(b"%d" % number, None) for number in range(30)], partition=1)
    first = Reader(kafka.cluster(topic), reading("resume"), log)
    with closing(first.source):
        first.take(130)
        first.source.commit({Place(topic, 0): Progress(80, 64), Place(topic, 1): Progress(30, 30)})
    assert kafka.committed("resume", topic, 2) == {
        0: (80, '{"v":1,"replay_from":64}'),
        1: (30, '{"v":1,"replay_from":30}'),
    }
    second = Reader(kafka.cluster(topic), reading("resume"), log)
    with closing(second.source):
        second.take(20)
        assert dict(second.assigned) == {Place(topic, 0): Progress(80, 64), Place(topic, 1): Progress(30, 30)}
        assert [record.origin.offset for record in second.replayed] == list(range(64, 80))
        assert second.offsets() == {(0, offset) for offset in range(80, 100)}


def test_a_commit_of_another_tool_is_looked_back_from_by_the_stated_number(
    plain_kafka: Broker, log: Log, told: io.StringIO
) -> None:
    topic = plain_kafka.topic(1)
    plain_kafka.produce(topic, [(b"%d" % number, None) for number in range(100)])
    tool = Consumer({"bootstrap.servers": plain_kafka.address, "group.id": "moved"})
    tool.commit(offsets=[TopicPartition(topic, 0, 70)], asynchronous=False)
    tool.close()
    reader = Reader(plain_kafka.cluster(topic), reading("moved", lookback=20), log)
    with closing(reader.source):
        reader.take(30)
        assert [record.origin.offset for record in reader.replayed] == list(range(50, 70))
    assert "commit without replay offset" in told.getvalue()


def test_a_commit_of_partitions_that_are_not_ours_is_skipped(kafka: Broker, log: Log) -> None:
    topic = kafka.topic(1)
    kafka.produce(topic, numbered(5))
    reader = Reader(kafka.cluster(topic), reading("foreign"), log)
    with closing(reader.source):
        reader.take(5)
        reader.source.commit({Place(topic, 7): Progress(3, 3), Place("another", 0): Progress(3, 3)})
        reader.source.commit({Place(topic, 0): Progress(5, 5), Place("another", 0): Progress(3, 3)})
    assert kafka.committed("foreign", topic, 1) == {0: (5, '{"v":1,"replay_from":5}')}


def test_a_group_that_starts_at_the_latest_gets_what_comes_after_even_if_it_stops_before(
    mock_kafka: Broker, log: Log
) -> None:
    topic = "latest"
    mock_kafka.produce(topic, [(b"old", None)] * 20, partition=2)
    first = Reader(mock_kafka.cluster(topic), reading("latest", start="latest", **SLOW), log)
    with closing(first.source):
        first.until(lambda: len(first.answered) == 4)
        first.poll()
    mock_kafka.produce(topic, [(b"between", None)], partition=2)
    mock_kafka.produce(topic, [(b"first of its partition", None)], partition=0)
    second = Reader(mock_kafka.cluster(topic), reading("latest", start="latest", **SLOW), log)
    with closing(second.source):
        second.take(2)
    assert not first.records
    assert {record.payload for record in second.records} == {b"between", b"first of its partition"}
    assert not second.replayed


def test_two_members_share_the_partitions_and_nothing_is_lost_when_one_joins_and_leaves(
    kafka: Broker, log: Log
) -> None:
    topic = kafka.topic(4)
    kafka.produce(topic, numbered(400, assets=32))
    first = Reader(kafka.cluster(topic), reading("shared"), log)
    with closing(first.source):
        first.take(400)
        first.source.commit(first.progress())
        second = Reader(kafka.cluster(topic), reading("shared"), log)
        with closing(second.source):
            first.until(lambda: len(first.answered) == len(second.answered) == 2, beside=second)
            assert not set(first.answered) & set(second.answered)
            assert len(first.revoked) == 2, "cooperative: only what moves is taken"
            kafka.produce(topic, numbered(400, assets=32))
            first.until(lambda: len(first.records) + len(second.records) >= 800, beside=second)
            assert second.records
            second.source.commit(second.progress())
            first.source.commit(first.progress())
        first.until(lambda: len(first.answered) == 4)
        kafka.produce(topic, numbered(400, assets=32))
        first.until(lambda: len(first.records) + len(second.records) >= 1200)
    seen = [(each.origin.partition, each.origin.offset) for each in first.records + second.records]
    assert len(seen) == len(set(seen)) == 1200


def test_a_member_given_up_by_the_group_reports_its_partitions_as_revoked(kafka: Broker, log: Log) -> None:
    topic = kafka.topic(2)
    kafka.produce(topic, numbered(20))
    cluster = kafka.cluster(topic)
    stalled = Cluster(cluster.address, client={**cluster.client, "max.poll.interval.ms": "3000"})
    reader = Reader(stalled, reading("stalled"), log)
    with closing(reader.source):
        reader.take(20)
        reader.source.commit(reader.progress())
        assert reader.source.membership() is not None
        time.sleep(4.0)
        assert reader.source.membership() is None, "or a transaction would commit what others answer"
        reader.until(lambda: len(reader.revoked) == 2)
        reader.until(lambda: len(reader.answered) == 2)
        assert len(reader.records) == 20


def test_records_that_retention_took_are_told_and_reading_begins_at_the_earliest(
    mock_kafka: Broker, log: Log, told: io.StringIO
) -> None:
    topic = "retention"
    mock_kafka.produce(topic, [(b"x", None)] * 20, partition=3)
    first = Reader(mock_kafka.cluster(topic), reading("retention", **SLOW), log)
    with closing(first.source):
        first.take(20)
        first.source.commit({Place(topic, 3): Progress(15, 5)})
    for _ in range(30):  # a partition of the simulated cluster keeps 5 MiB
        mock_kafka.produce(topic, [(bytes(500_000), None)], partition=3)
    second = Reader(mock_kafka.cluster(topic), reading("retention", **SLOW), log)
    with closing(second.source):
        second.take(3)
        first_left = second.records[0].origin.offset
        assert first_left > 20
        assert second.source.cut_short == {Place(topic, 3): (5, first_left)}
    assert "records have left the log" in told.getvalue()


def test_a_topic_made_anew_is_answered_from_its_beginning(mock_kafka: Broker, log: Log, told: io.StringIO) -> None:
    topic = "anew"
    mock_kafka.produce(topic, [(b"%d" % number, None) for number in range(10)], partition=0)
    tool = Consumer({"bootstrap.servers": mock_kafka.address, "group.id": "anew"})
    tool.commit(offsets=[TopicPartition(topic, 0, 5000, metadata='{"v":1,"replay_from":4000}')], asynchronous=False)
    tool.close()
    reader = Reader(mock_kafka.cluster(topic), reading("anew", **SLOW), log)
    with closing(reader.source):
        reader.take(10)
        assert [record.origin.offset for record in reader.records] == list(range(10))
        assert not reader.replayed
    assert "log begins anew" in told.getvalue()


def test_a_caller_that_is_behind_keeps_its_place_and_gets_nothing_till_it_asks(kafka: Broker, log: Log) -> None:
    topic = kafka.topic(2)
    kafka.produce(topic, numbered(50))
    reader = Reader(kafka.cluster(topic), reading("behind"), log)
    with closing(reader.source):
        reader.take(50)
        reader.poll(0)
        kafka.produce(topic, numbered(50))
        for _ in range(5):
            assert not reader.poll(0, 0.1).records
        assert sum(reader.source.lag().values()) <= 50
        reader.take(100)
        assert not reader.revoked


def test_lag_is_the_distance_to_the_end_of_the_log(kafka: Broker, log: Log) -> None:
    topic = kafka.topic(1)
    kafka.produce(topic, numbered(500))
    reader = Reader(kafka.cluster(topic), reading("lag"), log)
    with closing(reader.source):
        until(lambda: bool(reader.records), lambda: reader.poll(100))
        assert reader.source.lag() == {Place(topic, 0): 500 - len(reader.records)}


def in_transactions(kafka: Broker, topic: str, count: int) -> None:
    """Writes records and the mark of a transaction behind them."""
    producer = Producer({"bootstrap.servers": kafka.address, "transactional.id": topic, "log_level": 0})
    producer.init_transactions(20)
    producer.begin_transaction()
    for value, _ in numbered(count):
        producer.produce(topic, value, partition=0)
    producer.commit_transaction(20)


@pytest.mark.parametrize("late", [False, True], ids=["committed before its end is known", "and after"])
def test_the_mark_of_a_transaction_at_the_end_of_the_log_is_no_record_that_waits(
    kafka: Broker, log: Log, told: io.StringIO, late: bool
) -> None:
    topic, group = kafka.topic(1), f"marks-{late}"
    in_transactions(kafka, topic, 20)
    place = Place(topic, 0)
    reader = Reader(kafka.cluster(topic), reading(group), log)
    with closing(reader.source):
        reader.take(20)
        if late:
            reader.until(lambda: reader.source.lag() == {place: 0})
        reader.source.commit({place: Progress(20, 13)})
        reader.until(lambda: reader.source.lag() == {place: 0})
        reader.poll()
        assert reader.source.healthy
    assert kafka.committed(group, topic, 1) == {0: (21, '{"v":1,"replay_from":13}')}, "others see no lag either"
    in_transactions(kafka, topic, 5)
    second = Reader(kafka.cluster(topic), reading(group), log)
    with closing(second.source):
        second.take(5)
        assert [record.origin.offset for record in second.records] == list(range(21, 26))
        assert [record.origin.offset for record in second.replayed] == list(range(13, 20))
    assert told.getvalue() == "", "an end that is reached is no trouble"


def test_no_end_is_committed_before_all_is_answered(kafka: Broker, log: Log) -> None:
    topic = kafka.topic(1)
    in_transactions(kafka, topic, 20)
    reader = Reader(kafka.cluster(topic), reading("unanswered"), log)
    with closing(reader.source):
        reader.take(20)
        reader.source.commit({Place(topic, 0): Progress(12, 12)})
        reader.until(lambda: reader.source.lag() == {Place(topic, 0): 0})
        reader.poll()
    assert kafka.committed("unanswered", topic, 1) == {0: (12, '{"v":1,"replay_from":12}')}


def test_a_cut_connection_is_told_and_reading_goes_on_once_it_is_back(kafka_to_cut: Broker, log: Log) -> None:
    kafka, front = kafka_to_cut, kafka_to_cut.front
    assert front is not None
    topic = kafka.topic(2)
    kafka.produce(topic, numbered(50))
    reader = Reader(kafka.cluster(topic), reading("cut"), log)
    with closing(reader.source):
        reader.take(50)
        front.cut()
        reader.until(lambda: not reader.source.healthy)
        back = threading.Timer(0.3, front.mend)
        back.start()
        reader.source.commit(reader.progress(window=10))
        back.join()
        kafka.produce(topic, numbered(50))
        reader.take(100)
        assert reader.source.healthy
        assert len(kafka.committed("cut", topic, 2)) == 2
        assert not reader.revoked
    assert len(reader.offsets()) == len(reader.records) == 100


def test_health_comes_back_without_anything_to_read(kafka_to_cut: Broker, log: Log) -> None:
    kafka, front = kafka_to_cut, kafka_to_cut.front
    assert front is not None
    topic = kafka.topic(1)
    kafka.produce(topic, numbered(5))
    reader = Reader(kafka.cluster(topic), reading("idle"), log)
    with closing(reader.source):
        reader.take(5)
        reader.source.commit(reader.progress())
        front.cut()
        reader.until(lambda: not reader.source.healthy)
        front.mend()
        reader.until(lambda: reader.source.healthy)


def test_a_member_cut_off_for_longer_than_its_session_gets_again_what_it_could_not_commit(
    kafka_to_cut: Broker, log: Log
) -> None:
    kafka, front = kafka_to_cut, kafka_to_cut.front
    assert front is not None
    topic = kafka.topic(2)
    kafka.produce(topic, numbered(50))
    reader = Reader(kafka.cluster(topic), reading("cut off"), log)
    with closing(reader.source):
        reader.take(50)
        reader.source.commit({place: Progress(2, 1) for place in reader.answered})
        front.cut()
        reader.source.commit(reader.progress())  # waits for as long as the session may last
        time.sleep(1.5 * SESSION_S)
        front.mend()
        reader.until(lambda: len(reader.revoked) == 2)
        reader.take(50 + 46)
        assert [progress for _, progress in reader.assigned[2:]] == [Progress(2, 1)] * 2
    assert len(reader.offsets()) == 50


def test_a_commit_that_comes_too_late_is_given_up(kafka_to_cut: Broker, log: Log) -> None:
    kafka, front = kafka_to_cut, kafka_to_cut.front
    assert front is not None
    topic = kafka.topic(1)
    kafka.produce(topic, numbered(5))
    reader = Reader(kafka.cluster(topic), reading("late"), log)
    with closing(reader.source):
        reader.take(5)
        front.refuse(OFFSET_COMMIT, 22)  # illegal generation: the group has gone on
        reader.source.commit(reader.progress())
        reader.poll()
        assert kafka.committed("late", topic, 1) == {}
        assert front.calls[FETCH]


def test_a_refused_commit_ends_the_stream_with_a_sentence(kafka_to_cut: Broker, log: Log) -> None:
    kafka, front = kafka_to_cut, kafka_to_cut.front
    assert front is not None
    topic = kafka.topic(1)
    kafka.produce(topic, numbered(5))
    reader = Reader(kafka.cluster(topic), reading("forbidden"), log)
    with closing(reader.source):
        reader.take(5)
        front.refuse(OFFSET_COMMIT, 30)
        with pytest.raises(StreamError, match=r"GROUP_AUTHORIZATION_FAILED.*access rules"):
            reader.source.commit(reader.progress())


def test_a_topic_that_does_not_exist_ends_the_stream_with_a_sentence(kafka: Broker, log: Log) -> None:
    reader = Reader(kafka.cluster("no-such-topic"), reading("missing"), log)
    with closing(reader.source), pytest.raises(StreamError, match=r"no-such-topic.*create the topic"):
        reader.until(lambda: False)


def test_after_a_rewind_all_comes_again_from_the_last_commit(kafka: Broker, log: Log) -> None:
    topic = kafka.topic(2)
    kafka.produce(topic, numbered(100))
    reader = Reader(kafka.cluster(topic), reading("rewound"), log)
    with closing(reader.source):
        reader.take(100)
        ends = dict(reader.answered)
        half = {place: Progress(end // 2, end // 4) for place, end in ends.items()}
        reader.source.commit(half)
        before = len(reader.records)
        reader.source.rewind()
        delivery = reader.poll()
        assert set(delivery.revoked) == set(ends)
        assert delivery.assigned == half
        reader.take(before + sum(end - end // 2 for end in ends.values()))
        assert len(reader.replayed) == sum(end // 2 - end // 4 for end in ends.values())


@pytest.mark.parametrize(
    "query",
    ["start=middle", "lookback=1.5", "lookback=-1", "session_timeout=soon", "compression=lz4", "instance=a"],
)
def test_options_that_mean_nothing_to_a_source_are_refused(query: str) -> None:
    with pytest.raises(SettingError, match=query.split("=", maxsplit=1)[0]):
        Reading.of(parse_address(f"kafka://h/t?{query}"), "g")


def test_the_address_says_how_a_topic_is_read() -> None:
    address = parse_address("kafka://h/t?group=press&start=latest&lookback=500&session_timeout=10")
    assert Reading.of(address, "other") == Reading("press", "latest", 500, 10.0)
    assert Reading.of(parse_address("kafka://h/t"), "other").group == "other"


def test_a_setting_the_client_does_not_know_is_named_without_its_value(log: Log) -> None:
    cluster = Cluster(parse_address("kafka://127.0.0.1:1/t"), client={"no.such.thing": "hunter2"})
    with pytest.raises(SettingError, match=r"no\.such\.thing") as refused:
        KafkaSource(cluster, Reading("g"), log)
    assert "hunter2" not in str(refused.value)


def test_the_log_is_json_lines_without_payloads(kafka: Broker, log: Log, told: io.StringIO) -> None:
    reader = Reader(kafka.cluster("no-such-topic-either"), reading("told"), log)
    with closing(reader.source), pytest.raises(StreamError):
        reader.until(lambda: False)
    assert [json.loads(line)["event"] for line in told.getvalue().splitlines()] == ["kafka unreachable"]
