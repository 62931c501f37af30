"""A daemon of its own process, watched: what it logs, how much memory and how many files it holds."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

START_WITHIN_S = 60.0
STOP_WITHIN_S = 60.0


class Sample(NamedTuple):
    """The daemon at one moment.

    Attributes:
        at_s: Seconds since it served.
        rss_mb: Resident memory, MiB.
        files: Open file descriptors, sockets among them.
        threads: Threads.
    """

    at_s: float
    rss_mb: float
    files: int
    threads: int


class WatchedDaemon:
    """A running `anomvae serve` on free loopback ports.

    Args:
        arguments: Of the command, beside the ports.
        log: File that gets its log.

    Attributes:
        url: Of HTTP.
        port: Of HTTP.
        grpc: Address of gRPC.
        samples: What :meth:`sample` saw.
    """

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self._log = log
        command = [sys.executable, "-m", "anomvae", "serve", *arguments, "--port", "0", "--grpc-port", "0"]
        with log.open("wb") as sink:
            self._process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT)
        serving = self._wait_for_serving()
        self.url: str = serving["http"]
        self.grpc: str = serving["grpc"]
        self.port = int(self.url.rpartition(":")[2])
        self._seen = psutil.Process(self._process.pid)
        self._started = time.monotonic()
        self.samples: list[Sample] = []

    def events(self) -> list[dict[str, Any]]:
        """What it has logged; a line that is no event becomes one named `raw`."""
        events = []
        for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                events.append(json.loads(line))
            except ValueError:
                events.append({"event": "raw", "text": line})
        return events

    def text(self) -> str:
        """Its log as it stands."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def sample(self) -> None:
        """Looks at its memory and files."""
        if self._process.poll() is None:
            at_s = time.monotonic() - self._started
            rss = self._seen.memory_info().rss / 2**20
            self.samples.append(Sample(at_s, rss, self._seen.num_fds(), self._seen.num_threads()))

    def tell_to_stop(self) -> None:
        """Sends SIGTERM."""
        self._process.send_signal(signal.SIGTERM)

    def ended(self) -> int:
        """Waits for its end; the exit code, -9 where it had to be killed."""
        try:
            return self._process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _wait_for_serving(self) -> dict[str, Any]:
        until, pause = time.monotonic() + START_WITHIN_S, threading.Event()
        while time.monotonic() < until and self._process.poll() is None:
            for event in self.events():
                if event["event"] == "serving":
                    return event
            pause.wait(0.05)
        self._process.kill()
        self._process.wait()
        raise RuntimeError(f"the daemon does not serve: {self.text()[-2000:]}")
