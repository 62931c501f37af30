from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomvae.evaluation.resolution import Resolution


@pytest.mark.parametrize("step", [1.0, 0.1, 0.25, 5.0, 1 / 255, 0.005])
def test_the_step_of_a_column_is_found(step: float) -> None:
    whole = np.random.default_rng(0).integers(-200, 400, 500)
    found = Resolution.of((3.0 * step + whole * step).astype(np.float32))
    assert found.step == pytest.approx(step, rel=1e-4)


def test_a_step_is_found_though_no_two_values_are_neighbours() -> None:
    assert Resolution.of(np.array([0.2, 0.5, 0.9], dtype=np.float32)).step == pytest.approx(0.1)


@given(
    st.lists(st.integers(-300, 300), min_size=2, max_size=60, unique=True),
    st.sampled_from([1.0, 0.1, 0.01, 0.5, 10.0]),
    st.floats(-50, 50),
)
def test_what_a_stepped_column_shows_lies_whole_steps_from_what_it_held(
    whole: list[int], step: float, wanted: float
) -> None:
    cells = (np.array(whole) * step).astype(np.float32)
    shown = Resolution.of(cells).read(np.array([wanted * step]))[0]
    assert abs((shown - cells[0]) / step - round((shown - cells[0]) / step)) < 0.05


def test_measurements_that_never_repeat_have_no_step() -> None:
    found = Resolution.of(np.random.default_rng(0).normal(size=400).astype(np.float32))
    assert found.step == 0
    assert found.values is None
    assert found.read(np.array([0.123456789])).tolist() == [0.123456789]


def test_a_column_that_repeats_uneven_values_shows_one_of_them_within_their_range() -> None:
    cells = np.repeat(np.log([1.0, 2.0, 3.0, 5.0, 8.0]), 20).astype(np.float32)
    found = Resolution.of(cells)
    assert found.step == 0
    shown = found.read(np.array([0.6, 1.2, 9.0]))
    assert shown[:2] == pytest.approx([np.log(2.0), np.log(3.0)])
    assert shown[2] == 9.0


def test_missing_and_infinite_cells_say_nothing_of_the_step() -> None:
    cells = np.array([np.nan, 1.0, 2.0, np.inf, 5.0, -np.inf], dtype=np.float32)
    assert Resolution.of(cells).step == 1.0
    assert Resolution.of(np.full(5, np.nan, dtype=np.float32)).read(np.array([1.5])).tolist() == [1.5]
