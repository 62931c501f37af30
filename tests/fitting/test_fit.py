from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

import anomvae
from anomvae.bundle import read_bundle
from anomvae.errors import ParityError
from anomvae.fitting import FitSettings, fit_bundle
from anomvae.scoring import Scorer
from anomvae.training.settings import TrainingSettings
from anomvae.vae.settings import ModelSettings

if TYPE_CHECKING:
    from pathlib import Path

    from anomvae.bundle import Bundle
    from anomvae.training.loop import Check


def machine_rows(n: int, seed: int = 0) -> pa.Table:
    draw = np.random.default_rng(seed)
    cause = draw.normal(size=n)
    return pa.table(
        {
            "speed": 1500 + 100 * cause + 5 * draw.normal(size=n),
            "torque": 40 - 8 * cause + draw.normal(size=n),
            "mode": [["slow", "fast"][int(value > 0)] for value in cause],
            "when": pa.array(np.arange(n), pa.timestamp("s")),
            "machine": [f"M{k % 12}" for k in range(n)],
        }
    )


def quick(**settings: Any) -> FitSettings:
    steps = settings.pop("max_steps", 120)
    return FitSettings(**{"alarm_rate": 0.05, "training": TrainingSettings(max_steps=steps), **settings})


def test_the_same_data_and_seed_give_the_same_weights_and_scores_to_the_last_bit(tmp_path: Path) -> None:
    rows = machine_rows(300)
    bundles = [fit_bundle(rows, quick(), tmp_path / name).bundle for name in ("one", "two")]
    weights = [load_file(bundle.folder / "weights.safetensors") for bundle in bundles]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    scores = [Scorer(bundle).score(rows) for bundle in bundles]
    assert scores[0].equals(scores[1])
    graphs = [bundle.graph.read_bytes() for bundle in bundles]
    assert graphs[0] == graphs[1]
    other = fit_bundle(rows, quick(training=TrainingSettings(max_steps=120, seed=1)), tmp_path / "three").bundle
    assert not torch.equal(
        load_file(other.folder / "weights.safetensors")["encoder.0.weight"], weights[0]["encoder.0.weight"]
    )


def test_the_bundle_holds_all_that_was_promised(fitted: Bundle) -> None:
    bundle = read_bundle(fitted.folder)
    assert set(bundle.manifest.files) == {
        "scorer.onnx",
        "weights.safetensors",
        "config.json",
        "training.json",
        "card.md",
        "report.html",
    }
    assert (fitted.folder / "report.html").stat().st_size < 2_000_000
    record = bundle.read_record()
    assert record.metrics["parity"] <= 1e-4
    assert len(set(map(len, record.curves.values()))) == 1
    assert record.parameters["training.seed"] == 0
    card = (fitted.folder / "card.md").read_text()
    assert bundle.manifest.prior == "exemplars"
    assert f"**This bundle holds training data**: {bundle.manifest.exemplars} normal rows are stored" in card
    assert "no training row is stored" not in card
    assert "`pressure`" in card or "| pressure |" in card


def test_by_time_the_latest_rows_calibrate_and_time_goes_along_unscored(tmp_path: Path) -> None:
    result = fit_bundle(machine_rows(300), quick(time="when"), tmp_path / "bundle")
    manifest = result.bundle.manifest
    assert (manifest.split.how, manifest.split.column) == ("time", "when")
    assert "when" in manifest.carried
    assert "when" not in [column.name for column in manifest.columns]


def test_by_group_no_group_is_in_two_parts(tmp_path: Path) -> None:
    result = fit_bundle(machine_rows(600), quick(by="machine"), tmp_path / "bundle")
    split = result.bundle.manifest.split
    assert split.how == "group"
    assert split.train % 50 == split.validation % 50 == split.calibration % 50 == 0


def test_labelled_anomalies_are_kept_out_of_training_and_evaluated(tmp_path: Path) -> None:
    rows = machine_rows(400)
    speed = rows["speed"].to_numpy().copy()
    speed[::20] += 800
    labelled = rows.set_column(0, "speed", pa.array(speed)).append_column(
        "fault", pa.array([int(k % 20 == 0) for k in range(400)])
    )
    result = fit_bundle(labelled, quick(label="fault", max_steps=400), tmp_path / "bundle")
    assert result.bundle.manifest.split.labelled == 20
    split = result.bundle.manifest.split
    assert (split.train, split.validation, split.calibration, split.folds) == (380, 380, 380, 5)
    assert result.evaluation is not None
    assert result.evaluation.auroc > 0.99
    assert result.bundle.read_record().evaluation["auroc"] == result.evaluation.auroc
    high = next(column.high for column in result.bundle.manifest.columns if column.name == "speed")
    assert high is not None
    assert high < 2000


@pytest.mark.parametrize(
    "model",
    [
        ModelSettings(kind="beta-vae", beta=0.5),
        ModelSettings(kind="autoencoder", likelihood="mse"),
        ModelSettings(kind="denoising-autoencoder"),
        ModelSettings(likelihood="bernoulli"),
        ModelSettings(likelihood="student-t", score_draws=4),
    ],
    ids=lambda model: f"{model.kind}-{model.likelihood}",
)
def test_every_kind_of_the_field_goes_all_the_way_to_a_bundle(tmp_path: Path, model: ModelSettings) -> None:
    result = fit_bundle(machine_rows(300), quick(model=model, max_steps=30), tmp_path / "bundle")
    answers = Scorer(result.bundle).score(machine_rows(50, seed=1))
    assert np.isfinite(answers["score"].to_numpy()).all()
    assert result.bundle.manifest.model == model.kind


def test_an_interrupt_keeps_the_best_weights_so_far_and_says_so(tmp_path: Path) -> None:
    class Impatient:
        def on_step(self, step: int, max_steps: int, rows: int) -> None:
            if step == 60:
                raise KeyboardInterrupt

        def on_check(self, check: Check) -> None:
            pass

    result = fit_bundle(machine_rows(300), quick(), tmp_path / "bundle", hooks=[Impatient()])
    assert result.history.stopped == "interrupted"
    assert any("interrupted" in warning for warning in result.warnings)
    assert read_bundle(tmp_path / "bundle").manifest.split.train > 0


def test_nothing_is_written_where_the_graph_does_not_answer_as_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anomvae.export.graph import export_graph

    def tampered(scorer: Any, *calibration: Any) -> bytes:
        with torch.no_grad():
            graph = export_graph(scorer, *calibration)
            scorer.model.decoder[0].bias.add_(0.5)
        return graph

    monkeypatch.setattr("anomvae.fitting.fit.export_graph", tampered)
    with pytest.raises(ParityError):
        fit_bundle(machine_rows(300), quick(max_steps=30), tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_expected_values_are_in_raw_units(tmp_path: Path) -> None:
    rows = machine_rows(600)
    bundle = fit_bundle(rows, quick(max_steps=600), tmp_path / "bundle").bundle
    detector = anomvae.load(bundle.folder)
    reasons = detector.score(rows.to_pandas(), top=5)["reasons"].explode()
    expected = np.array([reason["expected"] for reason in reasons if reason["column"] == "speed"])
    assert abs(expected.mean() - 1500) < 50
    assert np.corrcoef(expected, rows["speed"].to_numpy())[0, 1] > 0.9


def test_p_values_of_unseen_normal_rows_keep_the_stated_rate(tmp_path: Path) -> None:
    bundle = fit_bundle(machine_rows(2000), quick(max_steps=300), tmp_path / "bundle").bundle
    unseen = Scorer(bundle).score(machine_rows(4000, seed=9))
    assert unseen["alarm"].to_numpy().mean() < 0.09  # 400 calibration rows: Beta(20, 381), mean 0.05, deviation 0.011
    p = unseen["p_value"].to_numpy()
    assert abs(p.mean() - 0.5) < 0.03


def test_python_fits_saves_loads_and_scores_a_frame_with_its_index(tmp_path: Path) -> None:
    frame = machine_rows(300).to_pandas()
    detector = anomvae.fit(frame, name="machine", alarm_rate=0.05, training={"max_steps": 60}, drop=("machine",))
    assert "machine" in repr(detector)
    scored = detector.score(frame.iloc[10:20])
    assert list(scored.index) == list(range(10, 20))
    assert {"score", "p_value", "reconstruction_error", "p_value_reconstruction", "alarm", "reasons"} <= set(scored)
    again = anomvae.load(detector.save(tmp_path / "kept"))
    assert again.score(frame).drop(columns="reasons").equals(detector.score(frame).drop(columns="reasons"))
    parts = detector.contributions(frame)
    assert np.allclose(parts.sum(axis=1), detector.score(frame)["score"], rtol=1e-4, atol=1e-4)


def test_samples_interpolations_and_traversals_are_rows(tmp_path: Path) -> None:
    frame = machine_rows(400).to_pandas()
    detector = anomvae.fit(frame, alarm_rate=0.05, training={"max_steps": 500}, drop=["machine"])
    samples = detector.sample(200, seed=1)
    assert list(samples) == ["speed", "torque", "mode"]
    assert set(samples["mode"]) <= {"slow", "fast"}
    assert abs(samples["speed"].mean() - 1500) < 60
    assert samples.equals(detector.sample(200, seed=1))
    line = detector.interpolate(frame.iloc[[0]], frame.iloc[[1]], steps=5)
    assert line.shape == (5, 3)
    ends = detector.decode(detector.latent(frame.iloc[:2]))
    assert np.allclose(line["speed"].iloc[[0, -1]], ends["speed"], rtol=1e-5)
    assert detector.traverse(frame.iloc[[0]], 0).shape == (7, 3)


def test_a_record_of_the_run_is_plain_json(fitted: Bundle) -> None:
    raw = json.loads((fitted.folder / "training.json").read_text())
    assert all(isinstance(value, str | int | float | bool) for value in raw["parameters"].values())
