"""Alarm rates as stated and as found, and thresholds group by group."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from anomvae.calibration.conformal import ROUNDING
from anomvae.report.rates import Steps, checked_rows
from anomvae.report.svg import Scale, drawing, tag
from anomvae.report.wording import NOTHING, between, count, limit, number, rate, share, short

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomvae.bundle import Calibration
    from anomvae.report.contents import ReportContents
    from anomvae.report.rates import CheckedRows

RATES = (0.1, 0.05, 0.02, 0.01, 0.005, 0.001)
_WIDTH, _HEIGHT, _FAR = 200.0, 18.0, 8.0
_TIMES = Scale(1.0 / _FAR, _FAR, 6.0, _WIDTH - 6.0, log=True)


@dataclass(frozen=True, slots=True)
class RateLine:
    """An alarm rate, what was found at it, and what chance allows.

    Attributes:
        rate: The alarm rate.
        stated: Whether it is the stated one.
        why_not: Why nothing can be said of it, empty where something can.
        alarms: Rows that would alarm, of how many.
        found: The share of them; of folds the lowest and the highest.
        interval: Its 95 % interval; of folds what chance allows all of them.
        allowed: Where the rate of this very calibration may lie.
        strip: Found and allowed, drawn as multiples of the stated rate.
        labelled: Share of labelled anomalies that would alarm.
    """

    rate: str
    stated: bool
    why_not: str
    alarms: str
    found: str
    interval: str
    allowed: str
    strip: Markup
    labelled: str


@dataclass(frozen=True, slots=True)
class GroupLine:
    """A group with thresholds of its own."""

    name: str
    rows: str
    score: str
    reconstruction: str


def rate_lines(contents: ReportContents) -> tuple[RateLine, ...]:
    """What the detector does at usual alarm rates, without a refit, on rows that its p-values have not seen."""
    facts = contents.manifest.calibration
    parts, steps = checked_rows(contents), Steps.of(facts)
    labelled = contents.labelled.p_value_verdict if contents.labelled is not None else np.empty(0)
    return tuple(
        RateLine(
            rate=rate(asked),
            stated=asked == facts.alarm_rate,
            why_not=_why_not(asked, facts, steps, parts),
            alarms=_alarms(asked, parts),
            found=_found(asked, parts),
            interval=_interval(asked, parts),
            allowed=_allowed(asked, facts, steps),
            strip=_strip(asked, facts, steps, parts),
            labelled=share(float((labelled <= asked * (1.0 + ROUNDING)).mean())) if len(labelled) else NOTHING,
        )
        for asked in sorted({*RATES, facts.alarm_rate}, reverse=True)
    )


def group_lines(facts: Calibration, *, named: bool) -> tuple[GroupLine, ...]:
    """Groups with thresholds of their own, the largest first.

    Args:
        facts: The promise.
        named: Whether their names may be shown.
    """
    decides = facts.decision
    return tuple(
        GroupLine(
            name=short(group.name) if named else f"group {place}",
            rows=f"{group.rows:,}",
            score=limit(group.score_threshold) if decides != "reconstruction" else "",
            reconstruction=limit(group.reconstruction_threshold) if decides != "elbo" else "",
        )
        for place, group in enumerate(facts.groups, 1)
    )


def _supported(asked: float, facts: Calibration) -> bool:
    return asked * (1.0 + ROUNDING) >= facts.smallest_alarm_rate


def _counted(asked: float, steps: Steps) -> bool:
    return asked * (1.0 + ROUNDING) >= steps.smallest


def _why_not(asked: float, facts: Calibration, steps: Steps, parts: Sequence[CheckedRows]) -> str:
    if not _supported(asked, facts):
        return f"never alarms: {count(facts.rows, 'row')} reach {rate(facts.smallest_alarm_rate)} at the least"
    if not _counted(asked, steps):
        return "by the tail, an estimate: too rare to check here"
    if not parts:
        return "there are no rows to check it on"
    if not all(part.tells(asked) for part in parts):
        fewest = min(len(part.p) for part in parts)
        kind = "validation rows" if facts.method == "split" else "rows of a fold"
        return f"{fewest:,} {kind} cannot tell: {asked * fewest:.2g} should alarm"
    return ""


def _alarms(asked: float, parts: Sequence[CheckedRows]) -> str:
    if not parts:
        return NOTHING
    hits = [part.alarms(asked).hits for part in parts]
    fewest, most = min(len(part.p) for part in parts), max(len(part.p) for part in parts)
    of = f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"
    found = f"{hits[0]:,}" if min(hits) == max(hits) else f"{min(hits):,} to {max(hits):,}"
    return f"{found} of {of}"


def _found(asked: float, parts: Sequence[CheckedRows]) -> str:
    if not parts:
        return NOTHING
    shares = [part.alarms(asked).value for part in parts]
    return share(shares[0]) if len(shares) == 1 else between((min(shares), max(shares)))


def _interval(asked: float, parts: Sequence[CheckedRows]) -> str:
    if not parts:
        return NOTHING
    if len(parts) == 1:
        return between(parts[0].alarms(asked).interval)
    low, high = _widest(asked, parts)
    return between((low, high))


def _allowed(asked: float, facts: Calibration, steps: Steps) -> str:
    return between(steps.interval(asked)) if _supported(asked, facts) and _counted(asked, steps) else NOTHING


def _widest(asked: float, parts: Sequence[CheckedRows]) -> tuple[float, float]:
    """What chance allows the fold with the fewest rows, which is the widest."""
    return min(parts, key=lambda part: len(part.p)).expected(asked)


def _strip(asked: float, facts: Calibration, steps: Steps, parts: Sequence[CheckedRows]) -> Markup:
    """Found shares as dots over the stretch that chance allows them, in multiples of the stated rate, from 1/8 to 8."""
    if not parts or _why_not(asked, facts, steps, parts):
        return Markup("")
    y, one = _HEIGHT / 2, float(_TIMES(1.0))
    low, high = _widest(asked, parts)
    marks = [
        tag("line", x1=one, x2=one, y1=0.0, y2=_HEIGHT, class_="zero"),
        tag(
            "line",
            x1=float(_TIMES(low / asked)),
            x2=float(_TIMES(high / asked)) + 0.1,
            y1=y,
            y2=y,
            class_="range chance",
        ),
    ]
    times = [part.alarms(asked).value / asked for part in parts]
    marks += [tag("circle", cx=float(_TIMES(each)), cy=y, r=3.5, class_="found") for each in times]
    dots = ", ".join(number(each) for each in times)
    says = f"found {dots} times the stated rate; by chance {number(low / asked)} to {number(high / asked)} times"
    return drawing(*marks, height=_HEIGHT, width=_WIDTH, says=says)


def rate_axis() -> Markup:
    """The scale of the strips, for the head of their table."""
    ticks = [_FAR**power for power in (-1.0, -2 / 3, -1 / 3, 0.0, 1 / 3, 2 / 3, 1.0)]
    marks = [
        tag("text", _times(tick), x=float(_TIMES(tick)), y=11, text_anchor="middle", class_="tick") for tick in ticks
    ]
    return drawing(*marks, height=14, width=_WIDTH, says="multiples of the stated rate")


def _times(tick: float) -> str:
    return f"{tick:.0f}\N{MULTIPLICATION SIGN}" if tick > 1.0 - 1e-9 else f"1/{math.floor(1 / tick + 0.5)}"
