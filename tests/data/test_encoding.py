"""Rows as the graph's inputs: every Arrow type, missing and unknown cells, and whose fault a bad cell is."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomvae.bundle import Calibration, Column, GroupCalibration
from anomvae.data.encoding import (
    EncodedRows,
    codes_of,
    encode,
    encode_for,
    first_text_row,
    group_names,
    numbers_of,
    text_of,
)
from anomvae.data.schema import describe
from anomvae.errors import CellError, ColumnMismatchError, RowError

X = Column("x", "numeric", "double")
FAST = settings(deadline=None)
WORDS = st.text(st.characters(codec="utf-8"), max_size=6)


def numbers(cells: pa.Array | pa.ChunkedArray) -> list[float]:
    return [float(value) for value in numbers_of(cells, "x")]


def same(found: list[float], wanted: list[float]) -> bool:
    return bool(np.array_equal(np.asarray(found, float), np.asarray(wanted, float), equal_nan=True))


def category(*values: str, missing: bool = False) -> Column:
    return Column("c", "categorical", "string", values, missing_code=len(values) if missing else None)


@FAST
@given(st.lists(WORDS, min_size=1, max_size=8, unique=True), st.booleans(), st.data())
def test_a_category_comes_back_from_its_code_and_what_is_not_one_does_not(
    values: list[str], missing: bool, data: st.DataObject
) -> None:
    column = category(*values, missing=missing)
    cells = data.draw(st.lists(st.none() | st.sampled_from(values) | WORDS, max_size=20))
    codes = codes_of(pa.array(cells, pa.string()), column)
    assert codes.dtype == np.int64
    for cell, code in zip(cells, codes.tolist(), strict=True):
        if cell in values:
            assert values[code] == cell
        elif cell is None and missing:
            assert code == column.missing_code == len(values)
        else:
            assert code == column.unknown_code == len(values) + missing
    assert all(0 <= code < column.n_codes for code in codes.tolist())


@FAST
@given(st.lists(st.none() | st.sampled_from(["a", "b", "new"]), min_size=1, max_size=20), st.booleans())
def test_the_way_arrow_stores_text_does_not_matter(cells: list[str | None], missing: bool) -> None:
    column = category("a", "b", missing=missing)
    plain = pa.array(cells, pa.string())
    wanted = codes_of(plain, column).tolist()
    others = [
        plain.cast(pa.large_string()),
        plain.cast(pa.string_view()),
        plain.dictionary_encode(),
        pa.chunked_array([plain, plain[:0]]),
        pa.chunked_array([plain[:1], plain[1:]]),
        pa.chunked_array([plain.dictionary_encode()]),
    ]
    for cells_otherwise in others:
        assert codes_of(cells_otherwise, column).tolist() == wanted


@pytest.mark.parametrize(
    "cells",
    [
        pa.array([True, False, None]),
        pa.array([1, 0, None]),
        pa.array([1.0, 0.0, np.nan]),
        pa.array(["true", "False", None]),
        pa.array([" Yes", "n", None]),
        pa.array(["1.0", "0.0", None]),
        pa.array(["T", "F", None]).dictionary_encode(),
    ],
)
def test_booleans_are_the_same_in_all_their_guises(cells: pa.Array) -> None:
    seen = Column("b", "boolean", "bool", ("false", "true"), missing_code=2)
    unseen = Column("b", "boolean", "bool", ("false", "true"))
    assert codes_of(cells, seen).tolist() == [1, 0, 2]
    assert codes_of(cells, unseen).tolist() == [1, 0, 2]  # there the code after the last means never seen
    assert codes_of(pa.array(["maybe"]), seen).tolist() == [3]


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint64(), pa.int64(), pa.float32(), pa.float64()])
def test_whole_numbers_are_the_same_category_whatever_their_type(kind: pa.DataType) -> None:
    column = category("1", "2", "30", missing=True)
    assert codes_of(pa.array([30, 1, None, 2, 7], kind), column).tolist() == [2, 0, 3, 1, 4]


@FAST
@given(
    st.lists(
        st.one_of(st.integers(-(10**18), 10**18).map(float), st.floats(allow_infinity=True)), min_size=1, max_size=10
    )
)
def test_the_text_of_a_number_does_not_depend_on_the_rows_beside_it(cells: list[float]) -> None:
    together = text_of(pa.array(cells, pa.float64(), from_pandas=False)).to_pylist()
    alone = [text_of(pa.array([cell], pa.float64(), from_pandas=False)).to_pylist()[0] for cell in cells]
    assert together == alone
    assert [text is None for text in together] == [np.isnan(cell) for cell in cells]


@FAST
@given(st.lists(st.none() | st.floats(allow_nan=True, allow_infinity=True), max_size=20))
def test_numbers_come_through_and_nulls_and_nans_are_missing(cells: list[float | None]) -> None:
    wanted = [np.nan if cell is None else cell for cell in cells]
    for array in (
        pa.array(cells, pa.float64(), from_pandas=False),
        pa.chunked_array([pa.array(cells, pa.float64(), from_pandas=False), pa.array([], pa.float64())]),
    ):
        assert same(numbers(array), wanted)


@FAST
@given(st.lists(st.none() | st.integers(-128, 127), min_size=1, max_size=20))
def test_whole_numbers_with_nulls_are_numbers_with_missing_cells(cells: list[int | None]) -> None:
    wanted = [np.nan if cell is None else float(cell) for cell in cells]
    for kind in (pa.int8(), pa.int64(), pa.float32(), pa.decimal128(10, 2)):
        values = (
            [None if cell is None else decimal.Decimal(cell) for cell in cells] if pa.types.is_decimal(kind) else cells
        )
        assert same(numbers(pa.array(values, kind)), wanted)
    assert same(numbers(pa.array(cells, pa.int64()).dictionary_encode()), wanted)


@FAST
@given(st.lists(st.none() | st.floats(allow_nan=False, width=32), max_size=10))
def test_numbers_that_arrive_as_text_are_the_numbers_they_say(cells: list[float | None]) -> None:
    texts = [None if cell is None else f" {cell!r} " for cell in cells]
    assert same(numbers(pa.array(texts, pa.string())), [np.nan if cell is None else cell for cell in cells])


def test_other_types_that_count_are_numbers() -> None:
    assert numbers(pa.array([True, False])) == [1.0, 0.0]
    assert numbers(pa.array([dt.timedelta(minutes=1), dt.timedelta(milliseconds=5)])) == [60.0, 0.005]
    assert same(numbers(pa.array([None, None])), [np.nan, np.nan])
    assert same(numbers(pa.array(["", " ", "1e3", None])), [np.nan, np.nan, 1000.0, np.nan])
    assert numbers(pa.chunked_array([], pa.float64())) == []


@pytest.mark.parametrize("cell", ["patient Q", "1_000", "١٢", "0x1F", "1,5", "--1"])
def test_text_among_numbers_is_refused_by_column_and_row_but_not_by_value(cell: str) -> None:
    with pytest.raises(CellError, match=r"column 'x' holds text .* first at row 3") as caught:
        numbers_of(pa.array(["1", None, cell, "4"]), "x")
    assert cell not in str(caught.value)


@pytest.mark.parametrize("cells", [pa.array([b"ab"]), pa.array([[1.0]]), pa.array([dt.date(2024, 1, 1)])])
def test_a_type_that_is_no_number_is_refused(cells: pa.Array) -> None:
    with pytest.raises(CellError, match="column 'x' holds"):
        numbers_of(cells, "x")


@FAST
@given(st.lists(st.none() | st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1)), min_size=1, max_size=10))  # noqa: DTZ001
def test_dates_are_days_since_the_origin(cells: list[dt.datetime | None]) -> None:
    origin = dt.datetime(2020, 2, 29)  # noqa: DTZ001
    wanted = [np.nan if cell is None else (cell - origin) / dt.timedelta(days=1) for cell in cells]
    for kind in (pa.timestamp("us"), pa.timestamp("us", tz="UTC"), pa.string()):
        values = [None if cell is None else cell.isoformat(" ") for cell in cells] if kind == pa.string() else cells
        found = numbers_of(pa.array(values, kind), "x", origin.isoformat())
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-9)


def test_instants_of_two_time_zones_are_compared_in_utc() -> None:
    instant = dt.datetime(2024, 6, 1, 12, tzinfo=dt.UTC)
    cells = pa.array([instant], pa.timestamp("ms", tz="Asia/Tokyo"))
    assert numbers_of(cells, "x", "2024-06-01T00:00:00").tolist() == [0.5]
    assert numbers_of(pa.array([dt.date(2024, 6, 3)]), "x", "2024-06-01T00:00:00").tolist() == [2.0]


def test_text_among_dates_is_refused_without_its_value() -> None:
    with pytest.raises(CellError, match="column 'x' holds cells that are no dates") as caught:
        numbers_of(pa.array(["2024-01-01", "patient Q"]), "x", "2024-01-01T00:00:00")
    assert "patient" not in str(caught.value)


def test_a_minute_still_counts_decades_after_the_origin() -> None:
    start = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    cells = pa.array([start + dt.timedelta(days=365, minutes=minute) for minute in range(5)])
    column = Column("t", "date", "timestamp", origin="2024-01-01T00:00:00")
    found = encode(pa.table({"t": cells}), [column]).numeric[:, 0]
    assert len(set(found.tolist())) == 5


def test_numbers_beyond_float32_become_infinities_without_a_warning() -> None:
    rows = encode(pa.table({"x": [1e300, -1e300, 1e-300, 1.0]}), [X])
    assert rows.numeric[:, 0].tolist() == [np.inf, -np.inf, 0.0, 1.0]
    assert rows.numeric.dtype == np.float32


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
@pytest.mark.parametrize("size", [1.0, 1e20, 1e37, 1e39, 1e300])
def test_the_facts_of_a_column_are_finite_whatever_its_size(kind: pa.DataType, size: float) -> None:
    cells = (
        pa.array(np.array([1.0, 2.0, 3.0, -1.0]), kind)
        if size == 1.0
        else pa.array(np.array([0.5, 1.0, 2.0, size]), kind)
    )
    rows = pa.table({"x": cells})
    (column,) = describe(rows, {"x": "numeric"}, np.arange(4))
    encoded = encode(rows, [column]).numeric[:, 0]
    assert all(fact is not None and np.isfinite(fact) for fact in (column.low, column.high, column.mean, column.std))
    assert column.infinite_is_missing == bool(np.isinf(encoded).any())
    finite = encoded[np.isfinite(encoded)].astype(float)
    assert (column.low, column.high) == (finite.min(), finite.max())
    assert column.std == pytest.approx(finite.std())


COLUMNS = [
    Column("c", "categorical", "string", ("a", "b")),
    Column("x", "numeric", "double"),
    Column("b", "boolean", "bool", ("false", "true")),
    Column("y", "numeric", "int64"),
]


def test_columns_go_where_the_manifest_says_whatever_their_order_in_the_table() -> None:
    rows = pa.table({"extra": [0, 0], "y": [1, 2], "b": [True, False], "c": ["b", "?"], "x": [0.5, None]})
    for given_rows in (rows, rows.to_batches()[0]):
        found = encode(given_rows, COLUMNS)
        assert same(found.numeric.ravel().tolist(), [0.5, 1.0, np.nan, 2.0])
        assert found.categorical.tolist() == [[1, 1], [2, 0]]
        assert [str(found.numeric.dtype), str(found.categorical.dtype)] == ["float32", "int64"]
        assert len(found) == 2
        assert found.take(np.array([1])).categorical.tolist() == [[2, 0]]


def test_a_table_without_numbers_or_categories_or_rows_has_arrays_of_no_width() -> None:
    found = encode(pa.table({"x": [1.0, 2.0]}), [X])
    assert (found.numeric.shape, found.categorical.shape) == ((2, 1), (2, 0))
    found = encode(pa.table({"c": pa.array([], pa.string())}), [COLUMNS[0]])
    assert (found.numeric.shape, found.categorical.shape) == ((0, 0), (0, 1))


def test_a_mismatch_names_what_is_missing_and_what_is_unknown() -> None:
    with pytest.raises(ColumnMismatchError) as caught:
        encode(pa.table({"x": [1.0], "B": [True], "c": ["a"], "z": ["patient Q"]}), COLUMNS)
    assert (caught.value.missing, caught.value.unknown) == (("b", "y"), ("B", "z"))
    assert isinstance(caught.value, RowError)
    for name in ("'b'", "'y'", "'B'", "anomvae models show"):
        assert name in str(caught.value)
    assert "'z'" not in str(caught.value)  # not like any that lacks: without a header it would be a cell
    assert "patient" not in str(caught.value)


def test_a_mismatch_of_a_thousand_columns_is_still_one_readable_sentence() -> None:
    wide = [Column(f"sensor {i}", "numeric", "double") for i in range(1000)]
    with pytest.raises(ColumnMismatchError, match="and 992 more") as caught:
        encode(pa.table({"x": [1.0]}), wide)
    assert len(str(caught.value)) < 500
    assert len(caught.value.missing) == 1000


CELLS = st.none() | st.sampled_from(["1", " 2.5", "", "-0", "nan", "1e9", "Y", "x"])


@FAST
@given(st.lists(CELLS, max_size=30), st.lists(CELLS, max_size=4), st.integers(1, 3))
def test_a_dictionary_is_read_as_its_cells_are(cells: list[str | None], unnamed: list[str | None], pieces: int) -> None:
    plain = pa.array(cells, pa.string())
    values = [*dict.fromkeys(cells), *unnamed]  # also such as no cell names, and null itself
    named = pa.array([values.index(cell) for cell in cells], pa.int16())
    folded = pa.DictionaryArray.from_arrays(named, pa.array(values, pa.string()))
    step = max(1, len(cells) // pieces)
    chunked = pa.chunked_array([folded[at : at + step] for at in range(0, len(cells), step)], folded.type)
    for column in (category("1", "x", missing=True), category("Y"), Column("c", "boolean", "bool", ("false", "true"))):
        wanted = codes_of(plain, column).tolist()
        assert codes_of(folded, column).tolist() == codes_of(chunked, column).tolist() == wanted
    wanted_numbers = numbers_or_refusal(plain)
    for arrays in (folded, chunked):
        found = numbers_or_refusal(arrays)
        if isinstance(found, str) or isinstance(wanted_numbers, str):
            assert found == wanted_numbers
        else:
            assert same(found, wanted_numbers)


def numbers_or_refusal(cells: pa.Array | pa.ChunkedArray) -> list[float] | str:
    try:
        return numbers(cells)
    except CellError as error:
        return str(error)


@FAST
@given(st.lists(st.none() | st.sampled_from(["1", "2e3", "x", "y"]), max_size=40), st.integers(1, 4))
def test_the_first_cell_that_is_no_number_is_found_wherever_it_is(cells: list[str | None], pieces: int) -> None:
    wanted = next((row for row, cell in enumerate(cells, start=1) if cell in ("x", "y")), 0)
    step = max(1, len(cells) // pieces)
    chunks = [pa.array(cells[at : at + step], pa.string()) for at in range(0, len(cells), step)]
    assert first_text_row(pa.array(cells, pa.string())) == wanted
    assert first_text_row(pa.chunked_array(chunks, pa.string())) == wanted


def test_each_value_of_a_dictionary_is_read_once_however_many_cells_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    cast = pc.cast

    def counting(cells: pa.Array, *args: object, **more: object) -> pa.Array:
        read.append(len(cells))
        return cast(cells, *args, **more)

    folded = pa.DictionaryArray.from_arrays(pa.array([0, 1] * 500, pa.int8()), pa.array(["1", "2"]))
    monkeypatch.setattr("anomvae.data.encoding.pc.cast", counting)
    assert numbers(folded) == [1.0, 2.0] * 500
    assert codes_of(folded, category("1", "2")).tolist() == [0, 1] * 500
    assert set(read) == {2}


def detector(*groups: str, by: str | None = "site") -> Any:
    """As much of a manifest as encoding reads: one number, and groups with a table of their own."""
    facts = Calibration("split", 100, 0.1, 0.1, "elbo", 1.0, 1.0, by=by)
    tables = tuple(GroupCalibration(name, 20, 1.0, 1.0) for name in groups)
    return SimpleNamespace(columns=(X,), calibration=dataclasses.replace(facts, groups=tables))


@FAST
@given(st.lists(WORDS, min_size=1, max_size=5, unique=True), st.data())
def test_a_rows_group_is_its_number_and_of_any_other_the_number_after_the_last(
    groups: list[str], data: st.DataObject
) -> None:
    cells = data.draw(st.lists(st.none() | st.sampled_from(groups) | WORDS, min_size=1, max_size=20))
    rows = pa.table({"x": np.zeros(len(cells)), "site": pa.array(cells, pa.string())})
    found = encode_for(rows, detector(*groups))
    assert found.group is not None
    assert found.group.dtype == np.int64
    wanted = [groups.index(cell) if cell in groups else len(groups) for cell in cells]
    assert found.group.tolist() == wanted
    dictionary = rows.set_column(1, "site", rows["site"].combine_chunks().dictionary_encode())
    again = encode_for(dictionary.to_batches()[0], detector(*groups)).group
    assert again is not None
    assert again.tolist() == wanted


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (pa.array([7, 12, 3, None]), ("7", "12")),
        (pa.array([7.0, 12.0, 3.5, np.nan]), ("7", "12")),
        (pa.array([True, False, None, None]), ("true", "false")),
        (pa.array([dt.date(2024, 1, 2), dt.date(2025, 1, 1), None, None]), ("2024-01-02", "2025-01-01")),
    ],
)
def test_groups_are_named_as_their_cells_are_written(cells: pa.Array, names: tuple[str, ...]) -> None:
    found = encode_for(pa.table({"x": np.zeros(4), "site": cells}), detector(*names))
    assert found.group is not None
    assert found.group.tolist() == [0, 1, 2, 2]
    assert text_of(cells).to_pylist()[:2] == list(names)


def test_rows_without_the_column_or_of_a_detector_without_groups_tell_no_group() -> None:
    rows = pa.table({"x": [1.0, 2.0], "site": ["a", "b"]})
    assert encode_for(rows.drop(["site"]), detector("a")).group is None
    assert encode_for(rows, detector()).group is None
    assert encode_for(rows, detector(by=None)).group is None
    with pytest.raises(ColumnMismatchError):
        encode_for(rows.drop(["x"]), detector("a"))
    with pytest.raises(CellError, match="first at row 8"):
        encode_for(pa.table({"x": ["1", "two"], "site": ["a", "b"]}), detector("a"), first_row=6)


def test_rows_are_taken_with_their_groups() -> None:
    rows = EncodedRows(np.zeros((5, 1), np.float32), np.zeros((5, 0), np.int64), np.arange(5))
    for which in (slice(1, 4, 2), np.array([4, 0, 0])):
        taken = rows.take(which).group
        assert taken is not None
        np.testing.assert_array_equal(taken, np.arange(5)[which])
    assert EncodedRows(rows.numeric, rows.categorical).take(slice(2)).group is None


@pytest.mark.parametrize(
    ("at_the_fit", "later"),
    [
        (pa.array([7, 12]), pa.array(["007", "12.0"])),
        (pa.array([7.0, 12.0, None]), pa.array(["7", " 12 ", ""])),
        (pa.array(["7.0", "12.0"]), pa.array([7, 12])),
        (pa.array([True, False]), pa.array(["True", "FALSE"])),
        (pa.array(["True", "False"]), pa.array([True, False])),
        (pa.array(["north", "7"]), pa.array(["north", "7"])),
        (pa.array(["a", "b"]).dictionary_encode(), pa.array(["a", "b"])),
    ],
)
def test_a_group_is_the_same_however_a_file_writes_it(at_the_fit: pa.Array, later: pa.Array) -> None:
    names, kind = group_names(at_the_fit)
    known = [name for name in names if name]
    column = Column("asset", "categorical", kind, tuple(known))
    assert codes_of(later, column).tolist()[:2] == [0, 1]
    assert group_names(later)[0][:2] == known


def test_rows_without_a_group_name_none() -> None:
    assert group_names(pa.array([None, "", "a"]))[0] == [None, None, "a"]
    assert group_names(pa.array([None, None], pa.string()))[0] == [None, None]
