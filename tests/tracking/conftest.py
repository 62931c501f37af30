"""A tiny, valid bundle, and a tracking database of its own for each test."""

from __future__ import annotations

import dataclasses
import warnings
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

import onnx
import pytest
from onnx import TensorProto, helper

from anomvae.bundle import (
    Bundle,
    Calibration,
    Column,
    GroupCalibration,
    LeftOut,
    Manifest,
    Provenance,
    Split,
    TailRecord,
    TrainingRecord,
    write_bundle,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class MakeBundle(Protocol):
    def __call__(
        self,
        folder: str = ...,
        *,
        evaluation: dict[str, float] | None = ...,
        scorer: bytes | None = ...,
        **changes: Any,
    ) -> Bundle: ...


def make_graph(*, groups: bool = False) -> bytes:
    """The contract of the design's section 2: score = |numbers| + code; it alarms when p <= alarm_rate.

    Both scores give the verdict where there are groups, of which there is one.
    """
    nodes = [
        helper.make_node("IsNaN", ["numeric"], ["gone"]),
        helper.make_node("Where", ["gone", "zero", "numeric"], ["numbers"]),
        helper.make_node("Abs", ["numbers"], ["sizes"]),
        helper.make_node("Cast", ["categorical"], ["codes"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["sizes", "codes"], ["contribution"], axis=1),
        helper.make_node("ReduceSum", ["contribution", "axis"], ["score"], keepdims=0),
        helper.make_node("Identity", ["score"], ["reconstruction_error"]),
        helper.make_node("Add", ["score", "one"], ["shifted"]),
        helper.make_node("Reciprocal", ["shifted"], ["p_value"]),
        helper.make_node("Identity", ["p_value"], ["p_value_reconstruction"]),
        helper.make_node("LessOrEqual", ["p_value", "alarm_rate"], ["alarm"]),
        helper.make_node("Mul", ["score", "zero"], ["latent_contribution"]),
        helper.make_node("Mul", ["numbers", "zero"], ["expected"]),
        helper.make_node("Identity", ["codes"], ["latent"]),
        helper.make_node("Sub", ["categorical", "categorical"], ["expected_category"]),
        helper.make_node("Less", ["p_value", "small"], ["tail"]),
    ]
    constants = [
        helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
        helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("alarm_rate", TensorProto.FLOAT, [], [0.1]),
        helper.make_tensor("small", TensorProto.FLOAT, [], [0.05]),
    ]
    inputs = [
        helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["n", 2]),
        helper.make_tensor_value_info("categorical", TensorProto.INT64, ["n", 1]),
        helper.make_tensor_value_info("alarm_rate", TensorProto.FLOAT, []),
    ]
    each_row = ("score", "reconstruction_error", "p_value", "p_value_reconstruction", "latent_contribution")
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in each_row]
    outputs += [
        helper.make_tensor_value_info("alarm", TensorProto.BOOL, ["n"]),
        helper.make_tensor_value_info("tail", TensorProto.BOOL, ["n"]),
        helper.make_tensor_value_info("contribution", TensorProto.FLOAT, ["n", 3]),
        helper.make_tensor_value_info("expected", TensorProto.FLOAT, ["n", 2]),
        helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["n", 1]),
        helper.make_tensor_value_info("expected_category", TensorProto.INT64, ["n", 1]),
    ]
    if groups:
        nodes += [
            helper.make_node("Shape", ["score"], ["size"]),
            helper.make_node("Expand", ["group", "size"], ["groups"]),
            helper.make_node("Cast", ["groups"], ["pooled"], to=TensorProto.BOOL),
            helper.make_node("Identity", ["p_value"], ["p_value_verdict"]),
        ]
        constants.append(helper.make_tensor("group", TensorProto.INT64, [1], [1]))
        inputs.append(helper.make_tensor_value_info("group", TensorProto.INT64, ["g"]))
        outputs.append(helper.make_tensor_value_info("pooled", TensorProto.BOOL, ["n"]))
        outputs.append(helper.make_tensor_value_info("p_value_verdict", TensorProto.FLOAT, ["n"]))
    graph = helper.make_graph(nodes, "scorer", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def make_manifest() -> Manifest:
    columns = (
        Column("flow", "numeric", "double", missing_share=0.1, low=-4.0, high=4.0, mean=0.25, std=1.0),
        Column("kind", "categorical", "string", categories=("a", "b")),
        Column("starts", "numeric", "int64", low=0.0, high=9.0, mean=3.6, std=1.0),
    )
    return Manifest(
        name="pumps",
        kind="table",
        model="vae",
        columns=columns,
        left_out=(LeftOut("operator", "one value a row", "identifier"), LeftOut("unit", "always the same")),
        split=Split("random", None, 80, 10, 10, labelled=5),
        calibration=Calibration("split", 10, 0.1, 1 / 11, "elbo", 9.0, 9.0),
        provenance=Provenance(
            data="plant/pumps.parquet",
            digest="sha256:" + "ab" * 32,
            rows=105,
            seed=7,
            created="2026-01-02T03:04:05+00:00",
            fit_seconds=12.5,
            versions={"anomvae": "0.1.0"},
        ),
        latent=1,
    )


def make_record(evaluation: dict[str, float]) -> TrainingRecord:
    steps = [float(step) for step in range(0, 400, 100)]
    return TrainingRecord(
        parameters={"vae.latent": 1, "training.max_steps": 400, "data.path": "plant/pumps.parquet", "long": "x" * 9000},
        metrics={"validation_bound": 1.5, "fit_seconds": 12.5, **evaluation},
        curves={
            "step": steps,
            "epoch": [0.0, 1.0, 2.0, 3.0],
            "train_loss": [4.0, 3.0, 2.0, 1.5],
            "validation_loss": [4.5, 3.5, 2.5, 2.25],
            "seconds": [0.0, 4.0, 8.0, 12.0],
        },
        evaluation=evaluation,
    )


@pytest.fixture(scope="session")
def graph() -> bytes:
    return make_graph()


@pytest.fixture
def make_bundle(tmp_path: Path, graph: bytes) -> MakeBundle:
    """Makes a bundle; `changes` replace fields of the manifest."""

    def make(
        folder: str = "bundle",
        *,
        evaluation: dict[str, float] | None = None,
        scorer: bytes | None = None,
        **changes: Any,
    ) -> Bundle:
        files = {
            "scorer.onnx": scorer or graph,
            "training.json": make_record(evaluation or {}).to_json().encode(),
            "card.md": b"# pumps\n",
            "report.html": b"<!doctype html><title>pumps</title>",
            "weights.safetensors": b"weights",
            "config.json": b"{}",
        }
        return write_bundle(tmp_path / folder, dataclasses.replace(make_manifest(), **changes), files)

    return make


@pytest.fixture
def make_grouped(make_bundle: MakeBundle) -> Callable[[], Bundle]:
    """Makes a bundle whose group `x` of operators has a calibration of its own, with all that may be promised."""
    facts = dataclasses.replace(
        make_manifest().calibration,
        decision="both",
        confidence=0.9,
        by="operator",
        groups=(GroupCalibration("x", 9, 8.0, 8.0),),
        groups_pooled=2,
        tail=(TailRecord(1.0, 1.0, 0.1, 5, 0.1, 0.9),) * 2,
    )
    return lambda: make_bundle("grouped", scorer=make_graph(groups=True), calibration=facts)


@pytest.fixture
def uri(tmp_path: Path, fresh_database: bytes) -> str:
    """A database with MLflow's tables, copied, since making them takes a second."""
    (tmp_path / "mlflow.db").write_bytes(fresh_database)
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture(scope="session")
def fresh_database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    from anomvae.tracking.session import open_session

    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    with open_session(f"sqlite:///{path}", write=True):
        return path.read_bytes()


@pytest.fixture(scope="session")
def flavours() -> SimpleNamespace:
    """MLflow's loaders; they warn when imported, which is not this project's to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.models
        import mlflow.onnx
        import mlflow.pyfunc
    return SimpleNamespace(onnx=mlflow.onnx, pyfunc=mlflow.pyfunc)


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the user's cache, tracking server or working folder."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ANOMVAE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
