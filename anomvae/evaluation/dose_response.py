"""Share caught against size of shift: the smallest shift caught so often, with its interval.

A larger shift of the same row is mostly, not always, easier to catch. The curve is therefore estimated by isotonic
regression: the best curve that never falls. Its inverse is read between the measured sizes on a logarithmic scale.

The interval assumes no more than that the true curve does not fall. Resampling rows would say that nothing is uncertain
where no row is caught at one size and every row at the next, though the answer may lie anywhere between; so the interval
comes from exact bounds at the measured sizes instead. From the smallest size up, sizes are ruled out for as long as their
upper bound stays below the level; from the largest down, sizes are enough for as long as their lower bound reaches it. Each is
a sequence of tests in an order fixed beforehand, which needs no correction for the number of sizes.

References:
    Statistical Inference under Order Restrictions (Barlow et al., 1972);
    The Use of Confidence or Fiducial Limits (Clopper and Pearson, 1934);
    Stepwise Confidence Intervals without Multiplicity Adjustment for Dose-Response and Toxicity Studies (Hsu and Berger, 1999)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float64]

TAIL = 0.025
"""What an interval leaves out at either end."""


@dataclass(frozen=True, slots=True)
class Caught:
    """How many rows raised an alarm.

    Attributes:
        hits: Rows that alarmed.
        rows: Of how many; 0 where the fault could not be injected.
    """

    hits: int
    rows: int

    @property
    def share(self) -> float:
        """The share; NaN of no rows."""
        return self.hits / self.rows if self.rows else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Its exact 95 % interval (Clopper-Pearson): that of :func:`~anomvae.evaluation.clopper_pearson`, a thousand times quicker."""
        from scipy.special import betaincinv

        hits, misses = self.hits, self.rows - self.hits
        low = float(betaincinv(hits, misses + 1, TAIL)) if hits else 0.0
        high = float(betaincinv(hits + 1, misses, 1.0 - TAIL)) if misses else 1.0
        return low, high


@dataclass(frozen=True, slots=True)
class SmallestShift:
    """The smallest shift that is caught so often, standard deviations.

    Attributes:
        size: The estimate; None where no measured shift is caught so often. At the smallest size measured it may be smaller.
        low: Lower end of its 95 % interval; 0 where even the smallest size measured may be more than enough.
        high: Upper end; None where even the largest size measured may not be enough.
    """

    size: float | None
    low: float
    high: float | None


def isotonic_shares(sizes: Sequence[float], caught: Sequence[Caught]) -> FloatArray:
    """The shares caught by the best curve that never falls, weighted by rows.

    Args:
        sizes: Ascending, k of them.
        caught: At each size, of at least one row.
    """
    from sklearn.isotonic import IsotonicRegression

    shares, rows = [each.share for each in caught], [float(each.rows) for each in caught]
    fit = IsotonicRegression(y_min=0.0, y_max=1.0).fit(sizes, shares, sample_weight=rows)
    return np.asarray(fit.predict(sizes), dtype=np.float64)


def share_at(size: float, sizes: Sequence[float], caught: Sequence[Caught]) -> float:
    """The share caught at any size, read from the isotonic curve; that of the nearest end beyond the measured sizes."""
    return float(np.interp(np.log(size), np.log(sizes), isotonic_shares(sizes, caught)))


def smallest_shift(sizes: Sequence[float], caught: Sequence[Caught], level: float) -> SmallestShift:
    """The smallest shift of which a share is caught.

    Args:
        sizes: Sizes measured, ascending, standard deviations.
        caught: What was caught at each, of at least one row.
        level: The share, above 0 and below 1.

    Example:
        >>> found = smallest_shift([1.0, 2.0, 4.0], [Caught(0, 300), Caught(150, 300), Caught(300, 300)], 0.5)
        >>> found
        SmallestShift(size=2.0, low=1.0, high=4.0)
    """
    shares = isotonic_shares(sizes, caught)
    bounds = [each.interval for each in caught]
    low = 0.0
    for size, (_, upper) in zip(sizes, bounds, strict=True):
        if upper >= level:
            break
        low = size
    high: float | None = None
    for size, (lower, _) in zip(reversed(sizes), reversed(bounds), strict=True):
        if lower < level:
            break
        high = size
    return SmallestShift(_crossing(sizes, shares, level), low, high)


def _crossing(sizes: Sequence[float], shares: FloatArray, level: float) -> float | None:
    """Where a curve reaches a level, between sizes on a logarithmic scale."""
    reached = np.flatnonzero(shares >= level - 1e-12)
    if not len(reached):
        return None
    at = int(reached[0])
    if at == 0:
        return float(sizes[0])
    part = (level - shares[at - 1]) / (shares[at] - shares[at - 1])
    return float(np.exp(np.log(sizes[at - 1]) + part * (np.log(sizes[at]) - np.log(sizes[at - 1]))))
