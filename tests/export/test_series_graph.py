"""The graph of a series detector answers as the model does, on spoilt windows too, whatever comes with a window."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pytest
import torch

from anomvae.calibration import Budget, CalibrationRows, calibrate
from anomvae.data.windows import EncodedWindows
from anomvae.errors import ParityError
from anomvae.export.series_graph import check_series_parity, export_batch_calibration, export_rows, export_series
from anomvae.fitting.series_model import FittedSeries, fit_series_model
from anomvae.fitting.series_preparation import TRAIN, prepare_series
from anomvae.fitting.settings import FitSettings
from anomvae.scoring.series import MeanScores
from anomvae.scoring.session import GraphSession
from anomvae.training.loop import choose_device
from anomvae.training.settings import TrainingSettings
from anomvae.vae.series import SeriesScores
from tests.streamed import WINDOW, pump_table, pumps

RATE = 0.05


@cache
def model() -> tuple[FittedSeries, EncodedWindows]:
    """A model of both members, and its training windows."""
    training = TrainingSettings(max_steps=10)
    settings = FitSettings(time="when", by="machine", window=WINDOW, alarm_rate=RATE, training=training)
    prepared = prepare_series(pump_table(200), settings)
    windows = prepared.windows(WINDOW, TRAIN, whole=True).encoded()
    return fit_series_model(prepared, settings, choose_device("cpu")), windows


def tables(names: tuple[str, ...] = (), n: int = 200, seed: int = 0) -> CalibrationRows:
    """Scores without dependence; with names a table for each."""
    draw = np.random.default_rng(seed)
    group = [names[i % len(names)] for i in range(n)] if names else None
    return CalibrationRows(draw.normal(size=n), draw.gamma(2.0, size=n), group)


def spoilt(n: int = 40) -> EncodedWindows:
    """Windows with missing cells, steps and channels, far and infinite values, of known and unknown assets."""
    draw = np.random.default_rng(5)
    series = model()[1].series[:n].copy()
    dice = draw.random(series.shape)
    series[dice < 0.1] = np.nan
    series[dice > 0.98] *= 1e4
    series[dice > 0.995] = np.inf
    series[0], series[1, -1], series[2, :, 0], series[3, 4:9] = np.nan, np.nan, np.nan, np.nan
    series[4, -1] = (np.inf, -np.inf)
    return EncodedWindows(series, np.arange(n, dtype=np.int64) % 5 - 1)


@pytest.mark.parametrize("grouped", [False, True])
def test_the_graph_answers_as_the_model_does_on_spoilt_windows(grouped: bool) -> None:
    fitted, _ = model()
    made = calibrate(tables(("A", "B") if grouped else ()), Budget(RATE), by="machine" if grouped else None)
    session = GraphSession(export_series(fitted.scorer, made.tables, RATE))
    windows = spoilt()
    numbers = np.arange(len(windows), dtype=np.int64) % 4 - 1
    group = numbers if grouped else None
    found = session.run(EncodedWindows(windows.series, windows.asset, group), session.outputs)
    with torch.no_grad():
        wanted = fitted.scorer(torch.from_numpy(windows.series), torch.from_numpy(windows.asset))
    for name in SeriesScores._fields:
        tried, right = found[name].astype(float), getattr(wanted, name).numpy().astype(float)
        assert np.isfinite(tried).all(), name
        if name not in ("expected", "step_expected", "step_deviation"):
            scale = np.maximum(1.0, np.abs(right).reshape(len(windows), -1).max(axis=1))
            assert (np.abs(tried - right).reshape(len(windows), -1) / scale[:, None]).max() < 1e-4, name
    score, error = (found[name].astype(np.float32) for name in ("score", "reconstruction_error"))
    told = made.tables.verdicts(score, error, RATE, np.where(numbers < 0, 2, numbers) if grouped else None)
    np.testing.assert_array_equal(found["alarm"], told.alarm)
    np.testing.assert_allclose(found["p_value"].astype(float), told.p_value.astype(float), rtol=1e-6)
    if grouped:
        np.testing.assert_array_equal(found["pooled"], (numbers < 0) | (numbers >= 2))


def test_the_check_refuses_a_graph_of_another_model() -> None:
    fitted, windows = model()
    made = calibrate(tables(), Budget(RATE))
    graph = export_series(fitted.scorer, made.tables, RATE)
    assert check_series_parity(graph, fitted.scorer, made.tables, windows, RATE) < 1e-4
    before = fitted.scorer.scale_centre.clone()
    fitted.scorer.scale_centre += 0.01
    try:
        with pytest.raises(ParityError, match="differs from the model's"):
            check_series_parity(graph, fitted.scorer, made.tables, windows, RATE)
    finally:
        fitted.scorer.scale_centre.copy_(before)


def test_the_check_refuses_a_graph_of_single_steps_of_another_model() -> None:
    fitted, windows = model()
    made = calibrate(tables(), Budget(RATE))
    graph, rows_graph = export_series(fitted.scorer, made.tables, RATE), export_rows(fitted.scorer)
    assert check_series_parity(graph, fitted.scorer, made.tables, windows, RATE, rows_graph) < 1e-4
    centre = fitted.scorer.preparation.centre.clone()
    fitted.scorer.preparation.centre += 0.01
    try:
        other = export_rows(fitted.scorer)
    finally:
        fitted.scorer.preparation.centre.copy_(centre)
    with pytest.raises(ParityError, match="differs from the model's"):
        check_series_parity(graph, fitted.scorer, made.tables, windows, RATE, other)


def test_without_a_member_of_single_steps_there_is_no_graph_of_them() -> None:
    training = TrainingSettings(max_steps=10)
    settings = FitSettings(time="when", by="machine", window=4, alarm_rate=RATE, training=training, members="window")
    fitted = fit_series_model(prepare_series(pump_table(100), settings), settings, choose_device("cpu"))
    assert export_rows(fitted.scorer) is None
    session = GraphSession(export_series(fitted.scorer, calibrate(tables(), Budget(RATE)).tables, RATE))
    assert session.optional_inputs == {"asset", "alarm_rate"}


def test_inputs_and_outputs_are_those_of_the_contract() -> None:
    graph = onnx.load(pumps().graph)
    assert {entry.key: entry.value for entry in graph.metadata_props}["anomvae.kind"] == "series"
    session = GraphSession(pumps().graph)
    assert session.inputs == ("series",)
    assert session.optional_inputs == {"asset", "alarm_rate", "row_terms"}
    assert session.input_specs[0].shape == (-1, WINDOW, 2)
    shapes = {spec.name: spec.shape for spec in session.output_specs}
    assert shapes["score"] == (-1,)
    assert shapes["contribution"] == shapes["expected"] == (-1, 2)
    assert {"p_value", "p_value_reconstruction", "alarm", "tail", "latent_contribution", "step_score"} <= set(shapes)
    assert session.outputs[:2] == ("score", "reconstruction_error")


def test_the_reference_names_every_input_and_output() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reference.md").read_text(encoding="utf-8")
    session = GraphSession(pumps().graph)
    for name in (*session.inputs, *session.optional_inputs, *session.outputs):
        assert f"`{name}`" in text
    for name in pumps().manifest.files:
        assert f"`{name}`" in text


def test_an_asset_that_is_not_told_is_one_not_met_before() -> None:
    session = GraphSession(pumps().graph)
    windows = spoilt()
    import onnxruntime as ort

    raw = ort.InferenceSession(str(pumps().graph), providers=["CPUExecutionProvider"])
    told = session.run(EncodedWindows(windows.series, np.full(len(windows), 2)), ["score"])["score"].astype(float)
    np.testing.assert_allclose(raw.run(["score"], {"series": windows.series})[0], told, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n", [0, 1])
def test_calls_of_few_windows_and_of_none(n: int) -> None:
    session = GraphSession(pumps().graph)
    found = session.run(spoilt().take(slice(0, n)), session.outputs)
    assert found["score"].shape == found["alarm"].shape == (n,)
    assert found["step_contribution"].shape == (n, WINDOW, 2)


def test_a_score_does_not_depend_on_the_windows_beside_it() -> None:
    session, windows = GraphSession(pumps().graph), spoilt()
    wanted = ("score", "p_value", "reconstruction_error", "contribution", "step_score")
    together = session.run(windows, wanted)
    for size in (1, 3, 16):
        for start in range(0, len(windows), size):
            part = slice(start, start + size)
            for name, values in session.run(windows.take(part), wanted).items():
                np.testing.assert_array_equal(values, together[name][part], err_msg=name)


@pytest.mark.parametrize("decision", ["elbo", "both"])
def test_the_calibration_of_means_is_a_graph_of_its_own(decision: str) -> None:
    made = calibrate(tables(("A", "B")), Budget(RATE), decision=decision, by="machine")  # type: ignore[arg-type]
    session = GraphSession(export_batch_calibration(made.tables, RATE))
    draw = np.random.default_rng(1)
    score, error = draw.normal(size=(2, 50)).astype(np.float32) * 2
    group = np.arange(50, dtype=np.int64) % 3
    found = session.run(MeanScores(score, error, group), session.outputs)
    told = made.tables.verdicts(score, error, RATE, group)
    np.testing.assert_array_equal(found["score"], score)
    np.testing.assert_array_equal(found["alarm"], told.alarm)
    np.testing.assert_allclose(found["p_value"].astype(float), told.p_value.astype(float), rtol=1e-6)
    assert session.run(MeanScores(score, error, group), ["alarm"], alarm_rate=0.5)["alarm"].sum() > told.alarm.sum()
    assert session.run(MeanScores(score[:0], error[:0], group[:0]), ["alarm"])["alarm"].shape == (0,)


def test_what_is_expected_is_as_right_as_its_channel_is_wide() -> None:
    """Around nothing a channel of millions is expected to lie at a few hundred: a share of those is no measure."""
    values = 1e6 * np.random.default_rng(0).standard_cauchy((900, 12))
    table = pa.table({"when": pa.array(range(900), pa.timestamp("s")), **{f"c{j}": values[:, j] for j in range(12)}})
    settings = FitSettings(time="when", window=32, alarm_rate=0.1, training=TrainingSettings(max_steps=10))
    prepared = prepare_series(table, settings)
    fitted = fit_series_model(prepared, settings, choose_device("cpu"))
    made = calibrate(tables(), Budget(alarm_rate=RATE)).tables
    graph = export_series(fitted.scorer, made, RATE)
    windows = prepared.windows(32, TRAIN, whole=True).encoded()
    assert check_series_parity(graph, fitted.scorer, made, windows, RATE) <= 1e-4
