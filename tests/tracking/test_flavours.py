"""One logged model, loaded both ways, with pickles and model code forbidden."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import pandas as pd
import pytest

from anomvae.bundle import Column
from anomvae.errors import BundleError, ColumnMismatchError, TooFewRowsError
from anomvae.scoring import Scorer
from anomvae.tracking import registry
from anomvae.tracking.flavours import requirements
from anomvae.tracking.runs import LoggedRun, log_bundle
from anomvae.tracking.signature import make_example, make_signature

# The product sets MLflow up, so it is imported before anything of MLflow.
# isort: split
from mlflow import MlflowClient

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import SimpleNamespace

    from anomvae.bundle import Bundle
    from tests.tracking.conftest import MakeBundle

ANSWERS = ["score", "p_value", "reconstruction_error", "p_value_reconstruction", "alarm", "tail", "reasons"]


@pytest.fixture
def logged(make_bundle: MakeBundle, uri: str, monkeypatch: pytest.MonkeyPatch, flavours: SimpleNamespace) -> LoggedRun:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setenv("MLFLOW_ALLOW_MODEL_CODE_EXECUTION", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return log_bundle(make_bundle())


@pytest.fixture
def model(logged: LoggedRun, flavours: SimpleNamespace) -> Any:
    return flavours.pyfunc.load_model("models:/pumps@champion")


@pytest.fixture
def rows() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "flow": [0.5, None, -20.0],
            "kind": ["a", None, "never seen"],
            "starts": [3, 4, 5],
            "operator": ["x", "y", "z"],
            "unit": ["l/s", "l/s", "l/s"],
        },
        index=[7, 8, 9],
    )


def test_the_onnx_flavour_is_the_bundles_own_graph(logged: LoggedRun, flavours: SimpleNamespace) -> None:
    loaded = flavours.onnx.load_model("models:/pumps@champion")
    session = ort.InferenceSession(loaded.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"numeric": np.array([[1.0, -2.0]], np.float32), "categorical": np.array([[1]], np.int64)}
    assert session.run(["score"], feeds)[0].tolist() == [4.0]
    kept = registry.resolve("pumps").folder / "scorer.onnx"
    assert loaded.SerializeToString() == kept.read_bytes()


def test_the_pyfunc_flavour_answers_as_the_scorer_does(model: Any, rows: pd.DataFrame) -> None:
    answers = model.predict(rows)
    assert list(answers.columns) == ["operator", *ANSWERS]
    assert list(answers.index) == [7, 8, 9]
    assert answers["score"].tolist() == [3.5, 6.0, 27.0]
    assert answers["alarm"].tolist() == [False, False, True]
    assert answers["reasons"][9][0] == {"column": "flow", "contribution": 20.0, "value": "-20", "expected": "-0"}


def test_the_caller_may_ask_for_other_rates_and_reasons(model: Any, rows: pd.DataFrame) -> None:
    answers = model.predict(rows, params={"alarm_rate": 0.5, "top": 1})
    assert answers["alarm"].tolist() == [True, True, True]
    assert [len(reasons) for reasons in answers["reasons"]] == [1, 1, 1]
    with pytest.raises(TooFewRowsError):
        model.predict(rows, params={"alarm_rate": 0.001})


def test_a_bundle_needs_no_answer_about_its_own_rate(model: Any, rows: pd.DataFrame) -> None:
    stated = model.predict(rows, params={"alarm_rate": 0.1})
    pd.testing.assert_frame_equal(stated, model.predict(rows))


@pytest.mark.parametrize(
    "cells",
    [
        pd.Series([1, 2, 3]),
        pd.Series([1.0, None, 3.0]),
        pd.Series([None, None, None], dtype=object),
        pd.Series([1, None, 3], dtype="Int64"),
        pd.Series([1, "2", None], dtype=object),
    ],
    ids=["whole", "missing", "all missing", "nullable", "mixed with text"],
)
def test_whole_numbers_arrive_in_any_dress(cells: pd.Series[Any], model: Any, rows: pd.DataFrame) -> None:
    expected = 0.5 + pd.to_numeric(cells.iloc[:1]).fillna(0).astype(float).iloc[0]
    rows["starts"] = cells.to_numpy(dtype=object) if cells.dtype == object else cells.array
    assert model.predict(rows)["score"].iloc[0] == expected


@pytest.mark.parametrize(
    "cells", [[True, False, None], [1, 0, 1], [1.0, None, 0.0], [True, 0, None], ["yes", "no", None]]
)
def test_booleans_are_sent_as_booleans_or_as_0_and_1(
    cells: list[object],
    make_bundle: MakeBundle,
    uri: str,
    flavours: SimpleNamespace,
    rows: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    columns = list(make_bundle().manifest.columns)
    columns[1] = Column("kind", "boolean", "bool", categories=("false", "true"), missing_code=2)
    logged = log_bundle(make_bundle("flags", columns=tuple(columns)), tracking_uri=uri, model_name="flags")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    model = flavours.pyfunc.load_model(f"models:/{logged.model_id}")
    rows["kind"] = pd.Series(cells, index=rows.index)
    codes = [2.0 if cell is None else float(cell in (True, "yes")) for cell in cells]
    assert model.predict(rows)["score"].tolist() == [3.5 + codes[0], 4.0 + codes[1], 25.0 + codes[2]]


def test_groups_are_told_by_their_column_and_all_that_the_graph_answers_comes_back(
    make_grouped: Callable[[], Bundle],
    uri: str,
    flavours: SimpleNamespace,
    rows: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logged = log_bundle(make_grouped(), tracking_uri=uri, model_name="grouped")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    model = flavours.pyfunc.load_model(f"models:/{logged.model_id}")
    answers = model.predict(rows)
    numbers = [*ANSWERS[:4], "p_value_verdict"]
    assert list(answers.columns) == ["operator", *numbers, "alarm", "tail", "pooled", "reasons"]
    assert answers["pooled"].tolist() == [False, True, True]
    assert answers["tail"].tolist() == [False, False, True]
    assert model.predict(rows.drop(columns="operator"))["pooled"].tolist() == [True, True, True]
    signature = model.metadata.signature
    assert signature.outputs.input_names() == list(answers.columns)
    (operator,) = [column for column in signature.inputs.to_dict() if column["name"] == "operator"]
    assert not operator["required"]


def test_the_signature_names_the_answers_in_their_order(
    make_bundle: MakeBundle, make_grouped: Callable[[], Bundle]
) -> None:
    for bundle in (make_bundle(), make_grouped()):
        signature = make_signature(bundle.manifest)
        answered = Scorer(bundle).answered
        assert [name for name in signature.outputs.input_names() if name not in ("operator", "reasons")] == list(
            answered
        )
    old = dataclasses.replace(make_bundle().manifest, format_version=1)
    assert "tail" not in make_signature(old).outputs.input_names()


def test_a_missing_column_is_told_by_name(model: Any, rows: pd.DataFrame) -> None:
    with pytest.raises(ColumnMismatchError, match="'flow'"):
        model.predict(rows.drop(columns="flow"))


def test_identifiers_may_stay_away(model: Any, rows: pd.DataFrame) -> None:
    assert list(model.predict(rows.drop(columns=["operator", "unit"])).columns) == ANSWERS


def test_json_sent_to_mlflows_own_server_is_understood(model: Any) -> None:
    from mlflow.pyfunc.scoring_server import invocations

    rows = [{"flow": 1, "kind": None, "starts": 2}, {"flow": None, "kind": "b", "starts": None, "operator": "x"}]
    sent = json.dumps({"dataframe_records": rows, "params": {"top": 2}})
    answer_http: Any = invocations  # MLflow leaves it untyped
    response = answer_http(sent, "application/json", model, model.metadata.get_input_schema())
    assert response.status == 200
    first, second = json.loads(response.response, parse_constant=pytest.fail)["predictions"]
    assert first["operator"] is None
    assert (first["score"], second["score"]) == (5.0, 1.0)
    assert [reason["column"] for reason in first["reasons"]] == ["starts", "kind"]
    assert second["operator"] == "x"


def test_the_example_is_made_up_and_scores(model: Any, make_bundle: MakeBundle) -> None:
    example = make_example(make_bundle("other").manifest)
    assert example.to_dict("records") == [{"flow": 0.25, "kind": "a", "starts": 4}]
    assert model.predict(example)["score"].tolist() == [4.25]
    assert model.input_example.to_dict("records") == example.to_dict("records")


def test_every_kind_of_column_has_an_example_and_a_type(make_bundle: MakeBundle) -> None:
    columns = (
        Column("at", "date", "timestamp[us]", mean=1.5, origin="2026-01-01T00:00:00"),
        Column("zoned", "date", "timestamp[us, tz=UTC]", mean=1.5, origin="2026-01-01T00:00:00+00:00"),
        Column("on", "boolean", "bool", categories=("false", "true")),
        Column("flag", "boolean", "int64", categories=("0", "1")),
        Column("code", "categorical", "int64", categories=("3", "4")),
        Column("word", "categorical", "dictionary<values=string, indices=int32>", categories=("a",)),
        Column("none", "categorical", "string"),
    )
    manifest = make_bundle(columns=columns).manifest
    (example,) = make_example(manifest).to_dict("records")
    assert example == {
        "at": pd.Timestamp("2026-01-02T12:00:00"),
        "zoned": "2026-01-02T12:00:00+00:00",
        "on": True,
        "flag": 0,
        "code": 3,
        "word": "a",
        "none": None,
    }
    types = make_signature(manifest).inputs.to_dict()
    assert [column["type"] for column in types] == ["datetime", "any", "any", "any", "any", "any", "string", "any"]
    assert not any(column["required"] for column in types)


def test_the_model_holds_no_pickle_and_no_code(logged: LoggedRun, uri: str) -> None:
    location = MlflowClient(tracking_uri=uri).get_logged_model(logged.model_id).artifact_location
    files = [path for path in Path(location.removeprefix("file://")).rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".onnx", ".json", ".md", ".html", ".safetensors", ".yaml", ".txt", ""}
    assert [path.name for path in files if not path.suffix] == ["MLmodel"]


def test_the_requirements_are_stated_and_pinned() -> None:
    names = [re.split(r"==", line)[0] for line in requirements()]
    assert names == ["anomvae", "mlflow", "numpy", "onnx", "onnxruntime", "pandas", "pyarrow"]


def test_a_damaged_model_is_refused_on_loading(logged: LoggedRun, uri: str, flavours: SimpleNamespace) -> None:
    location = MlflowClient(tracking_uri=uri).get_logged_model(logged.model_id).artifact_location
    graph = Path(location.removeprefix("file://")) / "data" / "bundle" / "scorer.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    with pytest.raises(BundleError, match="is damaged"):
        flavours.pyfunc.load_model("models:/pumps@champion")
