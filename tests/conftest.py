"""What many tests share: a small mixed table, a detector fitted on it, and the command line in process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import settings

from anomvae.fitting import FitSettings, fit_bundle
from anomvae.training.settings import TrainingSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anomvae.bundle import Bundle

# A shell that runs the tests in the background has interrupts ignored, and children inherit that; what is handled here
# begins anew in them. (Resetting it between fork and exec would not do: a fork with gRPC's threads alive can end there.)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Every run sees the same drawn examples, so that what passed once passes again; `make fuzz` looks for others.
settings.register_profile("same", derandomize=True)
settings.register_profile("search", max_examples=1000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def mixed_table(n: int, seed: int = 0) -> pa.Table:
    """Rows of a made-up press: an id, correlated numbers with missing cells, a flag, a material, a constant."""
    draw = np.random.default_rng(seed)
    load = draw.normal(size=n)
    temperature = 60 + 8 * load + draw.normal(size=n)
    pressure = 2.5e5 + 3e4 * load + 2e3 * draw.normal(size=n)
    pressure[draw.random(n) < 0.05] = np.nan
    material = np.array(["steel", "brass", "alloy"])[draw.integers(0, 3, n)].astype(object)
    material[draw.random(n) < 0.05] = None
    return pa.table(
        {
            "part": [f"P{seed}-{number}" for number in range(n)],
            "temperature": temperature,
            "pressure": pa.array(pressure, from_pandas=True),
            "vibration": np.exp(draw.normal(size=n) * 0.4 + 0.2 * load),
            "cooling": load + 0.3 * draw.normal(size=n) > 0,
            "material": pa.array(material.tolist(), pa.string()),
            "line": ["A"] * n,
        }
    )


def quick(**settings: object) -> FitSettings:
    """Settings of a fit that takes a moment."""
    return FitSettings(**{"training": TrainingSettings(max_steps=120), "alarm_rate": 0.05, **settings})  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle of a detector fitted on :func:`mixed_table`."""
    folder = tmp_path_factory.mktemp("fitted") / "press"
    return fit_bundle(mixed_table(600), quick(name="press"), folder).bundle


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


class Cli(Protocol):
    """Runs the command line."""

    def __call__(self, *arguments: object) -> Ended: ...


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs `anomvae` in this process, as the installed script would."""
    from anomvae.cli import main

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["anomvae", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands write to the working folder by default; a test's is its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANOMVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


class Serving:
    """A running `anomvae serve` of its own process, on free loopback ports.

    Attributes:
        events: What it has logged, one dict an event.
        url: Of HTTP.
        grpc: Address of gRPC.
    """

    def __init__(self, arguments: tuple[object, ...], environment: dict[str, str]) -> None:
        command = [sys.executable, "-m", "anomvae", "serve", *map(str, arguments), "--port", "0", "--grpc-port", "0"]
        self.events: list[dict[str, Any]] = []
        self._told = threading.Condition()
        self.process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **environment},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            ready = self.wait_for("serving")
        except AssertionError:
            self.stop()
            raise
        self.url: str = ready["http"]
        self.grpc: str = ready["grpc"]

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                event = json.loads(line)
            except ValueError:
                event = {"event": "raw", "text": line}
            with self._told:
                self.events.append(event)
                self._told.notify_all()
        with self._told:
            self.events.append({"event": "ended"})
            self._told.notify_all()

    def wait_for(self, name: str, seen: int = 0, timeout_s: float = 60.0) -> dict[str, Any]:
        """The first event of a name after the first `seen` events."""
        until = time.monotonic() + timeout_s
        with self._told:
            while True:
                for event in self.events[seen:]:
                    if event["event"] == name:
                        return event
                    if event["event"] == "ended" and name != "ended":
                        raise AssertionError(f"the daemon ended: {self.events}")
                if time.monotonic() > until:
                    raise AssertionError(f"no event {name!r} in {self.events}")
                self._told.wait(1.0)

    def stop(self, number: int = signal.SIGINT) -> int:
        """Sends a signal and waits for the end; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self._reader.join(5)
        if self.process.stderr is not None:
            self.process.stderr.close()
        return code


class Serve(Protocol):
    """Starts a daemon."""

    def __call__(self, *arguments: object, **environment: str) -> Serving: ...


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts daemons that end with the test."""
    running: list[Serving] = []

    def start(*arguments: object, **environment: str) -> Serving:
        running.append(Serving(arguments, environment))
        return running[-1]

    yield start
    for daemon in running:
        daemon.stop()


@pytest.fixture(scope="module")
def served(fitted: Bundle) -> Iterator[Serving]:
    """A daemon that serves `fitted`, for tests that only ask."""
    daemon = Serving((f"press={fitted.folder}",), {})
    yield daemon
    daemon.stop()
