"""The one graph: it answers as the model, keeps its contract, and scores a row alike in any company."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from anomvae.bundle import FORMAT_VERSION
from anomvae.calibration import CalibrationTables, Table, p_values, threshold
from anomvae.data.encoding import EncodedRows
from anomvae.errors import BundleError, ParityError
from anomvae.export.agreement import TOLERANCE
from anomvae.export.calibration_graph import calibration_outputs
from anomvae.export.graph import export_graph, input_names, recalibrated_graph, score_names
from anomvae.export.parity import BATCH_SIZES, PROBE_ROWS, check_parity, probe_rows
from anomvae.scoring.session import GraphSession
from anomvae.vae.scores import RowScorer

if TYPE_CHECKING:
    import numpy.typing as npt

    from tests.export.conftest import Exported

    Arrays = dict[str, npt.NDArray[Any]]

RATE = 0.05


def probes(exported: Exported) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    cardinalities = exported.scorer.model.layout.cardinalities
    return probe_rows(exported.rows.numeric, exported.rows.categorical, cardinalities, seed=0)


def from_torch(exported: Exported, rows: EncodedRows, rate: float = RATE) -> Arrays:
    with torch.no_grad():
        answers = exported.scorer(torch.from_numpy(rows.numeric), torch.from_numpy(rows.categorical))
    found = {name: value.numpy() for name, value in answers._asdict().items()}
    verdicts = exported.tables.verdicts(found["score"], found["reconstruction_error"], rate, rows.group)
    return {**found, **verdicts._asdict()}


def everything(exported: Exported, rows: EncodedRows, rate: float | None = None) -> Arrays:
    return exported.session.run(rows, exported.session.outputs, rate)


def test_the_graph_answers_as_the_model(each: Exported) -> None:
    numbers, codes = probes(each)
    assert len(numbers) == PROBE_ROWS
    assert check_parity(each.graph, each.scorer, each.tables, numbers, codes, RATE) <= TOLERANCE


def test_every_output_is_the_models_also_those_that_parity_leaves_out(each: Exported) -> None:
    found, wanted = everything(each, each.rows), from_torch(each, each.rows)
    for name in each.session.outputs:
        assert found[name].shape == wanted[name].shape
        assert found[name].dtype == wanted[name].dtype
        if found[name].dtype == np.float32:
            scale = np.maximum(1.0, np.abs(wanted[name]))
            assert np.isfinite(found[name]).all()
            if not name.startswith("p_value"):  # steps: a rounding may move a row by one
                assert (np.abs(found[name] - wanted[name]) / scale).max() < 1e-4
    agreeing = found["alarm"] == wanted["alarm"]
    assert agreeing.mean() > 0.99
    if "expected_category" in found:
        assert (found["expected_category"] == wanted["expected_category"]).mean() > 0.99


def test_the_parts_of_a_score_sum_to_it_in_the_graph_too(each: Exported) -> None:
    found = everything(each, each.rows)
    total = found["contribution"].astype(float).sum(axis=1) + found["latent_contribution"]
    np.testing.assert_allclose(found["score"], total, rtol=1e-4, atol=1e-4)


def test_a_graph_is_one_file_of_opset_twenty_at_most_with_its_contract_version(each: Exported) -> None:
    model = onnx.load_from_string(each.graph)
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain: entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")}[""] <= 20
    assert all(entry.domain in ("", "ai.onnx") or entry.version for entry in model.opset_import)
    assert not any(node.domain not in ("", "ai.onnx") for node in model.graph.node)
    for tensor in model.graph.initializer:
        assert tensor.data_location == onnx.TensorProto.DEFAULT
        assert not tensor.external_data
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata == {"anomvae.format_version": str(FORMAT_VERSION), "anomvae.kind": "table"}
    assert model.producer_name == "anomvae"


def test_a_graph_tells_nothing_of_the_machine_it_was_made_on(each: Exported) -> None:
    for trace in (b"/work/", b"site-packages", b".py", b"/home/", b"/root/"):
        assert trace not in each.graph


def test_inputs_and_outputs_are_those_of_the_contract(each: Exported) -> None:
    layout = each.scorer.model.layout
    model = onnx.load_from_string(each.graph)
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    wanted: dict[str, list[object]] = {
        "numeric": ["n", layout.d],
        "categorical": ["n", layout.c],
        "alarm_rate": [],
        "contribution": ["n", layout.d + layout.c],
        "expected": ["n", layout.d],
        "expected_category": ["n", layout.c],
        "latent": ["n", each.scorer.model.k],
    }
    absent = {name for name, width in (("numeric", layout.d), ("expected", layout.d)) if not width}
    absent |= {name for name, width in (("categorical", layout.c), ("expected_category", layout.c)) if not width}
    for name in ("score", "reconstruction_error", "latent_contribution", *calibration_outputs(each.tables)):
        wanted[name] = ["n"]
    if each.tables.has_groups:
        wanted["group"] = ["g"]
    assert shapes == {name: shape for name, shape in wanted.items() if name not in absent}
    assert {*input_names(each.scorer), *score_names(each.scorer), *wanted} >= set(shapes)
    assert each.session.outputs[: 2 + len(calibration_outputs(each.tables))] == (
        "score",
        "reconstruction_error",
        *calibration_outputs(each.tables),
    )


@pytest.mark.parametrize("size", [1, 2, 7, 15, 16, 17, 64, 333, 1000])
def test_a_rows_answers_are_the_same_bits_in_any_batch(each: Exported, size: int) -> None:
    whole = everything(each, each.rows)
    starts = [0, 1000 - size, 500 - size // 2, 3] if size < 900 else [0]
    for start in starts:
        found = everything(each, each.rows.take(slice(start, start + size)))
        for name, array in found.items():
            assert len(array) == size
            assert array.tobytes() == whole[name][start : start + size].tobytes(), name


def test_a_rows_answers_are_the_same_bits_beside_spoilt_and_outlandish_rows(each: Exported) -> None:
    draw = np.random.default_rng(0)
    order = draw.permutation(1000)
    numbers, codes = probes(each)
    mates = EncodedRows(numbers, codes)
    whole = everything(each, each.rows)
    group = None if each.rows.group is None else np.concatenate([each.rows.group, draw.integers(-1, 4, 337)])
    together = EncodedRows(
        np.concatenate([each.rows.numeric, mates.numeric])[: 1000 + 337],
        np.concatenate([each.rows.categorical, mates.categorical])[: 1000 + 337],
        group,
    )
    shuffled = draw.permutation(len(together))
    found = everything(each, together.take(shuffled))
    back = np.argsort(shuffled)[:1000]
    for name, array in whole.items():
        assert array.tobytes() == found[name][back].tobytes(), name
    found = everything(each, each.rows.take(order))
    assert whole["score"][order].tobytes() == found["score"].tobytes()


def test_a_call_of_no_rows_answers_with_no_rows(each: Exported) -> None:
    found = everything(each, each.rows.take(slice(0, 0)))
    assert {len(array) for array in found.values()} == {0}


def test_p_values_in_the_graph_are_the_reference_ones(each: Exported) -> None:
    rows = EncodedRows(*probes(each), None if not each.tables.has_groups else np.arange(PROBE_ROWS) % 5)
    found = everything(each, rows)
    for name, score, calibration in (
        ("p_value", "score", each.score),
        ("p_value_reconstruction", "reconstruction_error", each.reconstruction),
    ):
        for number in range(len(each.names) or 1):
            of = slice(number, None, 5) if each.tables.has_groups else slice(None)
            own = calibration[: 60 * len(each.names)][number :: len(each.names)] if each.names else calibration
            wanted = p_values(np.asarray(found[score][of], np.float32), own)
            np.testing.assert_allclose(found[name][of], wanted, rtol=0, atol=1e-6)
            assert len(np.unique(wanted)) > 3


def test_the_alarm_rate_may_be_left_out_and_is_then_the_baked_one(each: Exported) -> None:
    found, given = everything(each, each.rows), everything(each, each.rows, RATE)
    for name, array in found.items():
        assert array.tobytes() == given[name].tobytes()
    model = onnx.load_from_string(each.graph)
    (baked,) = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == "alarm_rate"]
    assert baked == np.float32(RATE)
    assert baked.shape == ()


def test_the_alarm_rate_changes_the_verdicts_and_nothing_else(each: Exported) -> None:
    rates = (1e-6, 0.01, 0.05, 0.3, 0.9)
    found = {rate: everything(each, each.rows, rate) for rate in rates}
    alarms = [found[rate]["alarm"] for rate in rates]
    assert not alarms[0].any()
    for fewer, more in pairwise(alarms):
        assert not (fewer.astype(bool) & ~more.astype(bool)).any()
    assert alarms[-1].sum() > alarms[2].sum()
    for name in each.session.outputs:
        if name != "alarm":
            assert found[0.3][name].tobytes() == found[0.05][name].tobytes()


@pytest.mark.parametrize("rate", [0.005, 0.01, 0.05, 0.07, 0.2, 0.5])
def test_the_verdict_by_score_is_that_of_its_p_value(numbers: Exported, rate: float) -> None:
    found = everything(numbers, numbers.rows, rate)
    wanted = p_values(np.asarray(found["score"], np.float32), numbers.score) <= rate + 1e-9
    np.testing.assert_array_equal(found["alarm"], wanted)
    limit = threshold(numbers.score, rate)
    clear = np.abs(found["score"].astype(float) - limit) > 0.01 * max(1.0, abs(limit))
    np.testing.assert_array_equal(found["alarm"][clear], found["score"].astype(float)[clear] > limit)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3])
def test_the_verdict_by_reconstruction_is_that_of_its_p_value(reconstruction: Exported, rate: float) -> None:
    found = everything(reconstruction, reconstruction.rows, rate)
    errors = np.asarray(found["reconstruction_error"], np.float32)
    np.testing.assert_array_equal(found["alarm"], p_values(errors, reconstruction.reconstruction) <= rate + 1e-9)
    assert (found["alarm"] != (found["p_value"].astype(float) <= rate)).any()


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1, 0.3])
def test_the_verdict_of_both_is_that_of_their_p_value_together(mixed: Exported, rate: float) -> None:
    found = everything(mixed, mixed.rows, rate)
    np.testing.assert_array_equal(found["alarm"], found["p_value_verdict"] <= np.float32(rate))
    apart = [
        p_values(np.asarray(found[name], np.float32), calibration)
        for name, calibration in zip(
            ("score", "reconstruction_error"), (mixed.score, mixed.reconstruction), strict=True
        )
    ]
    assert (found["p_value_verdict"] <= np.minimum(1.0, 2.0 * np.minimum(*apart)) + 1e-6).all()
    if rate >= 0.1:
        assert ((apart[0] <= rate / 2) != (apart[1] <= rate / 2)).any()


def test_only_the_outputs_asked_for_are_handed_out(mixed: Exported) -> None:
    assert set(mixed.session.run(mixed.rows, ["score"])) == {"score"}
    assert list(mixed.session.run(mixed.rows, ["latent", "alarm"])) == ["latent", "alarm"]
    with pytest.raises(Exception, match="surprise"):
        mixed.session.run(mixed.rows, ["surprise"])


def tampered(exported: Exported, factor: float, *, weight: bool) -> list[tuple[str, bytes]]:
    """Graphs in which one floating-point initializer was changed: matrices, or the smaller ones."""
    model = onnx.load_from_string(exported.graph)
    graphs = []
    for position, tensor in enumerate(model.graph.initializer):
        if (
            tensor.data_type != onnx.TensorProto.FLOAT
            or tensor.name == "alarm_rate"
            or (len(tensor.dims) == 2) != weight
        ):
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < 3 or not np.isfinite(values).all() or not values.any():
            continue
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        changed.graph.initializer[position].CopyFrom(
            numpy_helper.from_array((values * np.float32(factor)).astype(np.float32), tensor.name)
        )
        graphs.append((tensor.name, changed.SerializeToString()))
    return graphs


@pytest.mark.parametrize("weight", [True, False])
def test_a_graph_that_was_tampered_with_is_refused(mixed: Exported, weight: bool) -> None:
    graphs = tampered(mixed, 1.05, weight=weight)
    assert len(graphs) >= 2
    numbers_and_codes, caught = probes(mixed), []
    for name, graph in graphs:
        with pytest.raises(ParityError):
            check_parity(graph, mixed.scorer, mixed.tables, *numbers_and_codes, RATE)
        caught.append(name)
    assert len(caught) == len(graphs)


def test_a_graph_of_another_alarm_rate_is_refused(mixed: Exported) -> None:
    graph = recalibrated_graph(mixed.graph, mixed.tables, 0.4)
    with pytest.raises(ParityError, match="alarm"):
        check_parity(graph, mixed.scorer, mixed.tables, *probes(mixed), RATE)


def test_the_graph_of_another_calibration_is_refused(numbers: Exported) -> None:
    other = CalibrationTables.of([Table(numbers.score + 5.0, numbers.reconstruction)], "elbo")
    with pytest.raises(ParityError, match="p_value"):
        check_parity(numbers.graph, numbers.scorer, other, *probes(numbers), RATE)


def test_the_graph_of_another_detector_is_refused(numbers: Exported) -> None:
    other = RowScorer(copy.deepcopy(numbers.scorer.model)).eval()
    with torch.no_grad():
        next(other.model.decoder.parameters()).mul_(1.5)
    with pytest.raises(ParityError, match="differs from the model's"):
        check_parity(export_graph(other, numbers.tables, RATE), numbers.scorer, numbers.tables, *probes(numbers), RATE)


def test_probe_rows_try_what_rows_can_hold(mixed: Exported) -> None:
    numbers, codes = probes(mixed)
    assert len(numbers) == len(codes) == PROBE_ROWS >= max(BATCH_SIZES)
    assert np.isnan(numbers).any()
    assert (numbers == np.inf).any()
    assert (numbers == -np.inf).any()
    assert np.nanmax(np.abs(numbers[np.isfinite(numbers)])) > 1e4
    cardinalities = np.array(mixed.scorer.model.layout.cardinalities)
    assert (codes > cardinalities).any()
    np.testing.assert_array_equal(numbers, probes(mixed)[0])


def test_what_is_no_graph_is_refused() -> None:
    with pytest.raises(BundleError, match="not a graph that ONNX Runtime can load"):
        GraphSession(b"not a graph")


def test_a_session_may_be_used_from_several_threads(mixed: Exported) -> None:
    from concurrent.futures import ThreadPoolExecutor

    wanted = everything(mixed, mixed.rows)["score"].tobytes()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: everything(mixed, mixed.rows)["score"].tobytes(), range(8)))
    assert set(found) == {wanted}
