"""Which rows simpler detectors learn from, and which rows are left to compare on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from anomvae.bundle import Calibration, Manifest, Provenance, Split
from anomvae.data.comparison import ComparisonRows, LabelledRows, comparison_rows, rows_learnt_from
from anomvae.data.encoding import encode
from anomvae.data.labels import read_labels
from anomvae.data.reading import open_rows
from anomvae.errors import DataFileError, InputError, RowError, SchemaError, SettingError
from anomvae.fitting.preparation import PreparedData, prepare
from anomvae.fitting.settings import FitSettings
from anomvae.scoring.needs import arrow_types


def table(n: int, seed: int = 0, anomalies: int = 0) -> pa.Table:
    draw = np.random.default_rng(seed)
    bad = draw.permutation(np.arange(n) < anomalies)
    return pa.table(
        {
            "hour": [f"2026-01-{1 + k // 24 % 28:02d}T{k % 24:02d}:{k // 672:02d}:00" for k in range(n)],
            "machine": draw.integers(0, 12, n),
            "x": draw.normal(size=n) + 5 * bad,
            "kind": pa.array(np.array(["a", "b", "c"])[draw.integers(0, 3, n)]),
            "bad": bad,
        }
    )


def manifest_of(prepared: PreparedData, settings: FitSettings) -> Manifest:
    """What a fit of these rows would write, but for the model."""
    split = prepared.split
    sizes = (len(split.train), len(split.validation), len(split.calibration))
    return Manifest(
        name="press",
        kind="table",
        model="vae",
        columns=prepared.columns,
        left_out=prepared.schema.left_out,
        split=Split(split.how, split.column, *sizes, labelled=len(prepared.labelled_rows)),
        calibration=Calibration(
            "split", sizes[2], settings.budget.alarm_rate, 1 / (sizes[2] + 1), settings.decision, 1.0, 1.0
        ),
        provenance=Provenance(
            prepared.name, prepared.digest, prepared.n_rows, settings.training.seed, "2026-01-01T00:00:00", 1.0
        ),
        latent=2,
    )


def fitted_on(data: str, **settings: Any) -> tuple[Manifest, PreparedData]:
    chosen = FitSettings(**{"alarm_rate": 0.05, "calibration": "split", **settings})
    prepared = prepare(data, chosen)
    return manifest_of(prepared, chosen), prepared


def compare_on(data: str, manifest: Manifest, normal: str | None = None, label: str = "bad") -> ComparisonRows:
    types = arrow_types(manifest)
    rows = open_rows(data, types=types).table()
    evaluated = LabelledRows(data, encode(rows, manifest.columns), label, read_labels(rows, label))
    return comparison_rows(evaluated, manifest, normal, types)


@pytest.fixture
def files() -> None:
    """`normal.parquet`, `labelled.parquet` with 40 anomalies of 300 rows, and each as CSV, in the working folder."""
    for name, rows in (
        ("normal", table(400).drop_columns(["bad"])),
        ("labelled", table(300, seed=1, anomalies=40)),
        ("whole", table(500, seed=2, anomalies=50)),
    ):
        pq.write_table(rows, f"{name}.parquet")
        pacsv.write_csv(rows, f"{name}.csv")


def test_the_file_of_the_fit_teaches_where_it_is_as_it_was(files: None) -> None:
    manifest, prepared = fitted_on("normal.parquet")
    found = compare_on("labelled.parquet", manifest)
    assert found.name == "normal.parquet"
    np.testing.assert_array_equal(found.normal.numeric, prepared.normal.numeric)
    assert found.compared.all()
    assert found.warnings == found.notes == ()


def test_a_file_of_the_fit_that_is_gone_or_changed_is_asked_for(files: None) -> None:
    manifest, _ = fitted_on("normal.parquet")
    pq.write_table(table(399).drop_columns(["bad"]), "normal.parquet")
    with pytest.raises(SettingError, match=r"fitted on normal\.parquet, which has changed since; .* --normal DATA"):
        compare_on("labelled.parquet", manifest)
    Path("normal.parquet").unlink()
    with pytest.raises(SettingError, match=r"fitted on normal\.parquet, which is not here; .* --normal DATA"):
        compare_on("labelled.parquet", manifest)
    assert compare_on("labelled.parquet", manifest, "normal.csv").name == "normal.csv"


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"label": "bad"},
        {"label": "bad", "time": "hour"},
        {"label": "bad", "by": "machine", "decision": "both"},
        {"decision": "both", "alarm_rate": 0.02},
    ],
)
def test_the_split_of_the_fit_is_drawn_again(files: None, suffix: str, settings: dict[str, Any]) -> None:
    if suffix == "parquet" and "time" in settings:
        pq.write_table(pacsv.read_csv("whole.csv"), "whole.parquet")  # text orders nothing; this has instants
    manifest, prepared = fitted_on(f"whole.{suffix}", **settings)
    seen = rows_learnt_from(f"whole.{suffix}", manifest)
    assert seen is not None
    learnt = np.concatenate([prepared.split.train, prepared.split.validation])
    np.testing.assert_array_equal(np.flatnonzero(seen), np.sort(prepared.normal_rows[learnt]))


def test_evaluated_on_the_rows_of_the_fit_those_learnt_from_teach_and_the_others_compare(files: None) -> None:
    manifest, prepared = fitted_on("whole.csv", label="bad")
    seen = rows_learnt_from("whole.csv", manifest)
    assert seen is not None
    for normal in (None, "whole.csv"):
        found = compare_on("whole.csv", manifest, normal)
        np.testing.assert_array_equal(found.compared, ~seen)
        assert len(found.normal) == seen.sum() == len(prepared.split.train) + len(prepared.split.validation)
        assert "fitted on whole.csv itself" in found.warnings[0]
        assert "leaves these out" in found.warnings[0]


def test_anomalies_that_the_model_was_fitted_on_do_not_teach_and_are_not_compared_on(files: None) -> None:
    manifest, _ = fitted_on("whole.csv", drop=("bad",))
    found = compare_on("whole.csv", manifest)
    seen = rows_learnt_from("whole.csv", manifest)
    bad = np.asarray(table(500, seed=2, anomalies=50)["bad"])
    assert seen is not None
    assert (seen & bad).any()
    assert len(found.normal) == (seen & ~bad).sum()
    np.testing.assert_array_equal(found.compared, ~seen)


def test_a_split_that_does_not_come_out_again_asks_for_other_rows(files: None, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, _ = fitted_on("whole.csv", label="bad")
    monkeypatch.setattr("anomvae.data.splits.STEADY", 2)
    monkeypatch.setattr("anomvae.data.splits.MAX_CALIBRATION_ROWS", 50)
    with pytest.raises(SettingError, match=r"cannot be worked out; .* --normal DATA that are not evaluated"):
        compare_on("whole.csv", manifest)
    found = compare_on("whole.csv", manifest, "normal.parquet")
    assert "in favour of this detector" in found.warnings[0]
    assert found.compared.all()


def test_rows_of_a_fit_that_learnt_from_all_of_them_are_refused(files: None) -> None:
    manifest, prepared = fitted_on("whole.csv", label="bad", calibration="cross")
    assert prepared.split.folds is not None
    manifest = replace(manifest, split=replace(manifest.split, folds=5))
    with pytest.raises(SettingError, match="knows all of its normal rows"):
        compare_on("whole.csv", manifest, "normal.parquet")


def test_rows_that_are_both_evaluated_and_learnt_from_are_refused(files: None) -> None:
    manifest, _ = fitted_on("normal.parquet")
    with pytest.raises(SettingError, match="holds the very rows to evaluate"):
        compare_on("labelled.parquet", manifest, "labelled.parquet")
    with pytest.raises(SchemaError, match="no normal rows left to compare"):  # the same rows in another format
        compare_on("labelled.parquet", manifest, "labelled.csv")


def test_some_rows_that_are_both_are_left_out_with_a_warning(files: None) -> None:
    manifest, _ = fitted_on("normal.parquet")
    labelled = table(300, seed=1, anomalies=40)
    fresh = np.flatnonzero(~np.asarray(labelled["bad"]))[:200]
    known = table(400).slice(100, 60)
    pq.write_table(
        pa.concat_tables([labelled.take(pa.array(fresh)), known, labelled.filter(labelled["bad"])]), "m.parquet"
    )
    found = compare_on("m.parquet", manifest)
    assert np.flatnonzero(~found.compared).tolist() == list(range(200, 260))
    assert (
        "60 of 260 normal rows to compare on are identical to rows learnt from in normal.parquet" in found.warnings[0]
    )
    assert "left out" in found.warnings[0]


def test_rows_of_a_table_that_repeats_are_kept_with_a_note(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    codes = pa.array(np.array(["a", "b", "c"])[draw.integers(0, 3, (700, 3))].T.tolist()[0])
    rows = pa.table({"kind": codes, "level": draw.integers(0, 5, 700).astype(float), "bad": np.arange(700) >= 650})
    pq.write_table(rows.slice(0, 400).drop_columns(["bad"]), "normal.parquet")
    pq.write_table(rows.slice(400), "labelled.parquet")
    manifest, _ = fitted_on("normal.parquet")
    found = compare_on("labelled.parquet", manifest)
    assert found.compared.all()
    assert found.warnings == ()
    assert found.notes[0].endswith("since 100.0% of those repeat among themselves, they count as fresh rows")


def test_only_the_normal_rows_of_a_labelled_file_teach(files: None) -> None:
    manifest, _ = fitted_on("normal.parquet")
    assert len(compare_on("labelled.parquet", manifest, "whole.parquet").normal) == 450
    renamed = table(300, seed=1, anomalies=40).rename_columns(["hour", "machine", "x", "kind", "failed"])
    pq.write_table(renamed, "renamed.parquet")
    manifest, _ = fitted_on("whole.parquet", label="bad")  # a label of its own
    assert len(compare_on("renamed.parquet", manifest, label="failed").normal) == 450


def test_rows_without_a_label_are_not_compared_on(files: None) -> None:
    manifest, _ = fitted_on("normal.parquet")
    rows = table(300, seed=1, anomalies=40)
    some = pa.array([None if k < 10 else value for k, value in enumerate(rows["bad"].to_pylist())])
    pq.write_table(rows.set_column(4, "bad", some), "some.parquet")
    assert np.flatnonzero(~compare_on("some.parquet", manifest).compared).tolist() == list(range(10))


@pytest.mark.parametrize(
    ("normal", "error", "told"),
    [
        ("gone.parquet", DataFileError, r"gone\.parquet does not exist"),
        ("bad.parquet", SchemaError, r"bad\.parquet has no normal rows to learn from"),
        ("text.csv", RowError, r"column 'x' of text\.csv holds text .* row 2"),
        ("narrow.parquet", RowError, r"narrow\.parquet: the rows lack 'kind'"),
        ("unclear.parquet", SchemaError, r"unclear\.parquet: the label column 'bad' does not say"),
    ],
)
def test_normal_rows_that_cannot_teach_are_refused_by_name_and_without_their_values(
    files: None, normal: str, error: type[InputError], told: str
) -> None:
    manifest, _ = fitted_on("normal.parquet")
    rows = table(40)
    pq.write_table(rows.set_column(4, "bad", pa.array([1] * 40)), "bad.parquet")
    pq.write_table(rows.drop_columns(["kind"]), "narrow.parquet")
    pq.write_table(rows.set_column(4, "bad", pa.array([f"patient {k}" for k in range(40)])), "unclear.parquet")
    Path("text.csv").write_text("machine,x,kind\n1,0.5,a\n1,patient Smith,b\n")
    with pytest.raises(error, match=told) as refusal:
        compare_on("labelled.parquet", manifest, normal)
    assert "patient" not in str(refusal.value)
