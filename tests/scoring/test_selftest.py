from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from anomvae.bundle import Column
from anomvae.errors import BundleError, ScoringError
from anomvae.scoring import GraphSession
from anomvae.scoring.selftest import DEVICE_TOLERANCE, probe_rows, self_test, settle_chunk

if TYPE_CHECKING:
    from collections.abc import Callable

    from anomvae.bundle import Bundle, Manifest
    from anomvae.data.encoding import EncodedRows

NUMBERS = (Column("height", "numeric", "double", mean=3.0, std=2.0), Column("weight", "numeric", "double"))
KINDS = (
    Column("material", "categorical", "string", categories=("steel", "brass"), missing_code=2),
    Column("cooled", "boolean", "bool", categories=("false", "true")),
)


@pytest.fixture
def manifest(fitted: Bundle) -> Manifest:
    """A manifest of two numbers."""
    return dataclasses.replace(fitted.manifest, columns=NUMBERS)


def graph(*, scored_by: str = "sum", p_value: float = 0.5, alarms_above: float = 1e9, outputs: int = 3) -> GraphSession:
    """A session of a little graph: a score out of two numbers, a p-value, a verdict.

    Args:
        scored_by: `sum` of a row's numbers; `nan`: its logarithm, NaN below zero; `mates`: less the mean over the batch;
            `more`: the sum, off by twice the tolerance.
        p_value: Of every row.
        alarms_above: Score above which rows alarm.
        outputs: How many of the three it has.
    """

    def constant(name: str, number: float) -> onnx.NodeProto:
        return helper.make_node(
            "Constant", [], [name], value=helper.make_tensor(name, TensorProto.FLOAT, [1], [number])
        )

    nodes = [
        constant("zero", 0.0),
        constant("level", p_value),
        constant("limit", alarms_above),
        constant("factor", 1 + 2 * DEVICE_TOLERANCE),
        helper.make_node("Constant", [], ["axes"], value=helper.make_tensor("axes", TensorProto.INT64, [1], [1])),
        helper.make_node("IsNaN", ["numeric"], ["gone"]),
        helper.make_node("Where", ["gone", "zero", "numeric"], ["there"]),
        helper.make_node("ReduceSum", ["there", "axes"], ["total"], keepdims=0),
    ]
    if scored_by == "sum":
        nodes.append(helper.make_node("Identity", ["total"], ["score"]))
    elif scored_by == "nan":
        nodes.append(helper.make_node("Log", ["total"], ["score"]))
    elif scored_by == "more":
        nodes.append(helper.make_node("Mul", ["total", "factor"], ["score"]))
    else:
        nodes += [
            helper.make_node("ReduceMean", ["total"], ["middle"], keepdims=1),
            helper.make_node("Sub", ["total", "middle"], ["score"]),
        ]
    nodes += [
        helper.make_node("Mul", ["total", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "level"], ["p_value"]),
        helper.make_node("Greater", ["score", "limit"], ["alarm"]),
    ]
    answers = [("score", TensorProto.FLOAT), ("p_value", TensorProto.FLOAT), ("alarm", TensorProto.BOOL)]
    made = helper.make_graph(
        nodes,
        "little",
        [helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info(name, kind, ["n"]) for name, kind in answers[:outputs]],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return GraphSession(model.SerializeToString())


def test_a_fitted_detector_passes_and_is_no_way_from_itself(fitted: Bundle) -> None:
    session = GraphSession(fitted.graph, fitted.manifest.width)
    assert self_test(session, fitted.manifest) == 0.0
    assert self_test(session, fitted.manifest, session) == 0.0


def test_a_sound_graph_passes(manifest: Manifest) -> None:
    assert self_test(graph(), manifest) == 0.0


@pytest.mark.parametrize(
    ("flaw", "said"),
    [
        ({"scored_by": "nan"}, "that are none"),
        ({"p_value": 0.0}, "that are none"),
        ({"p_value": 1.5}, "that are none"),
        ({"p_value": float("nan")}, "that are none"),
        ({"scored_by": "mates"}, "when others come with it"),
        ({"outputs": 1}, "without scores, p-values or alarms"),
        ({"outputs": 2}, "without scores, p-values or alarms"),
    ],
)
def test_a_graph_that_answers_as_none_should_is_refused(manifest: Manifest, flaw: dict[str, Any], said: str) -> None:
    with pytest.raises(BundleError, match=said):
        self_test(graph(**flaw), manifest)


def test_a_graph_that_fails_on_the_detectors_columns_is_refused(manifest: Manifest) -> None:
    wider = dataclasses.replace(manifest, columns=(*NUMBERS, Column("age", "numeric", "double")))
    with pytest.raises(BundleError, match="fails on probe rows"):
        self_test(graph(), wider)


def failing(session: GraphSession, when: Callable[[int], bool]) -> GraphSession:
    """A session that lacks memory for calls of some sizes."""
    run = session.run

    def run_or_fail(rows: EncodedRows, *arguments: Any) -> Any:
        if when(len(rows)):
            raise MemoryError
        return run(rows, *arguments)

    session.run = run_or_fail  # type: ignore[method-assign, assignment]
    return session


def test_a_run_that_fails_for_a_reason_that_may_pass_is_no_fault_of_the_bundle(manifest: Manifest) -> None:
    for session, reference in (
        (failing(graph(), lambda n: n == 64), None),
        (failing(graph(), lambda n: n == 1), None),
        (failing(graph(), lambda n: n == 17), graph()),
        (graph(), failing(graph(), lambda n: n == 64)),
    ):
        with pytest.raises(ScoringError, match=r"fails on probe rows \(MemoryError\)"):
            self_test(session, manifest, reference)


def test_a_chunk_that_cannot_be_run_is_not_taken(manifest: Manifest) -> None:
    session = failing(graph(), lambda n: n > 256)
    settle_chunk(session, manifest)
    assert session.chunk_rows <= 256
    without_memory = failing(graph(), lambda _: True)
    settle_chunk(without_memory, manifest)
    assert without_memory.chunk_rows == 128


def test_a_device_must_score_a_row_alike_in_any_company(manifest: Manifest) -> None:
    with pytest.raises(BundleError, match="when others come with it"):
        self_test(graph(scored_by="mates"), manifest, graph(scored_by="mates"))


def test_a_device_may_differ_in_the_last_digits_and_no_more(manifest: Manifest) -> None:
    with pytest.raises(BundleError, match="otherwise on this device than on the CPU"):
        self_test(graph(scored_by="more"), manifest, graph())
    with pytest.raises(BundleError, match="otherwise on this device than on the CPU"):
        self_test(graph(), manifest, graph(scored_by="nan"))


def test_a_device_must_give_the_cpus_verdicts_but_at_the_threshold_itself(manifest: Manifest) -> None:
    scores = graph().run(probe_rows(manifest), ["score"])["score"].astype(np.float64)
    middle = float(np.sort(scores)[32])
    at_middle = dataclasses.replace(manifest.calibration, decision="elbo", score_threshold=middle)
    with pytest.raises(BundleError, match="otherwise on this device"):
        self_test(graph(alarms_above=-1e9), dataclasses.replace(manifest, calibration=at_middle), graph())
    nearly = middle * (1 + 0.2 * DEVICE_TOLERANCE)
    near = (scores > min(middle, nearly)) & (scores <= max(middle, nearly))
    assert near.sum() <= 1
    apart = self_test(
        graph(alarms_above=nearly), dataclasses.replace(manifest, calibration=at_middle), graph(alarms_above=middle)
    )
    assert apart == 0.0


@pytest.mark.parametrize(
    ("columns", "widths"), [(NUMBERS, (2, 0)), (KINDS, (0, 2)), ((*NUMBERS, *KINDS), (2, 2)), ((), (0, 0))]
)
def test_probe_rows_fit_any_detector(manifest: Manifest, columns: tuple[Column, ...], widths: tuple[int, int]) -> None:
    rows = probe_rows(dataclasses.replace(manifest, columns=columns), 50)
    assert rows.numeric.shape == (50, widths[0])
    assert rows.categorical.shape == (50, widths[1])
    assert rows.numeric.dtype == np.float32
    assert rows.categorical.dtype == np.int64
    assert len(rows) == 50


def test_probe_rows_hold_missing_cells_and_every_category_and_are_the_same_each_time(manifest: Manifest) -> None:
    mixed = dataclasses.replace(manifest, columns=(*NUMBERS, *KINDS))
    rows, again = probe_rows(mixed), probe_rows(mixed)
    np.testing.assert_array_equal(rows.numeric, again.numeric)
    np.testing.assert_array_equal(rows.categorical, again.categorical)
    assert 0 < np.isnan(rows.numeric).mean() < 0.5
    assert [len(set(codes)) for codes in rows.categorical.T.tolist()] == [4, 3]
    assert not np.isinf(rows.numeric).any()
