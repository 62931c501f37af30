"""From one broker's topics to others of it, with everything between failing."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

import pytest

import anomvae
from anomvae.streaming.contracts import Outgoing, Progress, Record
from anomvae.streaming.mqtt import BackOff, MqttBroker, MqttPublication, MqttSubscription
from tests.streaming.mosquitto import HOST, PATIENCE_S, needs_mosquitto, peer, running, wired

pytest.importorskip("paho.mqtt.client")
from anomvae.streaming.mqtt_sink import MqttSink
from anomvae.streaming.mqtt_source import MqttSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.streaming.mosquitto import Mosquitto, Peer

pytestmark = needs_mosquitto
QUICK = BackOff(0.02, 0.1)

SERVICE = """
import sys
from anomvae.streaming.contracts import Outgoing, Progress
from anomvae.streaming.mqtt import BackOff, MqttBroker, MqttPublication, MqttSubscription
from anomvae.streaming.mqtt_sink import MqttSink
from anomvae.streaming.mqtt_source import MqttSource
broker = MqttBroker("127.0.0.1", int(sys.argv[1]), back_off=BackOff(0.02, 0.1))
source = MqttSource(broker, MqttSubscription("in/+", "reader", asset_level=1, receive_maximum=50))
sink = MqttSink(broker, MqttPublication("out/{key}"))
print("runs", flush=True)
while True:
    records = source.poll(20, 1.0).records
    if records:
        sink.send([Outgoing(record.payload, record.key) for record in records])
        sink.flush()
        source.commit({records[0].place: Progress(records[-1].origin.offset + 1, 0)})
"""
"""Answers each record by itself, until it is killed."""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with running(tmp_path / "broker", ["set_tcp_nodelay true"]) as it:
        yield it


def answer(source: MqttSource, sink: MqttSink, most: int = 20, wait_s: float = 0.2) -> list[Record]:
    """One turn of a service: what was answered."""
    records = list(source.poll(most, wait_s).records)
    if records:
        sink.send([Outgoing(record.payload, record.key) for record in records])
        sink.flush()
        source.commit({records[0].place: Progress(records[-1].origin.offset + 1, 0)})
    return records


def hear_all(reader: Peer, sent: set[bytes], turn: Callable[[], object] = lambda: sleep(0.02)) -> list[bytes]:
    """Turns until all that was sent is answered: the answers."""
    answers: list[bytes] = []
    by_s = monotonic() + 2 * PATIENCE_S
    while not sent <= set(answers):
        assert monotonic() < by_s, f"{len(sent - set(answers))} of {len(sent)} records were never answered"
        turn()
        answers += [heard.payload for heard in reader.heard()]
    return answers


@pytest.mark.parametrize("seed", [1, 2])
def test_every_record_is_answered_while_the_broker_restarts_and_connections_break(broker: Mosquitto, seed: int) -> None:
    draw = random.Random(seed)
    sent = [b"%d" % i for i in range(4000)]
    with wired(broker.port) as wire, peer(broker.port, "out/#") as reader:
        there = MqttBroker(HOST, wire.port, back_off=QUICK)
        source = MqttSource(there, MqttSubscription("in/+", "reader", asset_level=1, receive_maximum=50))
        sink, publisher = MqttSink(there, MqttPublication("out/{key}")), MqttSink(there, MqttPublication("in/{key}"))

        def publish() -> None:
            for start in range(0, len(sent), 20):
                publisher.send([Outgoing(payload, b"%d" % draw.randrange(5)) for payload in sent[start : start + 20]])
                sleep(0.005)
            publisher.flush()

        def disturb() -> None:
            for _ in range(4):
                sleep(draw.uniform(0.1, 0.3))
                broker.restart()
                sleep(draw.uniform(0.0, 0.2))
                wire.cut()

        others = [threading.Thread(target=work) for work in (publish, disturb)]
        for other in others:
            other.start()
        try:
            answers = hear_all(reader, set(sent), lambda: answer(source, sink))
        finally:
            for other in others:
                other.join()
            for end in (source, sink, publisher):
                end.close()
    assert set(answers) == set(sent)


@contextlib.contextmanager
def service_running(port: int) -> Iterator[None]:
    """A service for the time of a block, at the end of which it is killed."""
    command = [sys.executable, "-c", SERVICE, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(anomvae.__file__).parents[1]) as service:
        try:
            assert service.stdout is not None
            assert service.stdout.readline() == b"runs\n"
            yield
        finally:
            service.kill()


def test_every_record_is_answered_while_the_service_is_killed(broker: Mosquitto) -> None:
    draw = random.Random(0)
    sent = {b"%d" % i for i in range(2000)}
    with peer(broker.port, "out/#") as reader, peer(broker.port, name="publisher") as publisher:
        MqttSource(MqttBroker(HOST, broker.port), MqttSubscription("in/+", "reader")).close()  # makes the session
        publisher.publish("in/press", *sorted(sent))
        for _ in range(3):
            with service_running(broker.port):
                sleep(draw.uniform(0.0, 0.05))
        with service_running(broker.port):
            answers = hear_all(reader, sent)
    assert set(answers) == sent


def test_what_the_broker_had_written_when_it_was_killed_is_answered(broker: Mosquitto) -> None:
    sent = {b"%d" % i for i in range(200)}
    there = MqttBroker(HOST, broker.port, back_off=QUICK)
    source = MqttSource(there, MqttSubscription("in/+", "reader", receive_maximum=30))
    sink, publisher = MqttSink(there, MqttPublication("out")), MqttSink(there, MqttPublication("in/{key}"))
    publisher.send([Outgoing(payload, b"press") for payload in sorted(sent)])
    publisher.flush()
    answers = [record.payload for _ in range(2) for record in answer(source, sink)]
    broker.save()
    for _ in range(2):
        answers += [record.payload for record in answer(source, sink)]  # of this the written database knows nothing
        broker.restart(signal.SIGKILL)
    by_s = monotonic() + PATIENCE_S
    while not sent <= set(answers):
        assert monotonic() < by_s, f"{len(sent - set(answers))} records were lost"
        answers += [record.payload for record in answer(source, sink)]
    for end in (source, sink, publisher):
        end.close()
    assert set(answers) == sent
