"""The answer to a record, as one JSON object."""

from __future__ import annotations

from hashlib import blake2b
from types import NoneType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson

from anomvae.streaming.codec import as_json
from anomvae.streaming.contracts import Outgoing

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import numpy.typing as npt

    from anomvae.streaming.codec import Row

    FloatArray = npt.NDArray[np.float64]
    Reasons = list[dict[str, Any]]

RESERVED = (
    "score",
    "p_value",
    "reconstruction_error",
    "alarm",
    "reasons",
    "event_id",
    "model_version",
    "latency_s",
    "reason",
    "tail",
    "pooled",
    "kind",
    "shortened",
)
"""Names of an answer's own fields, and of those that tell events and shortened messages; fields of a record that have such a name
do not go along."""
_FORM = (
    b'%%b"score":%%b,"p_value":%%b,"reconstruction_error":%%b,"alarm":%%b,"reasons":%%b,"event_id":"%%b","model_version":%b,'
    b'"latency_s":%%b%%b}'
)
_BARE = frozenset({int, float, bool, NoneType})
"""Types of cells that JSON writes without commas."""
LARGE = 64 << 10
"""Bytes from which a message gets a brief form: the smallest limits of brokers lie above."""
_LONGEST_CELL = 1_000
"""Bytes of a field that goes along in a brief answer."""
_MOST_FIELDS = 32
"""Fields of the record that go along in a brief answer, and reasons in it."""
_LONGEST_VALUE = 200
"""Letters of a value that a reason of a brief answer tells."""


class Verdicts(NamedTuple):
    """What n rows were found to be.

    Attributes:
        score: NaN where a row was not scored, shape ``(n,)``.
        p_value: Likewise.
        reconstruction_error: Likewise.
        alarm: Shape ``(n,)``.
        reasons: By position, of those rows that get any.
        extras: By position: further fields, such as why a row was not scored.
        failed: Positions of rows on which the graph failed, ascending.
    """

    score: FloatArray
    p_value: FloatArray
    reconstruction_error: FloatArray
    alarm: npt.NDArray[np.bool_]
    reasons: Mapping[int, Reasons]
    extras: Mapping[int, Mapping[str, Any]]
    failed: Sequence[int] = ()


class AnswerWriter:
    """Writes answers.

    Args:
        scored: Columns that the model scores: they do not go along.
        version: The model's version.
    """

    def __init__(self, scored: Collection[str], version: str) -> None:
        self._dropped = frozenset(scored) | set(RESERVED)
        self._form = _FORM % as_json(version).replace(b"%", b"%%")

    def beginnings(self, rows: Sequence[Row]) -> list[bytes]:
        """Answers up to their own first field: what goes along of each of n rows of cells by column name, as they came."""
        if not rows:
            return []
        names = list(rows[0])
        kept = [name for name in names if name not in self._dropped]
        if not kept or not all(list(row) == names for row in rows):
            return list(map(self._beginning, rows))
        try:
            columns = [_texts_of([row[name] for row in rows]) for name in kept]
        except TypeError:  # a field is nested too deep
            return list(map(self._beginning, rows))
        form = b"{" + b"".join(as_json(name).replace(b"%", b"%%") + b":%b," for name in kept)
        return [form % parts for parts in zip(*columns, strict=True)]

    def write(
        self, beginnings: Sequence[bytes], verdicts: Verdicts, event_ids: Sequence[str], latency_s: FloatArray
    ) -> list[bytes]:
        """An answer for each of n rows.

        Args:
            beginnings: What goes along of each.
            verdicts: On those rows.
            event_ids: Of those rows, hexadecimal.
            latency_s: From each record's own time to its answer, seconds, shape ``(n,)``.
        """
        n = len(beginnings)
        if not n:
            return []
        reasons, extras = [b"[]"] * n, [b""] * n
        for i, found in verdicts.reasons.items():
            reasons[i] = as_json(found)
        for i, more in verdicts.extras.items():
            extras[i] = b"," + as_json(more)[1:-1] if more else b""
        numbers = (verdicts.score, verdicts.p_value, verdicts.reconstruction_error, verdicts.alarm)
        columns = (
            beginnings,
            *map(_texts, numbers),
            reasons,
            map(str.encode, event_ids),
            _texts(np.round(latency_s, 6)),
            extras,
        )
        # What all answers have in common is written once: an object each, built and dumped, takes twice as long.
        return [self._form % parts for parts in zip(*columns, strict=True)]

    def _beginning(self, row: Row) -> bytes:
        along = {name: cell for name, cell in row.items() if name not in self._dropped}
        try:
            text = as_json(along)
        except TypeError:
            text = _shallow(along)
        return b"{" if text == b"{}" else text[:-1] + b","


def all_outgoing(payloads: Sequence[bytes], keys: Sequence[bytes | None]) -> list[Outgoing]:
    """Messages that hold JSON objects; see :func:`outgoing`."""
    longest = max(map(len, payloads), default=0) + max(map(len, filter(None, keys)), default=0)
    return list(map(Outgoing if longest < LARGE else outgoing, payloads, keys))


def outgoing(payload: bytes, key: bytes | None) -> Outgoing:
    """A message that holds a JSON object; a large one has a brief form: without long fields that only go along, nor long text."""
    if len(payload) + len(key or b"") < LARGE:
        return Outgoing(payload, key)
    content: Row = orjson.loads(payload)
    along = {name for name in content if name not in RESERVED}
    short = {name for name in along if len(name.encode()) + len(orjson.dumps(content[name])) <= _LONGEST_CELL}
    kept = set(sorted(short)[:_MOST_FIELDS])
    brief = {name: cell for name, cell in content.items() if name not in along or name in kept}
    if "reasons" in brief:
        brief["reasons"] = [_brief_reason(reason) for reason in brief["reasons"][:_MOST_FIELDS]]
    return Outgoing(payload, key, (), Outgoing(as_json({**brief, "shortened": True}), short_key(key)))


def _brief_reason(reason: dict[str, Any]) -> dict[str, Any]:
    """A reason without the end of long text: a category that training never saw is told as it came."""
    return {
        name: cell[:_LONGEST_VALUE] + "..." if isinstance(cell, str) and len(cell) > _LONGEST_VALUE else cell
        for name, cell in reason.items()
    }


def short_key(key: bytes | None) -> bytes | None:
    """A key that any sink takes: the beginning of a long one, with its digest."""
    if key is None or len(key) <= _LONGEST_CELL:
        return key
    return key[: _LONGEST_CELL // 2] + b"~" + blake2b(key, digest_size=8).hexdigest().encode()


def _texts(column: npt.NDArray[np.generic]) -> list[bytes]:
    """Numbers or flags as JSON writes them; null where they are not finite."""
    return as_json(column.tolist())[1:-1].split(b",")


def _texts_of(cells: list[Any]) -> list[bytes]:
    """Each of some cells, at least one, as JSON writes it.

    Raises:
        TypeError: One is nested deeper than JSON can be written.
    """
    kinds = set(map(type, cells))
    if kinds <= _BARE:
        return as_json(cells)[1:-1].split(b",")
    if kinds == {str}:
        text = as_json(cells)
        if b"\\" not in text:  # then all quotation marks there are stand around the cells
            return [b'"' + each + b'"' for each in text[2:-2].split(b'","')]
    return [as_json([cell])[1:-1] for cell in cells]  # as deep as within a row


def _shallow(along: Row) -> bytes:
    """Fields without those that are nested deeper than JSON can be written."""
    return as_json({name: cell for name, cell in along.items() if not isinstance(cell, (dict, list))})
