"""Payloads become rows, and one that cannot be read holds up no other."""

from __future__ import annotations

import datetime as dt
import io
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import fastavro
import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomvae.bundle import Column
from anomvae.data.encoding import codes_of, encode
from anomvae.data.times import read_time
from anomvae.errors import CellError, ColumnMismatchError, SettingError
from anomvae.streaming.codec import MANY_ROWS, MOST_ROWS, ArrowCodec, AvroCodec, Bad, Codec, as_json, make_codec
from anomvae.streaming.rows import PerCell, RowReader, asset_reader
from anomvae.streaming.times import times_of
from tests.streaming.toys import toy_manifest

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = {
    "type": "record",
    "name": "Reading",
    "fields": [
        {"name": "flow", "type": ["null", "double"]},
        {"name": "machine", "type": "string"},
        {"name": "when", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}},
    ],
}
READING = {
    "flow": 1.5, "machine": "A", "when": dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "price": Decimal("12.50"),
}  # fmt: skip


def avro(row: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(SCHEMA), row)
    return stream.getvalue()


def arrow(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def json_codec() -> Codec:
    return make_codec("json")


def test_json_objects_are_rows() -> None:
    found = json_codec().decode([b'{"a": 1, "b": null}', b'{"a": "x"}'])
    assert (found.rows, list(found.record), found.part, found.bad) == (
        [{"a": 1, "b": None}, {"a": "x"}],
        [0, 1],
        None,
        [],
    )


@pytest.mark.parametrize(
    "payload",
    [b"{", b"\xff", b'{"a": "\\ud800"}', b"a,b\n1,2"],
)
def test_what_is_not_json_is_named_and_holds_up_no_other(payload: bytes) -> None:
    found = json_codec().decode([b'{"a": 1}', payload, b'{"a": 2}'])
    assert ([row["a"] for row in found.rows], list(found.record)) == ([1, 2], [0, 2])
    ((record, cause, reason),) = found.bad
    assert (record, cause, reason) == (1, "format", "the payload is not JSON")


@pytest.mark.parametrize("payload", [b"[" * 100_000, b'{"a": ' * 2000 + b"1" + b"}" * 2000])
def test_json_that_is_nested_too_deep_is_named(payload: bytes) -> None:
    found = json_codec().decode([b'{"a": 1}', payload, b'{"a": 2}'])
    assert found.bad == [Bad(1, "format", "the payload is JSON that is nested too deep to be read")]
    assert found.rows == [{"a": 1}, {"a": 2}]


def test_an_empty_payload_is_named_whatever_the_format() -> None:
    for codec in (json_codec(), make_codec("arrow"), AvroCodec(json.dumps(SCHEMA))):
        assert codec.decode([b""]).bad == [Bad(0, "format", "the payload is empty")]


@pytest.mark.parametrize("payload", [b"[1]", b'"text"', b"null", b"7"])
def test_json_that_is_no_object_is_named(payload: bytes) -> None:
    found = json_codec().decode([payload, b'{"a": 2}'])
    assert [bad.reason for bad in found.bad] == ["the payload is JSON, but no object of cells by column name"]
    assert found.rows == [{"a": 2}]


def test_python_writes_nan_for_missing_numbers() -> None:
    found = json_codec().decode([b'{"a": NaN, "b": Infinity}', b'\xef\xbb\xbf{"a": 2}'])
    assert np.isnan(found.rows[0]["a"])
    assert (found.rows[0]["b"], found.rows[1], found.bad) == (float("inf"), {"a": 2}, [])


@pytest.mark.parametrize("confluent", [False, True])
def test_avro_records_are_rows(tmp_path: Path, confluent: bool) -> None:
    schema = tmp_path / "reading.avsc"
    schema.write_text(json.dumps(SCHEMA))
    codec = make_codec("avro-confluent" if confluent else "avro", schema)
    good = (b"\x00\x00\x00\x00\x07" if confluent else b"") + avro(READING)
    found = codec.decode([good, good[:-3], b"", good + b"\x00", good])
    assert found.rows == [READING, READING]
    assert (list(found.record), [bad.record for bad in found.bad]) == ([0, 4], [1, 2, 3])
    assert as_json(found.rows[0]) == b'{"flow":1.5,"machine":"A","when":"2026-01-01T00:00:00+00:00","price":"12.50"}'


def test_confluent_records_have_a_head() -> None:
    found = AvroCodec(json.dumps(SCHEMA), confluent=True).decode([b"\x01\x00\x00\x00\x07" + avro(READING), b"\x00\x00"])
    assert [bad.reason for bad in found.bad] == 2 * [
        "the payload does not begin with the magic byte and the schema's number, as Confluent's wire format does"
    ]


def test_an_arrow_stream_holds_many_rows() -> None:
    table = pa.table({"flow": [1.0, None], "when": pa.array([0, 1], pa.timestamp("ms")), "kind": ["a", "b"]})
    found = make_codec("arrow").decode([arrow(table), b"ARROW1", arrow(table.slice(1))])
    assert [row["kind"] for row in found.rows] == ["a", "b", "b"]
    assert (list(found.record), found.part, [bad.record for bad in found.bad]) == ([0, 0, 2], [0, 1, 0], [1])


def test_an_arrow_stream_that_claims_billions_of_rows_is_not_unpacked() -> None:
    table = pa.table({"nothing": pa.nulls(MOST_ROWS + 1)})
    payload = arrow(table)
    assert len(payload) < 1_000
    found = ArrowCodec().decode([payload, arrow(pa.table({"a": [1]}))])
    assert (found.rows, found.bad) == ([{"a": 1}], [Bad(0, "format", MANY_ROWS)])


def test_formats_that_cannot_be_are_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.avsc"
    wrong.write_text('{"type": "nothing"}')
    scalar = tmp_path / "scalar.avsc"
    scalar.write_text('"string"')
    for name, schema in [
        ("xml", None),
        ("avro", None),
        ("json", wrong),
        ("avro", wrong),
        ("avro", scalar),
        ("avro", tmp_path / "x"),
    ]:
        with pytest.raises(SettingError):
            make_codec(name, schema)


def test_answers_hold_nothing_that_json_cannot() -> None:
    row = {"nan": float("nan"), "raw": b"\xff", "long": dt.timedelta(seconds=1.5), "odd": 1j}
    assert orjson.loads(as_json(row)) == {"nan": None, "raw": "/w==", "long": 1.5, "odd": "1j"}


cells = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.floats(-1e6, 1e6), st.sampled_from(["", " 7 ", "1e3", "-0.5", "secret", "nan"]),
    st.just([1]),
)  # fmt: skip


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=20))
def test_a_cell_is_read_as_it_would_be_alone(rows: list[tuple[Any, Any]]) -> None:
    reader, columns = RowReader(toy_manifest()), toy_manifest().columns
    records = [{"flow": flow, "heat": heat, "machine": "A"} for flow, heat in rows]
    found = reader.sift(records)
    good = list(range(len(rows))) if found.rows is None else found.rows
    assert sorted([*good, *(bad.row for bad in found.bad)]) == list(range(len(rows)))
    for place, numbers in zip(good, found.encoded.numeric, strict=True):
        cell = records[place]
        alone = encode(pa.table({"flow": [cell["flow"]], "heat": [cell["heat"]]}), columns).numeric[0]
        assert np.array_equal(numbers, alone, equal_nan=True)
    for bad in found.bad:
        assert bad.cause == "cells"
        with pytest.raises(CellError):
            reader.read([records[bad.row]])
        assert "secret" not in bad.reason


def test_a_missing_column_is_named_and_a_null_cell_is_none() -> None:
    reader = RowReader(toy_manifest())
    found = reader.sift([{"flow": 1.0, "heat": None}, {"flow": 1.0, "Heat": 2.0}, {"flow": 3.0, "heat": 4.0}])
    assert found.rows == [0, 2]
    ((place, cause, reason),) = found.bad
    assert (place, cause) == (1, "columns")
    assert reason.startswith("the rows lack 'heat', which the detector needs (they have 'Heat'")
    ((_, _, reason),) = reader.sift([{"flow": 1.0, "nothing alike": 2.0}]).bad
    assert reason.startswith("the rows lack 'heat', which the detector needs; rename or add the columns")
    with pytest.raises(ColumnMismatchError):
        reader.read([{"flow": 1.0}])


@pytest.mark.parametrize(
    ("type_", "categories", "cells"),
    [
        ("string", ("A", "7", "true"), ["A", "B", None, 7, 7.0, True, "7", ""]),
        ("int64", ("7", "8"), [7, 7.0, "7", "007", "7.0", 9, "x", None, 8.5]),
        ("bool", ("false", "true"), [True, "true", "TRUE", 1, "no", None, 3]),
    ],
)
def test_assets_have_the_codes_that_tables_give_them(type_: str, categories: tuple[str, ...], cells: list[Any]) -> None:
    column = Column("machine", "categorical", type_, categories)
    found = asset_reader(column).of(cells)
    assert [code for _, code in found] == [int(codes_of(pa.array([cell]), column)[0]) for cell in cells]
    for name, code in found:
        assert code == len(categories) or name == categories[code]


def test_cells_that_mean_the_same_unknown_asset_have_one_name() -> None:
    found = asset_reader(Column("machine", "categorical", "int64", ("1",))).of([7, 7.0, "7", "007", " 7 ", None, " "])
    assert [name for name, _ in found] == ["7", "7", "7", "7", "7", None, None]


EARLY, LATE = dt.datetime.fromisoformat("1990-01-01"), dt.datetime.fromisoformat("2100-01-01")
instants = st.one_of(
    st.datetimes(EARLY, LATE).map(dt.datetime.isoformat),
    st.datetimes(EARLY, LATE).map(lambda at: at.isoformat() + "+02:00"),
    st.floats(0, 9e10),
    st.integers(0, 9 * 10**10),
    st.sampled_from(["2026-01-01", "x", "", None, True, "17", "0000-01-01", float("nan"), 10**400]),
)


@given(st.lists(instants, min_size=1, max_size=6))
def test_a_time_is_read_as_it_would_be_alone(cells: list[Any]) -> None:
    def alone(cell: Any) -> float:
        try:
            return read_time(cell, "when")
        except CellError:
            return float("nan")

    wanted = [alone(cell) for cell in cells]
    assert np.array_equal(times_of(cells), wanted, equal_nan=True)


def test_large_numbers_are_milliseconds_unless_time_is_no_unix_time() -> None:
    assert times_of([1_700_000_000, 1_700_000_000_000, "1700000000000"]).tolist() == [1.7e9] * 3
    assert times_of([1_700_000_000_000], unix=False).tolist() == [1.7e12]


def test_long_cells_are_not_remembered() -> None:
    read: list[str] = []

    def size(cell: str) -> int:
        read.append(cell)
        return len(cell)

    book: PerCell[int] = PerCell("machine", size)
    for _ in range(2):
        assert book.of(["A", "x" * 10_000]) == [1, 10_000]
    assert [len(cell) for cell in read] == [1, 10_000, 10_000]


def test_what_many_rows_lack_alike_is_found_out_once_and_a_million_fields_are_not_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[str] = []

    def nothing_alike(word: str, *_: object) -> list[str]:
        looked.append(word)
        return []

    monkeypatch.setattr("difflib.get_close_matches", nothing_alike)
    reader = RowReader(toy_manifest())
    rows = [{"flaw": float(i), "heat": 1.0} for i in range(50)]
    assert len(reader.sift(rows).bad) == len(reader.sift(rows).bad) == 50
    assert looked == ["flaw"]
    reader.sift([{f"field {i}": i for i in range(5_000)}])
    assert len(looked) <= 101


def test_dates_of_a_far_year_are_no_milliseconds() -> None:
    cells = ["9999-12-31T00:00:00Z", dt.datetime(9999, 12, 31, tzinfo=dt.UTC), "253402214400000"]
    assert times_of(cells).tolist() == [253402214400.0] * 3


def test_whole_numbers_are_read_up_to_what_64_bits_hold_and_larger_ones_are_named() -> None:
    for digits in ("9" * 20, "-" + "9" * 30, "1" * 308, str(2**64 - 1), str(-(2**63)), "7"):
        (quick,) = make_codec("json").decode([f'{{"a": {digits}}}'.encode()]).rows
        (lenient,) = make_codec("json").decode([f'{{"a": {digits}, "b": NaN}}'.encode()]).rows
        assert (lenient["a"], type(lenient["a"])) == (quick["a"], type(quick["a"]))
    for digits in ("1" * 400, "-" + "1" * 400, "1" * 5000):
        ((record, cause, reason),) = make_codec("json").decode([f'{{"a": {digits}}}'.encode()]).bad
        assert (record, cause) == (0, "format")
        assert "whole number beyond 1.8e308" in reason
