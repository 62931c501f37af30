"""P-values that keep the alarm rate for the calibration rows at hand, not only on average over all that might be drawn."""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from anomvae.bundle.promise import rows_needed
from anomvae.errors import SettingError

FloatArray = npt.NDArray[np.float64]

MOST_RATE = 0.1
"""Up to this alarm rate the promise holds for every rate at once; beyond it, for any one rate stated beforehand."""
GRID = 50
"""Counts of alarming calibration rows up to this one have a bound each; beyond, counts within 1 / GRID share the largest's."""
DRAWS = 10_000
SEED = 20230208
MOST_SIMULATED = 10**8
"""Rows beyond which the level is taken as it is there: it falls slowly, by about a quarter for each tenfold."""
FEW = 256
"""Up to this many rows, one bound more below `MOST_RATE` is a step; beyond, it moves the smallest p-value by less than SLACK."""
SLACK = 0.01


@lru_cache(maxsize=8)
def conditional_p_values(m: int, confidence: float) -> FloatArray:
    r"""Calibration-conditional p-values, by how many calibration scores a score does not exceed.

    With probability at least `confidence` over the draw of the calibration rows,

    .. math:: P(p \le t \mid \text{calibration rows}) \le t \quad\text{for every } t \in (0, 0.1] \text{ at once.}

    A plain conformal p-value keeps its rate on average over calibration sets, so that about every second set alarms more
    often than was stated. The rows that exceed all but a of m calibration scores are a share of all normal rows that is
    distributed as Beta(a + 1, m - a). Entry a is that distribution's quantile at 1 - level, the same level for each a; the
    level is such that all shares up to `MOST_RATE` stay below their quantile together. Ties only raise p-values.

    Args:
        m: Calibration rows.
        confidence: Probability that the promise holds, at least 0.5 and below 1.

    Returns:
        Shape ``(m + 1,)``, ascending, read-only: entry a belongs to a score that a of the m calibration scores reach or
        pass. Entry 0 is the smallest p-value, entry m is 1; entry a is never below the plain (a + 1) / (m + 1).

    Raises:
        SettingError: The confidence is not in [0.5, 1), or there is no calibration row.

    References:
        Testing for Outliers with Conformal p-values (Bates et al., 2023), arXiv:2104.08279. The same level for each: The
        Power to See: A New Graphical Test of Normality (Aldor-Noiman et al., 2013), The American Statistician 67 (4)

    Example:
        >>> conditional_p_values(1000, 0.95)[[0, 9, 1000]].round(4).tolist()
        [0.0053, 0.0199, 1.0]
    """
    _check(m, confidence)
    level = _level(m, confidence)
    grid = _grid(m, m - 1)
    counts = np.arange(m)
    bounds = _bounds(grid, m, level)
    shared = bounds[np.searchsorted(grid, counts)]
    smooth = np.where(counts <= _last_shared(m), shared, np.interp(counts, grid, bounds))
    rising = np.maximum.accumulate(smooth)  # also where the shared bounds end
    table = np.append(np.clip(rising, (counts + 1.0) / (m + 1.0), 1.0), 1.0)
    table.setflags(write=False)
    return table


@lru_cache(maxsize=64)
def rows_needed_for(alarm_rate: float, confidence: float | None) -> int:
    """Calibration rows that a stated alarm rate needs: with as many or more, the smallest p-value does not exceed it.

    Args:
        alarm_rate: Stated share of normal rows that may alarm, above 0 and below 1.
        confidence: Of :func:`conditional_p_values`; None for plain conformal p-values.

    Returns:
        The fewest rows, exact up to `FEW`; beyond, at most 2 % more than the fewest.

    Raises:
        SettingError: The confidence is not in [0.5, 1).

    Example:
        >>> rows_needed_for(0.01, None)
        99
    """
    if confidence is None:
        return rows_needed(alarm_rate)
    check_confidence(confidence)

    def needed(rows: int) -> int:
        """Rows whose smallest p-value is the rate, at the level of so many."""
        level = _level(min(rows, MOST_SIMULATED), confidence)
        return max(rows_needed(alarm_rate), math.ceil(math.log(level) / math.log1p(-alarm_rate) - 1e-9))

    few = range(1, FEW + 1)
    if needed(FEW) <= FEW:
        return 1 + bisect_left(few, True, key=lambda rows: needed(rows) <= rows)  # noqa: FBT003
    rows, enough = FEW, needed(FEW)
    while enough > (1.0 + SLACK / 4.0) * rows:  # the level falls so slowly that a few rounds settle it
        rows, enough = enough, needed(enough)
    return math.ceil((1.0 + SLACK) * enough)


def check_confidence(confidence: float) -> None:
    """Refuses what is no confidence.

    Raises:
        SettingError: Below 0.5, or not below 1.
    """
    if not 0.5 <= confidence < 1.0:  # noqa: PLR2004
        raise SettingError(
            f"the confidence (--confidence) is {confidence:g}; "
            "it is a probability of at least 0.5 and below 1 (0.95 is 95 %)"
        )


def _check(m: int, confidence: float) -> None:
    check_confidence(confidence)
    if m < 1:
        raise SettingError(f"{m} calibration rows give no p-values: it takes at least 1")


def _last_shared(m: int) -> int:
    """The largest count whose plain p-value is at most `MOST_RATE`; what exceeds it plainly does so here."""
    return max(0, math.floor(MOST_RATE * (m + 1)) - 1)


def _grid(m: int, last: int) -> npt.NDArray[np.int64]:
    """Counts that have a bound of their own, from 0 to at least `last`, below m: for smaller m the same, cut short."""
    counts = [0]
    while counts[-1] < last:
        counts.append(min(m - 1, counts[-1] + max(1, counts[-1] // GRID)))
    return np.array(counts, dtype=np.int64)


def _bounds(grid: npt.NDArray[np.int64], m: int, level: float) -> FloatArray:
    """Quantiles at 1 - level of Beta(a + 1, m - a) for the counts a of a grid."""
    from scipy.special import betainccinv

    quantiles: FloatArray = betainccinv(grid + 1.0, np.asarray(m - grid, dtype=np.float64), level)
    return quantiles


@lru_cache(maxsize=64)
def _level(m: int, confidence: float) -> float:
    """The local level, lowered such that more rows never mean a larger smallest p-value.

    As rows grow, one bound more comes below `MOST_RATE`, and the smallest p-value rises by up to 5 % before it falls on.
    """
    if m > FEW:
        return _local_level(m, confidence)
    window = range(m, math.ceil(1.25 * m) + 1)
    return math.exp(m * min(math.log(_local_level(rows, confidence)) / rows for rows in window))


@lru_cache(maxsize=1024)
def _local_level(m: int, confidence: float) -> float:
    """The largest level at which all bounds up to `MOST_RATE` hold together with the stated confidence.

    By bisection over a fixed simulation; two standard errors of the simulated share are kept in hand. The rows between
    two counts of the grid exceed no more than those at the upper one, whose bound they have: nothing is left to chance there.
    """
    grid = _grid(m, _last_shared(m))
    most, least = 1.0 - confidence, (1.0 - confidence) / len(grid)  # one bound alone; Bonferroni
    if np.count_nonzero(_bounds(grid, m, most) <= MOST_RATE) <= 1:
        return most
    shares = _simulated(grid, m)
    missed = (1.0 - confidence) - 2.0 * math.sqrt(confidence * (1.0 - confidence) / DRAWS)
    for _ in range(12):
        level = math.sqrt(least * most)
        bounds = _bounds(grid, m, level)
        bounds = np.where(bounds <= MOST_RATE, bounds, 1.0)
        if (shares > bounds[:, None]).any(axis=0).mean() <= missed:
            least = level
        else:
            most = level
    return least


def _simulated(grid: npt.NDArray[np.int64], m: int) -> npt.NDArray[np.float32]:
    """Uniform order statistics number a + 1 of m, for the counts a of the grid: shape ``(len(grid), DRAWS)``.

    Ratios of sums of exponentials. The increments are drawn in the grid's order, so that two m have them in common and the
    level is a smooth function of m.
    """
    steps = np.diff(grid, prepend=-1)
    sums = np.stack(
        [np.random.default_rng([SEED, index]).standard_gamma(step, DRAWS) for index, step in enumerate(steps)]
    )
    np.cumsum(sums, axis=0, out=sums)
    sums /= sums[-1] + np.random.default_rng(SEED).standard_gamma(m - grid[-1], DRAWS)
    return sums.astype(np.float32)
