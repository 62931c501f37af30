"""What the user can bear: a share of rows, or alarms a day, and how sure they want to be of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from anomvae.calibration.conditional import check_confidence, rows_needed_for
from anomvae.calibration.conformal import check_alarm_rate
from anomvae.calibration.tail import LEAST_P
from anomvae.errors import SettingError

SMALLEST_RATE = LEAST_P
"""No p-value is smaller, whatever the tail."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How often normal rows may alarm.

    Attributes:
        alarm_rate: Share of normal rows that may alarm.
        alarms_per_day: Alarms that normal rows may raise in a day, where the rate was stated so.
        rows_per_day: Rows in a day, likewise.
        confidence: Probability, over the draw of the calibration rows, that the rate holds for these very rows; None: it
            holds on average over calibration rows.
    """

    alarm_rate: float
    alarms_per_day: float | None = None
    rows_per_day: float | None = None
    confidence: float | None = None

    @classmethod
    def of(
        cls,
        alarm_rate: float | None = None,
        alarms_per_day: float | None = None,
        rows_per_day: float | None = None,
        confidence: float | None = None,
        default: float = 0.01,
    ) -> Budget:
        """A budget as people state it: a rate, or alarms a day with rows a day.

        Args:
            alarm_rate: Share of normal rows that may alarm.
            alarms_per_day: Alarms that normal rows may raise in a day; goes with `rows_per_day`.
            rows_per_day: Rows in a day.
            confidence: At least 0.5 and below 1.
            default: Alarm rate where none is stated.

        Raises:
            SettingError: Both kinds are stated, or half of one, or a number is out of range.

        Example:
            >>> Budget.of(alarms_per_day=2, rows_per_day=86_400).describe()
            '2 alarms a day at 86,400 rows a day (0.0023 %)'
        """
        if confidence is not None:
            check_confidence(confidence)
        if alarms_per_day is None and rows_per_day is None:
            rate = default if alarm_rate is None else alarm_rate
            check_alarm_rate(rate)
            return cls(_large_enough(rate), None, None, confidence)
        if alarm_rate is not None:
            flag = "--rows-per-day" if alarms_per_day is None else "--alarms-per-day"
            raise SettingError(f"--alarm-rate and {flag} both state the budget; give one of them")
        if alarms_per_day is None:
            raise SettingError("--rows-per-day goes with --alarms-per-day; give both or neither")
        if rows_per_day is None:
            raise SettingError("--alarms-per-day goes with --rows-per-day; give both or neither")
        for flag, number in (("--alarms-per-day", alarms_per_day), ("--rows-per-day", rows_per_day)):
            if not (math.isfinite(number) and number > 0):
                raise SettingError(f"{flag} is {number:g}; it must be a number above 0")
        if alarms_per_day >= rows_per_day:
            raise SettingError(
                f"--alarms-per-day is {_count(alarms_per_day)} and --rows-per-day {_count(rows_per_day)}; "
                "there must be fewer alarms than rows"
            )
        return cls(_large_enough(alarms_per_day / rows_per_day), alarms_per_day, rows_per_day, confidence)

    @property
    def rows_needed(self) -> int:
        """Calibration rows that it needs, without a tail."""
        return rows_needed_for(self.alarm_rate, self.confidence)

    def describe(self) -> str:
        """A clause for people.

        Example:
            >>> Budget.of(0.01, confidence=0.95).describe()
            'at most 1 % of normal rows alarm, with 95 % confidence for these calibration rows'
        """
        said = f"at most {_percent(self.alarm_rate, 6)} of normal rows alarm"
        if self.alarms_per_day is not None and self.rows_per_day is not None:
            alarms = "1 alarm" if self.alarms_per_day == 1 else f"{_count(self.alarms_per_day)} alarms"
            said = f"{alarms} a day at {_count(self.rows_per_day)} rows a day ({_percent(self.alarm_rate, 2)})"
        if self.confidence is None:
            return said
        return f"{said}, with {_percent(self.confidence, 6)} confidence for these calibration rows"


def _large_enough(alarm_rate: float) -> float:
    if alarm_rate < SMALLEST_RATE:
        raise SettingError(f"the alarm rate is {alarm_rate:.2g}; no p-value is smaller than {SMALLEST_RATE:g}")
    return alarm_rate


def _percent(share: float, digits: int) -> str:
    """A share in per cent, to so many significant digits, never as 1e-05."""
    return f"{np.format_float_positional(100.0 * share, precision=digits, fractional=False, trim='-')} %"


def _count(number: float) -> str:
    return f"{number:,.15g}"
