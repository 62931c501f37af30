"""What each column is: every rule of inference, what the user declares instead, and what is refused."""

from __future__ import annotations

import datetime as dt
import decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomvae.data.encoding import encode
from anomvae.data.schema import MAX_CATEGORIES, Schema, SchemaRules, describe, infer_schema
from anomvae.errors import CellError, SchemaError

N = 60
DRAW = np.random.default_rng(0)
MEASURED = DRAW.normal(size=N)


def infer(cells: Any, kind: pa.DataType | None = None, name: str = "x", **rules: Any) -> str:
    """The kind of a column, or the reason it was left out, in a table with another good column."""
    array = cells if isinstance(cells, pa.Array | pa.ChunkedArray) else pa.array(cells, kind)
    rows = pa.table({name: array, "other": pa.array(DRAW.normal(size=len(array)))})
    return outcome(infer_schema(rows, SchemaRules(**rules)), name)


def outcome(schema: Schema, name: str) -> str:
    if name in schema.kinds:
        return schema.kinds[name]
    (left,) = [column for column in schema.left_out if column.name == name]
    return f"{left.role}: {left.reason}"


def words(count: int, n: int = N) -> list[str]:
    return [f"word {i % count}" for i in range(n)]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (MEASURED, pa.float64()),
        (MEASURED, pa.float32()),
        (DRAW.integers(0, 30, N), pa.int64()),
        (DRAW.integers(0, 30, N), pa.uint8()),
        ([decimal.Decimal(int(value)) / 4 for value in DRAW.integers(0, 30, N)], None),
        ([dt.timedelta(seconds=float(value) ** 2) for value in MEASURED], None),
        ([None if i % 3 == 0 else value for i, value in enumerate(MEASURED)], pa.float64()),
        ([np.inf if i % 3 == 0 else value for i, value in enumerate(MEASURED)], pa.float64()),
        ([0.0, 1.0, 2.0] * 20, pa.float64()),
        ([0.0, 1.0, np.inf] * 20, pa.float64()),
        ([1, 2] * 30, pa.int64()),
    ],
)
def test_what_measures_is_a_number(cells: Any, kind: pa.DataType | None) -> None:
    assert infer(cells, kind) == "numeric"


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([True, False] * 30, None),
        ([True, None, False] * 20, None),
        ([0, 1, 1] * 20, pa.int64()),
        ([0.0, 1.0, None] * 20, pa.float64()),
        ([0.0, 1.0, np.nan] * 20, pa.float64()),
    ],
)
def test_flags_are_booleans_also_as_noughts_and_ones(cells: Any, kind: pa.DataType | None) -> None:
    assert infer(cells, kind) == "boolean"


@pytest.mark.parametrize(
    "cells",
    [
        words(3),
        words(20),
        ["1", "2", "3"] * 20,
        ["1", "2", "x"] * 20,
        [None, "a", "b"] * 20,
        pa.array(words(3)).dictionary_encode(),
        pa.array(words(3), pa.large_string()),
        pa.array([1, 2, 3] * 20).dictionary_encode(),
        words(MAX_CATEGORIES, 1000),
    ],
)
def test_text_of_a_few_values_is_a_category(cells: Any) -> None:
    assert infer(cells) == "categorical"


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([5.5] * N, pa.float64()),
        ([5, None] * 30, pa.int64()),
        ([True] * N, None),
        ([False, None] * 30, None),
        (["same"] * N, None),
        (["same", None] * 30, None),
        ([5.5, np.nan, np.inf] * 20, pa.float64()),
    ],
)
def test_a_constant_is_left_out_unless_it_shall_stay(cells: Any, kind: pa.DataType | None) -> None:
    assert infer(cells, kind) == "none: constant"
    assert infer(cells, kind, keep_constant=True) in ("numeric", "boolean", "categorical")


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([None] * N, None),
        ([None] * N, pa.float64()),
        ([None] * N, pa.string()),
        ([None] * N, pa.bool_()),
        ([np.nan] * N, pa.float64()),
    ],
)
def test_a_column_of_nothing_is_left_out_even_if_constants_stay(cells: Any, kind: pa.DataType | None) -> None:
    array = pa.array(cells, kind, from_pandas=False)
    assert infer(array) == "none: all missing"
    assert infer(array, keep_constant=True) == "none: all missing"


def test_infinities_alone_measure_nothing() -> None:
    assert infer([np.inf, -np.inf, None] * 20, pa.float64()) == "none: all missing, infinite or beyond float32"


@pytest.mark.parametrize(
    ("cells", "kind", "name"),
    [
        (np.arange(N), pa.int64(), "x"),
        (np.arange(N)[::-1] * 3, pa.int64(), "x"),
        (np.arange(N), pa.uint16(), "x"),
        (np.arange(N).astype(float), pa.float64(), "x"),
        (DRAW.permutation(N) + 1000, pa.int64(), "x"),
        (DRAW.choice(10**9, N, replace=False), pa.int64(), "patient_id"),
        (DRAW.choice(10**9, N, replace=False), pa.int64(), "ID"),
        (DRAW.choice(10**9, N, replace=False), pa.int64(), "orderId"),
        (2**60 + np.arange(N), pa.int64(), "x"),
    ],
)
def test_whole_numbers_that_count_or_name_the_rows_are_identifiers(cells: Any, kind: pa.DataType, name: str) -> None:
    assert infer(cells, kind, name).startswith("identifier: a unique identifier")


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint32(), pa.uint64(), pa.int32(), pa.float64()])
def test_scattered_measurements_are_no_identifiers_whatever_their_type(kind: pa.DataType) -> None:
    assert infer(np.random.default_rng(1).choice(10**6, N, replace=False), kind) == "numeric"


def test_small_signed_numbers_that_happen_to_differ_do_not_overflow() -> None:
    cells = np.random.default_rng(1).choice(np.arange(-128, 128), 40, replace=False)
    assert infer(cells, pa.int8()) == "numeric"


def test_nine_rows_are_too_few_to_tell_an_identifier() -> None:
    assert infer(np.arange(9), pa.int64()) == "numeric"
    assert infer(np.arange(10), pa.int64()).startswith("identifier")
    assert infer(words(9, 9)) == "categorical"
    assert infer(words(10, 10)).startswith("identifier")


def test_text_that_differs_in_every_row_is_an_identifier() -> None:
    assert infer(words(N)).startswith("identifier: a unique identifier")
    assert infer([*words(N, N), None]).startswith("identifier: a unique identifier")


@pytest.mark.parametrize("cells", [words(MAX_CATEGORIES + 1, 1000), words(40, 60)])
def test_text_of_too_many_values_is_left_out_and_says_how_to_keep_it(cells: list[str]) -> None:
    reason = infer(cells)
    assert reason.startswith("identifier: text with")
    assert "declare it `categorical` to keep it" in reason
    assert infer(cells, declared={"x": "categorical"}) == "categorical"


@pytest.mark.parametrize("cells", [["1.5", "2.5"], [dt.date(2024, 1, 1), dt.date(2024, 1, 2)]])
def test_nothing_is_inferred_twice_over(cells: list[Any]) -> None:
    assert infer(cells * 30, declared={"x": "categorical"}) == "categorical"


@pytest.mark.parametrize(
    ("numbers", "at"),
    [
        ([f"{value:.3f}" for value in MEASURED], 59),
        ([f"{value:.3f}".replace(".", ",") for value in MEASURED], 59),
        ([str(value % 30) for value in range(N)], 41),
        ([None, *(f"{value:.3f}" for value in MEASURED[1:])], 30),
    ],
)
def test_numbers_spoilt_by_text_are_refused_by_column_and_row_but_not_by_value(numbers: list[str], at: int) -> None:
    spoilt = [*numbers]
    spoilt[at] = "sensor failed"
    with pytest.raises(
        SchemaError, match=rf"column 'x' holds numbers but for 1 cells of text, first at row {at + 1};"
    ) as caught:
        infer(spoilt)
    assert "sensor" not in str(caught.value)
    assert infer(spoilt, drop=["x"]) == "none: dropped on request"


def test_identifiers_some_of_which_are_whole_numbers_are_still_identifiers() -> None:
    assert infer([*(str(113_000 + 7 * i) for i in range(50)), *(f"PC {i}" for i in range(10))]).startswith("identifier")


@pytest.mark.parametrize(
    "cells",
    [
        [dt.date(2024, 1, 1 + i % 28) for i in range(N)],
        [dt.datetime(2024, 1, 1, i % 24, tzinfo=dt.UTC) for i in range(N)],
    ],
)
def test_dates_are_left_out_unless_declared(cells: list[Any]) -> None:
    assert infer(cells).startswith("identifier: a date or time")
    assert infer(cells, declared={"x": "date"}) == "date"


@pytest.mark.parametrize("cells", [[b"raw"] * N, [[1.0, 2.0]] * N, [{"a": 1}] * N])
def test_what_is_neither_number_nor_category_nor_date_is_left_out(cells: list[Any]) -> None:
    assert "which is no number, category or date" in infer(cells)


@pytest.mark.parametrize("declared", ["numeric", "date", "boolean", "categorical"])
@pytest.mark.parametrize("cells", [np.arange(N), [5.5] * N, words(N), [None] * N])
def test_what_the_user_declares_overrules_every_inference(declared: str, cells: Any) -> None:
    assert infer(cells, declared={"x": declared}) == declared


def test_omitted_dropped_and_named_columns_are_left_out_with_their_roles() -> None:
    rows = pa.table(dict.fromkeys(("a", "b", "y", "t", "g", "kept"), MEASURED))
    rules = SchemaRules(declared={"a": "omit", "y": "numeric"}, drop=["b"], label="y", time="t", by="g")
    schema = infer_schema(rows, rules)
    assert schema.kinds == {"kept": "numeric"}
    assert {column.name: column.role for column in schema.left_out} == {
        "a": "none",
        "b": "none",
        "y": "label",
        "t": "time",
        "g": "group",
    }


@pytest.mark.parametrize(
    ("rules", "option"),
    [
        ({"label": "nope"}, "--label"),
        ({"time": "nope"}, "--time"),
        ({"by": "nope"}, "--by"),
        ({"drop": ["nope"]}, "--drop"),
        ({"declared": {"nope": "numeric"}}, r"\[columns\]"),
    ],
)
def test_a_name_that_is_not_there_is_refused_with_those_that_are(rules: dict[str, Any], option: str) -> None:
    with pytest.raises(SchemaError, match=rf"{option} names 'nope', which is not a column; there are 'x', 'other'"):
        infer(MEASURED, **rules)


def test_a_name_that_appears_twice_is_refused() -> None:
    rows = pa.Table.from_arrays([pa.array(MEASURED)] * 3, names=["x", "y", "x"])
    with pytest.raises(SchemaError, match="column names appear twice: 'x'"):
        infer_schema(rows)


def test_a_table_with_nothing_to_learn_from_says_why() -> None:
    rows = pa.table({"a": [1.0] * N, "key": list(range(N)), "b": [None] * N})
    with pytest.raises(
        SchemaError,
        match=r"no column is left to learn from: 'a' \(constant\), 'key' \(a unique identifier\), 'b' \(all missing\); declare",
    ):
        infer_schema(rows)
    with pytest.raises(SchemaError, match=r"'a' \(orders the rows\), 'b' \(dropped on request\); drop fewer of them$"):
        infer_schema(rows.select(["a", "b"]), SchemaRules(time="a", drop=("b",)))
    with pytest.raises(SchemaError, match="the table has no columns"):
        infer_schema(pa.table({}))


def test_columns_keep_the_order_of_the_table() -> None:
    rows = pa.table({"z": MEASURED, "a": words(3), "m": [True, False] * 30})
    assert list(infer_schema(rows).kinds) == ["z", "a", "m"]


def test_facts_come_from_the_training_rows_and_no_others() -> None:
    rows = pa.table({"x": [1.0, 3.0, None, 1e6], "c": ["b", "a", None, "late"], "i": [1.0, np.inf, 2.0, 3.0]})
    x, c, i = describe(rows, {"x": "numeric", "c": "categorical", "i": "numeric"}, np.array([0, 1, 2]))
    assert (x.low, x.high, x.mean, x.std) == (1.0, 3.0, 2.0, 1.0)
    assert x.missing_share == pytest.approx(1 / 3)
    assert (c.categories, c.missing_code, c.unknown_code) == (("a", "b"), 2, 3)
    assert (i.infinite_is_missing, x.infinite_is_missing) == (True, False)
    x, c = describe(rows, {"x": "numeric", "c": "categorical"}, np.array([0, 1]))
    assert (x.missing_share, c.missing_code, c.unknown_code) == (0.0, None, 2)


def test_training_rows_that_hold_nothing_make_a_column_without_facts() -> None:
    rows = pa.table({"x": [None, None, 1.0], "c": [None, None, "a"]})
    x, c = describe(rows, {"x": "numeric", "c": "categorical"}, np.array([0, 1]))
    assert (x.low, x.mean, x.std, x.missing_share) == (None, None, None, 1.0)
    assert (c.categories, c.missing_code, c.unknown_code) == ((), 0, 1)


def test_a_flag_keeps_both_values_though_training_saw_one() -> None:
    (flag,) = describe(pa.table({"b": [True, True]}), {"b": "boolean"}, np.array([0, 1]))
    assert flag.categories == ("false", "true")


def test_a_date_counts_from_the_first_midnight_of_training() -> None:
    rows = pa.table({"t": [dt.datetime(2024, 3, 5, 17, 30, tzinfo=dt.UTC), dt.datetime(2024, 3, 1, 6, tzinfo=dt.UTC)]})
    (column,) = describe(rows, {"t": "date"}, np.array([0, 1]))
    assert column.origin == "2024-03-01T00:00:00"
    assert column.low == 0.25
    assert column.high == pytest.approx(4.729166, abs=1e-5)


def test_a_declaration_that_cannot_be_is_refused_without_a_value() -> None:
    rows = pa.table({"x": ["patient Q"] * 3})
    with pytest.raises(CellError, match="'x'") as caught:
        describe(rows, {"x": "numeric"}, np.arange(3))
    assert "patient" not in str(caught.value)
    with pytest.raises(SchemaError, match="no dates") as refused:
        describe(rows, {"x": "date"}, np.arange(3))
    assert "patient" not in str(refused.value)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(max_size=4),
        min_size=1,
        max_size=40,
    ),
    st.sampled_from([pa.float64(), pa.int64(), pa.string(), pa.bool_()]),
    st.booleans(),
)
def test_whatever_was_inferred_can_be_described_and_encoded(cells: list[Any], kind: pa.DataType, keep: bool) -> None:
    of_type = {pa.float64(): float, pa.int64(): int, pa.string(): str, pa.bool_(): bool}[kind]
    fitting = [cell if cell is None or type(cell) is of_type else None for cell in cells]
    rows = pa.table({"x": pa.array(fitting, kind, from_pandas=False), "other": pa.array(np.arange(len(cells)) / 7.0)})
    schema = infer_schema(rows, SchemaRules(keep_constant=True)) if keep else None
    if schema is None:
        try:
            schema = infer_schema(rows)
        except SchemaError:  # one row: all is constant
            return
    columns = describe(rows, schema.kinds, np.arange(0, len(cells), 2))
    encoded = encode(rows, columns)
    assert len(encoded) == len(cells)
    for column, codes in zip([c for c in columns if not c.is_numeric], encoded.categorical.T, strict=True):
        assert ((codes >= 0) & (codes < column.n_codes)).all()
        assert (codes[::2] != column.unknown_code).all()  # training rows hold nothing unknown
