"""Split conformal p-values, and the threshold of an alarm rate."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from anomvae.bundle.promise import rows_needed
from anomvae.errors import SettingError, TooFewRowsError

ROUNDING = 1e-6
"""Relative; p-values are multiples of 1 / (m + 1), and one that equals the alarm rate must alarm in float32 too."""

FloatArray = npt.NDArray[np.float32] | npt.NDArray[np.float64]

TIE = 1e-4
"""Scores this close, relative to |score| and at least to their spread, or 1, count as equal.

A repeated row must get the p-value of the rows it repeats, also on a machine that rounds differently. Counting a close
call as a tie can only raise a p-value, so the guarantee stands.
"""


def p_values(scores: FloatArray, calibration: FloatArray) -> npt.NDArray[np.float64]:
    r"""Conformal p-values of new scores.

    .. math:: p_i = \frac{1 + \#\{j : c_j \ge s_i\}}{m + 1}

    Under exchangeability, ``p <= alpha`` flags at most a fraction ``alpha`` of normal rows. Scores closer than `TIE` count
    as equal; a score that is not a number gets the smallest p-value: what cannot be scored is not normal.

    Args:
        scores: Anomaly scores, higher is stranger, shape ``(n,)``.
        calibration: Scores of held-out normal rows, any order, shape ``(m,)``.

    References:
        Testing for Outliers with Conformal p-values (Bates et al., 2023), arXiv:2104.08279

    Example:
        >>> p_values(np.array([0.0, 9.0]), np.array([1.0, 2.0, 3.0])).tolist()
        [1.0, 0.25]
    """
    table = np.sort(raised(calibration))
    exact = np.asarray(scores, dtype=np.float32)
    at_least = np.where(np.isnan(exact), 0, len(table) - np.searchsorted(table, exact, side="left"))
    shares: npt.NDArray[np.float64] = (1.0 + at_least.astype(np.float64)) / (len(table) + 1.0)
    return shares


def raised(calibration: FloatArray) -> npt.NDArray[np.float32]:
    """The largest scores that still tie with calibration scores, float32; what is not a number ties with all.

    The tolerance is `TIE` times max(f, |score|) of the new score s, which ties with c where s - TIE max(f, |s|) <= c. The
    floor f is 1, or the standard deviation of the calibration scores where that is less: scores that all lie close must
    not tie for being small.
    """
    exact = np.asarray(calibration, dtype=np.float64)
    finite = exact[np.isfinite(exact)]
    with np.errstate(over="ignore"):
        floor = min(1.0, float(finite.std()) if len(finite) else 0.0) or 1.0
        above, near, below = exact / (1.0 - TIE), exact + TIE * floor, exact / (1.0 + TIE)
        moved = np.where(above >= floor, above, np.where(near >= -floor, np.minimum(near, floor), below))
        return np.where(np.isnan(exact), np.inf, moved).astype(np.float32)


def threshold(calibration: FloatArray, alarm_rate: float) -> float:
    """The score above which rows alarm at a stated rate: the smallest one whose p-value does not exceed it.

    Args:
        calibration: Scores of held-out normal rows, shape ``(m,)``.
        alarm_rate: Stated share of normal rows that may alarm.

    Raises:
        TooFewRowsError: The rows cannot support the rate.
        SettingError: The rate is no share.
    """
    check_alarm_rate(alarm_rate)
    m = len(calibration)
    may_alarm = min(m, math.floor(alarm_rate * (m + 1) + 1e-9))  # p <= rate, p being a multiple of 1 / (m + 1)
    if may_alarm < 1:
        needed = rows_needed(alarm_rate)
        raise TooFewRowsError(
            f"{m:,} calibration rows cannot support an alarm rate of {alarm_rate:g}: it takes at least {needed:,}; "
            f"the smallest rate they support is {1.0 / (m + 1):.2g}",
            needed,
        )
    descending = np.sort(np.asarray(calibration, dtype=np.float64))[::-1]
    return float(descending[may_alarm - 1])


def check_alarm_rate(alarm_rate: float) -> None:
    """Refuses what is no share of rows.

    Raises:
        SettingError: Not above 0 and below 1.
    """
    if not 0.0 < alarm_rate < 1.0:
        raise SettingError(
            f"the alarm rate is {alarm_rate:g}; it is a share of rows, above 0 and below 1 (0.01 is 1 %)"
        )
