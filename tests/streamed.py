"""What tests of streams as a whole share: a small detector of series, rows for it as lines, and a running `anomvae stream`."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Self

import httpx
import numpy as np
import orjson
import pyarrow as pa

import anomvae
from anomvae.bundle import read_bundle
from anomvae.fitting.series import fit_series_bundle
from anomvae.fitting.settings import FitSettings
from anomvae.training.settings import TrainingSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from anomvae.bundle import Bundle

WINDOW = 16
PATIENCE_S = 30.0


def pump_table(n: int, seed: int = 0, assets: tuple[str, ...] = ("A", "B")) -> pa.Table:
    """Two channels a second of each asset, one asset after the other."""
    draw, parts = np.random.default_rng(seed), []
    for number, asset in enumerate(assets):
        phase = np.arange(n) / 10 + number
        when = pa.array((1_700_000_000 + np.arange(n)) * 1_000_000, pa.timestamp("us"))
        flow = np.sin(phase) + 0.1 * draw.normal(size=n) + number
        heat = 3 * np.cos(phase) + 0.1 * draw.normal(size=n)
        parts.append(pa.table({"when": when, "machine": [asset] * n, "flow": flow, "heat": heat}))
    return pa.concat_tables(parts)


@functools.cache
def pumps(seed: int = 0) -> Bundle:
    """A detector of windows, fitted once a process; another for another seed."""
    folder = Path(tempfile.mkdtemp(prefix="pumps-")) / "pumps"
    training = TrainingSettings(max_steps=30, seed=seed)
    settings = FitSettings(name="pumps", time="when", by="machine", window=WINDOW, alarm_rate=0.05, training=training)
    return fit_series_bundle(pump_table(600), settings, folder).bundle


def pump_rows(n: int, seed: int = 1, *, strange_from: int | None = None) -> list[dict[str, Any]]:
    """Rows as they arrive, by time over both assets, numbered; from some row on the flow is far too high."""
    rows: list[dict[str, Any]] = (
        pump_table(n, seed).sort_by([("when", "ascending"), ("machine", "ascending")]).to_pylist()
    )
    for i, row in enumerate(rows):
        row["when"], row["i"] = row["when"].isoformat(), i
        if strange_from is not None and i >= strange_from:
            row["flow"] += 5.0
    return rows


def lines(rows: Iterable[dict[str, Any]]) -> bytes:
    """Rows as JSON lines."""
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def answers(text: bytes) -> list[dict[str, Any]]:
    """Lines of answers."""
    return [orjson.loads(line) for line in text.splitlines()]


def expected(rows: list[dict[str, Any]], bundle: Bundle | None = None) -> list[dict[str, Any]]:
    """What a whole table's scoring says of rows, each judged by its past alone."""
    from anomvae.scoring.series import SeriesScoring

    found: list[dict[str, Any]] = (
        SeriesScoring(read_bundle((bundle or pumps()).folder))
        .score(pa.Table.from_pylist(rows), past_only=True)
        .to_pylist()
    )
    return found


def assert_same(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    """Holds answers of a stream against those of a table, by the number of the row."""
    for answer in found:
        row = wanted[answer["i"]]
        assert answer.get("reason") == row["reason"]
        assert answer["alarm"] == row["alarm"]
        if row["score"] is not None:
            assert abs(answer["score"] - row["score"]) <= 1e-5 * max(1.0, abs(row["score"]))
            assert abs(answer["p_value"] - row["p_value"]) <= 1e-5


class Streaming:
    """A running `anomvae stream`.

    Attributes:
        events: What it has logged, one dict an event.
    """

    def __init__(self, *arguments: object, environment: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "anomvae", "stream", *map(str, arguments), "--threads", "1"]
        self.events: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(environment or {}), "PYTHONPATH": str(Path(anomvae.__file__).parents[1])},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(PATIENCE_S)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()

    def wait_for(self, event: str, true: Callable[[dict[str, Any]], bool] = lambda _: True) -> dict[str, Any]:
        """The first such event, once it was logged."""
        until(lambda: any(each["event"] == event and true(each) for each in self.events), f"{event} of {self.events}")
        return next(each for each in self.events if each["event"] == event and true(each))

    @property
    def url(self) -> str:
        """Where it tells of itself."""
        return str(self.wait_for("streaming")["status"])

    def metric(self, name: str) -> float:
        """The sum of a metric's series, whatever their labels."""
        told = [line for line in httpx.get(f"{self.url}/metrics").text.splitlines() if line.startswith(name)]
        return sum(float(line.rpartition(" ")[2]) for line in told if line[len(name)] in " {")

    def write(self, data: bytes) -> None:
        """Puts bytes on its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def end(self) -> int:
        """Ends its standard input; the exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(PATIENCE_S)

    def filtered(self, data: bytes) -> bytes:
        """All that it writes to standard output for all that it reads."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        writer = threading.Thread(target=self._fill, args=(data,), daemon=True)
        writer.start()
        out = self.process.stdout.read()
        writer.join(PATIENCE_S)
        return out

    def stop(self, number: int) -> int:
        """Sends a signal; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def _fill(self, data: bytes) -> None:
        self.write(data)
        self.end()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                self.events.append(json.loads(line))
            except ValueError:
                self.events.append({"event": "raw", "text": line.decode()})


def until(true: Callable[[], object], what: str) -> None:
    """Waits for a condition, and fails the test if it does not come."""
    by_s = monotonic() + PATIENCE_S
    while not true():
        assert monotonic() < by_s, f"waited in vain for {what}"
        sleep(0.02)
