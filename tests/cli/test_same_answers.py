"""What a file says at fit it says at scoring, in whatever format; and commands end well when they are cut short."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import anomvae
from anomvae.errors import BundleError

if TYPE_CHECKING:
    from anomvae.bundle import Bundle

ANOMVAE = Path(sys.executable).parent / "anomvae"


@pytest.fixture
def quick(tmp_path: Path) -> Path:
    path = tmp_path / "quick.toml"
    path.write_text("[training]\nmax_steps = 60\n")
    return path


@pytest.mark.parametrize("declared", ["program", "flag", "part"])
def test_a_declared_category_scores_alike_from_csv_parquet_and_a_frame(
    cli: Any, tmp_path: Path, quick: Path, declared: str
) -> None:
    draw = np.random.default_rng(0)
    n = 400
    program = pd.Series(draw.integers(1, 5, n)).astype("float64").where(draw.random(n) > 0.1)
    frame = pd.DataFrame(
        {
            "x": draw.normal(size=n),
            "program": program,
            "flag": draw.random(n) < 0.5,
            "part": pd.Categorical([f"{k:03d}" for k in draw.integers(5, 9, n)]),
        }
    )
    frame.to_parquet(tmp_path / "rows.parquet", index=False)
    frame.to_csv(tmp_path / "rows.csv", index=False)
    for source in ("rows.csv", "rows.parquet"):
        fitted = cli(
            "fit",
            source,
            "--categorical",
            declared,
            "--no-track",
            "--config",
            quick,
            "--out",
            "b",
            "--alarm-rate",
            "0.05",
        )
        assert fitted.code == 0, fitted.err
        answers = []
        for rows in ("rows.csv", "rows.parquet"):
            scored = cli("score", rows, "--model", "b", "--out", "s.parquet")
            assert scored.code == 0, scored.err
            answers.append(pq.read_table(tmp_path / "s.parquet"))
        assert answers[0]["score"].equals(answers[1]["score"])
        assert answers[0]["alarm"].to_numpy().mean() < 0.15


def test_labels_read_alike_at_fit_and_at_evaluation(cli: Any, tmp_path: Path, quick: Path) -> None:
    draw = np.random.default_rng(1)
    bad = pd.Series((np.arange(300) % 10 == 0).astype(float))
    bad[5] = np.nan  # a missing label makes the others 0.0 and 1.0
    pd.DataFrame({"x": draw.normal(size=300) + 8 * (bad == 1), "y": draw.normal(size=300), "bad": bad}).to_csv(
        tmp_path / "rows.csv", index=False
    )
    assert (
        cli(
            "fit", "rows.csv", "--label", "bad", "--no-track", "--config", quick, "--out", "b", "--alarm-rate", "0.05"
        ).code
        == 0
    )
    told = cli("evaluate", "rows.csv", "--label", "bad", "--model", "b")
    assert told.code == 0, told.err
    assert "299 rows: 30 anomalies, 269 normal" in told.out


def test_one_typing_error_does_not_blind_a_column(tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    x = draw.normal(size=1500)
    y = x + 0.05 * draw.normal(size=1500)
    x[7] = 1e9
    detector = anomvae.fit(pd.DataFrame({"x": x, "y": y}), alarm_rate=0.05, training={"max_steps": 500})
    assert detector.score(pd.DataFrame({"x": [9.0], "y": [0.0]}))["alarm"].all()


def test_the_row_of_a_bad_cell_is_counted_from_the_top_of_the_data(cli: Any, tmp_path: Path, fitted: Bundle) -> None:
    n = 40_000
    cells = ["1.5"] * n
    cells[35_000] = "oops"
    rows = pa.table(
        {
            "temperature": cells,
            "pressure": [1.0] * n,
            "vibration": [1.0] * n,
            "cooling": [True] * n,
            "material": ["steel"] * n,
        }
    )
    pq.write_table(rows, tmp_path / "rows.parquet", row_group_size=5000)
    refused = cli("score", "rows.parquet", "--model", fitted.folder, "--out", "s.csv")
    assert refused.code == 2
    assert "row 35,001" in refused.err


def test_an_output_that_cannot_be_written_is_refused_before_training(cli: Any, tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": np.random.default_rng(0).normal(size=300)}), tmp_path / "rows.parquet")
    started = time.monotonic()
    refused = cli("fit", "rows.parquet", "--no-track", "--out", "/dev/null/x/bundle")
    assert refused.code == 2
    assert "/dev/null" in refused.err
    assert "trained" not in refused.out
    assert time.monotonic() - started < 30


def test_a_damaged_bundle_is_not_saved_with_fresh_digests(tmp_path: Path, fitted: Bundle) -> None:
    detector = anomvae.load(anomvae.load(fitted.folder).save(tmp_path / "copy"))
    (tmp_path / "copy" / "card.md").write_text("tampered")
    with pytest.raises(BundleError, match=r"card\.md is damaged"):
        detector.save(tmp_path / "again")


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path, fitted: Bundle) -> None:
    n = 20_000
    rows = pa.table(
        {
            "temperature": [60.0] * n,
            "pressure": [2.5e5] * n,
            "vibration": [1.0] * n,
            "cooling": [True] * n,
            "material": ["steel"] * n,
        }
    )
    pq.write_table(rows, tmp_path / "rows.parquet")
    command = f"set -o pipefail; {ANOMVAE} score rows.parquet --model {fitted.folder} | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert "error" not in done.stderr


def test_ctrl_c_while_training_ends_in_a_whole_bundle(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    pq.write_table(pa.table({name: draw.normal(size=3000) for name in "abcd"}), tmp_path / "rows.parquet")
    (tmp_path / "long.toml").write_text("[training]\nmax_steps = 1000000\npatience = 1000000\n")
    command = [str(ANOMVAE), "fit", "rows.parquet", "--no-track", "--config", "long.toml", "--out", "bundle"]
    running = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert running.stdout is not None
    for line in running.stdout:
        if line.startswith("divided"):
            break
    time.sleep(3)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 0, err
    assert "interrupted" in out
    assert "was interrupted" in err
    assert anomvae.load(tmp_path / "bundle").manifest.split.train == 3000


def test_a_seed_below_zero_is_refused(cli: Any, tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": np.random.default_rng(0).normal(size=300)}), tmp_path / "rows.parquet")
    refused = cli("fit", "rows.parquet", "--no-track", "--seed", "-1")
    assert refused.code == 2
    assert "training.seed" in refused.err
