"""Split conformal p-values, and the table that gives them in a graph."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anomvae.bundle.promise import rows_needed
from anomvae.errors import SettingError, TooFewRowsError

FloatArray = npt.NDArray[np.float32] | npt.NDArray[np.float64]

TIE = 1e-4
"""Scores this close, relative to max(1, |score|), count as equal.

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
    table = np.sort(np.asarray(calibration, dtype=np.float32))
    at_least = len(table) - np.searchsorted(table, lowered(scores), side="left")
    shares: npt.NDArray[np.float64] = (1.0 + at_least.astype(np.float64)) / (len(table) + 1.0)
    return shares


def lowered(scores: FloatArray) -> npt.NDArray[np.float32]:
    """Scores less the tie tolerance; all arithmetic in float32, as the graph does it. NaN becomes infinity."""
    exact = np.asarray(scores, dtype=np.float32)
    with np.errstate(invalid="ignore"):  # inf - inf
        moved = exact - np.float32(TIE) * np.maximum(np.float32(1.0), np.abs(exact))
    finite = np.where(np.isinf(exact), exact, moved)
    return np.where(np.isnan(exact), np.float32(np.inf), finite).astype(np.float32)


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


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """Calibration scores as a two-step search: which block, then how far into it.

    A graph has no binary search; comparing with all m scores would cost more than the model. With blocks of about the
    square root of m, twice that many comparisons do.

    Attributes:
        first: First score of each block but the first, ascending, shape ``(b - 1,)``.
        blocks: Scores by block, the last one filled up with infinity, shape ``(b, w)``.
        rows: m.
    """

    first: npt.NDArray[np.float32]
    blocks: npt.NDArray[np.float32]
    rows: int

    @classmethod
    def of(cls, calibration: FloatArray) -> ScoreTable:
        """The table of calibration scores, any order, shape ``(m,)``."""
        ascending = np.sort(np.asarray(calibration, dtype=np.float32))
        width = max(1, math.isqrt(len(ascending) - 1) + 1 if len(ascending) else 1)
        blocks = max(1, math.ceil(len(ascending) / width))
        filled = np.full(blocks * width, np.inf, dtype=np.float32)
        filled[: len(ascending)] = ascending
        square = filled.reshape(blocks, width)
        return cls(square[1:, 0].copy(), square, len(ascending))

    def p_values(self, scores: FloatArray) -> npt.NDArray[np.float64]:
        """P-values by the two-step search; equal to :func:`p_values`."""
        moved = lowered(scores)[:, None]
        block = (self.first[None, :] < moved).sum(axis=1)
        below = block * self.blocks.shape[1] + (self.blocks[block] < moved).sum(axis=1)
        above = self.rows - np.minimum(below, self.rows)
        shares: npt.NDArray[np.float64] = (1.0 + above.astype(np.float64)) / (self.rows + 1.0)
        return shares
