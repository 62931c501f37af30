"""A small drawing kit: scales, ticks and axes as inline SVG whose colours come from the page's style sheet."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from anomvae.report.wording import number

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from anomvae.report.contents import FloatArray

    IntArray = npt.NDArray[np.int64]

WIDTH = 520.0
"""Width of a figure in its own units; the page scales it."""

_LARGEST = 1e100


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing with its words.

    Attributes:
        title: What it shows.
        svg: The drawing.
        caption: How to read it and what it says here.
        legend: Names by style class, in drawing order.
    """

    title: str
    svg: Markup
    caption: str
    legend: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Scale:
    """Data to drawing units.

    Args:
        low: Smallest value shown.
        high: Largest value shown, above `low`.
        start: Where `low` is drawn.
        end: Where `high` is drawn.
        log: Whether it is logarithmic; `low` is then positive.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, values: npt.ArrayLike) -> FloatArray:
        """Places of values; those outside are put on the edge."""
        inside = np.clip(np.asarray(values, dtype=np.float64), self.low, self.high)
        low, high = self.low, self.high
        if self.log:
            inside, low, high = np.log10(inside), math.log10(low), math.log10(high)
        return np.asarray(self.start + (inside - low) / (high - low) * (self.end - self.start), dtype=np.float64)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values within the scale.

        Example:
            >>> Scale(0.0, 10.0, 0, 1).ticks(), Scale(1.0, 1000.0, 0, 1, log=True).ticks()
            ([0.0, 2.0, 4.0, 6.0, 8.0, 10.0], [1.0, 10.0, 100.0, 1000.0])
        """
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            every = max(1, math.ceil((last - first + 1) / most))
            powers = [10.0**power for power in range(first, last + 1, every)]
            if len(powers) > 1:
                return powers
        step = _step((self.high - self.low) / most)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [tick * step for tick in range(first, last + 1)]


def finite(values: npt.ArrayLike) -> FloatArray:
    """The finite values, kept within what can be drawn."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    return np.clip(flat[np.isfinite(flat)], -_LARGEST, _LARGEST)


def roomy(low: float, high: float) -> tuple[float, float]:
    """A range that has room: widened where all values are (nearly) one.

    Example:
        >>> roomy(3.0, 3.0)
        (2.5, 3.5)
    """
    least = 1e-6 * max(abs(low), abs(high))
    if high - low > least:
        return low, high
    middle, half = (low + high) / 2, max(0.5, least)
    return middle - half, middle + half


def tag(name: str, *children: str | Markup, **attributes: str | float | None) -> Markup:
    """An element; texts are escaped, `class_` and `stroke_width` become attributes.

    Example:
        >>> tag("text", "a < b", x=1.25)
        Markup('<text x="1.2">a &lt; b</text>')
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), value if isinstance(value, str) else units(value))
        for key, value in attributes.items()
        if value is not None
    )
    if not children:
        return Markup("<{0}{1}/>").format(name, written)
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, Markup("").join(children))


def units(value: float) -> str:
    """A place in the drawing, to a tenth of a unit."""
    text = f"{value:.1f}"
    return "0" if text == "-0.0" else text.removesuffix(".0")


def drawing(*children: Markup, height: float, says: str, width: float = WIDTH) -> Markup:
    """A whole drawing; `says` is what a screen reader speaks."""
    return tag(
        "svg",
        *children,
        viewBox=f"0 0 {units(width)} {units(height)}",
        role="img",
        aria_label=says,
        focusable="false",
    )


def line(xs: FloatArray, ys: FloatArray, class_: str) -> Markup:
    """A line through points."""
    points = " ".join(f"{units(x)},{units(y)}" for x, y in zip(xs, ys, strict=True))
    return tag("polyline", points=points, class_=f"line {class_}")


def area(xs: FloatArray, lows: FloatArray, highs: FloatArray, class_: str) -> Markup:
    """The area between two lines."""
    there = [f"{units(x)},{units(y)}" for x, y in zip(xs, highs, strict=True)]
    back = [f"{units(x)},{units(y)}" for x, y in zip(xs[::-1], lows[::-1], strict=True)]
    return tag("polygon", points=" ".join(there + back), class_=class_)


def dots(xs: FloatArray, ys: FloatArray, class_: str) -> Markup:
    """Points as one path of round dots."""
    return tag(
        "path", d="".join(f"M{units(x)} {units(y)}h0" for x, y in zip(xs, ys, strict=True)), class_=f"dots {class_}"
    )


def crosses(xs: FloatArray, ys: FloatArray, class_: str, arm: float = 3.5) -> Markup:
    """Points as one path of crosses: a shape that needs no colour to be told from dots."""
    size, back = units(arm), units(2 * arm)
    path = "".join(
        f"M{units(x - arm)} {units(y - arm)}l{back} {back}m-{back} 0l{back} -{back}m-{size} {size}"
        for x, y in zip(xs, ys, strict=True)
    )
    return tag("path", d=path, class_=f"cross {class_}")


def bars(lefts: FloatArray, rights: FloatArray, tops: FloatArray, floor: float, class_: str) -> Markup:
    """Bars on a floor as one path; a bar without height is left out."""
    path = "".join(
        f"M{units(left)} {units(floor)}V{units(top)}H{units(right)}V{units(floor)}z"
        for left, right, top in zip(lefts, rights, tops, strict=True)
        if top < floor
    )
    return tag("path", d=path, class_=f"bar {class_}")


def x_axis(scale: Scale, y: float, label: str, grid_top: float | None = None, most: int = 6) -> Markup:
    """A horizontal axis at height `y`; with grid lines up to `grid_top`."""
    ticks = scale.ticks(most)
    marks = [tag("line", x1=scale.start, x2=scale.end, y1=y, y2=y, class_="axis")]
    for place, text in zip(scale(ticks), labels(ticks), strict=True):
        if grid_top is not None:
            marks.append(tag("line", x1=float(place), x2=float(place), y1=grid_top, y2=y, class_="grid"))
        marks.append(tag("line", x1=float(place), x2=float(place), y1=y, y2=y + 4, class_="axis"))
        marks.append(tag("text", text, x=float(place), y=y + 18, text_anchor="middle", class_="tick"))
    marks.append(tag("text", label, x=(scale.start + scale.end) / 2, y=y + 38, text_anchor="middle", class_="label"))
    return Markup("").join(marks)


def y_axis(scale: Scale, x: float, label: str, grid_right: float, most: int = 5) -> Markup:
    """A vertical axis as grid lines, with its label above it."""
    ticks = scale.ticks(most)
    marks = []
    for place, text in zip(scale(ticks), labels(ticks), strict=True):
        marks.append(tag("line", x1=x, x2=grid_right, y1=float(place), y2=float(place), class_="grid"))
        marks.append(tag("text", text, x=x - 6, y=float(place) + 4, text_anchor="end", class_="tick"))
    marks.append(tag("text", label, x=4, y=min(scale.start, scale.end) - 10, class_="label"))
    return Markup("").join(marks)


def labels(ticks: list[float]) -> list[str]:
    """Ticks as texts with the same number of decimals.

    Example:
        >>> labels([0.0, 0.5, 1.0]), labels([0.0, 2500.0])
        (['0.0', '0.5', '1.0'], ['0', '2,500'])
    """
    step = min((b - a for a, b in pairwise(ticks)), default=0.0)
    plain_most, plain_least, uneven = 1e5, 1e-4, 10.0
    largest = max((abs(tick) for tick in ticks), default=0.0)
    if step <= 0 or largest >= plain_most or step < plain_least or ticks[-1] - ticks[-2] >= uneven * step:
        return [number(0.0 if abs(tick) < 1e-9 * largest else tick) for tick in ticks]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if abs(step * 10**decimals - round(step * 10**decimals)) > 1e-6:  # noqa: PLR2004 - a step of 2.5 needs one more
        decimals += 1
    return [f"{tick:,.{decimals}f}".replace("-", "\N{MINUS SIGN}") for tick in _without_minus_zero(ticks)]


def thin(places: IntArray, most: int) -> IntArray:
    """At most so many of the places, evenly, first and last included."""
    if len(places) <= most:
        return places
    return np.asarray(places[np.unique(np.linspace(0, len(places) - 1, most).round().astype(np.int64))])


def _without_minus_zero(ticks: Iterable[float]) -> list[float]:
    return [tick if abs(tick) > 1e-12 else 0.0 for tick in ticks]  # noqa: PLR2004 - rounding of a tick at zero


def _step(rough: float) -> float:
    """The round step at or above a rough one."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * nice for nice in (1, 2, 2.5, 5, 10) if power * nice >= rough * (1 - 1e-9))
