"""The streaming service as a process that tests start, kill and stop."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_S = 120.0


class Service:
    """A running `anomvae stream`.

    Args:
        arguments: Of the command.

    Attributes:
        events: What it has logged.
    """

    def __init__(self, arguments: tuple[object, ...]) -> None:
        self.events: list[dict[str, Any]] = []
        command = [sys.executable, "-m", "anomvae", "stream", *map(str, arguments)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                event = json.loads(line)
            except ValueError:
                event = {"event": "raw", "text": line}
            self.events.append(event)

    def has_told(self, name: str) -> bool:
        """Whether it has logged an event."""
        return any(event["event"] == name for event in self.events)

    def reads(self) -> bool:
        """Whether it has been given partitions."""
        return any(event["event"] == "partitions changed" and event["assigned"] for event in list(self.events))

    def check(self) -> None:
        """Fails where it has ended by itself."""
        assert self.process.poll() is None, f"the service ended: {self.events[-10:]}"

    def kill(self) -> None:
        """SIGKILL: it can do nothing about it."""
        self.check()
        self.process.kill()
        self._wait()

    def leave(self) -> None:
        """SIGTERM: it drains, commits and ends well."""
        self.check()
        self.process.send_signal(signal.SIGTERM)
        assert self._wait() == 0, f"the service did not end well: {self.events[-10:]}"

    def end(self) -> None:
        """Whatever it is at."""
        if self.process.poll() is None:
            self.process.kill()
        self._wait()

    def _wait(self) -> int:
        code = self.process.wait(60)
        self._reader.join(10)
        with contextlib.suppress(AttributeError):
            self.process.stderr.close()  # type: ignore[union-attr]
        return code


class Start(Protocol):
    """Starts services that end with the test."""

    def __call__(self, *arguments: object) -> Service: ...


@contextlib.contextmanager
def services() -> Iterator[Start]:
    """Services for the time of a block."""
    running: list[Service] = []

    def start(*arguments: object) -> Service:
        running.append(Service(arguments))
        return running[-1]

    try:
        yield start
    finally:
        for service in running:
            service.end()


def wait_until(true: Callable[[], object], what: str, service: Service | None = None) -> None:
    """Waits for a condition, and fails where it does not come or the service ends meanwhile."""
    by_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < by_s, f"waited in vain until {what}; {service.events[-10:] if service else ''}"
        if service is not None:
            service.check()
        time.sleep(0.02)


def tell(figures: str) -> None:
    """Says what a test came to, for those who run it with `-s`."""
    sys.stderr.write(f"\n{figures}\n")
