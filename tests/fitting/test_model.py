"""Cross-fitting of whole models: every row calibrates, and no network that scores a row has met it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from anomvae.calibration import p_values
from anomvae.data.encoding import EncodedRows, encode
from anomvae.fitting import FitSettings
from anomvae.fitting.model import FittedModel, calibration_scores, fit_model
from anomvae.fitting.preparation import PreparedData, prepare
from anomvae.training.settings import TrainingSettings
from anomvae.vae.objective import exemplar_prior
from anomvae.vae.scores import RowScorer, RowScores
from anomvae.vae.settings import ModelSettings
from tests.fitting.test_exemplar_fit import gaussian_rows, mixed_rows

if TYPE_CHECKING:
    from anomvae.vae.model import TableVAE

CPU = torch.device("cpu")
SHORT = TrainingSettings(max_steps=60, device="cpu")
ONE_CHECK = TrainingSettings(max_steps=24, device="cpu")
KINDS: dict[str, dict[str, Any]] = {
    "exemplars": {},
    "private": {"private": True},
    "beta-vae": {"model": {"kind": "beta-vae"}},
    "autoencoder": {"model": {"kind": "autoencoder"}},
    "denoising": {"model": {"kind": "denoising-autoencoder"}},
    "bernoulli": {"model": {"likelihood": "bernoulli"}},
    "mse": {"model": {"likelihood": "mse"}},
    "student-t": {"model": {"likelihood": "student-t"}},
    "averaged": {"model": {"prior": "normal", "score_draws": 4}},
}


def settings(training: TrainingSettings = SHORT, model: dict[str, Any] | None = None, **changes: Any) -> FitSettings:
    drop = ("when",) if changes.get("by") is None else ("when", "asset")
    given = {"alarm_rate": 0.05, "calibration": "cross", "drop": drop, **changes}
    return FitSettings(**given, model=ModelSettings(**{"layers": (16,), **(model or {})}), training=training).resolved()


def fit(table: pa.Table, asked: FitSettings) -> tuple[PreparedData, FittedModel]:
    prepared = prepare(table, asked)
    return prepared, fit_model(prepared, asked, CPU)


def answers_of(model: TableVAE, rows: EncodedRows, own: np.ndarray | None = None, *, learnt: bool = False) -> RowScores:
    with torch.no_grad():
        found: RowScores = RowScorer(model).eval()(
            torch.from_numpy(rows.numeric),
            torch.from_numpy(rows.categorical),
            None if own is None else torch.from_numpy(own),
            learnt=learnt,
        )
    return found


def folds_of(fitted: FittedModel) -> np.ndarray:
    assert fitted.folds is not None
    return fitted.folds


@pytest.fixture(scope="module")
def crossed() -> tuple[PreparedData, FittedModel]:
    """A model of fewer exemplars than rows."""
    return fit(mixed_rows(300), settings(model={"exemplars": 80}))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_calibrates_on_all_rows_by_networks_that_differ(kind: str) -> None:
    prepared, fitted = fit(mixed_rows(120), settings(**KINDS[kind]))
    score, error = calibration_scores(fitted, prepared)
    assert len(fitted.fold_networks) == 5
    assert score.shape == error.shape == (120,)
    assert np.isfinite(score).all()
    assert np.isfinite(error).all()
    weights = [torch.cat([w.flatten() for w in each.encoder.parameters()]) for each in fitted.fold_networks]
    assert all(not torch.equal(weights[0], other) for other in weights[1:])
    assert not torch.equal(weights[0], torch.cat([w.flatten() for w in fitted.model.encoder.parameters()]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_that_scores_a_row_has_not_met_it(kind: str) -> None:
    """Another row in its place changes all other networks, and neither its own nor, where all rows are stored, its score."""
    asked = settings(ONE_CHECK, **{**KINDS[kind], "model": {**KINDS[kind].get("model", {}), "novelty": False}})
    prepared, fitted = fit(mixed_rows(120), asked)
    row, other = np.array([37]), np.array([4])
    normal = EncodedRows(prepared.normal.numeric.copy(), prepared.normal.categorical.copy())
    normal.numeric[37], normal.categorical[37] = 3.0 * normal.numeric[4], normal.categorical[4]
    again = fit_model(replace(prepared, normal=normal), asked, CPU)
    fold = folds_of(fitted)[37]
    for at, (before, after) in enumerate(zip(fitted.fold_networks, again.fold_networks, strict=True)):
        same = all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
        assert same == (at == fold)
    found, untouched = again.explain(prepared.normal.take(row), row), fitted.explain(prepared.normal.take(row), row)
    np.testing.assert_allclose(found["score"], untouched["score"], rtol=1e-5, atol=1e-5)
    if folds_of(fitted)[4] != fold:
        assert not np.array_equal(again.score(normal, other)[0], fitted.score(prepared.normal, other)[0])


def test_the_detector_stores_all_rows_and_its_fold_networks_the_same(crossed: tuple[PreparedData, FittedModel]) -> None:
    prepared, fitted = crossed
    assert fitted.learnt.all()
    stored = np.flatnonzero(fitted.exemplar_of >= 0)
    assert len(stored) == 80
    assert set(folds_of(fitted)[stored]) == set(range(5))
    places = fitted.exemplar_of[stored]
    for each in (fitted.model, *fitted.fold_networks):
        answers = answers_of(each, prepared.normal.take(stored))
        np.testing.assert_allclose(exemplar_prior(each).stored_mean[places], answers.latent, rtol=1e-4, atol=1e-5)
        assert each.novelty is fitted.model.novelty


def test_scores_are_those_of_the_network_of_the_fold_without_the_row(
    crossed: tuple[PreparedData, FittedModel],
) -> None:
    prepared, fitted = crossed
    score, error = fitted.score(prepared.normal, np.arange(300))
    for fold, network in enumerate(fitted.fold_networks):
        part = np.flatnonzero(folds_of(fitted) == fold)
        wanted = answers_of(network, prepared.normal.take(part), fitted.exemplar_of[part], learnt=True)
        np.testing.assert_allclose(score[part], wanted.score, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(error[part], wanted.reconstruction_error, rtol=1e-5, atol=1e-5)
    kept = np.flatnonzero(fitted.exemplar_of >= 0)
    assert (score[kept] > answers_of(fitted.model, prepared.normal.take(kept)).score.numpy()).mean() > 0.9


def test_all_answers_come_in_the_order_asked_for_and_agree_with_the_scores(
    crossed: tuple[PreparedData, FittedModel],
) -> None:
    prepared, fitted = crossed
    asked = np.array([250, 3, 3, 77, 120, 299, 0])
    found = fitted.explain(prepared.normal.take(asked), asked)
    assert set(found) == set(RowScores._fields)
    score, error = fitted.score(prepared.normal, asked)
    np.testing.assert_allclose(found["score"], score, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["reconstruction_error"], error, rtol=1e-5, atol=1e-5)
    total = found["contribution"].sum(axis=1) + found["latent_contribution"]
    np.testing.assert_allclose(total, score, rtol=1e-3, atol=1e-2)


def test_altered_rows_are_answered_in_the_place_of_those_they_were_made_from(
    crossed: tuple[PreparedData, FittedModel],
) -> None:
    prepared, fitted = crossed
    stored = np.flatnonzero(fitted.exemplar_of >= 0)[:6]
    rows = prepared.normal.take(np.repeat(stored, 2))
    rows.numeric[1::2, 0] += 1e-4  # a copy in all but name, which the stored row itself would explain
    of = np.repeat(stored, 2)
    found = fitted.explain(rows, of)["score"].reshape(-1, 2)
    np.testing.assert_allclose(found[:, 1], found[:, 0], rtol=1e-2, atol=2e-2)
    rows.numeric[1::2, 0] += 50.0
    far = fitted.explain(rows, of)["score"].reshape(-1, 2)
    np.testing.assert_allclose(far[:, 0], found[:, 0], rtol=1e-5, atol=1e-5)
    assert (far[:, 1] > found[:, 0] + 5.0).all()


def test_rows_that_the_model_does_not_know_are_answered_by_the_detector(
    crossed: tuple[PreparedData, FittedModel],
) -> None:
    prepared, fitted = crossed
    fresh = encode(mixed_rows(30, seed=3), prepared.columns)
    wanted = answers_of(fitted.model, fresh)
    found = fitted.explain(fresh)
    for name, value in wanted._asdict().items():
        np.testing.assert_array_equal(found[name], value.numpy())
    none = fitted.explain(fresh.take(slice(0, 0)))
    assert {name: value.shape[1:] for name, value in none.items()} == {n: v.shape[1:] for n, v in found.items()}
    assert len(none["score"]) == 0


def test_a_witness_has_not_met_the_rows_it_is_asked_of(crossed: tuple[PreparedData, FittedModel]) -> None:
    prepared, fitted = crossed
    network, unmet, own, met = fitted.witness(prepared.split)
    assert network is fitted.fold_networks[0]
    assert set(folds_of(fitted)[unmet]) == {0}
    assert sorted([*unmet, *met]) == list(range(300))
    np.testing.assert_array_equal(own, fitted.exemplar_of[unmet])
    prepared, held = fit(mixed_rows(300), settings(calibration="split"))
    network, unmet, own, met = held.witness(prepared.split)
    assert network is held.model
    np.testing.assert_array_equal(unmet, prepared.split.validation)
    np.testing.assert_array_equal(met, prepared.split.train)
    np.testing.assert_array_equal(own, held.exemplar_of[unmet])


def grouped_rows(n: int = 200) -> pa.Table:
    """Four assets, each with a setpoint of its own that its rows share."""
    draw = np.random.default_rng(0)
    asset = np.arange(n) % 4
    level = draw.normal(size=n)
    return pa.table(
        {
            "asset": pa.array([f"pump {a}" for a in asset]),
            "when": pa.array(np.arange(n), pa.timestamp("s")),
            "setpoint": np.array([0.1, 2.7, 5.3, 8.2])[asset],
            "level": level,
            "flow": 3 * level + 0.1 * draw.normal(size=n),
        }
    )


def test_small_groups_are_scored_as_groups_not_met_before() -> None:
    prepared, fitted = fit(grouped_rows(), settings(by="asset", alarm_rate=0.015))  # 66 rows to calibrate for itself
    folds, asset = folds_of(fitted), np.arange(200) % 4
    assert fitted.apart is not None
    assert fitted.apart.all()
    assert (fitted.exemplar_of >= 0).all()
    assert fitted.learnt.all()
    score, _ = calibration_scores(fitted, prepared)
    for fold, (network, trained) in enumerate(zip(fitted.apart_networks, fitted.fold_networks, strict=True)):
        part = np.flatnonzero(folds == fold)
        assert len(set(asset[part])) == 1
        assert exemplar_prior(network).rows == 150
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), trained.parameters(), strict=True))
        wanted = answers_of(network, prepared.normal.take(part))
        np.testing.assert_allclose(score[part], wanted.score, rtol=1e-5, atol=1e-5)
    network, unmet, own, met = fitted.witness(prepared.split)
    assert network is fitted.apart_networks[0]
    assert (own == -1).all()
    assert not set(asset[unmet]) & set(asset[met])
    at_random = fit(grouped_rows(), settings(drop=("when", "asset")))
    assert np.median(score) > np.median(calibration_scores(at_random[1], at_random[0])[0]) + 3.0


def test_groups_that_calibrate_for_themselves_are_scored_beside_their_own_and_small_ones_are_not() -> None:
    asset = np.array(["pump 0"] * 100 + ["pump 1"] * 70 + ["pump 2"] * 15 + ["pump 3"] * 15)
    rows = grouped_rows().set_column(0, "asset", pa.array(asset))
    prepared, fitted = fit(rows, settings(by="asset", alarm_rate=0.02, model={"novelty": False}))
    small = np.isin(asset, ["pump 2", "pump 3"])
    np.testing.assert_array_equal(fitted.apart, small)
    assert len(fitted.fold_networks) == len(fitted.apart_networks) == 5
    score, _ = calibration_scores(fitted, prepared)
    for fold in range(5):
        for networks, which, own in (
            (fitted.fold_networks, ~small, fitted.exemplar_of),
            (fitted.apart_networks, small, np.full(200, -1)),
        ):
            part = np.flatnonzero((folds_of(fitted) == fold) & which)
            wanted = answers_of(networks[fold], prepared.normal.take(part), own[part])
            np.testing.assert_allclose(score[part], wanted.score, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("exemplars", [1000, 50], ids=["all", "few"])
def test_stated_rates_are_kept_on_fresh_rows(exemplars: int) -> None:
    """Over six tables of 200 rows the mean p-value is 0.5 with a standard error of 0.29 / sqrt(1200) = 0.008."""
    means, shares = [], []
    for seed in range(6):
        asked = settings(drop=(), model={"exemplars": exemplars})
        prepared, fitted = fit(gaussian_rows(200, seed), asked)
        calibration, _ = calibration_scores(fitted, prepared)
        fresh = fitted.explain(encode(gaussian_rows(2000, 100 + seed), prepared.columns))["score"]
        p = p_values(fresh, np.sort(calibration))
        means.append(p.mean())
        shares.append((p <= 0.1).mean())
    assert 0.5 - 3 * 0.01 < np.mean(means) < 0.57
    assert 0.05 < np.mean(shares) < 0.1 + 3 * 0.012


def test_the_same_data_and_seed_give_the_same_scores_and_another_seed_others() -> None:
    found = [
        calibration_scores(fitted, prepared)[0]
        for prepared, fitted in (fit(mixed_rows(120), settings(replace(SHORT, seed=seed))) for seed in (0, 0, 1))
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.allclose(found[0], found[2])


def test_more_rows_than_steps_are_drawn_from_still_all_calibrate(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, most in (("MOST_TRAIN_ROWS", 100), ("MOST_CANDIDATES", 90), ("MOST_NOVELTY_ROWS", 80)):
        monkeypatch.setattr(f"anomvae.fitting.model.{name}", most)
    prepared, fitted = fit(mixed_rows(240), settings(model={"exemplars": 40}))
    score, _ = calibration_scores(fitted, prepared)
    assert score.shape == (240,)
    assert np.isfinite(score).all()
    assert (fitted.exemplar_of >= 0).sum() == 40
    assert fitted.learnt.sum() == 80
