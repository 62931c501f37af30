from __future__ import annotations

import contextlib
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomvae.errors import ColumnMismatchError, InputError, RequestError, RequestTooLargeError, TooFewRowsError
from anomvae.scoring import Scorer
from anomvae.serving.invocations import decode_invocations
from anomvae.serving.model import ServedModel
from anomvae.serving.records import decode_score
from anomvae.serving.wishes import MAX_JSON_BYTES
from anomvae.tracking.pyfunc import FrameScorer

if TYPE_CHECKING:
    from anomvae.bundle import Bundle
    from anomvae.serving.exchange import Decoded

CELL = "sEcReT-77"
CSV = {"content-type": "text/csv; charset=utf-8"}
COLUMNS = ["temperature", "pressure", "vibration", "cooling", "material"]
ROWS: list[list[Any]] = [
    [61.5, 251000.0, 1.25, True, "steel"],
    [60.0, None, 0.5, False, None],
    [99.0, 2e5, 1.0, None, "granite"],
]
RECORDS = [dict(zip(COLUMNS, row, strict=True)) for row in ROWS]


@pytest.fixture(scope="module")
def model(fitted: Bundle) -> ServedModel:
    return ServedModel("press", "1", fitted, Scorer(fitted).session)


def answer(model: ServedModel, decoded: Decoded) -> bytes:
    arrays = model.session.run_in_chunks(decoded.rows, decoded.outputs, decoded.alarm_rate)
    body: bytes = decoded.encode(arrays).body
    return body


def ask(model: ServedModel, body: bytes, headers: dict[str, str] | None = None) -> Any:
    decoded = decode_invocations(model, body, headers or {"content-type": "application/json"})
    return json.loads(answer(model, decoded))["predictions"]


def predictions(model: ServedModel, **document: Any) -> Any:
    return ask(model, orjson.dumps(document))


def pyfunc(model: ServedModel, rows: list[dict[str, Any]], **params: Any) -> list[dict[str, Any]]:
    answers = FrameScorer(model.bundle, Scorer(model.bundle)).predict(pd.DataFrame(rows), params)
    told = json.loads(json.dumps(answers.to_dict(orient="records")))
    assert isinstance(told, list)
    return told


@pytest.mark.parametrize("params", [{}, {"top": 1}, {"alarm_rate": 0.3, "top": 9}])
def test_answers_are_those_of_the_logged_model(model: ServedModel, params: dict[str, Any]) -> None:
    rows = [{**row, "part": f"P{number}"} for number, row in enumerate(RECORDS)]
    assert predictions(model, dataframe_records=rows, params=params) == pyfunc(model, rows, **params)


@pytest.mark.parametrize(
    "document",
    [
        {"dataframe_split": {"columns": COLUMNS, "data": ROWS}},
        {"dataframe_split": {"columns": COLUMNS, "data": ROWS, "index": [7, "x", None]}},
        {"dataframe_split": {"columns": COLUMNS[::-1], "data": [row[::-1] for row in ROWS]}},
        {"instances": RECORDS},
        {"instances": ROWS},
        {"inputs": {name: [row[name] for row in RECORDS] for name in COLUMNS}},
        {"inputs": ROWS, "params": None},
    ],
)
def test_every_form_of_the_protocol_says_the_same(model: ServedModel, document: dict[str, Any]) -> None:
    assert [column.name for column in model.manifest.columns] == COLUMNS
    assert predictions(model, **document) == predictions(model, dataframe_records=RECORDS)


def test_nan_as_mlflows_clients_write_it_is_a_missing_cell(model: ServedModel) -> None:
    body = json.dumps({"dataframe_split": {"columns": COLUMNS, "data": ROWS}}).replace("null", "NaN")
    assert "NaN" in body
    assert ask(model, body.encode()) == predictions(model, dataframe_records=RECORDS)
    infinite = ask(
        model,
        b'{"dataframe_records": [{"temperature": -Infinity, "pressure": 1, "vibration": 1}]}'.replace(
            b'"vibration": 1', b'"vibration": 1, "cooling": NaN, "material": NaN'
        ),
    )
    assert infinite[0]["alarm"] is True
    for damaged in (b'{"instances": [NaN', b'{"instances": ' + b"[" * 100_000 + b"NaN", b'{"instances": NaN}', b"NaN"):
        with pytest.raises(RequestError):
            decode_invocations(model, damaged, {})


def test_csv_says_the_same(model: ServedModel) -> None:
    text = "part,temperature,pressure,vibration,cooling,material\nP1,61.5,251000,1.25,True,steel\n,60,,0.5,0,\n"
    text += '"P\n3",99,2e5,1,NA,"granite"\n'
    rows = [{"part": part, **row} for part, row in zip(["P1", None, "P\n3"], RECORDS, strict=True)]
    assert ask(model, text.encode(), CSV) == predictions(model, dataframe_records=rows)
    assert ask(model, b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(), CSV)[1]["part"] is None


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", RequestError),
        ("temperature\n1\n", ColumnMismatchError),
        (",".join(COLUMNS) + f"\n1,2,{CELL}\n", RequestError),
        (",".join(COLUMNS) + f"\n{CELL},2,3,1,x\n", InputError),
        (",".join([*COLUMNS, "material"]) + "\n1,2,3,1,x,x\n", RequestError),
        ("\udcff", RequestError),
        (",".join(COLUMNS) + "\n1,2,3,1,\udcff\n", RequestError),
    ],
)
def test_damaged_csv_is_refused_without_a_word_of_it(model: ServedModel, text: str, error: type[InputError]) -> None:
    with pytest.raises(error) as refused:
        ask(model, text.encode("utf-8", "surrogateescape"), CSV)
    assert CELL not in str(refused.value)


def test_a_short_row_of_csv_is_named(model: ServedModel) -> None:
    with pytest.raises(RequestError, match="row 2 "):
        ask(model, (",".join(COLUMNS) + "\n1,2,3,1,x\n1,2\n").encode(), CSV)


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"params": {}},
        {"instances": ROWS, "inputs": ROWS},
        {"instances": ROWS, "extra": 1},
        {"instances": ROWS, "params": [CELL]},
        {"instances": ROWS, "params": {CELL: 1}},
        {"instances": ROWS, "params": {"top": CELL}},
        {"instances": ROWS, "params": {"top": -1}},
        {"instances": CELL},
        {"instances": [ROWS[0], CELL]},
        {"instances": [ROWS[0], ROWS[0][:2]]},
        {"instances": [[[CELL]] * 5]},
        {"instances": []},
        {"inputs": CELL},
        {"inputs": {"temperature": CELL}},
        {"dataframe_records": {"temperature": [1]}},
        {"dataframe_split": CELL},
        {"dataframe_split": {"columns": COLUMNS}},
        {"dataframe_split": {"columns": CELL, "data": ROWS}},
        {"dataframe_split": {"columns": COLUMNS, "data": CELL}},
        {"dataframe_split": {"columns": [*COLUMNS[:4], "cooling"], "data": ROWS}},
        {"dataframe_split": {"columns": COLUMNS, "data": ROWS, "index": [1]}},
    ],
)
def test_what_cannot_be_read_is_refused_without_a_word_of_the_data(model: ServedModel, document: Any) -> None:
    if document == {"instances": []}:
        assert predictions(model, **document) == []
        return
    with pytest.raises(InputError) as refused:
        ask(model, orjson.dumps(document))
    named = CELL in str(refused.value)
    assert not named or document["instances"][0] == ROWS[0]


def test_rates_and_rows_have_their_limits(model: ServedModel) -> None:
    with pytest.raises(TooFewRowsError):
        predictions(model, instances=ROWS, params={"alarm_rate": 1e-6})
    text = (",".join(COLUMNS) + "\n1,2,3,1,x\n1,2,3,1,x\n1,2,3,1,x\n").encode()
    for body, headers in ((orjson.dumps({"instances": ROWS}), {}), (text, CSV)):
        with pytest.raises(RequestTooLargeError):
            decode_invocations(model, body, headers, max_rows=2)


def test_a_number_that_is_not_finite_is_null(model: ServedModel) -> None:
    decoded = decode_invocations(model, orjson.dumps({"instances": ROWS, "params": {"top": 0}}), {})
    arrays = model.session.run_in_chunks(decoded.rows, decoded.outputs)
    told = json.loads(decoded.encode({**arrays, "score": np.full(3, math.nan)}).body)
    assert [row["score"] for row in told["predictions"]] == [None] * 3


LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5)
KEYS = st.sampled_from([*COLUMNS, "part", "records", "columns", "data", "index", "params", "top", "alarm_rate"])
KEYS |= st.sampled_from(["dataframe_split", "dataframe_records", "instances", "inputs"]) | st.text(max_size=3)
JSONS = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=6) | st.dictionaries(KEYS, inner, max_size=7), max_leaves=40
)
ROW = st.fixed_dictionaries(dict.fromkeys(COLUMNS, LEAVES), optional={"part": JSONS})
DOCUMENTS = (
    JSONS
    | st.lists(ROW, max_size=4)
    | st.fixed_dictionaries(
        {}, optional={name: st.lists(ROW, max_size=4) | JSONS for name in ("records", "instances", "dataframe_records")}
    )
)


@given(DOCUMENTS, st.sampled_from(["application/json", "application/vnd.apache.arrow.stream"]))
@settings(deadline=None, max_examples=300)
def test_any_json_is_answered_or_refused(model: ServedModel, document: Any, accept: str) -> None:
    body = orjson.dumps(document)
    with contextlib.suppress(InputError):
        answer(model, decode_invocations(model, body, {}))
    with contextlib.suppress(InputError):
        answer(model, decode_score(model, body, {"accept": accept}, {}))


@given(st.text(st.sampled_from('abc,"\n\r 1;.\t\0é'), max_size=30), st.booleans())
@settings(deadline=None, max_examples=300)
def test_any_csv_is_answered_or_refused(model: ServedModel, text: str, with_header: bool) -> None:
    body = (",".join(COLUMNS) + "\n" if with_header else "").encode() + text.encode()
    with contextlib.suppress(InputError):
        decode_invocations(model, body, CSV)


LONE = st.sampled_from(['"\\ud800"', '"a\\udfffb"', str(2**64), str(-(2**63) - 1), "1" * 5000, "[" * 300 + "]" * 300])
PLAIN = st.sampled_from(["NaN", "Infinity", "-Infinity", "null", "1", "true", '"steel"', '"sEcReT-77"'])


@given(st.lists(st.fixed_dictionaries(dict.fromkeys([*COLUMNS, "part"], PLAIN | LONE)), min_size=1, max_size=3))
@settings(deadline=None, max_examples=200)
def test_what_no_answer_could_say_is_refused_beside_nan_too(model: ServedModel, rows: list[dict[str, str]]) -> None:
    records = ("{" + ", ".join(f'"{name}": {cell}' for name, cell in row.items()) + "}" for row in rows)
    body = f'{{"dataframe_records": [{", ".join([*records, NAN_ROW])}]}}'.encode()
    try:
        told = ask(model, body)
    except InputError as refused:
        assert CELL not in str(refused)  # noqa: PT017  either way is right
        assert "\n" not in str(refused)  # noqa: PT017
    else:
        assert len(told) == len(rows) + 1


NAN_ROW = '{"temperature": NaN, "pressure": 1, "vibration": 1, "cooling": true, "material": "steel"}'


@pytest.mark.parametrize("cell", ['"\\ud800"', "123456789012345678901234567890"])
@pytest.mark.parametrize("column", ["part", "material", "cooling", "mat\\ud800erial"])
def test_broken_text_and_whole_numbers_beyond_64_bits_are_refused_beside_nan(
    model: ServedModel, column: str, cell: str
) -> None:
    body = f'{{"dataframe_records": [{NAN_ROW}, {{"{column}": {cell}}}]}}'.encode()
    with pytest.raises(RequestError, match="64 bits") as refused:
        ask(model, body)
    assert "1234" not in str(refused.value)


@pytest.mark.parametrize("word", [b"", b"NaN"])
def test_json_that_takes_too_long_to_parse_is_refused_before_it_is(model: ServedModel, word: bytes) -> None:
    body = b'{"instances": [' + word + b" " * MAX_JSON_BYTES
    with pytest.raises(RequestTooLargeError, match="Arrow or binary tensors"):
        decode_invocations(model, body, {})
    with pytest.raises(RequestTooLargeError, match="Arrow or binary tensors"):
        decode_score(model, body, {}, {})
    table = (",".join(COLUMNS) + "\n").encode() + b" " * MAX_JSON_BYTES
    with pytest.raises(InputError) as refused:  # CSV is no JSON
        decode_invocations(model, table, CSV)
    assert not isinstance(refused.value, RequestTooLargeError)
