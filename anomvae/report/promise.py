"""The promise of a detector in plain and exact words, with its limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomvae.report.rates import Steps
from anomvae.report.wording import between, count, number, rate, share

if TYPE_CHECKING:
    from anomvae.bundle import Calibration, Manifest


def is_extrapolated(facts: Calibration) -> bool:
    """Whether the stated rate is one that only a fitted tail reaches."""
    return facts.tail is not None and facts.alarm_rate < Steps.of(facts).smallest * (1.0 - 1e-6)


def headline(facts: Calibration) -> str:
    """The promise as a clause: how many rows alarm.

    Example:
        >>> from anomvae.bundle import Calibration
        >>> headline(Calibration("split", 999, 0.01, 0.001, "elbo", 3.0, 1.0)).replace(chr(8239), " ")
        'at most 1 % of normal rows alarm'
    """
    if is_extrapolated(facts):
        return f"an estimated {rate(facts.alarm_rate)} of normal rows alarm"
    return f"at most {rate(facts.alarm_rate)} of normal rows alarm"


def how(facts: Calibration) -> str:
    """The method of the calibration in a few words."""
    rows = count(facts.rows, "row")
    if facts.recalibrated is not None:
        return f"split conformal, anew on {rows}"
    if facts.method == "cross":
        return f"cross-conformal, {count(facts.folds, 'network')}, {rows}"
    return f"split conformal, {rows}"


def promise(manifest: Manifest) -> tuple[str, ...]:
    """What is promised, what that rests on, and when it does not hold: a sentence or two each."""
    facts = manifest.calibration
    found = [*_recalibrated(facts), _rate(manifest), *_budget(facts)]
    found.append(
        f"It holds as long as tomorrow's normal rows are like the {facts.rows:,} it was calibrated on (exchangeable with them): "
        "a new operating mode, a new sensor or a slow drift breaks it."
    )
    return (*found, *_both(facts), *_groups(facts, named=not manifest.private), *_tail(facts), _smallest(facts))


def _recalibrated(facts: Calibration) -> list[str]:
    if facts.recalibrated is None:
        return []
    rows = facts.recalibrated
    return [
        f"Calibrated anew on {count(facts.rows, 'normal row')} of {rows.data}, after the fit and without changing a weight. "
        "What was promised at the fit no longer counts."
    ]


def _rate(manifest: Manifest) -> str:
    """The rate and what it rests on."""
    facts = manifest.calibration
    said = headline(facts)
    said = said[0].upper() + said[1:]
    if is_extrapolated(facts):
        sure = "" if facts.confidence is None else f" with {share(facts.confidence)} confidence"
        return (
            f"{said}: {count(facts.rows, 'calibration row')} are too few to count so small a share{sure}. The threshold is "
            "extrapolated by a fitted tail, beyond all rows seen. It is an estimate, and no theorem stands behind it."
        )
    if facts.method == "cross":
        return f"{said}, {_measured(facts)}"
    if facts.confidence is not None:
        return (
            f"{said}, with {share(facts.confidence)} confidence for these very calibration rows: of 100 draws of "
            f"{count(facts.rows, 'row')}, {_hundred(facts.confidence)} give a detector that keeps this rate, and with it every "
            "other rate up to 10\N{NARROW NO-BREAK SPACE}% (conformal p-values with a calibration-conditional margin)."
        )
    interval = between(Steps.of(facts).interval(facts.alarm_rate))
    return (
        f"{said}, on average over calibration sets: a theorem, for any number of rows (split conformal). "
        f"This one calibration set may have come out at {interval} (95\N{NARROW NO-BREAK SPACE}% sure)."
    )


def _measured(facts: Calibration) -> str:
    """What a cross calibration can say, and no more.

    References:
        Cross-conformal predictors (Vovk, 2015), doi:10.1007/s10472-013-9368-4. Predictive inference with the jackknife+
        (Barber et al., 2021), arXiv:1905.02928
    """
    margin = (
        ""
        if facts.confidence is None
        else f" The {share(facts.confidence)} confidence covers the draw of the rows, not how far the networks differ."
    )
    return (
        f"as measured on {count(facts.rows, 'row')}, each scored by one of {count(facts.folds, 'network')} that had not seen it. "
        "The detector itself learnt from all of them. The rate is exact up to the stability of the networks, that is, as far as "
        "it scores new rows as those networks do; no theorem covers that for a finite number of rows (cross-conformal "
        f"calibration).{margin}"
    )


def _hundred(confidence: float) -> str:
    return f"{100 * confidence:.4g}"


def _budget(facts: Calibration) -> list[str]:
    if facts.alarms_per_day is None or facts.rows_per_day is None:
        return []
    each = " of each group" if facts.groups else ""
    alarms = "1 alarm" if facts.alarms_per_day == 1 else f"{number(facts.alarms_per_day)} alarms"
    return [
        f"At {facts.rows_per_day:,.15g} normal rows a day{each} that is {alarms} a day, as an average: rows that follow one "
        "another tend to alarm together, so some days have none and some have several."
    ]


def _both(facts: Calibration) -> list[str]:
    if facts.decision == "either":
        return ["Score and reconstruction error decide with half of the rate each."]
    if facts.decision != "both":
        return []
    if facts.confidence is not None:
        return ["Score and reconstruction error decide together; each keeps its margin at half of the rate."]
    return [
        "Score and reconstruction error decide together, by one p-value: how far they go together was counted on the calibration "
        "rows, so the rate is that of both, not of each."
    ]


def _groups(facts: Calibration, *, named: bool) -> list[str]:
    if facts.by is None:
        return []
    by = f" of {facts.by!r}" if named else ""
    rest = (
        f"{count(facts.groups_pooled, 'group')} with too few rows, and groups never seen,"
        if facts.groups_pooled
        else "Groups never seen"
    )
    pooled = (
        f"{rest} are held against the rows of all groups, which promises nothing for one of them: a new group may be unlike "
        "all that were there."
    )
    if not facts.groups:
        return [f"No group{by} has rows enough for thresholds of its own. {pooled}"]
    one = len(facts.groups) == 1
    own = f"1 group{by} has thresholds of its" if one else f"{len(facts.groups):,} groups{by} have thresholds of their"
    return [f"{own} own: the rate holds within {'it' if one else 'each'}. {pooled}"]


def _tail(facts: Calibration) -> list[str]:
    if facts.tail is None or is_extrapolated(facts):
        return []
    return [
        f"The stated rate rests on counted rows. Below {rate(Steps.of(facts).smallest)} p-values come from a fitted tail: an "
        "estimate beyond all rows seen, without guarantee, and marked as such in every answer."
    ]


def _smallest(facts: Calibration) -> str:
    counted = Steps.of(facts).smallest
    if facts.tail is None or facts.smallest_alarm_rate >= counted * (1.0 - 1e-6):
        return f"The smallest rate these rows support is {rate(max(counted, facts.smallest_alarm_rate))}."
    return f"The smallest rate these rows support by counting is {rate(counted)}; by the tail, {rate(facts.smallest_alarm_rate)}."
