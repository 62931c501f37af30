"""Bodies of requests: read under limits, unpacked under limits."""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anomvae.errors import RequestError, RequestTooLargeError, SlowRequestError
from anomvae.serving.service import CallerGoneError

if TYPE_CHECKING:
    from starlette.types import Receive

    from anomvae.serving.exchange import Headers
    from anomvae.serving.permits import Permit

FIRST_PIECE_BYTES = 65_536
PIECE_BYTES = 2**20
MOST_MEMBERS = 100
_GZIP = 31
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """How large bodies may be, and how long they may take.

    Attributes:
        max_bytes: Largest body, packed or unpacked.
        timeout_s: Longest time from headers to the body's end, in seconds.
    """

    max_bytes: int = 64 * 2**20
    timeout_s: float = 20.0


class Held:
    """Bytes that a request holds of a permit, until it gives them back.

    Args:
        permit: For bytes.
    """

    def __init__(self, permit: Permit) -> None:
        self.permit = permit
        self._n = 0

    def grow(self, n: int) -> None:
        """Holds n bytes in all.

        Raises:
            OverloadedError: Other requests hold too many.
        """
        if n > self._n:
            self.permit.take(n - self._n)
            self._n = n

    def release(self) -> None:
        """Gives all of it back."""
        self.permit.give(self._n)
        self._n = 0


async def read_body(receive: Receive, headers: Headers, limits: BodyLimits, held: Held) -> bytes:
    """Reads a request's body.

    Args:
        receive: Of the request.
        headers: Of the request.
        limits: How large and how long.
        held: Grows with the body; whoever calls gives it back once the body is no longer needed.

    Raises:
        RequestTooLargeError: It is larger than allowed.
        OverloadedError: Too many bytes of other requests are being held.
        SlowRequestError: It came too slowly.
        RequestError: It cannot be unpacked.
        CallerGoneError: The caller went away.
    """
    largest = min(limits.max_bytes, held.permit.limit)
    stated = headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > largest:
        raise _too_large(largest)
    try:
        async with asyncio.timeout(limits.timeout_s):
            body = await _read_all(receive, largest, held)
    except TimeoutError:
        raise SlowRequestError(f"the body did not arrive within {limits.timeout_s:g} seconds") from None
    packed = headers.get("content-encoding", "identity").lower()
    return body if packed == "identity" else await unpacked(body, packed, largest, held)


async def _read_all(receive: Receive, largest: int, held: Held) -> bytes:
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CallerGoneError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
        if size > largest:
            raise _too_large(largest)
        held.grow(size)
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def unpacked(body: bytes, how: str, max_bytes: int, held: Held) -> bytes:
    """Undoes a `Content-Encoding`, piece by piece: larger ones on a thread, and never more than the permit allows.

    Args:
        body: Packed.
        how: `gzip` or `deflate`.
        max_bytes: Largest result.
        held: Grows with the result.

    Raises:
        RequestTooLargeError: It unpacks to more; no more than that is ever held.
        OverloadedError: Other requests hold too many bytes.
        RequestError: The encoding is another one, or the body is damaged.
    """
    bits = _WINDOW_BITS.get(how)
    if bits is None:
        raise RequestError("the body's Content-Encoding is not known here; send it as it is, or by gzip or deflate")
    unpacker = zlib.decompressobj(bits)
    parts: list[bytes] = []
    size, rest, members = 0, body, 1
    try:
        while not unpacker.eof or (bits == _GZIP and unpacker.unused_data):
            if unpacker.eof:  # a file of several members is one file
                members += 1
                if members > MOST_MEMBERS:
                    raise RequestError(f"the body has more than {MOST_MEMBERS} gzip members; pack it as one")
                rest, unpacker = unpacker.unused_data, zlib.decompressobj(bits)
            part = (
                await asyncio.to_thread(unpacker.decompress, rest, PIECE_BYTES)
                if size
                else unpacker.decompress(rest, FIRST_PIECE_BYTES)
            )
            rest = unpacker.unconsumed_tail
            size += len(part)
            parts.append(part)
            if size > max_bytes:
                raise RequestTooLargeError(f"the body unpacks to more than {max_bytes:,} bytes; cut the request up")
            held.grow(len(body) + size)
            if not (part or rest or unpacker.eof):
                break
    except zlib.error:
        raise RequestError(f"the body is not what its Content-Encoding says: it cannot be unpacked by {how}") from None
    if unpacker.unused_data:
        raise RequestError(f"more follows after the body's {how} data; send that alone")
    if not unpacker.eof:
        raise RequestError(f"the body ends before its {how} data does; send it whole")
    return b"".join(parts)


def _too_large(largest: int) -> RequestTooLargeError:
    return RequestTooLargeError(f"the body is larger than {largest:,} bytes; cut the request up")
