"""A strange stretch drawn: its score, the channels that add most against what was expected, and what every channel adds."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from anomvae.report.series_axis import TimeAxis
from anomvae.report.series_words import (
    OUTSIDE,
    channel_parts,
    drawn_parts,
    facts,
    headline,
    percent,
    standardised,
)
from anomvae.report.svg import Scale, area, dots, drawing, finite, labels, line, roomy, tag
from anomvae.report.wording import count, number, short

if TYPE_CHECKING:
    from anomvae.report.contents import FloatArray, IntArray
    from anomvae.report.series_axis import Clock
    from anomvae.report.series_contents import BoolArray, StrangeStretch
    from anomvae.report.series_words import ChannelPart

WIDTH = 1040.0
_LEFT, _RIGHT = 150.0, 1008.0
_SCORE, _CHANNEL, _HEAD, _ROW, _AXIS = 72.0, 60.0, 26.0, 13.0, 30.0
MOST_ROWS = 24
"""Channels in the heat map."""
MOST_POINTS = 420
"""Steps drawn one by one; of more the extremes of neighbours."""
DOT = 5.0
"""Of narrower steps dots are drawn smaller."""
LEVELS = 6
"""Shades of the heat map."""
_FAINT = 0.06
"""Less than this of the strongest cell stays blank."""
_FAR = 1.5
"""Bands reach so many times the range of a channel's values at most."""
_EDGE = 1e30


@dataclass(frozen=True, slots=True)
class StretchFigure:
    """A strange stretch, drawn and said.

    Attributes:
        title: Asset and time.
        part: What it is part of.
        alarms: Whether it alarms.
        headline: What was odd, and when.
        facts: Rows, score, p-value.
        svg: The drawing.
        note: What is not drawn.
    """

    title: str
    part: str
    alarms: bool
    headline: str
    facts: str
    svg: Markup
    note: str


def stretch_figure(stretch: StrangeStretch, columns: tuple[str, ...], clock: Clock) -> StretchFigure:
    """Draws a stretch.

    Args:
        stretch: What to draw.
        columns: Names of its channels.
        clock: Says its times.
    """
    parts = channel_parts(stretch, columns)
    axis = TimeAxis(stretch.time_s, np.zeros(len(stretch.time_s), dtype=np.int64), _LEFT, _RIGHT)
    shown, rows = drawn_parts(parts), parts[:MOST_ROWS]
    top, panels = 0.0, []
    panel, top = _score_panel(stretch, axis, top)
    panels.append(panel)
    for part in shown:
        panel, top = _channel_panel(stretch, part, axis, top)
        panels.append(panel)
    panel, top = _heat_panel(stretch, rows, axis, top)
    panels.append(panel)
    behind = [_alarmed(axis, stretch, top), axis.draw(clock, top, _HEAD)]
    when = clock.span(float(stretch.time_s[0]), float(stretch.time_s[-1]))
    says = headline(stretch, parts, clock)
    name = f"{stretch.asset} · " if stretch.asset else ""
    hidden = len(parts) - len(rows)
    return StretchFigure(
        title=f"{name}{when}",
        part=stretch.part,
        alarms=bool(stretch.alarm[stretch.peak]),
        headline=says,
        facts=facts(stretch),
        svg=drawing(*behind, *panels, height=top + _AXIS, width=WIDTH, says=f"{name}{when}. {says}"),
        note=f"{count(hidden, 'channel')} that add less are left out of the map." if hidden else "",
    )


def _alarmed(axis: TimeAxis, stretch: StrangeStretch, floor: float) -> Markup:
    """Alarming steps as shade behind all panels."""
    return Markup("").join(
        tag(
            "rect",
            x=float(axis.left[first]),
            y=_HEAD,
            width=float(axis.right[last] - axis.left[first]),
            height=floor - _HEAD,
            class_="alarmed",
        )
        for first, last in axis.runs(_bridged(stretch))
    )


def _bridged(stretch: StrangeStretch) -> BoolArray:
    """Alarming steps, and the missing ones between two of them."""
    present = np.flatnonzero(stretch.row > 0)
    found = stretch.alarm.copy()
    for before, after in itertools.pairwise(present):
        found[before + 1 : after] = stretch.alarm[before] and stretch.alarm[after]
    return found


def _score_panel(stretch: StrangeStretch, axis: TimeAxis, top: float) -> tuple[Markup, float]:
    ceiling, floor = top + _HEAD, top + _HEAD + _SCORE
    y = _score_scale(stretch.score, stretch.threshold, floor, ceiling)
    marks = [
        tag("text", "score", x=_LEFT, y=ceiling - 7, class_="strong"),
        *_y_ticks(y, most=3),
    ]
    if np.isfinite(stretch.threshold):
        at = float(y(stretch.threshold))
        marks.append(tag("line", x1=_LEFT, x2=_RIGHT, y1=at, y2=at, class_="threshold dash"))
        marks.append(
            tag(
                "text",
                f"threshold {number(stretch.threshold)}",
                x=_RIGHT,
                y=ceiling - 7,
                text_anchor="end",
                class_="tick",
            )
        )
    marks += _lines(axis, stretch.score, y, "score")
    peak = stretch.peak
    marks.append(
        tag("circle", cx=float(axis.x[peak]), cy=float(y(stretch.score[peak])), r=4.0, class_="peak"),
    )
    if stretch.truth is not None:
        marks.append(truth_strip(axis, stretch.truth, floor + 2))
    return Markup("").join(marks), floor + (8.0 if stretch.truth is not None else 0.0)


def truth_strip(axis: TimeAxis, truth: np.ndarray, y: float) -> Markup:
    """Steps labelled as anomalous as a strip."""
    return Markup("").join(
        tag(
            "rect",
            x=float(axis.left[a]),
            y=y,
            width=float(axis.right[b] - axis.left[a]),
            height=5.0,
            class_="truth",
        )
        for a, b in axis.runs(truth)
    )


def _score_scale(score: FloatArray, threshold: float, floor: float, ceiling: float) -> Scale:
    values = finite(np.append(score, threshold))
    low, high = roomy(min(0.0, float(values.min())), max(0.0, float(values.max()))) if len(values) else (0.0, 1.0)
    room = 0.06 * (high - low)
    return Scale(low, high + room, floor, ceiling)


def _channel_panel(stretch: StrangeStretch, part: ChannelPart, axis: TimeAxis, top: float) -> tuple[Markup, float]:
    ceiling, floor, j = top + _HEAD, top + _HEAD + _CHANNEL, part.place
    observed, expected, deviation = (each[:, j] for each in (stretch.observed, stretch.expected, stretch.deviation))
    lows, highs = expected - OUTSIDE * deviation, expected + OUTSIDE * deviation
    y = _channel_scale(observed, expected, lows, highs, floor, ceiling)
    marks = [
        tag("text", short(part.name, 60), x=_LEFT, y=ceiling - 7, class_="strong"),
        tag("text", f"{percent(part.share)} · {part.says}", x=_RIGHT, y=ceiling - 7, text_anchor="end", class_="tick"),
    ]
    for first, last in axis.runs(np.isfinite(expected) & np.isfinite(deviation)):
        steps = _thinned(axis, first, last)
        if len(steps) > 1:
            marks.append(area(axis.x[steps], y(lows[steps]), y(highs[steps]), "expected-band"))
    marks += _y_ticks(y, most=3)
    marks += _lines(axis, expected, y, "foreseen")
    marks += _lines(axis, observed, y, "observed")
    outside = np.flatnonzero(np.abs(np.nan_to_num(standardised(stretch, j), nan=0.0)) > OUTSIDE)
    if len(outside):
        dense = "" if axis.step >= DOT else " dense"
        outside = outside[np.unique(np.linspace(0, len(outside) - 1, MOST_POINTS).round().astype(np.int64))]
        marks.append(dots(axis.x[outside], y(_bounded(observed[outside])), f"outside{dense}"))
    return Markup("").join(marks), floor


def _channel_scale(
    observed: FloatArray, expected: FloatArray, lows: FloatArray, highs: FloatArray, floor: float, ceiling: float
) -> Scale:
    """All of the values, and of the band as much as leaves them readable."""
    values = finite(np.concatenate([observed, expected]))
    if not len(values):
        return Scale(0.0, 1.0, floor, ceiling)
    low, high = roomy(float(values.min()), float(values.max()))
    room = (_FAR - 1.0) * (high - low)
    band = finite(np.concatenate([lows, highs]))
    if len(band):
        low, high = min(low, max(low - room, float(band.min()))), max(high, min(high + room, float(band.max())))
    edge = 0.06 * (high - low)
    return Scale(low - edge, high + edge, floor, ceiling)


def _y_ticks(y: Scale, most: int) -> list[Markup]:
    ticks = y.ticks(most)
    marks = []
    for place, text in zip(y(ticks), labels(ticks), strict=True):
        marks.append(tag("line", x1=_LEFT, x2=_RIGHT, y1=float(place), y2=float(place), class_="grid"))
        marks.append(tag("text", text, x=_LEFT - 6, y=float(place) + 4, text_anchor="end", class_="tick"))
    return marks


def _lines(axis: TimeAxis, values: FloatArray, y: Scale, class_: str) -> list[Markup]:
    """A line for each run of known values; one alone is a dot."""
    marks = []
    for first, last in axis.runs(~np.isnan(values)):
        steps = _thinned(axis, first, last, values)
        xs, ys = axis.x[steps], y(_bounded(values[steps]))
        marks.append(line(xs, ys, class_) if len(steps) > 1 else dots(xs, ys, class_))
    return marks


def _thinned(axis: TimeAxis, first: int, last: int, values: FloatArray | None = None) -> IntArray:
    """Steps of a run that are drawn: all, or of each bin of neighbours the first, the lowest and the highest."""
    steps = np.arange(first, last + 1)
    most = max(8, round(MOST_POINTS * len(steps) / len(axis.x)))
    if len(axis.x) <= MOST_POINTS:
        return steps
    bins = np.array_split(steps, min(most, len(steps)))
    if values is None:
        return np.array([part[0] for part in bins] + [last])
    known = _bounded(values)
    picked = [each for part in bins for each in (part[np.argmin(known[part])], part[np.argmax(known[part])])]
    return np.unique(np.array([first, *picked, last]))


def _bounded(values: FloatArray) -> FloatArray:
    return np.clip(np.nan_to_num(values, nan=0.0, posinf=_EDGE, neginf=-_EDGE), -_EDGE, _EDGE)


def _heat_panel(
    stretch: StrangeStretch, rows: tuple[ChannelPart, ...], axis: TimeAxis, top: float
) -> tuple[Markup, float]:
    """What every channel adds, a row a channel, a shade by size."""
    ceiling = top + _HEAD
    marks = [tag("text", "what each channel adds above its usual", x=_LEFT, y=ceiling - 7, class_="strong")]
    levels = heat_levels(stretch.contribution[:, [part.place for part in rows]])
    groups, starts, ends = _columns_of(axis)
    shades: dict[int, list[str]] = {}
    for place, part in enumerate(rows):
        y = ceiling + place * _ROW
        marks.append(tag("text", short(part.name, 22), x=_LEFT - 6, y=y + 10.5, text_anchor="end", class_="tick"))
        level = np.array([levels[group, place].max() for group in groups])
        cut = np.flatnonzero(np.diff(level)) + 1
        for run in np.split(np.arange(len(level)), cut):
            if level[run[0]] > 0:
                x, width = starts[run[0]], ends[run[-1]] - starts[run[0]]
                shades.setdefault(int(level[run[0]]), []).append(f"M{x:.1f} {y + 0.5:.1f}h{width:.1f}v12h-{width:.1f}z")
    floor = ceiling + len(rows) * _ROW
    frame = tag("rect", x=_LEFT, y=ceiling, width=_RIGHT - _LEFT, height=floor - ceiling, class_="heat-frame")
    cells = [tag("path", d="".join(paths), class_=f"heat{level}") for level, paths in sorted(shades.items())]
    return Markup("").join([frame, *cells, *marks]), floor


def heat_levels(contribution: FloatArray) -> IntArray:
    """Shade of each cell, 0 (blank) to `LEVELS`, by its share of the strongest cell.

    Args:
        contribution: Above the usual, NaN where missing, shape ``(t, d)``.
    """
    values = np.nan_to_num(contribution, nan=0.0)
    strongest = float(values.max(initial=0.0))
    if strongest <= 0.0:
        return np.zeros(values.shape, dtype=np.int64)
    shares = values.clip(min=0.0) / strongest  # what lies below could overflow, and is blank anyhow
    return np.where(shares < _FAINT, 0, np.ceil(np.clip(shares, 0.0, 1.0) * LEVELS)).astype(np.int64)


def _columns_of(axis: TimeAxis) -> tuple[list[IntArray], FloatArray, FloatArray]:
    """Steps that share a column of the heat map, and the edges of each column."""
    steps = np.arange(len(axis.x))
    groups = np.array_split(steps, min(len(steps), MOST_POINTS))
    starts = np.array([axis.left[group[0]] for group in groups])
    ends = np.array([axis.right[group[-1]] for group in groups])
    return groups, starts, ends
