"""A small Kafka-speaking proxy before the test broker: it can cut connections, refuse calls, and keeps commit metadata.

The broker that the tests can have (Tansu) takes the metadata of a commit and answers none, so the front remembers it by group,
partition and offset, and puts it into the broker's answer. What is committed, and whether, stays the broker's to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections import defaultdict
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Rewrite = Callable[[bytes], bytes]

PRODUCE, FETCH, OFFSET_COMMIT, OFFSET_FETCH, JOIN_GROUP, TXN_OFFSET_COMMIT, END_TXN = 0, 1, 8, 9, 11, 28, 26
T = TypeVar("T")


class Frame:
    """Reads a flexible-version body from a frame."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def number(self, form: str) -> int:
        (value,) = struct.unpack_from(">" + form, self.data, self.at)
        self.at += struct.calcsize(">" + form)
        return int(value)

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def text(self) -> str | None:
        """A compact nullable string."""
        size = self.varint() - 1
        if size < 0:
            return None
        self.at += size
        return self.data[self.at - size : self.at].decode()

    def count(self) -> int:
        """The length of a compact array."""
        return self.varint() - 1

    def tags(self) -> None:
        for _ in range(self.varint()):
            self.varint()
            self.at += self.varint()


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _text(value: str | None) -> bytes:
    return b"\0" if value is None else _varint(len(value.encode()) + 1) + value.encode()


class Front:
    """The proxy; serves from a thread of its own until closed.

    Args:
        port: Where the broker listens.
    """

    def __init__(self, port: int) -> None:
        self.refused: dict[int, list[int]] = defaultdict(list)
        self.calls: dict[int, int] = defaultdict(int)
        self._port = port
        self._metadata: dict[tuple[str, str, int, int], str | None] = {}
        self._open: set[asyncio.StreamWriter] = set()
        self._cut = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._ask(asyncio.start_server(self._serve, sock=self._listener, limit=2**26))

    def cut(self) -> None:
        """Drops all connections, and new ones at once."""
        self._cut = True
        self._ask(self._drop())

    def mend(self) -> None:
        """Lets connections in again."""
        self._cut = False

    def refuse(self, api: int, *codes: int) -> None:
        """The next calls of an API (`OFFSET_COMMIT`, `TXN_OFFSET_COMMIT`) are answered with these errors, unheard."""
        self.refused[api].extend(codes)

    def close(self) -> None:
        self._server.close()
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _ask(self, work: Coroutine[None, None, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _drop(self) -> None:
        for writer in self._open:
            writer.transport.abort()
        await asyncio.sleep(0.01)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        if self._cut:
            to_client.transport.abort()
            return
        broker, to_broker = await asyncio.open_connection("127.0.0.1", self._port, limit=2**26)
        self._open.add(to_client)
        waiting: dict[int, Rewrite | None] = {}
        answers = asyncio.create_task(self._answers(broker, to_client, waiting))
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._requests(client, to_broker, to_client, waiting)
        finally:
            answers.cancel()
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await answers
            self._open.discard(to_client)
            for writer in (to_client, to_broker):
                writer.transport.abort()

    async def _requests(
        self,
        client: asyncio.StreamReader,
        to_broker: asyncio.StreamWriter,
        to_client: asyncio.StreamWriter,
        waiting: dict[int, Rewrite | None],
    ) -> None:
        while True:
            frame = await _frame(client)
            api, version, correlation = struct.unpack_from(">hhi", frame)
            self.calls[api] += 1
            if api in (OFFSET_COMMIT, TXN_OFFSET_COMMIT):
                answer = self._committing(api, version, correlation, frame)
                if answer is not None:
                    to_client.write(struct.pack(">i", len(answer)) + answer)
                    continue
            elif api == OFFSET_FETCH:
                assert version in (8, 9), f"the front cannot read version {version} of OffsetFetch"
            waiting[correlation] = self._with_metadata if api == OFFSET_FETCH else None
            to_broker.write(struct.pack(">i", len(frame)) + frame)
            await to_broker.drain()

    async def _answers(
        self, broker: asyncio.StreamReader, to_client: asyncio.StreamWriter, waiting: dict[int, Rewrite | None]
    ) -> None:
        while True:
            frame = await _frame(broker)
            (correlation,) = struct.unpack_from(">i", frame)
            rewrite = waiting.pop(correlation, None)
            if rewrite is not None:
                frame = rewrite(frame)
            if not to_client.is_closing():
                to_client.write(struct.pack(">i", len(frame)) + frame)
                with contextlib.suppress(OSError):
                    await to_client.drain()

    def _committing(self, api: int, version: int, correlation: int, frame: bytes) -> bytes | None:
        """Remembers what is committed; an answer if it is to be refused."""
        assert version in ((8, 9) if api == OFFSET_COMMIT else (3,)), f"the front cannot read {api}, {version}"
        body = Frame(frame, 8)
        client_id = body.number("h")
        body.at += max(0, client_id)
        body.tags()
        if api == TXN_OFFSET_COMMIT:
            body.text()
        group = body.text() or ""
        if api == TXN_OFFSET_COMMIT:
            body.at += 10  # producer id and epoch
        body.number("i")  # generation
        body.text()
        body.text()
        code = self.refused[api].pop(0) if self.refused[api] else None
        answer = struct.pack(">i", correlation) + b"\0" + struct.pack(">i", 0)
        topics = body.count()
        answer += _varint(topics + 1)
        for _ in range(topics):
            topic = body.text() or ""
            partitions = body.count()
            answer += _text(topic) + _varint(partitions + 1)
            for _ in range(partitions):
                partition, offset, _ = body.number("i"), body.number("q"), body.number("i")
                metadata = body.text()
                body.tags()
                if code is None:
                    self._metadata[group, topic, partition, offset] = metadata
                answer += struct.pack(">ih", partition, code or 0) + b"\0"
            body.tags()
            answer += b"\0"
        return None if code is None else answer + b"\0"

    def _with_metadata(self, frame: bytes) -> bytes:
        body = Frame(frame, 5)
        out = [frame[:5], struct.pack(">i", body.number("i"))]
        groups = body.count()
        out.append(_varint(groups + 1))
        for _ in range(groups):
            group = body.text() or ""
            topics = body.count()
            out += [_text(group), _varint(topics + 1)]
            for _ in range(topics):
                topic = body.text() or ""
                partitions = body.count()
                out += [_text(topic), _varint(partitions + 1)]
                for _ in range(partitions):
                    partition, offset, epoch = body.number("i"), body.number("q"), body.number("i")
                    known = self._metadata.get((group, topic, partition, offset), "")
                    body.text()
                    error = body.number("h")
                    body.tags()
                    out += [
                        struct.pack(">iqi", partition, offset, epoch),
                        _text(known),
                        struct.pack(">h", error),
                        b"\0",
                    ]
                body.tags()
                out.append(b"\0")
            error = body.number("h")
            body.tags()
            out += [struct.pack(">h", error), b"\0"]
        return b"".join(out) + b"\0"


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(size)
