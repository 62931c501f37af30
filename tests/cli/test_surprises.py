"""Data that surprise: wide tables, stored indexes, numbers with units, changed words, files without a header."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anomvae.bundle import read_bundle
from anomvae.data.schema import infer_schema
from anomvae.errors import BundleError
from anomvae.fitting import FitSettings, fit_bundle
from anomvae.training.settings import TrainingSettings

if TYPE_CHECKING:
    from pathlib import Path

    from anomvae.bundle import Bundle


def test_a_table_of_three_hundred_columns_passes_the_parity_check(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(500, 6)) @ draw.normal(size=(6, 300)) + 0.3 * draw.normal(size=(500, 300))
    rows = pa.table({f"s{j}": x[:, j] for j in range(300)})
    settings = FitSettings(alarm_rate=0.05, training=TrainingSettings(max_steps=400))
    assert fit_bundle(rows, settings, tmp_path / "wide").parity <= 1e-3


def test_a_stored_pandas_index_is_carried_along_and_not_learnt(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": np.random.default_rng(0).normal(size=500)}).sample(300, random_state=0)
    frame.to_parquet(tmp_path / "sampled.parquet")
    schema = infer_schema(pq.read_table(tmp_path / "sampled.parquet"))
    assert list(schema.kinds) == ["x"]
    assert [column.role for column in schema.left_out] == ["identifier"]


@pytest.mark.parametrize("form", ["{:.2f} mm", "1 {:06.2f}", "{:.2f} €", "1'{:06.2f}"])
def test_numbers_as_people_write_them_are_named_for_what_they_are(form: str) -> None:
    numbers = np.random.default_rng(0).uniform(100, 900, 200)
    rows = pa.table({"x": numbers, "y": [form.format(number) for number in numbers]})
    (left,) = infer_schema(rows).left_out
    assert "write them plainly" in left.reason


def test_what_float32_cannot_tell_is_left_out_and_said() -> None:
    draw = np.random.default_rng(0)
    rows = pa.table(
        {"x": draw.normal(size=300), "y": 1e9 + 0.1 * draw.normal(size=300), "z": 1e300 * draw.normal(size=300)}
    )
    assert [column.name for column in infer_schema(rows).left_out] == ["y", "z"]


def test_a_file_without_a_header_is_refused(cli: Any, tmp_path: Path) -> None:
    lines = [f"{a:.3f},{b:.3f}" for a, b in np.random.default_rng(0).normal(size=(300, 2))]
    (tmp_path / "bare.csv").write_text("\n".join(lines) + "\n")
    refused = cli("fit", "bare.csv", "--no-track")
    assert refused.code == 2
    assert "no header row" in refused.err
    assert lines[0].split(",")[0] not in refused.err


def test_answers_do_not_replace_the_data_they_answer(cli: Any, tmp_path: Path, fitted: Bundle) -> None:
    rows = pa.table(
        {"temperature": [60.0], "pressure": [2.5e5], "vibration": [1.0], "cooling": [True], "material": ["steel"]}
    )
    pq.write_table(rows, tmp_path / "rows.parquet")
    refused = cli("score", "rows.parquet", "--model", fitted.folder, "--out", "./rows.parquet")
    assert refused.code == 2
    assert pq.read_table(tmp_path / "rows.parquet").equals(rows)


def test_a_column_whose_words_changed_is_warned_of_and_its_values_are_named(
    cli: Any, tmp_path: Path, fitted: Bundle
) -> None:
    n = 10
    rows = pa.table(
        {
            "temperature": [60.0] * n,
            "pressure": [2.5e5] * n,
            "vibration": [float("inf")] * n,
            "cooling": [True] * n,
            "material": ["Stahl"] * n,
        }
    )
    pq.write_table(rows, tmp_path / "rows.parquet")
    told = cli("score", "rows.parquet", "--model", fitted.folder, "--top", 5)
    assert "'material' holds values that training never saw in 10 of 10 rows" in told.err
    reasons = {reason["column"]: reason["value"] for reason in json.loads(told.out.splitlines()[0])["reasons"]}
    assert reasons["material"] == "Stahl"
    assert reasons["vibration"] == "inf"


def test_a_manifest_changed_by_hand_is_refused(tmp_path: Path, fitted: Bundle) -> None:
    for file in fitted.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    manifest = (tmp_path / "manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(manifest.replace('"alarm_rate": 0.05', '"alarm_rate": 0.9'))
    with pytest.raises(BundleError, match="changed by hand"):
        read_bundle(tmp_path)
