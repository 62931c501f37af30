"""Dead letters hold a record as it came, and why it could not be answered."""

from __future__ import annotations

import orjson

from anomvae.streaming.answers import LARGE
from anomvae.streaming.contracts import Origin, Outgoing, Record
from anomvae.streaming.letters import LetterLines, dead_letter
from tests.streaming.toys import ListSink

RECORD = Record(b"\x00\xff", Origin("in", 3, 14), b"press-1", headers=(("trace", b"7"),))


def test_a_letter_is_the_record_with_headers_that_say_whence_and_why() -> None:
    message, origin, reason = dead_letter(RECORD, "the payload is not JSON", "2", 1_767_225_600.5)
    assert (message.payload, message.key, origin, reason) == (
        b"\x00\xff",
        b"press-1",
        RECORD.origin,
        "the payload is not JSON",
    )
    assert message.headers == (
        ("trace", b"7"),
        ("anomvae-error", b"the payload is not JSON"),
        ("anomvae-topic", b"in"),
        ("anomvae-partition", b"3"),
        ("anomvae-offset", b"14"),
        ("anomvae-model-version", b"2"),
        ("anomvae-time", b"2026-01-01T00:00:00.500+00:00"),
    )


def test_a_large_letter_has_a_brief_form_that_says_where_the_record_lies() -> None:
    record = Record(b"x" * LARGE, Origin("in", 2, 7), key=b"k" * LARGE, headers=(("trace", b"t" * LARGE),))
    message = dead_letter(record, "it is no JSON", "7", 0.0).message
    assert (message.payload, message.key, message.headers[0]) == (record.payload, record.key, record.headers[0])
    brief = message.brief
    assert brief is not None
    assert (brief.payload, len(brief.key or b"") < 1_000) == (b"", True)
    headers = dict(brief.headers)
    assert (headers["anomvae-topic"], headers["anomvae-partition"], headers["anomvae-offset"]) == (b"in", b"2", b"7")
    why = b"it is no JSON; the record is larger than this sink takes, so its payload was dropped"
    assert (headers["anomvae-error"], headers["anomvae-payload-bytes"]) == (why, b"%d" % LARGE)
    assert dict(message.headers)["anomvae-error"] == b"it is no JSON"
    assert dead_letter(Record(b"x", Origin("in", 2, 7)), "no", "7", 0.0).message.brief is None


def test_where_there_are_no_headers_a_letter_is_one_line() -> None:
    sink = ListSink()
    lines = LetterLines(sink)
    text = Record(b'{"a":\n1', Origin("day.jsonl", 0, 2))
    lines.send([dead_letter(record, "why", "2", 0.0).message for record in (RECORD, text)])
    lines.flush()
    lines.close()
    assert (sink.flushed, sink.closed, lines.healthy) == (2, True, True)
    assert all(isinstance(line, Outgoing) and b"\n" not in line.payload for line in sink.messages)
    first, second = (orjson.loads(line.payload) for line in sink.messages)
    assert first == {
        "error": "why", "topic": "in", "partition": 3, "offset": 14, "model_version": "2",
        "time": "1970-01-01T00:00:00.000+00:00", "key": "press-1", "payload_base64": "AP8=",
    }  # fmt: skip
    assert (second["payload"], second["offset"], "key" in second) == ('{"a":\n1', 2, False)
