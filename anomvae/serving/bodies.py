"""Bodies of requests: read under limits, unpacked under limits."""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anomvae.errors import DeadlineError, RequestError, RequestTooLargeError
from anomvae.serving.service import CallerGoneError

if TYPE_CHECKING:
    from starlette.types import Receive

    from anomvae.serving.exchange import Headers
    from anomvae.serving.permits import Permit

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


async def read_body(receive: Receive, headers: Headers, limits: BodyLimits, buffered: Permit) -> bytes:
    """Reads a request's body.

    Args:
        receive: Of the request.
        headers: Of the request.
        limits: How large and how long.
        buffered: Permit for bytes, of which the caller has taken none; what is taken here is given back here.

    Raises:
        RequestTooLargeError: It is larger than allowed.
        OverloadedError: Too many bytes of other requests are being held.
        DeadlineError: It came too slowly.
        RequestError: It cannot be unpacked.
        CallerGoneError: The caller went away.
    """
    largest = min(limits.max_bytes, buffered.limit)
    stated = headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > largest:
        raise _too_large(largest)
    try:
        async with asyncio.timeout(limits.timeout_s):
            body = await _read_all(receive, largest, buffered)
    except TimeoutError:
        raise DeadlineError(f"the body did not arrive within {limits.timeout_s:g} seconds") from None
    packed = headers.get("content-encoding", "identity").lower()
    return body if packed == "identity" else unpacked(body, packed, limits.max_bytes)


async def _read_all(receive: Receive, largest: int, buffered: Permit) -> bytes:
    parts: list[bytes] = []
    size, held, more = 0, 0, True
    try:
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise CallerGoneError
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
            if size > largest:
                raise _too_large(largest)
            if more or held:  # what is all there needs no permit
                buffered.take(size - held)
                held = size
    finally:
        buffered.give(held)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def unpacked(body: bytes, how: str, max_bytes: int) -> bytes:
    """Undoes a `Content-Encoding`.

    Args:
        body: Packed.
        how: `gzip` or `deflate`.
        max_bytes: Largest result.

    Raises:
        RequestTooLargeError: It unpacks to more; no more than that is ever held.
        RequestError: The encoding is another one, or the body is damaged.
    """
    bits = _WINDOW_BITS.get(how)
    if bits is None:
        raise RequestError("the body's Content-Encoding is not known here; send it as it is, or by gzip or deflate")
    unpacker = zlib.decompressobj(bits)
    try:
        plain = unpacker.decompress(body, max_bytes + 1)
    except zlib.error:
        raise RequestError(f"the body is not what its Content-Encoding says: it cannot be unpacked by {how}") from None
    if len(plain) > max_bytes:
        raise RequestTooLargeError(f"the body unpacks to more than {max_bytes:,} bytes; cut the request up")
    if not unpacker.eof:
        raise RequestError(f"the body ends before its {how} data does; send it whole")
    return plain


def _too_large(largest: int) -> RequestTooLargeError:
    return RequestTooLargeError(f"the body is larger than {largest:,} bytes; cut the request up")
