"""`anomvae evaluate --baselines` as a user meets it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anomvae.fitting import FitSettings, fit_bundle
from anomvae.training.settings import TrainingSettings
from tests.conftest import mixed_table, quick

if TYPE_CHECKING:
    import numpy.typing as npt

    from anomvae.bundle import Bundle

    FloatArray = npt.NDArray[np.float64]

SHARED = Path(__file__).parents[3] / "shared" / "data"
DETECTORS = ["1-NN", "PCA", "Isolation forest", "Gaussian mixture"]


def columns_of(cells: FloatArray, **more: object) -> pa.Table:
    return pa.table({**{f"x{j}": pa.array(cells[:, j], from_pandas=True) for j in range(cells.shape[1])}, **more})


def linear(n: int, seed: int) -> FloatArray:
    """Rows around a plane: what a Gaussian describes wholly."""
    draw, plane = np.random.default_rng(seed), np.random.default_rng(3).normal(size=(2, 6))
    cells: FloatArray = draw.normal(size=(n, 2)) @ plane + 0.3 * draw.normal(size=(n, 6))
    return cells


def holed(n: int, seed: int) -> FloatArray:
    """Eight columns that go together, half of the cells missing: filling them in spoils what they say together."""
    draw = np.random.default_rng(seed)
    cells: FloatArray = 2 * draw.normal(size=(n, 1)) + 0.3 * draw.normal(size=(n, 8))
    cells[draw.random((n, 8)) < 0.5] = np.nan
    return cells


def out_of_step(cells: FloatArray, anomalies: int, at_once: int) -> pa.Table:
    """The first rows get some cells of other rows' size, but out of step with their neighbours."""
    draw = np.random.default_rng(5)
    for row in range(anomalies):
        columns = draw.choice(cells.shape[1], at_once, replace=False)
        cells[row, columns] = np.nanstd(cells, axis=0)[columns] * draw.normal(size=at_once)
    return columns_of(cells, bad=np.arange(len(cells)) < anomalies)


@pytest.fixture(scope="module")
def planar(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A detector of rows around a plane, fitted on a file that stays."""
    folder = tmp_path_factory.mktemp("planar")
    pq.write_table(columns_of(linear(600, 1)), folder / "normal.parquet")
    pq.write_table(out_of_step(linear(400, 2), 120, 1), folder / "labelled.parquet")
    return fit_bundle(str(folder / "normal.parquet"), quick(name="plane"), folder / "plane").bundle


def ask(bundle: Bundle, data: object = None) -> tuple[object, ...]:
    return (
        *("evaluate", data or bundle.folder.parent / "labelled.parquet"),
        *("--model", bundle.folder, "--label", "bad", "--baselines"),
    )


def test_where_simpler_detectors_do_as_well_it_says_so(cli: Any, planar: Bundle) -> None:
    told = cli(*ask(planar))
    assert told.code == 0, told.err
    lines = told.out.splitlines()
    for name in ("PCA", "Gaussian mixture"):
        (verdict,) = [line for line in lines if line.startswith(f"{name} does ")]
        assert verdict.startswith((f"{name} does as well here: ", f"{name} does better here: "))
        assert "points, 95 % interval" in verdict
        assert "a simpler detector may be enough" in verdict or "a simpler detector is enough here" in verdict
    assert "No simpler detector" not in told.out
    assert f"learnt from 600 normal rows of {planar.folder.parent / 'normal.parquet'}" in told.out
    assert "compared on 400 rows: 120 anomalies, 280 normal" in lines
    assert "not widened for four comparisons" in told.out
    assert told.err == ""


def test_where_ours_does_better_it_says_so(cli: Any, tmp_path: Path) -> None:
    pq.write_table(columns_of(holed(1000, 1)), "normal.parquet")
    pq.write_table(out_of_step(holed(400, 2), 150, 3), "labelled.parquet")
    settings = FitSettings(alarm_rate=0.05, training=TrainingSettings(max_steps=600))
    bundle = fit_bundle("normal.parquet", settings, tmp_path / "holed").bundle
    told = cli(*ask(bundle))
    assert told.code == 0, told.err
    for name in DETECTORS[:3]:
        assert f"This detector does better than {name}: difference in AUROC +" in told.out


def test_json_holds_every_measure_interval_and_sentence(cli: Any, planar: Bundle) -> None:
    plain = json.loads(cli(*ask(planar)[:-1], "--json").out)
    told = cli(*ask(planar), "--json")
    assert told.code == 0, told.err
    found = json.loads(told.out)
    beside = found.pop("baselines")
    assert found == plain
    assert (beside["rows"], beside["anomalies"], beside["normal_rows"]) == (400, 120, 600)
    assert beside["auroc"] == pytest.approx(plain["auroc"], abs=1e-12)
    assert beside["average_precision"] == pytest.approx(plain["average_precision"], abs=1e-12)
    assert beside["score"] == "score"
    assert (beside["resamples"], beside["confidence"], beside["intervals"]) == (1000, 0.95, "per comparison")
    assert [other["name"] for other in beside["detectors"]] == DETECTORS
    for other in beside["detectors"]:
        for measure in ("auroc", "average_precision"):
            apart = other[f"{measure}_difference"]
            assert apart["estimate"] == pytest.approx(beside[measure] - other[measure])
            assert apart["low"] <= apart["estimate"] <= apart["high"]
            assert apart["verdict"] == ("ours" if apart["low"] > 0 else "theirs" if apart["high"] < 0 else "alike")
        assert other["name"] in other["says"]
    assert cli(*ask(planar), "--json").out == told.out


def test_the_score_of_the_verdict_is_compared(cli: Any, planar: Bundle, tmp_path: Path) -> None:
    data = str(planar.folder.parent / "normal.parquet")
    bundle = fit_bundle(data, quick(decision="reconstruction"), tmp_path / "by-reconstruction").bundle
    labelled = planar.folder.parent / "labelled.parquet"
    found = json.loads(cli(*ask(bundle, labelled), "--json").out)
    assert found["baselines"]["score"] == "reconstruction_error"
    assert found["baselines"]["auroc"] == pytest.approx(found["auroc_reconstruction"], abs=1e-12)
    assert found["auroc"] != found["auroc_reconstruction"]


def test_mixed_rows_with_missing_and_unknown_cells_are_compared(cli: Any, fitted: Bundle) -> None:
    rows = mixed_table(300, seed=4)
    material = pa.array(["cheese" if k < 20 else value for k, value in enumerate(rows["material"].to_pylist())])
    pressure = pa.array([None if 20 <= k < 30 else value for k, value in enumerate(rows["pressure"].to_pylist())])
    vibration = pa.array(
        [float("inf") if 30 <= k < 40 else value for k, value in enumerate(rows["vibration"].to_pylist())]
    )
    for name, cells in (("material", material), ("pressure", pressure), ("vibration", vibration)):
        rows = rows.set_column(rows.schema.names.index(name), name, cells)
    labelled = rows.append_column("bad", pa.array(np.arange(300) < 40))
    pq.write_table(labelled, "labelled.parquet")
    pq.write_table(mixed_table(400, seed=5), "normal.parquet")
    told = cli(*ask(fitted, "labelled.parquet"), "--normal", "normal.parquet", "--json")
    assert told.code == 0, told.err
    found = json.loads(told.out)["baselines"]
    assert found["normal"] == "normal.parquet"
    assert len(found["detectors"]) == 4
    for other in found["detectors"]:
        assert 0.5 < other["auroc"] <= 1.0, other["name"]
    assert pq.read_table("labelled.parquet").num_rows == found["rows"] == 300


def test_evaluated_on_the_file_of_the_fit_the_rows_learnt_from_are_left_out(cli: Any, tmp_path: Path) -> None:
    pq.write_table(out_of_step(linear(600, 3), 60, 1), "all.parquet")
    known = fit_bundle("all.parquet", quick(label="bad"), tmp_path / "known").bundle
    refused = cli(*ask(known, "all.parquet"))
    assert refused.code == 2
    assert "the model knows all of its normal rows" in refused.err
    plain = replace(quick(label="bad"), calibration="split")
    plain = replace(plain, model=replace(plain.model, prior="normal"))
    bundle = fit_bundle("all.parquet", plain, tmp_path / "all").bundle
    told = cli(*ask(bundle, "all.parquet"), "--json")
    assert told.code == 0, told.err
    assert told.err.startswith("warning: the model was fitted on all.parquet itself")
    found = json.loads(told.out)
    calibration = bundle.manifest.split.calibration
    assert (found["rows"], found["baselines"]["rows"]) == (600, calibration + 60)
    assert found["baselines"]["normal_rows"] == 540 - calibration
    assert found["baselines"]["warnings"] != []


def test_many_normal_rows_are_drawn_from_and_that_is_said(
    cli: Any, planar: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomvae.evaluation.baselines.MAX_NORMAL_ROWS", 250)
    told = cli(*ask(planar))
    assert "learnt from 250 of 600 normal rows of" in told.out
    assert "drawn by seed 0" in told.out
    assert json.loads(cli(*ask(planar), "--json").out)["baselines"]["normal_rows_learnt_from"] == 250


def test_without_baselines_nothing_is_added(cli: Any, planar: Bundle) -> None:
    assert "simpler" not in cli(*ask(planar)[:-1]).out


def test_wrong_input_is_refused_in_one_line_without_values(cli: Any, planar: Bundle, fitted: Bundle) -> None:
    labelled = planar.folder.parent / "labelled.parquet"
    Path("text.csv").write_text("x0,x1,x2,x3,x4,x5\n" + "1,2,3,4,5,6\n" * 30 + "1,2,patient Smith,4,5,6\n")
    pq.write_table(columns_of(linear(10, 6)), "few.parquet")
    pq.write_table(mixed_table(50).append_column("bad", pa.array([k < 5 for k in range(50)])), "mixed.parquet")
    refusals = [
        ((*ask(planar)[:-1], "--normal", "few.parquet"), "give --baselines too"),
        ((*ask(planar), "--normal", "gone.parquet"), "gone.parquet does not exist"),
        ((*ask(planar), "--normal", "text.csv"), "'x2'"),
        ((*ask(planar), "--normal", "few.parquet"), "10 normal rows are too few"),
        ((*ask(planar), "--normal", labelled), "holds the very rows to evaluate"),
        (ask(fitted, "mixed.parquet"), "fitted on the table in memory, which is not here"),
    ]
    for arguments, sentence in refusals:
        told = cli(*arguments)
        assert (told.code, told.out) == (2, ""), arguments
        assert told.err.startswith("error: ")
        assert told.err.count("\n") == 1
        assert sentence in told.err
        assert "Smith" not in told.err


def test_a_real_mixed_table_is_ranked_better_than_simpler_detectors_do(cli: Any, tmp_path: Path) -> None:
    folder = SHARED / "thyroid_garvan"
    if not folder.exists():
        pytest.skip(f"thyroid_garvan is not at hand: no {folder}")
    settings = FitSettings(training=TrainingSettings(seed=0))
    bundle = fit_bundle(str(folder / "train.parquet"), settings, tmp_path / "thyroid").bundle
    told = cli("evaluate", folder / "test.parquet", "-m", bundle.folder, "--label", "label", "--baselines")
    assert told.code == 0, told.err
    assert "No simpler detector does as well here." in told.out
