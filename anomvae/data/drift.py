"""Channels that move on: a counter, a level that rises or falls all the while."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from anomvae.data.shapes import usual_spread

FloatArray = npt.NDArray[np.float64]

BLOCKS_BEFORE, BLOCKS_AFTER = 7, 2
"""Parts that the earlier and the later values are cut into, each as long as the other where they are 70 % and 20 % of all."""
LEAST = 4
"""Fewer values a part tell no level."""
EDGES = (0.005, 0.995)
"""Quantiles of the earlier values that one wild reading does not move."""
MARGIN = 0.25
"""Spreads of the earlier values that their range is widened by."""
BEYOND = 0.25
"""Least share of the later values beyond that range, ..."""
STEADY = 0.75
"""... and least rank correlation (Kendall's tau) of the levels of all parts with their order."""


def share_beyond(before: FloatArray, after: FloatArray) -> float:
    """Share of later values beyond the range of earlier ones, on the side that these have moved to all the while; 0 where they have not.

    Values wander, return and come in periods: only where the medians of parts in order of time rise, or fall, from one to the
    next nearly throughout do they move on.

    Args:
        before: Finite, in order of time, shape ``(n,)``.
        after: Likewise, of later steps, shape ``(k,)``.

    Returns:
        0 to 1; 0 where the share is too small to tell or the values are too few.

    References:
        Nonparametric Tests Against Trend (Mann, 1945)

    Example:
        >>> share_beyond(np.arange(700.0), np.arange(800.0, 1000.0)) > 0.5
        True
        >>> share_beyond(np.arange(700.0) % 50, np.arange(800.0, 1000.0) % 50)
        0.0
    """
    if len(before) < LEAST * BLOCKS_BEFORE or len(after) < LEAST * BLOCKS_AFTER:
        return 0.0
    parts = (*np.array_split(before, BLOCKS_BEFORE), *np.array_split(after, BLOCKS_AFTER))
    steady = _rank_correlation_with_order(np.array([np.median(part) for part in parts]))
    if abs(steady) < STEADY:
        return 0.0
    margin = MARGIN * usual_spread(np.sort(before))
    low, high = np.quantile(before, EDGES)
    share = float((after > high + margin).mean() if steady > 0 else (after < low - margin).mean())
    return share if share >= BEYOND else 0.0


def _rank_correlation_with_order(levels: FloatArray) -> float:
    """Kendall's tau of levels with their order; equal ones count as neither."""
    earlier, later = np.triu_indices(len(levels), k=1)
    return float(np.sign(levels[later] - levels[earlier]).mean())
