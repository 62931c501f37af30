from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

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
