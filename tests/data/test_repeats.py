"""Rows that stand in two tables."""

from __future__ import annotations

import numpy as np
import pytest

from anomvae.data.encoding import EncodedRows
from anomvae.data.repeats import find_repeats, row_digests


def rows(numbers: object, codes: object = None) -> EncodedRows:
    numeric = np.array(numbers, dtype=np.float32)
    empty = np.empty((len(numeric), 0))
    return EncodedRows(numeric, np.array(empty if codes is None else codes, dtype=np.int64))


def test_equal_cells_are_equal_rows_missing_cells_and_both_zeros_included() -> None:
    odd = np.array([0x7FC00001], dtype=np.uint32).view(np.float32)[0]  # another pattern of bits that is no number
    first, again, other = row_digests(rows([[0.0, np.nan], [-0.0, odd], [0.0, 1.0]], [[1], [1], [1]]))
    assert first == again
    assert first != other
    assert row_digests(rows([[0.0, np.nan]], [[2]]))[0] != first


def test_repeats_are_found_row_by_row() -> None:
    draw = np.random.default_rng(0)
    cells, codes = draw.integers(0, 4, (200, 2)), draw.integers(0, 3, (200, 1))
    found = find_repeats(rows(cells[:80], codes[:80]), rows(cells[80:], codes[80:]))
    whole = [tuple(row) for row in np.hstack([cells, codes]).tolist()]
    assert found.repeated.tolist() == [row in set(whole[80:]) for row in whole[:80]]
    assert found.usual == pytest.approx(np.mean([whole[80:].count(row) > 1 for row in whole[80:]]))


@pytest.mark.parametrize("levels", [2, 6, 40, 10_000])
def test_fresh_rows_of_a_table_that_repeats_are_not_taken_for_the_same_rows(levels: int) -> None:
    for seed in range(20):
        cells = np.random.default_rng(seed).integers(0, levels, (1500, 2))
        assert not find_repeats(rows(cells[:500]), rows(cells[500:])).are_too_many


@pytest.mark.parametrize("levels", [40, 10_000])
def test_the_same_rows_are_found_out_where_rows_seldom_repeat(levels: int) -> None:
    cells = np.random.default_rng(1).integers(0, levels, (1500, 2))
    found = find_repeats(rows(cells[:500]), rows(cells[300:]))  # 200 of the 500 stand in both
    assert found.are_too_many
    assert found.repeated[300:].all()


def test_no_rows_repeat_nothing() -> None:
    found = find_repeats(rows(np.empty((0, 2))), rows([[1.0, 2.0]]))
    assert len(found.repeated) == 0
    assert not found.are_too_many
