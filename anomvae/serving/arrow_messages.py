"""The envelopes of an Arrow stream, read far enough to know how many rows it has and what its buffers unfold to."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterator

_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3
_BUFFER_BYTES = 16
_PREFIX = struct.Struct("<q")


class Declared(NamedTuple):
    """What a stream says of itself.

    Attributes:
        rows: Rows of its record batches.
        unfolded_bytes: Bytes to which its compressed buffers unfold; 0 where none is compressed.
    """

    rows: int
    unfolded_bytes: int


class _Table:
    """A table of a flatbuffer: fields by number, some absent."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at
        self._vtable = at - self._int("<i", at)
        self._size = self._int("<H", self._vtable)

    def place(self, field: int) -> int | None:
        """Where a field stands; None where it is absent."""
        slot = 4 + 2 * field
        offset = self._int("<H", self._vtable + slot) if slot + 2 <= self._size else 0
        return self._at + offset if offset else None

    def byte(self, field: int) -> int:
        """A field of one byte."""
        place = self.place(field)
        return 0 if place is None else self._int("<B", place)

    def count(self, field: int) -> int:
        """A field of eight bytes; none is negative."""
        place = self.place(field)
        return 0 if place is None else max(0, self._int("<q", place))

    def table(self, field: int) -> _Table | None:
        """A field that is a table itself."""
        place = self.place(field)
        return None if place is None else _Table(self._data, place + self._int("<I", place))

    def buffers(self, field: int) -> Iterator[tuple[int, int]]:
        """A field that lists buffers: offset and length of each, in bytes."""
        place = self.place(field)
        if place is None:
            return
        start = place + self._int("<I", place)
        for number in range(self._int("<I", start)):
            yield struct.unpack_from("<qq", self._data, start + 4 + number * _BUFFER_BYTES)

    def _int(self, form: str, at: int) -> int:
        if at < 0:
            raise ValueError("a flatbuffer points before its start")
        return int(struct.unpack_from(form, self._data, at)[0])


def declared(stream: pa.Buffer) -> Declared:
    """What a stream declares of its rows and buffers, read without unfolding any.

    Args:
        stream: An Arrow IPC stream, maybe a damaged one.

    Raises:
        ArrowException: It is damaged.
        ValueError: It is damaged.
        OSError: It is damaged.
    """
    rows = unfolded_bytes = 0
    try:
        for message in pa.ipc.MessageReader.open_stream(stream):
            found = _declared(message)
            rows, unfolded_bytes = rows + found.rows, unfolded_bytes + found.unfolded_bytes
    except struct.error:
        raise ValueError("a flatbuffer points beyond its end") from None
    return Declared(rows, unfolded_bytes)


def _declared(message: pa.ipc.Message) -> Declared:
    data = message.metadata.to_pybytes()
    envelope = _Table(data, struct.unpack_from("<I", data)[0])
    kind, batch = envelope.byte(1), envelope.table(2)
    if kind == _DICTIONARY_BATCH and batch is not None:
        batch = batch.table(1)
    if kind not in (_DICTIONARY_BATCH, _RECORD_BATCH) or batch is None:
        return Declared(0, 0)
    rows = batch.count(0) if kind == _RECORD_BATCH else 0
    if batch.table(3) is None:
        return Declared(rows, 0)
    body, total = message.body, 0
    for offset, length in batch.buffers(2):
        if length < _PREFIX.size or body is None:
            continue
        if offset < 0 or offset + _PREFIX.size > body.size:
            raise ValueError("a buffer lies beyond its message")
        (unfolded,) = _PREFIX.unpack(body.slice(offset, _PREFIX.size).to_pybytes())
        total += length if unfolded < 0 else unfolded
    return Declared(rows, total)
