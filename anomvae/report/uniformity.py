"""Whether p-values are even: found against stated alarm rates, at all rates and at the low ones, where alarms live."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from anomvae.calibration.conformal import ROUNDING
from anomvae.report.svg import Figure, Scale, area, drawing, line, tag, thin, x_axis, y_axis
from anomvae.report.wording import count, rate, share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup

    from anomvae.bundle import Calibration
    from anomvae.report.contents import FloatArray
    from anomvae.report.rates import CheckedRows

_LEFT, _RIGHT, _TOP, _FLOOR, _HEIGHT = 58.0, 506.0, 34.0, 342.0, 386.0
_LOW_END, _MOST_LOW = 0.1, 0.5
_POINTS, _MOST_CURVE = 100, 500


def uniformity(parts: Sequence[CheckedRows], facts: Calibration) -> list[Figure]:
    """Share of rows at or below each p-value, with the band that chance allows; nothing without rows.

    Args:
        parts: Rows that the p-values have not seen.
        facts: The promise.
    """
    if not parts:
        return []
    ends = [1.0]
    low = max(_LOW_END, 2.0 * facts.alarm_rate)
    if low <= _MOST_LOW:
        ends.append(low)
    return [_figure(parts, facts, end) for end in ends]


def _figure(parts: Sequence[CheckedRows], facts: Calibration, end: float) -> Figure:
    """One picture, from rate 0 to `end`."""
    grid = np.linspace(0.0, end, _POINTS)
    smallest = min(parts, key=lambda part: len(part.p))
    lows, highs = smallest.steps.chance(len(smallest.p), grid, smallest.level)
    stairs = [_stairs(part.p, end) for part in parts]
    top = 1.0 if end == 1.0 else min(1.0, max(end, float(highs[-1]), *(float(found[-1]) for _, found in stairs)))
    x, y = Scale(0.0, end, _LEFT, _RIGHT), Scale(0.0, top, _FLOOR, _TOP)
    style = "validation" if len(parts) == 1 else "fold"
    marks = [
        area(x(grid), y(lows), y(highs), "band"),
        x_axis(x, _FLOOR, "stated alarm rate", grid_top=_TOP),
        y_axis(y, _LEFT, "share of rows that would alarm", _RIGHT),
        tag("line", x1=float(x(0.0)), y1=float(y(0.0)), x2=float(x(end)), y2=float(y(end)), class_="expected"),
    ]
    marks += [line(x(asked), y(found), style) for asked, found in stairs]
    if end < 1.0:
        marks.append(_stated(float(x(facts.alarm_rate)), facts))
    says = ", ".join(f"{part.name}: {share(part.alarms(facts.alarm_rate).value)}" for part in parts)
    if end == 1.0:
        title, caption = "Are p-values even? Stated against found", _caption(parts, facts)
    else:
        title = "The same at low rates, where alarms live"
        caption = f"At the stated {rate(facts.alarm_rate)} (upright line) would alarm, {says}."
    legend = ((style, parts[0].name if len(parts) == 1 else "a fold each"), ("chance", "by chance, 95 times in 100"))
    return Figure(
        title,
        drawing(*marks, height=_HEIGHT, says=f"{title}. At {rate(facts.alarm_rate)}, {says}."),
        caption,
        legend,
    )


def _stated(x: float, facts: Calibration) -> Markup:
    return tag("line", x1=x, x2=x, y1=_TOP, y2=_FLOOR, class_="best") + tag(
        "text", f"stated {rate(facts.alarm_rate)}", x=x + 5, y=_TOP + 14, class_="tick"
    )


def _stairs(p: FloatArray, end: float) -> tuple[FloatArray, FloatArray]:
    """Rates and the share of rows that alarm at each, as a staircase from 0 to `end`."""
    known = np.sort(np.where(np.isnan(p), 0.0, p))
    steps, counts = np.unique(known[known <= end * (1.0 + ROUNDING)], return_counts=True)
    levels = np.cumsum(counts) / len(p)
    places = thin(np.arange(len(steps)), _MOST_CURVE)
    steps, levels = steps[places], levels[places]
    xs = np.concatenate([[0.0], np.repeat(steps, 2), [end]])
    ys = np.concatenate([[0.0, 0.0], np.repeat(levels, 2)])
    return xs, ys


def _caption(parts: Sequence[CheckedRows], facts: Calibration) -> str:
    """How to read it, and what it cannot tell."""
    read = "On the dashed line as many rows alarm as was stated; above it more, below it fewer."
    if facts.method == "cross":
        networks = count(len(parts), "fold")
        return (
            f"{read} Each line is one of {networks}: rows that their network had not seen, against the rows of the other folds. "
            f"If the networks score alike, all {len(parts)} lines lie in the grey band at any one rate 95 times in 100. Pooled, the "
            "folds would look even whatever they are. Whether the detector, which learnt from all rows, scores new rows as these "
            "networks do cannot be seen from here: only new rows tell."
        )
    n = len(parts[0].p)
    margin = (
        ""
        if facts.confidence is None
        else f" For {share(facts.confidence)} confidence p-values keep a margin, so band and curve lie below the line."
    )
    return (
        f"{read} {count(n, 'validation row')} against {count(facts.rows, 'calibration row')}: if the two are alike, the curve lies "
        f"in the grey band at any one rate 95 times in 100.{margin}"
    )
