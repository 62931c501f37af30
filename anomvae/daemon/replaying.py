"""What a stream would have said of rows that have been: the same lane, the rows in order of time, the answers counted."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from anomvae.daemon.stream_models import counts_unix_time, series_windows
from anomvae.data.fitted_times import with_fitted_times
from anomvae.data.off import parse_off
from anomvae.data.series import known_columns, require_names
from anomvae.data.times import NUMBER, read_time, read_times
from anomvae.errors import CellError, DataFileError, SettingError
from anomvae.streaming.codec import Decoded
from anomvae.streaming.contracts import Origin, Record
from anomvae.streaming.series_lane import SeriesLane
from anomvae.streaming.settings import AnswerSettings, EventSettings
from anomvae.streaming.table_lane import TableLane, known_asset, known_time
from anomvae.streaming.times import MILLISECONDS_FROM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomvae.bundle import Manifest
    from anomvae.streaming.graph_runner import StreamModel
    from anomvae.streaming.lane import Answered

    FloatArray = npt.NDArray[np.float64]
    IntArray = npt.NDArray[np.int64]

AT_ONCE = 8_192
"""Rows answered at a time."""
NUMBER_FIELD = "\0row"
"""Field that tells an answer's row; no column has such a name."""
DAY_S = 86_400.0
MOST_NAMED = 20
"""Columns that a message names."""


@dataclass(frozen=True, slots=True)
class ReplaySettings:
    """What is replayed, and how it is answered.

    Attributes:
        begin: First moment, ISO 8601, or a number where the time is one; None: the first row's.
        end: The moment after the last; None: all rows to the last.
        time: Table models: column of the time; None: the one the manifest knows.
        asset: Table models: column of the asset; None: likewise, if any.
        alarm_rate: Replaces the model's.
        top: Reasons an alarm.
        events: How alarms become events; None: they do not.
        threads: That run the graph.
    """

    begin: str | None = None
    end: str | None = None
    time: str | None = None
    asset: str | None = None
    alarm_rate: float | None = None
    top: int = 3
    events: EventSettings | None = None
    threads: int = 2


@dataclass(slots=True)
class Tally:
    """What rows came to.

    Attributes:
        scored: Rows that have a score.
        alarms: Of those.
        events: Events that began there.
        reasons: Alarms that name a column among their reasons, and their contributions together, by column.
    """

    scored: int = 0
    alarms: int = 0
    events: int = 0
    reasons: dict[str, list[float]] = field(default_factory=dict)

    def top_reasons(self, most: int) -> list[dict[str, Any]]:
        """The columns that gave most to alarms."""
        strongest = sorted(self.reasons.items(), key=lambda entry: -entry[1][1])[:most]
        return [
            {"column": column, "alarms": int(alarms), "contribution": total / alarms}
            for column, (alarms, total) in strongest
        ]


@dataclass(slots=True)
class Replayed:
    """What a replay has come to.

    Attributes:
        rows: Rows between begin and end.
        unscored: Rows that have no score, by reason.
        dead: Rows that cannot be answered.
        why_dead: What is wrong with the first of these; empty without.
        days: By day, UTC; none where the time is a count.
        assets: By asset, by name.
        events: As the stream would have told them, ended ones only.
        span_s: From begin to end, or from the first row to the last and a step more, in the unit of the time.
        has_days: Whether the time is one of a calendar.
    """

    rows: int = 0
    unscored: Counter[str] = field(default_factory=Counter)
    dead: int = 0
    why_dead: str = ""
    days: dict[str, Tally] = field(default_factory=dict)
    assets: dict[str, Tally] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    span_s: float = 0.0
    has_days: bool = True

    @property
    def scored(self) -> int:
        """Rows that have a score."""
        return sum(tally.scored for tally in self.assets.values())

    @property
    def alarms(self) -> int:
        """Rows that alarm."""
        return sum(tally.alarms for tally in self.assets.values())


def replay(model: StreamModel, rows: pa.Table, settings: ReplaySettings) -> Replayed:
    """Answers rows as a stream would have.

    Rows are taken in order of time, over all assets. Those before the beginning that windows need fill them, and count for
    nothing.

    Args:
        model: The model.
        rows: At least its columns and a time.
        settings: What of them, and how.

    Raises:
        SettingError: Beginning or end is no time, nothing lies between them, or no column tells the time.
        DataFileError: There are no rows.
        InputError: The rows do not fit the model, or none of them can be answered.
        TooFewRowsError: The calibration rows do not support the alarm rate.
    """
    manifest = model.manifest
    time_column, asset = _columns(manifest, settings)
    needed = _needed(manifest, time_column, asset)
    _refuse_unknown(settings, rows.schema.names)
    require_names(rows.schema.names, needed, known_columns(manifest))
    if rows.num_rows == 0:
        raise DataFileError("the data hold no rows, so there is nothing to replay")
    if manifest.series is not None:
        rows = with_fitted_times(rows, manifest.series)
    is_calendar = counts_unix_time(manifest)
    times = read_times(rows.column(time_column), time_column)
    if is_calendar:
        times = np.where(np.abs(times) >= MILLISECONDS_FROM, times / 1000.0, times)
    begin, end = _range(settings, is_calendar=is_calendar)
    chosen = np.flatnonzero((times >= begin - _lead(manifest)) & (times < end))
    order = chosen[np.argsort(times[chosen], kind="stable")]
    if not (times[order] >= begin).any():
        raise SettingError("no row lies between --from and --to; leave them out to replay all rows")
    found = Replayed(has_days=is_calendar, rows=int((times[order] >= begin).sum()))
    first = max(begin, float(times[order][0])) if math.isinf(begin) else begin
    last = float(times[order][-1]) + (0.0 if manifest.series is None else manifest.series.step_s)
    found.span_s = (last if math.isinf(end) else end) - first
    names = None if asset is None else _names(rows.column(asset))
    codec = _TableCodec(rows.select(needed))
    lane = _lane(model, codec, settings)
    for start in range(0, len(order), AT_ONCE):
        part = order[start : start + AT_ONCE]
        records = [Record(b"%d" % row, Origin("replay", 0, start + i)) for i, row in enumerate(part.tolist())]
        before = times[part] < begin
        _count(found, lane.answer(records, before if before.any() else None, math.inf), times, names)
    _count(found, lane.finish(), times, names)
    if found.dead and not found.assets:
        raise CellError(f"no row can be answered; of the first, {found.why_dead}")
    return found


def _columns(manifest: Manifest, settings: ReplaySettings) -> tuple[str, str | None]:
    facts = manifest.series
    if facts is not None:
        if settings.time is not None or settings.asset is not None:
            raise SettingError(
                f"--time and --asset are for models of tables; {manifest.name!r} scores series and has its own"
            )
        return facts.time, facts.asset
    time_column = settings.time or known_time(manifest)
    if time_column is None:
        raise SettingError(f"a replay goes by time, and {manifest.name!r} knows no column of it; name it with --time")
    return time_column, settings.asset or known_asset(manifest)


def _refuse_unknown(settings: ReplaySettings, present: Sequence[str]) -> None:
    for flag, name in (("--time", settings.time), ("--asset", settings.asset)):
        if name is not None and name not in present:
            have = ", ".join(repr(column) for column in present[:MOST_NAMED])
            more = f" and {len(present) - MOST_NAMED:,} more" if len(present) > MOST_NAMED else ""
            raise SettingError(f"{flag} names {name!r}, which the rows lack; they have {have}{more}")


def _needed(manifest: Manifest, time_column: str, asset: str | None) -> list[str]:
    facts, group = manifest.series, manifest.calibration.group_column
    off = () if facts is None or facts.off is None else parse_off(facts.off).columns
    others = [time_column, asset, None if group is None else group.name, *off]
    return list(dict.fromkeys([*(column.name for column in manifest.columns), *(name for name in others if name)]))


def _range(settings: ReplaySettings, *, is_calendar: bool) -> tuple[float, float]:
    begin = _moment(settings.begin, "--from", is_calendar=is_calendar)
    end = _moment(settings.end, "--to", is_calendar=is_calendar)
    low, high = -math.inf if begin is None else begin, math.inf if end is None else end
    if low >= high:
        raise SettingError(
            "--from does not lie before --to; the rows from the one up to, not with, the other are replayed"
        )
    return low, high


def _moment(text: str | None, flag: str, *, is_calendar: bool) -> float | None:
    if text is None:
        return None
    is_number = NUMBER.fullmatch(text.strip()) is not None
    if is_calendar == is_number:
        wanted = (
            "a date or a time, as 2026-10-01 or 2026-10-01T06:00+02:00" if is_calendar else "a number, as the time is"
        )
        raise SettingError(f"{flag} must be {wanted}")
    try:
        return read_time(text, flag)
    except CellError:
        raise SettingError(f"{flag} is no time; write it as 2026-10-01 or 2026-10-01T06:00+02:00") from None


def _lead(manifest: Manifest) -> float:
    """How long before the beginning windows reach back."""
    facts = manifest.series
    return 0.0 if facts is None else (facts.window + facts.longest_gap + 1) * facts.step_s


def _lane(model: StreamModel, codec: _TableCodec, settings: ReplaySettings) -> SeriesLane | TableLane:
    answers = AnswerSettings(
        settings.top, alarm_rate=settings.alarm_rate, threads=settings.threads, asset=settings.asset, time=settings.time
    )
    if model.manifest.series is None:
        return TableLane(model, codec, answers, settings.events)
    return SeriesLane(model, codec, answers, series_windows(model.manifest), settings.events)


def _names(column: pa.ChunkedArray) -> list[str]:
    return ["" if name is None else str(name) for name in column.to_pylist()]


def _count(found: Replayed, answered: Answered, times: FloatArray, names: list[str] | None) -> None:
    found.unscored += answered.counts.unscored
    if answered.dead and not found.dead:
        found.why_dead = answered.dead[0].reason
    found.dead += len(answered.dead)
    for message in answered.answers:
        answer = orjson.loads(message.payload)
        row = answer[NUMBER_FIELD]
        by_asset = found.assets.setdefault("" if names is None else names[row], Tally())
        if answer["score"] is None:
            continue
        tallies = [by_asset]
        if found.has_days:
            tallies.append(found.days.setdefault(_day(times[row]), Tally()))
        for tally in tallies:
            tally.scored += 1
            tally.alarms += answer["alarm"]
            if answer["alarm"]:
                _add_reasons(tally, answer["reasons"])
    for message in answered.events:
        event = orjson.loads(message.payload)
        found.events.append({name: value for name, value in event.items() if name not in ("kind", "event")})
        asset, begun = event["asset"], event["start"]
        found.assets.setdefault("" if asset is None else str(asset), Tally()).events += 1
        if found.has_days and begun is not None:
            found.days.setdefault(_day(read_time(begun, "start")), Tally()).events += 1


def _add_reasons(tally: Tally, reasons: Sequence[dict[str, Any]]) -> None:
    for reason in reasons:
        known = tally.reasons.setdefault(reason["column"], [0, 0.0])
        known[0] += 1
        known[1] += reason["contribution"]


def _day(time_s: float) -> str:
    if abs(time_s) >= MILLISECONDS_FROM:
        time_s /= 1000.0
    return (dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=time_s)).date().isoformat()


class _TableCodec:
    """Reads payloads that are row numbers of a table; see :class:`~anomvae.streaming.codec.Codec`."""

    def __init__(self, rows: pa.Table) -> None:
        self._rows = rows

    def decode(self, payloads: Sequence[bytes]) -> Decoded:
        """Rows by their numbers."""
        numbers = [int(payload) for payload in payloads]
        rows = self._rows.take(pa.array(numbers)).to_pylist()
        for row, number in zip(rows, numbers, strict=True):
            row[NUMBER_FIELD] = number
        return Decoded(rows, range(len(rows)), None, [])
