"""A permit never gives out more than there is, and says when to try again."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomvae.errors import OverloadedError, RequestTooLargeError
from anomvae.serving.permits import Permit


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@given(st.integers(1, 50), st.lists(st.tuples(st.booleans(), st.integers(0, 60)), max_size=60))
def test_what_is_in_flight_never_exceeds_the_limit(limit: int, steps: list[tuple[bool, int]]) -> None:
    permit = Permit(limit, "rows", Clock())
    held: list[int] = []
    for takes, n in steps:
        if not takes and held:
            permit.give(held.pop())
            continue
        with contextlib.suppress(OverloadedError, RequestTooLargeError):
            permit.take(n)
            held.append(n)
        assert permit.used == sum(held) <= limit
    for n in held:
        permit.give(n)
    assert permit.used == 0


def test_what_never_fits_is_too_large_even_when_all_is_free() -> None:
    permit = Permit(10, "rows")
    with pytest.raises(RequestTooLargeError, match=r"more rows than may be in flight, 10; cut it up"):
        permit.take(11)
    permit.take(10)
    with pytest.raises(RequestTooLargeError):
        permit.take(11)
    with pytest.raises(OverloadedError):
        permit.take(1)
    permit.take(0)
    with pytest.raises(OverloadedError, match="too many rows are in flight, the limit is 10"):
        permit.check()


def test_the_wait_follows_the_pace_and_stays_within_reason() -> None:
    clock = Clock()
    permit = Permit(100, "rows", clock)

    def wait_s() -> float:
        permit.take(100)
        with pytest.raises(OverloadedError) as refused:
            permit.take(1)
        permit.give(100)
        return refused.value.retry_after_s

    assert wait_s() == 1  # nothing is known yet
    clock.now = 20.0  # 100 rows in 20 s: the next 100 take as long
    permit.give(0)
    assert wait_s() == 20
    clock.now = 100_000.0
    permit.give(0)
    assert wait_s() == 30
