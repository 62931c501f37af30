from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from anomvae.bundle.promise import DECISIONS, rows_needed
from anomvae.calibration import Budget
from anomvae.calibration.calibrator import rows_it_takes
from anomvae.calibration.tail import MIN_ROWS as LEAST_TAIL_ROWS
from anomvae.errors import SettingError
from anomvae.fitting.settings import FitSettings, settings_from, settings_from_toml
from anomvae.training.settings import TrainingSettings
from anomvae.vae.settings import ModelSettings

if TYPE_CHECKING:
    from pathlib import Path

TOML = """
name = "press"
alarm_rate = 0.02
drop = ["batch", "shift"]

[columns]
code = "categorical"

[model]
kind = "beta-vae"
layers = [32, 16]
beta = 2

[training]
max_steps = 500
seed = 3
"""


def test_a_toml_file_says_it_all(tmp_path: Path) -> None:
    (tmp_path / "fit.toml").write_text(TOML)
    found = settings_from_toml(tmp_path / "fit.toml")
    assert found == FitSettings(
        name="press",
        alarm_rate=0.02,
        drop=("batch", "shift"),
        columns={"code": "categorical"},
        model=ModelSettings(kind="beta-vae", layers=(32, 16), beta=2.0),
        training=TrainingSettings(max_steps=500, seed=3),
    )


def test_flags_overrule_the_file_field_by_field(tmp_path: Path) -> None:
    (tmp_path / "fit.toml").write_text(TOML)
    overrides = {"name": "mill", "seed": 7, "alarm_rate": None, "drop": (), "columns": {"x": "omit"}, "device": "cpu"}
    found = settings_from_toml(tmp_path / "fit.toml", overrides)
    assert (found.name, found.alarm_rate, found.drop) == ("mill", 0.02, ("batch", "shift"))
    assert found.training == TrainingSettings(max_steps=500, seed=7, device="cpu")
    assert found.columns == {"code": "categorical", "x": "omit"}


@pytest.mark.parametrize("training", [{"max_steps": 100}, TrainingSettings(max_steps=100)])
def test_python_may_give_settings_as_tables_or_as_settings(training: Any) -> None:
    found = settings_from({}, {"training": training, "seed": 5, "model": {"latent": 2}})
    assert found.training == TrainingSettings(max_steps=100, seed=5)
    assert found.model.latent == 2


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[model]\nlatnet = 2", "did you mean 'latent'"),
        ("[training]\nmax_steps = 'many'", "training.max_steps has a value of the wrong type"),
        ("[model]\nkind = 'gan'", "must be one of vae, beta-vae"),
        ("[model]\nlayers = [0]", "widths of at least 1"),
        ("[model]\nkind = 'autoencoder'\nbeta = 2", "has none"),
        ("[columns]\nx = 'number'", "must be one of numeric"),
        ("alarm_rate = 2", "share of rows"),
        ("alarm_rate = true", "wrong type"),
        ("model = 3", "must be a table"),
        ("decision = 'coin'", "must be one of elbo"),
        ("name = '../evil'", "cannot name a model"),
        ("nonsense", "is no TOML"),
        ("[training]\ndevice = 'tpu'", "must be auto, cpu or cuda"),
        ("[training]\nthreads = 0", "above zero"),
        ("alarm_rate = 0", "share of rows"),
        ("alarm_rate = 1.0", "share of rows"),
        ("alarms_per_day = 5", "--alarms-per-day goes with --rows-per-day"),
        ("rows_per_day = 500", "--rows-per-day goes with --alarms-per-day"),
        ("alarm_rate = 0.1\nalarms_per_day = 5\nrows_per_day = 500", "both state the budget"),
        ("alarms_per_day = 500\nrows_per_day = 5", "fewer alarms than rows"),
        ("confidence = 1.0", "probability of at least 0.5 and below 1"),
        ("confidence = 95", "probability of at least 0.5 and below 1"),
        ("tail = 1", "tail has a value of the wrong type"),
        ("decision = 'either'", "must be one of elbo, reconstruction, both"),
        ("calibration = 'jackknife'", "calibration is 'jackknife'; it must be one of auto, cross, split"),
        ("calibration = 'cross'\ntime = 'at'", "later rows vouch for earlier ones"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(tmp_path: Path, toml: str, message: str) -> None:
    (tmp_path / "fit.toml").write_text(toml)
    with pytest.raises(SettingError, match=message):
        settings_from_toml(tmp_path / "fit.toml")


def test_a_missing_file_of_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="cannot be read"):
        settings_from_toml(tmp_path / "none.toml")


def test_the_prior_can_be_asked_for_by_name() -> None:
    assert settings_from({"model": {"prior": "normal"}}).model.prior == "normal"
    with pytest.raises(SettingError, match=r"model\.prior is 'flat'; it must be one of exemplars, pseudo-rows, normal"):
        settings_from({"model": {"prior": "flat"}})


def test_a_weighted_kl_is_a_plain_vaes_and_exemplars_are_counted_only_where_there_are_any() -> None:
    assert settings_from({"model": {"beta": 0.1}}).model.prior_in_force == "normal"
    assert settings_from({"model": {"beta": 1.0}}).model.prior_in_force == "exemplars"
    with pytest.raises(SettingError, match=r"model\.beta weighs the KL"):
        settings_from({"model": {"beta": 4.0, "prior": "exemplars"}})
    with pytest.raises(SettingError, match=r"model\.exemplars counts stored rows"):
        settings_from({"model": {"kind": "beta-vae", "exemplars": 50}})


def test_a_budget_may_be_stated_as_a_rate_or_as_alarms_a_day() -> None:
    assert FitSettings().budget == Budget(0.01)
    assert FitSettings(alarm_rate=0.02).budget == Budget(0.02)
    daily = settings_from({"alarms_per_day": 5, "rows_per_day": 1000, "confidence": 0.9})
    assert daily.budget == Budget(0.005, 5.0, 1000.0, 0.9)
    assert settings_from({"alarms_per_day": 5, "rows_per_day": 1000}, {"confidence": None}).budget.alarm_rate == 0.005


@pytest.mark.parametrize("decision", DECISIONS)
@pytest.mark.parametrize("rate", [0.3, 0.05, 0.01])
def test_the_least_rate_calibrates_on_as_many_rows_as_the_promise_takes(decision: Any, rate: float) -> None:
    plain = FitSettings(alarm_rate=rate, decision=decision)
    assert plain.least_rate == rate
    sure = FitSettings(alarm_rate=rate, decision=decision, confidence=0.9)
    needed = rows_it_takes(sure.budget, decision)
    assert rows_needed(sure.least_rate) >= needed > rows_needed(rate)


@pytest.mark.parametrize("more", [{}, {"confidence": 0.9}])
def test_a_tail_takes_no_more_rows_than_it_is_fitted_to(more: Any) -> None:
    assert rows_needed(FitSettings(alarm_rate=1e-5, tail=True, **more).least_rate) == LEAST_TAIL_ROWS
    assert FitSettings(alarm_rate=0.3, tail=True).least_rate == 0.3


def test_the_promise_is_part_of_the_digest() -> None:
    kinds: list[dict[str, Any]] = [
        {},
        {"alarm_rate": 0.02},
        {"alarms_per_day": 10.0, "rows_per_day": 1000.0},
        {"confidence": 0.9},
        {"tail": True},
        {"decision": "both"},
        {"calibration": "split"},
        {"by": "line"},
    ]
    assert len({FitSettings(**kind).digest for kind in kinds}) == len(kinds)
    assert FitSettings(confidence=0.9).digest == FitSettings(confidence=0.9).resolved().digest
