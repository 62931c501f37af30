"""The command itself, beside a broker: how large it grows, and how long a record takes through it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import orjson
from confluent_kafka import Consumer, Producer, TopicPartition

from pipelines.stream_bench.broker import PARTITIONS, Broker, running
from pipelines.stream_bench.subjects import CHANNELS, WIDE_CHANNELS, WINDOW, records

if TYPE_CHECKING:
    from collections.abc import Iterator

MANY_ASSETS, STEPS_BEYOND = 10_000, 2
RATE, SECONDS, SKIPPED = 1_000, 15, 3
"""Records a second of the modest load, how long it lasts, and how much of its beginning does not count, in seconds."""
PATIENCE_S = 900.0


class Size(NamedTuple):
    """Resident memory of a process, MB: at the start, with all windows full, and at most."""

    begun_mb: float
    full_mb: float
    peak_mb: float


class Latency(NamedTuple):
    """From a record sent to its answer received, milliseconds, at so many records a second."""

    p50_ms: float
    p99_ms: float
    rate: float


def memory(model: Path) -> Size:
    """Size of the service once each of 10,000 assets has a full window."""
    count = MANY_ASSETS * (WINDOW + STEPS_BEYOND)
    with running() as broker:
        source, sink = broker.topic(), broker.topic()
        with serving(broker, source, sink, model) as process:
            begun = _mb(process, "VmRSS")
            broker.produce(source, records(count, WIDE_CHANNELS, MANY_ASSETS))
            by_s = time.monotonic() + PATIENCE_S
            while _committed(broker, source) < count:
                _check(process, by_s)
                time.sleep(0.5)
            return Size(begun, _mb(process, "VmRSS"), _mb(process, "VmHWM"))


def latency(model: Path, *options: str) -> Latency:
    """How long records take at a modest rate."""
    with running() as broker:
        source, sink = broker.topic(), broker.topic()
        sent: dict[int, float] = {}
        with serving(broker, source, sink, model, *options) as process:
            sender = threading.Thread(target=_send, args=(broker, source, sent))
            received = _receive(broker, sink, sender, process)
    first = RATE * SKIPPED
    took_ms = np.array([1000 * (at - sent[number]) for number, at in received.items() if number >= first])
    return Latency(float(np.median(took_ms)), float(np.quantile(took_ms, 0.99)), RATE)


@contextlib.contextmanager
def serving(broker: Broker, source: str, sink: str, model: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command for the time of a block, once it has begun.

    Raises:
        RuntimeError: It does not begin.
    """
    ends = [f"kafka://{broker.address}/{source}?session_timeout=6", f"kafka://{broker.address}/{sink}"]
    command = [sys.executable, "-m", "anomvae", "stream", "--model", str(model), "--from", ends[0], "--to", ends[1]]
    process = subprocess.Popen([*command, "--group", "bench", *options], stderr=subprocess.PIPE)
    try:
        for line in process.stderr or ():
            if b'"partitions changed"' in line:
                break
        else:
            raise RuntimeError("the service does not begin")
        threading.Thread(target=(process.stderr or sys.stdin).read, daemon=True).start()
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _send(broker: Broker, topic: str, sent: dict[int, float]) -> None:
    producer = Producer({"bootstrap.servers": broker.address, "linger.ms": 0, "log_level": 0})
    began_s = time.perf_counter()
    for number, (value, key) in enumerate(records(RATE * SECONDS, CHANNELS)):
        ahead_s = began_s + number / RATE - time.perf_counter()
        if ahead_s > 0:
            producer.poll(0)
            time.sleep(ahead_s)
        sent[number] = time.perf_counter()
        producer.produce(topic, value, key)
    producer.flush(30)


def _receive(
    broker: Broker, topic: str, sender: threading.Thread, process: subprocess.Popen[bytes]
) -> dict[int, float]:
    settings = {"bootstrap.servers": broker.address, "group.id": "looks-on", "log_level": 0, "fetch.wait.max.ms": 10}
    consumer = Consumer(settings)
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    received: dict[int, float] = {}
    sender.start()
    by_s = time.monotonic() + PATIENCE_S
    while len(received) < RATE * SECONDS:
        _check(process, by_s)
        for message in consumer.consume(1000, 0.005):
            at_s = time.perf_counter()
            if not message.error():
                received.setdefault(orjson.loads(message.value() or b"")["number"], at_s)
    sender.join()
    consumer.close()
    return received


def _check(process: subprocess.Popen[bytes], by_s: float) -> None:
    if process.poll() is not None:
        raise RuntimeError("the service ended")
    if time.monotonic() > by_s:
        raise RuntimeError("the service does not get through")


def _committed(broker: Broker, topic: str) -> int:
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "bench", "log_level": 0})
    try:
        places = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
        return sum(max(0, each.offset) for each in consumer.committed(places, timeout=10))
    finally:
        consumer.close()


def _mb(process: subprocess.Popen[bytes], name: str) -> float:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024
