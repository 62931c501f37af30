from __future__ import annotations

import datetime as dt
import json
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomvae.errors import ColumnMismatchError, InputError, RequestError, RequestTooLargeError, RowError
from anomvae.scoring import Scorer
from anomvae.scoring.reasons import natural_reasons
from anomvae.serving.arrow import ArrowLimits, decode_score_arrow
from anomvae.serving.arrow_messages import declared
from anomvae.serving.exchange import JSON, Reply
from anomvae.serving.model import ServedModel

if TYPE_CHECKING:
    from anomvae.bundle import Bundle

CELL = "sEcReT-77"


@pytest.fixture(scope="module")
def scorer(fitted: Bundle) -> Scorer:
    return Scorer(fitted)


@pytest.fixture(scope="module")
def model(fitted: Bundle, scorer: Scorer) -> ServedModel:
    return ServedModel("press", "1", fitted, scorer.session)


def rows(n: int = 5) -> pa.Table:
    draw = np.random.default_rng(n)
    return pa.table(
        {
            "part": [f"P{number}" for number in range(n)],
            "temperature": draw.normal(60, 8, n).astype(np.float32),
            "pressure": pa.array(np.where(draw.random(n) < 0.3, np.nan, 2.5e5), from_pandas=True),
            "vibration": pa.array(draw.random(n), pa.float64()),
            "cooling": draw.random(n) < 0.5,
            "material": pa.array((["steel", None, "brass", "granite"] * n)[:n], pa.string()),
        }
    )


def stream(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def reply(model: ServedModel, body: bytes, accept: str = "", **query: str) -> Reply:
    decoded = decode_score_arrow(model, body, {"accept": accept}, query)
    arrays = model.session.run_in_chunks(decoded.rows, decoded.outputs, decoded.alarm_rate)
    answer = decoded.encode(arrays)
    assert isinstance(answer, Reply)
    return answer


def score(model: ServedModel, table: pa.Table, **query: str) -> pa.Table:
    with pa.ipc.open_stream(reply(model, stream(table), **query).body) as answer:
        return answer.read_all()


def with_column(name: str, cells: Any, table: pa.Table | None = None) -> pa.Table:
    table = rows() if table is None else table
    return table.set_column(table.schema.get_field_index(name), name, cells)


def test_answers_are_those_of_the_scorer_with_its_schema(model: ServedModel, scorer: Scorer) -> None:
    told = score(model, rows(), top="3")
    assert told.equals(scorer.score(rows()))
    assert told.schema.equals(scorer.schema(rows().schema, 3))
    assert told.schema.metadata == {b"anomvae.model": b"press", b"anomvae.version": b"1"}


def test_bulk_callers_get_no_reasons_unless_they_ask_and_none_are_computed(model: ServedModel, scorer: Scorer) -> None:
    told = score(model, rows())
    assert told.equals(scorer.score(rows()).drop_columns(["reasons"]))
    assert "contribution" not in decode_score_arrow(model, stream(rows()), {}, {}).outputs


def test_json_may_be_asked_for(model: ServedModel, scorer: Scorer) -> None:
    told = reply(model, stream(rows()), JSON, top="2")
    natural = natural_reasons(scorer.manifest)
    wanted = [{**row, "reasons": natural(row["reasons"])} for row in scorer.score(rows(), top=2).to_pylist()]
    assert (told.media_type, json.loads(told.body)["answers"]) == (JSON, wanted)


def test_a_batch_or_many_or_none_at_all_make_no_difference(model: ServedModel) -> None:
    whole = score(model, rows(9), top="2")
    parts = pa.concat_tables([rows(9).slice(0, 4), rows(9).slice(4, 0), rows(9).slice(4)])
    assert score(model, parts, top="2").equals(whole)
    empty = score(model, rows(9).slice(0, 0))
    assert (empty.num_rows, empty.schema) == (0, score(model, rows(9)).schema)
    sink = pa.BufferOutputStream()
    pa.ipc.new_stream(sink, rows().schema).close()
    assert pa.ipc.open_stream(reply(model, sink.getvalue().to_pybytes(), top="2").body).read_all().num_rows == 0


def test_dictionaries_views_and_large_texts_are_texts(model: ServedModel) -> None:
    plain, material = score(model, rows(), top="9"), rows()["material"]
    for kind in (pa.string_view(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())):
        assert score(model, with_column("material", material.cast(kind)), top="9").equals(plain)


def test_carried_cells_keep_their_types(model: ServedModel) -> None:
    parts = pa.array([dt.datetime(2026, 1, 1, tzinfo=dt.UTC)] * 5, pa.timestamp("ns", "UTC"))
    assert score(model, with_column("part", parts))["part"].combine_chunks().equals(parts)
    told = json.loads(reply(model, stream(with_column("part", pa.array([1] * 5, pa.timestamp("ns")))), JSON).body)
    assert told["answers"][0]["part"] == "1970-01-01 00:00:00.000000001"
    told = json.loads(reply(model, stream(with_column("part", pa.array([2**62] * 5, pa.timestamp("s")))), JSON).body)
    assert isinstance(told["answers"][0]["part"], str)


def test_a_compressed_stream_is_read_within_the_limit(model: ServedModel) -> None:
    assert score(model, rows()).equals(
        pa.ipc.open_stream(reply(model, stream(rows(), compression="zstd")).body).read_all()
    )
    bomb = stream(with_column("part", pa.array(["x" * 3_000_000] * 5)), compression="zstd")
    assert len(bomb) < 20_000
    with pytest.raises(RequestTooLargeError):
        decode_score_arrow(model, bomb, {}, {}, limits=ArrowLimits(bytes_=10_000_000))


@pytest.mark.parametrize("kind", [pa.dictionary(pa.int8(), pa.string()), pa.string_view()])
def test_few_bytes_that_stand_for_many_are_refused(model: ServedModel, kind: pa.DataType) -> None:
    limits = ArrowLimits(bytes_=4_000_000)
    texts = pa.array(["x" * 1_000_000] * 5)
    cells = texts.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else texts.cast(kind)
    with pytest.raises(RequestTooLargeError):
        decode_score_arrow(model, stream(with_column("part", cells)), {}, {}, limits=limits)


def test_rows_and_batches_are_counted_before_they_are_read(model: ServedModel) -> None:
    many = pa.table({"nothing": pa.nulls(10**9)})
    with pytest.raises(RequestTooLargeError):
        decode_score_arrow(model, stream(many), {}, {})
    with pytest.raises(RequestTooLargeError):
        decode_score_arrow(model, stream(pa.concat_tables([rows(1)] * 4)), {}, {}, limits=ArrowLimits(batches=3))


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("temperature", pa.array([[1.0]] * 5)),
        ("material", pa.array([{"a": CELL}] * 5)),
        ("material", pa.array([b"x"] * 5)),
        ("part", pa.array([[CELL]] * 5)),
        ("temperature", pa.array([CELL] * 5)),
        ("temperature", pa.array([dt.date(2026, 1, 1)] * 5)),
        ("temperature", pa.array([dt.time(1)] * 5)),
    ],
)
def test_cells_that_are_no_single_values_are_refused(model: ServedModel, name: str, cells: pa.Array) -> None:
    with pytest.raises(RowError) as refused:
        decode_score_arrow(model, stream(with_column(name, cells)), {}, {})
    assert name in str(refused.value)
    assert CELL not in str(refused.value)


def test_missing_and_repeated_columns_are_refused(model: ServedModel) -> None:
    with pytest.raises(ColumnMismatchError):
        decode_score_arrow(model, stream(rows().drop_columns(["pressure"])), {}, {})
    with pytest.raises(RequestError, match="'pressure' twice"):
        decode_score_arrow(model, stream(rows().append_column("pressure", rows()["pressure"])), {}, {})


def test_the_file_format_is_told_from_the_stream(model: ServedModel) -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, rows().schema) as writer:
        writer.write_table(rows())
    with pytest.raises(RequestError, match="Arrow file"):
        decode_score_arrow(model, sink.getvalue().to_pybytes(), {}, {})


@pytest.mark.parametrize("body", [b"", b"{}", b"\xff" * 100, struct.pack("<Ii", 0xFFFFFFFF, 2**31 - 1) + b"\0" * 64])
def test_what_is_no_stream_is_refused(model: ServedModel, body: bytes) -> None:
    with pytest.raises(RequestError):
        decode_score_arrow(model, body, {}, {})


SOUND = [
    stream(rows()),
    stream(rows(), compression="lz4"),
    stream(with_column("material", rows()["material"].dictionary_encode())),
    stream(with_column("material", rows()["material"].cast(pa.string_view()))),
]


@given(st.data())
@settings(deadline=None, max_examples=400)
def test_a_damaged_stream_is_answered_or_refused_and_breaks_nothing(model: ServedModel, data: st.DataObject) -> None:
    body = bytearray(data.draw(st.sampled_from(SOUND)))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(body) - 8))
        flip = data.draw(st.binary(min_size=1, max_size=8))
        body[at : at + len(flip)] = flip
    cut = data.draw(st.none() | st.integers(0, len(body)))
    try:
        accept = data.draw(st.sampled_from(["", JSON]))
        decoded = decode_score_arrow(model, bytes(body[:cut]), {"accept": accept}, {"top": "2"})
        n = len(decoded.rows)
        each = [name for name in decoded.outputs if name in model.answered]
        wide = [name for name in decoded.outputs if name not in each]
        arrays: dict[str, Any] = {name: np.zeros(n, np.float32) for name in each}
        arrays |= {name: np.zeros((n, 5), np.float32) for name in wide}
        decoded.encode(arrays)
    except InputError as error:
        assert "steel" not in str(error)  # noqa: PT017  an answer is as good


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_rows_are_counted_before_anything_is_unfolded(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch, compression: str | None
) -> None:
    folded = with_column("material", rows().column("material").dictionary_encode())
    body = stream(pa.concat_tables([folded] * 3), compression=compression)
    assert declared(pa.py_buffer(body)).rows == 15
    assert len(decode_score_arrow(model, body, {}, {}, limits=ArrowLimits(rows=15)).rows) == 15
    monkeypatch.delattr("pyarrow.ipc.open_stream")
    with pytest.raises(RequestTooLargeError, match="15 rows"):
        decode_score_arrow(model, body, {}, {}, limits=ArrowLimits(rows=14))
