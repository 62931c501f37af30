"""Folds of a series: blocks of time, held apart by a gap, so that nobody is scored by whom its neighbours trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anomvae.errors import SettingError, TooFewRowsError

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

SHORTEST_BLOCK = 2
"""Gaps, at the least, that a block of a divided segment is long: a shorter one would cost training more than it scores."""


@dataclass(frozen=True, slots=True)
class BlockFolds:
    """Steps in folds of contiguous blocks.

    Attributes:
        fold: Number of each step's fold, 0 to K - 1, shape ``(n,)``.
        segment: Number of each step's segment, shape ``(n,)``.
        gap: Steps on either side of a block that do not train for its fold.
        folds: K.
    """

    fold: IntArray
    segment: IntArray
    gap: int
    folds: int

    def held_out(self, fold: int) -> BoolArray:
        """Which steps the network of a fold scores, shape ``(n,)``."""
        held: BoolArray = self.fold == fold
        return held

    def may_train(self, fold: int) -> BoolArray:
        """Which steps the network of a fold may see, shape ``(n,)``: those neither held out nor within the gap of one that is.

        A window trains where all its steps may: it then shares no step with a window of up to `gap` + 1 steps that covers a
        held-out step.
        """
        held = self.held_out(fold)
        if self.gap == 0:
            return ~held
        order = np.argsort(self.segment, kind="stable")
        segment, ordered = self.segment[order], held[order]
        places = np.arange(len(held))
        begins = places[np.searchsorted(segment, segment, side="left")]
        ends = np.searchsorted(segment, segment, side="right")
        before = np.concatenate([[0], np.cumsum(ordered)])
        near = before[np.minimum(places + self.gap + 1, ends)] - before[np.maximum(places - self.gap, begins)]
        allowed = np.empty(len(held), dtype=np.bool_)
        allowed[order] = near == 0
        return allowed


def block_folds(segments: IntArray, n_blocks: int, gap: int) -> BlockFolds:
    """Divides the steps of a series into folds for cross-calibration: contiguous blocks of time.

    A segment that is long enough for blocks of twice the gap is cut into `n_blocks` of equal size, one for each fold. A
    shorter one stays whole, and goes, the longest first, to the fold with the fewest steps; it then costs no gap.

    Args:
        segments: Number of each step's segment; steps of a segment stand in order of time, shape ``(n,)``.
        n_blocks: Folds, K, at least 2.
        gap: Steps around a block that do not train for its fold: the window's length less 1, or more where what is normal
            lasts longer than a window.

    Raises:
        SettingError: There are fewer than two folds, or the gap is negative.
        TooFewRowsError: A fold would hold no step, or leave none to train on.

    Example:
        >>> folds = block_folds(np.zeros(12, int), n_blocks=2, gap=2)
        >>> folds.fold.tolist(), folds.may_train(0).nonzero()[0].tolist()
        ([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1], [8, 9, 10, 11])

    References:
        Cross-validation with an h-block (Burman, Chow and Nolan, 1994), Biometrika 81 (2)
    """
    if n_blocks < 2:  # noqa: PLR2004
        raise SettingError(f"{n_blocks} folds cannot score one another's steps; it takes at least 2")
    if gap < 0:
        raise SettingError(f"the gap between folds is {gap}; it is a number of steps, 0 or more")
    _, place, sizes = np.unique(segments, return_inverse=True, return_counts=True)
    order, begins = np.argsort(place, kind="stable"), np.cumsum(sizes) - sizes
    shortest = n_blocks * max(1, SHORTEST_BLOCK * gap)
    fold, load = np.empty(len(place), dtype=np.int64), np.zeros(n_blocks, dtype=np.int64)
    for number in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[number])
        steps = order[begins[number] : begins[number] + size]
        fold[steps] = np.arange(size) * n_blocks // size if size >= shortest else int(np.argmin(load))
        load += np.bincount(fold[steps], minlength=n_blocks)
    found = BlockFolds(fold, np.asarray(segments, dtype=np.int64), gap, n_blocks)
    if (load == 0).any() or not all(found.may_train(number).any() for number in range(n_blocks)):
        raise TooFewRowsError(
            f"{len(place):,} steps, at most {int(sizes.max(initial=0)):,} of them in one piece, cannot be divided into {n_blocks} folds "
            f"that lie {gap:,} steps apart: it takes a piece of {shortest:,}, or {n_blocks} pieces; shorten the window or bring "
            "more normal rows",
            shortest,
        )
    return found
