"""How much the order of steps says is found out on normal rows alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from anomvae.fitting import FitSettings
from anomvae.fitting.series_model import fit_series_model, keep_all_windows, refit_series_model
from anomvae.fitting.series_order import MOST_CELLS, _partners, judge_order, window_exemplars
from anomvae.fitting.series_preparation import TRAIN, prepare_series
from anomvae.training.loop import choose_device
from anomvae.training.settings import TrainingSettings

WINDOW = 16


def frame(values: np.ndarray, assets: int = 1) -> pd.DataFrame:
    n = len(values) // assets
    times = pd.Timestamp("2026-01-01") + pd.to_timedelta(np.arange(n).tolist() * assets, unit="s")
    names = [f"c{j}" for j in range(values.shape[1])]
    return pd.DataFrame(values, columns=names).assign(time=times, asset=np.repeat(np.arange(assets), n).astype(str))


def waves(n: int) -> np.ndarray:
    """A wave of changing pace, so that its phase is not that of the clock."""
    draw = np.random.default_rng(0)
    phase = np.cumsum(2 * np.pi / 12 * (1 + 0.1 * draw.normal(size=n)))
    return np.stack([np.sin(phase), np.cos(phase)], axis=1) + 0.05 * draw.normal(size=(n, 2))


def settings(**more: Any) -> FitSettings:
    chosen: dict[str, Any] = {"time": "time", "by": "asset", "window": WINDOW, "members": "window", **more}
    return FitSettings(name="s", training=TrainingSettings(max_steps=60), **chosen)


@pytest.fixture(scope="module")
def fitted() -> Any:
    chosen = settings()
    prepared = prepare_series(frame(waves(1_500)), chosen)
    return prepared, fit_series_model(prepared, chosen, choose_device("cpu")), chosen


def test_waves_are_known_by_their_order(fitted: Any) -> None:
    prepared, found, _ = fitted
    assert found.order.distance > 0.75
    assert found.order == judge_order(found.scorer, prepared, 0)
    x = 2 * found.order.distance - 1
    assert float(found.scorer.distance_weight) == pytest.approx(x / (1 - x) / len(found.scorer.scales), rel=1e-4)


def test_noise_has_no_order() -> None:
    chosen = settings()
    prepared = prepare_series(frame(np.random.default_rng(0).normal(size=(1_500, 2))), chosen)
    found = fit_series_model(prepared, chosen, choose_device("cpu"))
    assert abs(found.order.distance - 0.5) < 0.08
    assert float(found.scorer.distance_weight) < 0.1


def test_few_windows_are_not_asked() -> None:
    chosen = settings()
    prepared = prepare_series(frame(waves(120)), chosen)
    found = fit_series_model(prepared, chosen, choose_device("cpu"))
    assert tuple(found.order) == (0.5, 0.5)
    assert float(found.scorer.distance_weight) == 0


def test_windows_are_thinned_to_what_can_be_held_against(fitted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, found, _ = fitted
    whole = window_exemplars(prepared, found.scorer.preparation, WINDOW)
    assert len(whole) == len(prepared.windows(WINDOW, TRAIN, whole=True))
    assert whole.stored.numel() <= MOST_CELLS
    monkeypatch.setattr("anomvae.fitting.series_order.MOST_CELLS", 10 * WINDOW * 2)
    assert len(window_exemplars(prepared, found.scorer.preparation, WINDOW)) == 10


def test_the_kept_detector_holds_windows_against_those_that_calibrated_too(fitted: Any) -> None:
    prepared, found, chosen = fitted
    kept = keep_all_windows(prepared, found)
    refitted = refit_series_model(prepared, found, chosen, choose_device("cpu"))
    assert kept.exemplar_windows == refitted.exemplar_windows == 1_500 - WINDOW + 1 > found.exemplar_windows
    for name in ("distance_centre", "distance_weight", "weights", "scale_spread"):
        for other in (kept, refitted):
            assert (getattr(other.scorer, name) == getattr(found.scorer, name)).all()
    assert found.exemplar_windows == len(prepared.windows(WINDOW, TRAIN, whole=True))


def test_partners_are_of_the_same_asset_and_share_no_step_where_that_can_be() -> None:
    draw = np.random.default_rng(0)
    asset = np.array([0] * 50 + [1] * 5 + [2])
    start = np.concatenate([np.arange(50), 100 + np.arange(5), [200]])
    for _ in range(20):
        partner = _partners(asset, start, 16, draw)
        assert (asset[partner] == asset).all()
        assert (np.abs(start[partner] - start)[:50] >= 16).all()
        assert (np.abs(start[partner] - start)[50:55] == [4, 3, 2, 3, 4]).all()
        assert partner[55] == 55
