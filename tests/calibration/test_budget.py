"""Budgets: what may be stated, what is refused, and how it is said back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomvae.calibration import Budget, rows_needed_for
from anomvae.errors import SettingError


def test_a_rate_is_taken_as_stated_and_the_default_where_none_is() -> None:
    assert Budget.of(0.002) == Budget(0.002, None, None, None)
    assert Budget.of() == Budget(0.01, None, None, None)
    assert Budget.of(default=0.05, confidence=0.9) == Budget(0.05, None, None, 0.9)


@given(st.floats(1e-3, 1e6), st.floats(1.0001, 1e5))
def test_alarms_and_rows_a_day_make_the_rate(alarms: float, rows_an_alarm: float) -> None:
    budget = Budget.of(alarms_per_day=alarms, rows_per_day=alarms * rows_an_alarm, default=0.5)
    assert budget.alarm_rate == pytest.approx(1.0 / rows_an_alarm)
    assert (budget.alarms_per_day, budget.rows_per_day) == (alarms, alarms * rows_an_alarm)


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"alarm_rate": 0.01}, "at most 1 % of normal rows alarm"),
        ({"alarm_rate": 0.125}, "at most 12.5 % of normal rows alarm"),
        ({"alarm_rate": 1e-7}, "at most 0.00001 % of normal rows alarm"),
        ({"alarms_per_day": 2, "rows_per_day": 86_400}, "2 alarms a day at 86,400 rows a day (0.0023 %)"),
        ({"alarms_per_day": 1, "rows_per_day": 10_000_000}, "1 alarm a day at 10,000,000 rows a day (0.00001 %)"),
        ({"alarms_per_day": 0.5, "rows_per_day": 1_440}, "0.5 alarms a day at 1,440 rows a day (0.035 %)"),
    ],
)
def test_it_is_said_back_in_the_words_it_was_stated_in(stated: dict[str, float], said: str) -> None:
    assert Budget.of(**stated).describe() == said
    sure = Budget.of(**stated, confidence=0.95).describe()
    assert sure == f"{said}, with 95 % confidence for these calibration rows"


@pytest.mark.parametrize(
    ("stated", "named"),
    [
        ({"alarm_rate": 0.0}, "alarm rate is 0"),
        ({"alarm_rate": 1.0}, "alarm rate is 1"),
        ({"alarm_rate": math.nan}, "alarm rate is nan"),
        ({"alarm_rate": 1e-13}, "no p-value is smaller"),
        ({"alarm_rate": 0.01, "alarms_per_day": 2}, "--alarm-rate and --alarms-per-day"),
        ({"alarm_rate": 0.01, "rows_per_day": 2}, "--alarm-rate and --rows-per-day"),
        ({"alarm_rate": 0.01, "alarms_per_day": 2, "rows_per_day": 200}, "--alarm-rate and --alarms-per-day"),
        ({"alarms_per_day": 2}, "--alarms-per-day goes with --rows-per-day"),
        ({"rows_per_day": 2}, "--rows-per-day goes with --alarms-per-day"),
        ({"alarms_per_day": 0, "rows_per_day": 5}, "--alarms-per-day is 0"),
        ({"alarms_per_day": math.nan, "rows_per_day": 5}, "--alarms-per-day is nan"),
        ({"alarms_per_day": 1, "rows_per_day": math.inf}, "--rows-per-day is inf"),
        ({"alarms_per_day": 1, "rows_per_day": -3}, "--rows-per-day is -3"),
        ({"alarms_per_day": 5, "rows_per_day": 5}, "fewer alarms than rows"),
        ({"alarms_per_day": 1, "rows_per_day": 1e300}, "no p-value is smaller"),
        ({"confidence": 0.4}, "--confidence"),
        ({"confidence": 1.0}, "--confidence"),
        ({"confidence": math.nan, "alarms_per_day": 2, "rows_per_day": 200}, "--confidence"),
    ],
)
def test_what_states_no_budget_is_refused_in_one_sentence(stated: dict[str, float], named: str) -> None:
    with pytest.raises(SettingError, match=named) as refused:
        Budget.of(**stated)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("confidence", [None, 0.9])
def test_it_knows_the_rows_it_needs(confidence: float | None) -> None:
    budget = Budget.of(alarms_per_day=1, rows_per_day=200, confidence=confidence)
    assert budget.rows_needed == rows_needed_for(1 / 200, confidence)
