"""An axis of time on which steps lie side by side, gaps cut out, and instants as people read them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from anomvae.report.svg import labels, tag
from anomvae.report.wording import number

if TYPE_CHECKING:
    from anomvae.report.contents import FloatArray, IntArray

_MINUTE, _HOUR, _DAY = 60.0, 3_600.0, 86_400.0
_ROUND = (
    *(1.0, 2.0, 5.0, 10.0, 15.0, 30.0),
    *(_MINUTE * each for each in (1, 2, 5, 10, 15, 30)),
    *(_HOUR * each for each in (1, 2, 3, 6, 12)),
    *(_DAY * each for each in (1, 2, 7, 14, 28, 91, 182, 365)),
)
"""Intervals of ticks, seconds."""
_FIRST_TEXT_YEAR = 1e8
"""A time read from text is an instant if it counts more than this: a year is 3e7 seconds."""
_CUT = 0.012
"""Width of a gap that was cut out, of the axis."""


@dataclass(frozen=True, slots=True)
class Clock:
    """How times are said.

    Attributes:
        instants: Whether they are Unix seconds, and not numbers of whatever the time column counts.
        zone: What stands after an instant.
        fine: Digits of a second.
        column: Name of the time column, said before times that are no instants.
    """

    instants: bool
    zone: str = ""
    fine: int = 0
    column: str = ""

    @classmethod
    def of(cls, time_type: str, step_s: float, times_s: FloatArray, column: str = "") -> Clock:
        """That of a time column.

        Args:
            time_type: Arrow type of its cells.
            step_s: Length of a step.
            times_s: Some of its times.
            column: Its name.
        """
        is_text = "string" in time_type or "utf8" in time_type
        late = len(times_s) > 0 and bool(np.abs(times_s[np.isfinite(times_s)]).max(initial=0.0) > _FIRST_TEXT_YEAR)
        instants = time_type.startswith(("timestamp", "date")) or (is_text and late)
        fine = 0 if step_s >= 1.0 else min(6, math.ceil(-math.log10(step_s) - 1e-9))
        return cls(instants, " UTC" if "tz=" in time_type else "", fine, column)

    def say(self, time_s: float) -> str:
        """An instant with its day, or a number.

        Example:
            >>> Clock(instants=True).say(86_400.0 + 3_661.0)
            '2 January 1970, 01:01:01'
        """
        moment = self._moment(time_s)
        return (
            number(time_s) if moment is None else f"{moment.day} {moment:%B %Y}, {self._clock(moment, 0.0)}{self.zone}"
        )

    def span(self, first_s: float, last_s: float) -> str:
        """From one instant to another, the day once where it is one."""
        first, last = self._moment(first_s), self._moment(last_s)
        if first is None or last is None:
            return f"{self.column} {number(first_s)} to {number(last_s)}".lstrip()
        if first.date() != last.date():
            return f"{self.say(first_s).removesuffix(self.zone)} to {self.say(last_s)}"
        day = f"{first.day} {first:%B %Y}"
        return f"{day}, {self._clock(first, 0.0)} to {self._clock(last, 0.0)}{self.zone}"

    def short(self, time_s: float) -> str:
        """An instant without its day, or a number."""
        moment = self._moment(time_s)
        return number(time_s) if moment is None else self._clock(moment, 0.0)

    def tick(self, time_s: float, every_s: float, whole_s: float) -> str:
        """A label of an axis with a tick every so often, that covers so much."""
        moment = self._moment(time_s)
        if moment is None:
            return number(time_s)
        if every_s >= _DAY:
            return f"{moment.day} {moment:%b}" if whole_s < 300 * _DAY else f"{moment.day} {moment:%b %Y}"
        return self._clock(moment, every_s) if whole_s <= _DAY else f"{moment.day} {moment:%b} {moment:%H:%M}"

    def _clock(self, moment: datetime, every_s: float) -> str:
        if every_s >= _MINUTE:
            return f"{moment:%H:%M}"
        if self.fine == 0 or every_s >= 1.0:
            return f"{moment:%H:%M:%S}"
        return f"{moment:%H:%M:%S.%f}"[: 9 + self.fine]

    def _moment(self, time_s: float) -> datetime | None:
        if not self.instants:
            return None
        try:
            return datetime.fromtimestamp(round(time_s, 6), UTC)
        except (ValueError, OverflowError, OSError):
            return None


class TimeAxis:
    """Steps side by side from left to right; where sequences change, a narrow gap stands for whatever lies between.

    Args:
        times_s: Time of each step, shape ``(k,)``, at least one.
        sequence: Number of each step's sequence, equal ones side by side, shape ``(k,)``.
        start: Left end, drawing units.
        end: Right end.
    """

    def __init__(self, times_s: FloatArray, sequence: IntArray, start: float, end: float) -> None:
        self.times_s, self.start, self.end = times_s, start, end
        self.breaks = np.flatnonzero(np.diff(sequence)) + 1
        k = len(times_s)
        gap = _CUT * k if len(self.breaks) * _CUT <= 0.25 else 0.25 * k / max(1, len(self.breaks))  # noqa: PLR2004
        before = np.zeros(k)
        before[self.breaks] = gap
        place = np.arange(k) + np.cumsum(before)
        self.step = (end - start) / (place[-1] + 1.0)
        """Width of a step."""
        self.x = np.asarray(start + (place + 0.5) * self.step, dtype=np.float64)
        """Middle of each step, shape ``(k,)``."""

    @property
    def left(self) -> FloatArray:
        """Left edge of each step."""
        return np.asarray(self.x - self.step / 2)

    @property
    def right(self) -> FloatArray:
        """Right edge of each step."""
        return np.asarray(self.x + self.step / 2)

    def pieces(self) -> list[IntArray]:
        """Positions of the steps, sequence by sequence."""
        return np.split(np.arange(len(self.x)), self.breaks)

    def runs(self, chosen: np.ndarray) -> list[tuple[int, int]]:
        """First and last of the chosen steps that lie side by side."""
        steps = np.flatnonzero(chosen)
        if not len(steps):
            return []
        cut = np.isin(steps[1:], self.breaks) | (np.diff(steps) > 1)
        return [(int(part[0]), int(part[-1])) for part in np.split(steps, np.flatnonzero(cut) + 1)]

    def draw(self, clock: Clock, y: float, grid_top: float, most: int = 8, room: float = 82.0) -> Markup:
        """The axis at height `y`, with grid lines up to `grid_top`.

        Args:
            clock: Says times.
            y: Its height.
            grid_top: Where grid lines end.
            most: Most ticks.
            room: Least distance of two of them.
        """
        marks = [tag("line", x1=self.start, x2=self.end, y1=y, y2=y, class_="axis")]
        cuts = (self.right[self.breaks - 1] + self.left[self.breaks]) / 2
        marks += [tag("line", x1=x, x2=x, y1=grid_top, y2=y, class_="cut") for x in cuts.tolist()]
        for x, text in self.ticks(clock, most, room):
            marks.append(tag("line", x1=x, x2=x, y1=grid_top, y2=y, class_="grid"))
            marks.append(tag("line", x1=x, x2=x, y1=y, y2=y + 4, class_="axis"))
            marks.append(tag("text", text, x=x, y=y + 18, text_anchor="middle", class_="tick"))
        return Markup("").join(marks)

    def ticks(self, clock: Clock, most: int = 8, room: float = 82.0) -> list[tuple[float, str]]:
        """Places and labels, at round times as far as these lie within the steps."""
        pieces = self.pieces()
        covered = sum(float(self.times_s[piece[-1]] - self.times_s[piece[0]]) for piece in pieces)
        whole = float(self.times_s[-1] - self.times_s[0])
        if not covered > 0.0:
            return self._ends(clock, room)
        for every in _intervals(covered / most, clock):
            found = []
            for piece in pieces:
                times = self.times_s[piece]
                first, last = math.ceil(times[0] / every - 1e-9), math.floor(times[-1] / every + 1e-9)
                at = np.arange(first, last + 1) * every
                found += list(zip(np.interp(at, times, self.x[piece]).tolist(), at.tolist(), strict=True))
            kept: list[tuple[float, float]] = []
            for x, at_s in found:
                if not kept or x - kept[-1][0] >= room:
                    kept.append((x, at_s))
            if len(kept) >= 2 and len(kept) > len(found) / 2:  # noqa: PLR2004
                return _labelled(kept, clock, every, whole)
        return self._ends(clock, room)

    def _ends(self, clock: Clock, room: float) -> list[tuple[float, str]]:
        """The first step of each sequence that has room, and the last step."""
        kept: list[tuple[float, float]] = []
        for x, at_s in ((float(self.x[piece[0]]), float(self.times_s[piece[0]])) for piece in self.pieces()):
            if not kept or x - kept[-1][0] >= room:
                kept.append((x, at_s))
        if self.x[-1] - kept[-1][0] >= room:
            kept.append((float(self.x[-1]), float(self.times_s[-1])))
        whole = float(self.times_s[-1] - self.times_s[0])
        return [(x, clock.tick(at_s, 0.0 if whole <= _DAY else _HOUR, whole)) for x, at_s in kept]


def _labelled(kept: list[tuple[float, float]], clock: Clock, every: float, whole: float) -> list[tuple[float, str]]:
    if clock.instants:
        return [(x, clock.tick(at_s, every, whole)) for x, at_s in kept]
    even = len({round(b - a, 9) for (_, a), (_, b) in itertools.pairwise(kept)}) == 1
    texts = labels([at_s for _, at_s in kept]) if even else [number(at_s) for _, at_s in kept]
    return [(x, text) for (x, _), text in zip(kept, texts, strict=True)]


def _intervals(least: float, clock: Clock) -> list[float]:
    """Round intervals from the first at or above the least, a few."""
    power = 10.0 ** math.floor(math.log10(least))
    plain = [power * nice for nice in (1, 2, 5, 10, 20, 50)]
    known = plain if not clock.instants or least < _ROUND[0] else [*_ROUND, *(_ROUND[-1] * each for each in plain)]
    return [every for every in known if every >= least * (1 - 1e-9)][:3]
