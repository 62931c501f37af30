"""Fits that store exemplars: who is stored, who answers for whom, and what the calibration then promises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score

from anomvae.calibration import p_values
from anomvae.data.encoding import encode
from anomvae.fitting import FitSettings, fit_bundle
from anomvae.fitting.model import FittedModel, calibration_scores, fit_model
from anomvae.fitting.preparation import PreparedData, prepare
from anomvae.scoring import Scorer
from anomvae.scoring.session import GraphSession
from anomvae.training.settings import TrainingSettings
from anomvae.vae.exemplars import Exemplars
from anomvae.vae.gaussian import Gaussian
from anomvae.vae.objective import exemplar_prior
from anomvae.vae.scores import RowScorer
from anomvae.vae.settings import ModelSettings
from anomvae.vae.weights import from_files, to_files

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from anomvae.bundle import Bundle
    from anomvae.data.encoding import EncodedRows
    from anomvae.vae.model import TableVAE

    Floats = npt.NDArray[np.float32]

CPU = torch.device("cpu")
SHORT = TrainingSettings(max_steps=60, device="cpu")


def mixed_rows(n: int, seed: int = 0) -> pa.Table:
    """Correlated numbers with missing cells, repeated numbers, a flag, a category with missing cells, a time."""
    draw = np.random.default_rng(seed)
    load = draw.normal(size=n)
    flow = 30 + 4 * load + draw.normal(size=n)
    flow[draw.random(n) < 0.1] = np.nan
    grade = np.array(["fine", "coarse", "raw"])[(load > 0).astype(int) + (draw.random(n) < 0.2)].astype(object)
    grade[draw.random(n) < 0.1] = None
    return pa.table(
        {
            "load": load,
            "flow": pa.array(flow, from_pandas=True),
            "step": np.round(load * 2),
            "wet": draw.random(n) < 1 / (1 + np.exp(-3 * load)),
            "grade": pa.array(grade.tolist(), pa.string()),
            "when": pa.array(np.arange(n), pa.timestamp("s")),
        }
    )


def settings(exemplars: int | None = None, novelty: bool | None = None, **changes: object) -> FitSettings:
    given: dict[str, object] = {
        "alarm_rate": 0.05,
        "calibration": "split",
        "drop": () if "time" in changes else ("when",),
        "model": ModelSettings(layers=(16,), exemplars=exemplars, novelty=novelty),
        "training": SHORT,
    }
    return FitSettings(**{**given, **changes}).resolved()  # type: ignore[arg-type]


def fit(table: pa.Table, asked: FitSettings) -> tuple[PreparedData, FittedModel]:
    prepared = prepare(table, asked)
    return prepared, fit_model(prepared, asked, CPU)


def scored(fitted: FittedModel, rows: EncodedRows) -> Floats:
    """Scores of rows the model has never met."""
    with torch.no_grad():
        answer = RowScorer(fitted.model).eval()(torch.from_numpy(rows.numeric), torch.from_numpy(rows.categorical))
    found: Floats = answer.score.numpy()
    return found


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of fewer exemplars than rows."""
    return fit_bundle(mixed_rows(500), settings(exemplars=120), tmp_path_factory.mktemp("mixed") / "bundle").bundle


def loaded_model(bundle: Bundle) -> TableVAE:
    return from_files((bundle.folder / "weights.safetensors").read_bytes(), (bundle.folder / "config.json").read_text())


def answers(bundle: Bundle, rows: EncodedRows) -> dict[str, npt.NDArray[Any]]:
    """What the graph of a bundle answers."""
    session = GraphSession(bundle.graph, bundle.manifest.width)
    return dict(session.run(rows, session.outputs, None))


def probes() -> pa.Table:
    """Rows with cells missing, numbers far out, and categories never seen."""
    rows = mixed_rows(203, seed=5).to_pydict()
    rows["load"][:20] = [None] * 20
    rows["flow"][20:40] = [1e6] * 20
    rows["step"][40:60] = [0.123] * 20
    rows["grade"][60:80] = ["molten"] * 20
    rows["wet"][80:90] = [None] * 10
    rows["grade"][85:95] = [None] * 10
    return pa.table({**rows, "wet": pa.array(rows["wet"], pa.bool_()), "when": mixed_rows(203)["when"]})


def test_a_default_fit_stores_every_row_of_a_small_table_and_finds_malignant_tumours(tmp_path: Path) -> None:
    table, benign = load_breast_cancer(return_X_y=True)
    names = [f"feature {j}" for j in range(30)]
    normal = np.random.default_rng(0).permutation(table[benign == 1])
    known, rest = normal[:250], np.concatenate([normal[250:], table[benign == 0]])
    asked = FitSettings(alarm_rate=0.05, training=TrainingSettings(max_steps=300, device="cpu"))
    bundle = fit_bundle(pa.table(dict(zip(names, known.T, strict=True))), asked, tmp_path / "bundle").bundle
    manifest = bundle.manifest
    assert (manifest.prior, manifest.effort, manifest.private) == ("exemplars", "default", False)
    assert manifest.exemplars == 250
    score = Scorer(bundle).score(pa.table(dict(zip(names, rest.T, strict=True))))["score"].to_numpy()
    assert roc_auc_score(np.arange(len(rest)) >= 107, score) > 0.93  # 0.957 here, 0.952 with another seed


def test_rows_divided_at_random_let_calibration_rows_join_the_exemplars() -> None:
    prepared, fitted = fit(mixed_rows(500), settings(exemplars=120))
    split = prepared.split
    assert split.how == "random"
    parts = [fitted.exemplar_of[part] for part in (split.train, split.validation, split.calibration)]
    assert all((part >= 0).any() for part in parts)
    assert all(fitted.learnt[part].all() for part in (split.train, split.validation, split.calibration))
    known = np.concatenate(parts)
    assert sorted(known[known >= 0].tolist()) == list(range(120))
    assert exemplar_prior(fitted.model).rows == 120


def test_a_stored_row_scores_as_under_a_model_without_it() -> None:
    prepared, fitted = fit(mixed_rows(400), settings(exemplars=60, novelty=False))
    calibration = prepared.split.calibration
    score, error = fitted.score(prepared.normal, calibration)
    prior = exemplar_prior(fitted.model)
    kept = prior.stored
    plain = scored(fitted, prepared.normal.take(calibration))
    own = np.flatnonzero(fitted.exemplar_of[calibration] >= 0)
    assert len(own) > 3
    for place in own:
        others = torch.tensor([m for m in range(60) if m != fitted.exemplar_of[calibration[place]]])
        posterior = Gaussian(*(part[others] for part in kept.posterior))
        onehot = torch.zeros(59, len(prior.place))
        onehot[:, prior.matched] = kept.onehot[others]
        before = {name: value.clone() for name, value in prior.state_dict().items()}
        prior.store(Exemplars(posterior, kept.residual[others], onehot))
        row = prepared.normal.take(calibration[place : place + 1])
        without = scored(fitted, row)[0]
        for name in ("mean", "log_variance", "residual", "onehot"):
            setattr(prior, f"stored_{name}", before[f"stored_{name}"])
        prior.matched, prior.place = before["matched"], before["place"]
        assert score[place] == pytest.approx(without + np.log(60 / 59), rel=1e-4, abs=1e-3)
        assert score[place] > plain[place]
    rest = np.setdiff1d(np.arange(len(calibration)), own)
    np.testing.assert_allclose(score[rest], plain[rest], rtol=1e-5, atol=1e-5)
    assert np.isfinite(error).all()
    np.testing.assert_array_equal(calibration_scores(fitted, prepared)[0], score)


def test_scores_do_not_depend_on_which_rows_are_asked_for_together() -> None:
    prepared, fitted = fit(mixed_rows(400), settings(exemplars=60))
    everyone = np.arange(400)
    whole, _ = fitted.score(prepared.normal, everyone)
    backwards, _ = fitted.score(prepared.normal, everyone[::-1].copy())
    few, _ = fitted.score(prepared.normal, np.array([7, 250, 3, 3]))
    np.testing.assert_allclose(backwards[::-1], whole, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(few, whole[[7, 250, 3, 3]], rtol=1e-4, atol=1e-4)


def test_rows_divided_by_time_keep_calibration_rows_out_of_what_is_stored() -> None:
    prepared, fitted = fit(mixed_rows(400), settings(exemplars=1000, time="when"))
    split = prepared.split
    assert split.how == "time"
    for held_out in (split.calibration, split.validation):
        assert (fitted.exemplar_of[held_out] == -1).all()
        assert not fitted.learnt[held_out].any()
    assert sorted(fitted.exemplar_of[split.train].tolist()) == list(range(len(split.train)))
    assert fitted.learnt[split.train].all()
    found, _ = calibration_scores(fitted, prepared)
    np.testing.assert_array_equal(found, scored(fitted, prepared.normal.take(split.calibration)))


def gaussian_rows(n: int, seed: int) -> pa.Table:
    draw = np.random.default_rng(seed)
    base = draw.normal(size=(n, 2))
    columns = np.column_stack([base, base.sum(axis=1) + 0.3 * draw.normal(size=n), np.round(base[:, 0] * 2)])
    return pa.table({f"x{j}": column for j, column in enumerate(columns.T)})


@pytest.mark.parametrize("exemplars", [1000, 50], ids=["all", "few"])
def test_p_values_of_fresh_normal_rows_are_not_smaller_than_uniform(exemplars: int) -> None:
    """Over five tables the mean is 0.5 with a standard error of 0.29 / sqrt(5 * 120) = 0.012, the share at 0.1 one of 0.012."""
    means, shares = [], []
    for seed in range(5):
        prepared, fitted = fit(gaussian_rows(600, seed), settings(exemplars=exemplars, drop=()))
        assert prepared.split.how == "random"
        assert len(prepared.split.calibration) == 120
        calibration, _ = calibration_scores(fitted, prepared)
        fresh = scored(fitted, encode(gaussian_rows(2000, 100 + seed), prepared.columns))
        p = p_values(fresh, np.sort(calibration))
        means.append(p.mean())
        shares.append((p <= 0.1).mean())
    assert np.mean(means) > 0.5 - 3 * 0.012
    assert np.mean(shares) < 0.1 + 3 * 0.012
    assert np.mean(means) < 0.6  # nor so large that nothing would ever alarm
    assert np.mean(shares) > 0.03


def test_copies_of_a_stored_row_calibrate_as_fresh_copies_score() -> None:
    draw = np.random.default_rng(0)
    kinds = draw.normal(size=(40, 4)).round(1)

    def rows(seed: int) -> pa.Table:
        columns = kinds[np.random.default_rng(seed).integers(0, 40, 800)].T
        return pa.table({f"x{j}": column for j, column in enumerate(columns)})

    prepared, fitted = fit(rows(1), settings(exemplars=200, drop=()))
    assert exemplar_prior(fitted.model).rows == 40
    calibration, _ = calibration_scores(fitted, prepared)
    fresh = scored(fitted, encode(rows(2), prepared.columns))
    assert calibration.max() == pytest.approx(fresh.max(), rel=1e-3)


def test_a_table_whose_rows_are_all_alike_still_fits_and_finds_another_row() -> None:
    rows = pa.table({"x": [3.5] * 200, "kind": ["a"] * 200})
    prepared, fitted = fit(rows, settings(exemplars=50, drop=(), keep_constant=True))
    assert exemplar_prior(fitted.model).rows == 1
    calibration, error = calibration_scores(fitted, prepared)
    assert np.isfinite(calibration).all()
    assert np.abs(calibration).max() < 1e3
    assert np.isfinite(error).all()
    assert all(np.isfinite(check.train_loss) and abs(check.train_loss) < 1e6 for check in fitted.history.checks)
    other = pa.table({"x": [3.5, 9.0], "kind": ["b", "a"]})
    assert (scored(fitted, encode(other, prepared.columns)) > calibration.max()).all()


@pytest.mark.parametrize("effort", ["quick", "default", "best"])
def test_efforts_store_as_many_exemplars_as_they_say(effort: str) -> None:
    asked = FitSettings(
        alarm_rate=0.05,
        effort=effort,  # type: ignore[arg-type]
        model=ModelSettings(layers=(8,), novelty=False),
        training=TrainingSettings(max_steps=1, device="cpu"),
    ).resolved()
    columns = np.random.default_rng(0).normal(size=(2, 4500))
    _, fitted = fit(pa.table({"x": columns[0], "y": columns[1]}), asked)
    assert exemplar_prior(fitted.model).rows == {"quick": 350, "default": 1000, "best": 4000}[effort]
    assert (fitted.exemplar_of >= 0).sum() == exemplar_prior(fitted.model).rows


def test_the_same_data_and_seed_give_the_same_files_and_another_seed_others(mixed: Bundle, tmp_path: Path) -> None:
    again = fit_bundle(mixed_rows(500), settings(exemplars=120), tmp_path / "again").bundle
    seeded = settings(exemplars=120, training=TrainingSettings(max_steps=60, device="cpu", seed=1))
    other = fit_bundle(mixed_rows(500), seeded, tmp_path / "other").bundle
    for name in ("scorer.onnx", "weights.safetensors"):
        assert mixed.manifest.files[name] == again.manifest.files[name]
        assert mixed.manifest.files[name] != other.manifest.files[name]
    assert mixed.manifest.files["config.json"] == again.manifest.files["config.json"]


def test_weights_and_config_bring_back_the_model_with_all_it_stores(mixed: Bundle) -> None:
    prepared, fitted = fit(mixed_rows(500), settings(exemplars=120))
    files = to_files(fitted.model)
    weights, config = ((mixed.folder / name).read_bytes() for name in ("weights.safetensors", "config.json"))
    assert (weights, config) == (files["weights.safetensors"], files["config.json"])
    loaded = from_files(weights, config.decode())
    assert loaded.stored_sizes() == fitted.model.stored_sizes()
    assert loaded.stored_sizes().exemplars == 120
    rows = encode(probes(), prepared.columns)
    again = FittedModel(loaded, fitted.history, fitted.exemplar_of, fitted.learnt)
    np.testing.assert_array_equal(scored(again, rows), scored(fitted, rows))
    np.testing.assert_array_equal(calibration_scores(again, prepared)[0], calibration_scores(fitted, prepared)[0])


def test_the_graph_answers_as_the_model_whatever_a_row_lacks(mixed: Bundle) -> None:
    model = loaded_model(mixed)
    rows = encode(probes(), mixed.manifest.columns)
    with torch.no_grad():
        wanted = RowScorer(model)(torch.from_numpy(rows.numeric), torch.from_numpy(rows.categorical))
    found = answers(mixed, rows)
    nats = np.maximum(1.0, wanted.contribution.abs().amax(dim=1).numpy())
    for name in ("score", "latent_contribution"):
        assert (np.abs(found[name] - getattr(wanted, name).numpy()) / nats).max() < 1e-4
    assert (np.abs(found["contribution"] - wanted.contribution.numpy()) / nats[:, None]).max() < 1e-4
    np.testing.assert_allclose(found["latent"], wanted.latent, rtol=1e-4, atol=1e-4)
    ordinary = slice(40, None)  # far out, the exemplars' shares hang on the last digits of large sums
    np.testing.assert_allclose(found["expected"][ordinary], wanted.expected[ordinary], rtol=1e-3, atol=1e-2)
    assert (found["expected_category"] == wanted.expected_category.numpy()).mean() > 0.99
    total = found["contribution"].astype(float).sum(axis=1) + found["latent_contribution"]
    assert (np.abs(total - found["score"]) / nats).max() < 1e-4
    usual = found["score"][95:]
    assert np.median(found["score"][20:40]) > usual.max()
    assert (found["score"][60:80] > np.median(usual)).all()


def test_the_graph_scores_a_row_alone_to_the_last_bit_as_among_others(mixed: Bundle) -> None:
    rows = encode(probes(), mixed.manifest.columns)
    together = answers(mixed, rows)
    for i in range(0, 203, 7):
        alone = answers(mixed, rows.take(np.array([i])))
        for name in together:
            np.testing.assert_array_equal(alone[name][0], together[name][i], err_msg=name)


def test_a_private_fit_stores_no_exemplar_and_no_rare_value(tmp_path: Path) -> None:
    table = mixed_rows(500)
    steps = table["step"].to_numpy().copy()
    steps[3] = 77.25
    table = table.set_column(2, "step", pa.array(steps))
    bundle = fit_bundle(table, settings(private=True), tmp_path / "bundle").bundle
    assert (bundle.manifest.prior, bundle.manifest.exemplars, bundle.manifest.private) == ("pseudo-rows", 0, True)
    model = loaded_model(bundle)
    held = torch.cat([value.double().flatten() for value in model.state_dict().values()])
    assert not (held == 77.25).any()
    load = torch.from_numpy(table["load"].to_numpy().astype(np.float32)).double()
    assert not torch.isin(load, held).any()
    assert all(value.shape[:1] != (500,) for value in model.state_dict().values())
