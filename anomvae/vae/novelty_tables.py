"""What novelty learns from training rows: values, pairs of values, their weights and how rare their sums are."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from anomvae.vae.layout import Layout

    Floats = npt.NDArray[np.float32]
    Doubles = npt.NDArray[np.float64]
    Integers = npt.NDArray[np.int64]
    Flags = npt.NDArray[np.bool_]

MOST = float(np.finfo(np.float32).max)
"""Infinities that are values count as this one."""
LEAST_SEEN = 0.5
LEAST_GAIN = 0.3
MOST_COLUMNS = 24
MOST_PAIRS = 32
LEAST_ROWS = 20
KNOTS = 64
SLOPE = 0.1
DENSE = 2**20


@dataclass(frozen=True, slots=True)
class Values:
    """One column as novelty sees it.

    Attributes:
        feature: Position of the column, numbers before categories.
        rank: 1 + position of the cell's value among the stored ones, 0 where it is missing or not stored, shape ``(n,)``.
        observed: Where the cell is there, shape ``(n,)``.
        seen: Where enough other rows hold the cell's value, shape ``(n,)``.
        size: Stored values, plus one.
        stored: The stored values in ascending order (number columns), shape ``(size - 1,)``.
        shared: Which of them stay stored without a row that holds them, shape ``(size - 1,)``.
    """

    feature: int
    rank: Integers
    observed: Flags
    seen: Flags
    size: int
    stored: Floats
    shared: Flags

    @property
    def odds(self) -> float:
        """Log odds that a cell's value is held by other rows (Good, 1953)."""
        return _log_odds(int(self.seen.sum()), int(self.observed.sum()))


@dataclass(frozen=True, slots=True)
class Pair:
    """Two columns whose pairs of values repeat, though not by chance.

    Attributes:
        first: Feature of the one column.
        second: Feature of the other.
        weight: Log odds that a row's pair is held by other rows.
        gain: The weight times the share of re-paired rows whose pair no row holds.
        held: Stored pairs as the ranks (from 1) of their values, shape ``(m, 2)``.
        shared: Which of them stay stored without a row that holds them, shape ``(m,)``.
        unseen: Rows whose pair too few others hold, shape ``(n,)``.
    """

    first: int
    second: int
    weight: float
    gain: float
    held: Integers
    shared: Flags
    unseen: Flags


def _log_odds(seen: int, rows: int) -> float:
    share = (seen + 1.0) / (rows + 2.0)
    return float(np.log(share / (1.0 - share)))


def number_values(layout: Layout, numeric: Floats, held_by: int) -> list[Values]:
    """The number columns most of whose values repeat.

    Args:
        layout: Which infinities are missing cells.
        numeric: Raw units, NaN where missing, shape ``(n, d)``.
        held_by: Rows that must hold a value for it to be stored.
    """
    kept = []
    for j in range(layout.d):
        column = numeric[:, j]
        missing = np.isnan(column)
        if layout.infinite_is_missing[j]:
            missing |= np.isinf(column)
        cells = np.clip(column[~missing], -MOST, MOST) + np.float32(0.0)  # -0.0 becomes 0.0
        values, inverse, counts = np.unique(cells, return_inverse=True, return_counts=True)
        stored, shared = counts >= held_by, counts > held_by
        rank, seen = np.zeros(len(column), dtype=np.int64), np.zeros(len(column), dtype=np.bool_)
        rank[~missing] = np.where(stored, np.cumsum(stored), 0)[inverse]
        seen[~missing] = shared[inverse]
        made = Values(j, rank, ~missing, seen, int(stored.sum()) + 1, values[stored], shared[stored])
        if made.size > 1 and made.odds >= 0.0:  # a share of at least one half
            kept.append(made)
    return kept


def category_values(layout: Layout, categorical: Integers) -> list[Values]:
    """The category columns that can make a pair: those of at least two known values."""
    kept = []
    for j, size in enumerate(layout.cardinalities):
        if size < 2:  # noqa: PLR2004
            continue
        codes = categorical[:, j]
        known = (codes >= 0) & (codes < size)
        rank = np.where(known, codes + 1, 0).astype(np.int64)
        none = np.zeros(0, dtype=np.float32)
        kept.append(
            Values(layout.d + j, rank, codes != layout.missing_codes[j], known, size + 1, none, none.astype(np.bool_))
        )
    return kept


def repeating_pairs(columns: list[Values], held_by: int, rng: np.random.Generator) -> list[Pair]:
    """The pairs of columns whose pairs of values say most: at most `MOST_PAIRS` of the greatest gain."""
    columns = [column for column in columns if column.size > 2]  # noqa: PLR2004  one value makes no pair
    if len(columns) > MOST_COLUMNS:
        columns = [columns[i] for i in np.sort(rng.choice(len(columns), MOST_COLUMNS, replace=False))]
    made = (_pair(one, other, held_by, rng) for one, other in itertools.combinations(columns, 2))
    pairs = [pair for pair in made if pair is not None]
    return sorted(pairs, key=lambda pair: -pair.gain)[:MOST_PAIRS]


def _pair(one: Values, other: Values, held_by: int, rng: np.random.Generator) -> Pair | None:
    observed = one.observed & other.observed
    rows = int(observed.sum())
    if rows < LEAST_ROWS:
        return None
    first, second = one.rank[observed], other.rank[observed]
    stored = (first > 0) & (second > 0)
    codes = first * other.size + second
    counts = _Counts(codes[stored], one.size * other.size)
    seen = stored & (counts.of(codes) > held_by)
    weight = _log_odds(int(seen.sum()), rows)
    if weight < LEAST_GAIN:  # the gain is no greater, and a share below one half no candidate
        return None
    chance = float(np.mean(counts.of(first * other.size + rng.permutation(second)) >= held_by))
    gain = weight * (1.0 - chance)
    if gain < LEAST_GAIN:
        return None
    held, times = np.unique(codes[stored], return_counts=True)
    held, times = held[times >= held_by], times[times >= held_by]
    unseen = np.zeros(len(observed), dtype=np.bool_)
    unseen[observed] = ~seen
    ranks = np.stack(np.divmod(held, other.size), axis=1)
    return Pair(one.feature, other.feature, weight, gain, ranks, times > held_by, unseen)


class _Counts:
    """How often each code occurs.

    Args:
        codes: Not negative, below `size`.
        size: Codes there may be.
    """

    def __init__(self, codes: Integers, size: int) -> None:
        self.codes: Integers | None = None
        if size <= DENSE:
            self.counts = np.bincount(codes, minlength=size)
        else:
            self.codes, self.counts = np.unique(codes, return_counts=True)

    def of(self, codes: Integers) -> Integers:
        """Occurrences of codes."""
        if self.codes is None:
            return self.counts[codes]
        if not len(self.codes):
            return np.zeros(len(codes), dtype=np.int64)
        at = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        return np.where(self.codes[at] == codes, self.counts[at], 0)


def exact(weights: Doubles) -> tuple[Doubles, float]:
    """Weights rounded to multiples of a power of two so small that float32 adds them, and their halves, without error.

    Sums are then the same in any order: whatever rows stand beside, on any machine, in training and in the graph.

    Returns:
        The weights and the power of two.

    Example:
        >>> exact(np.array([0.7, 2.0]))[0].tolist()
        [0.7001953125, 2.0]
    """
    total = float(weights.sum()) + len(weights)
    quantum = 2.0 ** -min(10, 22 - int(np.ceil(np.log2(max(total, 1.0)))))
    return np.round(weights / quantum) * quantum, quantum


def knots_of(totals: Doubles, quantum: float) -> Floats:
    """How rare a total is among training rows, in nats, as a line through at most `KNOTS` points.

    The nats of a total t are -log((1 + number of training totals >= t) / (n + 1)); none for t = 0. A total above all of
    training's has log(n + 1), and `SLOPE` nats per unit beyond, so that order stays.

    Args:
        totals: Of the training rows, each without itself, multiples of `quantum`, shape ``(n,)``.
        quantum: The smallest step of a total.

    Returns:
        Totals in ascending order, nats there, and the slope to the next, shape ``(knots, 3)``.
    """
    n = len(totals)
    values, counts = np.unique(totals[totals > 0], return_counts=True)
    nats = np.log((n + 1.0) / (1.0 + np.cumsum(counts[::-1])[::-1]))
    most = KNOTS - 2
    if len(values) > most:
        index = np.unique(np.searchsorted(nats, np.linspace(nats[0], nats[-1], most) - 1e-12))
        values, nats = values[index], nats[index]
    above = values[-1] + quantum if len(values) else quantum
    at = np.concatenate([[0.0], values, [above]])
    height = np.concatenate([[0.0], nats, [np.log(n + 1.0)]])
    slope = np.append(np.diff(height) / np.diff(at), SLOPE)
    return np.stack([at, height, slope], axis=1).astype(np.float32)


def cuckoo(codes: Integers) -> tuple[tuple[int, int], Integers]:
    """Places codes in two hash tables so that each lies where one of its two remainders says.

    Args:
        codes: Distinct, not negative, shape ``(m,)``.

    Returns:
        Sizes of the tables, and the place of each code, the second table after the first, shape ``(m,)``.

    References:
        Cuckoo hashing (Pagh & Rodler, 2004)
    """
    size = max(5, int(1.3 * len(codes)))
    while True:
        sizes = (_prime(size), _prime(_prime(size) + 1))
        at = _place(np.stack([codes % sizes[0], sizes[0] + codes % sizes[1]]), sum(sizes))
        if at is not None:
            return sizes, at
        size = int(1.15 * size) + 2


def _place(places: Integers, slots: int) -> Integers | None:
    """All homeless codes move at once into their next place, and drive out who is there."""
    n = places.shape[1]
    holder = np.full(slots, -1, dtype=np.int64)
    side = np.ones(n, dtype=np.int64)
    homeless = np.arange(n)
    for _ in range(200):
        side[homeless] ^= 1
        wanted = places[side[homeless], homeless]
        driven = holder[wanted]
        holder[wanted] = homeless
        lost = homeless[holder[wanted] != homeless]
        homeless = np.concatenate([lost, np.unique(driven[driven >= 0])])
        if not len(homeless):
            return places[side, np.arange(n)]
    return None


def _prime(least: int) -> int:
    number = least | 1
    while any(number % factor == 0 for factor in range(3, int(number**0.5) + 1, 2)):
        number += 2
    return number
