"""Alarm events, grown alarm by alarm and counted at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomvae.evaluation.events import GrowingEvents, count_events


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60)), min_size=1, max_size=40),
    st.sampled_from([0.5, 1.0, 3.0, 100.0]),
    st.sampled_from([1.0, 4.0, 1_000.0]),
    st.randoms(use_true_random=False),
)
def test_events_that_grow_count_as_those_counted_at_once(
    alarms: list[tuple[int, int]], tolerance_s: float, renewal_s: float, draw: np.random.Generator
) -> None:
    part, times = np.array(sorted(alarms)).T
    events = GrowingEvents(times.astype(float), part, tolerance_s, renewal_s)
    order = list(range(len(alarms)))
    draw.shuffle(order)
    added: list[int] = []
    for step in order:
        events.add(step)
        added = sorted([*added, step])
        assert events.count == count_events(times[added].astype(float), part[added], tolerance_s, renewal_s)


@pytest.mark.parametrize(
    ("times", "part", "tolerance_s", "renewal_s", "events"),
    [
        ([], [], 1.0, 60.0, 0),
        ([5.0], [0], 1.0, 60.0, 1),
        ([1.0, 2.0, 3.0], [0, 0, 0], 1.0, 60.0, 1),
        ([1.0, 2.0, 3.0], [0, 0, 1], 1.0, 60.0, 2),
        ([1.0, 2.0, 5.0, 6.0], [0, 0, 0, 0], 2.9, 60.0, 2),
        ([1.0, 2.0, 5.0, 6.0], [0, 0, 0, 0], 3.0, 60.0, 1),
        ([0.0, 59.0], [0, 0], 100.0, 60.0, 1),
        ([0.0, 60.0], [0, 0], 100.0, 60.0, 2),
        ([0.0, 100.0, 185.0], [0, 0, 0], 100.0, 60.0, 4),
    ],
)
def test_events_merge_within_the_tolerance_and_count_again_when_they_last(
    times: list[float], part: list[int], tolerance_s: float, renewal_s: float, events: int
) -> None:
    assert count_events(np.array(times), np.array(part, dtype=np.int64), tolerance_s, renewal_s) == events
