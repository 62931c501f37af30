from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anomvae.bundle import write_bundle
from anomvae.bundle.manifest import Recalibration
from anomvae.data.reading import open_rows
from anomvae.fitting import FitSettings, fit_bundle
from anomvae.training.settings import TrainingSettings

if TYPE_CHECKING:
    from pathlib import Path

    from anomvae.bundle import Bundle


def press(n: int, seed: int) -> pa.Table:
    """Rows of a press: pressure follows temperature, the noise column follows nothing; a serial number, a label."""
    draw = np.random.default_rng(seed)
    temperature = np.round(60 + 8 * draw.normal(size=n), 1)
    return pa.table(
        {
            "hour": np.arange(n),
            "temperature": temperature,
            "pressure": 200 + 3 * temperature + 0.5 * draw.normal(size=n),
            "state": np.where(draw.random(n) < 0.5, "auto", "hand").tolist(),
            "faulty": np.arange(n) % 10 == 0,
        }
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A detector fitted on 800 rows in time order, of which the last calibrate."""
    folder = tmp_path_factory.mktemp("power")
    pq.write_table(press(800, 0), folder / "fit.parquet")
    settings = FitSettings(
        training=TrainingSettings(max_steps=200), alarm_rate=0.05, label="faulty", time="hour", name="press"
    )
    return fit_bundle(str(folder / "fit.parquet"), settings, folder / "press").bundle


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """Rows that the fit did not have."""
    path = tmp_path / "fresh.parquet"
    pq.write_table(press(600, 1), path)
    return path


def told(text: str) -> str:
    """Words as they stand, however the lines are broken."""
    return " ".join(text.split())


def test_power_says_column_by_column_what_is_caught_and_names_what_is_not(
    cli: Any, bundle: Bundle, fresh: Path
) -> None:
    ended = cli("power", fresh, "--model", bundle.folder, "--rows", "100")
    assert ended.code == 0, ended.err
    said = told(ended.out)
    assert "Column 'faulty' marks 540 rows as normal; the other 60 are left out." in said
    assert "Faults were put into 100 normal rows, one column at a time, 100 rows a column" in said
    assert "Untouched," in said
    for word in ("half of the time", "9 times in 10", "stuck", "spike", "noise", "gain", "unit", "swapped", "missing"):
        assert word in said
    assert "Blind to 1 column of categories" in said
    assert "'state'" in said
    assert "In the median column a shift of" in said


@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_the_terminal(cli: Any, bundle: Bundle, fresh: Path, width: int, monkeypatch: Any) -> None:
    monkeypatch.setattr("anomvae.cli.console.WIDTH_OF_FILES", width)
    ended = cli("power", fresh, "--model", bundle.folder, "--rows", "40")
    assert max(map(len, ended.out.splitlines())) <= width
    assert "temperature" in ended.out
    assert sum(line.strip().startswith("temperature") for line in ended.out.splitlines()) == 2


def test_json_has_every_figure_and_the_same_seed_gives_the_same(cli: Any, bundle: Bundle, fresh: Path) -> None:
    command = ("power", fresh, "--model", bundle.folder, "--rows", "60", "--json")
    found = json.loads(cli(*command).out)
    assert found == json.loads(cli(*command).out)
    assert found != json.loads(cli(*command, "--seed", "1").out)
    assert [column["name"] for column in found["columns"]] == ["temperature", "pressure", "state"]
    pressure = found["columns"][1]
    assert pressure["swapped_with"] == "temperature"
    assert pressure["shift"]["caught_half_of_the_time"]["std"] < 8
    assert found["metrics"]["power_blind_columns"] == len(found["blind_columns"]) == 1
    assert found["alarm_rate"] == 0.05
    assert json.loads(cli(*command, "--alarm-rate", "0.2").out)["alarm_rate"] == 0.2


def test_the_verdicts_are_those_of_the_bundle_at_the_rate_asked_for(cli: Any, bundle: Bundle, fresh: Path) -> None:
    rows = pq.read_table(fresh).filter(pa.compute.invert(pq.read_table(fresh)["faulty"])).slice(0, 50)
    pq.write_table(rows, fresh)
    for rate in ("0.05", "0.3"):
        found = json.loads(cli("power", fresh, "--model", bundle.folder, "--alarm-rate", rate, "--json").out)
        cli("score", fresh, "--model", bundle.folder, "--alarm-rate", rate, "--out", "scores.parquet")
        assert found["untouched"]["hits"] == sum(pq.read_table("scores.parquet")["alarm"].to_pylist())
        assert found["rows"] == 50


def test_another_label_can_be_named_and_none_is_needed(cli: Any, bundle: Bundle, fresh: Path) -> None:
    rows = pq.read_table(fresh).rename_columns(["hour", "temperature", "pressure", "state", "broken"])
    pq.write_table(rows, fresh)
    assert "broken" not in cli("power", fresh, "--model", bundle.folder, "--rows", "20").out
    named = cli("power", fresh, "--model", bundle.folder, "--rows", "20", "--label", "broken")
    assert "Column 'broken' marks 540 rows as normal" in told(named.out)


def test_of_its_own_data_only_rows_that_the_fit_has_not_learnt_from_are_taken(cli: Any, bundle: Bundle) -> None:
    ended = cli("power", bundle.manifest.provenance.data, "--model", bundle.folder, "--rows", "50")
    assert ended.code == 0, ended.err
    assert f"its {bundle.manifest.split.calibration:,} calibration rows" in ended.err


def test_rows_of_a_later_calibration_are_warned_of(cli: Any, bundle: Bundle, fresh: Path, tmp_path: Path) -> None:
    manifest = bundle.manifest
    again = Recalibration(str(fresh), open_rows(fresh).digest(), 600, manifest.provenance.created)
    calibrated = replace(manifest, calibration=replace(manifest.calibration, recalibrated=again))
    written = write_bundle(
        tmp_path / "again", calibrated, {name: (bundle.folder / name).read_bytes() for name in manifest.files}
    )
    ended = cli("power", fresh, "--model", written.folder, "--rows", "20")
    assert ended.code == 0, ended.err
    assert "warning: the model was calibrated on" in ended.err


def test_the_data_of_a_random_split_are_refused(cli: Any, tmp_path: Path) -> None:
    pq.write_table(press(400, 0), "own.parquet")
    settings = FitSettings(training=TrainingSettings(max_steps=50), alarm_rate=0.05, label="faulty")
    fit_bundle("own.parquet", settings, tmp_path / "own")
    ended = cli("power", "own.parquet", "--model", tmp_path / "own")
    assert ended.code == 2
    assert "give normal rows that the fit did not have" in ended.err


def test_rows_that_alarm_untouched_are_warned_of(cli: Any, bundle: Bundle, fresh: Path) -> None:
    rows = pq.read_table(fresh)
    hot = rows.set_column(2, "pressure", pa.array(np.asarray(rows["pressure"]) + 30))
    pq.write_table(hot, fresh)
    ended = cli("power", fresh, "--model", bundle.folder, "--rows", "50")
    assert ended.code == 0
    assert "warning: the untouched rows alarm in" in ended.err
    assert "flattered" in ended.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("few.parquet",), "19 normal rows are too few to inject faults into"),
        (("lacking.parquet",), "lack 'pressure'"),
        (("anomalous.parquet",), "marks no row of anomalous.parquet as normal"),
        (("nothing.parquet",), "nothing.parquet"),
        (("few.parquet", "--rows", "5"), "rows is 5"),
        (("few.parquet", "--label", "nowhere"), "--label names 'nowhere'"),
        (("few.parquet", "--alarm-rate", "0.0001"), "alarm rate"),
    ],
)
def test_bad_input_ends_with_one_sentence(cli: Any, bundle: Bundle, arguments: tuple[str, ...], complaint: str) -> None:
    rows = press(200, 1)
    normal = rows.filter(pa.compute.invert(rows["faulty"]))
    pq.write_table(normal.slice(0, 19), "few.parquet")
    pq.write_table(rows.drop_columns(["pressure"]), "lacking.parquet")
    pq.write_table(rows.filter(rows["faulty"]), "anomalous.parquet")
    ended = cli("power", *arguments, "--model", bundle.folder)
    assert ended.code == 2, ended.err
    assert complaint in ended.err
    assert len(ended.err.strip().splitlines()) == 1
    assert ended.out == ""
