"""What many tests share: a small mixed table, a detector fitted on it, and the command line in process."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
import pytest

from anomvae.fitting import FitSettings, fit_bundle
from anomvae.training.settings import TrainingSettings

if TYPE_CHECKING:
    from pathlib import Path

    from anomvae.bundle import Bundle


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
