"""The rows of the report's tables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anomvae.report.measures import Share, above
from anomvae.report.svg import Scale, crosses, drawing, finite, labels, roomy, tag
from anomvae.report.wording import NOTHING, number, p_value, short, span, tidy, typical
from anomvae.report.wording import nats as in_nats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup

    from anomvae.report.contents import FloatArray, ReportContents, ScoredRows, StrangeRow

_STRIP_WIDTH, _STRIP_HEIGHT = 240.0, 18.0


@dataclass(frozen=True, slots=True)
class ColumnLine:
    """A scored column and what it adds.

    Attributes:
        name: Its name.
        kind: What it is to the model, with its type in the table.
        span: Range or categories.
        missing: Share of missing cells.
        mean: Mean nats on held-out normal rows; NaN where there are none.
        strip: Its middle 90 % of nats, drawn.
        scale: The scale of the strips, which all columns share.
        labelled: Median nats on labelled anomalies; NaN without.
        separates: Chance that it adds more to an anomaly than to a normal row; NaN without labels.
    """

    name: str
    kind: str
    span: str
    missing: float
    mean: float
    strip: Markup
    scale: Scale
    labelled: float
    separates: float


@dataclass(frozen=True, slots=True)
class ReasonChip:
    """A reason of a strange row.

    Attributes:
        column: The column, cut short.
        full: The column in full; empty for the chip that sums up all else.
        value: What the row holds.
        expected: What was expected.
        nats: What it adds, as text.
        weight: Its size relative to the strongest reason of the row, percent.
    """

    column: str
    full: str
    value: str
    expected: str
    nats: str
    weight: float


@dataclass(frozen=True, slots=True)
class StrangeLine:
    """A strange row with its reasons."""

    row: str
    part: str
    score: str
    p_value: str
    reasons: tuple[ReasonChip, ...]


def column_lines(contents: ReportContents, normal: ScoredRows) -> tuple[ColumnLine, ...]:
    """The scored columns, those that add most nats on normal rows first.

    Args:
        contents: What the report shows.
        normal: The rows whose contributions are averaged.
    """
    columns = contents.manifest.scored
    nats = [finite(normal.contribution[:, at]) for at in range(len(columns))]
    strange = [
        finite(contents.labelled.contribution[:, at]) if contents.labelled is not None else np.empty(0)
        for at in range(len(columns))
    ]
    scale = _shared_scale(nats, 0.25 if contents.labelled is not None else 0.0)
    lines = [
        ColumnLine(
            name=column.name,
            kind=column.kind if column.kind == column.type else f"{column.kind} · {short(column.type, 30)}",
            span=typical(column) if contents.manifest.private else span(column),
            missing=column.missing_share,
            mean=float(values.mean()) if len(values) else math.nan,
            strip=_strip(values, others, scale),
            scale=scale,
            labelled=float(np.median(others)) if len(others) else math.nan,
            separates=above(values, others),
        )
        for column, values, others in zip(columns, nats, strange, strict=True)
    ]
    return tuple(sorted(lines, key=lambda each: math.inf if math.isnan(each.mean) else -each.mean))


def separating(lines: Sequence[ColumnLine], most: int = 12) -> tuple[ColumnLine, ...]:
    """The columns that tell labelled anomalies from normal rows best, best first."""
    known = [each for each in lines if not math.isnan(each.separates)]
    return tuple(sorted(known, key=lambda each: -each.separates)[:most])


def strange_lines(rows: Sequence[StrangeRow], most_reasons: int = 5) -> tuple[StrangeLine, ...]:
    """The strangest rows as the table shows them."""
    return tuple(
        StrangeLine(
            row=f"{each.row:,}",
            part=each.part,
            score=in_nats(each.score),
            p_value=p_value(each.p_value),
            reasons=_chips(each, most_reasons),
        )
        for each in rows
    )


def _chips(row: StrangeRow, most: int) -> tuple[ReasonChip, ...]:
    """The reasons, and last what they leave of the score: other columns and the latent term."""
    shown = row.reasons[:most]
    rest = row.score - math.fsum(reason.contribution for reason in shown if math.isfinite(reason.contribution))
    sizes = [size for size in (rest, *(reason.contribution for reason in shown)) if math.isfinite(size)]
    strongest = max(sizes, default=0.0)
    chips = [
        ReasonChip(
            column=short(reason.column, 40),
            full=reason.column,
            value="missing" if reason.value is None else short(reason.value, 48),
            expected=NOTHING if reason.expected is None else short(tidy(reason.expected), 48),
            nats=in_nats(reason.contribution),
            weight=_weight(reason.contribution, strongest),
        )
        for reason in shown
    ]
    if math.isfinite(rest) and shown:
        chips.append(ReasonChip("all else", "", "", "", in_nats(rest), _weight(rest, strongest)))
    return tuple(chips)


def _weight(nats: float, strongest: float) -> float:
    """Length of a bar, percent of the strongest."""
    if nats == math.inf:
        return 100.0
    return max(0.0, min(100.0, 100 * nats / strongest)) if strongest > 0 and math.isfinite(nats) else 0.0


def alarm_share(rows: ScoredRows) -> Share:
    """Alarms among rows."""
    return Share(int(np.count_nonzero(rows.alarm)), len(rows.alarm))


def _shared_scale(nats: Sequence[FloatArray], room: float) -> Scale:
    """One scale for the strips of all columns, with room for anomalies at its right."""
    ends = [np.quantile(values, [0.05, 0.95]) for values in nats if len(values)]
    low = min((float(each[0]) for each in ends), default=0.0)
    high = max((float(each[1]) for each in ends), default=1.0)
    low, high = roomy(min(0.0, low), max(0.0, high))
    return Scale(low, high + room * (high - low), 6.0, _STRIP_WIDTH - 10)


def strip_axis(lines: Sequence[ColumnLine]) -> Markup:
    """The scale of the strips, for the head of their table."""
    scale = lines[0].scale if lines else Scale(0.0, 1.0, 6.0, _STRIP_WIDTH - 10)
    ticks = scale.ticks(5)
    marks = [
        tag("text", text, x=float(place), y=11, text_anchor="middle", class_="tick")
        for place, text in zip(scale(ticks), labels(ticks), strict=True)
    ]
    return drawing(*marks, height=14, width=_STRIP_WIDTH, says="nats")


def meter(mean: float, lines: Sequence[ColumnLine]) -> tuple[float, float, float]:
    """Left end, width and zero of a bar of mean nats, percent of the widest span among the columns.

    Example:
        >>> meter(math.nan, ())
        (0.0, 0.0, 0.0)
    """
    means = [each.mean for each in lines if math.isfinite(each.mean)]
    low, high = min([0.0, *means]), max([0.0, *means])
    if high <= low or not math.isfinite(mean):
        return 0.0, 0.0, 0.0
    zero = -100 * low / (high - low)
    width = 100 * abs(mean) / (high - low)
    return (zero if mean >= 0 else zero - width), width, zero


def _strip(values: FloatArray, others: FloatArray, scale: Scale) -> Markup:
    """The middle 90 % as a bar, the median as a dot, the labelled median as a cross; what lies beyond, at the edge."""
    if not len(values):
        return drawing(height=_STRIP_HEIGHT, width=_STRIP_WIDTH, says="no rows")
    low, middle, high = (float(x) for x in np.quantile(values, [0.05, 0.5, 0.95]))
    y, zero = _STRIP_HEIGHT / 2, float(scale(0.0))
    marks = [
        tag("line", x1=zero, x2=zero, y1=0.0, y2=_STRIP_HEIGHT, class_="zero"),
        tag("line", x1=float(scale(low)), x2=float(scale(high)) + 0.1, y1=y, y2=y, class_="range"),
        tag("circle", cx=float(scale(middle)), cy=y, r=4.0, class_="median"),
    ]
    says = f"5 to 95 %: {number(low)} to {number(high)} nats, median {number(middle)}"
    if len(others):
        strange = float(np.median(others))
        marks.append(crosses(scale([strange]), np.array([y]), "labelled", arm=4.0))
        says += f"; median of labelled anomalies {number(strange)}" + (" (beyond)" if strange > scale.high else "")
    return drawing(*marks, height=_STRIP_HEIGHT, width=_STRIP_WIDTH, says=says)
