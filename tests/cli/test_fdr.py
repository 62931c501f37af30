"""Scoring a whole file at a stated share of false alarms."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anomvae.detector import Detector

if TYPE_CHECKING:
    from pathlib import Path

    from anomvae.bundle import Bundle


@pytest.fixture
def rows(tmp_path: Path) -> pa.Table:
    """Rows of the press, `rows.parquet`, of which the first 60 of 300 shake as never before."""
    draw = np.random.default_rng(11)
    load = draw.normal(size=300)
    table = pa.table(
        {
            "temperature": 60 + 8 * load + draw.normal(size=300),
            "pressure": 2.5e5 + 3e4 * load,
            "vibration": np.where(np.arange(300) < 60, 500.0, np.exp(0.4 * draw.normal(size=300) + 0.2 * load)),
            "cooling": load > 0,
            "material": pa.array(["steel"] * 300),
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=70)
    return table


@pytest.mark.parametrize("out", ["-", "answers.jsonl", "answers.csv", "answers.parquet", "answers.arrow"])
def test_a_file_is_decided_as_a_whole_and_as_in_python(
    cli: Any, fitted: Bundle, rows: pa.Table, tmp_path: Path, out: str
) -> None:
    told = cli("score", "rows.parquet", "--model", fitted.folder, "--fdr", "0.2", "--out", out)
    assert told.code == 0, told.err
    readers: dict[str, Any] = {
        "csv": pd.read_csv,
        "parquet": pd.read_parquet,
        "arrow": pd.read_feather,
        "jsonl": lambda path: pd.read_json(path, lines=True),
    }
    if out == "-":
        found = pd.DataFrame([json.loads(line) for line in told.out.splitlines()])
    else:
        found = readers[out.split(".")[1]](tmp_path / out)
    expected = Detector(fitted).score(rows, fdr=0.2)
    assert found["alarm"].tolist() == expected["alarm"].tolist()
    assert np.allclose(found["p_adjusted"], expected["p_adjusted"])
    assert f"{expected['alarm'].sum()} alarms" in told.err
    assert "at a false discovery rate of 20.00%" in told.err
    assert "could alarm" not in told.err
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({"rows.parquet", out} - {"-"})


def test_where_the_calibration_rows_are_why_nothing_alarms_it_says_so(
    cli: Any, fitted: Bundle, rows: pa.Table, tmp_path: Path
) -> None:
    pq.write_table(rows.slice(59), tmp_path / "rows.parquet")
    told = cli("score", "rows.parquet", "--model", fitted.folder, "--fdr", "0.001")
    assert told.code == 0, told.err
    assert not any(json.loads(line)["alarm"] for line in told.out.splitlines())
    assert "warning: no row could alarm" in told.err
    assert f"{fitted.manifest.calibration.rows} calibration rows allow" in told.err


@pytest.mark.parametrize("rate", ["0", "1", "-0.5", "2", "nan"])
def test_what_is_no_share_of_alarms_is_the_callers_fault_and_writes_nothing(
    cli: Any, fitted: Bundle, rows: pa.Table, tmp_path: Path, rate: str
) -> None:
    told = cli("score", "rows.parquet", "--model", fitted.folder, "--fdr", rate, "--out", "answers.csv")
    assert told.code == 2
    assert told.err.count("\n") == 1
    assert "false discovery rate" in told.err
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]


def test_a_rate_of_alarms_and_of_false_ones_among_them_exclude_each_other(
    cli: Any, fitted: Bundle, rows: pa.Table
) -> None:
    told = cli("score", "rows.parquet", "--model", fitted.folder, "--fdr", "0.1", "--alarm-rate", "0.05")
    assert told.code == 2
    assert "exclude each other" in told.err


def test_rows_that_cannot_be_scored_leave_nothing_behind(
    cli: Any, fitted: Bundle, rows: pa.Table, tmp_path: Path
) -> None:
    head = "temperature,pressure,vibration,cooling,material\n"
    lines = "".join("60.5,250000,1.0,true,steel\n" for _ in range(70_000)) + "sixty,250000,1.0,true,steel\n"
    (tmp_path / "broken.csv").write_text(head + lines)
    told = cli("score", "broken.csv", "--model", fitted.folder, "--fdr", "0.1", "--out", "answers.csv")
    assert told.code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.csv", "rows.parquet"]


def test_a_file_without_rows_has_no_alarms(cli: Any, fitted: Bundle, rows: pa.Table, tmp_path: Path) -> None:
    pq.write_table(rows.slice(0, 0), tmp_path / "rows.parquet")
    told = cli("score", "rows.parquet", "--model", fitted.folder, "--fdr", "0.1", "--out", "answers.parquet")
    assert told.code == 0, told.err
    assert pq.read_table(tmp_path / "answers.parquet").num_rows == 0
