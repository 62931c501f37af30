"""The streaming service through crashes: killed, cut off, joined and left by others, fed what cannot be read.

Proved on Tansu, behind the proxy of tests/streaming/kafka_front.py, which keeps the metadata of commits that Tansu drops and cuts
connections; a record counts as committed by the log's own transaction markers (tests/streaming/read_committed.py), since Tansu
shows aborted records to clients that ask for committed ones:

- with `--exactly-once` each record is answered exactly once, each unreadable one is in the dead-letter topic exactly once, and
  each event is told exactly once; nothing else is committed there;
- without it no record stays unanswered, and what is answered twice says the same twice, `event_id` included;
- either way scores, reasons and windows are those of a run that nothing disturbs.

Not proved there, for Tansu takes commits of members that the group has given up: that a process which was only asleep, and not
dead, is refused afterwards. tests/streaming/test_kafka_transaction.py shows with the proxy's refusals what it does then.

Proved on Mosquitto with QoS 1, restarted again and again (SIGTERM: it writes down its sessions) and the service killed as well: no
record stays unanswered. Answers of a table model that come twice say the same. MQTT has no log to replay, so that windows of a
series outlive restarts of the broker, and not the death of the service: its first answers then say `filling`.

`make fault-stream` runs all of it with 200,000 records and ten kills.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition

from tests.integration.stream_records import batch_scores, differing, messages, unbroken
from tests.integration.stream_service import tell, wait_until
from tests.streaming.read_committed import read_committed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.stream_records import Due, Message
    from tests.integration.stream_service import Service, Start
    from tests.streaming.kafka_broker import Broker
    from tests.streaming.read_committed import Log, Logged

RECORDS = int(os.environ.get("ANOMVAE_FAULT_RECORDS", "20000"))
KILLS = int(os.environ.get("ANOMVAE_FAULT_KILLS", "3"))
SEED = int(os.environ.get("ANOMVAE_FAULT_SEED", "0"))
PARTITIONS, ANSWERS_IN, SESSION_S = 4, 3, 2

pytestmark = pytest.mark.xdist_group("stream-faults")


@dataclass
class Topics:
    """Where a stream comes from and goes to."""

    broker: Broker
    records: str
    answers: str
    letters: str
    events: str
    group: str
    sent: list[Message] = field(default_factory=list)

    @classmethod
    def new(cls, broker: Broker) -> Topics:
        """Empty ones."""
        records, answers, letters, events = (broker.topic(count) for count in (PARTITIONS, ANSWERS_IN, 1, 2))
        return cls(broker, records, answers, letters, events, group=f"scoring-{records}")

    def service(self, start: Start, model: Path, name: str, *options: object) -> Service:
        """A service on them."""
        uri = self.broker.uri
        ends = ["--from", uri(self.records, session_timeout=SESSION_S), "--to", uri(self.answers)]
        ends += ["--dead-letter", uri(self.letters), "--events", "--events-to", uri(self.events)]
        batch = max(200, RECORDS // 100)
        once = ("--instance", name) if "--exactly-once" in options else ()
        return start("--model", model, *ends, "--group", self.group, "--batch", batch, *once, *options)

    def send(self, sent: list[Message]) -> None:
        """Puts messages into the log."""
        self.broker.produce(self.records, [(message.payload, message.key) for message in sent])
        self.sent += sent

    def written(self) -> int:
        """About how many records, aborted ones and markers included, lie where the answers go; 0 while the broker is away."""
        consumer = Consumer({"bootstrap.servers": self.broker.address, "group.id": "looks-on", "log_level": 0})
        try:
            places = [TopicPartition(self.answers, partition) for partition in range(ANSWERS_IN)]
            return sum(consumer.get_watermark_offsets(place, timeout=5)[1] for place in places)
        except KafkaException:
            return 0
        finally:
            consumer.close()

    def all_committed(self) -> bool:
        """Whether the group is through with all records."""
        committed = self.broker.committed(self.group, self.records, PARTITIONS)
        return sum(offset for offset, _ in committed.values()) == len(self.sent)

    def log(self, topic: str, partitions: int) -> Log:
        """What a committed reader sees of a topic, and what not."""
        return read_committed(self.broker.address, topic, partitions)


class Storm:
    """What happens to a service.

    Args:
        topics: Its topics.
        start: Starts services: one that is killed again and again, and one that joins it and leaves.
        model: That they answer with.
        options: Of the command.
    """

    def __init__(self, topics: Topics, start: Start, model: Path, *options: object) -> None:
        self.kills = self.cuts = self.joins = 0
        self._topics, self._draw = topics, random.Random(SEED)
        self._begin, self._model, self._options = start, model, options

    def run(self, sent: list[Message]) -> None:
        """Lets it happen while messages are being sent and answered."""
        topics, draw = self._topics, self._draw
        service, second = self._start("first"), None
        part = -(-len(sent) // (KILLS + 1))
        joins, cuts = {KILLS // 2}, {KILLS // 3, KILLS - 1}
        if KILLS > 5:
            joins.add(KILLS - 2)
        for number in range(KILLS + 1):
            before = topics.written()
            topics.send(sent[number * part : (number + 1) * part])
            if number in joins:
                second = self._join(service)
            elif second is not None:
                second.leave()
                second = None
            if number in cuts and second is None:
                self._after(before, part * draw.uniform(0.05, 0.5), service)
                self._cut(service)
            if number < KILLS:
                self._after(before, part * draw.uniform(0.05, 0.6), service)
                time.sleep(draw.uniform(0.0, 0.15))
                service.kill()
                self.kills += 1
                service = self._start("first")
        wait_until(topics.all_committed, "all is answered and committed", service)
        for running in (service, second):
            if running is not None:
                running.leave()

    def _start(self, name: str) -> Service:
        return self._topics.service(self._begin, self._model, name, *self._options)

    def _after(self, before: int, count: float, service: Service) -> None:
        wait_until(lambda: self._topics.written() >= before + count, f"{count:.0f} more records are answered", service)

    def _join(self, service: Service) -> Service:
        second = self._start("second")
        wait_until(second.reads, "the second service has partitions", second)
        service.check()
        self.joins += 1
        return second

    def _cut(self, service: Service) -> None:
        """Shorter than a session: the only member there is must stay one, see above."""
        front = self._topics.broker.front
        assert front is not None
        front.cut()
        time.sleep(self._draw.uniform(0.2, SESSION_S / 2))
        service.check()
        front.mend()
        self.cuts += 1


def answers_in(log: list[Logged]) -> list[dict[str, Any]]:
    """Messages as objects."""
    return [orjson.loads(each.value or b"") for each in log]


def letters_in(log: list[Logged]) -> list[tuple[int, int]]:
    """Where the records lay that dead letters hold."""
    found = []
    for each in log:
        told = {name: value.decode() for name, value in each.headers}
        assert told["anomvae-error"]
        found.append((int(told["anomvae-partition"]), int(told["anomvae-offset"])))
    return found


def events_in(told: list[dict[str, Any]]) -> Counter[tuple[str, str, int]]:
    """Events by name and state; alarms of those that have ended."""
    return Counter((each["event_id"], each["event"], each["alarms"]) for each in told)


def due_of(topics: Topics, model: Path) -> Due:
    """What an unbroken run makes of the log, after a look whether that is what whole series come to."""
    log = topics.log(topics.records, PARTITIONS).committed
    assert Counter(each.value for each in log) == Counter(message.payload for message in topics.sent)
    due = unbroken(model, log)
    assert len(due.dead) == sum(message.poison for message in topics.sent)
    for number, (score, reason) in batch_scores(model, topics.sent).items():
        answer = due.answers[number]
        assert answer.get("reason") == reason
        assert score == (None if reason else pytest.approx(answer["score"], abs=1e-5))
    return due


@pytest.mark.timeout(3600)
def test_with_transactions_each_record_is_answered_once_whatever_happens(
    kafka_to_cut: Broker, pumps: Path, start: Start
) -> None:
    topics = Topics.new(kafka_to_cut)
    storm = Storm(topics, start, pumps, "--exactly-once")
    began_s = time.monotonic()
    storm.run(messages(RECORDS, SEED))
    took_s = time.monotonic() - began_s
    due = due_of(topics, pumps)
    log = topics.log(topics.answers, ANSWERS_IN)
    answers, letters = answers_in(log.committed), topics.log(topics.letters, 1)
    told = answers_in(topics.log(topics.events, 2).committed)
    aborted = sum(not committed for *_, committed in log.markers)
    tell(
        f"exactly once: {RECORDS:,} records in {took_s:.0f} s; {storm.kills} kills, {storm.cuts} cuts, {storm.joins} joins; "
        f"{len(log.committed):,} answers committed, {len(log.aborted):,} aborted, {len(log.open):,} left open "
        f"({aborted} markers of aborted transactions); {len(letters.committed)} dead letters; {len(told)} messages of events"
    )
    assert Counter(answer["number"] for answer in answers) == Counter(due.answers.keys())
    assert Counter(letters_in(letters.committed)) == Counter(due.dead)
    assert events_in(told) == events_in(due.events)
    assert not differing(answers, due)


@pytest.mark.timeout(3600)
def test_without_transactions_no_record_stays_unanswered_and_answers_that_come_twice_say_the_same(
    kafka_to_cut: Broker, pumps: Path, start: Start
) -> None:
    topics = Topics.new(kafka_to_cut)
    storm = Storm(topics, start, pumps)
    began_s = time.monotonic()
    storm.run(messages(RECORDS, SEED + 1))
    took_s = time.monotonic() - began_s
    due = due_of(topics, pumps)
    answers = answers_in(topics.log(topics.answers, ANSWERS_IN).committed)
    letters = letters_in(topics.log(topics.letters, 1).committed)
    ids: dict[int, set[str]] = {}
    for answer in answers:
        ids.setdefault(answer["number"], set()).add(answer["event_id"])
    tell(
        f"at least once: {RECORDS:,} records in {took_s:.0f} s; {storm.kills} kills, {storm.cuts} cuts, {storm.joins} joins; "
        f"{len(answers) - len(ids):,} answers and {len(letters) - len(set(letters))} of {len(letters)} dead letters came twice"
    )
    assert ids.keys() == due.answers.keys()
    assert set(letters) == due.dead
    assert all(len(names) == 1 for names in ids.values())
    assert not differing(answers, due)
    told = answers_in(topics.log(topics.events, 2).committed)
    assert events_in(told).keys() == events_in(due.events).keys()
