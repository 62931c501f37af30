"""Times of rows as seconds: of a whole column, and of one value alike."""

from __future__ import annotations

import datetime as dt
import math
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from anomvae.data.encoding import is_text
from anomvae.data.text_cells import date_orders
from anomvae.errors import CellError, SchemaError

FloatArray = npt.NDArray[np.float64]

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_DAY_S = 86_400.0
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
"""A number as text."""


def read_times(cells: pa.Array | pa.ChunkedArray, name: str) -> FloatArray:
    """Times of a column's cells: Unix seconds of timestamps and dates, numbers as they are.

    Timestamps without a zone count as UTC, unless others of the column have one: then nobody knows. Text is read as numbers,
    or else as ISO 8601 timestamps. Doubles tell microseconds apart until the year 2242.

    Args:
        cells: Shape ``(n,)``.
        name: The column's name, for messages.

    Raises:
        SchemaError: Cells are empty or hold no time, some name an offset and some do not, or the type orders nothing.

    Example:
        >>> read_times(pa.array(["1970-01-01T01:00:00.5+01:00", "1970-01-01T00:00:02Z"]), "when")
        array([0.5, 2. ])
    """
    if pa.types.is_dictionary(cells.type):
        cells = pc.cast(cells, cells.type.value_type)
    if is_text(cells.type):
        trimmed = pc.utf8_trim_whitespace(pc.cast(cells, pa.string()))
        cells = pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), trimmed)
    if cells.null_count:
        _refuse(name, np.asarray(pc.is_null(cells)), "empty cells")
    times = _of_text(cells, name) if is_text(cells.type) else _of_type(cells, name)
    if not np.isfinite(times).all():
        _refuse(name, ~np.isfinite(times), "cells that are no finite number")
    return times


def read_time(value: object, name: str) -> float:
    """Time of one value, as :func:`read_times` reads a cell that holds it.

    Args:
        value: A number, ISO 8601 text, a datetime or a date.
        name: Name of the field, for messages.

    Raises:
        CellError: It is none of these.

    Example:
        >>> read_time("1970-01-02", "when")
        86400.0
    """
    time = math.nan
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        time = _number(value)
    elif isinstance(value, str):
        text = value.strip()
        time = _number(text) if NUMBER.fullmatch(text) else _instant(text)
    elif isinstance(value, dt.datetime):
        time = _seconds(value)
    elif isinstance(value, dt.date):
        time = (value - _EPOCH.date()).days * _DAY_S
    if not math.isfinite(time):
        raise CellError(f"{name!r} holds no time; write an ISO 8601 timestamp or a number")
    return time


def _of_type(cells: pa.Array | pa.ChunkedArray, name: str) -> FloatArray:
    kind = cells.type
    if pa.types.is_timestamp(kind) or pa.types.is_duration(kind):
        return _of_counts(_numpy(pc.cast(cells, pa.int64())), _PER_SECOND[kind.unit])
    if pa.types.is_date(kind):
        days: FloatArray = _numpy(pc.cast(pc.cast(cells, pa.date32(), safe=False), pa.int32())) * _DAY_S
        return days
    if pa.types.is_decimal(kind):
        cells = pc.cast(cells, pa.float64(), safe=False)
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        advice = "join it with its date" if pa.types.is_time(kind) else "use timestamps, dates or numbers"
        raise SchemaError(f"the time column {name!r} is {kind}, which orders no rows; {advice}")
    return _numpy(cells).astype(np.float64)


def _of_counts(counts: npt.NDArray[np.int64], per_second: int) -> FloatArray:
    """Seconds of whole counts; equal instants give equal seconds whatever the unit."""
    if per_second <= _PER_SECOND["us"]:
        return counts / per_second
    micros, rest = np.divmod(counts, per_second // _PER_SECOND["us"])
    seconds: FloatArray = micros / _PER_SECOND["us"] + rest / per_second
    return seconds


def _of_text(text: pa.Array | pa.ChunkedArray, name: str) -> FloatArray:
    for kind in (pa.float64(), pa.timestamp("us"), pa.timestamp("us", "UTC")):  # the usual, all cells at once
        try:
            return _of_type(pc.cast(text, kind), name)
        except pa.ArrowInvalid:
            continue
    read = [_parsed(cell) for cell in text.to_pylist()]
    times = np.array([math.nan if instant is None else _seconds(instant) for instant in read], dtype=np.float64)
    if np.isnan(times).any():
        _refuse(name, np.isnan(times), "cells of text that are no ISO 8601 timestamps", _how_to_write(text))
    local = np.array([instant is not None and instant.tzinfo is None for instant in read], dtype=np.bool_)
    if local.any() and not local.all():
        raise SchemaError(
            f"some cells of the time column {name!r} name an offset from UTC, and {int(local.sum()):,}, first at row "
            f"{int(np.argmax(local)) + 1:,}, do not; write the offset in all of them, or in none"
        )
    return times


def _number(value: float | str) -> float:
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def _instant(text: str) -> float:
    """Unix seconds of an ISO 8601 timestamp; NaN: it is none."""
    instant = _parsed(text)
    return math.nan if instant is None else _seconds(instant)


def _parsed(text: str) -> dt.datetime | None:
    """The instant of an ISO 8601 timestamp; None: it is none."""
    try:
        return dt.datetime.fromisoformat(text)
    except ValueError:
        return None


def _seconds(instant: dt.datetime) -> float:
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=dt.UTC)
    return (instant - _EPOCH) // _MICROSECOND / 1_000_000


def _how_to_write(text: pa.Array | pa.ChunkedArray) -> str:
    """What to do with times of text that are none."""
    if len(date_orders(text)) > 1:
        return "their day and month cannot be told apart: write year-month-day"
    return (
        "write all as 2026-03-01T06:00:00+01:00, as 2026-03-01 05:00:00 (UTC), or as seconds or milliseconds since 1970; all of a CSV "
        "file may be as 31.12.2026 05:00 or 12/31/2026 05:00, too"
    )


def _refuse(name: str, cells: npt.NDArray[np.bool_], what: str, advice: str = "every row needs a time") -> None:
    first = int(np.argmax(cells)) + 1
    raise SchemaError(f"the time column {name!r} has {int(cells.sum()):,} {what}, first at row {first:,}; {advice}")


def _numpy(cells: pa.Array | pa.ChunkedArray) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = (
        cells.to_numpy() if isinstance(cells, pa.ChunkedArray) else cells.to_numpy(zero_copy_only=False)
    )
    return array
