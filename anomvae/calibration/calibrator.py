"""From the scores of normal rows to calibration tables and the promise they bear."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from anomvae.bundle import Calibration, GroupCalibration, TailRecord
from anomvae.bundle.promise import DECISIONS
from anomvae.calibration.conditional import conditional_p_values, rows_needed_for
from anomvae.calibration.conformal import ROUNDING, check_alarm_rate
from anomvae.calibration.tables import (
    NO_TAIL,
    CalibrationTables,
    Table,
    TailParameters,
    conformal_ranks,
    joint_p_values,
)
from anomvae.calibration.tail import MIN_ROWS, SMALLEST_SHARE, TailFit, fit_tail
from anomvae.errors import SettingError, TooFewRowsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomvae.calibration.budget import Budget
    from anomvae.calibration.conformal import FloatArray

MOST_GROUPS = 1_000
"""Groups with tables of their own, the largest first: all lie in the graph."""
LARGEST = float(np.finfo(np.float32).max)
"""Threshold that no score exceeds."""
LEAST_SHAPE = 1e-3
"""Tails nearer to exponential are given this shape: float32 cannot tell them apart."""


@dataclass(frozen=True, slots=True)
class CalibrationRows:
    """Scores of normal rows that the scoring network has not seen.

    Attributes:
        score: Shape ``(m,)``.
        reconstruction: Reconstruction errors in the same order, shape ``(m,)``.
        group: Name of each row's group, shape ``(m,)``; None without groups; None or empty names belong to none.
        by_type: Arrow type of the groups' column.
        smallest_group: Fewest rows of a group that may be named; more than one hides what groups of few rows hold.
    """

    score: FloatArray
    reconstruction: FloatArray
    group: Sequence[str | None] | None = None
    by_type: str = "string"
    smallest_group: int = 1


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A calibration.

    Attributes:
        tables: For the graph.
        facts: For the manifest.
        tails: Fits of the pooled table's tails, the score's first; None without.
    """

    tables: CalibrationTables
    facts: Calibration
    tails: tuple[TailFit, TailFit] | None


def calibrate(
    rows: CalibrationRows,
    budget: Budget,
    *,
    decision: Literal["elbo", "reconstruction", "both"] = "elbo",
    tail: bool = False,
    by: str | None = None,
    folds: int = 0,
) -> Calibrated:
    """Calibrates both scores and their joint verdict.

    A group whose rows support the rate on their own gets a table of its own; the others, and groups never seen, are held
    against the rows of all groups, which promises nothing for a group never seen. With a tail, rates below 1 / (m + 1) are
    extrapolated, and said to be.

    Args:
        rows: Scores of normal rows.
        budget: What may alarm.
        decision: What gives the verdict.
        tail: Whether to fit tails to the pooled table.
        by: Name of the groups' column, where `rows` has groups.
        folds: Networks that scored rows they had not seen; 0: one network that has seen none of them.

    Raises:
        TooFewRowsError: The rows cannot support the budget, and no tail may.
        SettingError: The budget is none.
    """
    check_alarm_rate(budget.alarm_rate)
    if decision not in DECISIONS:
        raise SettingError(f"decision is {decision!r}; it must be one of {', '.join(DECISIONS)}")
    names, parts, too_small = _groups(rows, budget, decision)
    pooled, tails = _pooled(rows, budget, decision, tail=tail)
    tables = [*(_table(rows, budget, decision, part) for part in parts), pooled]
    facts = Calibration(
        method="cross" if folds else "split",
        rows=len(rows.score),
        alarm_rate=budget.alarm_rate,
        smallest_alarm_rate=_smallest_rate(tables, tails, decision),
        decision=decision,
        score_threshold=0.0,
        reconstruction_threshold=0.0,
        confidence=budget.confidence,
        alarms_per_day=budget.alarms_per_day,
        rows_per_day=budget.rows_per_day,
        folds=folds,
        by=by if rows.group is not None else None,
        by_type=rows.by_type,
        groups_pooled=too_small,
        tail=None if tails is None else (_record(tails[0]), _record(tails[1])),
    )
    facts = with_thresholds(facts, tables, names)
    return Calibrated(CalibrationTables.of(tables, decision), facts, tails)


def _smallest_rate(tables: Sequence[Table], tails: tuple[TailFit, TailFit] | None, decision: str) -> float:
    """The smallest rate that all tables support, the pooled one by its tail."""
    least = [_least(table, decision) for table in tables]
    if tails is not None and _has_tail(tails, decision):
        least[-1] = min(least[-1], _reach(decision) / (len(tables[-1].score) + 1))
    return max(least)


def with_thresholds(facts: Calibration, tables: Sequence[Table], names: Sequence[str]) -> Calibration:
    """The facts with the thresholds of their alarm rate filled in.

    Args:
        facts: Of the calibration.
        tables: Of the groups, then the pooled one.
        names: Of the groups.
    """
    found = [thresholds(table, facts.decision, facts.alarm_rate) for table in tables]
    groups = tuple(
        GroupCalibration(name, len(table.score), *pair)
        for name, table, pair in zip(names, tables[:-1], found[:-1], strict=True)
    )
    return replace(facts, score_threshold=found[-1][0], reconstruction_threshold=found[-1][1], groups=groups)


def thresholds(table: Table, decision: str, alarm_rate: float) -> tuple[float, float]:
    """Score and reconstruction error above which a row alarms: either of them where both give the verdict.

    Args:
        table: The rows.
        decision: What gives the verdict.
        alarm_rate: Which the table must support.
    """
    rate, ranks = min(alarm_rate * (1.0 + ROUNDING), math.nextafter(1.0, 0.0)), _by_rank(table)
    if decision != "both":
        most = int(np.searchsorted(ranks, rate, side="right")) - 1
        return tuple(_at(table, side, most, rate) for side in (0, 1))  # type: ignore[return-value]
    joint = joint_p_values(table.score, table.reconstruction) if table.by_rank is None else np.repeat(2.0 * ranks, 2)
    most = int(np.searchsorted(joint, rate, side="right")) - 1
    return _at(table, 0, most // 2 if most >= 0 else -1, rate / 2), _at(table, 1, (most - 1) // 2, rate / 2)


def _at(table: Table, side: int, most: int, rate: float) -> float:
    """The score that alarms where more than `most` calibration scores are not passed; by the tail where even none are."""
    scores = (table.score, table.reconstruction)[side]
    if most >= 0:
        descending = np.sort(np.nan_to_num(np.asarray(scores, dtype=np.float64), nan=LARGEST, posinf=LARGEST))[::-1]
        return float(descending[most])
    u, scale, shape, share = table.tails[side]
    if not math.isfinite(scale):
        return LARGEST
    beyond: float = u + scale / shape * ((rate / share) ** -shape - 1.0)
    return max(float(np.max(scores)), beyond)


def _by_rank(table: Table) -> npt.NDArray[np.float64]:
    return conformal_ranks(len(table.score)) if table.by_rank is None else table.by_rank


def _least(table: Table, decision: str) -> float:
    """The smallest p-value of a verdict without a tail."""
    least = float(_by_rank(table)[0])
    return 2.0 * least if decision == "both" and table.by_rank is not None else least


def _confidence(budget: Budget, decision: str) -> float | None:
    """Of each score's bound: where two scores give the verdict, each may fail half as often."""
    if budget.confidence is None or decision != "both":
        return budget.confidence
    return (1.0 + budget.confidence) / 2.0


def rows_it_takes(budget: Budget, decision: str) -> int:
    """Calibration rows that a budget takes."""
    confidence = _confidence(budget, decision)
    return rows_needed_for(budget.alarm_rate / (2.0 if decision == "both" and confidence else 1.0), confidence)


def _supports(m: int, budget: Budget, decision: str) -> bool:
    if budget.confidence is None:
        return m > 0 and 1.0 / (m + 1) <= budget.alarm_rate * (1.0 + ROUNDING)
    return m >= rows_it_takes(budget, decision)


def _table(
    rows: CalibrationRows, budget: Budget, decision: str, part: npt.NDArray[np.int64] | slice = slice(None)
) -> Table:
    score, reconstruction = rows.score[part], rows.reconstruction[part]
    confidence = _confidence(budget, decision)
    return Table(score, reconstruction, None if confidence is None else conditional_p_values(len(score), confidence))


def _pooled(
    rows: CalibrationRows, budget: Budget, decision: str, *, tail: bool
) -> tuple[Table, tuple[TailFit, TailFit] | None]:
    m, rate = len(rows.score), budget.alarm_rate
    supported = _supports(m, budget, decision)
    if not supported and not tail:
        raise too_few(m, budget, decision)
    table = _table(rows, budget, decision)
    if not tail:
        return table, None
    if rate * (1.0 + ROUNDING) < _reach(decision) / (m + 1):
        needed = max(MIN_ROWS, math.ceil(_reach(decision) / rate - ROUNDING) - 1)
        raise TooFewRowsError(
            f"{m:,} calibration rows cannot support an alarm rate of {rate:.2g}, not even by a tail, which reaches "
            f"{1 / _reach(decision):.0f} times beyond them: it takes at least {needed:,}",
            needed,
        )
    fits = (fit_tail(table.score), fit_tail(table.reconstruction))
    if not supported and not _has_tail(fits, decision):
        raise TooFewRowsError(
            f"{too_few(m, budget, decision).args[0].split(';')[0]}; a tail cannot be fitted, since too few different scores "
            "lie at the top: bring more normal rows, or bear more alarms",
            rows_it_takes(budget, decision),
        )
    ranks = _by_rank(table)
    return replace(table, tails=(_parameters(fits[0], ranks), _parameters(fits[1], ranks))), fits


def too_few(m: int, budget: Budget, decision: str = "elbo") -> TooFewRowsError:
    """The refusal of a budget that m calibration rows cannot support, with the number it needs."""
    needed = rows_it_takes(budget, decision)
    sure = f" with {100 * budget.confidence:g} % confidence" if budget.confidence else ""
    return TooFewRowsError(
        f"{m:,} calibration rows cannot support an alarm rate of {budget.alarm_rate:.2g}{sure}: it takes at least {needed:,}; "
        "bring more normal rows, bear more alarms, or extrapolate with --tail",
        needed,
    )


def _reach(decision: str) -> float:
    """Share of 1 / (m + 1) that a tail reaches; where two scores give the verdict, each is held against half the rate."""
    return (2.0 if decision == "both" else 1.0) * SMALLEST_SHARE


def _has_tail(fits: tuple[TailFit, TailFit], decision: str) -> bool:
    """Whether a score that gives the verdict has a tail."""
    deciding = fits if decision == "both" else (fits[DECISIONS.index(decision)],)
    return any(fit.scale > 0 for fit in deciding)


def _parameters(fit: TailFit, ranks: npt.NDArray[np.float64]) -> TailParameters:
    if not fit.scale > 0:
        return NO_TAIL
    shape = fit.shape if abs(fit.shape) >= LEAST_SHAPE else math.copysign(LEAST_SHAPE, fit.shape)
    return TailParameters(fit.threshold, fit.scale, shape, float(ranks[fit.exceedances]))


def _record(fit: TailFit) -> TailRecord:
    found = fit.scale > 0
    return TailRecord(
        fit.threshold, fit.scale, fit.shape, fit.exceedances, fit.ks if found else None, fit.ks_p if found else None
    )


def _groups(rows: CalibrationRows, budget: Budget, decision: str) -> tuple[list[str], list[npt.NDArray[np.int64]], int]:
    """Names and rows of the groups that support the rate on their own, the largest first; how many do not."""
    if rows.group is None:
        return [], [], 0
    counts = Counter(name for name in rows.group if name)
    names = [
        name
        for name, count in counts.most_common(MOST_GROUPS)
        if count >= rows.smallest_group and _supports(count, budget, decision)
    ]
    place = {name: number for number, name in enumerate(names)}
    numbers = np.array([place.get(name or "", -1) for name in rows.group], dtype=np.int64)
    return names, [np.flatnonzero(numbers == number) for number in range(len(names))], len(counts) - len(names)
