"""Scores and p-values as strips: one histogram a part, one axis for all, the threshold through all of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from anomvae.report.svg import WIDTH, Figure, Scale, bars, drawing, finite, roomy, tag, x_axis
from anomvae.report.wording import count, number, share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomvae.report.contents import FloatArray

_BINS, _LEFT, _RIGHT, _BEYOND = 56, 10.0, 486.0, 14.0
_STRIP, _BARS, _TOP = 66.0, 40.0, 26.0


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the rows, as a plot names it.

    Attributes:
        name: As people read it.
        style: Style class that gives its colour.
        values: What is counted.
        normal: Whether its rows are normal; they set the range of the axis.
    """

    name: str
    style: str
    values: FloatArray
    normal: bool = True


def score_strips(title: str, unit: str, parts: Sequence[Part], threshold: float) -> Figure | None:
    """Histograms of a score, part by part, with the threshold.

    The axis is robust: it covers normal rows and the threshold, and says how many rows lie beyond it.

    Args:
        title: What is counted.
        unit: Label of the axis.
        parts: Parts with their scores; empty ones are left out.
        threshold: Scores above it alarm; left out where it is not finite.
    """
    shown = [part for part in parts if len(finite(part.values))]
    if not any(part.normal for part in shown):
        return None
    scale = _robust(shown, threshold)
    edges = _edges(scale, threshold)
    height = _TOP + _STRIP * len(shown) + 44
    floor = _TOP + _STRIP * len(shown)
    marks, sayings = [_threshold(scale, floor, threshold)], []
    for index, part in enumerate(shown):
        strip, saying = _strip(part, scale, edges, threshold, _TOP + _STRIP * index)
        marks.append(strip)
        sayings.append(saying)
    marks.append(x_axis(scale, floor, unit + (", logarithmic" if scale.log else "")))
    if any((finite(part.values) > scale.high).any() for part in shown):
        marks.append(tag("text", "beyond", x=_RIGHT + 13, y=floor + 38, text_anchor="middle", class_="tick"))
    return Figure(
        title,
        drawing(*marks, height=height, says=f"{title}. Threshold {number(threshold)}. " + ". ".join(sayings) + "."),
        _range_caption(shown, scale, threshold),
    )


def _robust(parts: Sequence[Part], threshold: float) -> Scale:
    """An axis on which normal rows and the threshold can be seen, whatever the outliers."""
    normal = np.concatenate([finite(part.values) for part in parts if part.normal])
    everything = np.concatenate([finite(part.values) for part in parts])
    farthest = max(float(np.quantile(finite(part.values), 0.8)) for part in parts)
    end = _RIGHT
    known = finite([threshold])
    high = max(float(np.quantile(normal, 0.995)), *known) if len(known) else float(np.quantile(normal, 0.995))
    low, middle = float(np.quantile(normal, 0.001)), float(np.median(normal))
    heavy = 30
    smallest = min(float(everything.min()), *known) if len(known) else float(everything.min())
    if smallest > 0 and max(high, farthest) > heavy * middle:
        least = max(smallest, 0.5 * low) if low > 0 else smallest
        low, high = roomy(least, max(high, min(float(everything.max()), least * 1e8)))
        return Scale(max(low, high * 1e-12), high * 1.02, _LEFT, end, log=True)
    low = max(float(everything.min()), low - 0.5 * (high - low), middle - 3 * (high - middle))
    high = min(max(float(everything.max()), high), high + 1.5 * (high - min(middle, low)))
    low, high = roomy(min(low, high), high)
    return Scale(low - 0.02 * (high - low), high + 0.02 * (high - low), _LEFT, end)


def _edges(scale: Scale, threshold: float) -> FloatArray:
    """Edges of the bins in drawing units, one of them at the threshold."""
    width = (scale.end - scale.start) / _BINS
    anchor = float(scale(threshold)) if math.isfinite(threshold) else scale.start
    first = anchor - math.floor((anchor - scale.start) / width) * width
    inner = np.arange(first, scale.end - 0.25 * width, width)
    edges = np.unique(np.round(np.concatenate([[scale.start], inner, [scale.end]]), 6))
    return np.asarray(edges, dtype=np.float64)


def _strip(part: Part, scale: Scale, edges: FloatArray, threshold: float, top: float) -> tuple[Markup, str]:
    """One part's histogram with its name and the share above the threshold."""
    values = finite(part.values)
    floor = top + _STRIP
    beyond, below = values > scale.high, values < scale.low
    places = scale(values[~beyond & ~below])
    is_above = values[~beyond & ~below] > threshold
    cut = float(scale(threshold)) if math.isfinite(threshold) else math.inf
    places = np.where(~is_above & (places > cut - 0.01), cut - 0.01, places)
    counts = np.histogram(places, edges)[0]
    tallest = max(1, int(counts.max(initial=0)), int(beyond.sum()))
    tops = np.where(counts > 0, floor - np.maximum(1.5, counts / tallest * _BARS), floor)
    over = edges[:-1] >= cut - 1e-3
    marks = [
        bars(edges[:-1][~over] + 0.4, edges[1:][~over] - 0.4, tops[~over], floor, f"{part.style} quiet"),
        bars(edges[:-1][over] + 0.4, edges[1:][over] - 0.4, tops[over], floor, part.style),
    ]
    if beyond.any():
        top_beyond = floor - max(1.5, float(beyond.sum()) / tallest * _BARS)
        marks.append(
            bars(np.array([_RIGHT + 6]), np.array([_RIGHT + 20]), np.array([top_beyond]), floor, f"{part.style} beyond")
        )
    marks.append(tag("line", x1=scale.start, x2=scale.end, y1=floor, y2=floor, class_="axis"))
    says = share(float((part.values > threshold).mean())) + " above" if math.isfinite(threshold) else ""
    marks.append(_name(part.name, f"{count(len(part.values), 'row')}{', ' if says else ''}{says}", top + 17))
    return Markup("").join(marks), f"{part.name}: {count(len(part.values), 'row')}, {says or 'no threshold'}"


def _name(name: str, what: str, y: float) -> Markup:
    """The name of a strip, and what to know of it, at its right end."""
    return tag(
        "text",
        tag("tspan", name, class_="strong"),
        f" · {what}",
        x=_RIGHT + _BEYOND + 6,
        y=y,
        text_anchor="end",
        class_="name",
    )


def _threshold(scale: Scale, floor: float, threshold: float) -> Markup:
    """The threshold through all strips; nothing where it is not finite."""
    if not math.isfinite(threshold):
        return Markup("")
    x = float(scale(threshold))
    middle = WIDTH / 2
    return tag("line", x1=x, x2=x, y1=16, y2=floor, class_="threshold") + tag(
        "text",
        f"threshold {number(threshold)}",
        x=x,
        y=12,
        text_anchor="start" if x < middle / 2 else "end" if x > 1.5 * middle else "middle",
        class_="threshold-label",
    )


def _range_caption(parts: Sequence[Part], scale: Scale, threshold: float) -> str:
    """What the axis leaves out, said in numbers."""
    words = ["Each strip has its own height; a bin that holds any row is drawn at least a hairline high."]
    if not math.isfinite(threshold):
        words.append("No finite threshold exists at the stated rate.")
    counted = [(part.name, finite(part.values)) for part in parts]
    beyond = [
        f"{name} {int((values > scale.high).sum()):,} (up to {number(float(values.max()))})"
        for name, values in counted
        if (values > scale.high).any()
    ]
    if beyond:
        words.append(f"Rows beyond the right end, in the outlined bars: {', '.join(beyond)}.")
    below = [f"{name} {int((values < scale.low).sum()):,}" for name, values in counted if (values < scale.low).any()]
    if below:
        words.append(f"Rows below the left end, not drawn: {', '.join(below)}.")
    broken = [
        f"{part.name} {len(part.values) - len(values):,}"
        for part, (_, values) in zip(parts, counted, strict=True)
        if len(part.values) > len(values)
    ]
    if broken:
        words.append(f"Rows without a finite score, not drawn: {', '.join(broken)}.")
    return " ".join(words)
