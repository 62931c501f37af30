"""The calibration as the last part of a graph: two scores in, p-values and a verdict out.

The part stands by itself: its nodes and initializers bear names of their own, so that a recalibration takes it off and puts
another on, and the scoring part stays as it is, byte for byte.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from anomvae.bundle.promise import DECISIONS
from anomvae.calibration.tail import LEAST_P

if TYPE_CHECKING:
    from anomvae.calibration import CalibrationTables

PREFIX = "calibration/"
ALARM_RATE = "alarm_rate"
GROUP = "group"
NARROW = 64
"""Entries a row up to which whole numbers are added; wider ones add two to three times as fast as floats, for one node more."""
SCORES = ("score", "reconstruction_error")


def calibration_outputs(tables: CalibrationTables) -> tuple[str, ...]:
    """Outputs that a calibration adds to a graph, in its order."""
    joint = ("p_value_verdict",) if tables.decision == "both" else ()
    pooled = ("pooled",) if tables.has_groups else ()
    return ("p_value", "p_value_reconstruction", *joint, "alarm", "tail", *pooled)


def append_calibration(model: onnx.ModelProto, tables: CalibrationTables, alarm_rate: float) -> None:
    """Adds a calibration to a graph that has the outputs `score` and `reconstruction_error`; takes an older one off.

    Inputs with an initializer of the same name are optional, and its value is the default: `alarm_rate`, and with groups
    `group`, whose default, one number for all rows, means the pooled table.

    Args:
        model: Changed in place.
        tables: The calibration.
        alarm_rate: Default of the input.
    """
    take_off(model)
    part = _Part(model.graph, tables)
    part.build(alarm_rate)
    kinds = {"alarm": TensorProto.BOOL, "tail": TensorProto.BOOL, "pooled": TensorProto.BOOL}
    outputs = {output.name: output for output in model.graph.output}
    added = [
        helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), ["n"])
        for name in calibration_outputs(tables)
    ]
    rest = [output for name, output in outputs.items() if name not in SCORES]
    kept = [outputs[name] for name in SCORES]
    del model.graph.output[:]
    model.graph.output.extend([*kept, *added, *rest])


def take_off(model: onnx.ModelProto) -> None:
    """Removes a calibration; what is left scores."""
    graph = model.graph
    for parts in (graph.node, graph.initializer):
        kept = [part for part in parts if not part.name.startswith(PREFIX) and part.name not in (ALARM_RATE, GROUP)]
        del parts[:]
        parts.extend(kept)
    inputs = [value for value in graph.input if value.name not in (ALARM_RATE, GROUP)]
    del graph.input[:]
    graph.input.extend(inputs)
    made = {name for node in graph.node for name in node.output}
    outputs = [value for value in graph.output if value.name in made]
    del graph.output[:]
    graph.output.extend(outputs)


def scoring_digest(graph: bytes) -> str:
    """Digest of all of a graph but its calibration: the network's weights, exemplars and arithmetic.

    Args:
        graph: The ONNX file.
    """
    model = onnx.load_from_string(graph)
    take_off(model)
    return f"sha256:{hashlib.sha256(model.graph.SerializeToString(deterministic=True)).hexdigest()}"


class _Part:
    """Builds the calibration's nodes; arguments as for :func:`append_calibration`."""

    def __init__(self, graph: onnx.GraphProto, tables: CalibrationTables) -> None:
        self.graph, self.tables = graph, tables

    def build(self, alarm_rate: float) -> None:
        """All of it: ranks, p-values, verdict."""
        tables = self.tables
        self._input(ALARM_RATE, np.asarray(alarm_rate, np.float32), [])
        table = self._table()
        columns = [self.node("Unsqueeze", [name, self.const("wide", np.array([1, 2]))]) for name in SCORES]
        scores = self.node("Concat", columns, axis=1)  # (n, 2, 1)
        rank = self._ranks(scores, table)  # (n, 2)
        place = self._from_start(rank, table)
        stepped = p = self.node("Gather", [self.const("by_rank", tables.by_rank), place])
        if tables.has_tail:
            beyond = self.node("Equal", [rank, self.const("zero", np.int32(0))])
            flat = self.node("Squeeze", [scores, self._axis(2)])
            p = self.node("Where", [beyond, self.node("Min", [stepped, self._survival(flat, table)]), stepped])
        for side, name in enumerate(("p_value", "p_value_reconstruction")):
            self._column(p, side, name)
        step, verdict = self._verdict(p, stepped, place)
        self.node("LessOrEqual", [verdict, ALARM_RATE], "alarm")
        self.node("Less", [verdict, step], "tail")

    def _from_start(self, rank: str, table: str) -> str:
        """Places in `by_rank`: ranks counted from where the row's table begins."""
        if not table:
            return rank
        return self.node("Add", [rank, self._of_table(self.tables.rank_start[:, None], "rank_start", table)])

    def _verdict(self, p: str, stepped: str, place: str) -> tuple[str, str]:
        """The verdict's p-value without the tail, and with it."""
        tables = self.tables
        if tables.decision != "both":
            side = DECISIONS.index(tables.decision)
            name = ("p_value", "p_value_reconstruction")[side]
            return (self._column(stepped, side) if tables.has_tail else name), name
        # The joint rank is the smaller of 2 a and 2 b + 1; both are counted from twice the table's start.
        doubled = self.node("Mul", [place, self.const("two", np.int32(2))])
        sides = self.node("Add", [doubled, self.const("sides", np.array([[0, 1]], dtype=np.int32))])
        joint = self.node("ReduceMin", [sides, self._axis(1)], keepdims=0)
        name = "" if tables.has_tail else "p_value_verdict"
        step = self.node("Gather", [self.const("by_both", tables.by_both), joint], name)
        if not tables.has_tail:
            return step, step
        least = self.node("ReduceMin", [p, self._axis(1)], keepdims=0)
        twice = self.node("Mul", [least, self.const("double", np.float32(2.0))])
        return step, self.node("Min", [step, twice], "p_value_verdict")

    def _ranks(self, scores: str, table: str) -> str:
        """Calibration scores that each score does not pass, int32, shape ``(n, 2)``."""
        tables = self.tables
        if not tables.first.shape[2]:
            return self._count(self._block(self._of_table(tables.start, "start", table)), scores)
        passed = self._count(self._of_table(tables.first, "first", table), scores)
        block = self.node("Add", [passed, self._of_table(tables.start, "start", table)])
        within = self._count(self._block(block), scores)
        before = self.node("Mul", [passed, self.const("width", np.int32(tables.blocks.shape[1]))])
        return self.node("Add", [before, within])

    def _block(self, number: str) -> str:
        return self.node("Gather", [self.const("blocks", self.tables.blocks), number])

    def _count(self, entries: str, scores: str) -> str:
        """How many entries along the last dimension a score does not pass, int32; padding and NaN count for nothing."""
        reached = self.node("GreaterOrEqual", [entries, scores])
        if self.tables.blocks.shape[1] <= NARROW:
            return self.node(
                "ReduceSum", [self.node("Cast", [reached], to=TensorProto.INT32), self._axis(2)], keepdims=0
            )
        total = self.node("ReduceSum", [self.node("Cast", [reached], to=TensorProto.FLOAT), self._axis(2)], keepdims=0)
        return self.node("Cast", [total], to=TensorProto.INT32)

    def _survival(self, scores: str, table: str) -> str:
        """P-values by the tails, shape ``(n, 2)``."""
        parts = self._of_table(self.tables.tails, "tails", table)  # (n, 2, 4)
        names = ("threshold", "inverse_scale", "shape", "share")
        threshold, inverse_scale, shape, share = (
            self.node("Gather", [parts, self.const(name, np.int64(i))], axis=2) for i, name in enumerate(names)
        )
        largest = self.const("largest", np.float32(np.finfo(np.float32).max))
        difference = self.node("Sub", [scores, threshold])
        odd = self.node("Or", [self.node("IsNaN", [scores]), self.node("IsInf", [scores])])
        z = self.node("Mul", [self.node("Where", [odd, largest, difference]), inverse_scale])
        z = self.node("Max", [z, self.const("nought", np.float32(0.0))])
        smallest = self.const("smallest", np.float32(LEAST_P))
        base = self.node("Add", [self.node("Mul", [shape, z]), self.const("unity", np.float32(1.0))])
        log = self.node("Log", [self.node("Max", [base, smallest])])
        power = self.node("Exp", [self.node("Neg", [self.node("Div", [log, shape])])])
        return self.node("Max", [self.node("Mul", [share, power]), smallest])

    def _table(self) -> str:
        """The number of each row's table; one number for all where none is given."""
        pooled = len(self.tables.rows) - 1
        if not self.tables.has_groups:
            return ""
        self._input(GROUP, np.array([pooled]), ["g"], TensorProto.INT64)
        last = self.const("pooled", np.int64(pooled))
        known = self.node(
            "And",
            [
                self.node("GreaterOrEqual", [GROUP, self.const("first_group", np.int64(0))]),
                self.node("Less", [GROUP, last]),
            ],
        )
        table = self.node("Expand", [self.node("Where", [known, GROUP, last]), self.node("Shape", ["score"])])
        self.node("Equal", [table, last], "pooled")
        return table

    def _of_table(self, parts: np.ndarray, name: str, table: str) -> str:
        """A part of each row's table; of the only one, where there are no groups."""
        if table:
            return self.node("Gather", [self.const(name, parts), table])
        return self.const(name, parts)

    def _column(self, matrix: str, side: int, name: str = "") -> str:
        return self.node("Gather", [matrix, self.const(f"side_{side}", np.int64(side))], name, axis=1)

    def _axis(self, number: int) -> str:
        """An axis, counted from the first: ONNX Runtime counts from the last wrongly in a call of no rows."""
        return self.const(f"axis_{number}", np.array([number]))

    def const(self, name: str, value: np.ndarray | np.generic) -> str:
        """An initializer, added once."""
        full = f"{PREFIX}{name}"
        if not any(known.name == full for known in self.graph.initializer):
            self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), full))
        return full

    def node(self, kind: str, inputs: list[str], output: str = "", **attributes: int) -> str:
        """A node; its one output gets a name of the calibration's unless it is one of the graph's."""
        name = f"{PREFIX}{len(self.graph.node)}"
        output = output or f"{name}/{kind}"
        self.graph.node.append(helper.make_node(kind, inputs, [output], name, **attributes))
        return output

    def _input(self, name: str, default: np.ndarray, shape: list[str], kind: int = TensorProto.FLOAT) -> None:
        """An optional input with its default."""
        self.graph.input.append(helper.make_tensor_value_info(name, kind, shape))
        self.graph.initializer.append(numpy_helper.from_array(default, name))
