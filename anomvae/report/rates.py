"""What a calibration promises at each alarm rate, and what rows that it has not seen make of that."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import betaincinv
from scipy.stats import betabinom

from anomvae.calibration import CalibrationTables, Table, conditional_p_values
from anomvae.calibration.conformal import ROUNDING
from anomvae.report.measures import Share

if TYPE_CHECKING:
    import numpy.typing as npt

    from anomvae.bundle import Calibration
    from anomvae.report.contents import FloatArray, ReportContents, ScoredRows

_FEW = 3.0
"""Rows that must be expected to alarm before a share of alarms says anything."""


@dataclass(frozen=True, slots=True)
class Steps:
    """The p-values that a calibration can give without a tail, and so the rates that it attains.

    Attributes:
        rows: Calibration rows, m.
        tables: Of each table the share of rows held against it, and its p-values by rank, ascending, shape ``(m + 1,)``.
        doubled: Whether twice the smaller of two p-values decides; the rate that is then attained is known to a factor of 2.
    """

    rows: int
    tables: tuple[tuple[float, FloatArray], ...]
    doubled: bool = False

    @classmethod
    def plain(cls, m: int) -> Steps:
        """Of m rows, conformal p-values and no groups."""
        return cls(m, ((1.0, _ranks(m, None)),))

    @classmethod
    def of(cls, facts: Calibration) -> Steps:
        """Of a calibration."""
        return _steps_of(facts)

    @property
    def smallest(self) -> float:
        """The smallest rate at which any row can alarm, whatever its group."""
        least = max(float(ranks[0]) for share, ranks in self.tables if share > 0 or len(self.tables) == 1)
        return min(1.0, (2.0 if self.doubled else 1.0) * least)

    def beyond(self, rate: float) -> int:
        """Calibration rows that alarm at a rate, in the table that has fewest of them."""
        asked = rate * (1.0 + ROUNDING) / (2.0 if self.doubled else 1.0)
        return min(int(np.searchsorted(ranks, asked, "right")) for _, ranks in self.tables)

    def attained(self, rates: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Least and largest mean share of normal rows that alarm at stated rates, over the draw of the calibration rows.

        It is the rate rounded down to a multiple of 1 / (m + 1), less the margin of a confidence.
        """
        asked = np.asarray(rates, dtype=np.float64) * (1.0 + ROUNDING) / (2.0 if self.doubled else 1.0)
        found = np.zeros_like(asked)
        for share, ranks in self.tables:
            found = found + share * np.searchsorted(ranks, asked, "right") / len(ranks)
        return found, np.minimum(1.0, 2.0 * found) if self.doubled else found

    def interval(self, rate: float) -> tuple[float, float]:
        r"""Where the alarm rate in service lies, with 95 % confidence, given one draw of calibration rows.

        .. math:: \text{rate} \sim \mathrm{Beta}(k, m + 1 - k), \quad k = \lfloor \alpha (m + 1) \rfloor

        References:
            Testing for Outliers with Conformal p-values (Bates et al., 2023), arXiv:2104.08279
        """
        low, high = (float(share) for share in self.attained(rate))
        return self._quantile(low, 0.025), self._quantile(high, 0.975)

    def chance(self, n: int, rates: npt.ArrayLike, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
        r"""Shares of n new rows that alarm at stated rates, by chance alone: neither draw of rows is told apart.

        Among n rows exchangeable with the m that calibrate, the alarms are distributed as
        :math:`\mathrm{BetaBinomial}(n, k, m + 1 - k)`.

        Args:
            n: New rows, at least 1.
            rates: Stated rates, shape ``(r,)``.
            level: Of the interval at each rate.

        Returns:
            Low and high ends, each of shape ``(r,)``.
        """
        low, high = self.attained(np.atleast_1d(rates))
        return self._hits(n, low, (1.0 - level) / 2.0) / n, self._hits(n, high, (1.0 + level) / 2.0) / n

    def _quantile(self, share: float, level: float) -> float:
        if not 0.0 < share < 1.0:
            return share
        return float(betaincinv(share * (self.rows + 1), (1.0 - share) * (self.rows + 1), level))

    def _hits(self, n: int, share: FloatArray, level: float) -> FloatArray:
        inside = (share > 0) & (share < 1)
        k = np.where(inside, share, 0.5) * (self.rows + 1)
        found = betabinom.ppf(level, n, k, self.rows + 1 - k)
        return np.asarray(np.where(inside, found, n * share), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class CheckedRows:
    """Normal rows that neither the network which scored them nor their p-values have seen.

    Attributes:
        name: What they are.
        p: Their p-values, shape ``(n,)``.
        steps: The calibration that gave them.
        level: Of the intervals, such that those of all parts hold together 95 times in 100.
    """

    name: str
    p: FloatArray
    steps: Steps
    level: float = 0.95

    def alarms(self, rate: float) -> Share:
        """Alarms at a rate."""
        return Share(int(np.count_nonzero(self.p <= rate * (1.0 + ROUNDING))), len(self.p))

    def expected(self, rate: float) -> tuple[float, float]:
        """Share of alarms that chance allows at a rate."""
        low, high = self.steps.chance(len(self.p), rate, self.level)
        return float(low[0]), float(high[0])

    def tells(self, rate: float) -> bool:
        """Whether there are rows enough for alarms at this rate to mean anything."""
        return rate * len(self.p) >= _FEW


def checked_rows(contents: ReportContents) -> tuple[CheckedRows, ...]:
    """Rows on which the promise can be checked; none where there are none.

    Of a split calibration these are the validation rows. Of a cross calibration there are no rows apart: each fold is held
    against the others, which asks whether the networks score alike. The folds are not pooled: pooled, the p-values are even
    almost by construction, since what one fold has too many of, the others have too few of.
    """
    facts = contents.manifest.calibration
    if facts.method == "split":
        p = contents.validation.p_value_verdict
        return (CheckedRows("validation rows", p, Steps.of(facts)),) if len(p) and facts.rows else ()
    rows = contents.calibration
    if rows.fold is None or facts.decision == "either":
        return ()
    p, folds = crossed_p_values(rows, facts.decision), np.unique(rows.fold)
    own = [rows.fold == fold for fold in folds]
    level = 1.0 - 0.05 / max(1, len(folds))
    return tuple(
        CheckedRows(f"fold {number}", p[mine], Steps.plain(int(np.count_nonzero(~mine))), level)
        for number, mine in enumerate(own, 1)
        if not mine.all()
    )


def crossed_p_values(rows: ScoredRows, decision: str) -> FloatArray:
    """P-values of the verdict of each row, held against the rows of all other folds.

    Both sides were scored by networks that had not seen them. Without the margin of a confidence and without groups: these
    are there to be even.

    Args:
        rows: Rows with their folds.
        decision: What gives the verdict.

    Returns:
        Shape ``(n,)``; 1 where there is no other fold.

    References:
        Cross-conformal predictors (Vovk, 2015), doi:10.1007/s10472-013-9368-4
    """
    found = np.ones(len(rows.score))
    if rows.fold is None:
        return found
    for fold in np.unique(rows.fold):
        own = rows.fold == fold
        if own.all():
            continue
        table = Table(rows.score[~own], rows.reconstruction_error[~own])
        verdicts = CalibrationTables.of([table], decision).verdicts(
            rows.score[own], rows.reconstruction_error[own], 0.5
        )
        found[own] = verdicts.p_value_verdict
    return found


def _ranks(m: int, confidence: float | None) -> FloatArray:
    if confidence is None or m == 0:
        return np.arange(1, m + 2, dtype=np.float64) / (m + 1)
    return conditional_p_values(m, confidence)


@lru_cache(maxsize=4)
def _steps_of(facts: Calibration) -> Steps:
    m, confidence = facts.rows, facts.confidence
    if m == 0:
        return Steps.plain(0)
    doubled = facts.decision == "both" and confidence is not None
    if doubled and confidence is not None:
        confidence = (1.0 + confidence) / 2.0
    sizes = [group.rows for group in facts.groups]
    known = {size: _ranks(size, confidence) for size in {m, *sizes}}
    own = [(size / m, known[size]) for size in sizes]
    return Steps(m, (*own, (max(0.0, 1.0 - sum(sizes) / m), known[m])), doubled)
