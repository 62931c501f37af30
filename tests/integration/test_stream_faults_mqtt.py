"""The streaming service between topics of a Mosquitto that is restarted again and again, and killed itself.

Proved with QoS 1 on both sides (Mosquitto writes its sessions down when it is told to end; what a killed one had not written is
lost with it, whoever listens): no record stays unanswered, and each unreadable one comes out as a dead letter.

- A table model: the service is killed as well, and answers that come twice say the same, `event_id` included.
- A series: MQTT keeps no log to rebuild windows from. While the service lives, each record's first answer is that of an unbroken
  run, whatever happens to the broker; an answer that is sent again says the same, and a record that is delivered again finds its
  step taken and is answered as `repeated` or `late`. When the service dies its windows go with it: then no record stays unanswered, and what is scored again begins `filling`.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import random
import time
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from anomvae.streaming.contracts import Outgoing
from anomvae.streaming.mqtt import BackOff, MqttBroker, MqttPublication
from anomvae.streaming.mqtt_sink import MqttSink
from tests.conftest import mixed_table
from tests.integration.stream_records import BEGIN, Message, differing, messages, unbroken
from tests.integration.stream_service import tell, wait_until
from tests.streaming.mosquitto import HOST, needs_mosquitto, peer, running
from tests.streaming.read_committed import Logged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from anomvae.bundle import Bundle
    from tests.integration.stream_service import Service, Start
    from tests.streaming.mosquitto import Mosquitto, Peer

RECORDS = int(os.environ.get("ANOMVAE_FAULT_RECORDS", "20000")) // 5
RESTARTS = int(os.environ.get("ANOMVAE_FAULT_KILLS", "3"))
SEED = int(os.environ.get("ANOMVAE_FAULT_SEED", "0"))

LETTERS = "out/dead/letters"

pytestmark = [needs_mosquitto, pytest.mark.xdist_group("stream-faults"), pytest.mark.timeout(3600)]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with running(tmp_path / "broker", ["set_tcp_nodelay true"]) as it:
        yield it


class Heard:
    """What came of a stream.

    Args:
        reader: Subscribed to answers and dead letters.
    """

    def __init__(self, reader: Peer) -> None:
        self.answers: list[dict[str, Any]] = []
        self.letters: list[bytes] = []
        self.numbers: set[int] = set()
        self._reader = reader

    def count(self) -> int:
        """Records that were answered, or came out as dead letters."""
        for heard in self._reader.heard():
            if heard.topic == LETTERS:
                self.letters.append(heard.payload)
                continue
            answer = orjson.loads(heard.payload)
            self.answers.append(answer)
            self.numbers.add(answer["number"])
        return len(self.numbers) + len(set(self.letters))


def serve(start: Start, broker: Mosquitto, model: Path, *options: object) -> Service:
    """A service between the broker's topics."""
    there = f"mqtt://{HOST}:{broker.port}"
    ends = ["--from", f"{there}/in/+", "--to", f"{there}/out/{{key}}", "--dead-letter", f"{there}/{LETTERS}"]
    service = start("--model", model, *ends, "--client-id", "scoring", "--asset-level", 1, "--batch", 200, *options)
    wait_until(service.reads, "the service has subscribed", service)
    return service


@contextlib.contextmanager
def publishing(broker: Mosquitto) -> Iterator[Callable[[Sequence[Message]], None]]:
    """Puts messages into the topics of their assets, in order, and waits until the broker has them."""
    sink = MqttSink(MqttBroker(HOST, broker.port, back_off=BackOff(0.02, 0.1)), MqttPublication("in/{key}"))

    def publish(sent: Sequence[Message]) -> None:
        sink.send([Outgoing(message.payload, message.key) for message in sent])
        sink.flush()

    try:
        yield publish
    finally:
        sink.close()


def press_rows(count: int) -> list[Message]:
    """Rows for the table model, with some that cannot be read."""
    draw = random.Random(SEED)
    found = []
    for number, row in enumerate(mixed_table(count, SEED + 1).to_pylist()):
        when = (BEGIN + dt.timedelta(seconds=number)).isoformat()
        payload = orjson.dumps({**row, "number": number, "press": f"P{number % 9}", "at": when})
        poison = draw.random() < 0.01
        found.append(Message(payload[:-1] if poison else payload, b"P%d" % (number % 9), poison))
    return found


def log_of(sent: Sequence[Message]) -> list[Logged]:
    """The messages as one partition's log."""
    return [Logged(0, i, message.key, message.payload, ()) for i, message in enumerate(sent)]


def test_a_table_is_answered_at_least_once_while_broker_and_service_fail(
    broker: Mosquitto, fitted: Bundle, start: Start
) -> None:
    draw, sent = random.Random(SEED), press_rows(RECORDS)
    settings = ["--asset", "press", "--time", "at"]
    began_s, part = time.monotonic(), -(-len(sent) // (RESTARTS + 1))
    service = serve(start, broker, fitted.folder, *settings)
    with peer(broker.port, "out/#", "reader") as reader, publishing(broker) as publish:
        heard = Heard(reader)
        for number in range(RESTARTS + 1):
            before = heard.count()
            publish(sent[number * part : (number + 1) * part])
            if number < RESTARTS:
                aim = before + part * draw.uniform(0.02, 0.6)
                wait_until(lambda aim=aim: heard.count() >= aim, "some are answered", service)  # type: ignore[misc]
                broker.restart()
                time.sleep(draw.uniform(0.0, 0.2))
                service.kill()
                service = serve(start, broker, fitted.folder, *settings)
        wait_until(lambda: heard.count() >= len(sent), "all are answered", service)
    service.leave()
    due = unbroken(fitted.folder, log_of(sent), asset="press", time="at")
    tell(
        f"Mosquitto, table: {len(sent):,} records in {time.monotonic() - began_s:.0f} s; {RESTARTS} restarts and kills; "
        f"{len(heard.answers) - len(heard.numbers)} answers came twice; {len(heard.letters)} dead letters"
    )
    assert heard.numbers == due.answers.keys()
    assert set(heard.letters) == {message.payload for message in sent if message.poison}
    assert not differing(heard.answers, due)


def test_windows_outlive_restarts_of_the_broker(broker: Mosquitto, pumps: Path, start: Start) -> None:
    draw, sent = random.Random(SEED), messages(RECORDS, SEED)
    began_s, part = time.monotonic(), -(-len(sent) // (RESTARTS + 1))
    service = serve(start, broker, pumps)
    with peer(broker.port, "out/#", "reader") as reader, publishing(broker) as publish:
        heard = Heard(reader)
        for number in range(RESTARTS + 1):
            before = heard.count()
            publish(sent[number * part : (number + 1) * part])
            if number < RESTARTS:
                aim = before + part * draw.uniform(0.02, 0.6)
                wait_until(lambda aim=aim: heard.count() >= aim, "some are answered", service)  # type: ignore[misc]
                broker.restart()
        wait_until(lambda: heard.count() >= len(sent), "all are answered", service)
    service.leave()
    due = unbroken(pumps, log_of(sent), asset_level=1)  # a topic names the asset of a message that does not
    first: dict[int, dict[str, Any]] = {}
    again = [answer for answer in heard.answers if first.setdefault(answer["number"], answer) is not answer]
    tell(
        f"Mosquitto, series: {len(sent):,} records in {time.monotonic() - began_s:.0f} s; {RESTARTS} restarts; "
        f"{len(again)} answers came again; {len(heard.letters)} dead letters"
    )
    assert first.keys() == due.answers.keys()
    assert not differing(first.values(), due)
    assert set(heard.letters) == {sent[offset].payload for _, offset in due.dead}
    assert len(due.dead) > 5
    sent_twice = [answer for answer in again if answer.get("reason") not in ("repeated", "late")]
    assert not differing(sent_twice, due)
