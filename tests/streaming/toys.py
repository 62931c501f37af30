"""What tests of the lanes and the pump share: a graph of series that one can follow by hand, and a log that crashes."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import orjson
from onnx import TensorProto, helper

from anomvae.bundle.manifest import Calibration, Column, LeftOut, Manifest, Provenance, SeriesFacts, Split
from anomvae.scoring.session import GraphSession
from anomvae.streaming.codec import JsonCodec
from anomvae.streaming.contracts import Delivery, Origin, Outgoing, Place, Progress, Record
from anomvae.streaming.graph_runner import StreamModel
from anomvae.streaming.series_lane import SeriesLane
from anomvae.streaming.settings import AnswerSettings, EventSettings, WindowSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

WINDOW, COLUMNS = 4, ("flow", "heat")
THRESHOLD = 3.0
NOW_S = 2_000_000_000.0


def toy_score(window: npt.NDArray[np.float32], asset: int) -> float:
    """What :func:`toy_graph` answers for one window, missing cells being zero."""
    cells = np.nan_to_num(window)
    ramp = np.arange(1, len(cells) + 1, dtype=np.float32)[:, None] / 10
    return float(np.abs(cells[-1]).mean() + (cells * ramp).mean() + 0.25 * asset)


def toy_graph(window: int = WINDOW, width: int = len(COLUMNS)) -> bytes:
    """A graph of series: the score is the newest step's mean, plus something of every step and of the asset's number."""
    node, ramp = helper.make_node, np.arange(1, window + 1, dtype=np.float32).reshape(1, window, 1) / 10
    nodes = [
        node("IsNaN", ["series"], ["missing"]),
        node("Where", ["missing", "zero", "series"], ["cells"]),
        node("Gather", ["cells", "last"], ["newest"], axis=1),
        node("Abs", ["newest"], ["contribution"]),
        node("ReduceMean", ["contribution", "axis1"], ["of_newest"], keepdims=0),
        node("Mul", ["cells", "ramp"], ["ramped"]),
        node("ReduceMean", ["ramped", "axes12"], ["of_window"], keepdims=0),
        node("Cast", ["asset"], ["number"], to=TensorProto.FLOAT),
        node("Mul", ["number", "quarter"], ["of_asset"]),
        node("Add", ["of_newest", "of_window"], ["both"]),
        node("Add", ["both", "of_asset"], ["score"]),
        node("Abs", ["score"], ["size"]),
        node("Add", ["size", "one"], ["above"]),
        node("Div", ["one", "above"], ["p_value"]),
        node("Mul", ["score", "quarter"], ["reconstruction_error"]),
        node("Greater", ["score", "threshold"], ["alarm"]),
        node("Greater", ["score", "far"], ["tail"]),
        node("ReduceMean", ["cells", "axis1"], ["expected"], keepdims=0),
    ]
    constants = {
        "zero": np.float32(0), "one": np.float32(1), "quarter": np.float32(0.25), "threshold": np.float32(THRESHOLD),
        "far": np.float32(10 * THRESHOLD), "last": np.int64(-1), "axis1": np.array([1]), "axes12": np.array([1, 2]), "ramp": ramp,
    }  # fmt: skip
    inputs = [
        helper.make_tensor_value_info("series", TensorProto.FLOAT, ["n", window, width]),
        helper.make_tensor_value_info("asset", TensorProto.INT64, ["n"]),
    ]
    flat = {"score": TensorProto.FLOAT, "p_value": TensorProto.FLOAT, "reconstruction_error": TensorProto.FLOAT,
            "alarm": TensorProto.BOOL, "tail": TensorProto.BOOL}  # fmt: skip
    outputs = [helper.make_tensor_value_info(name, kind, ["n"]) for name, kind in flat.items()]
    outputs += [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width]) for name in ("contribution", "expected")
    ]
    made = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "toy", inputs, outputs, made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def toy_manifest(window: int = WINDOW, columns: Sequence[str] = COLUMNS, **facts: Any) -> Manifest:
    """A manifest that goes with :func:`toy_graph`; steps of a second."""
    made = {"time": "when", "asset": "machine", "asset_type": "string", "assets": ("A", "B"), "window": window,
            "stride": 1, "step_s": 1.0, "longest_gap": 2}  # fmt: skip
    return Manifest(
        name="toy",
        kind="series",
        model="vae",
        columns=tuple(Column(name, "numeric", "double") for name in columns),
        left_out=(LeftOut("when", "it orders the rows", "time"), LeftOut("machine", "it tells assets apart", "group")),
        split=Split("time", "when", 10, 10, 10),
        calibration=Calibration("split", 999_999, 0.01, 1e-6, "elbo", THRESHOLD, THRESHOLD),
        provenance=Provenance("toy", "sha256:0", 30, 0, "2026-01-01T00:00:00+00:00", 0.0),
        latent=1,
        series=SeriesFacts(**{**made, **facts}),
    )


_SESSIONS: dict[tuple[int, int], GraphSession] = {}


def toy_model(window: int = WINDOW, columns: Sequence[str] = COLUMNS, version: str = "1", **facts: Any) -> StreamModel:
    """The model of both."""
    key = (window, len(columns))
    if key not in _SESSIONS:
        _SESSIONS[key] = GraphSession(toy_graph(window, len(columns)), window * len(columns))
    return StreamModel(toy_manifest(window, columns, **facts), _SESSIONS[key], version)


def toy_lane(
    model: StreamModel | None = None,
    windows: WindowSettings | None = None,
    events: EventSettings | None = None,
    **settings: Any,
) -> SeriesLane:
    """A lane of the toy model, on a clock that stands still."""
    answering = AnswerSettings(**{"threads": 1, **settings})
    return SeriesLane(model or toy_model(), JsonCodec(), answering, windows, events, clock=lambda: NOW_S)


@dataclass
class Log:
    """Records of partitions, as a broker keeps them.

    Attributes:
        partitions: Payloads by partition; an offset is a position.
        stamp_s: What the broker says was the time of every record.
    """

    partitions: dict[int, list[bytes]] = field(default_factory=dict)
    stamp_s: float | None = NOW_S

    def add(self, partition: int, row: object) -> None:
        """Appends an object, or bytes as they are."""
        payload = row if isinstance(row, bytes) else orjson.dumps(row)
        self.partitions.setdefault(partition, []).append(payload)

    def record(self, partition: int, offset: int) -> Record:
        """One of them."""
        return Record(self.partitions[partition][offset], Origin("in", partition, offset), stamp_s=self.stamp_s)

    def records(self, order: Iterable[int]) -> list[Record]:
        """Records of partitions named one after the other, each the partition's next."""
        at = dict.fromkeys(self.partitions, 0)
        found = []
        for partition in order:
            found.append(self.record(partition, at[partition]))
            at[partition] += 1
        return found


class LogSource:
    """A source that reads a log and forgets nothing that was committed.

    Args:
        log: What it reads.
        committed: Progress by partition, shared with those that read before and after.
        order: Partition of each record to come; None: as they lie, partition by partition.
    """

    healthy = True

    def __init__(self, log: Log, committed: dict[Place, Progress], order: Sequence[int] | None = None) -> None:
        self._log, self._committed = log, committed
        self._order = list(order) if order is not None else []
        self._at: dict[int, int] = {}
        self._assigned: dict[Place, Progress] = {}
        self._revoked: list[Place] = []
        self.commits = 0

    def assign(self, *partitions: int) -> None:
        """Partitions that come with the next poll."""
        for partition in partitions:
            place = Place("in", partition)
            progress = self._committed.get(place, Progress(0, 0))
            self._assigned[place], self._at[partition] = progress, progress.replay_from

    def revoke(self, *partitions: int) -> None:
        """Partitions that go with the next poll."""
        for partition in partitions:
            self._revoked.append(Place("in", partition))
            del self._at[partition]

    def poll(self, most: int, wait_s: float) -> Delivery:
        """Up to `most` records, from the partitions in turn as `order` says."""
        records: list[Record] = []
        while len(records) < most and (partition := self._next()) is not None:
            records.append(self._log.record(partition, self._at[partition]))
            self._at[partition] += 1
        assigned, self._assigned = self._assigned, {}
        revoked, self._revoked = self._revoked, []
        return Delivery(records, assigned, revoked, ended=self._next() is None and not records)

    def _next(self) -> int | None:
        left = [partition for partition in self._at if self._at[partition] < len(self._log.partitions[partition])]
        while self._order:
            wished = self._order.pop()
            if wished in left:
                return wished
        return left[0] if left else None

    def commit(self, progress: Mapping[Place, Progress]) -> None:
        """Remembers."""
        self.commits += 1
        for place, found in progress.items():
            assert found.replay_from <= found.answered
            if place.partition in self._at:
                self._committed[place] = found

    def lag(self) -> Mapping[Place, int]:
        """Records unread."""
        return {Place("in", p): len(self._log.partitions[p]) - at for p, at in self._at.items()}

    def close(self) -> None:
        """Nothing to do."""


class ListSink:
    """A sink that keeps what it gets, and knows what of it was acknowledged."""

    healthy = True

    def __init__(self) -> None:
        self.messages: list[Outgoing] = []
        self.flushed = 0
        self.closed = False

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Keeps them."""
        self.messages += messages

    def flush(self) -> None:
        """All is acknowledged."""
        self.flushed = len(self.messages)

    def close(self) -> None:
        """Is remembered."""
        self.closed = True


def read(messages: Iterable[Outgoing]) -> list[dict[str, Any]]:
    """Messages as objects."""
    return [orjson.loads(message.payload) for message in messages]


def some_log(seed: int, n: int = 80, partitions: int = 2) -> Log:
    """Assets that go on, pause, repeat, come late and are off, alarms in runs, and records that nobody can read."""
    draw = random.Random(seed)
    log = Log({partition: [] for partition in range(partitions)})
    at: dict[str, float] = {}
    for number in range(n):
        partition = draw.randrange(partitions)
        machine = f"{draw.choice('ABC')}{partition}"
        at[machine] = at.get(machine, 1e9 + draw.randrange(3)) + draw.choice([1, 1, 1, 1, 2, 9, 0, -2])
        high = 6.0 if (number // 10) % 3 == 0 else 0.5
        row: dict[str, Any] = {
            "machine": machine,
            "when": at[machine],
            "flow": high + draw.random(),
            "heat": draw.random(),
            "n": number,
        }
        log.add(partition, (b"{" if draw.random() < 0.5 else {**row, "flow": "x"}) if draw.random() < 0.05 else row)
    return log


def close(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two messages say the same, numbers within 1e-5."""
    return one.keys() == other.keys() and all(_close(one[key], other[key]) for key in one)


def _close(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) < 1e-5
    if isinstance(one, dict):
        return close(one, other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_close, one, other))
    return bool(one == other)
