"""Priors that are mixtures in the latent space: learnt pseudo-rows, and what they share with exemplars."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from anomvae.vae.decoder import row_sums
from anomvae.vae.gaussian import Gaussian
from anomvae.vae.prior import Terms

if TYPE_CHECKING:
    from anomvae.vae.decoder import Decoded, RowLikelihood
    from anomvae.vae.preparation import Rows

SPREAD_RANGE = (-1.0, 4.0)
PSEUDO_SPREAD = 0.5


def divergences(posterior: Gaussian, components: Gaussian) -> Tensor:
    r"""KL of every posterior from every component in closed form, as one matrix product.

    .. math:: KL_{im} = \tfrac12 \sum_k \Big( \log\lambda_{mk} - \log\sigma_{ik}^2 - 1
              + \frac{\sigma_{ik}^2 + \mu_{ik}^2 - 2 \mu_{ik} \mu_{mk} + \mu_{mk}^2}{\lambda_{mk}} \Big)

    Args:
        posterior: n of them, shape ``(n, k)``.
        components: M of them, shape ``(M, k)``.

    Returns:
        Nats, shape ``(n, M)``; at least 0.
    """
    return -closeness(posterior, components)


def closeness(posterior: Gaussian, components: Gaussian) -> Tensor:
    """The negative of :func:`divergences`; all sums lie in the product, since each step over ``(n, M)`` costs as much as it does."""
    precision = torch.exp(-components.log_variance)
    own = row_sums(posterior.log_variance + 1.0)[:, None]
    left = [torch.exp(posterior.log_variance) + posterior.mean.square(), posterior.mean, own, torch.ones_like(own)]
    of_component = (components.mean.square() * precision + components.log_variance).sum(dim=1, keepdim=True)
    right = [-0.5 * precision, components.mean * precision, torch.full_like(of_component, 0.5), -0.5 * of_component]
    return torch.clamp(torch.cat(left, dim=1) @ torch.cat(right, dim=1).T, max=0.0)


def log_mean_exp(x: Tensor) -> tuple[Tensor, Tensor]:
    """Log of the mean of exponentials over the columns of ``(n, M)``, and each column's share of it.

    Returns:
        Shape ``(n,)``; shares ``(n, M)``, which sum to 1.
    """
    top = x.amax(dim=1, keepdim=True)
    weight = torch.exp(x - top)
    total = row_sums(weight)
    return top[:, 0] + torch.log(total / x.shape[1]), weight * total.reciprocal()[:, None]


class PseudoRowPrior(nn.Module):
    r"""A mixture of the posteriors of learnt pseudo-rows: no row of the training data is kept.

    .. math:: p(z) = \frac1M \sum_m q(z | u_m), \quad
              KL(q \| p) \approx -\log \frac1M \sum_m \exp(-KL(q \| q(\cdot | u_m)))

    The pseudo-rows u start as noise and are fitted with the weights. The closed form on the right bounds the divergence
    from above (Hershey and Olsen, 2007), so the score stays a bound.

    Args:
        k: Size of the latent space.
        features: Width of the encoder's input.
        rows: M.

    References:
        VAE with a VampPrior (Tomczak and Welling, 2018), arXiv:1705.07120
    """

    def __init__(self, k: int, features: int, rows: int) -> None:
        super().__init__()
        self.k, self.rows = k, rows
        self.pseudo_rows = nn.Parameter(PSEUDO_SPREAD * torch.randn(rows, features))
        self.stored_mean: Tensor
        self.stored_log_variance: Tensor
        self.register_buffer("stored_mean", torch.zeros(rows, k))
        self.register_buffer("stored_log_variance", torch.zeros(rows, k))

    @property
    def components(self) -> Gaussian:
        """The posteriors of the pseudo-rows as last stored, shape ``(M, k)``."""
        return Gaussian(self.stored_mean, self.stored_log_variance)

    @torch.no_grad()
    def store(self, components: Gaussian) -> None:
        """Keeps the pseudo-rows' posteriors, so that scoring need not encode them."""
        self.stored_mean.copy_(components.mean)
        self.stored_log_variance.copy_(components.log_variance)

    def terms(
        self,
        rows: Rows,
        posterior: Gaussian,
        decoded: Decoded,
        likelihood: RowLikelihood,
        components: Gaussian | None = None,
    ) -> Terms:
        """Terms of the negative ELBO; `components` where training has just encoded the pseudo-rows."""
        divergence = divergences(posterior, self.components if components is None else components)
        column = likelihood.cost(decoded, rows).mean(dim=0)
        latent = -log_mean_exp(-divergence)[0]
        return Terms(column, latent)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws of z, shape ``(n, k)``."""
        return sample_mixture(self.components, n, generator)


def sample_mixture(components: Gaussian, n: int, generator: torch.Generator) -> Tensor:
    """Draws from an even mixture of Gaussians, shape ``(n, k)``."""
    picked = torch.randint(len(components.mean), (n,), generator=generator)
    noise = torch.randn(n, components.mean.shape[1], generator=generator)
    chosen = Gaussian(components.mean.index_select(0, picked), components.log_variance.index_select(0, picked))
    return chosen.at(noise)
