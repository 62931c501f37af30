"""Drives a source in tests as the pump does, and keeps what it delivered."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from anomvae.streaming.contracts import Place, Progress, Record
from anomvae.streaming.kafka_reading import Reading
from anomvae.streaming.kafka_source import KafkaSource
from tests.streaming.kafka_broker import SESSION_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anomvae.observability.logs import Log
    from anomvae.streaming.contracts import Delivery
    from anomvae.streaming.kafka import Cluster

PATIENCE_S = 60.0


def reading(group: str, **settings: object) -> Reading:
    """A quick member of a group."""
    return Reading(group, **{"session_timeout_s": SESSION_S, **settings})  # type: ignore[arg-type]


class Reader:
    """A source and what came of it.

    Attributes:
        records: All that were delivered and not replayed.
        replayed: All that were delivered before `answered` of their partition.
        answered: How far each assigned partition is.
    """

    def __init__(self, cluster: Cluster, how: Reading, log: Log) -> None:
        self.source = KafkaSource(cluster, how, log)
        self.records: list[Record] = []
        self.replayed: list[Record] = []
        self.answered: dict[Place, int] = {}
        self.assigned: list[tuple[Place, Progress]] = []
        self.revoked: list[Place] = []

    def poll(self, most: int = 1000, wait_s: float = 0.1) -> Delivery:
        delivery = self.source.poll(most, wait_s)
        for place in delivery.revoked:
            del self.answered[place]
            self.revoked.append(place)
        for place, progress in delivery.assigned.items():
            assert place not in self.answered, "a partition was assigned twice without being revoked"
            self.answered[place] = progress.answered
            self.assigned.append((place, progress))
        for record in delivery.records:
            if record.origin.offset < self.answered[record.place]:
                self.replayed.append(record)
            else:
                assert record.origin.offset >= self.answered[record.place]
                self.records.append(record)
                self.answered[record.place] = record.origin.offset + 1
        return delivery

    def until(self, done: Callable[[], bool], beside: Reader | None = None) -> None:
        """Polls until something holds, with another reader in turn."""

        def turn() -> None:
            self.poll()
            if beside is not None:
                beside.poll()

        until(done, turn)

    def take(self, count: int) -> list[Record]:
        """Polls until so many records came."""
        self.until(lambda: len(self.records) >= count)
        return self.records

    def progress(self, window: int = 0) -> dict[Place, Progress]:
        """How far all is, with a window of records to be read again."""
        return {place: Progress(at, max(0, at - window)) for place, at in self.answered.items()}

    def offsets(self) -> set[tuple[int, int]]:
        return {(record.origin.partition, record.origin.offset) for record in self.records}


def until(done: Callable[[], bool], turn: Callable[[], object]) -> None:
    """Takes turns until something holds."""
    end_s = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < end_s, "it did not come to pass"
        turn()


def numbered(count: int, assets: int = 8) -> Iterator[tuple[bytes, bytes]]:
    """Messages with a number of their own, keyed by asset."""
    return ((b'{"n": %d}' % number, b"asset-%d" % (number % assets)) for number in range(count))
