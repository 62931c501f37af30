"""A detector of series as one logged model: its time and assets stand in the signature, and whole series go in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from anomvae.scoring.series import SeriesScoring
from anomvae.tracking.runs import log_bundle
from anomvae.tracking.signature import make_example, make_signature
from tests.streamed import WINDOW, pump_table, pumps

# The product sets MLflow up, so it is imported before anything of MLflow.
# isort: split
from mlflow.exceptions import MlflowException

if TYPE_CHECKING:
    from types import SimpleNamespace


@pytest.fixture
def model(uri: str, monkeypatch: pytest.MonkeyPatch, flavours: SimpleNamespace) -> Any:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setenv("MLFLOW_ALLOW_MODEL_CODE_EXECUTION", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    log_bundle(pumps())
    return flavours.pyfunc.load_model("models:/pumps@champion")


def test_a_loaded_model_answers_frames_as_the_scoring_of_series_does(model: Any) -> None:
    table = pump_table(40, seed=4)
    frame = table.to_pandas()
    frame.index += 100
    answers, wanted = model.predict(frame), SeriesScoring(pumps()).score(table)
    assert answers.index.equals(frame.index)
    assert list(answers.columns) == wanted.column_names
    np.testing.assert_array_equal(answers["score"], wanted["score"].to_numpy())
    assert answers["alarm"].tolist() == wanted["alarm"].to_pylist()
    assert answers["reason"].tolist() == [None] * 80
    texts = frame.assign(when=frame["when"].astype(str))  # as JSON brings them
    np.testing.assert_array_equal(model.predict(texts)["score"], wanted["score"].to_numpy())
    rate = model.predict(frame, params={"alarm_rate": 0.3, "top": 1})
    assert rate["alarm"].sum() > answers["alarm"].sum()
    assert {len(reasons) for reasons in rate["reasons"]} == {1}


def test_rows_too_few_for_a_window_have_a_reason_and_no_score(model: Any) -> None:
    answers = model.predict(pump_table(3, assets=("A",)).to_pandas())
    assert answers["score"].tolist() == [None] * 3
    assert answers["reason"].tolist() == ["filling"] * 3


def test_the_signature_asks_for_time_and_asset(model: Any) -> None:
    inputs = make_signature(pumps().manifest).inputs
    assert {name: inputs.input_dict()[name].required for name in inputs.input_names()} == {
        "flow": False, "heat": False, "when": True, "machine": True,
    }  # fmt: skip
    frame = pump_table(20).to_pandas()
    for name in ("when", "machine"):
        with pytest.raises(MlflowException, match=name):
            model.predict(frame.drop(columns=[name]))


def test_the_example_is_a_window_that_can_be_scored(model: Any) -> None:
    example = make_example(pumps().manifest)
    assert len(example) == WINDOW
    assert model.predict(example)["reason"].tolist() == [None] * WINDOW
