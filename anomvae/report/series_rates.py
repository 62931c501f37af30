"""Alarm rates of steps in order of time, as stated and as found, with intervals that know that alarms come in clusters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from anomvae.calibration.blocks import RateInterval, rate_interval
from anomvae.calibration.conformal import ROUNDING
from anomvae.report.svg import Figure, Scale, area, drawing, line, tag, x_axis, y_axis
from anomvae.report.wording import NOTHING, between, count, number, rate, share, short

if TYPE_CHECKING:
    from anomvae.bundle import Calibration
    from anomvae.report.contents import FloatArray
    from anomvae.report.series_contents import CheckedSteps, SeriesReport

_LEFT, _RIGHT, _TOP, _FLOOR, _HEIGHT = 58.0, 506.0, 34.0, 302.0, 346.0
_GRID = 12
"""Rates at which the interval is told."""
_WIDTH, _STRIP = 200.0, 18.0
MOST_ASSETS = 12
MOST_LISTED = 100
FEWEST_STEPS = 8
"""Of fewer steps no rate is told."""


@dataclass(frozen=True, slots=True)
class AssetRate:
    """What was found of one asset, or of all.

    Attributes:
        name: Its name.
        table: Whose calibration its steps are held against.
        checked: Validation steps.
        found: Share of them that alarm.
        interval: Its 95 % interval.
        strip: Both drawn.
        calibration: Share of its calibration steps that alarm, of how many.
    """

    name: str
    table: str
    checked: str
    found: str
    interval: str
    strip: Markup
    calibration: str


def found_rate(steps: CheckedSteps, alarm_rate: float) -> RateInterval | None:
    """The share of steps that would alarm at a rate, with its 95 % interval; None: there are too few."""
    if len(steps.p_value) < FEWEST_STEPS:
        return None
    # rows whose p-value is at most the rate alarm, those above the threshold in the terms of the interval
    p = np.where(np.isnan(steps.p_value), 0.0, steps.p_value)
    limit = -np.nextafter(np.float64(alarm_rate) * (1.0 + ROUNDING), 1.0)
    return rate_interval(-p, steps.segment, float(limit))


def asset_rates(contents: SeriesReport) -> tuple[AssetRate, ...]:
    """All steps, then each asset's, those of which most alarm in either part first."""
    facts = contents.manifest.series
    batch = contents.manifest.calibration if facts is None or facts.batch is None else facts.batch
    checked, stated = contents.checks[0], batch.alarm_rate
    every = _rate("all", "", checked, contents.calibration, stated)
    if len(contents.assets) < 2:  # noqa: PLR2004
        return (every,)
    own = {group.name for group in batch.groups}
    worst = np.maximum(*(_alarm_shares(part, len(contents.assets), stated) for part in (checked, contents.calibration)))
    return (
        every,
        *(
            _rate(
                short(contents.assets[asset], 40),
                "its own" if contents.assets[asset] in own else "all assets'",
                checked.of(asset),
                contents.calibration.of(asset),
                stated,
            )
            for asset in np.argsort(-worst, kind="stable")[:MOST_LISTED].tolist()
        ),
    )


def _alarm_shares(steps: CheckedSteps, assets: int, stated: float) -> FloatArray:
    """Share of each asset's steps that alarm, 0 of those without, shape ``(a,)``."""
    alarms = steps.p_value <= stated * (1.0 + ROUNDING)
    rows = np.bincount(steps.asset, minlength=assets)
    return np.asarray(np.bincount(steps.asset, weights=alarms, minlength=assets) / np.maximum(rows, 1))


def _rate(name: str, table: str, checked: CheckedSteps, calibration: CheckedSteps, stated: float) -> AssetRate:
    interval = found_rate(checked, stated)
    alarms = calibration.p_value <= stated * (1.0 + ROUNDING)
    calibrating = f"{share(float(alarms.mean()))} of {len(alarms):,}" if len(alarms) else NOTHING
    steps = f"{len(checked.p_value):,}"
    if interval is None:
        return AssetRate(name, table, steps, NOTHING, NOTHING, Markup(""), calibrating)
    ends = between((interval.low, interval.high))
    return AssetRate(name, table, steps, share(interval.rate), ends, _strip(interval, stated), calibrating)


def _strip(interval: RateInterval, stated: float) -> Markup:
    """The rate found over its interval, the stated one as a line."""
    x = _strip_scale(stated)
    y = _STRIP / 2
    marks = [
        tag("line", x1=float(x(stated)), x2=float(x(stated)), y1=0.0, y2=_STRIP, class_="zero"),
        tag("line", x1=float(x(interval.low)), x2=float(x(interval.high)) + 0.1, y1=y, y2=y, class_="range chance"),
        tag("circle", cx=float(x(interval.rate)), cy=y, r=3.5, class_="found"),
    ]
    says = f"found {share(interval.rate)}, between {between((interval.low, interval.high))}; stated {share(stated)}"
    return drawing(*marks, height=_STRIP, width=_WIDTH, says=says)


def _strip_scale(stated: float) -> Scale:
    """From 0 to eight times the stated rate, or to all; what lies beyond is drawn at the edge."""
    return Scale(0.0, min(1.0, 8.0 * stated), 6.0, _WIDTH - 6.0)


def strip_axis(stated: float) -> Markup:
    """The scale of the strips, for the head of their table."""
    x = _strip_scale(stated)
    marks = [
        tag("text", share(tick), x=float(x(tick)), y=11, text_anchor="middle", class_="tick")
        for tick in (stated, x.high)
    ]
    return drawing(*marks, height=14, width=_WIDTH, says="share of steps that alarm")


def evenness(steps: CheckedSteps, facts: Calibration) -> Figure | None:
    """Share of steps that would alarm against the stated rate, with 95 % intervals; None: there are too few steps."""
    end = min(1.0, max(0.25, 4.0 * facts.alarm_rate))
    grid = np.unique(np.append(np.linspace(end / _GRID, end, _GRID), facts.alarm_rate))
    found = [interval for interval in (found_rate(steps, float(asked)) for asked in grid) if interval is not None]
    if not found:
        return None
    # what is open at a rate is open at higher ones too: without an alarm less is known than with a few
    low = np.minimum.accumulate([each.low for each in found][::-1])[::-1]
    high = np.maximum.accumulate([each.high for each in found])
    top = min(1.0, max(end, float(np.max([each.rate for each in found])) * 1.1, min(1.0, 2.0 * end)))
    x, y = Scale(0.0, end, _LEFT, _RIGHT), Scale(0.0, top, _FLOOR, _TOP)
    asked, shares = _stairs(steps.p_value, end)
    at = float(x(facts.alarm_rate))
    marks = [
        area(x(grid), y(low), y(high), "expected-band"),
        x_axis(x, _FLOOR, "stated alarm rate", grid_top=_TOP),
        y_axis(y, _LEFT, "share of steps that would alarm", _RIGHT),
        tag("line", x1=float(x(0.0)), y1=float(y(0.0)), x2=float(x(end)), y2=float(y(end)), class_="expected"),
        line(x(asked), y(shares), "validation"),
        tag("line", x1=at, x2=at, y1=_TOP, y2=_FLOOR, class_="best"),
        tag("text", f"stated {rate(facts.alarm_rate)}", x=at + 5, y=_TOP + 14, class_="tick name"),
    ]
    here = found[int(np.searchsorted(grid, facts.alarm_rate))]
    caption = (
        f"{count(len(steps.p_value), 'validation step')}, whose alarms scatter as those of about {number(round(here.effective_rows))} "
        f"independent ones would. At the stated {rate(facts.alarm_rate)}, {share(here.rate)} alarm (95 % interval "
        f"{between((here.low, here.high))}). On the dashed line as many steps alarm as was stated; above it more."
    )
    return Figure(
        f"Stated against found: {steps.name}",
        drawing(*marks, height=_HEIGHT, says=caption),
        caption,
        (("validation", "validation steps"), ("chance", "95 % interval")),
    )


def _stairs(p_value: FloatArray, end: float) -> tuple[FloatArray, FloatArray]:
    """Share of steps with a p-value of at most each rate, as a staircase from 0 to `end`."""
    p = np.where(np.isnan(p_value), 0.0, p_value)
    steps, counts = np.unique(p[p <= end * (1.0 + ROUNDING)], return_counts=True)
    levels = np.cumsum(counts) / len(p)
    asked = np.concatenate([[0.0], np.repeat(steps, 2), [end]])
    return asked, np.concatenate([[0.0, 0.0], np.repeat(levels, 2)])
