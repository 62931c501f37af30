from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from pipelines.train import CHAMPION_STAYS, compare_power, main

if TYPE_CHECKING:
    from pathlib import Path


def write_rows(path: Path, seed: int, n: int = 400, *, label: bool = False) -> None:
    draw = np.random.default_rng(seed)
    anomalous = (np.arange(n) % 8 == 0) & label
    cause = draw.normal(size=n)
    x, y = cause + 0.2 * draw.normal(size=n), -cause + 0.2 * draw.normal(size=n) + 2 * anomalous
    frame = pd.DataFrame({"x": x, "y": y})
    (frame.assign(bad=anomalous) if label else frame).to_parquet(path)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    write_rows(tmp_path / "normal.parquet", 0)
    write_rows(tmp_path / "labelled.parquet", 1, label=True)
    path = tmp_path / "job.toml"
    path.write_text(
        f"""
data = "normal.parquet"
evaluation = "labelled.parquet"
label = "bad"
out = "bundle"
tracking_uri = "sqlite:///{tmp_path}/mlflow.db"
[fit]
name = "press"
alarm_rate = 0.05
[fit.training]
max_steps = 300
"""
    )
    return path


def test_the_first_run_makes_a_champion_and_the_second_finds_nothing_to_do(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(job)]) == 0
    assert "version 1 is the first, and champion" in capsys.readouterr().out
    assert main([str(job)]) == 0
    assert "nothing to fit" in capsys.readouterr().out


def test_a_better_version_is_promoted_and_a_worse_one_is_not(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = job.read_text()
    job.write_text(good.replace("max_steps = 300", "max_steps = 1"))
    assert main([str(job)]) == 0
    job.write_text(good)
    assert main([str(job)]) == 0
    assert "version 2 is champion now, before: version 1" in capsys.readouterr().out
    job.write_text(good.replace("max_steps = 300", "max_steps = 2"))
    assert main([str(job)]) == CHAMPION_STAYS
    assert "the champion stays" in capsys.readouterr().out
    job.write_text(
        good.replace("max_steps = 300", "max_steps = 2").replace('out = "bundle"', 'out = "bundle"\npromote = "always"')
    )
    assert main([str(job)]) == 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('data = "normal.parquet"', "", "`data` must name"),
        ('label = "bad"', "", "go together"),
        ("alarm_rate = 0.05", "alarm_rate = 5", "share of rows"),
        ('out = "bundle"', 'out = "bundle"\nnonsense = 1', "nonsense"),
        ('out = "bundle"', 'out = "bundle"\npromote = "perhaps"', "promote must be"),
        ("normal.parquet", "nowhere.parquet", "nowhere.parquet"),
    ],
)
def test_a_wrong_job_is_the_callers_fault_and_registers_nothing(
    job: Path, old: str, new: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job.write_text(job.read_text().replace(old, new))
    assert main([str(job)]) == 2
    assert message in capsys.readouterr().err
    assert not (job.parent / "bundle").exists()


@pytest.mark.parametrize(
    ("new", "old", "holds"),
    [
        ((0, 2.0), (0, 2.0), True),
        ((1, 2.4), (0, 2.0), True),
        ((2, 2.0), (0, 2.0), False),
        ((0, 2.6), (0, 2.0), False),
        ((0, 1.0), (3, 16.0), True),
    ],
)
def test_without_labels_what_is_noticed_of_made_up_faults_decides(
    new: tuple[float, float], old: tuple[float, float], holds: bool
) -> None:
    names = ("power_blind_columns", "power_shift_half_median")
    found = compare_power(*(dict(zip(names, each, strict=True)) for each in (new, old)))
    assert found is not None
    assert found.holds is holds
    assert f"{new[0]} blind columns against {old[0]}" in found.told


def test_power_that_was_not_measured_decides_nothing() -> None:
    assert compare_power({"power_blind_columns": 0.0}, {}) is None
