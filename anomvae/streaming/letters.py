"""Dead letters: records that cannot be answered, as they came, with the reason beside them."""

from __future__ import annotations

import base64
import datetime as dt
from typing import TYPE_CHECKING, NamedTuple

from anomvae.streaming.answers import LARGE, short_key
from anomvae.streaming.codec import as_json
from anomvae.streaming.contracts import Outgoing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anomvae.streaming.contracts import Headers, Origin, Record, Sink

PREFIX = "anomvae-"
DROPPED = "the record is larger than this sink takes, so its payload was dropped"


class DeadLetter(NamedTuple):
    """A record that cannot be answered.

    Attributes:
        message: To send.
        origin: Where the record lies.
        reason: What is wrong, as a sentence without values.
    """

    message: Outgoing
    origin: Origin
    reason: str


def dead_letter(record: Record, reason: str, version: str, now_s: float) -> DeadLetter:
    """A record's payload and key as they came, its headers, and headers that say where it came from and what is wrong.

    Args:
        record: What cannot be answered.
        reason: Why, as a sentence without values.
        version: Of the model that was to answer.
        now_s: Unix time.
    """
    origin = record.origin
    told = {
        "error": reason,
        "topic": origin.topic,
        "partition": str(origin.partition),
        "offset": str(origin.offset),
        "model-version": version,
        "time": dt.datetime.fromtimestamp(now_s, dt.UTC).isoformat(timespec="milliseconds"),
    }
    headers = _headers(told)
    size = len(record.payload) + len(record.key or b"") + sum(len(name) + len(value) for name, value in record.headers)
    brief = None
    if size >= LARGE:  # who needs its payload finds it at its origin
        told |= {"error": f"{reason}; {DROPPED}", "payload-bytes": str(len(record.payload))}
        brief = Outgoing(b"", short_key(record.key), _headers(told))
    return DeadLetter(Outgoing(record.payload, record.key, record.headers + headers, brief), origin, reason)


def _headers(told: Mapping[str, str]) -> Headers:
    return tuple((PREFIX + name, value.encode()) for name, value in told.items())


class LetterLines:
    """A sink of dead letters as JSON lines, for sinks that have no headers: files and pipes.

    Args:
        sink: Where the lines go.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Queues letters, each as one object: what its headers say, then `key` and `payload`."""
        self._sink.send([Outgoing(_line(letter), letter.key) for letter in messages])

    def flush(self) -> None:
        """Waits until all is written."""
        self._sink.flush()

    @property
    def healthy(self) -> bool:
        """Whether the sink is."""
        return self._sink.healthy

    def close(self) -> None:
        """Closes the sink."""
        self._sink.close()


def _line(letter: Outgoing) -> bytes:
    told: dict[str, object] = {}
    for name, value in letter.headers:
        if name.startswith(PREFIX):
            told[name.removeprefix(PREFIX).replace("-", "_")] = _text(value)
    for name in ("partition", "offset"):
        if name in told:
            told[name] = int(str(told[name]))
    if letter.key is not None:
        told.update(_field("key", letter.key))
    return as_json({**told, **_field("payload", letter.payload)})


def _field(name: str, value: bytes) -> dict[str, str]:
    """Bytes as text, or as Base64 under a name that says so."""
    text = _text(value)
    return {f"{name}_base64": base64.b64encode(value).decode()} if text is None else {name: text}


def _text(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None
