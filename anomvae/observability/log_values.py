"""What may stand in a log line: any value made harmless, so that a line is one line, valid JSON, and no data leaks."""

from __future__ import annotations

import datetime as dt
import errno
import os
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice
from math import isfinite

import numpy as np

MAX_CHARACTERS = 2000
MAX_ENTRIES = 50
MAX_DEPTH = 4
MAX_BITS = 64
"""Longer numbers are no count of anything here, and Python refuses to write the longest."""

Plain = None | bool | int | float | str | list["Plain"] | dict[str, "Plain"]
"""What JSON can hold."""


def plain(value: object, depth: int = 0) -> Plain:
    """A value as JSON can hold it.

    Exceptions become the name of their type (and, from the operating system, of the error): their texts may hold data.
    Bytes, arrays and objects of other types become their type and size, never their content.

    Args:
        value: Anything.
        depth: How deep it is nested.

    Example:
        >>> plain([1.5, float("nan"), b"secret", ValueError("secret")])
        [1.5, 'nan', '<6 bytes>', 'ValueError']
    """
    try:
        return _plain(value, depth)
    except Exception:  # noqa: BLE001 - a value that cannot be looked at must not stop who logs it
        return text(f"<{type(value).__name__}>")


def text(value: str) -> str:
    """A text of bounded length that UTF-8 can encode."""
    cut = value if len(value) <= MAX_CHARACTERS else value[:MAX_CHARACTERS] + "..."
    return cut.encode("utf-8", "replace").decode("utf-8")


def exception_name(error: BaseException) -> str:
    """The name of an exception's type, with the operating system's name of the error where there is one.

    Example:
        >>> exception_name(OSError(98, "secret"))
        'OSError EADDRINUSE'
    """
    name = type(error).__name__
    code = errno.errorcode.get(error.errno) if isinstance(error, OSError) and error.errno is not None else None
    return name if code is None else f"{name} {code}"


def _plain(value: object, depth: int) -> Plain:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return text(value)
    if isinstance(value, np.generic):
        held = value.item()
        return _named(held) if isinstance(held, np.generic) else plain(held, depth)
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, Mapping | Sequence | AbstractSet) and not isinstance(value, bytes | bytearray | memoryview):
        return _nested(value, depth) if depth < MAX_DEPTH else f"<{type(value).__name__}>"
    return _named(value)


def _number(value: float) -> Plain:
    if isinstance(value, int):
        exact = int(value)
        return exact if exact.bit_length() <= MAX_BITS else f"<int of {exact.bit_length()} bits>"
    return float(value) if isfinite(value) else str(float(value))


def _nested(value: Mapping[object, object] | Sequence[object] | AbstractSet[object], depth: int) -> Plain:
    if isinstance(value, Mapping):
        entries = islice(value.items(), MAX_ENTRIES)
        return {text(key if isinstance(key, str) else str(plain(key))): plain(held, depth + 1) for key, held in entries}
    listed = [plain(held, depth + 1) for held in islice(value, MAX_ENTRIES)]
    return listed if len(value) <= MAX_ENTRIES else [*listed, f"<{len(value) - MAX_ENTRIES} more>"]


def _named(value: object) -> str:
    if isinstance(value, BaseException):
        return exception_name(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, np.ndarray):
        return f"<array of {value.dtype}, shape {value.shape}>"
    if isinstance(value, os.PathLike):
        return text(os.fsdecode(value))
    if isinstance(value, dt.datetime | dt.date):
        return value.isoformat()
    return text(f"<{type(value).__name__}>")
