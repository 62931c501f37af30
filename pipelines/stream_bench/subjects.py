"""The models that streams are scored with, and the records they score."""

from __future__ import annotations

import datetime as dt
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import orjson
import pyarrow as pa

from anomvae.fitting import FitSettings, fit_bundle
from anomvae.fitting.series import fit_series_bundle
from anomvae.training.settings import TrainingSettings
from anomvae.vae.settings import ModelSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float64]

RECORD_BYTES = 300
ASSETS = 100
CHANNELS, WINDOW = 8, 64
WIDE_CHANNELS = 16
STEPS = 200
FIT_ROWS = 4_000
BEGIN = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

TABLES = {"table": "a table model, default settings", "plain": "a plain VAE of tables (`prior = normal`)"}
SERIES = {"series": "a series model, default members", "row": "a series model, `members = row`"}


def sensors(n: int, channels: int, seed: int) -> FloatArray:
    """Correlated sensors: four hidden causes that come back to where they were, and noise; shape ``(n, channels)``."""
    draw = np.random.default_rng(seed)
    causes = np.array(list(accumulate(draw.normal(size=(n, 4)), lambda before, push: 0.8 * before + 0.6 * push)))
    mixing = np.random.default_rng(0).normal(size=(4, channels))
    mixed: FloatArray = np.tanh(causes @ mixing) + 0.2 * draw.normal(size=(n, channels))
    return mixed


def names(channels: int) -> list[str]:
    """Names of channels."""
    return [f"sensor_{j:02d}" for j in range(channels)]


def fit_table(name: str, folder: Path) -> Path:
    """A model of single rows; returns its bundle."""
    rows = sensors(FIT_ROWS, CHANNELS, 1)
    table = pa.table(dict(zip(names(CHANNELS), rows.T, strict=True)))
    model = ModelSettings(prior="normal") if name == "plain" else ModelSettings()
    settings = FitSettings(name=name, model=model, training=TrainingSettings(max_steps=STEPS))
    return fit_bundle(table, settings, folder / name).bundle.folder


def fit_series(name: str, folder: Path, channels: int = CHANNELS) -> Path:
    """A model of windows; returns its bundle."""
    parts = []
    for asset in range(4):
        rows = sensors(FIT_ROWS // 4, channels, 10 + asset)
        when = [BEGIN - dt.timedelta(days=1) + dt.timedelta(seconds=i) for i in range(len(rows))]
        columns = {"asset": [_asset(asset)] * len(rows), "when": when}
        parts.append(pa.table({**columns, **dict(zip(names(channels), rows.T, strict=True))}))
    settings = FitSettings(
        name=name,
        time="when",
        by="asset",
        window=WINDOW,
        every="1s",
        members="row" if name.startswith("row") else "both",
        training=TrainingSettings(max_steps=STEPS),
        alarm_rate=0.02,
    )
    return fit_series_bundle(pa.concat_tables(parts), settings, folder / name).bundle.folder


def records(count: int, channels: int = CHANNELS, assets: int = ASSETS) -> Iterator[tuple[bytes, bytes]]:
    """JSON records of 300 bytes and their keys: all assets step by step."""
    rows = np.round(sensors(max(4_000, 1), channels, 99), 4).tolist()
    columns = names(channels)
    for number in range(count):
        step, asset = divmod(number, assets)
        row = {
            "asset": _asset(asset),
            "when": (BEGIN + dt.timedelta(seconds=step)).isoformat(timespec="milliseconds"),
            "number": number,
            **dict(zip(columns, rows[(step + 37 * asset) % len(rows)], strict=True)),
        }
        plain = orjson.dumps(row)
        filled = plain[:-1] + b',"note":"' + b"x" * max(0, RECORD_BYTES - len(plain) - 10) + b'"}'
        yield filled, _asset(asset).encode()


def _asset(number: int) -> str:
    return f"asset-{number:05d}"
