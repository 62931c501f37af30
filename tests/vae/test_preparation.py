"""From raw cells to what the networks see: scaling, clipping, infinities, missing and unknown cells."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from anomvae.bundle import Column
from anomvae.vae.layout import NO_CODE, Layout, layout_of
from anomvae.vae.preparation import CLIP, Preparation

if TYPE_CHECKING:
    from torch import Tensor

    from anomvae.vae.preparation import Rows

LAYOUT = Layout((10.0, -5.0), (2.0, 0.5), (True, False), (2, 3), (2, NO_CODE), 0.1)
CODES = torch.tensor([[0, 0]])
FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)


def prepare(numbers: list[list[float]], codes: Tensor = CODES, layout: Layout = LAYOUT) -> Rows:
    rows: Rows = Preparation(layout, "standard")(torch.tensor(numbers), codes.expand(len(numbers), -1))
    return rows


def test_numbers_are_scaled_and_clipped() -> None:
    rows = prepare([[12.0, -5.5], [1e9, -1e9]])
    assert rows.x.tolist() == [[1.0, -1.0], [CLIP, -CLIP]]
    assert rows.observed.all()


def test_a_missing_number_is_a_zero_that_the_mask_tells_from_a_zero() -> None:
    missing, mean = prepare([[np.nan, -5.0]]), prepare([[10.0, -5.0]])
    assert torch.equal(missing.x, mean.x)
    assert missing.observed.tolist() == [[0.0, 1.0]]
    assert not torch.equal(missing.features(), mean.features())


def test_an_infinity_is_missing_where_training_saw_infinities() -> None:
    for infinity in (np.inf, -np.inf):
        rows = prepare([[infinity, -5.0]])
        assert rows.observed.tolist() == [[0.0, 1.0]]
        assert rows.x[0, 0] == 0.0


def test_an_infinity_is_as_strange_as_a_number_can_be_where_training_saw_none() -> None:
    assert prepare([[10.0, np.inf]]).x[0, 1] == CLIP
    assert prepare([[10.0, -np.inf]]).x[0, 1] == -CLIP
    assert prepare([[10.0, np.inf]]).observed.all()


def test_numbers_of_a_unit_scaling_lie_between_zero_and_one() -> None:
    rows: Rows = Preparation(LAYOUT, "unit")(torch.tensor([[11.0, -100.0], [99.0, -4.75]]), CODES.expand(2, -1))
    assert rows.x.tolist() == [[0.5, 0.0], [1.0, 0.5]]


@pytest.mark.parametrize(
    ("codes", "onehot", "known", "unknown"),
    [
        ([0, 2], [1, 0, 0, 0, 1], [1, 1], [0, 0]),
        ([2, 0], [0, 0, 1, 0, 0], [0, 1], [0, 0]),  # the first column's missing code
        ([3, 3], [0, 0, 0, 0, 0], [0, 0], [1, 1]),  # the codes of the unknown
        ([99, -1], [0, 0, 0, 0, 0], [0, 0], [1, 1]),  # out of range
        ([2**40, -(2**40)], [0, 0, 0, 0, 0], [0, 0], [1, 1]),
    ],
)
def test_a_category_is_known_or_missing_or_unknown(
    codes: list[int], onehot: list[int], known: list[int], unknown: list[int]
) -> None:
    rows = prepare([[0.0, 0.0]], torch.tensor([codes]))
    assert rows.onehot.tolist() == [onehot]
    assert rows.known.tolist() == [known]
    assert rows.unknown.tolist() == [unknown]


@given(st.lists(FLOATS, min_size=2, max_size=2), st.lists(st.integers(-5, 9), min_size=2, max_size=2))
def test_whatever_the_cells_hold_the_model_sees_finite_numbers(numbers: list[float], codes: list[int]) -> None:
    rows = prepare([numbers], torch.tensor([codes]))
    assert all(torch.isfinite(part).all() for part in rows)
    assert rows.x.abs().max() <= CLIP
    assert ((rows.known + rows.unknown) <= 1).all()


@given(st.floats(-1e6, 1e6, width=32), st.floats(2.0**-10, 1e6, width=32), st.floats(-20, 20, width=32))
def test_raw_units_come_back(offset: float, scale: float, scaled: float) -> None:
    preparation = Preparation(replace(LAYOUT, offset=(offset, 0.0), scale=(scale, 1.0)), "standard")
    raw = preparation.raw(torch.tensor([[scaled, 0.0]]))
    rows: Rows = preparation(raw, CODES)
    reach = 4 * np.finfo(np.float32).eps * max(abs(offset), abs(scale * scaled), scale) / scale
    assert rows.x[0, 0].item() == pytest.approx(scaled, abs=float(reach))


def number(low: float, high: float, mean: float, std: float) -> Column:
    return Column("x", "numeric", "double", low=low, high=high, mean=mean, std=std)


def test_a_layout_standardises_or_takes_the_training_range() -> None:
    columns = [number(-1.0, 3.0, 0.5, 0.25), Column("c", "categorical", "string", ("a", "b"), missing_code=2)]
    standard, unit = layout_of(columns, 9), layout_of(columns, 9, "unit")
    assert (standard.offset, standard.scale) == ((0.5,), (0.25,))
    assert (unit.offset, unit.scale) == ((-1.0,), (4.0,))
    assert (standard.cardinalities, standard.missing_codes, standard.unknown_mass) == ((2,), (2,), 0.1)
    assert (standard.d, standard.c, standard.n_onehot) == (1, 1, 2)


def test_a_spread_that_float32_cannot_see_does_not_become_the_scale() -> None:
    (scale,) = layout_of([number(1e6, 1e6 + 1e-6, 1e6, 1e-7)], 9).scale
    assert scale == pytest.approx(1.0, rel=1e-5)
    (scale,) = layout_of([number(5.0, 5.0, 5.0, 0.0)], 9).scale
    assert scale == 1.0


def test_a_number_column_that_training_never_saw_still_makes_a_layout() -> None:
    layout = layout_of([Column("x", "numeric", "double")], 9)
    assert (layout.offset, layout.scale) == ((0.0,), (1.0,))


@example([-3.4e38, 0.0, 3.4e38], "unit")
@example([1e-45, 0.0, 0.0], "standard")
@given(st.lists(FLOATS, min_size=3, max_size=20), st.sampled_from(["standard", "unit"]))
def test_the_rows_of_training_are_finite_whatever_their_units(values: list[float], scaling: str) -> None:
    column = np.asarray(values, np.float64)
    facts = number(float(column.min()), float(column.max()), float(column.mean()), float(column.std()))
    layout = layout_of([facts], len(values), "unit" if scaling == "unit" else "standard")
    preparation = Preparation(layout, "unit" if scaling == "unit" else "standard")
    raw = torch.tensor(column, dtype=torch.float32)[:, None]
    rows: Rows = preparation(raw, torch.zeros(len(values), 0, dtype=torch.int64))
    assert torch.isfinite(rows.x).all()
