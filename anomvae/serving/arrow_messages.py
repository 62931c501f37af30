"""The envelopes of an Arrow stream, read far enough to know what its compressed buffers unfold to."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterator

_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3
_BUFFER_BYTES = 16
_PREFIX = struct.Struct("<q")


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


def decompressed_bytes(stream: pa.Buffer) -> int:
    """Bytes to which the compressed buffers of a stream unfold, as they declare it; 0 where none is compressed.

    Args:
        stream: An Arrow IPC stream, maybe a damaged one.

    Raises:
        ArrowException: It is damaged.
        ValueError: It is damaged.
        OSError: It is damaged.
    """
    total = 0
    try:
        for message in pa.ipc.MessageReader.open_stream(stream):
            total += _declared(message)
    except struct.error:
        raise ValueError("a flatbuffer points beyond its end") from None
    return total


def _declared(message: pa.ipc.Message) -> int:
    data = message.metadata.to_pybytes()
    envelope = _Table(data, struct.unpack_from("<I", data)[0])
    kind, batch = envelope.byte(1), envelope.table(2)
    if kind == _DICTIONARY_BATCH and batch is not None:
        batch = batch.table(1)
    if kind not in (_DICTIONARY_BATCH, _RECORD_BATCH) or batch is None or batch.table(3) is None:
        return 0
    body, total = message.body, 0
    for offset, length in batch.buffers(2):
        if length < _PREFIX.size or body is None:
            continue
        if offset < 0 or offset + _PREFIX.size > body.size:
            raise ValueError("a buffer lies beyond its message")
        (declared,) = _PREFIX.unpack(body.slice(offset, _PREFIX.size).to_pybytes())
        total += length if declared < 0 else declared
    return total
