"""Calibration tables: from two scores and a group to p-values and a verdict. The graph does the same with the same arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from anomvae.bundle.promise import DECISIONS
from anomvae.calibration.conformal import raised
from anomvae.calibration.tail import LEAST_P

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomvae.calibration.conformal import FloatArray

    Floats32 = npt.NDArray[np.float32]
    Floats64 = npt.NDArray[np.float64]
    IntArray = npt.NDArray[np.int64]
    Ints32 = npt.NDArray[np.int32]
    BoolArray = npt.NDArray[np.bool_]

ONE_STEP = 128
"""Calibration scores up to which one look at all of them costs less than two at some."""


class TailParameters(NamedTuple):
    r"""A generalised Pareto tail: :math:`P(S \ge s) = q (1 + \xi (s - u) / \sigma)^{-1/\xi}` beyond the largest calibration score.

    Attributes:
        threshold: u, in the score's units.
        scale: sigma, in the score's units.
        shape: xi.
        share: q, the p-value of u.
    """

    threshold: float
    scale: float
    shape: float
    share: float


NO_TAIL = TailParameters(0.0, math.inf, 1.0, 1.0)
"""Says 1 of every score, and so nothing."""


@dataclass(frozen=True, slots=True)
class Table:
    """What one table is made of.

    Attributes:
        score: Scores of m calibration rows, any order, shape ``(m,)``.
        reconstruction: Their reconstruction errors, in the same order, shape ``(m,)``.
        by_rank: P-value of a score that a calibration rows reach or pass, a = 0 to m, shape ``(m + 1,)``; None:
            (a + 1) / (m + 1), the conformal one.
        tails: Of the score, then of the reconstruction error.
        by_both: P-values of both scores together by :func:`joint_rank`, shape ``(2 m + 2,)``; None: counted where `by_rank`
            is None, else twice the smaller of the two.
    """

    score: FloatArray
    reconstruction: FloatArray
    by_rank: Floats64 | None = None
    tails: tuple[TailParameters, TailParameters] = (NO_TAIL, NO_TAIL)
    by_both: Floats64 | None = None


class Verdicts(NamedTuple):
    """Calibrated answers for n rows, each of shape ``(n,)``.

    Attributes:
        p_value: Of the score.
        p_value_reconstruction: Of the reconstruction error.
        p_value_verdict: That the verdict is held against.
        alarm: The verdict.
        tail: Whether the verdict's p-value is extrapolated beyond all calibration rows.
        pooled: Whether the row was held against the rows of all groups for want of a table of its own group.
    """

    p_value: Floats32
    p_value_reconstruction: Floats32
    p_value_verdict: Floats32
    alarm: BoolArray
    tail: BoolArray
    pooled: BoolArray


@dataclass(frozen=True, slots=True)
class CalibrationTables:
    """One or more tables, laid out for a graph that has no binary search.

    The scores of a table are sorted, the largest first, raised by the tolerance of ties, and cut into blocks of about the
    square root of their number: first the block is found, then the place in it, by counting what a score does not pass.
    The last table is the pooled one.

    Attributes:
        first: First entry of each block but a table's first, per table and score, padded with NaN, ``(t, 2, b - 1)``.
        blocks: Sorted scores by block, padded with NaN, which nothing reaches, shape ``(B, w)``.
        start: Number of the first block, int32, shape ``(t, 2)``.
        rows: m of each table, shape ``(t,)``.
        by_rank: P-values by rank, one table after the other, rounded down so that one that equals an alarm rate does not
            exceed it in float32, shape ``(R,)``.
        by_both: P-values of both scores together by :func:`joint_rank`, one table after the other, shape ``(2 R,)``.
        rank_start: Where each table begins in `by_rank`; in `by_both` twice as far, int32, shape ``(t,)``.
        tails: Threshold, 1 / scale, shape and share of each table and score, shape ``(t, 2, 4)``.
        decision: `elbo`, `reconstruction` or `both`.
    """

    first: Floats32
    blocks: Floats32
    start: Ints32
    rows: IntArray
    by_rank: Floats32
    by_both: Floats32
    rank_start: Ints32
    tails: Floats32
    decision: str

    @classmethod
    def of(cls, tables: Sequence[Table], decision: str) -> CalibrationTables:
        """Lays tables out.

        Args:
            tables: Of the groups that have one, then the pooled one.
            decision: What gives the verdict.
        """
        if decision not in DECISIONS:
            raise ValueError(f"there is no decision {decision!r}")
        most = max(1, *(len(table.score) for table in tables))
        width = most if most <= ONE_STEP else math.isqrt(most - 1) + 1
        sorted_scores = [
            [np.sort(raised(part))[::-1] for part in (table.score, table.reconstruction)] for table in tables
        ]
        blocks, first, start = _blocks(sorted_scores, width)
        ranks = [conformal_ranks(len(table.score)) if table.by_rank is None else table.by_rank for table in tables]
        by_rank = _rounded_down(np.concatenate(ranks))
        both = [p_values_of_both(table, rank) for table, rank in zip(tables, ranks, strict=True)]
        # Twice the smaller p-value bounds it, and must do so after rounding too: what lies below is the tail's.
        by_both = np.minimum(_rounded_down(np.concatenate(both)), np.float32(2.0) * np.repeat(by_rank, 2))
        rank_start = np.cumsum([0, *(len(rank) for rank in ranks[:-1])])
        tails = [
            [(tail.threshold, 1.0 / tail.scale, tail.shape, tail.share) for tail in table.tails] for table in tables
        ]
        return cls(
            first=first,
            blocks=blocks,
            start=start,
            rows=np.array([len(table.score) for table in tables], dtype=np.int64),
            by_rank=by_rank,
            by_both=by_both,
            rank_start=rank_start.astype(np.int32),
            tails=np.array(tails, dtype=np.float32),
            decision=decision,
        )

    @property
    def has_tail(self) -> bool:
        """Whether any score has a fitted tail."""
        return bool((self.tails[..., 1] > 0).any())

    @property
    def has_groups(self) -> bool:
        """Whether any group has a table of its own."""
        return len(self.rows) > 1

    def verdicts(
        self, score: FloatArray, reconstruction: FloatArray, alarm_rate: float, group: IntArray | None = None
    ) -> Verdicts:
        """Calibrated answers, in the arithmetic of the graph: the reference that it is held against.

        Args:
            score: Shape ``(n,)``; what is not a number is stranger than everything.
            reconstruction: Shape ``(n,)``.
            alarm_rate: Stated share of normal rows that may alarm.
            group: Number of each row's table, shape ``(n,)``; None: the pooled one.
        """
        pooled = len(self.rows) - 1
        table = (
            np.full(len(score), pooled) if group is None else np.where((group >= 0) & (group < pooled), group, pooled)
        )
        both = np.stack([np.asarray(score, np.float32), np.asarray(reconstruction, np.float32)], axis=1)
        rank = np.stack([self._ranks(both[:, side], table, side) for side in (0, 1)], axis=1)
        stepped = self.by_rank[self.rank_start[table][:, None] + rank]
        p = np.where(rank == 0, np.minimum(stepped, self._survival(both, table)), stepped)
        step, p_verdict = self._verdict(p, stepped, rank, table)
        alarm = p_verdict <= np.float32(alarm_rate)
        return Verdicts(p[:, 0], p[:, 1], p_verdict, alarm, p_verdict < step, table == pooled)

    def _verdict(self, p: Floats32, stepped: Floats32, rank: IntArray, table: IntArray) -> tuple[Floats32, Floats32]:
        """The verdict's p-value without the tail, and with it."""
        if self.decision != "both":
            side = DECISIONS.index(self.decision)
            return stepped[:, side], p[:, side]
        step = self.by_both[2 * self.rank_start[table] + joint_rank(rank[:, 0], rank[:, 1])]
        twice = np.float32(2.0) * p.min(axis=1)  # in the tail nothing is known of their dependence
        return step, np.minimum(step, twice)

    def _ranks(self, scores: Floats32, table: IntArray, side: int) -> IntArray:
        """Calibration scores that each score does not pass, ties counted, shape ``(n,)``."""
        found = np.empty(len(scores), dtype=np.int64)
        for number in np.unique(table):
            rows, asked = int(self.rows[number]), table == number
            first = int(self.start[number, side])
            ascending = self.blocks[first : first + math.ceil(rows / self.blocks.shape[1])].ravel()[:rows][::-1]
            found[asked] = rows - np.searchsorted(ascending, scores[asked], side="left")
        return np.where(np.isnan(scores), 0, found)

    def _survival(self, scores: Floats32, table: IntArray) -> Floats32:
        """P-values by the tails, shape ``(n, 2)``."""
        threshold, inverse_scale, shape, share = np.moveaxis(self.tails[table], 2, 0)
        with np.errstate(invalid="ignore", over="ignore"):
            z = np.where(np.isfinite(scores), scores - threshold, np.float32(np.finfo(np.float32).max)) * inverse_scale
            base = np.maximum(np.float32(1.0) + shape * np.maximum(z, np.float32(0.0)), np.float32(LEAST_P))
            found: Floats32 = np.maximum(share * np.exp(-np.log(base) / shape), np.float32(LEAST_P)).astype(np.float32)
        return found


def conformal_ranks(m: int) -> Floats64:
    """Split conformal p-values by rank: (a + 1) / (m + 1), shape ``(m + 1,)``."""
    return np.arange(1, m + 2, dtype=np.float64) / (m + 1)


def joint_rank(score: IntArray, reconstruction: IntArray) -> IntArray:
    """Rank of two scores together: the smaller of the two ranks decides, the score's first where they are level.

    Args:
        score: Calibration scores that the score does not pass, shape ``(n,)``.
        reconstruction: The same of the reconstruction error, shape ``(n,)``.

    Returns:
        2 a or 2 b + 1, whichever is smaller, shape ``(n,)``.
    """
    return np.minimum(2 * score, 2 * reconstruction + 1)


def joint_p_values(score: FloatArray, reconstruction: FloatArray) -> Floats64:
    r"""P-values of two scores together, by their joint rank, shape ``(2 m + 2,)``.

    The statistic is the smaller of a row's two ranks among all rows, the row itself included, the score's first where they
    are level; its distribution is counted on the calibration rows, so that the dependence of the two scores is taken as it
    is, where a union bound would take the worst. This is full conformal prediction with a statistic that is symmetric in
    the rows: under exchangeability P(p <= alpha) <= alpha holds exactly, for any dependence. It needs no look at the
    calibration rows at scoring: with a (b) calibration scores (errors) not passed, the rows at least as strange as the new
    one are those among the top r by either, r = a in both where a <= b, else b + 1 by the score and b by the error.

    Args:
        score: Scores of m calibration rows, shape ``(m,)``.
        reconstruction: Their reconstruction errors, shape ``(m,)``.

    References:
        Algorithmic Learning in a Random World (Vovk, Gammerman and Shafer, 2005), chapter 2
    """
    found: Floats64 = np.minimum(1.0, (1.0 + joint_counts(score, reconstruction)) / (len(score) + 1.0))
    return found


def joint_counts(score: FloatArray, reconstruction: FloatArray) -> IntArray:
    """Calibration rows at least as strange as a row of each joint rank, shape ``(2 m + 2,)``; see :func:`joint_p_values`."""
    m = len(score)
    by_score, by_error = _own_ranks(score), _own_ranks(reconstruction)
    # Joint rank from which on a row is among the top r: 2 (r - 1) + 1 = 2 r - 1 by the score, 2 r by the error.
    enters = np.minimum(2 * by_score - 1, 2 * by_error)
    return np.cumsum(np.bincount(enters, minlength=2 * m + 2)[: 2 * m + 2])


def _own_ranks(scores: FloatArray) -> IntArray:
    """Scores at least as large as each, itself included, shape ``(m,)``."""
    ascending = np.sort(raised(scores))
    exact = np.asarray(scores, dtype=np.float32)
    return len(ascending) - np.searchsorted(ascending, np.where(np.isnan(exact), np.inf, exact), side="left")


def p_values_of_both(table: Table, by_rank: Floats64) -> Floats64:
    """P-values of both scores together by :func:`joint_rank`, shape ``(2 m + 2,)``.

    Where p-values by rank are bounds that hold for these calibration rows, so must these: twice the smaller one.

    Args:
        table: The rows.
        by_rank: Its p-values by rank, shape ``(m + 1,)``.
    """
    if table.by_both is not None:
        return table.by_both
    if table.by_rank is None:
        return joint_p_values(table.score, table.reconstruction)
    doubled: Floats64 = np.minimum(1.0, 2.0 * np.repeat(by_rank, 2))
    return doubled


def _rounded_down(p_values: Floats64) -> Floats32:
    """In float32, the next below; 1 stays 1."""
    below = np.nextafter(p_values.astype(np.float32), np.float32(0.0))
    found: Floats32 = np.where(p_values >= 1.0, np.float32(1.0), below)
    return found


def _blocks(tables: Sequence[Sequence[Floats32]], width: int) -> tuple[Floats32, Floats32, Ints32]:
    """Blocks of all tables and scores, the first entries of blocks, and where each begins."""
    counts = [max(1, math.ceil(len(scores[0]) / width)) for scores in tables]
    first = np.full((len(tables), 2, max(counts) - 1), np.nan, dtype=np.float32)
    start = np.zeros((len(tables), 2), dtype=np.int32)
    squares: list[Floats32] = []
    for t, (scores, count) in enumerate(zip(tables, counts, strict=True)):
        for side in (0, 1):
            filled = np.full(count * width, np.nan, dtype=np.float32)
            filled[: len(scores[side])] = scores[side]
            square = filled.reshape(count, width)
            start[t, side] = sum(len(part) for part in squares)
            first[t, side, : count - 1] = square[1:, 0]
            squares.append(square)
    return np.concatenate(squares), first, start
