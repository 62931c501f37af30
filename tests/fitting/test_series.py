"""A fit of a series: parts in order of time, scaling by asset, the bundle it leaves, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from anomvae.bundle import Manifest, read_bundle
from anomvae.cli.check_series import check_series
from anomvae.errors import SchemaError, SettingError, TooFewRowsError
from anomvae.fitting.series import fit_series_bundle
from anomvae.fitting.series_model import calibration_rows, fit_series_model, row_steps
from anomvae.fitting.series_preparation import CALIBRATION, TRAIN, VALIDATION, prepare_series
from anomvae.fitting.settings import FitSettings, duration
from anomvae.training.loop import choose_device
from anomvae.training.settings import TrainingSettings
from tests.streamed import WINDOW, pump_table, pumps

if TYPE_CHECKING:
    from pathlib import Path


def asked(**settings: Any) -> FitSettings:
    """Settings of a fit that takes a moment."""
    usual = {"time": "when", "by": "machine", "window": WINDOW, "alarm_rate": 0.05}
    return FitSettings(**{"training": TrainingSettings(max_steps=5), **usual, **settings})


def with_column(table: pa.Table, name: str, cells: Any) -> pa.Table:
    if name not in table.column_names:
        return table.append_column(name, pa.array(cells))
    return table.set_column(table.column_names.index(name), name, pa.array(cells))


# --- parts and scaling


def test_the_earliest_steps_of_each_asset_train_and_the_latest_calibrate() -> None:
    prepared = prepare_series(pump_table(200), asked())
    for asset in (0, 1):
        part = prepared.part[prepared.sequences.asset == asset]
        assert (np.diff(part) >= 0).all()
        assert np.bincount(part).tolist() == [140, 20, 40]


def test_no_calibration_step_scales() -> None:
    table = pump_table(200)
    flow = table["flow"].to_numpy().copy()
    flow[160:200] += 1e6
    shifted = prepare_series(with_column(table, "flow", flow), asked())
    usual = prepare_series(table, asked())
    np.testing.assert_array_equal(shifted.centre, usual.centre)
    np.testing.assert_array_equal(shifted.spread, usual.spread)


def test_each_asset_has_a_scaling_of_its_own_and_the_last_is_of_all() -> None:
    prepared = prepare_series(pump_table(200), asked())
    known = prepared.part != CALIBRATION
    for asset in (0, 1):
        values = prepared.sequences.values[known & (prepared.sequences.asset == asset)].astype(float)
        np.testing.assert_allclose(prepared.centre[asset], values.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(prepared.spread[asset], values.std(axis=0), rtol=1e-5)
    np.testing.assert_allclose(prepared.centre[2], prepared.sequences.values[known].mean(axis=0), rtol=1e-5)


def test_a_channel_that_an_asset_never_told_is_scaled_as_of_all_assets() -> None:
    table = pump_table(200)
    heat = table["heat"].to_numpy().copy() + 1000.0
    heat[:200] = np.nan
    prepared = prepare_series(with_column(table, "heat", heat), asked())
    assert prepared.centre[0, 1] == pytest.approx(prepared.centre[2, 1])
    assert prepared.centre[0, 1] == pytest.approx(1000.0, abs=5.0)
    assert prepared.spread[0, 1] == pytest.approx(prepared.spread[2, 1])


def test_an_asset_of_few_rows_is_scaled_as_of_all_assets() -> None:
    prepared = prepare_series(pa.concat_tables([pump_table(200), pump_table(10, assets=("C",))]), asked())
    np.testing.assert_array_equal(prepared.centre[2], prepared.centre[3])


def test_a_channel_that_stood_still_in_one_asset_gets_a_tenth_of_what_is_usual() -> None:
    table = pump_table(200)
    heat = table["heat"].to_numpy().copy()
    heat[:200] = 4.0
    prepared = prepare_series(with_column(table, "heat", heat), asked())
    own = np.std(heat[200:360])
    assert prepared.spread[0, 1] == pytest.approx(0.1 * (own / 2), rel=0.05)  # the median of nothing and of its own
    assert (prepared.spread > 0).all()


def test_infinities_scale_nothing() -> None:
    table = pump_table(200)
    flow = table["flow"].to_numpy().copy()
    flow[[3, 50]] = np.inf, -np.inf
    prepared = prepare_series(with_column(table, "flow", flow), asked())
    assert np.isfinite(prepared.centre).all()
    assert prepared.spread[0, 0] < 2.0


def test_text_and_dates_are_left_out_and_flags_are_channels() -> None:
    table = with_column(pump_table(200), "note", ["x", "y"] * 200)
    table = with_column(table, "day", pa.array(range(400), pa.date32()))
    table = with_column(table, "open", [i % 7 < 3 for i in range(400)])
    prepared = prepare_series(table, asked())
    assert [column.name for column in prepared.columns] == ["flow", "heat", "open"]
    assert {"note", "day"} <= {column.name for column in prepared.schema.left_out}


def test_labelled_rows_are_left_out() -> None:
    table = with_column(pump_table(200), "fault", [int(i in (30, 31)) for i in range(400)])
    prepared = prepare_series(table, asked(label="fault"))
    assert prepared.labelled == 2
    assert len(prepared.steps(TRAIN)) + len(prepared.steps(VALIDATION)) + len(prepared.steps(CALIBRATION)) == 398


def test_windows_that_calibrate_hold_no_step_that_trained() -> None:
    prepared = prepare_series(pump_table(200), asked())
    fitted = fit_series_model(prepared, asked(), choose_device("cpu"))
    online, batch = calibration_rows(fitted, prepared, asked())
    assert len(online.score) == 2 * (40 - WINDOW + 1)
    assert len(batch.score) == 2 * 40
    assert online.group == ["A"] * 25 + ["B"] * 25


@pytest.mark.parametrize("course", ["counter", "rising level"])
def test_the_check_and_the_fit_warn_of_a_column_that_moves_on(
    course: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, said = pump_table(400), "'used' moves on (in 2 of 2 assets), as a counter or a drift does"
    usual = np.random.default_rng(0).normal(size=(2, 400))
    moving = np.cumsum(np.abs(usual), axis=1) if course == "counter" else usual + np.arange(400) * 0.1
    for column, times in ((usual, 0), (moving, 1)):
        data = with_column(table, "used", column.ravel())
        check_series(data, {"time": "when", "by": "machine", "window": WINDOW, "alarm_rate": 0.05})
        assert " ".join(capsys.readouterr().out.split()).count(said) == times
    made = fit_series_bundle(data, asked(members="row"), tmp_path / "pumps")
    assert [warning.startswith(said) for warning in made.warnings].count(True) == 1
    assert "leave it out (--drop used)" in (made.bundle.folder / "card.md").read_text()


# --- the bundle


@pytest.mark.parametrize(
    ("effort", "n", "steps"),
    [
        ("default", 100, 3_000),
        ("default", 16_000, 5_000),
        ("default", 10**6, 10_000),
        ("quick", 100, 600),
        ("best", 100, 8_000),
    ],
)
def test_long_series_take_more_training_steps(effort: str, n: int, steps: int) -> None:
    assert row_steps(FitSettings(effort=effort), n) == steps  # type: ignore[arg-type]


def test_the_manifest_says_how_rows_become_windows() -> None:
    manifest = pumps().manifest
    facts = manifest.series
    assert facts is not None
    assert manifest.kind == "series"
    assert (facts.time, facts.asset, facts.assets) == ("when", "machine", ("A", "B"))
    assert (facts.window, facts.stride, facts.step_s, facts.longest_gap) == (WINDOW, 1, 1.0, 2)
    assert manifest.calibration.rows == 2 * (120 - WINDOW + 1)
    assert facts.batch is not None
    assert facts.batch.rows == 240
    assert manifest.calibration.effective_rows is not None
    assert read_bundle(pumps().folder).manifest == manifest


def test_it_says_that_the_networks_kept_were_trained_on_all_steps(tmp_path: Path) -> None:
    """The manifest, the record, the card and the report of a fit with a hundred training steps a channel and more."""
    made = {
        how: fit_series_bundle(pump_table(200), asked(members="row", calibration=how), tmp_path / how)
        for how in ("auto", "split")
    }
    facts = {how: fit.bundle.manifest.series for how, fit in made.items()}
    assert [None if each is None else each.refitted_on for each in facts.values()] == [400, None]
    assert [fit.record.parameters["series.refitted_on"] for fit in made.values()] == [400, None]
    assert made["auto"].bundle.manifest.split == made["split"].bundle.manifest.split
    texts = {
        how: [(fit.bundle.folder / name).read_text() for name in ("card.md", "report.html")]
        for how, fit in made.items()
    }
    anew = [
        "The network that is kept was then trained on all 400 steps.",
        "a network that had not seen them; the one that is kept was then trained on all 400 steps",
    ]
    assert [words in text for words, text in zip(anew, texts["auto"], strict=True)] == [True, True]
    assert not any("was then trained" in text for text in texts["split"])
    assert "fitted on 400 normal steps" in texts["auto"][0]
    assert "fitted on 280 normal steps" in texts["split"][0]


def test_with_few_training_steps_a_channel_nothing_is_trained_anew(tmp_path: Path) -> None:
    facts = fit_series_bundle(
        pump_table(100), asked(members="row", alarm_rate=0.2), tmp_path / "few"
    ).bundle.manifest.series
    assert facts is not None
    assert facts.refitted_on is None


def test_a_bundle_from_before_says_nothing_of_a_refit() -> None:
    manifest = pumps().manifest
    raw = json.loads(manifest.to_json())
    assert raw["series"].pop("refitted_on") == 1200
    before = Manifest.from_json(json.dumps(raw)).series
    assert before is not None
    assert before.refitted_on is None


def test_a_column_that_looks_like_a_label_is_warned_of_unless_it_is_named(tmp_path: Path) -> None:
    table = with_column(pump_table(200), "is_fault", np.arange(400) % 100 == 3)
    fit = fit_series_bundle(table, asked(members="row"), tmp_path / "in")
    assert [words for words in fit.warnings if "looks like a label and marks 4 rows; name it with --label" in words]
    named = prepare_series(table, asked(label="is_fault"))
    assert not any("looks like a label" in concern.message for concern in named.concerns)


def test_a_condition_of_off_that_no_cell_can_answer_is_refused() -> None:
    table = with_column(pump_table(200), "state", ["secret", "other"] * 200)
    with pytest.raises(SettingError, match="compares 'state' with a number, and none of its cells"):
        prepare_series(table, asked(off="state < 10"))


def test_a_condition_of_off_that_always_holds_is_named() -> None:
    with pytest.raises(TooFewRowsError, match="--off 'flow > -100' holds in every row"):
        prepare_series(pump_table(200), asked(off="flow > -100"))
    with pytest.raises(TooFewRowsError, match=r"of 0 steps|of \d+ steps, --off left \d+ rows out; state a shorter"):
        prepare_series(pump_table(200), asked(off="heat > -2.5"))


def test_the_card_says_what_the_score_is_measured_in() -> None:
    card = (pumps().folder / "card.md").read_text()
    assert "windows of 16 steps of 1 s over 2 channels" in card
    assert "spreads of normal steps, not in nats" in card


def test_the_same_seed_gives_the_same_bundle(tmp_path: Path) -> None:
    made = [fit_series_bundle(pump_table(200), asked(), tmp_path / name).bundle for name in ("one", "two")]
    for name in ("scorer.onnx", "batch.onnx", "weights.safetensors", "row_weights.safetensors", "config.json"):
        assert made[0].manifest.files[name] == made[1].manifest.files[name], name
    one, two = (replace(bundle.manifest, files={}, provenance=pumps().manifest.provenance) for bundle in made)
    assert one == two
    other = asked(training=TrainingSettings(max_steps=5, seed=1))
    assert (
        fit_series_bundle(pump_table(200), other, tmp_path / "three").bundle.manifest.files["scorer.onnx"]
        != (made[0].manifest.files["scorer.onnx"])
    )


def test_rows_in_any_order_give_the_same_detector(tmp_path: Path) -> None:
    table = pump_table(200)
    mixed = np.random.default_rng(0).permutation(400)
    mixed = np.concatenate([[0], mixed[mixed > 0]])  # assets are numbered by who comes first
    made = [
        fit_series_bundle(rows, asked(members="window"), tmp_path / str(k)).bundle
        for k, rows in enumerate((table, table.take(pa.array(mixed))))
    ]
    assert made[0].manifest.files["scorer.onnx"] == made[1].manifest.files["scorer.onnx"]


@pytest.mark.parametrize("members", ["row", "window"])
def test_one_member_alone_is_a_detector_too(members: str, tmp_path: Path) -> None:
    bundle = fit_series_bundle(pump_table(200), asked(members=members), tmp_path / "one").bundle
    judges = {"row": ["row"], "window": ["window", "forecast"]}[members]
    assert json.loads((bundle.folder / "config.json").read_text())["members"] == judges
    assert (bundle.folder / "row_weights.safetensors").exists() == (members == "row")
    assert (bundle.manifest.exemplars > 0) == (members == "row")


# --- what is refused


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"window": 1}, "--window must be 2 to 4,096"),
        ({"stride": 17}, "--stride must be 1 to"),
        ({"time": None}, "takes --time too"),
        ({"private": True}, "--private is not for series"),
        ({"calibration": "cross"}, "a series must be split"),
        ({"every": "soon"}, "no length of time"),
        ({"members": "all"}, "members is 'all'"),
        ({"window": None, "stride": 2}, "stride belongs to series"),
        ({"window": None, "off": "flow < 1"}, "off belongs to series"),
        ({"window": None, "past_only": True}, "leave --past-only out"),
    ],
)
def test_settings_that_make_no_series_are_refused(settings: dict[str, Any], words: str) -> None:
    with (
        pytest.raises(SettingError, match=words)
        if settings != {"calibration": "cross"}
        else pytest.raises(SettingError)
    ):
        asked(**settings)


def test_lengths_of_time() -> None:
    assert [duration(text) for text in ("1s", "200ms", "5min", "0.5h", "1d")] == [1.0, 0.2, 300.0, 1800.0, 86400.0]
    with pytest.raises(SettingError, match="no length of time"):
        duration("0s")


def test_a_window_longer_than_what_trains_is_refused() -> None:
    with pytest.raises(TooFewRowsError, match="no stretch of training rows is as long as a window of 180 steps"):
        prepare_series(pump_table(200), asked(window=180))


def test_gaps_that_leave_no_window_to_calibrate_are_refused() -> None:
    table = pump_table(200, assets=("A",))
    when = np.arange(200.0)
    when[158:] += 100.0 * np.arange(42)
    with pytest.raises(TooFewRowsError, match="which calibrate: gaps cut them"):
        prepare_series(with_column(table, "when", when), asked(by=None, every="1s"))


def test_training_rows_without_any_value_are_refused() -> None:
    table = pump_table(200, assets=("A",))
    for name in ("flow", "heat"):
        cells = table[name].to_numpy().copy()
        cells[:150] = np.nan
        table = with_column(table, name, cells)
    with pytest.raises((TooFewRowsError, SchemaError), match=r"training rows hold no value|no column"):
        prepare_series(table, asked(by=None))


def test_validation_rows_without_any_value_leave_the_measuring_to_training_rows(tmp_path: Path) -> None:
    table = pump_table(200, assets=("A",))
    for name in ("flow", "heat"):
        cells = table[name].to_numpy().copy()
        cells[140:160] = np.nan
        table = with_column(table, name, cells)
    assert np.isfinite(fit_series_bundle(table, asked(by=None), tmp_path / "x").parity)


def test_a_table_without_a_channel_is_refused() -> None:
    table = with_column(pump_table(200).drop_columns(["flow", "heat"]), "note", ["x", "y"] * 200)
    with pytest.raises(SchemaError, match=r"at least one channel|no column"):
        prepare_series(table, asked())
