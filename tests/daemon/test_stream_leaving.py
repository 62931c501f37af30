"""A stream that has to go goes: whatever it does when the signal comes."""

from __future__ import annotations

import io
import signal
import threading
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from anomvae.daemon.stream_settings import StreamSettings
from anomvae.daemon.streaming import Stream, _Leaving
from anomvae.observability import Log
from anomvae.references import find_model
from tests.streamed import lines, pump_rows, pumps

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
