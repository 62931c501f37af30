"""`anomvae calibrate` end to end: another promise on other rows, the weights untouched, and nothing written on refusal."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import anomvae
from anomvae.bundle import read_bundle
from anomvae.bundle.folder import manifest_digest
from anomvae.errors import DataFileError
from anomvae.export.calibration_graph import scoring_digest
from anomvae.fitting.recalibration import RecalibrationSettings, recalibrate_bundle
from anomvae.scoring import Scorer
from tests.calibrated import sites
from tests.conftest import mixed_table

if TYPE_CHECKING:
    from pathlib import Path

    from anomvae.bundle import Bundle


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Normal rows that the detector has not seen, at several sites, as a file."""
    path = tmp_path / "later.parquet"
    pq.write_table(sites(600), path)
    return path


def test_a_recalibration_is_another_bundle_with_the_same_weights(
    cli: Any, fitted: Bundle, rows: Path, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in fitted.folder.iterdir()}
    told = cli("calibrate", rows, "--model", fitted.folder, "--no-track", "--alarm-rate", "0.02", "--out", "again")
    assert told.code == 0, told.err
    again = read_bundle(tmp_path / "again")
    assert any(name.startswith("power_") for name in fitted.read_record().metrics)
    assert not any(name.startswith("power_") for name in again.read_record().metrics)  # of the old verdict
    digest = scoring_digest(fitted.graph.read_bytes())
    assert scoring_digest(again.graph.read_bytes()) == digest
    assert f"weights untouched: scoring part of the graph {digest}" in told.out
    assert again.graph.read_bytes() != before["scorer.onnx"]
    assert {path.name: path.read_bytes() for path in fitted.folder.iterdir()} == before
    assert {path.name for path in again.folder.iterdir()} == before.keys()
    same = {name for name in before if (again.folder / name).read_bytes() == before[name]}
    assert before.keys() - same == {"scorer.onnx", "manifest.json", "training.json", "card.md", "report.html"}
    facts = again.manifest.calibration
    assert (facts.rows, facts.alarm_rate, facts.decision, facts.method) == (600, 0.02, "elbo", "split")
    assert facts.recalibrated is not None
    assert (facts.recalibrated.rows, facts.recalibrated.data) == (600, str(rows))
    assert facts.recalibrated.digest != fitted.manifest.provenance.digest
    assert again.manifest.provenance == fitted.manifest.provenance
    scores = Scorer(again).score(mixed_table(300, seed=8))
    old = Scorer(fitted).score(mixed_table(300, seed=8))
    for name in ("score", "reconstruction_error", "reasons"):
        assert scores[name].equals(old[name])
    assert not scores["p_value"].equals(old["p_value"])
    assert "calibrated on 600 rows" in told.out
    assert "would have alarmed before, where 5.00% were stated" in told.out


def test_what_is_not_said_stays_as_it_was(cli: Any, fitted: Bundle, rows: Path, tmp_path: Path) -> None:
    first = (
        "--confidence",
        "0.9",
        "--decision",
        "both",
        "--by",
        "site",
        "--alarms-per-day",
        "60",
        "--rows-per-day",
        "1000",
    )
    assert cli("calibrate", rows, "--model", fitted.folder, "--no-track", *first, "--out", "first").code == 0
    assert cli("calibrate", rows, "--model", "first", "--no-track", "--out", "second").code == 0
    one, other = (read_bundle(tmp_path / name).manifest.calibration for name in ("first", "second"))
    assert (one.confidence, one.decision, one.by, one.alarms_per_day) == (0.9, "both", "site", 60)
    assert one.alarm_rate == 0.06
    assert [group.name for group in one.groups] == ["north", "south"]
    for name in ("confidence", "decision", "by", "groups", "alarm_rate", "alarms_per_day", "smallest_alarm_rate"):
        assert getattr(other, name) == getattr(one, name)
    graphs = [(tmp_path / name / "scorer.onnx").read_bytes() for name in ("first", "second")]
    assert graphs[0] == graphs[1]
    third = ("--confidence", "0", "--decision", "elbo", "--by", "", "--alarm-rate", "0.05")
    told = cli("calibrate", rows, "--model", "second", "--no-track", *third, "--out", "third")
    assert told.code == 0, told.err
    plain = read_bundle(tmp_path / "third").manifest.calibration
    assert (plain.confidence, plain.decision, plain.by, plain.groups) == (None, "elbo", None, ())
    assert (plain.alarm_rate, plain.alarms_per_day, plain.rows_per_day) == (0.05, None, None)


def test_it_is_registered_as_the_next_version(cli: Any, fitted: Bundle, rows: Path) -> None:
    assert cli("models", "log", fitted.folder).code == 0
    told = cli("calibrate", rows, "--model", "press@champion", "--alarm-rate", "0.1")
    assert told.code == 0, told.err
    assert "registered as press version 2" in told.out
    listed = json.loads(cli("models", "list", "--json").out)
    assert (listed[0]["champion"], listed[0]["candidate"]) == (1, 2)
    rates = [
        json.loads(cli("models", "show", ref, "--json").out)["calibration"]["alarm_rate"]
        for ref in ("press/1", "press/2")
    ]
    assert rates == [0.05, 0.1]
    scored = cli("score", rows, "--model", "press/2")
    assert scored.code == 0, scored.err


def test_groups_get_calibrations_of_their_own(cli: Any, fitted: Bundle, rows: Path, tmp_path: Path) -> None:
    told = cli("calibrate", rows, "--model", fitted.folder, "--no-track", "--by", "site", "--out", "sites")
    assert told.code == 0, told.err
    assert "2 groups of site have calibrations of their own, 1" in told.out
    manifest = read_bundle(tmp_path / "sites").manifest
    assert manifest.carried == ("part", "site")
    scored = anomvae.load(tmp_path / "sites").score(sites(200, seed=3).to_pandas())
    np.testing.assert_array_equal(scored["pooled"], scored["site"] == "east")


def test_rows_of_no_known_group_are_told_of_when_scored(cli: Any, fitted: Bundle, rows: Path) -> None:
    assert cli("calibrate", rows, "--model", fitted.folder, "--no-track", "--by", "site", "--out", "sites").code == 0
    for drop, warned in (([], False), (["site"], True)):
        pq.write_table(sites(100, seed=5).drop(drop), "new.parquet")
        told = cli("score", "new.parquet", "--model", "sites", "--out", "answers.parquet")
        assert told.code == 0, told.err
        assert ("promises nothing for them" in told.err.replace("\n", " ")) is warned


def test_a_column_that_makes_no_groups_is_told_of(cli: Any, fitted: Bundle, rows: Path) -> None:
    told = cli("calibrate", rows, "--model", fitted.folder, "--no-track", "--by", "part", "--out", "parts")
    assert told.code == 0, told.err
    assert "no group of 'part' has rows enough" in told.err.replace("\n", " ")


def test_the_warning_that_normal_has_moved_counts_by_the_groups_of_before(
    cli: Any, fitted: Bundle, rows: Path, tmp_path: Path
) -> None:
    assert cli("calibrate", rows, "--model", fitted.folder, "--no-track", "--by", "site", "--out", "first").code == 0
    told = cli("calibrate", rows, "--model", "first", "--no-track", "--out", "second")
    alarms = Scorer(read_bundle(tmp_path / "first")).score(sites(600))["alarm"].to_numpy().mean()
    assert f"of these rows {alarms:.2%} would have alarmed before" in told.out.replace("\n", " ")
    assert "normal has moved" not in told.err
    table = sites(600)
    moved = table.set_column(1, "temperature", pa.array(np.array(table["temperature"]) + 80.0))
    pq.write_table(moved, "moved.parquet")
    told = cli("calibrate", "moved.parquet", "--model", "first", "--no-track", "--out", "third")
    assert told.code == 0, told.err
    assert "normal has moved" in told.err


@pytest.mark.parametrize("labelled_by", ["flag", "the fit's label"])
def test_labelled_anomalies_and_rows_without_a_label_do_not_calibrate(
    cli: Any, fitted: Bundle, tmp_path: Path, labelled_by: str
) -> None:
    label = pa.array([None if k % 50 == 0 else k % 10 == 0 for k in range(600)])
    pq.write_table(sites(600).append_column("bad", label), "labelled.parquet")
    model, flags = fitted.folder, ["--label", "bad"]
    if labelled_by == "the fit's label":
        shutil.copytree(fitted.folder, "with_label")
        path = tmp_path / "with_label" / "manifest.json"
        raw = json.loads(path.read_text())
        raw["left_out"].append({"name": "bad", "reason": "marks anomalies", "role": "label"})
        raw["files"].pop("manifest.json", None)
        text = json.dumps(raw, indent=2, ensure_ascii=False) + "\n"
        raw["files"]["manifest.json"] = manifest_digest(text)
        path.write_text(json.dumps(raw, indent=2, ensure_ascii=False) + "\n")
        model, flags = tmp_path / "with_label", []
    told = cli("calibrate", "labelled.parquet", "--model", model, "--no-track", *flags, "--out", "again")
    assert told.code == 0, told.err
    assert "60 rows are labelled as anomalies, or not at all, and do not calibrate" in told.out
    facts = read_bundle(tmp_path / "again").manifest.calibration
    assert facts.rows == 540
    assert facts.recalibrated is not None
    assert facts.recalibrated.rows == 600


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--alarm-rate", "0.0001"),
            "600 calibration rows cannot support an alarm rate of 0.0001: it takes at least 9,999",
        ),
        (("--alarm-rate", "0.002", "--confidence", "0.9"), "with 90 % confidence"),
        (("--alarm-rate", "0"), "a share of rows"),
        (("--alarm-rate", "1"), "a share of rows"),
        (("--alarms-per-day", "3"), "--alarms-per-day goes with --rows-per-day"),
        (("--confidence", "2"), "--confidence"),
        (("--decision", "either"), "--decision is 'either'; it must be one of elbo, reconstruction, both"),
        (("--by", "temperature"), "--by names 'temperature', a number that the detector scores"),
        (("--by", "nowhere"), "no column 'nowhere' for groups"),
        (("--label", "nowhere"), "nowhere"),
    ],
)
def test_a_promise_that_cannot_be_kept_is_refused_and_nothing_is_written(
    cli: Any, fitted: Bundle, rows: Path, tmp_path: Path, flags: tuple[str, ...], message: str
) -> None:
    told = cli("calibrate", rows, "--model", fitted.folder, "--no-track", *flags, "--out", "again")
    assert told.code == 2
    assert message in " ".join(told.err.split())
    assert "Traceback" not in told.err
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("cache", rows.name)] == []


def test_the_rows_of_the_fit_are_refused(fitted: Bundle, tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="holds the rows that 'press' was fitted on"):
        recalibrate_bundle(mixed_table(600), fitted, RecalibrationSettings(), tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_rows_that_lack_columns_or_are_none_are_refused(cli: Any, fitted: Bundle, tmp_path: Path) -> None:
    table = sites(100)
    for name, rows, message in (
        ("lacking", table.drop(["pressure"]), "pressure"),
        ("none", table.slice(0, 0), "has no rows"),
        ("few", table.slice(0, 5), "5 calibration rows cannot support"),
    ):
        pq.write_table(rows, f"{name}.parquet")
        told = cli("calibrate", f"{name}.parquet", "--model", fitted.folder, "--no-track", "--out", "again")
        assert told.code == 2
        assert message in told.err
        assert not (tmp_path / "again").exists()


def test_all_anomalous_rows_are_no_normal_rows(cli: Any, fitted: Bundle, tmp_path: Path) -> None:
    pq.write_table(sites(100).append_column("bad", pa.array([True] * 100)), "bad.parquet")
    told = cli("calibrate", "bad.parquet", "--model", fitted.folder, "--no-track", "--label", "bad", "--out", "again")
    assert told.code == 2
    assert "marks no row" in told.err
    assert not (tmp_path / "again").exists()


def test_a_folder_that_holds_something_else_is_left_alone(cli: Any, fitted: Bundle, rows: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    told = cli("calibrate", rows, "--model", fitted.folder, "--no-track", "--out", "mine")
    assert told.code == 2
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_bundle_of_format_1_is_refused_in_one_sentence(cli: Any, fitted: Bundle, rows: Path, tmp_path: Path) -> None:
    """Its graph has the calibration woven in, so that it cannot be taken off."""
    shutil.copytree(fitted.folder, "old")
    raw = json.loads((tmp_path / "old" / "manifest.json").read_text())
    raw["format_version"] = 1
    raw["files"].pop("manifest.json", None)
    raw["files"]["manifest.json"] = manifest_digest(json.dumps(raw))
    (tmp_path / "old" / "manifest.json").write_text(json.dumps(raw))
    told = cli("calibrate", rows, "--model", "old", "--no-track", "--out", "again")
    assert told.code == 2
    assert "has bundle format 1" in told.err
    assert "fit it again" in told.err
    assert not (tmp_path / "again").exists()


def test_a_tail_is_flagged_in_words_and_in_verdicts(cli: Any, fitted: Bundle, rows: Path, tmp_path: Path) -> None:
    told = cli(
        "calibrate", rows, "--model", fitted.folder, "--no-track", "--alarm-rate", "0.0005", "--tail", "--out", "tail"
    )
    assert told.code == 0, told.err
    assert "extrapolated by a generalised Pareto tail, without a guarantee" in " ".join(told.out.split())
    facts = read_bundle(tmp_path / "tail").manifest.calibration
    assert facts.tail is not None
    assert facts.smallest_alarm_rate < 0.0005
    sure = ("--alarm-rate", "0.004", "--confidence", "0.9", "--tail", "--out", "sure")
    told = cli("calibrate", rows, "--model", "tail", "--no-track", *sure)
    assert told.code == 0, told.err
    assert "extrapolated by a generalised Pareto tail, without a guarantee" in " ".join(told.out.split())
    off = cli("calibrate", rows, "--model", "tail", "--no-track", "--no-tail", "--alarm-rate", "0.05", "--out", "off")
    assert off.code == 0, off.err
    assert "Pareto" not in off.out
    assert read_bundle(tmp_path / "off").manifest.calibration.tail is None


def test_discoveries_that_rest_on_a_tail_are_told_of(cli: Any, fitted: Bundle, rows: Path, tmp_path: Path) -> None:
    asked = ("--model", fitted.folder, "--no-track", "--alarm-rate", "0.0005", "--tail", "--out", "tail")
    assert cli("calibrate", rows, *asked).code == 0
    strange = sites(600, seed=4).to_pandas()
    strange.loc[:200, "temperature"] += 5000.0
    strange.to_parquet("new.parquet", index=False)
    for model, warned in (("tail", True), (fitted.folder, False)):
        told = cli("score", "new.parquet", "--model", model, "--fdr", "0.1", "--out", "answers.parquet")
        assert told.code == 0, told.err
        found = pq.read_table("answers.parquet").to_pandas()
        assert bool((found["alarm"] & found["tail"]).any()) is warned
        assert ("rest on p-values that are extrapolated" in told.err.replace("\n", " ")) is warned
