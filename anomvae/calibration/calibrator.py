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
from anomvae.calibration.blocks import (
    Dependence,
    block_p_values,
    conditional_block_p_values,
    dependence,
    equivalent_scores,
)
from anomvae.calibration.conditional import conditional_p_values, rows_needed_for
from anomvae.calibration.conformal import ROUNDING, check_alarm_rate
from anomvae.calibration.parts import CalibrationRows, Part
from anomvae.calibration.tables import (
    NO_TAIL,
    CalibrationTables,
    Table,
    TailParameters,
    conformal_ranks,
    joint_counts,
    p_values_of_both,
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

    Rows in order of time count as the independent rows that they are worth, each table's by its own autocorrelation; see
    :mod:`anomvae.calibration.blocks`.

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
    every = Part(
        np.arange(len(rows.score)), _dependence(rows, budget, np.arange(len(rows.score)), _strata(rows, parts))
    )
    pooled, tails = _pooled(rows, every, budget, decision, tail=tail)
    tables = [*(_table(rows, part, budget, decision) for part in parts), pooled]
    facts = Calibration(
        method="cross" if folds else "split",
        rows=len(rows.score),
        alarm_rate=budget.alarm_rate,
        smallest_alarm_rate=_smallest_rate(tables, every.worth, tails, decision),
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
        effective_rows=every.effective_rows,
        block=every.block,
    )
    facts = with_thresholds(facts, tables, names)
    groups = tuple(
        replace(group, effective_rows=part.effective_rows, block=part.block)
        for group, part in zip(facts.groups, parts, strict=True)
    )
    facts = replace(facts, groups=groups)
    return Calibrated(CalibrationTables.of(tables, decision), facts, tails)


def _smallest_rate(tables: Sequence[Table], worth: int, tails: tuple[TailFit, TailFit] | None, decision: str) -> float:
    """The smallest rate that all tables support, the pooled one by its tail."""
    least = [_least(table, decision) for table in tables]
    if tails is not None and _has_tail(tails, decision):
        least[-1] = min(least[-1], _reach(decision) / (worth + 1))
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
    most = int(np.searchsorted(p_values_of_both(table, ranks), rate, side="right")) - 1
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
    ranks = _by_rank(table)
    return float((p_values_of_both(table, ranks) if decision == "both" else ranks)[0])


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


def _bears(part: Part, budget: Budget, decision: str) -> bool:
    """Whether rows in order of time that are worth too few may be taken for just enough.

    They may where no certainty was asked for and there are as many as the rate takes; the manifest says what they are worth,
    and a fit warns.
    """
    return part.found is not None and budget.confidence is None and _supports(len(part.rows), budget, decision)


def _dependence(
    rows: CalibrationRows,
    budget: Budget,
    part: npt.NDArray[np.int64],
    stratum: npt.NDArray[np.int64] | None = None,
) -> Dependence | None:
    if rows.segment is None or len(part) == 0:
        return None
    scores = (rows.score[part], rows.reconstruction[part])
    found = dependence(scores, np.asarray(rows.segment)[part], budget.alarm_rate, stratum)
    return replace(found, time=min(max(found.time, rows.memory), float(found.rows)))


def _strata(rows: CalibrationRows, parts: Sequence[Part]) -> npt.NDArray[np.int64]:
    """Number of each row's group, where it has a table of its own: their shares of the rows are fixed."""
    strata = np.full(len(rows.score), -1, dtype=np.int64)
    for number, part in enumerate(parts):
        strata[part.rows] = number
    return strata


def _table(rows: CalibrationRows, part: Part, budget: Budget, decision: str) -> Table:
    score, reconstruction = rows.score[part.rows], rows.reconstruction[part.rows]
    m, confidence = len(score), _confidence(budget, decision)
    if part.found is None:
        return Table(score, reconstruction, None if confidence is None else conditional_p_values(m, confidence))
    if confidence is not None:
        return Table(score, reconstruction, conditional_block_p_values(m, part.worth, confidence))
    ranks = block_p_values(m, part.worth)
    return Table(score, reconstruction, ranks, by_both=ranks[joint_counts(score, reconstruction)])


def _pooled(
    rows: CalibrationRows, every: Part, budget: Budget, decision: str, *, tail: bool
) -> tuple[Table, tuple[TailFit, TailFit] | None]:
    supported = _supports(every.worth, budget, decision)
    if not supported and not tail:
        if not _bears(every, budget, decision):
            raise _too_few(every, budget, decision)
        every = every.at_least(rows_it_takes(budget, decision))
    table = _table(rows, every, budget, decision)
    if not tail:
        return table, None
    rate, reach = budget.alarm_rate, _reach(decision)
    if rate * (1.0 + ROUNDING) < reach / (every.worth + 1):
        cannot = f"cannot support an alarm rate of {rate:.2g}, not even by a tail, which reaches {1 / reach:.0f} times beyond them"
        raise every.refused(cannot, max(MIN_ROWS, math.ceil(reach / rate - ROUNDING) - 1))
    if every.worth < MIN_ROWS:
        raise every.refused("are too few to fit a tail to", MIN_ROWS)
    scores = (table.score, table.reconstruction)
    score, reconstruction = (
        fit_tail(side if every.found is None else equivalent_scores(side, every.worth)) for side in scores
    )
    if not supported and not _has_tail((score, reconstruction), decision):
        raise TooFewRowsError(
            f"{_too_few(every, budget, decision).args[0].split(';')[0]}; a tail cannot be fitted, since too few different "
            "scores lie at the top: bring more normal rows, or bear more alarms",
            every.rows_for(rows_it_takes(budget, decision)),
        )
    ranks = _by_rank(table)
    tails = (_parameters(score, table.score, ranks), _parameters(reconstruction, table.reconstruction, ranks))
    return replace(table, tails=tails), (score, reconstruction)


def _too_few(every: Part, budget: Budget, decision: str) -> TooFewRowsError:
    """The refusal of a budget that the rows cannot support, with the number it needs."""
    sure = f" with {100 * budget.confidence:g} % confidence" if budget.confidence else ""
    return every.refused(
        f"cannot support an alarm rate of {budget.alarm_rate:.2g}{sure}",
        rows_it_takes(budget, decision),
        "; bring more normal rows, bear more alarms, or extrapolate with --tail",
    )


def _reach(decision: str) -> float:
    """Share of 1 / (m + 1) that a tail reaches; where two scores give the verdict, each is held against half the rate."""
    return (2.0 if decision == "both" else 1.0) * SMALLEST_SHARE


def _has_tail(fits: tuple[TailFit, TailFit], decision: str) -> bool:
    """Whether a score that gives the verdict has a tail."""
    deciding = fits if decision == "both" else (fits[DECISIONS.index(decision)],)
    return any(fit.scale > 0 for fit in deciding)


def _parameters(fit: TailFit, scores: FloatArray, ranks: npt.NDArray[np.float64]) -> TailParameters:
    if not fit.scale > 0:
        return NO_TAIL
    above = np.count_nonzero(np.asarray(scores, dtype=np.float64) > fit.threshold)
    shape = fit.shape if abs(fit.shape) >= LEAST_SHAPE else math.copysign(LEAST_SHAPE, fit.shape)
    return TailParameters(fit.threshold, fit.scale, shape, float(ranks[above]))


def _record(fit: TailFit) -> TailRecord:
    found = fit.scale > 0
    return TailRecord(
        fit.threshold, fit.scale, fit.shape, fit.exceedances, fit.ks if found else None, fit.ks_p if found else None
    )


def _groups(rows: CalibrationRows, budget: Budget, decision: str) -> tuple[list[str], list[Part], int]:
    """Names and rows of the groups that support the rate on their own, the largest first; how many do not."""
    if rows.group is None:
        return [], [], 0
    counts = Counter(name for name in rows.group if name)
    candidates = [
        name
        for name, count in counts.most_common()
        if count >= rows.smallest_group and _supports(count, budget, decision)
    ]
    place = {name: number for number, name in enumerate(candidates)}
    numbers = np.array([place.get(name or "", -1) for name in rows.group], dtype=np.int64)
    names: list[str] = []
    parts: list[Part] = []
    for number, name in enumerate(candidates):
        if len(parts) == MOST_GROUPS:
            break
        members = np.flatnonzero(numbers == number)
        part = Part(members, _dependence(rows, budget, members))
        if _supports(part.worth, budget, decision):
            names.append(name)
            parts.append(part)
    return names, parts, len(counts) - len(names)
