from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomvae.data.encoding import encode
from anomvae.errors import (
    CellError,
    ColumnMismatchError,
    InputError,
    RequestError,
    RequestTooLargeError,
    RowError,
    SettingError,
    TooFewRowsError,
)
from anomvae.scoring import GraphSession
from anomvae.serving.metadata import model_config, model_metadata, repository_index, server_metadata
from anomvae.serving.model import ServedModel
from anomvae.serving.v2 import HEADER_LENGTH, decode_infer
from anomvae.serving.wishes import MAX_JSON_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anomvae.bundle import Bundle
    from anomvae.serving.exchange import Decoded

CELL = "sEcReT-77"
NUMBERS = [[60.0, 2.5e5, 1.25], [61.5, None, 0.5]]
CODES = [[0, 2], [1, 3]]


@pytest.fixture(scope="module")
def model(fitted: Bundle) -> ServedModel:
    return ServedModel("press", "7", fitted, GraphSession(fitted.graph, fitted.manifest.width))


def tensor(name: str, data: Any, datatype: str = "FP32", shape: Any = None, **parameters: Any) -> dict[str, Any]:
    stated = {"name": name, "datatype": datatype, "data": data}
    stated["shape"] = list(np.shape(data)) if shape is None else shape
    return {**stated, "parameters": parameters} if parameters else stated


def request(**changes: Any) -> dict[str, Any]:
    inputs = [tensor("numeric", NUMBERS), tensor("categorical", CODES, "INT64")]
    return {"inputs": inputs, "outputs": [{"name": "score"}, {"name": "alarm"}], **changes}


def columns(**changes: Any) -> dict[str, Any]:
    inputs = {
        "material": tensor("material", ["steel", None, "granite"], "BYTES"),
        "temperature": tensor("temperature", [60.0, 61.5, 80.0], "FP64"),
        "pressure": tensor("pressure", [[2.5e5], [None], [2e5]], "FP64"),
        "vibration": tensor("vibration", ["1.25", "", "0.5"], "BYTES"),
        "cooling": tensor("cooling", [True, False, True], "BOOL"),
    }
    return {"inputs": [value for value in {**inputs, **changes}.values() if value]}


def decode(model: ServedModel, asked: Any, headers: Mapping[str, str] | None = None) -> Decoded:
    return decode_infer(model, asked if isinstance(asked, bytes) else orjson.dumps(asked), headers or {})


def answer(model: ServedModel, decoded: Decoded) -> dict[str, Any]:
    arrays = model.session.run_in_chunks(decoded.rows, decoded.outputs, decoded.alarm_rate)
    return json.loads(decoded.encode(arrays).body)  # type: ignore[no-any-return]


def test_the_answer_is_what_the_graph_says_of_the_same_rows(model: ServedModel) -> None:
    decoded = decode(model, request(id="r-1"))
    expected = model.session.run_in_chunks(decoded.rows, ("score", "alarm"))
    answered = answer(model, decoded)
    assert (answered["model_name"], answered["model_version"], answered["id"]) == ("press", "7", "r-1")
    score, alarm = answered["outputs"]
    assert score["name"] == "score"
    assert score["datatype"] == "FP32"
    assert score["shape"] == [2]
    assert np.array_equal(np.float32(score["data"]), expected["score"])
    assert alarm["datatype"] == "BOOL"
    assert alarm["data"] == expected["alarm"].tolist()
    assert decoded.protocol == "v2-json"
    assert decoded.alarm_rate is None


def test_null_is_a_missing_number(model: ServedModel) -> None:
    rows = decode(model, request()).rows
    assert np.array_equal(rows.numeric, np.array(NUMBERS, dtype=np.float32), equal_nan=True)
    assert rows.categorical.tolist() == CODES


def test_all_outputs_come_flat_with_their_shapes_unless_some_are_named(model: ServedModel) -> None:
    decoded = decode(model, request(outputs=None))
    assert decoded.outputs == tuple(model.outputs)
    for output in answer(model, decoded)["outputs"]:
        assert len(output["data"]) == np.prod(output["shape"])
        assert output["shape"][0] == 2
        assert output["shape"][1:] == list(model.outputs[output["name"]].shape[1:])


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("datatype", ["FP64", "FP32", "FP16", "INT64", "INT32", "UINT16", "INT8", "UINT64", "BOOL"])
def test_numbers_come_in_any_datatype_flat_or_nested(model: ServedModel, datatype: str, *, flat: bool) -> None:
    cells = [[1, 0, 1], [0, 1, 1]]
    numeric = tensor("numeric", sum(cells, []) if flat else cells, datatype, [2, 3])  # noqa: RUF017  two short lists
    rows = decode(model, request(inputs=[numeric, tensor("categorical", CODES, "INT64")])).rows
    assert rows.numeric.dtype == np.float32
    assert rows.numeric.tolist() == cells


def test_no_rows_get_empty_answers(model: ServedModel) -> None:
    nothing = [tensor("numeric", [], shape=[0, 3]), tensor("categorical", [], "INT64", [0, 2])]
    decoded = decode(model, request(inputs=nothing, outputs=None))
    assert len(decoded.rows) == 0
    assert all(output["data"] == [] for output in answer(model, decoded)["outputs"])


def test_an_answer_that_is_not_finite_is_null(model: ServedModel) -> None:
    arrays = {"score": np.array([np.inf, 1], np.float32), "alarm": np.array([True, False])}
    assert json.loads(decode(model, request()).encode(arrays).body)["outputs"][0]["data"] == [None, 1.0]


@pytest.mark.parametrize("stated", [{"input": [0.2]}, {"input": 0.2}, {"parameter": 0.2}])
def test_the_alarm_rate_comes_as_an_input_or_a_parameter(model: ServedModel, stated: dict[str, Any]) -> None:
    asked = request()
    if "input" in stated:
        asked["inputs"].append(tensor("alarm_rate", stated["input"]))
    else:
        asked["parameters"] = {"alarm_rate": 0.2}
    assert decode(model, asked).alarm_rate == 0.2


def test_the_models_own_alarm_rate_is_no_change(model: ServedModel) -> None:
    own = model.manifest.calibration.alarm_rate
    assert decode(model, request(parameters={"alarm_rate": own})).alarm_rate is None
    asked = request()
    asked["inputs"].append(tensor("alarm_rate", [own]))
    assert decode(model, asked).alarm_rate is None


def test_an_alarm_rate_that_the_calibration_does_not_support_is_refused(model: ServedModel) -> None:
    with pytest.raises(TooFewRowsError):
        decode(model, request(parameters={"alarm_rate": 1e-6}))
    for wrong in (5e-324, 0, 1.5, "much", True):
        with pytest.raises(SettingError):
            decode(model, request(parameters={"alarm_rate": wrong}))


def test_the_timeout_is_in_microseconds_and_zero_is_none(model: ServedModel) -> None:
    assert decode(model, request(parameters={"timeout": 250_000})).timeout_s == 0.25
    assert decode(model, request(parameters={"timeout": 0, "priority": 3, "sequence_id": 4})).timeout_s is None
    with pytest.raises(SettingError, match="timeout"):
        decode(model, request(parameters={"timeout": -1}))


def test_columns_are_encoded_as_a_tables_are(model: ServedModel) -> None:
    table = pa.table(
        {
            "temperature": [60.0, 61.5, 80.0],
            "pressure": [2.5e5, None, 2e5],
            "vibration": [1.25, None, 0.5],
            "cooling": [True, False, True],
            "material": ["steel", None, "granite"],
        }
    )
    expected = encode(table, model.manifest.columns)
    rows = decode(model, columns()).rows
    assert np.array_equal(rows.numeric, expected.numeric, equal_nan=True)
    assert np.array_equal(rows.categorical, expected.categorical)


def test_columns_that_are_known_and_not_scored_may_come_along(model: ServedModel) -> None:
    along = columns(part=tensor("part", ["a", "b", "c"], "BYTES"), alarm_rate=tensor("alarm_rate", [0.2]))
    decoded = decode(model, along)
    assert len(decoded.rows) == 3
    assert decoded.alarm_rate == 0.2


def test_columns_that_are_missing_or_unknown_are_named(model: ServedModel) -> None:
    with pytest.raises(ColumnMismatchError, match=r"'material'.*'matter'"):
        decode(model, columns(material=tensor("matter", ["steel"] * 3, "BYTES")))
    with pytest.raises(RequestError, match="'extra'"):
        decode(model, columns(extra=tensor("extra", [1.0, 2.0, 3.0])))
    with pytest.raises(RowError, match=r"'cooling' has 1 rows.*3"):
        decode(model, columns(cooling=tensor("cooling", [True], "BOOL")))


def test_a_code_that_the_model_does_not_have_is_refused_by_column(model: ServedModel) -> None:
    for strange in (5, -1, 2**62):
        codes = tensor("categorical", [[0, 0], [0, strange]], "INT64")
        with pytest.raises(CellError, match=r"'material'.*from 0 to 4, row 2"):
            decode(model, request(inputs=[tensor("numeric", NUMBERS), codes]))


numeric, categorical = request()["inputs"]
REFUSED = {
    "no inputs": request(inputs=[]),
    "inputs that are no list": request(inputs=CELL),
    "an input that is no object": request(inputs=[CELL]),
    "a name that is no text": request(inputs=[{**numeric, "name": 3}, categorical]),
    "an input twice": request(inputs=[numeric, categorical, numeric]),
    "an input missing": request(inputs=[numeric]),
    "another width": request(inputs=[tensor("numeric", [[1.0, 2.0]]), categorical]),
    "one dimension": request(inputs=[tensor("numeric", [1.0, 2.0, 3.0]), categorical]),
    "other numbers of rows": request(inputs=[tensor("numeric", NUMBERS[:1]), categorical]),
    "a negative extent": request(inputs=[{**numeric, "shape": [-2, -3]}, categorical]),
    "a huge shape": request(inputs=[{**numeric, "shape": [2**62, 3], "data": []}, categorical]),
    "an extent beyond 64 bits": request(inputs=[{**numeric, "shape": [1e30, 3]}, categorical]),
    "a fraction as an extent": request(inputs=[{**numeric, "shape": [2.0, 3]}, categorical]),
    "a flag as an extent": request(inputs=[{**numeric, "shape": [True, 3]}, categorical]),
    "no shape": request(inputs=[{**numeric, "shape": None}, categorical]),
    "too few cells": request(inputs=[{**numeric, "data": [1.0]}, categorical]),
    "uneven nesting": request(inputs=[{**numeric, "data": [[1, 2, 3], [1, 2]]}, categorical]),
    "mixed nesting": request(inputs=[{**numeric, "data": [[1, 2, 3], "abc"]}, categorical]),
    "nesting too deep": request(inputs=[{**numeric, "data": [[[1, 2, 3], [1, 2, 3]]]}, categorical]),
    "cells that are objects": request(inputs=[{**numeric, "data": [{}] * 6}, categorical]),
    "no data": request(inputs=[{**numeric, "data": None}, categorical]),
    "data that are text": request(inputs=[{**numeric, "data": CELL}, categorical]),
    "text among numbers": request(inputs=[{**numeric, "data": [1, 2, 3, CELL, 5, 6]}, categorical]),
    "numbers as text": request(inputs=[{**numeric, "data": ["1", "2", "3", "4", "5", "6"]}, categorical]),
    "null among whole numbers": request(inputs=[{**numeric, "datatype": "INT64"}, categorical]),
    "a fraction among whole numbers": request(inputs=[numeric, {**categorical, "data": [0, 0.5, 0, 0]}]),
    "a number too large": request(inputs=[numeric, {**categorical, "data": [0, 2**63, 0, 0]}]),
    "codes as fractions": request(inputs=[numeric, {**categorical, "datatype": "FP32"}]),
    "numbers as flags": request(inputs=[{**numeric, "datatype": "BOOL", "data": [2] * 6}, categorical]),
    "text for the graph": request(inputs=[{**numeric, "datatype": "BYTES"}, categorical]),
    "BF16": request(inputs=[{**numeric, "datatype": "BF16"}, categorical]),
    "no datatype": request(inputs=[{"name": "numeric", "shape": [2, 3], "data": NUMBERS}, categorical]),
    "shared memory": request(inputs=[{**numeric, "parameters": {"shared_memory_region": CELL}}, categorical]),
    "bytes without the header": request(inputs=[{**numeric, "parameters": {"binary_data_size": 24}}, categorical]),
    "an unknown output": request(outputs=[{"name": "verdict"}]),
    "an output twice": request(outputs=[{"name": "score"}, {"name": "score"}]),
    "outputs that are no list": request(outputs={"name": "score"}),
    "classes": request(outputs=[{"name": "score", "parameters": {"classification": 2}}]),
    "an output in shared memory": request(outputs=[{"name": "score", "parameters": {"shared_memory_region": CELL}}]),
    "a flag that is none": request(outputs=[{"name": "score", "parameters": {"binary_data": 1}}]),
    "parameters that are no object": request(parameters=[CELL]),
    "an id that is no text": request(id=5),
    "two alarm rates": request(
        inputs=[numeric, categorical, tensor("alarm_rate", [0.2])], parameters={"alarm_rate": 0.2}
    ),
    "many alarm rates": request(inputs=[numeric, categorical, tensor("alarm_rate", [0.2, 0.2])]),
    "an alarm rate that is a flag": request(inputs=[numeric, categorical, tensor("alarm_rate", [True], "BOOL")]),
    "text in a column of numbers": columns(temperature=tensor("temperature", [CELL, "1", "2"], "BYTES")),
    "numbers among text": columns(material=tensor("material", [CELL, 3, None], "BYTES")),
    "a column of two dimensions": columns(material=tensor("material", [[CELL] * 2] * 3, "BYTES")),
    "a list": [request()],
    "a word": CELL,
}


@pytest.mark.parametrize("asked", REFUSED.values(), ids=list(REFUSED))
def test_a_wrong_request_is_refused_without_its_values(model: ServedModel, asked: Any) -> None:
    with pytest.raises(InputError) as refusal:
        decode(model, asked)
    assert CELL not in str(refusal.value)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[" * 5000,
        b'{"inputs": NaN}',
        b'{"inputs": 1' + b"0" * 400 + b"}",
        CELL.encode(),
        b"{}",
        b"null",
    ],
)
def test_a_body_that_is_no_json_object_is_refused_without_its_text(model: ServedModel, body: bytes) -> None:
    with pytest.raises(RequestError) as refusal:
        decode(model, body)
    assert CELL not in str(refusal.value)


def test_a_name_too_long_to_be_one_is_cut_in_messages(model: ServedModel) -> None:
    for asked in (columns(extra=tensor("x" * 9000, [1.0])), columns(material=tensor("x" * 9000, [1.0] * 3))):
        with pytest.raises(InputError) as refusal:
            decode(model, asked)
        assert len(str(refusal.value)) < 400


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=6),
    st.sampled_from([[], {}, [[]], [None], [[1.0, 2.0, 3.0]], [2, 3], [2**62, 2], "FP64", "BYTES", "INT64", "numeric"]),
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every entry of a nested value, as its container and its key."""
    keys: Any = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in [(value, key), *places(value[key])]]


STARTS = [request(), columns(), request(parameters={"timeout": 5, "alarm_rate": 0.2, "binary_data_output": True})]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_change_to_a_request_gives_rows_or_a_refusal(model: ServedModel, data: st.DataObject) -> None:
    asked = copy.deepcopy(data.draw(st.sampled_from(STARTS)))
    for _ in range(data.draw(st.integers(1, 4))):
        container, key = data.draw(st.sampled_from(places(asked)))
        change = data.draw(st.sampled_from(["set", "drop", "double"]))
        if change == "drop":
            del container[key]
        elif change == "double" and isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        else:
            container[key] = copy.deepcopy(data.draw(VALUES))
        if not places(asked):
            break
    try:
        decoded = decode(model, asked)
    except InputError:
        return
    assert len(decoded.rows.numeric) == len(decoded.rows.categorical)
    assert decoded.rows.numeric.shape[1] == 3
    assert decoded.rows.numeric.dtype == np.float32
    assert decoded.rows.categorical.dtype == np.int64


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=200), length=st.one_of(st.none(), st.text(max_size=4), st.integers(-5, 300).map(str)))
def test_any_bytes_give_rows_or_a_refusal(model: ServedModel, body: bytes, length: str | None) -> None:
    headers = {} if length is None else {HEADER_LENGTH: length}
    with pytest.raises(InputError):
        decode_infer(model, body, headers)


def test_a_models_plan_goes_with_the_model(fitted: Bundle, model: ServedModel) -> None:
    import gc
    import weakref

    passing = ServedModel("press", "8", fitted, model.session)
    decode(passing, request())
    gone = weakref.ref(passing)
    del passing
    gc.collect()
    assert gone() is None


def test_metadata_name_the_inputs_a_request_must_have_and_all_outputs(model: ServedModel) -> None:
    found = model_metadata(model)
    assert (found["name"], found["versions"]) == ("press", ["7"])
    assert found["inputs"][0] == {"name": "numeric", "datatype": "FP32", "shape": [-1, 3]}
    assert [output["name"] for output in found["outputs"]] == list(model.outputs)
    assert "binary_tensor_data" in server_metadata()["extensions"]


def test_the_configuration_marks_the_alarm_rate_as_optional(model: ServedModel) -> None:
    found = model_config(model)
    assert [entry["name"] for entry in found["input"] if entry["optional"]] == ["alarm_rate"]
    assert found["max_batch_size"] == 0


def test_the_repository_index_lists_the_versions_in_service(model: ServedModel) -> None:
    assert repository_index([model]) == [{"name": "press", "version": "7", "state": "READY", "reason": ""}]


@pytest.mark.parametrize("by_column", [False, True])
def test_more_rows_than_allowed_are_refused_before_their_cells_are_read(model: ServedModel, by_column: bool) -> None:
    asked = columns() if by_column else request()
    rows = asked["inputs"][0]["shape"][0]
    body = orjson.dumps(asked)
    assert len(decode_infer(model, body, {}, max_rows=rows).rows) == rows
    for one in asked["inputs"]:
        one["data"] = ["no cell that could be read"]
    for wrong in (body, orjson.dumps(asked)):
        with pytest.raises(RequestTooLargeError, match="rows"):
            decode_infer(model, wrong, {}, max_rows=rows - 1)


def test_tensors_may_be_larger_than_json(model: ServedModel) -> None:
    rows = MAX_JSON_BYTES // 12 + 1
    inputs = [
        {"name": "numeric", "shape": [rows, 3], "datatype": "FP32", "parameters": {"binary_data_size": rows * 12}},
        {"name": "categorical", "shape": [rows, 2], "datatype": "INT8", "parameters": {"binary_data_size": rows * 2}},
    ]
    head = orjson.dumps({"inputs": inputs})
    found = decode_infer(model, head + bytes(rows * 14), {HEADER_LENGTH: str(len(head))}, max_rows=rows)
    assert len(found.rows) == rows
    with pytest.raises(RequestTooLargeError, match="MiB"):
        decode_infer(model, head + b" " * MAX_JSON_BYTES, {})
