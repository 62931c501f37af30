"""A million rows: fitted within 3 GB and scored within 500 MB of resident memory, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from pipelines.bench import fit_command, score_command, write_rows

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("million")
    write_rows(folder / "rows.parquet", 1_000_000)
    return folder


@pytest.mark.xdist_group("million")
def test_a_million_rows_are_fitted_within_3_gb(folder: Path) -> None:
    assert fit_command(folder / "rows.parquet", folder, steps=20)["peak_mb"] < 3000


@pytest.mark.xdist_group("million")
def test_a_million_rows_in_one_row_group_are_scored_within_500_mb(folder: Path) -> None:
    if not (folder / "bundle").exists():
        fit_command(folder / "rows.parquet", folder, steps=20)
    assert score_command(folder / "rows.parquet", folder)["peak_mb"] < 500
    assert pq.ParquetFile(folder / "scores.parquet").metadata.num_rows == 1_000_000


def test_the_measure_of_memory_sees_memory() -> None:
    code = (
        "block = bytearray(400_000_000); import json\n"
        "peak = next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')) / 1024\n"
        "print(json.dumps(peak))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) > 380


def test_wide_categories_are_scored_within_500_mb(tmp_path: Path) -> None:
    code = (
        "import numpy as np, pyarrow as pa, pyarrow.parquet as pq\n"
        "draw = np.random.default_rng(0)\n"
        "words = np.array([f'w{k}' for k in range(150)], dtype=object)\n"
        "rows = pa.table({f'c{j}': pa.array(words[draw.integers(0, 150, 60_000)], pa.string()) for j in range(30)})\n"
        "pq.write_table(rows, 'rows.parquet')\n"
        "from anomvae.fitting import FitSettings, fit_bundle\n"
        "from anomvae.training.settings import TrainingSettings\n"
        "from pathlib import Path\n"
        "fit_bundle(rows.slice(0, 2000), FitSettings(alarm_rate=0.05, training=TrainingSettings(max_steps=10)), Path('bundle'))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert score_command(tmp_path / "rows.parquet", tmp_path)["peak_mb"] < 500
