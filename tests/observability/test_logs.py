"""One event, one line."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomvae.observability.log_records import library_records
from anomvae.observability.logs import Log

NASTY = st.text() | st.sampled_from(["a\nb", "\r", "\u2028\u2029", "\x1b[31m", "\ud800", '"\\', "", "\x00", "x" * 9000])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(width=32)
    | NASTY
    | st.binary(max_size=20)
    | st.builds(ValueError, NASTY)
    | st.builds(np.float32, st.floats(width=32))
    | st.builds(object),
    lambda held: st.lists(held, max_size=4) | st.dictionaries(NASTY, held, max_size=4) | st.tuples(held, held),
    max_leaves=10,
)


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1767225600.25

    def __call__(self) -> float:
        return self.now_s


class Written:
    """A log, its stream and its clock."""

    def __init__(self, format: Literal["json", "text"] = "json", **options: Any) -> None:  # noqa: A002 - as in Log
        self.stream, self.clock = io.StringIO(), Clock()
        self.log = Log(self.stream, format=format, clock=self.clock, monotonic=self.clock, **options)

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().split("\n")[:-1]

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def test_an_event_tells_its_time_level_name_and_fields() -> None:
    written = Written()
    written.log.warning("model refused", model="press", version=2)
    assert written.lines == [
        '{"time":"2026-01-01T00:00:00.250Z","level":"warning","event":"model refused","model":"press","version":2}'
    ]


@given(NASTY, st.dictionaries(NASTY, VALUES, max_size=5))
def test_any_event_is_one_line_of_strict_json(event: str, fields: dict[str, Any]) -> None:
    written = Written()
    written.log.write("error", event, fields)
    assert len(written.stream.getvalue().splitlines()) == 1
    told = json.loads(written.lines[0], parse_constant=refuse_constant)
    assert told["level"] == "error"
    assert written.lines[0].encode("ascii")
    json.dumps(told, ensure_ascii=False).encode("utf-8")


@given(NASTY, st.dictionaries(NASTY, VALUES, max_size=5))
def test_any_event_is_one_line_of_text_that_steers_no_terminal(event: str, fields: dict[str, Any]) -> None:
    written = Written("text")
    written.log.write("info", event, fields)
    assert written.stream.getvalue().endswith("\n")
    assert written.stream.getvalue()[:-1].isprintable()


def test_text_lines_read_as_words() -> None:
    written = Written("text")
    written.log.info("model loaded", model="press", folder="a b", rate=0.5, names=["x"])
    assert written.lines == [
        '2026-01-01T00:00:00.250Z INFO    model loaded model=press folder="a b" rate=0.5 names=["x"]'
    ]


def test_no_content_of_exceptions_bytes_or_arrays_is_told() -> None:
    class Strange:
        def __repr__(self) -> str:
            return "secret"

        def __str__(self) -> str:
            return "secret"

    written = Written()
    written.log.error(
        "failed",
        error=ValueError("secret"),
        system=FileNotFoundError(2, "secret", "secret"),
        body=b"secret",
        cells=np.array(["secret"]),
        row={"held": [Strange(), bytearray(b"secret")]},
    )
    assert "secret" not in written.lines[0]
    told = written.events[0]
    assert (told["error"], told["system"], told["body"]) == ("ValueError", "FileNotFoundError ENOENT", "<6 bytes>")


def test_what_json_cannot_hold_is_told_in_words() -> None:
    written = Written()
    written.log.info(
        "odd",
        nan=float("nan"),
        low=-np.inf,
        wide=np.longdouble(1),
        huge=10**5000,
        path=PurePosixPath("a/b"),
        flag=np.True_,
    )
    told = written.events[0]
    assert (told["nan"], told["low"], told["path"], told["flag"]) == ("nan", "-inf", "a/b", True)
    assert told["huge"] == "<int of 16610 bits>"
    assert told["wide"] == "<longdouble>"


def test_a_value_that_cannot_be_looked_at_stops_nobody() -> None:
    class Broken(list[int]):
        def __len__(self) -> int:
            raise RuntimeError

        def __iter__(self) -> Any:
            raise RuntimeError

    written = Written()
    written.log.info("odd", value=Broken())
    assert written.events[0]["value"] == "<Broken>"


def test_long_and_deep_values_are_cut() -> None:
    nested: list[Any] = []
    for _ in range(100):
        nested = [nested]
    written = Written()
    written.log.info("odd", text="x" * 100_000, many=list(range(100_000)), deep=nested)
    assert len(written.lines[0]) < 4000
    assert written.events[0]["many"][-1] == "<99950 more>"


def test_fields_cannot_take_the_place_of_what_the_log_tells() -> None:
    written = Written()
    written.log.info("begun", time=1, level="x", event="y", suppressed=5)
    told = written.events[0]
    assert (told["event"], told["level"], "suppressed" in told) == ("begun", "info", False)
    assert (told["event_"], told["level_"], told["time_"], told["suppressed_"]) == ("y", "x", 1, 5)


def test_a_flood_of_equal_events_is_cut_and_its_size_is_told() -> None:
    written = Written(limit_per_s=3)
    for _ in range(10):
        written.log.warning("overloaded")
    written.log.warning("something else")
    assert [told["event"] for told in written.events] == ["overloaded"] * 3 + ["something else"]
    written.clock.now_s += 1.0
    written.log.warning("overloaded")
    written.log.warning("overloaded")
    assert [told.get("suppressed") for told in written.events[-2:]] == [7, None]


def test_what_was_suppressed_is_told_at_the_end() -> None:
    written = Written(limit_per_s=1)
    for _ in range(5):
        written.log.error("overloaded")
    written.log.flush()
    written.log.flush()
    assert [told.get("suppressed") for told in written.events] == [None, 4]


def test_made_up_events_do_not_fill_the_memory() -> None:
    written = Written()
    for number in range(5000):
        written.log.write("info", f"event {number}", {})
    assert len(written.log._flood._seen) <= 1000


def test_levels_below_the_least_are_left_out() -> None:
    written = Written(level="warning")
    written.log.info("a")
    written.log.warning("b")
    written.log.error("c")
    assert [told["event"] for told in written.events] == ["b", "c"]


@pytest.mark.parametrize("options", [{"format": "xml"}, {"level": "debug"}, {"limit_per_s": 0}])
def test_a_log_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a log takes"):
        Log(io.StringIO(), **options)


def test_a_stream_that_is_closed_stops_nobody() -> None:
    written = Written()
    written.stream.close()
    written.log.error("failed")


def test_a_stream_that_nobody_reads_holds_nobody_up_and_what_was_dropped_is_told() -> None:
    reading, writing = os.pipe()
    with open(reading, encoding="utf-8") as reader, open(writing, "w", encoding="utf-8") as stream:  # noqa: PTH123
        log = Log(stream, max_lines=50)
        for number in range(2000):  # far more than a pipe holds
            log.write("info", f"event {number}", {"note": "x" * 1000})
        log.flush()
        lines: list[str] = []
        drain = threading.Thread(target=lambda: lines.extend(reader))
        drain.start()
        while log._writer._lines:  # type: ignore[union-attr]
            log._writer.flush()
        log.info("the end")
        log.flush()
        stream.close()
        drain.join(30)
    told = [json.loads(line) for line in lines]
    written = [int(each["event"].split()[1]) for each in told if "note" in each]
    dropped = sum(each.get("dropped", 0) for each in told)
    assert written == sorted(written)
    assert dropped > 0
    assert len(written) + dropped == 2000
    assert [each["event"] for each in told[-2:]] == ["log lines dropped", "the end"]


def test_the_last_words_of_a_process_are_written_and_a_reader_that_has_stopped_does_not_keep_it_from_ending() -> None:
    code = "from anomvae.observability import Log\nlog = Log()\nfor i in range(%d): log.write('info', f'event {i}', {})"
    ended = subprocess.run([sys.executable, "-c", code % 500], capture_output=True, text=True, timeout=60, check=True)
    assert [json.loads(line)["event"] for line in ended.stderr.splitlines()] == [f"event {i}" for i in range(500)]
    with subprocess.Popen([sys.executable, "-c", code % 9000], stderr=subprocess.PIPE) as unread:
        assert unread.wait(60) == 0


def test_standard_error_is_where_events_go_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    Log().info("begun")
    assert json.loads(capsys.readouterr().err)["event"] == "begun"


def test_warnings_of_libraries_are_told_without_values() -> None:
    written = Written()
    with library_records(written.log):
        logging.getLogger("uvicorn.error").info("not told")
        logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
        logging.getLogger("grpc._server").error("Exception calling application: %s", "secret")
        logging.getLogger("asyncio").error("Task exception was never retrieved\nfuture: ValueError('secret')")
        logging.getLogger("asyncio").error("Exception in callback score(b'secret')")
        logging.getLogger("uvicorn.error").error(OSError(98, "secret"))
    assert [(told["level"], told["logger"], told["event"]) for told in written.events] == [
        ("warning", "uvicorn.error", "Invalid HTTP request received."),
        ("error", "grpc._server", "Exception calling application: %s"),
        ("error", "asyncio", "Task exception was never retrieved"),
        ("error", "asyncio", "Exception in callback score"),
        ("error", "uvicorn.error", "OSError EADDRINUSE"),
    ]
    assert "secret" not in written.stream.getvalue()


def test_what_the_kafka_client_says_is_named_by_its_kind() -> None:
    written = Written()
    with library_records(written.log, ["confluent_kafka"]):
        client = logging.getLogger("confluent_kafka")
        client.error("%s [%s] %s", "FAIL", "rdkafka#producer-1", "[thrd:secret:9092/bootstrap]: Connection refused")
        client.error("%s [%s] %s", "secret key", "rdkafka#producer-1", "secret")
        client.warning("%s has no (secret)", "secret")
    assert [told["event"] for told in written.events] == ["Kafka client: FAIL", "Kafka client", "%s has no (secret)"]
    assert written.stream.getvalue().count("secret") == 1


def test_an_exception_in_a_library_is_told_by_type_and_place() -> None:
    def read_cell(cell: str) -> float:
        return float(cell)

    written = Written()
    with library_records(written.log):
        try:
            read_cell("secret")
        except ValueError:
            logging.getLogger("uvicorn.error").exception("Exception in ASGI application\n")
    (told,) = written.events
    assert (told["event"], told["error"]) == ("Exception in ASGI application", "ValueError")
    assert told["calls"][-1].startswith("test_logs.py:")
    assert told["calls"][-1].endswith(" read_cell")
    assert "secret" not in written.lines[0]


def test_a_failure_in_the_event_loop_is_told_without_values() -> None:
    async def fail_in_a_callback() -> None:
        asyncio.get_running_loop().call_soon(int, "secret")
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    written = Written()
    with library_records(written.log):
        asyncio.run(fail_in_a_callback())
    assert written.events[0]["error"] == "ValueError"
    assert "secret" not in written.stream.getvalue()


def test_the_loggers_of_libraries_are_given_back() -> None:
    logger = logging.getLogger("grpc")
    before = (logger.handlers, logger.propagate, logger.level)
    with library_records(Written().log):
        assert logger.handlers is not before[0]
    assert (logger.handlers, logger.propagate, logger.level) == before
