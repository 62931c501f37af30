"""Structured logs: one event, one line, however strange its values and however often it happens."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from threading import Lock
from typing import TYPE_CHECKING, Literal, TextIO

from anomvae.observability.log_values import Plain, plain, text
from anomvae.observability.log_writer import MAX_LINES, writer_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Level = Literal["info", "warning", "error"]
LEVELS: tuple[Level, ...] = ("info", "warning", "error")
FORMATS = ("json", "text")
RESERVED = ("time", "level", "event", "suppressed")
MAX_EVENTS = 1000
"""Kinds of events whose frequency is watched at a time; beyond them the watch starts afresh."""


class _Flood:
    """Cuts equal events to so many a second."""

    def __init__(self, limit_per_s: int) -> None:
        self._limit_per_s = limit_per_s
        self._seen: dict[tuple[str, str], list[float]] = {}

    def admit(self, key: tuple[str, str], now_s: float) -> int | None:
        """Lines of this event suppressed since the last one written; None: suppress this one too."""
        window = self._seen.get(key)
        if window is None:
            if len(self._seen) >= MAX_EVENTS:
                self._seen.clear()
            window = self._seen[key] = [now_s, 0, 0]
        if now_s - window[0] >= 1.0:
            window[0], window[1] = now_s, 0
        if window[1] >= self._limit_per_s:
            window[2] += 1
            return None
        window[1] += 1
        suppressed, window[2] = int(window[2]), 0
        return suppressed

    def owed(self) -> list[tuple[tuple[str, str], int]]:
        """Events with suppressed lines that no line has told yet, which are thereby told."""
        owed = [(key, int(window[2])) for key, window in self._seen.items() if window[2]]
        for key, _ in owed:
            self._seen[key][2] = 0
        return owed


class Log:
    """Writes events as lines. Any thread may write; a stream that fails loses the line and stops nobody.

    A stream that nobody reads holds nobody up either: lines wait, so many of them; what comes beyond is dropped, and the event
    `log lines dropped` tells how many were.

    Args:
        stream: Where to; None: standard error.
        format: `json`, or `text` for people at a terminal.
        level: Least level written: `info`, `warning` or `error`.
        limit_per_s: Lines a second of one event at one level; the next one then tells how many were `suppressed`.
        max_lines: Most lines that wait for the stream.
        clock: Unix time in seconds.
        monotonic: Seconds that only grow, for the limit.

    Raises:
        ValueError: No such format or level, or a limit below 1.
    """

    def __init__(  # noqa: PLR0913 - all but the first are asked for by name
        self,
        stream: TextIO | None = None,
        *,
        format: Literal["json", "text"] = "json",  # noqa: A002 - the word of the option
        level: Level = "info",
        limit_per_s: int = 10,
        max_lines: int = MAX_LINES,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if format not in FORMATS or level not in LEVELS or limit_per_s < 1:
            raise ValueError(
                f"a log takes a format of {FORMATS}, a level of {LEVELS} and a limit of at least 1 a second"
            )
        self._writer = writer_of(sys.stderr if stream is None else stream, max_lines)
        self._dropped = 0
        self._line = _json_line if format == "json" else _text_line
        self._levels = LEVELS[LEVELS.index(level) :]
        self._clock, self._monotonic = clock, monotonic
        self._flood, self._lock = _Flood(limit_per_s), Lock()

    def info(self, event: str, /, **fields: object) -> None:
        """What happens in the normal course of things."""
        self.write("info", event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """What works, but not as it was meant to."""
        self.write("warning", event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        """What failed."""
        self.write("error", event, fields)

    def write(self, level: Level, event: str, fields: Mapping[str, object]) -> None:
        """Writes an event, unless its level is below the log's or too many like it were just written.

        Args:
            level: How bad it is.
            event: What happened, in few constant words; what varies belongs in fields.
            fields: Facts of it, by name; a name the log itself uses gets an underscore behind it.
        """
        if level not in self._levels:
            return
        with self._lock:
            suppressed = self._flood.admit((level, event), self._monotonic())
            if suppressed is not None:
                self._emit(level, event, fields, suppressed)

    def flush(self) -> None:
        """Tells what was suppressed or dropped and not told yet, as a last word before the end; waits a second at most."""
        self._writer.flush()
        with self._lock:
            for (level, event), suppressed in self._flood.owed():
                self._emit(level, event, {}, suppressed)
            self._tell_dropped()
        self._writer.flush()

    def _emit(self, level: str, event: str, fields: Mapping[str, object], suppressed: int) -> None:
        self._tell_dropped()
        if not self._writer.put(self._lined(level, event, fields, suppressed)):
            self._dropped += 1

    def _tell_dropped(self) -> None:
        if self._dropped and self._writer.put(
            self._lined("warning", "log lines dropped", {"dropped": self._dropped}, 0)
        ):
            self._dropped = 0

    def _lined(self, level: str, event: str, fields: Mapping[str, object], suppressed: int) -> str:
        moment = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        told: dict[str, Plain] = {"time": moment, "level": level, "event": text(event)}
        if suppressed:
            told["suppressed"] = suppressed
        for name, value in fields.items():
            told[text(f"{name}_" if name in RESERVED else name)] = plain(value)
        return self._line(told)


def _json_line(told: dict[str, Plain]) -> str:
    # ASCII alone: not even the line separators of Unicode can part the line.
    return json.dumps(told, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def _text_line(told: dict[str, Plain]) -> str:
    """`2026-01-31T12:00:00.000Z WARNING event name=value`, where anything but a plain word is written as JSON."""
    fields = [f"{_word(name)}={_word(value)}" for name, value in told.items() if name not in {"time", "level", "event"}]
    event = str(told["event"])
    shown = event if event.isprintable() else json.dumps(event)
    return " ".join([str(told["time"]), str(told["level"]).upper().ljust(7), shown, *fields])


def _word(value: Plain) -> str:
    if isinstance(value, str) and value and value.isprintable() and not any(mark in value for mark in ' ="\\'):
        return value
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
