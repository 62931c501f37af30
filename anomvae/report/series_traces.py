"""Scores of each asset over time, with threshold, alarms and parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from anomvae.report.series_axis import TimeAxis
from anomvae.report.series_contents import SCORED
from anomvae.report.series_drawing import truth_strip
from anomvae.report.svg import Figure, Scale, drawing, finite, labels, line, roomy, tag
from anomvae.report.wording import count, short

if TYPE_CHECKING:
    from markupsafe import Markup

    from anomvae.report.contents import FloatArray
    from anomvae.report.series_axis import Clock
    from anomvae.report.series_contents import AssetTrace

_LEFT, _RIGHT, _CEILING, _FLOOR = 44.0, 512.0, 8.0, 92.0
_BINS = 460
"""Steps drawn one by one; of more the highest of neighbours."""


def trace_figure(trace: AssetTrace, clock: Clock) -> Figure:
    """Draws one asset's scores."""
    axis = TimeAxis(trace.time_s, trace.sequence, _LEFT, _RIGHT)
    y = _scale(trace)
    marks = [*_alarms(axis, trace), *_ticks(y)]
    if np.isfinite(trace.threshold):
        at = float(y(trace.threshold))
        marks.append(tag("line", x1=_LEFT, x2=_RIGHT, y1=at, y2=at, class_="threshold dash"))
    for piece in axis.pieces():
        known = piece[np.isfinite(trace.score[piece])]
        if len(known):
            marks.append(_line(axis, known, trace.score, y))
    floor = _FLOOR
    if trace.truth is not None:
        marks.append(truth_strip(axis, trace.truth, floor + 2))
        floor += 9.0
    elif len(trace.parts) > 1:
        marks += _parts(axis, trace, floor + 2)
        floor += 9.0
    marks.append(axis.draw(clock, floor, _CEILING, most=5, room=78.0))
    scored = int(np.isfinite(trace.score).sum())
    alarms = int(trace.alarm.sum())
    name = short(trace.asset, 60) or "score over time"
    caption = f"{count(alarms, 'alarm')} in {count(scored, 'step')}"
    when = clock.span(float(trace.time_s[0]), float(trace.time_s[-1]))
    says = f"Scores of {name}, {when}: {caption}."
    return Figure(name, drawing(*marks, height=floor + 26.0, says=says), f"{caption} · {when}")


def legend(traces: tuple[AssetTrace, ...]) -> tuple[tuple[str, str], ...]:
    """Names by style class."""
    found = [("score-line", "score"), ("dashed", "threshold"), ("alarmed box", "alarms")]
    if any(trace.truth is not None for trace in traces):
        found.append(("truth box", "labelled as anomalous"))
    elif any(len(trace.parts) > 1 for trace in traces):
        found += [(f"{name} box", f"{name} steps") for name in traces[0].parts if name != SCORED]
    return tuple(found)


def _scale(trace: AssetTrace) -> Scale:
    values = finite(np.append(trace.score, trace.threshold))
    low, high = roomy(min(0.0, float(values.min())), float(values.max())) if len(values) else (0.0, 1.0)
    return Scale(low, high + 0.06 * (high - low), _FLOOR, _CEILING)


def _ticks(y: Scale) -> list[Markup]:
    ticks = y.ticks(4)
    marks = []
    for place, text in zip(y(ticks), labels(ticks), strict=True):
        marks.append(tag("line", x1=_LEFT, x2=_RIGHT, y1=float(place), y2=float(place), class_="grid"))
        marks.append(tag("text", text, x=_LEFT - 6, y=float(place) + 4, text_anchor="end", class_="tick"))
    return marks


def _line(axis: TimeAxis, steps: np.ndarray, score: FloatArray, y: Scale) -> Markup:
    """The scores of a sequence; of many the highest of neighbours, so that no peak is lost."""
    most = max(4, round(_BINS * len(steps) / len(axis.x)))
    if len(axis.x) > _BINS:
        bins = np.array_split(steps, min(most, len(steps)))
        steps = np.array([part[np.argmax(score[part])] for part in bins])
    xs, ys = axis.x[steps], y(score[steps])
    if len(steps) == 1:
        xs, ys = np.array([xs[0] - 0.5, xs[0] + 0.5]), np.repeat(ys, 2)
    return line(xs, ys, "score")


def _alarms(axis: TimeAxis, trace: AssetTrace) -> list[Markup]:
    return [
        tag(
            "rect",
            x=float(axis.left[first]),
            y=_CEILING,
            width=max(1.0, float(axis.right[last] - axis.left[first])),
            height=_FLOOR - _CEILING,
            class_="alarmed",
        )
        for first, last in axis.runs(trace.alarm)
    ]


def _parts(axis: TimeAxis, trace: AssetTrace, y: float) -> list[Markup]:
    """What each step is part of, as a strip."""
    marks = []
    for place, name in enumerate(trace.parts):
        for first, last in axis.runs(trace.part == place):
            marks.append(
                tag(
                    "rect",
                    x=float(axis.left[first]),
                    y=y,
                    width=float(axis.right[last] - axis.left[first]),
                    height=5.0,
                    class_=f"part {name}",
                )
            )
    return marks
