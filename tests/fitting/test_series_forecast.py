"""The forecast of a series is fitted, judged on unseen steps, and kept from saying what nobody checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from anomvae.fitting import FitSettings
from anomvae.fitting.series_forecast import LEAST_VARIANCE, _fewer, _Unseen, fit_forecast, order_of, refit_forecast
from anomvae.fitting.series_preparation import TRAIN, PreparedSeries, prepare_series

WINDOW = 16


def prepared(values: np.ndarray, assets: int = 1) -> PreparedSeries:
    n = len(values) // assets
    times = pd.Timestamp("2026-01-01") + pd.to_timedelta(np.arange(n).tolist() * assets, unit="s")
    frame = pd.DataFrame(values, columns=[f"c{j}" for j in range(values.shape[1])])
    frame = frame.assign(time=times, asset=np.repeat(np.arange(assets), n).astype(str))
    return prepare_series(frame, FitSettings(name="s", time="time", by="asset", window=WINDOW))


def forecast(values: np.ndarray, assets: int = 1) -> Any:
    series = prepared(values, assets)
    found = fit_forecast(series, series.preparation(), WINDOW)
    assert found is not None
    return found


def autoregressive(n: int, noise: float = 0.3) -> np.ndarray:
    """x_t = 1.6 x_(t-1) - 0.8 x_(t-2) + noise; y follows x a step later."""
    draw, x = np.random.default_rng(0), np.zeros(n)
    for t in range(2, n):
        x[t] = 1.6 * x[t - 1] - 0.8 * x[t - 2] + noise * draw.normal()
    return np.stack([x, np.roll(x, 1) + 0.1 * noise * draw.normal(size=n)], axis=1)


def test_a_smooth_channel_is_foretold_as_well_as_can_be() -> None:
    values = autoregressive(4_000)
    found = forecast(values)
    assert found.network.order == 4
    errors = np.sqrt(found.network.variance.numpy()) / values.std(axis=0) * 1.0
    assert found.explained > 0.9
    assert errors[1] < errors[0] < 0.5  # of what follows another channel there is less left to say


def test_noise_cannot_be_foretold() -> None:
    found = forecast(np.random.default_rng(0).normal(size=(4_000, 3)))
    assert found.explained < 0.02
    assert found.network.kernel.abs().max() < 0.1


def test_the_strength_is_the_one_that_foretells_unseen_steps_best() -> None:
    few = forecast(np.random.default_rng(0).normal(size=(400, 8)))
    assert few.strength >= 1.0  # 32 inputs and some hundred targets: nothing should be believed
    assert forecast(autoregressive(4_000, 1e-3)).strength < 1e-2


def test_a_forecast_is_never_surer_than_a_thousandth() -> None:
    there = np.ones((20, WINDOW, 1), dtype=np.bool_)
    unseen = _Unseen(np.ones((20, WINDOW, 1)), there, there[:, :, 0], 4)
    assert unseen.error(np.full((4, 1), 0.25), np.zeros(1)) == pytest.approx([LEAST_VARIANCE])
    assert unseen.without == pytest.approx([LEAST_VARIANCE])


def test_holes_do_not_spoil_the_forecast() -> None:
    values = autoregressive(4_000)
    values[np.random.default_rng(1).random(values.shape) < 0.05] = np.nan
    found = forecast(values)
    assert found.explained > 0.85


def test_without_steps_to_check_it_there_is_none() -> None:
    series = prepared(autoregressive(60))
    assert fit_forecast(series, series.preparation(), WINDOW) is None
    series = prepared(autoregressive(400))
    assert fit_forecast(series, series.preparation(), 1) is None
    assert order_of(64, 2_000) == 0


def test_fitted_again_it_is_as_sure_as_before_and_learns_from_all_steps() -> None:
    series = prepared(autoregressive(600)[:, :1])
    found = fit_forecast(series, series.preparation(), WINDOW)
    assert found is not None
    everything = series.all_for_training()
    again = refit_forecast(everything, everything.preparation(), WINDOW, found)
    assert again.strength == found.strength
    assert again.explained == found.explained
    torch.testing.assert_close(again.network.variance, found.network.variance)
    assert not torch.equal(again.network.kernel, found.network.kernel)
    alone = fit_forecast(
        everything, everything.preparation(), WINDOW
    )  # on all steps, of the strength that is best there
    assert alone is not None
    torch.testing.assert_close(again.network.kernel, alone.network.kernel, rtol=0, atol=0.02)


def test_the_same_steps_give_the_same_forecast() -> None:
    first, second = (forecast(autoregressive(1_000)) for _ in range(2))
    assert torch.equal(first.network.kernel, second.network.kernel)


def mixed(n: int = 4_000) -> np.ndarray:
    """A smooth channel, and three of noise."""
    smooth = np.sin(np.cumsum(0.2 + 0.01 * np.random.default_rng(3).normal(size=n)))
    return np.concatenate([smooth[:, None], np.random.default_rng(1).normal(size=(n, 3))], axis=1)


def test_the_share_explained_is_the_mean_over_channels() -> None:
    assert forecast(mixed()).explained == pytest.approx(0.25, abs=0.03)


def test_a_channel_that_stands_still_in_validation_does_not_silence_the_others() -> None:
    values = np.stack([mixed()[:, 0], np.repeat(np.random.default_rng(2).integers(0, 2, 20), 200) * 1.0], axis=1)
    values[2_700:3_300, 1] = 1.0  # from 70 to 80 % validates
    found = forecast(values)
    assert found.explained > 0.4
    assert found.network.variance[1] > 1e-3  # as unsure as in training, where it switched


def test_a_channel_that_nobody_checked_is_as_unsure_as_it_is_wide() -> None:
    values = mixed()[:, :2]
    values[2_700:3_300, 1] = np.nan
    series = prepared(values)
    found = fit_forecast(series, series.preparation(), WINDOW)
    assert found is not None
    scaled, mask = series.preparation()(
        torch.from_numpy(series.windows(2_700, TRAIN, whole=True).encoded().series[:1]),
        torch.zeros(1, dtype=torch.int64),
    )
    assert found.network.variance[1].item() == pytest.approx(float(scaled[..., 1].square().mean()), rel=0.1)
    assert float(mask[..., 1].mean()) == 1.0


def test_steps_of_training_do_not_check_what_was_learnt_from_them() -> None:
    """Windows whose newest step validates look back into training, where a forecast of many inputs knows the noise by heart."""
    values = np.random.default_rng(0).normal(size=(420, 12))
    series = prepared(values)
    found = fit_forecast(series, series.preparation(), WINDOW)
    assert found is not None
    assert found.explained < 0.05


def test_assets_with_little_data_are_not_left_out() -> None:
    series = prepared(autoregressive(100 * 50), 50)
    windows = series.windows(WINDOW, TRAIN, whole=True)
    kept = _fewer(windows, 4)
    assert set(kept.sequences.sequence[kept.starts]) == set(windows.sequences.sequence[windows.starts])
    covered = np.unique(kept.starts[:, None] + np.arange(4, WINDOW))
    wanted = np.unique(windows.starts[:, None] + np.arange(4, WINDOW))
    np.testing.assert_array_equal(covered, wanted)


def test_a_smooth_channel_that_nobody_checked_is_as_unsure_as_it_is_wide_too() -> None:
    values = np.stack([mixed()[:, 1], mixed()[:, 0]], axis=1)
    values[2_700:3_300, 1] = np.nan
    found = forecast(values)
    assert found.network.variance[1] > 0.1  # its training steps are foretold ten times as well


def test_only_unseen_cells_count_and_of_them_those_with_a_whole_past() -> None:
    values, mask = np.zeros((200, 6, 1)), np.ones((200, 6, 1), dtype=np.bool_)
    values[:, 4], values[:, 5] = 3.0, 1.0
    nobody, zeros = np.zeros(1), np.zeros((4, 1))
    last = np.tile(np.arange(6) == 5, (200, 1))
    assert _Unseen(values, mask, last, 4).error(zeros, nobody) == pytest.approx([1.0], rel=1e-4)
    mask[100:, 2] = False
    values[100:, 5] = 7.0  # after a hole: checked by, were there no others
    assert _Unseen(values, mask, last, 4).error(zeros, nobody) == pytest.approx([1.0], rel=1e-4)
    mask[:, 2] = False
    assert _Unseen(values, mask, last, 4).error(zeros, nobody) == pytest.approx([25.0], rel=1e-4)


def test_a_slow_channel_with_holes_is_learnt_as_slow() -> None:
    slow = np.sin(np.arange(4_000) / 100)[:, None] + 0.001 * np.random.default_rng(0).normal(size=(4_000, 1))
    whole = forecast(slow).network.kernel.sum()
    slow[np.random.default_rng(1).random(slow.shape) < 0.3] = np.nan
    assert whole == pytest.approx(1.0, abs=0.02)
    assert forecast(slow).network.kernel.sum() == pytest.approx(1.0, abs=0.02)
