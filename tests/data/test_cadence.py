"""The rule of steps: rows placed one by one, as a stream does, lie where rows placed all at once do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomvae.data.cadence import Arrival, Cadence, Placed, default_gap

CADENCES = st.builds(Cadence, st.sampled_from([0.1, 1.0, 3.0]), st.integers(0, 5))
TIMES = st.lists(st.floats(0, 40) | st.integers(0, 400).map(lambda tenths: tenths / 10), max_size=40).map(sorted)


@given(CADENCES, TIMES, st.data())
def test_rows_placed_at_once_lie_where_they_lie_one_by_one(
    cadence: Cadence, times: list[float], data: st.DataObject
) -> None:
    begins = np.array([data.draw(st.booleans()) for _ in times], dtype=bool)
    kept, starts, missing = cadence.place_all(np.array(times), begins)
    newest: float | None = None
    for i, time in enumerate(times):
        placed = cadence.place(time, None if begins[i] else newest)
        assert kept[i] == (placed.arrival is not Arrival.REPEATED)
        assert starts[i] == (placed.arrival is Arrival.FIRST)
        assert missing[i] == placed.missing
        if placed.arrival is not Arrival.REPEATED:
            newest = time


@given(CADENCES, TIMES)
def test_without_a_word_the_first_row_alone_begins(cadence: Cadence, times: list[float]) -> None:
    first = np.arange(len(times)) == 0
    for one, other in zip(
        cadence.place_all(np.array(times)), cadence.place_all(np.array(times), first), strict=True
    ):  # fmt: skip
        assert np.array_equal(one, other)


def test_what_begins_is_not_changed_for_the_caller() -> None:
    begins = np.array([False, False, False])
    Cadence(1.0, 1).place_all(np.array([0.0, 1.0, 9.0]), begins)
    assert not begins.any()


@pytest.mark.parametrize(
    ("time", "placed"),
    [
        (99.9, Placed(Arrival.LATE)),
        (100.0, Placed(Arrival.REPEATED)),
        (100.9, Placed(Arrival.REPEATED)),
        (101.1, Placed(Arrival.NEXT)),
        (102.9, Placed(Arrival.NEXT)),
        (103.1, Placed(Arrival.NEXT, 1)),
        (106.9, Placed(Arrival.NEXT, 2)),
        (107.1, Placed(Arrival.FIRST)),
        (1e300, Placed(Arrival.FIRST)),
    ],
)
def test_a_row_goes_to_the_nearest_whole_step(time: float, placed: Placed) -> None:
    assert Cadence(2.0, longest_gap=2).place(time, 100.0) == placed


@given(st.floats(0.5, 20.0), st.integers(5, 60))
def test_jitter_and_a_drifting_clock_lose_no_step(drift: float, n: int) -> None:
    rng = np.random.default_rng(n)
    times = np.arange(n) * (1.0 + drift / 100.0) + rng.uniform(-0.1, 0.1, n)
    kept, starts, missing = Cadence(1.0, 1).place_all(times)
    assert kept.all()
    assert starts.sum() == 1
    assert missing.sum() == 0


def test_a_window_of_any_length_bears_one_missing_step() -> None:
    assert [default_gap(window) for window in (1, 8, 16, 64, 100)] == [1, 1, 2, 8, 12]
