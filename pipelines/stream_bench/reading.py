"""One reader of a topic, in a process of its own: takes a number of records through, and says how long that took.

Run by the benchmark: `python -m pipelines.stream_bench.reading '{"way": ...}'`.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anomvae.streaming.answers import Verdicts
from anomvae.streaming.contracts import Outgoing
from anomvae.streaming.lane import Answered

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from anomvae.streaming.contracts import Delivery, Origin, Place, Record, Source
    from anomvae.streaming.lane import BoolArray, Lane
    from anomvae.streaming.pump import Pump, Turn

COPY, UNSCORED, EVERY = "copy", "unscored", 1_000
WAYS = (COPY, UNSCORED, "stream", "once", "single")
OUTPUTS = ("score", "p_value", "reconstruction_error", "alarm")
EXPLAINING = ("tail", "contribution", "expected")
"""What an answer takes beside: reasons are told of alarms."""


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """What to do.

    Attributes:
        way: `copy` (records sent on as they came), `unscored` (all but the graph), `stream`, `once` (exactly once), or `single` (a
            loop, record by record).
        address: Of the broker.
        source: Topic to read.
        sink: Topic to write.
        records: How many.
        model: Bundle; empty for `copy`.
        batch: Records a turn.
        asset: Fields of the table model's asset and time; empty: none.
        time: Likewise.
    """

    way: str
    address: str
    source: str
    sink: str
    records: int
    model: str = ""
    batch: int = 4_000
    asset: str = ""
    time: str = ""


class Copying:
    """Sends records on as they came; see :class:`~anomvae.streaming.lane.Lane`."""

    def answer(self, records: Sequence[Record], replayed: BoolArray | None, arrived_s: float) -> Answered:  # noqa: ARG002  a lane's
        """Each as it came."""
        answered = Answered([Outgoing(record.payload, record.key) for record in records])
        answered.counts.records = len(records)
        return answered

    def replay_from(self, place: Place, answered: int) -> int:  # noqa: ARG002  a lane's
        """Nothing is replayed."""
        return answered

    def forget(self, place: Place) -> None:
        """There is nothing to."""

    def finish(self) -> Answered:
        """Nothing is left."""
        return Answered()

    def inherit(self, other: Lane) -> None:
        """There is nothing to."""


class Unscored:
    """Stands for a :class:`~anomvae.streaming.graph_runner.GraphRunner`: the same for all, and no graph."""

    def begin(self, n: int, *_: object) -> Callable[[], Verdicts]:
        """Verdicts on n rows."""
        same = np.full(n, 0.125)
        return lambda: Verdicts(same, same, same, np.zeros(n, dtype=np.bool_), {}, {})


class Watch:
    """Stops a pump once enough is answered; a listener, and a source that says when its first records came.

    Args:
        source: The source.
        enough: Records.
    """

    def __init__(self, source: Source, enough: int) -> None:
        self.pump: Pump | None = None
        self.began_s = self.began_cpu_s = 0.0
        self._source, self._left = source, enough
        self.commit, self.lag, self.close = source.commit, source.lag, source.close

    @property
    def healthy(self) -> bool:
        """Whether the source is."""
        return self._source.healthy

    def poll(self, most: int, wait_s: float) -> Delivery:
        """Of the source."""
        delivery = self._source.poll(most, wait_s)
        if delivery.records and not self.began_s:
            self.began_s, self.began_cpu_s = time.perf_counter(), time.process_time()
        return delivery

    def turn(self, turn: Turn) -> None:
        """Counts."""
        self._left -= turn.records
        if self._left <= 0 and self.pump is not None:
            self.pump.stop()

    def skipped(self, origin: Origin, reason: str) -> None:
        """None is to be."""
        raise RuntimeError(f"the record at {origin} cannot be answered: {reason}")

    def partitions(self, assigned: Collection[Place], revoked: Collection[Place]) -> None:
        """They come once."""

    def aborted(self, records: int) -> None:  # noqa: ARG002  a listener's
        """None is to be."""
        raise RuntimeError("a transaction was aborted")


def pump_through(task: Task) -> dict[str, float]:
    """Records through anomvae's own source, lane and sink."""
    from anomvae.daemon.memory import limit_arenas
    from anomvae.daemon.stream_models import LaneMaker, load_stream_model
    from anomvae.daemon.stream_settings import StreamSettings, usable_threads
    from anomvae.daemon.streaming import _settle_memory
    from anomvae.observability import Log
    from anomvae.references import find_model
    from anomvae.streaming.addresses import parse_address
    from anomvae.streaming.kafka import Cluster
    from anomvae.streaming.kafka_reading import Reading
    from anomvae.streaming.kafka_sink import KafkaSink
    from anomvae.streaming.kafka_source import KafkaSource
    from anomvae.streaming.kafka_transaction import KafkaTransaction
    from anomvae.streaming.pump import Pump, Sinks
    from anomvae.streaming.settings import PumpSettings

    limit_arenas()
    log = Log()
    ends = [Cluster(parse_address(f"kafka://{task.address}/{topic}")) for topic in (task.source, task.sink)]
    lane: Lane = Copying()
    if task.way != COPY:
        settings = StreamSettings(model=task.model, batch=task.batch, asset=task.asset or None, time=task.time or None)
        model = load_stream_model(find_model(task.model))
        if task.way == UNSCORED:
            model = dataclasses.replace(model, member=None)
        lane = LaneMaker(settings, usable_threads(0)).make(model)
        if task.way == UNSCORED:
            vars(lane)["_runner"] = Unscored()
    source = KafkaSource(ends[0], Reading(f"group-of-{task.sink}", session_timeout_s=6.0), log)
    watch = Watch(source, task.records)
    transaction = KafkaTransaction(source, ends[1], log) if task.way == "once" else None
    sink = KafkaSink.open(ends[1], log) if transaction is None else transaction.sink(task.sink)
    pump = watch.pump = Pump(watch, lane, Sinks(sink, transaction=transaction), PumpSettings(task.batch), watch)
    _settle_memory()
    pump.run()
    found = _took(watch.began_s, watch.began_cpu_s, task.records)
    (transaction or sink).close()
    source.close()
    log.flush()
    return found


def one_by_one(task: Task) -> dict[str, float]:
    """The loop one writes first: poll, score, produce, and a commit now and then."""
    import onnxruntime as ort
    import orjson
    from confluent_kafka import Consumer, Producer

    from anomvae.bundle import read_bundle

    bundle = read_bundle(Path(task.model))
    columns = [column.name for column in bundle.manifest.columns]
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3  # more make calls of one row slower
    session = ort.InferenceSession(str(bundle.graph), options, providers=["CPUExecutionProvider"])
    version = bundle.manifest.name
    consumer = Consumer(
        {
            "bootstrap.servers": task.address,
            "group.id": f"group-of-{task.sink}",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "session.timeout.ms": 6000,
        }
    )
    producer = Producer({"bootstrap.servers": task.address, "enable.idempotence": True, "compression.type": "lz4"})
    consumer.subscribe([task.source])
    done, began_s, began_cpu_s = 0, 0.0, 0.0
    while done < task.records:
        message = consumer.poll(1.0)
        if message is None or message.error():
            continue
        if not began_s:
            began_s, began_cpu_s = time.perf_counter(), time.process_time()
        row: dict[str, Any] = orjson.loads(message.value() or b"")
        numeric = np.array([[row.pop(name) for name in columns]], dtype=np.float32)
        found = session.run((*OUTPUTS, *EXPLAINING), {"numeric": numeric})
        row.update({name: value[0].item() for name, value in zip(OUTPUTS, found, strict=False)})
        row.update(event_id=f"{message.partition()}-{message.offset()}", model_version=version)
        reasons: list[dict[str, Any]] = []
        if row["alarm"]:
            contribution, expected = (found[len(OUTPUTS) + i][0] for i in (1, 2))
            reasons = [
                {"column": columns[j], "contribution": float(contribution[j]), "expected": float(expected[j])}
                for j in np.argsort(-contribution)[:3]
            ]
        row["reasons"] = reasons
        producer.produce(task.sink, orjson.dumps(row), message.key())
        done += 1
        if done % EVERY == 0:
            producer.flush()
            consumer.commit(asynchronous=False)
    took = _took(began_s, began_cpu_s, task.records)
    consumer.close()
    return took


def _took(began_s: float, began_cpu_s: float, records: int) -> dict[str, float]:
    wall_s = time.perf_counter() - began_s
    return {"records_per_s": records / wall_s, "cpu_s": time.process_time() - began_cpu_s, "wall_s": wall_s}


def main(argument: str) -> Mapping[str, float]:
    """Does a task."""
    task = Task(**json.loads(argument))
    return one_by_one(task) if task.way == "single" else pump_through(task)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
