"""Cells of tensors as the Open Inference Protocol writes them, in JSON and in bytes, and as NumPy arrays."""

from __future__ import annotations

import math
import struct
from array import array
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from anomvae.errors import RequestError

if TYPE_CHECKING:
    Array = npt.NDArray[np.generic]

BYTES = "BYTES"
LONGEST_NAME = 60
_LENGTH = struct.Struct("<I")


class Datatype(NamedTuple):
    """A datatype of numbers.

    Attributes:
        name: Of the protocol.
        dtype: NumPy's, little-endian as on the wire.
        typecode: Of `array.array`, which takes a list's numbers and nothing else: neither text nor, for whole numbers,
            fractions or what does not fit.
    """

    name: str
    dtype: np.dtype[np.generic]
    typecode: str

    @property
    def is_float(self) -> bool:
        """Whether a missing cell can be written, as NaN."""
        return self.dtype.kind == "f"


NUMBERS = {
    name: Datatype(name, np.dtype(code), typecode)
    for name, code, typecode in (
        ("BOOL", "?", "B"),
        ("INT8", "<i1", "b"),
        ("INT16", "<i2", "h"),
        ("INT32", "<i4", "i"),
        ("INT64", "<i8", "q"),
        ("UINT8", "<u1", "B"),
        ("UINT16", "<u2", "H"),
        ("UINT32", "<u4", "I"),
        ("UINT64", "<u8", "Q"),
        ("FP16", "<f2", "f"),
        ("FP32", "<f4", "f"),
        ("FP64", "<f8", "d"),
    )
}
"""Datatypes of numbers by name. `BYTES` is the one beside them; `BF16` is not taken, NumPy does not know it."""


def quoted(name: str) -> str:
    """A name from a request, for a message, cut where it is too long to be one.

    Example:
        >>> quoted("numeric")
        "'numeric'"
    """
    return repr(name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME] + "...")


def known_datatype(datatype: Any, name: str) -> str:
    """A datatype this daemon reads.

    Args:
        datatype: As the request states it.
        name: The input's, for messages.

    Raises:
        RequestError: It is not one.
    """
    if type(datatype) is str and (datatype in NUMBERS or datatype == BYTES):
        return datatype
    if datatype == "BF16":
        raise RequestError(f"input {quoted(name)} has datatype BF16, which is not taken; send FP32 or FP16")
    raise RequestError(f"input {quoted(name)} has no datatype of the protocol: {', '.join(NUMBERS)} or {BYTES}")


def numbers_of_list(cells: list[Any], datatype: Datatype, name: str) -> Array:
    """A JSON list of numbers as an array; null is a missing cell and becomes NaN where the datatype has it.

    Numbers too large for FP32 or FP16 become infinite. `true` and `false` count as 1 and 0.

    Args:
        cells: Flat.
        datatype: As stated.
        name: The input's, for messages.

    Raises:
        RequestError: A cell is no number, or none that the datatype can hold.
    """
    try:
        found = np.frombuffer(array(datatype.typecode, cells), _TYPECODES[datatype.typecode])
    except (TypeError, OverflowError):
        if not (datatype.is_float and None in cells):
            raise _wrong_cell(_first_wrong(cells, datatype), datatype, name) from None
        return numbers_of_list([math.nan if cell is None else cell for cell in cells], datatype, name)
    return found if datatype.name not in ("BOOL", "FP16") else _narrowed(found, datatype, name)


_TYPECODES = {typecode: np.dtype(typecode) for typecode in "bhiqBHIQfd"}


def _narrowed(found: Array, datatype: Datatype, name: str) -> Array:
    """The two datatypes that `array.array` lacks, from the next wider one."""
    if datatype.name == "BOOL" and (strange := np.not_equal(found, found.astype(np.bool_))).any():
        raise _wrong_cell(int(strange.argmax()), datatype, name)
    with np.errstate(over="ignore", invalid="ignore"):
        return found.astype(datatype.dtype)


def _first_wrong(cells: list[Any], datatype: Datatype) -> int:
    """Position of the first cell that does not fit, by halves: as quick as reading them all once more."""
    low, high = 0, len(cells)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            array(datatype.typecode, cells[low:middle])
            low = middle
        except (TypeError, OverflowError):
            high = middle
    return low


def _wrong_cell(position: int, datatype: Datatype, name: str) -> RequestError:
    """Says which cell it was, not what it holds."""
    missing = "" if datatype.is_float else "; missing cells need FP32 or FP64, where null stands for them"
    return RequestError(
        f"input {quoted(name)} holds what {datatype.name} cannot hold, first at cell {position + 1:,}{missing}"
    )


def numbers_of_raw(raw: memoryview, count: int, datatype: Datatype, name: str) -> Array:
    """A tensor's bytes as an array: a view of them, or one copy where they do not lie as NumPy wants them.

    Args:
        raw: Bytes, little-endian.
        count: Cells that there must be.
        datatype: As stated.
        name: The input's, for messages.

    Raises:
        RequestError: There are more or fewer bytes.
    """
    needed = count * datatype.dtype.itemsize
    if len(raw) != needed:
        raise RequestError(
            f"input {quoted(name)} has {len(raw):,} bytes of data; its shape takes {needed:,} as {datatype.name}"
        )
    if datatype.name == "BOOL":
        return np.frombuffer(raw, np.uint8).astype(np.bool_)
    found = np.frombuffer(raw, datatype.dtype)
    return found if found.flags.aligned else found.copy()


def texts_of_list(cells: list[Any], name: str) -> list[str | None]:
    """A JSON list of text; null is a missing cell.

    Raises:
        RequestError: A cell is neither text nor null.
    """
    if set(map(type, cells)) <= {str, type(None)}:
        return cells
    raise RequestError(f"input {quoted(name)} has datatype {BYTES} and holds cells that are no text")


def texts_of_raw(raw: memoryview, count: int, name: str) -> list[bytes]:
    """Text cells of a tensor's bytes: each its length in 4 bytes, little-endian, then itself.

    Args:
        raw: The bytes.
        count: Cells that there must be.
        name: The input's, for messages.

    Raises:
        RequestError: The bytes end within a cell, or are more or fewer than that.
    """
    at, found, end = 0, [], len(raw)
    if count * _LENGTH.size <= end:  # else there is not even room for the lengths
        for _ in range(count):
            if at + _LENGTH.size > end:
                break
            start = at + _LENGTH.size
            at = start + _LENGTH.unpack_from(raw, at)[0]
            if at > end:
                break
            found.append(bytes(raw[start:at]))
    if len(found) != count or at != end:
        raise RequestError(
            f"the bytes of input {quoted(name)} are not the {count:,} text cells of its shape, each a length of 4 bytes "
            "and as many bytes of UTF-8"
        )
    return found


def raw_of(cells: Array) -> Array:
    """A tensor whose buffer holds the bytes of the wire: C order, little-endian.

    Args:
        cells: Numbers of any shape.
    """
    return np.ascontiguousarray(cells, dtype=cells.dtype.newbyteorder("<"))
