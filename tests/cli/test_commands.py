from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from anomvae.bundle import Bundle

MESSY_HEAD = "Probe-Nr.;Datum;Temperatur [°C];Druck;Bemerkung;Sorte\n"


def messy_csv(path: Path, n: int = 400) -> None:
    """A CSV as it comes out of an office: semicolons, decimal commas, dates, remarks, empty cells, cp1252."""
    draw = np.random.default_rng(3)
    lines = [MESSY_HEAD]
    for k in range(n):
        temperature = f"{draw.normal(20, 3):.2f}".replace(".", ",") if k % 17 else ""
        pressure = f"{draw.normal(1013, 8):.1f}".replace(".", ",")
        remark = f"Prüfung {k} durchgeführt; ok" if k % 3 else ""
        sort = ["Öl", "Wasser", "Säure"][int(draw.integers(0, 3))]
        lines.append(f'P{k:05d};{1 + k % 28:02d}.03.2026 08:{k % 60:02d};{temperature};{pressure};"{remark}";{sort}\n')
    path.write_bytes("".join(lines).encode("cp1252"))


def test_a_messy_csv_of_ones_own_works(cli: Any, tmp_path: Path) -> None:
    messy_csv(tmp_path / "messy.csv")
    (tmp_path / "quick.toml").write_text("[training]\nmax_steps = 100\n")
    fitted = cli("fit", "messy.csv", "--no-track", "--config", "quick.toml", "--out", "bundle", "--alarm-rate", "0.05")
    assert fitted.code == 0, fitted.err
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    kinds = {column["name"]: column["kind"] for column in manifest["columns"]}
    assert kinds == {"Temperatur [°C]": "numeric", "Druck": "numeric", "Sorte": "categorical"}
    left_out = {column["name"]: column["role"] for column in manifest["left_out"]}
    assert left_out["Probe-Nr."] == "identifier"
    assert {"Datum", "Bemerkung"} <= left_out.keys()
    scored = cli("score", "messy.csv", "--model", "bundle", "--out", "scores.csv")
    assert scored.code == 0, scored.err
    answers = pd.read_csv(tmp_path / "scores.csv")
    assert len(answers) == 400
    assert list(answers["Probe-Nr."][:2]) == ["P00000", "P00001"]
    assert answers["score"].notna().all()


def test_check_says_what_a_fit_would_do_and_what_looks_wrong(cli: Any, tmp_path: Path) -> None:
    messy_csv(tmp_path / "messy.csv")
    checked = cli("check", "messy.csv")
    assert checked.code == 0, checked.err
    assert "Temperatur" in checked.out
    assert "a unique identifier" in checked.out
    assert "rows would train" in checked.out
    rows = pa.table({"x": np.r_[np.random.default_rng(0).normal(size=499), 1e9], "y": [1.5] * 500})
    pq.write_table(rows, tmp_path / "dirty.parquet")
    dirty = cli("check", "dirty.parquet").out
    assert "constant" in dirty
    assert "row 500" in dirty
    assert not list(tmp_path.glob("models*"))


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    draw = np.random.default_rng(5)
    n = 400
    anomalous = np.arange(n) % 10 == 0
    frame = pd.DataFrame({"x": draw.normal(size=n) + 6 * anomalous, "y": draw.normal(size=n), "bad": anomalous})
    frame.to_parquet(tmp_path / "labelled.parquet")
    (tmp_path / "quick.toml").write_text("[training]\nmax_steps = 200\n")
    return tmp_path / "labelled.parquet"


def test_from_fit_to_promotion_in_the_registry(cli: Any, labelled: Path) -> None:
    fit = ("fit", labelled, "--label", "bad", "--name", "pump", "--alarm-rate", "0.05", "--config", "quick.toml")
    first = cli(*fit)
    assert first.code == 0, first.err
    assert "version 1 (candidate, champion)" in first.out
    assert "AUROC" in first.out
    second = cli(*fit, "--seed", "1")
    assert "version 2 (candidate)" in second.out
    listed = json.loads(cli("models", "list", "--json").out)
    assert listed[0]["champion"] == 1
    assert listed[0]["candidate"] == 2
    shown = cli("models", "show", "pump@candidate")
    assert "pump/2" in shown.out
    assert "are stored in the model as exemplars" in shown.out
    assert json.loads(cli("models", "show", "pump/1", "--json").out)["name"] == "pump"
    promoted = cli("models", "promote", "pump@candidate", "--force")
    assert promoted.code == 0, promoted.err
    assert "version 2 is now champion" in promoted.out
    pulled = cli("models", "pull", "pump@champion", "--out", "here")
    assert pulled.code == 0, pulled.err
    answers = [
        cli("score", labelled, "--model", ref).out for ref in ("pump@champion", "pump/2", "models:/pump/2", "here")
    ]
    assert len(set(answers)) == 1
    assert len(answers[0].splitlines()) == 400


def test_evaluate_gives_measures_with_intervals_and_json(cli: Any, labelled: Path) -> None:
    assert (
        cli(
            "fit",
            labelled,
            "--label",
            "bad",
            "--no-track",
            "--alarm-rate",
            "0.05",
            "--config",
            "quick.toml",
            "--out",
            "b",
        ).code
        == 0
    )
    told = cli("evaluate", labelled, "--model", "b", "--label", "bad")
    assert told.code == 0, told.err
    assert "40 anomalies, 360 normal" in told.out
    found = json.loads(cli("evaluate", labelled, "--model", "b", "--label", "bad", "--json").out)
    assert found["auroc"] > 0.95
    assert found["false_alarm_low"] <= found["false_alarm_rate"] <= found["false_alarm_high"]
    assert cli("evaluate", labelled, "--model", "b", "--label", "y").code == 2


def test_doctor_says_what_there_is(cli: Any) -> None:
    told = cli("doctor")
    assert told.code == 0, told.err
    assert re.search(r"CPUExecutionProvider\s+yes", told.out)
    assert "onnxruntime" in told.out


def test_json_lines_on_standard_output_are_one_object_a_row(cli: Any, fitted: Bundle, tmp_path: Path) -> None:
    rows = pa.table(
        {
            "temperature": [60, 61],
            "pressure": [2.5e5, None],
            "vibration": [1.0, float("inf")],
            "cooling": [1, 0],
            "material": ["steel", "cheese"],
        }
    )
    pq.write_table(rows, tmp_path / "rows.parquet")
    told = cli("score", "rows.parquet", "--model", fitted.folder, "--top", "5")
    assert told.code == 0, told.err
    first, second = (json.loads(line) for line in told.out.splitlines())
    assert {reason["column"]: reason["value"] for reason in first["reasons"]} == {
        "temperature": 60.0,
        "pressure": 250000.0,
        "vibration": 1.0,
        "cooling": True,
        "material": "steel",
    }
    assert second["reasons"][0]["column"] in ("vibration", "material")
    assert second["alarm"] is True
    assert "2 rows scored" in told.err


def test_a_command_without_arguments_shows_help_and_a_wrong_option_is_the_callers_fault(cli: Any) -> None:
    assert "fit" in cli("--help").out
    assert cli("fit", "--no-such-option").code == 2
    assert cli("--version").out.startswith("anomvae ")
