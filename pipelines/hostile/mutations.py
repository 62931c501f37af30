"""Damage to documents and bytes, drawn at random and the same again from the same seed."""

from __future__ import annotations

import copy
import json
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

MARK, MARK_DIGITS = "SECRET", "73918465"
"""What cells hold, in letters and in digits, to be looked for where no cell may turn up."""
ODD_NUMBERS: tuple[Any, ...] = (
    *(
        0,
        -1,
        1,
        7,
        -0.0,
        1e-320,
        1e39,
        -1e39,
        1e308,
        2**31,
        2**32,
        2**53 + 1,
        2**63 - 1,
        2**63,
        2**64,
        -(2**63),
        -(2**63) - 1,
    ),
    *(10**30, float("nan"), float("inf"), float("-inf"), 0.5, 1e-13, 10**12, 4_294_967_295, int(MARK_DIGITS)),
)
ODD_TEXTS = (
    *(
        "",
        " ",
        "NaN",
        "nan",
        "null",
        "true",
        "-0",
        "1e999",
        "٣",
        "\x00",
        "\ud800",
        "\ufeff",
        "é" * 40,
        "FP32",
        "BYTES",
        "BF16",
    ),
    *(
        "2024-02-30",
        "2024-02-29T25:00",
        "9999-12-31T23:59:59.999999+14:00",
        "0000-00-00",
        "-1-01-01",
        "2024-01-01T00:00Z",
    ),
    *(
        MARK + "12",
        MARK + "x" * 5000,
        MARK_DIGITS + ".5",
        "__class__",
        "numeric",
        "temperature",
        "../../etc",
        "\ud800",
        "%s%n{0}",
        "a,b\n",
    ),
)
ODD_KEYS = ("", "id", "data", "parameters", "shape", "top", "alarm_rate", "x" * 300)
REPEATS, MOST_REPEATED = 500, 40
MOST_PLACES = 400
DEEP = "<deep>"
"""Stands for lists in lists, which come in once the document is text: Python itself would not write them."""
DEPTHS = (20, 200, 1020, 3000, 50_000)
LONG = (100, 20_000)
_LONGEST = 200_000


def chance(draw: random.Random, share: float) -> bool:
    """True in so large a share of the cases."""
    return draw.random() < share


def odd_value(draw: random.Random) -> Any:
    """A value that is seldom expected."""
    match draw.randrange(10):
        case 0 | 1 | 2 | 3:
            return draw.choice(ODD_NUMBERS)
        case 4 | 5 | 6:
            return draw.choice(ODD_TEXTS)
        case 7:
            return draw.choice((None, True, False, [], {}, [[]], [None], {"": None}, {MARK: [MARK]}))
        case 8:
            return draw.choice((DEEP, [DEEP], {"a": DEEP}, [[odd_value(draw)]]))
        case _:
            return [draw.choice(ODD_NUMBERS[:10])] * draw.choice(LONG)


def mutate_document(draw: random.Random, document: Any) -> Any:
    """A copy of a JSON document with one to four changes at random places."""
    changed = {"": copy.deepcopy(document)}
    for _ in range(draw.choice((1, 1, 1, 2, 2, 4))):
        places = _places(changed)
        holder, key = draw.choice(places)
        _change(draw, holder, key, places)
    return changed[""]


def _places(holder: Any) -> list[tuple[Any, Any]]:
    """Every place of a document that holds something."""
    found: list[tuple[Any, Any]] = []
    waiting = [holder]
    while waiting and len(found) < MOST_PLACES:  # the first ones say enough of a long document
        here = waiting.pop()
        keys = list(here) if isinstance(here, dict) else range(len(here))
        for key in keys:
            found.append((here, key))
            if isinstance(here[key], dict | list):
                waiting.append(here[key])
    return found


def _change(draw: random.Random, holder: Any, key: Any, places: list[tuple[Any, Any]]) -> None:
    """Changes one place; the outermost has the key "" and is neither taken out nor renamed."""
    whole = key == ""
    match draw.randrange(9):
        case 3 if not whole:
            del holder[key]
        case 4:
            other, there = draw.choice(places)
            holder[key] = odd_value(draw) if there == "" else copy.deepcopy(other[there])
        case 5:
            holder[key] = [holder[key]]
        case 6:
            _add(draw, holder)
        case 7 if isinstance(holder, dict) and not whole:
            holder[draw.choice(ODD_TEXTS)] = holder.pop(key)
        case 8 if isinstance(holder[key], list):
            holder[key] = holder[key] * draw.choice((2, 3, REPEATS if len(holder[key]) < MOST_REPEATED else 2))
        case _:
            holder[key] = odd_value(draw)


def _add(draw: random.Random, holder: Any) -> None:
    if isinstance(holder, list):
        holder.insert(draw.randrange(len(holder) + 1), odd_value(draw))
    else:
        holder[draw.choice(ODD_KEYS)] = odd_value(draw)


def as_text(draw: random.Random, document: Any) -> bytes:
    """A document as JSON, or as what some take for JSON."""
    text = json.dumps(document, ensure_ascii=chance(draw, 0.5), separators=draw.choice(((",", ":"), (", ", ": "))))
    if chance(draw, 0.8):  # else most would be refused as no JSON
        text = text.replace("-Infinity", "1e39").replace("Infinity", "-1e39").replace("NaN", "null")
    if DEEP in text:
        depth = draw.choice(DEPTHS)
        text = text.replace(f'"{DEEP}"', "[" * depth + "1" + "]" * depth)
    return text.encode("utf-8", draw.choice(("surrogatepass", "replace", "replace")))


def mutate_bytes(draw: random.Random, body: bytes, other: bytes) -> bytes:
    """A body with one to three changes that know nothing of its form.

    Args:
        draw: Decides.
        body: To be changed.
        other: Another body, parts of which may get in.
    """
    for _ in range(draw.choice((1, 1, 2, 3))):
        change: Callable[[random.Random, bytearray, bytes], bytes] = draw.choice(_CHANGES)
        body = change(draw, bytearray(body or b"\x00"), other)[:_LONGEST]
    return body


def _flip(draw: random.Random, body: bytearray, _: bytes) -> bytes:
    for _flip in range(draw.choice((1, 1, 3, 20))):
        body[draw.randrange(len(body))] ^= 1 << draw.randrange(8)
    return bytes(body)


def _truncate(draw: random.Random, body: bytearray, _: bytes) -> bytes:
    return bytes(body[: draw.randrange(len(body))])


def _insert(draw: random.Random, body: bytearray, _: bytes) -> bytes:
    place = draw.randrange(len(body) + 1)
    return bytes(body[:place] + draw.randbytes(draw.choice((1, 2, 8, 100))) + body[place:])


def _delete(draw: random.Random, body: bytearray, _: bytes) -> bytes:
    place = draw.randrange(len(body))
    return bytes(body[:place] + body[place + draw.choice((1, 4, 16, 200)) :])


def _repeat(draw: random.Random, body: bytearray, _: bytes) -> bytes:
    start = draw.randrange(len(body))
    part = body[start : start + draw.choice((1, 8, 64, 1000))]
    return bytes(body[:start] + part * draw.choice((2, 3, 50)) + body[start:])


def _splice(draw: random.Random, body: bytearray, other: bytes) -> bytes:
    return bytes(body[: draw.randrange(len(body))]) + other[draw.randrange(len(other) + 1) :]


def _overwrite(draw: random.Random, body: bytearray, _: bytes) -> bytes:
    """A length, a count or an offset gets another value."""
    form, most = draw.choice((("<i", 2**31 - 1), ("<q", 2**63 - 1), ("<h", 2**15 - 1)))
    size = struct.calcsize(form)
    if len(body) < size:
        return bytes(body)
    place = draw.randrange(len(body) - size + 1)
    if chance(draw, 0.7):  # formats align their fields
        place -= place % size
    body[place : place + size] = struct.pack(
        form, draw.choice((0, 1, -1, most, -most - 1, most // 2, 255, 4096, 10**4))
    )
    return bytes(body)


def _noise(draw: random.Random, body: bytearray, _: bytes) -> bytes:
    return draw.randbytes(draw.randrange(1, max(2, min(len(body), 2000))))


_CHANGES = (_flip, _flip, _truncate, _insert, _delete, _repeat, _splice, _overwrite, _overwrite, _noise)
