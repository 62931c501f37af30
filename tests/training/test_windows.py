"""Training of the convolutional VAE: windows gathered as they lie, cells hidden, the best weights kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anomvae.training.settings import TrainingSettings
from anomvae.training.windows import WindowLearner, WindowPool, train_windows
from anomvae.vae.convolution import ConvolutionalVAE, ConvolutionSettings
from anomvae.vae.series import SeriesPreparation

WINDOW = 8
SIZES = ConvolutionSettings(width=8, latent=2)


def make_pool(n: int = 120, seed: int = 0) -> WindowPool:
    draw = np.random.default_rng(seed)
    phase = np.arange(n) / 4
    values = np.stack([np.sin(phase), np.cos(phase)], axis=1) + 0.05 * draw.normal(size=(n, 2))
    values[5, 1] = np.nan
    asset = torch.from_numpy((np.arange(n) >= n // 2).astype(np.int64))
    preparation = SeriesPreparation(torch.tensor([[0.0, 0.0], [0.5, 0.5], [0.0, 0.0]]), torch.ones(3, 2))
    starts = torch.arange(n - WINDOW + 1)
    return WindowPool(torch.from_numpy(values.astype(np.float32)), asset, starts, WINDOW, preparation)


def test_windows_of_a_pool_are_the_steps_scaled_by_their_asset() -> None:
    pool = make_pool()
    values, mask = pool.take(torch.tensor([3, 100]))
    assert values.shape == mask.shape == (2, WINDOW, 2)
    assert mask[0, 2].tolist() == [1.0, 0.0]
    assert values[0, 2, 1] == 0.0
    torch.testing.assert_close(values[1], pool.values[100 : 100 + WINDOW])
    assert len(pool) == 113


def test_a_quarter_of_the_windows_is_shown_whole_and_of_the_others_a_share_is_hidden() -> None:
    pool = make_pool()
    learner = WindowLearner(ConvolutionalVAE(2, WINDOW, SIZES), pool, pool, TrainingSettings())
    shown = learner._shown(torch.Size((4_000, WINDOW, 2)))
    assert set(shown.flatten().tolist()) == {0.0, 1.0}
    assert shown.mean().item() == pytest.approx(1 - 0.3 * 3 / 4, abs=0.02)
    by_channel = shown.mean(1)
    assert ((by_channel == 0).any(1)).float().mean() > 0.1  # whole channels are hidden of some


def test_training_gains_and_keeps_the_best_weights() -> None:
    pool, held_out = make_pool(), make_pool(seed=1)
    settings = TrainingSettings(max_steps=150, batch_rows=16, learning_rate=5e-3)
    network, history = train_windows(pool, held_out, SIZES, settings)
    fresh = WindowLearner(ConvolutionalVAE(2, WINDOW, SIZES), pool, held_out, settings).bound()
    kept = WindowLearner(network, pool, held_out, settings).bound()
    assert kept < fresh - 0.3
    assert kept == pytest.approx(history.best.validation_loss, abs=1e-5)
    assert not network.training


def test_the_same_seed_trains_the_same_network_whatever_was_drawn_before() -> None:
    settings = TrainingSettings(max_steps=5, batch_rows=16, seed=3)
    found = []
    for draws in (0, 7):
        torch.rand(draws)
        found.append(train_windows(make_pool(), make_pool(seed=1), SIZES, settings)[0].state_dict())
    for name, tensor in found[0].items():
        assert torch.equal(tensor, found[1][name]), name
