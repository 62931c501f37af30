"""A stream that has to go goes: whatever it does when the signal comes."""

from __future__ import annotations

import io
import signal
import threading
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from anomvae.daemon.stream_ends import read_addresses
from anomvae.daemon.stream_settings import StreamSettings
from anomvae.daemon.streaming import Stream, _Leaving
from anomvae.errors import SettingError
from anomvae.observability import Log
from anomvae.references import find_model
from tests.streamed import Streaming, lines, pump_rows, pumps

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class _Interrupted(Log):
    """A log in the midst of whose first line, which holds its lock, a signal comes."""

    def __init__(self, stream: io.StringIO) -> None:
        super().__init__(stream)
        self.is_first = True

    def _emit(self, level: str, event: str, fields: Mapping[str, object], suppressed: int) -> None:
        if self.is_first:
            self.is_first = False
            assert self._lock.locked()
            signal.raise_signal(signal.SIGTERM)
        super()._emit(level, event, fields, suppressed)


def test_a_signal_in_the_midst_of_a_line_of_the_log_drains(tmp_path: Path) -> None:
    told = io.StringIO()
    (tmp_path / "in.jsonl").write_bytes(lines(pump_rows(20)))
    asked = StreamSettings(str(pumps().folder), str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"))
    Stream(asked, find_model, {}, _Interrupted(told)).run()
    events = [orjson.loads(line) for line in told.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["streaming", "draining", "stream stopped"]
    assert events[1]["signal"] == "SIGTERM"
    assert not [thread for thread in threading.enumerate() if thread.name == "leaving"]


def test_a_stream_whose_reader_is_gone_says_so_and_leaves_with_1(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(lines(pump_rows(400)))
    with Streaming("--model", pumps().folder, "--from", tmp_path / "in.jsonl", "--to", "-", "--batch", 50) as stream:
        assert stream.process.stdout is not None
        stream.process.stdout.readline()
        stream.process.stdout.close()
        assert stream.process.wait(60) == 1
        failed = stream.wait_for("stream failed")
    assert failed["reason"].startswith("nobody reads standard output any more")
    assert 0 < failed["records"] < 800
    assert (failed["alarms"] >= 0, failed["dead"]) == (True, 0)


def test_a_run_that_finds_no_new_record_tells_no_event(tmp_path: Path) -> None:
    rows, source, sink = pump_rows(60, strange_from=80), tmp_path / "in.jsonl", tmp_path / "events.jsonl"
    asked = StreamSettings(
        str(pumps().folder), str(source), str(tmp_path / "out.jsonl"), events=True, events_to=str(sink),
        progress=tmp_path / "progress",
    )  # fmt: skip
    source.write_bytes(lines(rows[:110]))
    Stream(asked, find_model, {}, Log(io.StringIO())).run()
    once = sink.read_bytes()
    assert b'"ended_by":"stream"' in once
    for _ in range(2):
        Stream(asked, find_model, {}, Log(io.StringIO())).run()
    assert sink.read_bytes() == once
    source.write_bytes(lines(rows))
    Stream(asked, find_model, {}, Log(io.StringIO())).run()
    more = [orjson.loads(line) for line in sink.read_bytes()[len(once) :].splitlines()]
    ended = {orjson.loads(line)["event_id"] for line in once.splitlines() if b'"ended_by":"stream"' in line}
    assert {event["event_id"] for event in more if event.get("ended_by") == "stream"} == ended


@pytest.mark.parametrize("name", ["qos", "asset_level"])
def test_options_of_mqtt_are_refused_elsewhere_even_at_0(name: str) -> None:
    zero: dict[str, Any] = {name: 0}
    asked = StreamSettings("model", "in.jsonl", "out.jsonl", **zero)
    with pytest.raises(SettingError, match="is for streams from MQTT"):
        read_addresses(asked)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_time_to_leave_begins_once_and_ends_the_process_unless_it_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    told, ended = io.StringIO(), threading.Event()

    def end(code: int) -> Any:
        assert code == 1
        ended.set()
        raise SystemExit

    monkeypatch.setattr("os._exit", end)
    leaving = _Leaving(0.2, Log(told))
    leaving.begin("SIGTERM")
    leaving.begin()
    leaving.start()
    assert ended.wait(10)
    assert [orjson.loads(line)["event"] for line in told.getvalue().splitlines()] == ["draining", "drain timed out"]
    left = _Leaving(0.2, Log(io.StringIO()))
    ended.clear()
    left.start()
    left.begin()
    left.end()
    assert not ended.wait(0.4)
