"""The convolutional VAE of windows: its bound, its masks, its shapes."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from anomvae.vae.convolution import ConvolutionalVAE, ConvolutionSettings, gaussian_divergence

WINDOW, CHANNELS = 10, 3


@pytest.fixture
def network() -> ConvolutionalVAE:
    """Weights drawn from a seed; the last layer too, which begins as zeros."""
    torch.manual_seed(3)
    network = ConvolutionalVAE(CHANNELS, WINDOW, ConvolutionSettings(width=8, latent=2, piece=4))
    torch.nn.init.normal_(network.leave.weight)
    with torch.no_grad():
        network.log_deviation.copy_(torch.tensor([-0.5, 0.0, 0.4]))
    return network.eval()


def drawn(n: int = 5, share: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    """Values, 0 where missing, and masks."""
    torch.manual_seed(4)
    mask = (torch.rand(n, WINDOW, CHANNELS) > share).float()
    return torch.randn(n, WINDOW, CHANNELS) * mask, mask


def test_the_divergence_is_that_of_torch() -> None:
    torch.manual_seed(0)
    mean, log_variance = torch.randn(2, 7)
    wanted = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(gaussian_divergence(mean, log_variance), wanted)


def test_a_cells_cost_is_the_negative_log_likelihood_of_the_learnt_gaussian(network: ConvolutionalVAE) -> None:
    values, mask = drawn()
    told = network(values, mask)
    wanted = -Normal(told.mean, network.deviation.expand_as(told.mean)).log_prob(values) * mask  # type: ignore[no-untyped-call]
    torch.testing.assert_close(told.cost, wanted)


def test_the_divergence_of_the_pieces_is_shared_among_their_steps(network: ConvolutionalVAE) -> None:
    """Ten steps in pieces of four: the first piece is half filled up, and only its real steps count."""
    values, mask = drawn()
    told = network(values, mask)
    mean, log_variance = network.encode(values, mask)
    pieces = gaussian_divergence(mean, log_variance).sum(1)
    assert pieces.shape == (5, 3)
    wanted = torch.cat([pieces[:, :1].expand(5, 2), pieces[:, 1:2].expand(5, 4), pieces[:, 2:].expand(5, 4)], 1) / 4
    torch.testing.assert_close(told.divergence, wanted)


def test_what_is_hidden_or_missing_does_not_matter(network: ConvolutionalVAE) -> None:
    values, mask = drawn()
    other = network(torch.where(mask > 0, values, torch.full_like(values, 1e3)), mask)
    for one, same in zip(network(values, mask), other, strict=True):
        torch.testing.assert_close(one, same)
    assert (network(values, mask).cost[mask == 0] == 0).all()


def test_the_loss_at_the_mean_is_the_bound_that_scores(network: ConvolutionalVAE) -> None:
    values, mask = drawn()
    told = network(values, mask)
    loss = network.loss(values, mask, mask, torch.zeros(5, 2, 3))
    mean, log_variance = network.encode(values, mask)
    whole = told.cost.sum((1, 2)) + gaussian_divergence(mean, log_variance).sum((1, 2))
    torch.testing.assert_close(loss, whole.mean() / WINDOW)


def test_hidden_cells_still_count_in_the_loss(network: ConvolutionalVAE) -> None:
    values, mask = drawn()
    far = values.clone()
    far[:, 0, 0] += 10.0
    shown = mask.clone()
    shown[:, 0, 0] = 0.0
    noise = torch.zeros(5, 2, 3)
    everything = torch.ones_like(mask)
    assert network.loss(far, everything, shown, noise) > network.loss(values, everything, shown, noise) + 1.0


@pytest.mark.parametrize("window", [2, 3, 4, 5, 16, 33])
def test_any_window_goes_whatever_the_pieces(window: int) -> None:
    network = ConvolutionalVAE(1, window, ConvolutionSettings(width=4, latent=2, piece=4)).eval()
    for n in (0, 2):
        told = network(torch.zeros(n, window, 1), torch.ones(n, window, 1))
        assert told.mean.shape == told.cost.shape == (n, window, 1)
        assert told.divergence.shape == (n, window)
        assert told.latent.shape == (n, 2)


def test_a_window_is_explained_alone(network: ConvolutionalVAE) -> None:
    values, mask = drawn()
    together, alone = network(values, mask), network(values[2:3], mask[2:3])
    torch.testing.assert_close(together.cost[2:3], alone.cost)
    torch.testing.assert_close(together.divergence[2:3], alone.divergence)
