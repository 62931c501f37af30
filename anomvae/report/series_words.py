"""What was odd, when, in which channel and which way, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anomvae.report.wording import number, short

if TYPE_CHECKING:
    from anomvae.report.contents import FloatArray, IntArray
    from anomvae.report.series_axis import Clock
    from anomvae.report.series_contents import StrangeStretch

MOST_CHANNELS = 6
LEAST_SHARE = 0.04
"""A channel that adds less is not drawn by itself, the first aside."""
OUTSIDE = 2.0
"""Standard deviations around what was expected that are its band."""
MOSTLY = 0.2
MANY = 100.0
MIXED = 0.5
"""A channel went both ways if it went the other way at least so far."""
NEAR = 8
"""Alarms at most so many steps apart are one; without an alarm the strangest step counts with those so near."""
_EMPTY = 0.5


@dataclass(frozen=True, slots=True)
class ChannelPart:
    """A channel's part in a strange stretch.

    Attributes:
        place: Its number.
        name: Its name.
        share: Of what all channels add above their usual there.
        away: Standard deviations from what was expected, the furthest there; NaN: nothing is observed or expected.
        says: Which way it went, in words.
    """

    place: int
    name: str
    share: float
    away: float
    says: str


def odd_steps(stretch: StrangeStretch) -> IntArray:
    """The steps that a stretch is about: from the first to the last alarm around its strangest step, or those near it."""
    t, peak = len(stretch.score), stretch.peak
    if not stretch.alarm[peak]:
        return np.arange(max(0, peak - NEAR), min(t, peak + NEAR + 1))
    alarms = np.flatnonzero(stretch.alarm)
    runs = np.split(alarms, np.flatnonzero(np.diff(alarms) > NEAR) + 1)
    run = next(run for run in runs if run[0] <= peak <= run[-1])
    return np.arange(run[0], run[-1] + 1)


def channel_parts(stretch: StrangeStretch, columns: tuple[str, ...]) -> tuple[ChannelPart, ...]:
    """All channels, what adds most first."""
    steps = odd_steps(stretch)
    above = np.nansum(np.clip(stretch.contribution[steps], 0.0, None), axis=0)
    shares = above / above.sum() if above.sum() > 0.0 else np.zeros_like(above)
    order = np.argsort(-shares, kind="stable")
    return tuple(_part(stretch, steps, int(j), columns[int(j)], float(shares[j])) for j in order)


def drawn_parts(parts: tuple[ChannelPart, ...]) -> tuple[ChannelPart, ...]:
    """Those that are drawn by themselves: at least one."""
    return tuple(part for place, part in enumerate(parts[:MOST_CHANNELS]) if place == 0 or part.share >= LEAST_SHARE)


def _part(stretch: StrangeStretch, steps: IntArray, j: int, name: str, share_of: float) -> ChannelPart:
    away = standardised(stretch, j)[steps]
    known = np.isfinite(away)
    missing = np.isnan(stretch.observed[steps, j])
    if not known.any():
        return ChannelPart(j, name, share_of, float("nan"), "missing" if missing.all() else "nothing was expected")
    far = float(away[known][np.argmax(np.abs(away[known]))])
    return ChannelPart(j, name, share_of, far, _way(away[known], far, float(missing.mean())))


def _way(away: FloatArray, far: float, missing: float) -> str:
    gone = ", mostly missing" if missing > _EMPTY else ""
    if abs(far) <= OUTSIDE:
        return f"within its band: odd beside the others, after what came before, or a value never seen{gone}"
    other = float(np.max(-np.sign(far) * away))
    way = "above and below" if other > max(OUTSIDE, MIXED * abs(far)) else "above" if far > 0 else "below"
    size = f"more than {MANY:.0f}" if abs(far) > MANY else f"up to {abs(far):.1f}"
    return f"{way} what was expected, by {size} standard deviations{gone}"


def standardised(stretch: StrangeStretch, j: int) -> FloatArray:
    """Distance of a channel from what was expected, in its standard deviations, NaN where either is not known; ``(t,)``."""
    deviation = stretch.deviation[:, j]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        away: FloatArray = (stretch.observed[:, j] - stretch.expected[:, j]) / np.where(
            deviation > 0, deviation, np.nan
        )
    return away


def headline(stretch: StrangeStretch, parts: tuple[ChannelPart, ...], clock: Clock) -> str:
    """When, and which channels, in a sentence or two."""
    (first, last), peak = stretch.span_s, float(stretch.time_s[stretch.peak])
    if stretch.alarm[stretch.peak]:
        when = f"Alarm from {clock.short(first)} to {clock.short(last)}, worst at {clock.short(peak)}."
        if first == last:
            when = f"Alarm at {clock.short(peak)}."
    else:
        when = f"No alarm; strangest at {clock.short(peak)}."
    told = [f"{short(part.name, 40)} ({percent(part.share)}), {part.says}" for part in drawn_parts(parts)[:2]]
    if not parts or parts[0].share <= 0.0:
        return f"{when} No channel stands out."
    mostly = "Mostly" if parts[0].share >= MOSTLY else "Spread over many channels, most in"
    return f"{when} {mostly} {told[0]}{f'; then {told[1]}' if len(told) > 1 else ''}."


def facts(stretch: StrangeStretch) -> str:
    """Rows, part, score against its threshold, p-value and alarms of a stretch."""
    rows = stretch.row[stretch.row > 0]
    score = float(stretch.score[stretch.peak])
    against = f" against a threshold of {number(stretch.threshold)}" if np.isfinite(stretch.threshold) else ""
    alarms = int(stretch.alarm.sum())
    where = f"rows {rows.min():,} to {rows.max():,}" if len(rows) else "no rows"
    verdict = f"{alarms:,} of {len(rows):,} steps alarm" if alarms else "no alarm"
    return f"{where} · score up to {number(score)}{against} · p {_p(stretch.p_value)} · {verdict}"


def percent(value: float) -> str:
    """A share as a whole percentage.

    Example:
        >>> percent(0.534), percent(0.004)
        ('53 %', '< 1 %')
    """
    least = 0.01
    return "< 1 %" if 0.0 < value < least else f"{100 * value:.0f} %"


def _p(value: float) -> str:
    return "n/a" if not np.isfinite(value) else f"{value:.2g}"
