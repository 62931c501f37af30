"""How one column of a series runs: the levels it keeps to, its stays there, and how far one part lies from another."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from anomvae.data.shapes import usual_spread

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

LEAST_BLOCKS = 100
MOST_LEVELS = 4
LEVEL_GAP = 2.0
"""Least distance of two levels, in sums of the spreads of their means over a quarter of a window."""
STEP_GAP = 1.25
"""The same of the steps themselves."""
BETWEEN = 0.03
"""Most of two levels' means in the middle third between them: what wanders passes there, what switches does not."""
LEAST_SHARE = 0.05
CALM = 0.8
USUAL = (0.01, 0.99)
"""The operating range of steps lies between these quantiles of theirs, and half a spread beyond."""


class Levels(NamedTuple):
    """Levels between which a column switches.

    Attributes:
        of: Level of each step, 0 the lowest, shape ``(n,)``.
        ratio: Distance of the two nearest, in sums of their spreads; infinite where they do not vary.
    """

    of: IntArray
    ratio: float


class Shift(NamedTuple):
    """How far the steps of one part lie from those of another.

    Attributes:
        spreads: Distance of the medians, in robust spreads of the first part; infinite where that does not vary.
        sure: The same in standard errors.
        outside: Whether the second median lies outside the first part's operating range.
    """

    spreads: float
    sure: float
    outside: bool


class Stays(NamedTuple):
    """How a column goes from level to level.

    Attributes:
        lengths: Steps of each stay, shape ``(k,)``.
        levels: Level of each.
        changes: Positions with which those after the first begin, shape ``(k - 1,)``.
    """

    lengths: IntArray
    levels: IntArray
    changes: IntArray


def levels_of(values: FloatArray, window: int) -> Levels | None:
    """Finds levels that a column keeps to for a while.

    Of means over a quarter of a window one level after another is split off where that explains most; all must be far from
    their neighbours, with hardly a mean between.

    Args:
        values: Finite, in order of time, shape ``(n,)``.
        window: Steps a window.

    References:
        A Threshold Selection Method from Gray-Level Histograms (Otsu, 1979)
    """
    size = max(1, min(window // 4, len(values) // LEAST_BLOCKS))
    count = len(values) // size
    if count < 2:  # noqa: PLR2004
        return None
    means = values[: count * size].reshape(count, size).mean(axis=1)
    ordered = np.sort(means)
    spread = usual_spread(ordered) or float(ordered[-1] - ordered[0])
    if not (spread > 0.0 and math.isfinite(spread)):
        return None
    squashed = np.arcsinh((ordered - ordered[count // 2]) / spread)
    cuts, best = [0, count], None
    for _ in range(MOST_LEVELS - 1):
        splits = [_best_split(squashed[low:high]) for low, high in itertools.pairwise(cuts)]
        part = int(np.argmax([gain for gain, _ in splits]))
        if splits[part][0] <= 0.0:
            break
        cuts.insert(part + 1, cuts[part] + splits[part][1])
        if _are_levels([ordered[low:high] for low, high in itertools.pairwise(cuts)]):
            borders = [(ordered[cut - 1] + ordered[cut]) / 2.0 for cut in cuts[1:-1]]
            level = np.searchsorted(borders, means).astype(np.int64)
            of = level[np.minimum(np.arange(len(values)) // size, count - 1)]
            ratio = min(_ratios([np.sort(values[of == one]) for one in range(len(cuts) - 1)]))
            best = Levels(of, ratio) if ratio > STEP_GAP else best
    return best


def shift_between(before: FloatArray, after: FloatArray) -> Shift:
    """How far a later part of a column lies from an earlier one.

    Standard errors of the medians count steps that depend on one another by the integrated autocorrelation time.

    Args:
        before: Finite, in order of time, shape ``(n,)``.
        after: Likewise, shape ``(k,)``.

    References:
        Monte Carlo Methods in Statistical Mechanics (Sokal, 1997): the automatic window for the autocorrelation time
    """
    ordered = np.sort(before)
    spread, middle, now = usual_spread(ordered), float(np.median(before)), float(np.median(after))
    low, high = np.quantile(ordered, USUAL)
    outside = bool(now < low - spread / 2.0 or now > high + spread / 2.0)
    away = abs(now - middle)
    if spread == 0.0:
        return Shift(math.inf if away else 0.0, math.inf if away else 0.0, outside)
    time = max(_autocorrelation_time(part, spread) for part in (before, after))
    error = spread * math.sqrt(0.5 * math.pi * time * (1.0 / len(before) + 1.0 / len(after)))
    return Shift(away / spread, away / error, outside)


def stays_of(level: IntArray, least: int) -> Stays:
    """Stays at levels; none where a fifth of the steps is chatter.

    Args:
        level: Of each step, in order of time, shape ``(n,)``.
        least: A stay is at least so many steps long, the rest is chatter.
    """
    begin = np.flatnonzero(np.diff(level, prepend=-1))
    runs = np.diff(np.append(begin, len(level)))
    long = runs >= least
    begin = begin[long] if runs[long].sum() > CALM * len(level) else begin[:0]
    begin = begin[np.diff(level[begin], prepend=-1) != 0]
    lengths = np.diff(np.append(begin, len(level)))
    return Stays(lengths, level[begin], begin[1:])


def memory_within(values: FloatArray, level: IntArray) -> float:
    """Autocorrelation time, in steps, of what is left when each level's median is taken off."""
    medians = np.array([np.median(values[level == one]) for one in range(int(level.max()) + 1)])
    left = values - medians[level]
    spread = usual_spread(np.sort(left))
    return _autocorrelation_time(left, spread) if spread > 0.0 else 1.0


def _best_split(ordered: FloatArray) -> tuple[float, int]:
    """Where ascending values are best split in two, and by how much the sum of squares falls."""
    n = len(ordered)
    if n < 2 or ordered[0] == ordered[-1]:  # noqa: PLR2004
        return 0.0, 0
    sums, count = np.cumsum(ordered)[:-1], np.arange(1, n)
    apart = (ordered.sum() - sums) / (n - count) - sums / count
    gain = np.where(ordered[1:] > ordered[:-1], apart**2 * count * (n - count) / n, 0.0)
    place = int(np.argmax(gain))
    return float(gain[place]), place + 1


def _are_levels(parts: list[FloatArray]) -> bool:
    """Whether parts of ascending means are large, far from their neighbours, and hardly a mean lies between."""
    if min(len(part) for part in parts) < LEAST_SHARE * sum(len(part) for part in parts):
        return False
    if min(_ratios(parts)) <= LEVEL_GAP:
        return False
    for low, high in itertools.pairwise(parts):
        one, other = float(np.median(low)), float(np.median(high))
        third = (other - one) / 3.0
        between = len(low) - np.searchsorted(low, one + third, "right") + np.searchsorted(high, other - third)
        if between > BETWEEN * (len(low) + len(high)):
            return False
    return True


def _ratios(parts: list[FloatArray]) -> list[float]:
    """Distances of neighbouring parts' medians in sums of their spreads; each part ascending."""
    found = []
    for low, high in itertools.pairwise(parts):
        spread = usual_spread(low) + usual_spread(high)
        gap = float(np.median(high)) - float(np.median(low))
        found.append(gap / spread if spread > 0.0 else math.inf)
    return found


def _autocorrelation_time(values: FloatArray, spread: float) -> float:
    """Steps that count as one: 1 + 2 * the sum of the autocorrelations, at least 1; far-off values are drawn in."""
    course = np.arcsinh((values - np.median(values)) / spread)
    course -= course.mean()
    n = len(course)
    power = np.abs(np.fft.rfft(course, 2 * n)) ** 2
    correlation = np.fft.irfft(power)[:n]
    if correlation[0] <= 0.0:
        return 1.0
    sums = 2.0 * np.cumsum(correlation / correlation[0]) - 1.0
    enough = np.flatnonzero(np.arange(n) >= 5.0 * sums)
    return max(1.0, float(sums[enough[0]] if len(enough) else sums.max()))
