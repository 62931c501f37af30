from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomvae.errors import SettingError
from anomvae.scoring.policy import BatchPolicy


@given(st.integers(1, 100), st.integers(1, 100), st.floats(0, 1), st.integers(0, 200), st.floats(0, 2))
def test_an_idle_model_never_waits(
    max_rows: int, enough_rows: int, max_wait_s: float, n_rows: int, waited_s: float
) -> None:
    assert BatchPolicy(max_rows, enough_rows, max_wait_s).closes(n_rows, waited_s, busy=False) is not None


@given(st.integers(1, 100), st.integers(1, 100), st.floats(0, 1), st.integers(0, 200), st.floats(0, 2))
def test_a_busy_model_waits_exactly_until_there_are_enough_rows_or_the_time_is_up(
    max_rows: int, enough_rows: int, max_wait_s: float, n_rows: int, waited_s: float
) -> None:
    reason = BatchPolicy(max_rows, enough_rows, max_wait_s).closes(n_rows, waited_s, busy=True)
    if n_rows >= min(max_rows, enough_rows):
        assert reason == "full"
    else:
        assert reason == ("waited" if waited_s >= max_wait_s else None)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"max_rows": 0}, "max-batch-rows"),
        ({"max_rows": -3}, "max-batch-rows"),
        ({"enough_rows": 0}, "enough rows"),
        ({"max_wait_s": -0.001}, "max-wait-ms"),
        ({"max_wait_s": 61.0}, "max-wait-ms"),
        ({"max_wait_s": float("nan")}, "max-wait-ms"),
        ({"max_wait_s": float("inf")}, "max-wait-ms"),
    ],
)
def test_a_number_out_of_range_is_refused_by_its_options_name(settings: dict[str, float], named: str) -> None:
    with pytest.raises(SettingError, match=named):
        BatchPolicy(**settings)  # type: ignore[arg-type]


def test_the_ends_of_the_ranges_are_in_them() -> None:
    BatchPolicy(1, 1, 0.0)
    BatchPolicy(max_wait_s=60.0)
