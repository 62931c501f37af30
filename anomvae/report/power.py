"""The section on detection power: what the detector would notice, column by column."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from anomvae.evaluation.faults import CATEGORICAL_FAULTS, NUMERIC_FAULTS
from anomvae.evaluation.power_result import BLIND_STD, LARGEST
from anomvae.evaluation.power_words import (
    FAULT_WORDS,
    FEW,
    basis,
    blind_spots,
    flattery,
    meaning,
    shift_words,
    size_words,
)
from anomvae.report.svg import Scale, dots, drawing, line, tag
from anomvae.report.wording import NOTHING, between, breakable, count, share

if TYPE_CHECKING:
    from anomvae.evaluation.power_result import ColumnPower, PowerResult, ShiftPower

_WIDTH, _HEIGHT, _PAD = 240.0, 38.0, 5.0
_TICKS = (0.25, 1.0, 4.0, 16.0)
_SIZE = Scale(_TICKS[0], LARGEST, 8.0, _WIDTH - 8.0, log=True)
_SHARE = Scale(0.0, 1.0, _HEIGHT - _PAD, _PAD)
_MOST_LINES = 20
_HALF = 0.5


@dataclass(frozen=True, slots=True)
class PowerLine:
    """A column's line in the tables.

    Attributes:
        name: The column.
        is_category: Whether it holds categories or flags.
        blind: What it is blind to, in a word or two; empty where it is not.
        strip: Share caught against size of shift, drawn.
        half: Smallest shift caught half of the time.
        ninety: Smallest caught nine times in ten.
        at_blind_std: Share caught at the shift that tells whether a column is blind.
        caught: Share caught by fault.
        intervals: Their 95 % intervals; empty where the fault was not injected.
        rows: Rows that faults were put into.
    """

    name: str
    is_category: bool
    blind: str
    strip: Markup
    half: str
    ninety: str
    at_blind_std: str
    caught: dict[str, str]
    intervals: dict[str, str]
    rows: str


def power_section(result: PowerResult) -> Markup:
    """The section as HTML, for the page whose style sheet it shares.

    It shows names of columns and counts, never a cell.

    Args:
        result: What was measured.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(breakable=breakable, count=count)
    template = environment.from_string((files("anomvae.report") / "power.html").read_text(encoding="utf-8"))
    numbers = [_line(column, result) for column in result.numbers]
    categories = [_line(column, result) for column in result.categories]
    warning = flattery(result)
    return Markup(  # noqa: S704  the template escapes what it is given
        template.render(
            axis=_axis(),
            blind_std=f"{BLIND_STD:g}",
            warning=None if warning is None else _spaced(warning[0].upper() + warning[1:] + "."),
            spots=[_spaced(sentence) for sentence in blind_spots(result)],
            meaning=[_spaced(sentence) for sentence in meaning(result)],
            basis=[_spaced(sentence) for sentence in basis(result)],
            shifts=[each for each in numbers if each.strip],
            numbers=numbers,
            categories=categories,
            number_faults=[fault for fault in NUMERIC_FAULTS if any(each.intervals[fault] for each in numbers)],
            category_faults=[
                fault for fault in CATEGORICAL_FAULTS if any(each.intervals[fault] for each in categories)
            ],
            named=result.faults,
            words=FAULT_WORDS,
            few=FEW if result.has_few else "",
            most=_MOST_LINES,
        )
    )


def _line(column: ColumnPower, result: PowerResult) -> PowerLine:
    shift = column.shift
    every = dict.fromkeys(NUMERIC_FAULTS + CATEGORICAL_FAULTS)
    known = {fault: column.faults[fault] for fault in every if fault in column.faults}
    return PowerLine(
        name=column.name,
        is_category=column.is_category,
        blind="blind" if column.blind else f"blind {column.blind_side}" if column.blind_side else "",
        strip=Markup() if shift is None else _strip(shift, result.untouched.share),
        half=NOTHING if shift is None else shift_words(shift.half, shift),
        ninety=NOTHING if shift is None else shift_words(shift.ninety, shift),
        at_blind_std=NOTHING if shift is None else share(round(shift.at(BLIND_STD), 2)),
        caught={
            fault: f"{share(round(known[fault].share, 2))}{'*' if column.rests_on_few(fault) else ''}"
            if fault in known
            else NOTHING
            for fault in every
        },
        intervals={fault: between(known[fault].interval) if fault in known else "" for fault in every},
        rows=f"{column.rows:,}",
    )


def _strip(shift: ShiftPower, untouched: float) -> Markup:
    """Share caught against size as a small curve, with half of the rows and the interval of the size caught half of the time."""
    half = float(_SHARE(_HALF))
    start, end = _SIZE.start, _SIZE.end
    xs, ys = _SIZE(shift.sizes), _SHARE([caught.share for caught in shift.caught])
    marks = [
        tag("line", x1=start, x2=end, y1=_SHARE.start, y2=_SHARE.start, class_="axis"),
        tag("line", x1=start, x2=end, y1=half, y2=half, class_="best"),
        tag("line", x1=start, x2=end, y1=float(_SHARE(untouched)), y2=float(_SHARE(untouched)), class_="expected"),
    ]
    if shift.half.size is not None:
        low, high = shift.half.low or shift.sizes[0], shift.half.high or shift.sizes[-1]
        marks.append(tag("line", x1=float(_SIZE(low)), x2=float(_SIZE(high)) + 0.1, y1=half, y2=half, class_="range"))
    marks.append(line(xs, ys, "validation"))
    marks.append(dots(np.asarray(xs), np.asarray(ys), "rank2"))
    says = (
        f"caught half of the time from {shift_words(shift.half, shift)}, nine times in ten from "
        f"{shift_words(shift.ninety, shift)} standard deviations"
    )
    return drawing(*marks, height=_HEIGHT, width=_WIDTH, says=says)


def _axis() -> Markup:
    """The scale of the curves, for the head of their table."""
    marks = [
        tag(
            "text", size_words(size).removesuffix(".0"), x=float(_SIZE(size)), y=11, text_anchor="middle", class_="tick"
        )
        for size in _TICKS
    ]
    return drawing(*marks, height=14, width=_WIDTH, says="size of the shift, standard deviations")


def _spaced(text: str) -> str:
    """Percentages as the page has them, with a narrow space."""
    return re.sub(r"(?<=\d)\s?%", "\N{NARROW NO-BREAK SPACE}%", text)
