"""Bodies are read within limits, whoever sends them, and however."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import zlib
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomvae.errors import OverloadedError, RequestError, RequestTooLargeError, SlowRequestError
from anomvae.serving.bodies import BodyLimits, Held, read_body
from anomvae.serving.bodies import unpacked as unpack
from anomvae.serving.permits import Permit
from anomvae.serving.service import CallerGoneError

LIMITS = BodyLimits(max_bytes=1000, timeout_s=0.05)


def unpacked(body: bytes, how: str, max_bytes: int) -> bytes:
    return asyncio.run(unpack(body, how, max_bytes, Held(Permit(10_000, "bytes"))))


def read(
    *parts: bytes | None, permit: Permit | None = None, ends: bool = True, limits: BodyLimits = LIMITS, **headers: str
) -> bytes:
    """Reads a body that comes in parts; None: the caller goes; without an end, nothing more ever comes."""
    permit = permit or Permit(5000, "bytes")
    held = Held(permit)
    before = permit.used
    messages: list[dict[str, Any]] = [
        {"type": "http.disconnect"}
        if part is None
        else {"type": "http.request", "body": part, "more_body": not ends or number < len(parts)}
        for number, part in enumerate(parts, start=1)
    ]

    async def receive() -> Any:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop(0)

    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        return asyncio.run(read_body(receive, named, limits, held))
    finally:
        held.release()
        assert permit.used == before  # whatever happened, it is given back


@given(st.binary(max_size=1000), st.lists(st.integers(0, 1000), max_size=5))
def test_parts_come_together_in_order(body: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(body)]
    parts = [body[start:stop] for start, stop in pairwise(edges)]
    assert read(*parts) == b"".join(parts)


@pytest.mark.parametrize("parts", [[b"x" * 1001], [b"x" * 600, b"x" * 401], [b"x"] * 1001])
def test_what_is_too_large_is_refused_however_it_comes(parts: list[bytes]) -> None:
    with pytest.raises(RequestTooLargeError, match="larger than 1,000 bytes"):
        read(*parts)
    with pytest.raises(RequestTooLargeError):
        read(content_length="1001", ends=False)


def test_a_body_larger_than_all_that_may_be_held_is_too_large_and_not_to_be_tried_again() -> None:
    with pytest.raises(RequestTooLargeError, match="larger than 500 bytes"):
        read(b"x" * 300, b"x" * 300, permit=Permit(500, "bytes"))
    with pytest.raises(RequestTooLargeError):
        read(content_length="600", ends=False, permit=Permit(500, "bytes"))


def test_what_does_not_fit_beside_others_is_refused_for_now() -> None:
    permit = Permit(1000, "bytes")
    permit.take(800)
    with pytest.raises(OverloadedError):
        read(b"x" * 100, b"x" * 150, permit=permit)
    assert read(b"x" * 100, b"x" * 50, permit=permit) == b"x" * 150
    with pytest.raises(OverloadedError):
        read(b"x" * 900, permit=permit)


@pytest.mark.parametrize("parts", [[], [b""], [b"x"], [b"x", b"y"]])
def test_what_does_not_come_in_time_is_not_waited_for(parts: list[bytes]) -> None:
    with pytest.raises(SlowRequestError, match=r"within 0\.05 seconds"):
        read(*parts, ends=False)


@pytest.mark.parametrize("parts", [[None], [b"x", None]])
def test_a_caller_who_goes_is_let_go(parts: list[bytes | None]) -> None:
    with pytest.raises(CallerGoneError):
        read(*parts, ends=False)


@pytest.mark.parametrize("how", ["gzip", "x-gzip", "deflate", "GZIP"])
@pytest.mark.parametrize("body", [b"", b"[1, 2]", b" " * 1000])
def test_packed_bodies_are_unpacked(how: str, body: bytes) -> None:
    packed = zlib.compress(body) if how == "deflate" else gzip.compress(body)
    assert read(packed, content_encoding=how) == body


def test_a_body_that_unpacks_to_too_much_is_refused() -> None:
    with pytest.raises(RequestTooLargeError, match="unpacks to more than 1,000 bytes"):
        read(gzip.compress(b" " * 1001), content_encoding="gzip")


@pytest.mark.parametrize("how", ["br", "gzip, gzip", "", "identity, gzip"])
def test_packings_that_are_not_known_are_told(how: str) -> None:
    with pytest.raises(RequestError, match="Content-Encoding"):
        read(b"x", content_encoding=how)


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]))
def test_whatever_is_packed_wrongly_is_the_callers_fault(body: bytes, how: str) -> None:
    with contextlib.suppress(RequestError):
        assert len(unpacked(body, how, 1000)) <= 1000


def test_a_file_of_several_members_is_read_whole_and_no_more_than_that() -> None:
    first, second = gzip.compress(b"first,"), gzip.compress(b"second")
    assert read(first + second, content_encoding="gzip") == b"first,second"
    with pytest.raises(RequestError):
        read(first + b"rubbish", content_encoding="gzip")
    with pytest.raises(RequestError, match="members"):
        read(gzip.compress(b"") * 110, content_encoding="gzip", limits=BodyLimits(max_bytes=4000))
    with pytest.raises(RequestError, match="more follows"):
        read(zlib.compress(b"x") + b"more", content_encoding="deflate")


def test_what_is_unpacked_is_held_of_the_permit() -> None:
    with pytest.raises(OverloadedError):
        read(gzip.compress(b"x" * 900), permit=_held_elsewhere(), content_encoding="gzip")


def _held_elsewhere() -> Permit:
    permit = Permit(2000, "bytes")
    permit.take(1500)
    return permit


def test_half_of_a_packed_body_is_told() -> None:
    with pytest.raises(RequestError, match="send it whole"):
        unpacked(gzip.compress(bytes(range(256)))[:-9], "gzip", 1000)
