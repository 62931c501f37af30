from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import pytest

import anomvae
from anomvae.streaming.contracts import Place, Progress, Record
from anomvae.streaming.mqtt import BackOff, MqttBroker, MqttSubscription
from tests.streaming.mosquitto import HOST, PATIENCE_S, needs_mosquitto, peer, running, wait_until, wired

pytest.importorskip("paho.mqtt.client")
from anomvae.streaming.mqtt_source import TOPIC_HEADER, MqttSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.streaming.mosquitto import Mosquitto

pytestmark = needs_mosquitto
QUICK = BackOff(0.02, 0.1)

DOOMED = """
import sys
from anomvae.streaming.contracts import Progress
from anomvae.streaming.mqtt import MqttBroker, MqttSubscription
from anomvae.streaming.mqtt_source import MqttSource
port, count, answered = map(int, sys.argv[1:])
source = MqttSource(MqttBroker("127.0.0.1", port), MqttSubscription("in/#", "reader", status_topic="status"))
records = []
while len(records) < count:
    delivery = source.poll(count - len(records), 1.0)
    records += delivery.records
if answered:
    source.commit({records[0].place: Progress(answered, answered)})
print("read", flush=True)
while True:
    source.poll(0, 1.0)
"""
"""Reads some records, answers a part of them, and waits to be killed."""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with running(tmp_path / "broker") as it:
        yield it


class Readers:
    """Opens sources, and closes them when the test ends, however it ends."""

    def __init__(self) -> None:
        self.opened: list[MqttSource] = []

    def __call__(self, port: int, topic_filter: str = "in/#", client_id: str = "reader", **wishes: Any) -> MqttSource:
        broker, subscription = (
            MqttBroker(HOST, port, back_off=QUICK),
            MqttSubscription(topic_filter, client_id, **wishes),
        )
        self.opened.append(MqttSource(broker, subscription))
        return self.opened[-1]


@pytest.fixture
def open_source() -> Iterator[Readers]:
    readers = Readers()
    yield readers
    for source in readers.opened:
        source.close()


def read(source: MqttSource, count: int, most: int = 1000) -> list[Record]:
    """A number of records, and no more."""
    records: list[Record] = []
    by_s = monotonic() + PATIENCE_S
    while len(records) < count:
        assert monotonic() < by_s, f"{len(records)} of {count} records came"
        records += source.poll(min(most, count - len(records)), 0.5).records
    return records


def commit(source: MqttSource, records: list[Record]) -> None:
    answered = max(record.origin.offset for record in records) + 1
    source.commit({records[0].place: Progress(answered, answered)})


def payloads(records: list[Record]) -> list[bytes]:
    return [record.payload for record in records]


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [json.dumps({"n": start + i}).encode() for i in range(count)]


def die_reading(port: int, count: int, answered: int) -> None:
    """Lets a process read and answer, and kills it without goodbye."""
    doomed = subprocess.Popen(
        [sys.executable, "-c", DOOMED, str(port), str(count), str(answered)],
        stdout=subprocess.PIPE,
        cwd=Path(anomvae.__file__).parents[1],
    )
    try:
        assert doomed.stdout is not None
        assert doomed.stdout.readline() == b"read\n"
        if answered:
            sleep(0.3)  # what is committed leaves on the network's own thread
    finally:
        doomed.kill()
        doomed.wait()
        if doomed.stdout is not None:
            doomed.stdout.close()


def test_the_filter_is_assigned_once_from_the_start(broker: Mosquitto, open_source: Readers) -> None:
    source = open_source(broker.port)
    assert source.poll(1, 0.0).assigned == {Place("in/#", 0): Progress(0, 0)}
    assert source.poll(1, 0.0).assigned == {}
    assert source.healthy
    source.close()
    assert not source.healthy


def test_a_record_tells_its_topic_its_headers_and_its_number(broker: Mosquitto, open_source: Readers) -> None:
    source = open_source(broker.port, "in/+/values", asset_level=1)
    with peer(broker.port) as publisher:
        publisher.publish("in/press/values", b"{}", headers=(("unit", "°C"), ("unit", "bar")))
        publisher.publish("in/other", b"{}")
        publisher.publish("in/saw/values", b"")
    first, second = read(source, 2)
    assert first.key == b"press"
    assert first.headers == ((TOPIC_HEADER, b"in/press/values"), ("unit", "°C".encode()), ("unit", b"bar"))
    assert (first.origin, second.origin) == (("in/+/values", 0, 0), ("in/+/values", 0, 1))
    assert first.stamp_s is None
    assert (second.key, second.payload) == (b"saw", b"")


def test_what_is_committed_does_not_come_again_and_what_is_not_does(broker: Mosquitto, open_source: Readers) -> None:
    source = open_source(broker.port)
    with peer(broker.port) as publisher:
        publisher.publish("in/a", *numbered(10))
    commit(source, read(source, 10)[:6])
    source.close()
    again = open_source(broker.port)
    assert payloads(read(again, 4)) == numbered(4, start=6)
    assert again.poll(10, 0.3).records == []


def test_records_come_again_when_the_process_is_killed(broker: Mosquitto, open_source: Readers) -> None:
    open_source(broker.port).close()  # makes the session
    with peer(broker.port) as publisher:
        publisher.publish("in/a", *numbered(50))
    die_reading(broker.port, count=30, answered=0)
    die_reading(broker.port, count=30, answered=20)
    source = open_source(broker.port)
    assert payloads(read(source, 30)) == numbered(30, start=20)
    assert source.poll(10, 0.3).records == []


def test_records_published_while_nobody_reads_are_kept(broker: Mosquitto, open_source: Readers) -> None:
    open_source(broker.port).close()
    with peer(broker.port) as publisher:
        publisher.publish("in/a", *numbered(5))
    broker.restart()
    source = open_source(broker.port)
    assert payloads(read(source, 5)) == numbered(5)


def test_a_cut_connection_repeats_nothing_and_loses_nothing(broker: Mosquitto, open_source: Readers) -> None:
    with wired(broker.port) as wire, peer(broker.port) as publisher:
        source = open_source(wire.port)
        publisher.publish("in/a", *numbered(20))
        polled = read(source, 8)
        wait_until(lambda: sum(source.lag().values()) == 12, "the rest waits")
        wire.cut()
        wait_until(lambda: not source.healthy, "the loss is noticed")
        commit(source, polled[:5])  # nothing to send it on: it counts for the next connection
        wait_until(lambda: source.healthy, "it is connected again")
        rest = read(source, 12)
        publisher.publish("in/a", *numbered(1, start=20))
        records = [*polled, *rest, *read(source, 1)]
        assert payloads(records) == numbered(21)
        assert [record.origin.offset for record in records] == list(range(21))
        commit(source, records)
        source.close()
        again = open_source(broker.port)
        assert again.poll(10, 0.3).records == again.poll(10, 0.3).records == []


def test_nothing_is_lost_or_stuck_in_many_cuts(broker: Mosquitto, open_source: Readers) -> None:
    with wired(broker.port) as wire, peer(broker.port) as publisher:
        source = open_source(wire.port, receive_maximum=7)
        seen: list[bytes] = []
        for turn in range(20):
            publisher.publish("in/a", *numbered(20, start=20 * turn))
            target = len(set(seen)) + 20 if turn == 19 else len(set(seen)) + 10
            by_s = monotonic() + PATIENCE_S
            while len(set(seen)) < target:
                assert monotonic() < by_s
                records = list(source.poll(3, 0.2).records)
                seen += payloads(records)
                if records:
                    commit(source, records)
            wire.cut()
        while records := list(source.poll(100, 1.0).records):
            seen += payloads(records)
            commit(source, records)
        assert set(seen) == set(numbered(400))


def test_the_broker_holds_back_what_exceeds_the_receive_maximum(broker: Mosquitto, open_source: Readers) -> None:
    with peer(broker.port) as publisher:
        source = open_source(broker.port, receive_maximum=5)
        publisher.publish("in/a", *numbered(60))
        records = read(source, 5)
        assert source.poll(10, 0.3).records == []
        commit(source, records)
        records += read(source, 1)
    assert payloads(records) == numbered(6)


@pytest.mark.parametrize("qos", [0, 1])
def test_no_more_than_one_record_above_the_receive_maximum_waits_whatever_the_broker_sends(
    broker: Mosquitto, qos: int, open_source: Readers
) -> None:
    with peer(broker.port) as publisher:
        source = open_source(broker.port, receive_maximum=5, qos=qos)
        publisher.publish("in/a", *numbered(300))
        records: list[Record] = []
        most = 0
        while len(records) < 300:
            sleep(0.002)
            most = max(most, *source.lag().values())
            records += read(source, 1)
            commit(source, records)
    assert 5 <= most <= 6
    assert payloads(records) == numbered(300)


def test_a_broker_that_forgot_the_session_is_subscribed_to_again(tmp_path: Path, open_source: Readers) -> None:
    with running(tmp_path / "broker", ["persistence false"]) as broker, peer(broker.port) as publisher:
        source = open_source(broker.port)
        publisher.publish("in/a", *numbered(3))
        wait_until(lambda: sum(source.lag().values()) == 3, "they wait")
        broker.restart()
        by_s = monotonic() + PATIENCE_S
        records = read(source, 3)
        while not records[3:]:  # the subscription takes a moment
            assert monotonic() < by_s
            publisher.publish("in/a", b"later")
            records += source.poll(10, 0.2).records
        assert payloads(records)[:4] == [*numbered(3), b"later"]


def test_retained_values_of_a_past_time_are_not_read(broker: Mosquitto, open_source: Readers) -> None:
    with peer(broker.port) as publisher:
        publisher.publish("in/a", b"old", retain=True)
        source = open_source(broker.port)
        publisher.publish("in/a", b"new")
        assert payloads(read(source, 1)) == [b"new"]


def test_a_shared_subscription_is_divided_between_its_readers(broker: Mosquitto, open_source: Readers) -> None:
    sources = [open_source(broker.port, client_id=f"reader-{i}", group="scorers") for i in range(2)]
    with peer(broker.port) as publisher:
        publisher.publish("in/a", *numbered(100))
    parts: list[list[bytes]] = [[], []]
    by_s = monotonic() + PATIENCE_S
    while sum(map(len, parts)) < 100:
        assert monotonic() < by_s
        for part, source in zip(parts, sources, strict=True):
            records = list(source.poll(10, 0.05).records)
            part.extend(payloads(records))
            if records:
                assert records[0].place == Place("in/#", 0)
                commit(source, records)
    assert sorted(parts[0] + parts[1]) == sorted(numbered(100))
    assert all(len(part) > 20 for part in parts)


def test_the_status_topic_tells_who_left_and_who_died(broker: Mosquitto, open_source: Readers) -> None:
    with peer(broker.port, "status") as observer, peer(broker.port, name="publisher") as publisher:

        def status() -> object:
            return json.loads(observer.hear(1)[0].payload)["status"]

        source = open_source(broker.port, status_topic="status")
        assert status() == "online"
        source.close()
        assert status() == "offline"
        publisher.publish("in/a", b"{}")
        die_reading(broker.port, count=1, answered=0)
        assert status() == "online"
        assert status() == "offline"
    with peer(broker.port, "status", name="late") as late:
        assert json.loads(late.hear(1)[0].payload)["status"] == "offline"  # retained
