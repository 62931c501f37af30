"""A convolutional VAE of windows: dilated convolutions in, latents every few steps, dilated convolutions out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

LOG_TWO_PI = math.log(2.0 * math.pi)
LEAST_LOG_DEVIATION, MOST_LOG_DEVIATION = -4.0, 3.0
LEAST_LOG_VARIANCE, MOST_LOG_VARIANCE = -10.0, 5.0
KERNEL = 3


@dataclass(frozen=True, slots=True)
class ConvolutionSettings:
    """Sizes of the network.

    Attributes:
        width: Channels of the hidden layers.
        latent: Latent dimensions of each piece of a window.
        piece: Steps a piece.
        beta: Weight of the KL divergence in training.
    """

    width: int = 48
    latent: int = 6
    piece: int = 4
    beta: float = 1.0


class Reconstruction(NamedTuple):
    """What the network makes of windows.

    Attributes:
        mean: Expected values, shape ``(n, w, d)``.
        cost: Negative log likelihood of each observed cell, nats, 0 where missing, shape ``(n, w, d)``.
        divergence: KL divergence of each step's share of the latents, nats, shape ``(n, w)``.
        latent: Posterior mean of the newest piece, shape ``(n, k)``.
    """

    mean: Tensor
    cost: Tensor
    divergence: Tensor
    latent: Tensor


class _Block(nn.Module):
    """A residual block of one dilated convolution."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.across = nn.Conv1d(width, width, KERNEL, padding=dilation, dilation=dilation)
        self.mix = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.mix(nn.functional.silu(self.across(nn.functional.silu(x))))
        return x + mixed


class ConvolutionalVAE(nn.Module):
    """A VAE of windows with a learnt variance per channel and a masked ELBO.

    Encoder and decoder are stacks of residual blocks of dilated convolutions over time (temporal convolutional networks;
    within a window they look both ways). Each piece of a few steps has latents of its own, with the prior N(0, I). Cells
    that are missing, or hidden in training, are zero to the encoder, which sees the mask beside them; missing ones leave
    the likelihood.

    Args:
        channels: d.
        window: w.
        settings: Sizes.

    References:
        Temporal convolutional networks (Bai, Kolter, Koltun 2018), arXiv:1803.01271; VAE (Kingma, Welling 2014),
        arXiv:1312.6114.
    """

    def __init__(self, channels: int, window: int, settings: ConvolutionSettings) -> None:
        super().__init__()
        self.settings, self.window, self.channels = settings, window, channels
        piece, width = min(settings.piece, window), settings.width
        self.piece, self.pad = piece, -window % piece
        dilations = [1]
        while 2 * sum(dilations) < window // 2:
            dilations.append(2 * dilations[-1])
        self.enter = nn.Conv1d(2 * channels, width, 1)
        self.encoder = nn.Sequential(*(_Block(width, dilation) for dilation in dilations))
        self.down = nn.Conv1d(width, width, piece, stride=piece)
        self.posterior = nn.Conv1d(width, 2 * settings.latent, 1)
        self.up = nn.ConvTranspose1d(settings.latent, width, piece, stride=piece)
        self.decoder = nn.Sequential(*(_Block(width, dilation) for dilation in reversed(dilations)))
        self.leave = nn.Conv1d(width, channels, 1)
        nn.init.zeros_(self.leave.weight)
        self.log_deviation = nn.Parameter(torch.zeros(channels))

    def encode(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and log variance of the latents, each of shape ``(n, k, pieces)``.

        Args:
            values: Scaled, anything where hidden or missing, shape ``(n, w, d)``.
            mask: 1 where the encoder may look, else 0, shape ``(n, w, d)``.
        """
        seen = torch.cat([values * mask, mask], dim=2).transpose(1, 2)
        hidden = self.encoder(self.enter(nn.functional.pad(seen, (self.pad, 0))))
        hidden = self.posterior(nn.functional.silu(self.down(nn.functional.silu(hidden))))
        mean, log_variance = hidden.chunk(2, dim=1)
        return mean, log_variance.clamp(LEAST_LOG_VARIANCE, MOST_LOG_VARIANCE)

    def decode(self, latent: Tensor) -> Tensor:
        """Expected values, shape ``(n, w, d)``, of latents of shape ``(n, k, pieces)``."""
        hidden = self.decoder(self.up(latent))
        expected: Tensor = self.leave(nn.functional.silu(hidden)).transpose(1, 2)
        return expected[:, self.pad :]

    @property
    def deviation(self) -> Tensor:
        """Standard deviation of each channel, scaled units, shape ``(d,)``."""
        return self.log_deviation.clamp(LEAST_LOG_DEVIATION, MOST_LOG_DEVIATION).exp()

    def cost(self, values: Tensor, expected: Tensor) -> Tensor:
        """Negative log likelihood of each cell under a Gaussian, nats, shape ``(n, w, d)``."""
        log_deviation = self.log_deviation.clamp(LEAST_LOG_DEVIATION, MOST_LOG_DEVIATION)
        return 0.5 * ((values - expected) / log_deviation.exp()) ** 2 + log_deviation + 0.5 * LOG_TWO_PI

    def forward(self, values: Tensor, mask: Tensor) -> Reconstruction:
        """Explains windows at the posterior mean.

        Args:
            values: Scaled, 0 where missing, shape ``(n, w, d)``.
            mask: 1 where observed, else 0, shape ``(n, w, d)``.
        """
        mean, log_variance = self.encode(values, mask)
        expected = self.decode(mean)
        divergence = gaussian_divergence(mean, log_variance).sum(1)
        per_step = torch.repeat_interleave(divergence, self.piece, dim=1)[:, self.pad :] / self.piece
        return Reconstruction(expected, self.cost(values, expected) * mask, per_step, mean[:, :, -1])

    def loss(self, values: Tensor, observed: Tensor, shown: Tensor, noise: Tensor) -> Tensor:
        """Negative masked ELBO a step, nats, mean over windows.

        Args:
            values: Scaled, 0 where missing, shape ``(n, w, d)``.
            observed: 1 where there is a value, which counts, shape ``(n, w, d)``.
            shown: 1 where the encoder may look, shape ``(n, w, d)``.
            noise: Standard normal, shape ``(n, k, pieces)``.
        """
        mean, log_variance = self.encode(values, shown)
        expected = self.decode(mean + noise * (0.5 * log_variance).exp())
        divergence = gaussian_divergence(mean, log_variance).sum((1, 2))
        fit = (self.cost(values, expected) * observed).sum((1, 2))
        return (fit + self.settings.beta * divergence).mean() / self.window


def gaussian_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of N(mean, variance) from N(0, 1), elementwise, nats."""
    return 0.5 * (mean**2 + log_variance.exp() - 1.0 - log_variance)
