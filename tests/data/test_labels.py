"""Label columns as people keep them; what they do not say is refused without telling their values."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomvae.data.labels import ANOMALOUS_WORDS, NORMAL_WORDS, Labels, read_labels
from anomvae.errors import SchemaError


def labels(cells: object, kind: pa.DataType | None = None) -> Labels:
    return read_labels(pa.table({"y": pa.array(cells, kind)}), "y")


def anomalous(cells: object, kind: pa.DataType | None = None) -> list[bool]:
    return list(labels(cells, kind).anomalous.tolist())


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([0, 1, 0], pa.int64()),
        ([0, 1, 0], pa.uint8()),
        ([0.0, 1.0, 0.0], pa.float64()),
        ([False, True, False], pa.bool_()),
        (["0", "1", "0"], None),
        (["false", "true", "false"], None),
        (["False", " TRUE ", "false"], None),
        ([1, -1, 1], pa.int64()),
        ([1.0, -1.0, 1.0], pa.float64()),
        (["1", "-1", "1"], None),
        (["normal", "anomaly", "Normal"], None),
        (["normal", "bearing worn", "normal"], None),
        (["OK", "failed", "ok"], None),
        (["benign", "malignant", "benign"], pa.large_string()),
        (["no", "yes", "no"], pa.dictionary(pa.int32(), pa.string())),
    ],
)
def test_labels_are_read_as_people_write_them(cells: list[object], kind: pa.DataType | None) -> None:
    array = pa.array(cells).dictionary_encode() if kind and pa.types.is_dictionary(kind) else pa.array(cells, kind)
    assert anomalous(array) == [False, True, False]


def test_several_words_for_normal_may_stand_beside_several_for_anomalous() -> None:
    assert anomalous(["good", "normal", "bad", "fault"]) == [False, False, True, True]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([0, None, 1], pa.int64()),
        ([0.0, None, 1.0], pa.float64()),
        ([0.0, np.nan, 1.0], pa.float64()),
        ([False, None, True], pa.bool_()),
        (["normal", None, "fault"], None),
        (["normal", "", "fault"], None),
        (["normal", "  ", "fault"], None),
    ],
)
def test_a_missing_label_is_unknown_neither_normal_nor_anomalous(cells: list[object], kind: pa.DataType | None) -> None:
    found = labels(cells, kind)
    assert found.unknown.tolist() == [False, True, False]
    assert found.anomalous.tolist() == [False, False, True]
    assert found.normal.tolist() == [True, False, False]


@settings(deadline=None)
@given(st.lists(st.sampled_from([True, False, None]), min_size=1, max_size=30))
def test_every_row_is_exactly_one_of_normal_anomalous_and_unknown(cells: list[bool | None]) -> None:
    if cells.count(None) == len(cells):
        with pytest.raises(SchemaError, match="is empty"):
            labels(cells, pa.bool_())
        return
    as_numbers = [None if cell is None else int(cell) for cell in cells]
    for found in (labels(cells, pa.bool_()), labels([None if cell is None else str(cell) for cell in cells])):
        assert (found.normal.astype(int) + found.anomalous + found.unknown == 1).all()
        assert found.anomalous.tolist() == [cell is True for cell in cells]
        assert found.unknown.tolist() == [cell is None for cell in cells]
    if 0 in as_numbers:
        assert labels(as_numbers, pa.int64()).anomalous.tolist() == [cell is True for cell in cells]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([0, 1, 2], pa.int64()),
        ([0.0, 0.5, 1.0], pa.float64()),
        ([7, 9, 9], pa.int64()),
        (["patient 17", "patient 18", "patient 19"], None),
        (["normal", "ok", "patient 19"], None),
        ([-1, 0, 1], pa.int64()),
    ],
)
def test_labels_that_do_not_say_what_is_normal_are_refused_without_their_values(
    cells: list[object], kind: pa.DataType | None
) -> None:
    with pytest.raises(SchemaError, match="does not say which rows are normal") as caught:
        labels(cells, kind)
    assert "'y'" in str(caught.value)
    assert "patient" not in str(caught.value)
    assert "0.5" not in str(caught.value)


def test_without_a_label_column_all_rows_are_normal() -> None:
    found = read_labels(pa.table({"x": [1.0, 2.0]}), None)
    assert found.normal.tolist() == [True, True]


def test_a_label_column_that_is_not_there_or_empty_is_refused() -> None:
    with pytest.raises(SchemaError, match="'z', which is not a column"):
        read_labels(pa.table({"y": [0, 1]}), "z")
    with pytest.raises(SchemaError, match="'y' is empty"):
        labels([None, None], pa.int64())
    with pytest.raises(SchemaError, match="'y' is empty"):
        labels(["", " "])


def test_no_word_means_both() -> None:
    assert not NORMAL_WORDS & ANOMALOUS_WORDS


@pytest.mark.parametrize("word", sorted(NORMAL_WORDS - {"0"}))
def test_each_word_for_normal_is_understood(word: str) -> None:
    assert anomalous([word.upper(), "something else"]) == [False, True]


@pytest.mark.parametrize("word", sorted(ANOMALOUS_WORDS - {"1"}))
def test_each_word_for_anomalous_is_understood(word: str) -> None:
    assert anomalous([word.title(), word]) == [True, True]
