"""Numbers and dates as people write them, read from columns of text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Collection

Mark = Literal[".", ","]
DateOrder = Literal["day first", "month first"]

MISSING_WORDS = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "?", "#N/A")
"""Cells that stand for a missing one."""

_OTHER: dict[Mark, Mark] = {".": ",", ",": "."}
_PLAIN = {mark: rf"^[+-]?(\d+[{mark}]?\d*|[{mark}]\d+)([eE][+-]?\d+)?$|^[+-]?(?i:inf(inity)?)$" for mark in _OTHER}
_GROUPED = {mark: rf"^[+-]?[1-9]\d{{0,2}}([{group}]\d{{3}})+([{mark}]\d*)?$" for mark, group in _OTHER.items()}
_TIME = r"(?:[ T](?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2}))?)?"
_DATES = {
    ".": rf"^(?P<a>\d{{1,2}})\.(?P<b>\d{{1,2}})\.(?P<year>\d{{4}}){_TIME}$",
    "/": rf"^(?P<a>\d{{1,2}})/(?P<b>\d{{1,2}})/(?P<year>\d{{4}}){_TIME}$",
}
_GLANCE = 256
"""Cells looked at before a whole column is."""


@dataclass(frozen=True, slots=True)
class NumberEvidence:
    """What a column of text tells about the way its numbers are written.

    Attributes:
        marks: Decimal marks with which every cell is a number; empty: some cell is text.
        separators: Points and commas that occur.
    """

    marks: frozenset[Mark]
    separators: frozenset[Mark]

    def settle(self, votes: Collection[Mark], delimiter: str) -> Mark | None:
        """The column's decimal mark; None where it has none or could have either.

        Args:
            votes: Marks of the file's columns that leave no doubt; people do not mix marks within a file.
            delimiter: The file's. Semicolons are there to leave the comma to the decimals.

        Example:
            >>> number_evidence(pa.array(["1,234"])).settle({"."}, ",")
            '.'
        """
        if len(self.marks) < len(_OTHER):
            return next(iter(self.marks), None)
        if len(set(votes)) == 1:
            return next(iter(votes))
        if "," not in self.separators:
            return "."
        return "," if "." not in self.separators and delimiter == ";" else None


def clean(text: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Text without blanks around it, and null where it stands for a missing cell."""
    trimmed = pc.utf8_trim_whitespace(text)
    missing = pc.is_in(trimmed, value_set=pa.array(MISSING_WORDS, trimmed.type))
    return pc.if_else(missing, pa.scalar(None, trimmed.type), trimmed) if pc.any(missing).as_py() else trimmed


def read_numbers(text: pa.Array | pa.ChunkedArray, mark: Mark) -> pa.Array | pa.ChunkedArray:
    """Clean text as float64, null where it is no number; thousands may be grouped by the other mark.

    Example:
        >>> read_numbers(pa.array(["1.234,5", "7", "x"]), ",").to_pylist()
        [1234.5, 7.0, None]
    """
    if mark == ".":
        try:
            return pc.cast(text, pa.float64())
        except pa.ArrowInvalid:
            pass  # groups or text: cell by cell below
    grouped = pc.match_substring_regex(text, _GROUPED[mark])
    number = pc.or_(grouped, pc.match_substring_regex(text, _PLAIN[mark]))
    digits = pc.if_else(grouped, pc.replace_substring(text, _OTHER[mark], ""), text)
    if mark == ",":
        digits = pc.replace_substring(digits, ",", ".")
    return pc.cast(pc.if_else(number, digits, pa.scalar(None, digits.type)), pa.float64())


def number_evidence(text: pa.Array | pa.ChunkedArray) -> NumberEvidence:
    """What clean text tells about the way its numbers are written; a column without cells tells nothing."""
    present = pc.drop_null(text)
    marks: list[Mark] = [
        mark for mark in _OTHER if _all_numbers(present[:_GLANCE], mark) and _all_numbers(present, mark)
    ]
    if not len(present) or not marks:
        return NumberEvidence(frozenset(), frozenset())
    separators = frozenset(mark for mark in _OTHER if pc.any(pc.match_substring(present, mark)).as_py())
    return NumberEvidence(frozenset(marks), separators)


def first_stranger(text: pa.Array | pa.ChunkedArray, values: pa.Array | pa.ChunkedArray) -> int | None:
    """Position of the first cell that holds text and came out as no value."""
    position = pc.index(pc.and_(pc.is_valid(text), pc.is_null(values)), pa.scalar(value=True)).as_py()
    return None if position < 0 else position


def read_dates(text: pa.Array | pa.ChunkedArray, order: DateOrder) -> pa.Array | pa.ChunkedArray | None:
    """Clean text as dates or instants, None unless every cell is one.

    Args:
        text: ISO 8601, or `31.12.2024`, `31/12/2024`, `12/31/2024`, with or without a time of day.
        order: How dates with slashes are meant; dates with points have the day first.

    Returns:
        `date32` where no cell has a time of day, else `timestamp[s]`; ISO text also `timestamp[ns]`, or with UTC.
    """
    for separator, pattern in _DATES.items():
        parts = pc.extract_regex(text, pattern)
        if parts.null_count == text.null_count:
            day_first = separator == "." or order == "day first"
            return _assembled(parts, day_first=day_first)
    for kind in (
        pa.date32(),
        pa.timestamp("s"),
        pa.timestamp("ns"),
        pa.timestamp("s", "UTC"),
        pa.timestamp("ns", "UTC"),
    ):
        try:
            return pc.cast(text, kind)
        except pa.ArrowInvalid:
            continue
    return None


def date_orders(text: pa.Array | pa.ChunkedArray) -> tuple[DateOrder, ...]:
    """Orders in which every cell of clean text is a date: none, one, or two where they differ in what they mean."""
    present = pc.drop_null(text)
    if not len(present) or not any(_readings(present[:_GLANCE])):
        return ()
    readings = _readings(present)
    if len(readings) > 1 and readings["day first"].equals(readings["month first"]):
        return ("day first",)
    return tuple(readings)


def _readings(text: pa.Array | pa.ChunkedArray) -> dict[DateOrder, pa.Array | pa.ChunkedArray]:
    orders: tuple[DateOrder, DateOrder] = ("day first", "month first")
    return {order: dates for order in orders if (dates := read_dates(text, order)) is not None}


def _assembled(parts: pa.StructArray | pa.ChunkedArray, *, day_first: bool) -> pa.Array | pa.ChunkedArray | None:
    """Dates from their parts; the ISO parser refuses a 31st of February."""

    def part(name: str, width: int = 2) -> pa.Array:
        return pc.utf8_lpad(pc.struct_field(parts, name), width, padding="0")

    day, month = (part("a"), part("b")) if day_first else (part("b"), part("a"))
    date = pc.binary_join_element_wise(part("year", 4), month, day, "-")
    clock = pc.binary_join_element_wise(part("hour"), part("minute"), part("second"), ":")
    has_clock = pc.any(pc.not_equal(pc.struct_field(parts, "hour"), "")).as_py()
    try:
        if not has_clock:
            return pc.cast(date, pa.date32())
        return pc.cast(pc.binary_join_element_wise(date, clock, " "), pa.timestamp("s"))
    except pa.ArrowInvalid:
        return None


def _all_numbers(text: pa.Array | pa.ChunkedArray, mark: Mark) -> bool:
    return first_stranger(text, read_numbers(text, mark)) is None
