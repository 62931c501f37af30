"""The calibration as the last part of a graph: it answers as the tables do, and comes off and on again without a trace."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from anomvae.bundle.promise import DECISIONS
from anomvae.calibration import CalibrationTables, Table, TailParameters, conditional_p_values
from anomvae.calibration.tables import NO_TAIL
from anomvae.data.encoding import EncodedRows
from anomvae.errors import ParityError
from anomvae.export.calibration_graph import (
    ALARM_RATE,
    GROUP,
    PREFIX,
    append_calibration,
    calibration_outputs,
    scoring_digest,
    take_off,
)
from anomvae.export.graph import finish, recalibrated_graph
from anomvae.export.parity import check_recalibrated
from anomvae.scoring.session import GraphSession

if TYPE_CHECKING:
    from tests.export.conftest import Exported

Arrays = dict[str, npt.NDArray[Any]]

TAIL = TailParameters(12.0, 5.0, 0.25, 0.1)
LIGHT_TAIL = TailParameters(9.0, 5.0, -0.2, 0.12)
TAILS = {"no tail": (NO_TAIL, NO_TAIL), "tail": (TAIL, LIGHT_TAIL), "one tail": (NO_TAIL, TAIL)}
SIZES = (1, 2, 127, 128, 129, 1000, 20_000)


def scoring_part() -> onnx.ModelProto:
    """A graph whose two scores are its two numbers."""
    picks = [numpy_helper.from_array(np.array(j), f"pick_{j}") for j in (0, 1)]
    nodes = [
        helper.make_node("Gather", ["numeric", "pick_0"], ["score"], "first", axis=1),
        helper.make_node("Gather", ["numeric", "pick_1"], ["reconstruction_error"], "second", axis=1),
        helper.make_node("Identity", ["numeric"], ["contribution"], "same"),
    ]
    given = [helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["n", 2])]
    answers = [
        *(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("score", "reconstruction_error")),
        helper.make_tensor_value_info("contribution", TensorProto.FLOAT, ["n", 2]),
    ]
    graph = helper.make_graph(nodes, "scores", given, answers, picks)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def calibrated(tables: CalibrationTables, alarm_rate: float = 0.05) -> bytes:
    model = scoring_part()
    append_calibration(model, tables, alarm_rate)
    return finish(model)


def part(m: int, seed: int = 0, confidence: float | None = None, tails: Any = TAILS["no tail"]) -> Table:
    draw = np.random.default_rng([m, seed])
    score = 8 * draw.normal(size=m)
    error = np.round(0.5 * score + 6 * draw.normal(size=m), 1)  # with ties
    return Table(score, error, None if confidence is None or not m else conditional_p_values(m, confidence), tails)


def tables_of(kind: str, m: int, decision: str, tail: str, confidence: float | None = None) -> CalibrationTables:
    pooled = part(m, 0, confidence, TAILS[tail])
    groups = [part(size, 1, confidence) for size in (min(m, 150), 1, 0, 40)] if kind == "groups" else []
    return CalibrationTables.of([*groups, pooled], decision)


def new_rows(tables: CalibrationTables, n: int = 300, seed: int = 0) -> EncodedRows:
    """Scores in the body and far out, scores of calibration rows, and what is no number; groups that are and are not."""
    draw = np.random.default_rng(seed)
    wild = np.array([np.nan, np.inf, -np.inf, 1e9, -1e9, 3e38, 0.0], dtype=np.float32)
    numbers = (12 * draw.normal(size=(n, 2))).astype(np.float32)
    known = tables.blocks[~np.isnan(tables.blocks)]
    if len(known):
        numbers[n // 2 : n // 2 + 40] = draw.choice(known, (40, 2))
    numbers[: 2 * len(wild), 0] = np.tile(wild, 2)
    numbers[len(wild) : 3 * len(wild), 1] = np.tile(wild, 2)
    numbers[-40:] *= 5
    group = draw.choice([-1, 0, 1, 2, 3, 4, 5, 2**62, -(2**62)], n) if tables.has_groups else None
    return EncodedRows(numbers, np.zeros((n, 0), dtype=np.int64), group)


def same(found: Arrays, tables: CalibrationTables, rows: EncodedRows, rate: float) -> None:
    wanted = tables.verdicts(rows.numeric[:, 0], rows.numeric[:, 1], rate, rows.group)
    for name in calibration_outputs(tables):
        answer, right = found[name], getattr(wanted, name)
        assert answer.shape == right.shape == (len(rows),)
        if answer.dtype == np.bool_:
            on_edge = wanted.tail & (np.abs(wanted.p_value_verdict / np.float32(rate) - 1) < 1e-5)
            np.testing.assert_array_equal(answer[~on_edge], right[~on_edge], name)
        else:
            np.testing.assert_allclose(answer, right, rtol=1e-5, atol=1e-12, err_msg=name)
            np.testing.assert_array_equal(
                answer[~wanted.tail & (answer == right)], right[~wanted.tail & (answer == right)]
            )


@pytest.mark.parametrize("m", SIZES)
@pytest.mark.parametrize("kind", ["one table", "groups"])
@pytest.mark.parametrize("tail", list(TAILS))
@pytest.mark.parametrize("decision", DECISIONS)
def test_the_graph_answers_as_the_tables(decision: str, tail: str, kind: str, m: int) -> None:
    tables = tables_of(kind, m, decision, tail)
    session, rows = GraphSession(calibrated(tables)), new_rows(tables)
    same(session.run(rows, session.outputs), tables, rows, 0.05)
    for rate in (1e-6, 1 / (m + 1), 0.3):
        same(session.run(rows, session.outputs, rate), tables, rows, rate)
    assert session.outputs == ("score", "reconstruction_error", *calibration_outputs(tables), "contribution")


@pytest.mark.parametrize("decision", DECISIONS)
@pytest.mark.parametrize("kind", ["one table", "groups"])
@pytest.mark.parametrize("tail", list(TAILS))
def test_bounds_that_hold_for_the_calibration_rows_go_into_the_graph_too(decision: str, kind: str, tail: str) -> None:
    tables = tables_of(kind, 500, decision, tail, confidence=0.9)
    session, rows = GraphSession(calibrated(tables)), new_rows(tables)
    for rate in (0.01, 0.05, 0.3):
        same(session.run(rows, session.outputs, rate), tables, rows, rate)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 400),
    st.lists(st.integers(0, 300), max_size=4),
    st.sampled_from(DECISIONS),
    st.sampled_from(list(TAILS)),
    st.integers(0, 10**6),
)
def test_it_does_so_for_tables_of_any_sizes(m: int, sizes: list[int], decision: str, tail: str, seed: int) -> None:
    groups = [part(size, seed) for size in sizes]
    tables = CalibrationTables.of([*groups, part(m, seed + 1, None, TAILS[tail])], decision)
    session, rows = GraphSession(calibrated(tables)), new_rows(tables, 120, seed)
    same(session.run(rows, session.outputs), tables, rows, 0.05)


@pytest.mark.parametrize("kind", ["one table", "groups"])
@pytest.mark.parametrize("tail", ["no tail", "tail"])
@pytest.mark.parametrize("m", [128, 1000])
def test_a_rows_verdict_is_the_same_bits_in_any_batch(kind: str, tail: str, m: int) -> None:
    tables = tables_of(kind, m, "both", tail)
    session, rows = GraphSession(calibrated(tables)), new_rows(tables)
    whole = session.run(rows, session.outputs)
    for size in (0, 1, 2, 15, 16, 17, 64, 299):
        for start in {0, 1, 300 - size}:
            found = session.run(rows.take(slice(start, start + size)), session.outputs)
            for name, array in found.items():
                assert array.tobytes() == whole[name][start : start + size].tobytes(), name


@pytest.mark.parametrize("n", [0, 1, 5, 16])
@pytest.mark.parametrize("m", [50, 500])
def test_the_group_may_be_left_out_told_once_or_told_of_each_row(n: int, m: int) -> None:
    tables = tables_of("groups", m, "both", "tail")
    session = GraphSession(calibrated(tables))._session
    rows = new_rows(tables).numeric[:n]
    pooled = len(tables.rows) - 1

    def asked(**more: Any) -> list[bytes]:
        return [array.tobytes() for array in session.run(None, {"numeric": rows, **more})]

    assert asked() == asked(group=np.full(n, pooled)) == asked(group=np.array([-3]))
    for number in range(pooled):
        assert asked(group=np.array([number])) == asked(group=np.full(n, number))
        if n > 1:
            assert asked(group=np.array([number])) != asked()


def test_the_alarm_rate_may_be_left_out() -> None:
    tables = tables_of("one table", 200, "elbo", "no tail")
    session = GraphSession(calibrated(tables, 0.1))._session
    rows = new_rows(tables).numeric
    (left_out,) = session.run(["alarm"], {"numeric": rows})
    (said,) = session.run(["alarm"], {"numeric": rows, "alarm_rate": np.array(0.1, np.float32)})
    (other,) = session.run(["alarm"], {"numeric": rows, "alarm_rate": np.array(0.4, np.float32)})
    assert left_out.tobytes() == said.tobytes()
    assert other.sum() > said.sum() > 0


def test_a_graph_without_groups_takes_none_and_rows_may_know_them_all_the_same() -> None:
    tables = tables_of("one table", 200, "both", "no tail")
    session = GraphSession(calibrated(tables))
    rows = new_rows(tables)
    assert not session.has_groups
    assert "pooled" not in session.outputs
    told = session.run(replace(rows, group=np.zeros(len(rows), dtype=np.int64)), session.outputs)
    for name, array in session.run(rows, session.outputs).items():
        assert array.tobytes() == told[name].tobytes()


def test_each_output_is_worth_only_its_own_part() -> None:
    """What is not asked for is not computed, so that each output must come by itself."""
    tables = tables_of("groups", 300, "both", "tail")
    session, rows = GraphSession(calibrated(tables)), new_rows(tables)
    whole = session.run(rows, session.outputs)
    for name in session.outputs:
        assert session.run(rows, [name])[name].tobytes() == whole[name].tobytes()


OTHERS = [
    ("one table", 60, "elbo", "no tail"),
    ("one table", 300, "reconstruction", "tail"),
    ("groups", 40, "both", "tail"),
    ("groups", 500, "both", "no tail"),
]


def untouched(graph: bytes) -> list[bytes]:
    """Inputs, nodes, weights and outputs of the scoring part, each to the byte."""
    model = onnx.load_from_string(graph)
    names = {*calibration_outputs(tables_of("groups", 9, "both", "tail")), ALARM_RATE, GROUP}
    parts = (*model.graph.input, *model.graph.node, *model.graph.initializer, *model.graph.output)
    return [
        part.SerializeToString(deterministic=True)
        for part in parts
        if not part.name.startswith(PREFIX) and part.name not in names
    ]


@pytest.mark.parametrize("asked", OTHERS, ids=str)
def test_a_recalibration_leaves_the_scoring_part_as_it_is_to_the_byte(each: Exported, asked: Any) -> None:
    tables = tables_of(*asked)
    again = recalibrated_graph(each.graph, tables, 0.2)
    assert scoring_digest(again) == scoring_digest(each.graph)
    assert untouched(again) == untouched(each.graph)
    before, session = each.session, GraphSession(again)
    rows = each.rows if tables.has_groups else replace(each.rows, group=None)
    if tables.has_groups and rows.group is None:
        rows = replace(rows, group=np.arange(1000) % 6)
    found, old = session.run(rows, session.outputs), before.run(each.rows, before.outputs)
    for name in set(before.outputs) - set(calibration_outputs(each.tables)):
        assert found[name].tobytes() == old[name].tobytes()
    pair = np.stack([found["score"], found["reconstruction_error"]], axis=1).astype(np.float32)
    same(found, tables, EncodedRows(pair, rows.categorical, rows.group), 0.2)


@pytest.mark.parametrize("first", OTHERS, ids=str)
def test_recalibrating_twice_equals_recalibrating_once(mixed: Exported, first: Any) -> None:
    between = recalibrated_graph(mixed.graph, tables_of(*first), 0.3)
    for asked in OTHERS:
        tables = tables_of(*asked)
        assert recalibrated_graph(between, tables, 0.1) == recalibrated_graph(mixed.graph, tables, 0.1)
    assert recalibrated_graph(between, mixed.tables, 0.05) == mixed.graph


def test_a_calibration_comes_off_without_a_trace() -> None:
    bare = scoring_part()
    for asked in OTHERS:
        model = scoring_part()
        append_calibration(model, tables_of(*asked), 0.05)
        assert model != bare
        take_off(model)
        assert model == bare


def test_the_digest_is_that_of_all_but_the_calibration() -> None:
    graph = calibrated(tables_of(*OTHERS[0]))
    assert scoring_digest(graph) == scoring_digest(calibrated(tables_of(*OTHERS[2]), 0.2))
    model = onnx.load_from_string(graph)
    for position, tensor in enumerate(model.graph.initializer):
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        values = numpy_helper.to_array(tensor)
        changed.graph.initializer[position].CopyFrom(
            numpy_helper.from_array(np.asarray(values + 1, values.dtype), tensor.name)
        )
        is_calibration = tensor.name.startswith(PREFIX) or tensor.name == ALARM_RATE
        assert (scoring_digest(changed.SerializeToString()) == scoring_digest(graph)) == is_calibration


def test_a_graph_with_another_calibration_than_its_tables_is_refused() -> None:
    for asked in OTHERS:
        tables = tables_of(*asked)
        rows = replace(new_rows(tables), group=None)
        graph = calibrated(tables)
        check_recalibrated(graph, tables, rows, 0.05)
        other = CalibrationTables.of([part(len(rows), 5) for _ in tables.rows], tables.decision)
        with pytest.raises(ParityError, match="differs from its calibration tables'"):
            check_recalibrated(graph, replace(other, tails=tables.tails), rows, 0.05)
        with pytest.raises(ParityError, match="alarm differs"):
            check_recalibrated(graph, tables, rows, 0.4)


def test_all_nodes_are_the_standards_and_all_names_are_the_calibrations() -> None:
    model = onnx.load_from_string(calibrated(tables_of("groups", 300, "both", "tail")))
    onnx.checker.check_model(model, full_check=True)
    assert not any(node.domain for node in model.graph.node)
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
    added = [node for node in model.graph.node if node.name not in ("first", "second", "same")]
    assert all(node.name.startswith(PREFIX) for node in added)
