"""Numbers, dates and names as people read them."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    from anomvae.bundle import Column

NOTHING = "\N{EN DASH}"
"""Stands where there is nothing to say."""

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_TIMES = "\N{MULTIPLICATION SIGN}"
_SPACE = "\N{NARROW NO-BREAK SPACE}"
_MINUS = "\N{MINUS SIGN}"


def number(value: float | None) -> str:
    r"""A number with three or four digits that matter.

    Example:
        >>> number(12345.6), number(34.21), number(0.01234), ascii(number(1.5e7))
        ('12,346', '34.2', '0.0123', "'1.5\\xd710\\u2077'")
    """
    if value is None:
        return NOTHING
    if not math.isfinite(value):
        return "n/a" if math.isnan(value) else "∞" if value > 0 else f"{_MINUS}∞"
    size = abs(value)
    if size != 0 and not 1e-3 <= size < 1e6:  # noqa: PLR2004 - where plain digits stop being readable
        digits, _, exponent = f"{size:.2e}".partition("e")
        text = f"{digits.rstrip('0').rstrip('.')}{_TIMES}10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    elif size >= 1000:  # noqa: PLR2004
        text = f"{size:,.0f}"
    elif float(value).is_integer():
        text = f"{size:.0f}"
    else:
        text = f"{size:.3g}"
    return (_MINUS if value < 0 else "") + text


def limit(threshold: float) -> str:
    """A threshold; one that no score reaches, which a file stores as the largest float32, is infinite.

    Example:
        >>> limit(18.34), limit(3.4028234663852886e38)
        ('18.3', '∞')
    """
    return number(reachable(threshold))


def reachable(threshold: float) -> float:
    """A threshold, infinite where no score reaches it."""
    out_of_reach = 3.4e38
    return math.inf if threshold >= out_of_reach else threshold


def share(value: float) -> str:
    """A share as a percentage.

    Example:
        >>> [share(x).replace(chr(8239), " ") for x in (0.0123, 0.00125, 11 / 1200, 1.0)]
        ['1.23 %', '0.125 %', '0.92 %', '100 %']
    """
    if not math.isfinite(value):
        return "n/a"
    percent = 100 * value
    tiny, almost_all = 0.001, 99.9
    if 0 < percent < tiny:
        return f"< {tiny}{_SPACE}%"
    digits = f"{percent:.3g}"
    if percent > almost_all:
        digits = f"{percent:.2f}".rstrip("0").rstrip(".")
    elif percent < 1 and not math.isclose(percent, float(digits), rel_tol=1e-9):
        digits = f"{percent:.2g}"
    return f"{digits}{_SPACE}%"


def rate(value: float) -> str:
    """An alarm rate: a percentage, or one row in so many where that is too small to read.

    Example:
        >>> rate(0.01).replace(chr(8239), " "), rate(2.5e-6)
        ('1 %', '1 in 400,000')
    """
    least = 1e-5
    return f"1 in {1 / value:,.0f}" if 0 < value < least else share(value)


def between(interval: tuple[float, float]) -> str:
    """An interval of shares, two digits each, and no finer than its upper end calls for.

    Example:
        >>> [between(x).replace(chr(8239), " ") for x in ((0.00276, 0.0163), (0.00006, 0.014), (0.362, 0.427))]
        ['0.28 to 1.6 %', '0.01 to 1.4 %', '36.2 to 42.7 %']
    """
    low, high = (100 * end for end in interval)
    decimals = max(1, 2 - math.floor(math.log10(high))) if high > 0 else 1
    ends = (f"{float(f'{end:.2g}') if end < 10 else end:.{decimals}f}" for end in (low, high))  # noqa: PLR2004
    return " to ".join(end.rstrip("0").rstrip(".") or "0" for end in ends) + f"{_SPACE}%"


def tidy(text: str) -> str:
    """A decimal number with four digits that matter; any other text as it is.

    Example:
        >>> tidy("287.5644"), tidy("12345678"), tidy("open")
        ('287.6', '12345678', 'open')
    """
    return f"{float(text):.4g}" if re.fullmatch(r"-?\d{1,4}\.\d+", text) else text


def nats(value: float) -> str:
    """Nats with two decimals, so that a column of them lines up.

    Example:
        >>> nats(1.0), nats(0.216), nats(123456.0)
        ('1.00', '0.22', '123,456')
    """
    most, least = 1000, 0.005
    if not math.isfinite(value) or abs(value) >= most:
        return number(value)
    return f"{0.0 if abs(value) < least else value:.2f}".replace("-", _MINUS)


def breakable(name: str) -> Markup:
    """A name that may be broken after its punctuation.

    Example:
        >>> breakable("flow_<m3>")
        Markup('flow_<wbr>&lt;m3&gt;')
    """
    return Markup("<wbr>").join(re.findall(r"[^_./:-]*[_./:-]+|[^_./:-]+", name))


def count(n: int, one: str, many: str | None = None) -> str:
    """A count with its noun.

    Example:
        >>> count(1, "row"), count(1200, "row")
        ('1 row', '1,200 rows')
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def p_value(value: float) -> str:
    """A p-value with two digits.

    Example:
        >>> p_value(0.0123), p_value(0.00001)
        ('0.012', '< 0.0001')
    """
    smallest = 1e-4
    return "n/a" if not math.isfinite(value) else f"< {smallest:.4f}" if value < smallest else f"{value:.2g}"


def short(text: str, most: int = 60) -> str:
    """A text cut in its middle, so that both ends can be recognised.

    Example:
        >>> short("abcdefghij", 5)
        'ab…ij'
    """
    if len(text) <= most:
        return text
    head = most // 2
    return f"{text[:head]}…{text[len(text) - (most - head - 1) :]}"


def instant(iso: str) -> str:
    """An ISO instant as a date with its time; what is none stays as it is.

    Example:
        >>> instant("2026-03-01T09:05:00+00:00"), instant("yesterday")
        ('1 March 2026, 09:05 UTC', 'yesterday')
    """
    try:
        moment = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC)
    zone = " UTC" if moment.tzinfo is not None else ""
    return f"{moment.day} {moment:%B %Y, %H:%M}{zone}"


def duration(seconds: float) -> str:
    """A duration in the unit that fits it.

    Example:
        >>> duration(7.31), duration(200), duration(8000)
        ('7.3 s', '3 min 20 s', '2 h 13 min')
    """
    if not math.isfinite(seconds):
        return "n/a"
    minute, hour = 60, 3600
    if seconds < minute:
        return f"{seconds:.1f} s"
    if seconds < hour:
        return f"{int(seconds // minute)} min {int(seconds % minute)} s"
    return f"{int(seconds // hour)} h {int(seconds % hour // minute)} min"


def span(column: Column, most: int = 6) -> str:
    """What a column held in training: its range, or its categories.

    Example:
        >>> from anomvae.bundle import Column
        >>> span(Column("flow", "numeric", "double", low=0.5, high=20.0))
        '0.5 to 20'
        >>> span(Column("state", "categorical", "string", categories=("off", "on")))
        '2 values: off, on'
    """
    if column.is_numeric:
        if column.low is None or column.high is None:
            return NOTHING
        low, high = (_day(column, x) if column.kind == "date" else number(x) for x in (column.low, column.high))
        return low if low == high else f"{low} to {high}"
    names = ", ".join(short(name, 24) for name in column.categories[:most])
    more = len(column.categories) - most
    return f"{count(len(column.categories), 'value')}: {names}{f' and {more:,} more' if more > 0 else ''}"


def typical(column: Column, most: int = 6) -> str:
    """What a column mostly held in training, its extremes left out: mean and standard deviation, or its categories.

    Example:
        >>> from anomvae.bundle import Column
        >>> typical(Column("flow", "numeric", "double", mean=10.0, std=2.5))
        'mean 10, standard deviation 2.5'
    """
    if not column.is_numeric:
        return span(column, most)
    if column.mean is None or column.std is None:
        return NOTHING
    mean, unit = (_day(column, column.mean), " days") if column.kind == "date" else (number(column.mean), "")
    return f"mean {mean}, standard deviation {number(column.std)}{unit}"


def _day(column: Column, days: float) -> str:
    """The day so many days after a date column's origin."""
    try:
        return (datetime.fromisoformat(column.origin or "") + timedelta(days=days)).date().isoformat()
    except (ValueError, OverflowError):
        return f"{number(days)} days"
