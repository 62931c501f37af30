"""What a committed reader sees in a topic, decided from the log's own batches and markers.

The test broker hands aborted records to `isolation.level=read_committed` clients and names no aborted transactions in its answers
(real brokers do), and the client shows neither producers nor markers. So this reads the log with the Fetch request itself, as far
as the broker's own word goes: each batch says whether it belongs to a transaction and of which producer, and a control batch of
the same producer says `commit` or `abort` for all that the producer wrote before it (KIP-98). A record is visible if it belongs to
no transaction, or to one whose next marker is `commit`; those without a marker are open, and invisible.

What this proves: which records are committed, in what order, and that no others are. What it does not: that a client of *this*
broker filters them (it does not), that a reader waits at the first open transaction (it looks past it), or that the broker aborts
what a dead producer left open (the records just stay open).
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field

import pyarrow as pa

FETCH, FETCH_VERSION = 1, 4
HEADER = struct.Struct(">qiibIhiqqqhii")
TRANSACTIONAL, CONTROL = 0x10, 0x20
CODECS = {1: "gzip", 3: "lz4", 4: "zstd"}
COMMIT = 1


@dataclass(frozen=True)
class Logged:
    """A record as it lies in the log."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


@dataclass
class Log:
    """What lies in a topic.

    Attributes:
        committed: Records a committed reader sees, by partition and offset.
        aborted: Records it does not, as their transaction was aborted.
        open: Records it does not see yet, as their transaction has no end.
        markers: Ends of transactions found, `(partition, producer id, epoch, committed)`.
    """

    committed: list[Logged] = field(default_factory=list)
    aborted: list[Logged] = field(default_factory=list)
    open: list[Logged] = field(default_factory=list)
    markers: list[tuple[int, int, int, bool]] = field(default_factory=list)


def read_committed(bootstrap: str, topic: str, partitions: int) -> Log:
    """Reads a topic from its beginning to its present end.

    Args:
        bootstrap: `host:port` of the only broker, which leads all partitions.
        topic: Name.
        partitions: How many it has.
    """
    log = Log()
    host, port = bootstrap.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=30) as line:
        for partition in range(partitions):
            _read_partition(line, topic, partition, log)
    log.committed.sort(key=lambda each: (each.partition, each.offset))
    return log


def _read_partition(line: socket.socket, topic: str, partition: int, log: Log) -> None:
    pending: dict[int, list[Logged]] = {}
    offset = 0
    while True:
        high, data = _fetch(line, topic, partition, offset)
        began = offset
        for base, last, attributes, producer, epoch, count, body in _batches(data):
            if base + last < offset:
                continue
            if attributes & CONTROL:
                committed = struct.unpack(">hh", _records(base, partition, count, body)[0].key or b"")[1] == COMMIT
                log.markers.append((partition, producer, epoch, committed))
                (log.committed if committed else log.aborted).extend(pending.pop(producer, []))
            else:
                codec = CODECS[attributes & 7] if attributes & 7 else None
                plain = pa.CompressedInputStream(pa.BufferReader(body), codec).read() if codec else body
                records = [each for each in _records(base, partition, count, plain) if each.offset >= offset]
                (pending.setdefault(producer, []) if attributes & TRANSACTIONAL else log.committed).extend(records)
            offset = base + last + 1
        if offset >= high or offset == began:
            break
    assert offset >= high, f"partition {partition} ends at {high}, but could be read to {offset} only"
    for records in pending.values():
        log.open.extend(records)


def _fetch(line: socket.socket, topic: str, partition: int, offset: int) -> tuple[int, bytes]:
    """High watermark, and batches from an offset on."""
    name = topic.encode()
    body = struct.pack(">iiiib", -1, 100, 1, 2**25, 0) + struct.pack(">ih", 1, len(name)) + name
    body += struct.pack(">iiqi", 1, partition, offset, 2**25)
    request = struct.pack(">hhih", FETCH, FETCH_VERSION, 7, 4) + b"test" + body
    line.sendall(struct.pack(">i", len(request)) + request)
    (size,) = struct.unpack(">i", _exactly(line, 4))
    answer = _exactly(line, size)
    at = 8 + 4 + 2 + len(name) + 4  # correlation, throttle, topics, name, partitions
    _, error, high, _, aborted = struct.unpack_from(">ihqqi", answer, at)
    assert error == 0, f"the broker answered error {error}"
    at += 26 + 16 * max(0, aborted)
    (length,) = struct.unpack_from(">i", answer, at)
    return high, answer[at + 4 : at + 4 + max(0, length)]


def _exactly(line: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = line.recv(min(2**20, size - len(data)))
        assert piece, "the broker closed the connection"
        data += piece
    return bytes(data)


def _batches(data: bytes) -> list[tuple[int, int, int, int, int, int, bytes]]:
    found, at = [], 0
    while at + HEADER.size <= len(data):
        base, size, _, magic, _, attributes, last, _, _, producer, epoch, _, count = HEADER.unpack_from(data, at)
        end = at + 12 + size
        if end > len(data):
            break  # cut off by the size asked for
        assert magic == 2, f"a batch has format {magic}"
        found.append((base, last, attributes, producer, epoch, count, data[at + HEADER.size : end]))
        at = end
    return found


def _records(base: int, partition: int, count: int, body: bytes) -> list[Logged]:
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = body[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return (value >> 1) ^ -(value & 1)

    def piece() -> bytes | None:
        nonlocal at
        size = number()
        if size < 0:
            return None
        at += size
        return body[at - size : at]

    records = []
    for _ in range(count):
        end = number() + at
        at += 1
        number()  # time since the batch's first
        offset = base + number()
        key, value = piece(), piece()
        headers = tuple(((piece() or b"").decode(), piece() or b"") for _ in range(number()))
        assert at == end, "a record is longer or shorter than it says"
        records.append(Logged(partition, offset, key, value, headers))
    return records
