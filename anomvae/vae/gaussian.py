"""Diagonal Gaussians: the approximate posterior, its draws and its divergences."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LOG_VARIANCE_RANGE = (-10.0, 5.0)


class Gaussian(NamedTuple):
    r"""A diagonal Gaussian :math:`N(\mu, \mathrm{diag}\,\sigma^2)`.

    Attributes:
        mean: Shape ``(..., k)``.
        log_variance: Shape ``(..., k)``.
    """

    mean: Tensor
    log_variance: Tensor

    def at(self, noise: Tensor) -> Tensor:
        r"""The reparameterisation trick: :math:`z = \mu + \sigma \epsilon`, differentiable in mean and variance.

        Args:
            noise: Draws of N(0, I), broadcastable to ``(..., k)``.

        References:
            Auto-Encoding Variational Bayes (Kingma and Welling, 2014), arXiv:1312.6114
        """
        return self.mean + torch.exp(0.5 * self.log_variance) * noise


def kl_divergence(q: Gaussian, p: Gaussian) -> Tensor:
    r"""Divergence of two diagonal Gaussians in closed form, one entry per dimension.

    .. math:: KL(q \| p) = \tfrac12 \Big( \log\sigma_p^2 - \log\sigma_q^2 - 1
              + \frac{\sigma_q^2 + (\mu_q - \mu_p)^2}{\sigma_p^2} \Big)

    Args:
        q: The first, shape ``(..., k)``.
        p: The second, broadcastable to it.

    Returns:
        Nats, shape ``(..., k)``; sum over the last axis for the joint divergence.

    Example:
        >>> q = Gaussian(torch.zeros(1, 2), torch.zeros(1, 2))
        >>> kl_divergence(q, q).sum().item()
        0.0
    """
    spread = torch.exp(q.log_variance - p.log_variance) + (q.mean - p.mean).square() * torch.exp(-p.log_variance)
    return 0.5 * (p.log_variance - q.log_variance - 1.0 + spread)


def kl_from_standard(q: Gaussian) -> Tensor:
    r"""Divergence :math:`KL(q \| N(0, I))` in closed form, nats, one entry per dimension, shape ``(..., k)``."""
    return 0.5 * (torch.exp(q.log_variance) + q.mean.square() - 1.0 - q.log_variance)


def antithetic_noise(draws: int, size: int, seed: int = 0) -> Tensor:
    """Fixed noise in pairs of opposite sign: the mean over it is exact for all that is odd in z.

    Args:
        draws: Number of draws; 1 gives the posterior mean itself (zero noise).
        size: Size of the latent space.
        seed: Seed of the draws.

    Returns:
        Shape ``(draws, size)``; sums to zero over the draws.
    """
    if draws <= 1:
        return torch.zeros(1, size)
    half = torch.randn(draws // 2, size, generator=torch.Generator().manual_seed(seed))
    half = half * (size / half.square().sum(dim=1, keepdim=True)).sqrt()  # on the typical shell: less variance
    return torch.cat([half, -half, torch.zeros(draws % 2, size)])
