from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomvae.bundle import Column
from anomvae.data.encoding import codes_of, encode, numbers_of
from anomvae.errors import (
    CellError,
    ColumnMismatchError,
    InputError,
    RequestError,
    RequestTooLargeError,
    SettingError,
    TooFewRowsError,
)
from anomvae.scoring import Scorer
from anomvae.scoring.reasons import REASON_OUTPUTS, ReasonWriter, natural_reasons
from anomvae.serving.cells import Layout, encode_cells
from anomvae.serving.exchange import ARROW_STREAM, Decoded
from anomvae.serving.model import ServedModel
from anomvae.serving.records import decode_score

if TYPE_CHECKING:
    from anomvae.bundle import Bundle

CELL = "sEcReT-77"


@pytest.fixture(scope="module")
def scorer(fitted: Bundle) -> Scorer:
    return Scorer(fitted)


@pytest.fixture(scope="module")
def model(fitted: Bundle, scorer: Scorer) -> ServedModel:
    return ServedModel("press", "1", fitted, scorer.session)


def answer(model: ServedModel, decoded: Decoded) -> bytes:
    arrays = model.session.run_in_chunks(decoded.rows, decoded.outputs, decoded.alarm_rate)
    body: bytes = decoded.encode(arrays).body
    return body


def score(model: ServedModel, document: Any, **query: str) -> Any:
    return json.loads(answer(model, decode_score(model, orjson.dumps(document), {}, query)))


def record(**changes: Any) -> dict[str, Any]:
    row = {
        "part": "P1",
        "temperature": 61.5,
        "pressure": 251000,
        "vibration": 1.25,
        "cooling": True,
        "material": "steel",
    }
    return {**row, "line": "A", **changes}


ROWS = [
    record(),
    record(pressure=None, material=None, part=None),
    record(temperature=95.5, material="granite", part="P3"),
    record(vibration=1e39, cooling=False),
]


def expected(scorer: Scorer, rows: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
    answers = scorer.score(pa.Table.from_pylist(rows), **options).to_pylist()
    natural = natural_reasons(scorer.manifest)
    return [{**row, "reasons": natural(row["reasons"])} for row in answers]


@pytest.mark.parametrize("options", [{}, {"top": 0}, {"top": 1000}, {"alarm_rate": 0.2, "top": 1}])
def test_answers_are_those_of_the_scorer_to_the_last_digit(
    model: ServedModel, scorer: Scorer, options: dict[str, Any]
) -> None:
    told = score(model, {"records": ROWS, **options})
    assert told["answers"] == expected(scorer, ROWS, **options)
    assert (told["model"], told["version"]) == ("press", "1")
    assert told["alarm_rate"] == options.get("alarm_rate", 0.05)


def test_records_columns_a_bare_list_and_one_by_one_all_give_the_same_answers(model: ServedModel) -> None:
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    told = score(model, {"records": ROWS})
    assert score(model, {"columns": columns}) == told
    assert score(model, ROWS) == told
    assert [score(model, [row])["answers"][0] for row in ROWS] == told["answers"]


def test_an_unknown_category_is_shown_as_the_caller_wrote_it(model: ServedModel) -> None:
    reasons = score(model, [record(material="granite")], top="1000")["answers"][0]["reasons"]
    assert {"material": "granite", "cooling": True}.items() <= {r["column"]: r["value"] for r in reasons}.items()


def test_a_key_that_some_rows_lack_is_a_missing_cell(model: ServedModel) -> None:
    short = record()
    del short["pressure"], short["part"]
    assert score(model, [record(), short]) == score(model, [record(), record(pressure=None, part=None)])


def test_a_key_that_all_rows_lack_is_a_missing_column(model: ServedModel) -> None:
    short = record(presure=1)
    del short["pressure"]
    with pytest.raises(ColumnMismatchError, match=r"'pressure'.*'presure'"):
        score(model, [short, short])
    with pytest.raises(ColumnMismatchError):
        score(model, {"columns": {}})


def test_no_rows_get_no_answers(model: ServedModel) -> None:
    assert score(model, [])["answers"] == []
    assert score(model, {"columns": {name: [] for name in record()}})["answers"] == []


def test_columns_that_training_never_saw_change_nothing(model: ServedModel) -> None:
    assert score(model, [record(new={"a": [1]}, line=[])]) == score(model, [record()])


def test_options_in_the_query_are_those_of_the_body(model: ServedModel) -> None:
    told = score(model, {"records": ROWS, "top": 2, "alarm_rate": 0.1})
    assert score(model, ROWS, top="2", alarm_rate="0.1") == told
    assert score(model, {"records": ROWS, "top": 2}, top="2", alarm_rate="0.1") == told


def test_the_models_own_rate_needs_no_input_of_the_graph(model: ServedModel) -> None:
    assert decode_score(model, orjson.dumps(ROWS), {}, {"alarm_rate": "0.05"}).alarm_rate is None


@pytest.mark.parametrize(
    ("document", "query", "error"),
    [
        ({"records": ROWS, "top": 2}, {"top": "3"}, RequestError),
        ({"records": ROWS, "top": -1}, {}, SettingError),
        ({"records": ROWS, "top": 1001}, {}, SettingError),
        ({"records": ROWS, "top": 1.5}, {}, SettingError),
        ({"records": ROWS, "top": True}, {}, RequestError),
        ({"records": ROWS, "top": CELL}, {}, RequestError),
        (ROWS, {"top": CELL}, RequestError),
        (ROWS, {"topp": "3"}, RequestError),
        (ROWS, {"alarm_rate": "nan"}, InputError),
        (ROWS, {"alarm_rate": "2"}, SettingError),
        (ROWS, {"alarm_rate": "0.000001"}, TooFewRowsError),
        ({"records": ROWS, "alarm_rate": [0.1]}, {}, RequestError),
        ({"records": ROWS, "columns": {}}, {}, RequestError),
        ({}, {}, RequestError),
        (record(), {}, RequestError),
        (CELL, {}, RequestError),
        ({"records": CELL}, {}, RequestError),
        ({"columns": [CELL]}, {}, RequestError),
        ({"columns": {"temperature": CELL}}, {}, RequestError),
        ({"columns": {"temperature": [1], "pressure": [1, 2]}}, {}, RequestError),
        ([record(), CELL], {}, RequestError),
        ([record(), record(temperature=[CELL])], {}, CellError),
        ([record(), record(material={CELL: 1})], {}, CellError),
        ([record(), record(part=[CELL])], {}, CellError),
        ([record(), record(temperature=CELL)], {}, CellError),
    ],
)
def test_what_cannot_be_read_is_refused_without_a_word_of_the_data(
    model: ServedModel, document: Any, query: dict[str, str], error: type[InputError]
) -> None:
    with pytest.raises(error) as refused:
        decode_score(model, orjson.dumps(document), {}, query)
    assert CELL not in str(refused.value)


def test_a_cell_that_holds_several_is_named_by_column_and_row(model: ServedModel) -> None:
    with pytest.raises(CellError, match=r"'vibration'.*row 2"):
        score(model, [record(), record(vibration=[1])])


@pytest.mark.parametrize(
    "body", [b"", b" ", b"{", b'{"records": [NaN]}', b"\xff", b"[" * 5000, b'["\\ud800"]', b"1e999"]
)
def test_what_is_not_json_is_refused(model: ServedModel, body: bytes) -> None:
    with pytest.raises(RequestError):
        decode_score(model, body, {}, {})


@pytest.mark.parametrize("document", [[{}, {}, {}], {"columns": {"temperature": [1, 2, 3]}}])
def test_more_rows_than_allowed_are_refused_before_they_are_read(model: ServedModel, document: Any) -> None:
    with pytest.raises(RequestTooLargeError):
        decode_score(model, orjson.dumps(document), {}, {}, max_rows=2)


def test_the_answer_may_be_asked_for_as_an_arrow_stream(model: ServedModel, scorer: Scorer) -> None:
    decoded = decode_score(model, orjson.dumps(ROWS), {"accept": ARROW_STREAM}, {})
    with pa.ipc.open_stream(answer(model, decoded)) as stream:
        table = stream.read_all()
    assert table.equals(scorer.score(pa.Table.from_pylist(ROWS)))
    assert table.schema.metadata == {b"anomvae.model": b"press", b"anomvae.version": b"1"}


@pytest.mark.parametrize(
    "accept", ["", "*/*", "application/*", "text/html, application/json;q=0.5", "APPLICATION/JSON"]
)
def test_json_is_answered_with_json_unless_the_caller_says_otherwise(model: ServedModel, accept: str) -> None:
    assert answer(model, decode_score(model, orjson.dumps(ROWS), {"accept": accept}, {})).startswith(b"{")


def test_an_answer_in_a_form_nobody_has_is_refused(model: ServedModel) -> None:
    with pytest.raises(RequestError):
        decode_score(model, orjson.dumps(ROWS), {"accept": "text/html, application/json;q=0"}, {})


NUMBER = Column("x", "numeric", "double")
CATEGORIES = [
    Column("k", "categorical", "string", categories=("a", "1", "true", "2.5"), missing_code=4),
    Column("k", "categorical", "string", categories=("a", "1")),
    Column("k", "categorical", "int64", categories=("1", "-3", "0"), missing_code=3),
    Column("k", "categorical", "double", categories=("1", "2.5")),
    Column("k", "boolean", "bool", categories=("false", "true"), missing_code=2),
    Column("k", "boolean", "string", categories=("false", "true")),
]
FLOATS = st.floats(width=64) | st.floats(-3, 3) | st.sampled_from([1.0, 2.5, -3.0, 1e300])
WORDS = st.text("a1.0 -eE+xyes", max_size=4) | st.sampled_from(["true", "False", "yes", "007", "2.5"])
ONE_TYPE = st.sampled_from(
    [st.booleans(), st.integers(-(2**63), 2**63 - 1), st.integers(-4, 4), FLOATS, WORDS]
).flatmap(lambda cells: st.lists(cells | st.none(), max_size=6))
ANY_TYPE = st.lists(st.booleans() | st.integers(-(10**30), 10**30) | FLOATS | WORDS | st.none(), max_size=6)


@given(ONE_TYPE)
@settings(deadline=None)
def test_numbers_are_read_as_from_a_table(fitted: Bundle, cells: list[Any]) -> None:
    manifest = one_column(fitted, NUMBER)
    try:
        with np.errstate(over="ignore"):
            wanted = numbers_of(pa.array(cells), "x").astype(np.float32)
    except CellError:
        with pytest.raises(CellError):
            encode_cells({"x": cells}, manifest)
    else:
        np.testing.assert_array_equal(encode_cells({"x": cells}, manifest).numeric[:, 0], wanted)
        records = [{"x": cell} for cell in cells]
        np.testing.assert_array_equal(Layout(manifest).encode_records(records).numeric[:, 0], wanted)


@given(st.sampled_from(CATEGORIES), ONE_TYPE)
@settings(deadline=None)
def test_categories_are_read_as_from_a_table(fitted: Bundle, column: Column, cells: list[Any]) -> None:
    manifest = one_column(fitted, column)
    wanted = codes_of(pa.array(cells), column).tolist()
    assert encode_cells({"k": cells}, manifest).categorical[:, 0].tolist() == wanted
    records = [{"k": cell} for cell in cells]
    assert Layout(manifest).encode_records(records).categorical[:, 0].tolist() == wanted


@given(st.sampled_from([NUMBER, *CATEGORIES]), ANY_TYPE)
@settings(deadline=None)
def test_a_cell_is_read_the_same_whatever_types_its_neighbours_have(
    fitted: Bundle, column: Column, cells: list[Any]
) -> None:
    manifest = one_column(fitted, column)
    try:
        alone = [encode_cells({column.name: [cell]}, manifest) for cell in cells]
    except CellError:
        with pytest.raises(CellError):
            encode_cells({column.name: cells}, manifest)
    else:
        together = encode_cells({column.name: cells}, manifest)
        for row, one in enumerate(alone):
            np.testing.assert_array_equal(together.numeric[row], one.numeric[0])
            np.testing.assert_array_equal(together.categorical[row], one.categorical[0])


def test_a_whole_number_beyond_all_others_is_named_by_column_and_row(fitted: Bundle) -> None:
    with pytest.raises(CellError, match=r"'x'.*row 2"):
        encode_cells({"x": [1, 10**400]}, one_column(fitted, NUMBER))


def test_dates_are_read_with_and_without_their_offset(fitted: Bundle) -> None:
    manifest = one_column(fitted, Column("x", "date", "timestamp[us]", origin="2026-01-01T00:00:00"))
    plain = encode_cells({"x": ["2026-01-02", "2026-01-02T12:00:00", None]}, manifest).numeric[:, 0]
    zoned = encode_cells({"x": ["2026-01-02T00:00:00Z", "2026-01-02T14:00:00+02:00", None]}, manifest).numeric[:, 0]
    np.testing.assert_array_equal(plain, np.array([1, 1.5, np.nan], np.float32))
    np.testing.assert_array_equal(zoned, plain)
    for cells in (["2026-13-01"], [CELL], [1.5], [True]):
        with pytest.raises(CellError) as refused:
            encode_cells({"x": cells}, manifest)
        assert CELL not in str(refused.value)


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("numbers_only", [False, True])
def test_quick_reasons_are_those_that_arrow_holds(fitted: Bundle, rows: int, numbers_only: bool) -> None:
    manifest, draw = fitted.manifest, np.random.default_rng(rows)
    if numbers_only:
        manifest = one_column(fitted, *(column for column in manifest.columns if column.is_numeric))
    d, c = len(manifest.numeric), len(manifest.categorical)
    strange = np.array([np.nan, np.inf, -np.inf, 0.1, -0.0, 1e-30, 123456.789, 16777216], np.float32)
    encoded = {
        column.name: draw.choice(np.array([*column.categories, None, "odd"], object), rows)
        for column in manifest.categorical
    }
    table = pa.record_batch(
        {
            **{column.name: draw.choice(strange, rows) for column in manifest.numeric},
            **{name: pa.array(cells.tolist(), pa.string()) for name, cells in encoded.items()},
        }
    )
    found = {
        "contribution": draw.normal(size=(rows, d + c)).astype(np.float32),
        "expected": draw.choice(strange[3:], (rows, d)),
        "expected_category": draw.integers(0, 2, (rows, c)),
    }
    writer = ReasonWriter(manifest, 4)
    picks = writer.pick(encode(table, manifest.columns), {name: found[name] for name in REASON_OUTPUTS})
    arrow = writer.write([picks], table).to_pylist()
    assert writer.natural(picks, table) == [natural_reasons(manifest)(row) for row in arrow]
    assert writer.natural(picks) == [natural_reasons(manifest)(row) for row in writer.write([picks]).to_pylist()]


def one_column(bundle: Bundle, *columns: Column) -> Any:
    from dataclasses import replace

    return replace(bundle.manifest, columns=columns)
