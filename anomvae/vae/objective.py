"""What training minimises."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from anomvae.vae.model import TableVAE
    from anomvae.vae.preparation import Rows


class Noise(NamedTuple):
    """The random part of one step, drawn outside so that the objective itself is a function.

    Attributes:
        latent: N(0, I), shape ``(draws, n, k)``.
        numbers: N(0, 1) added to scaled numbers, shape ``(n, d)``; None without input noise.
        hidden: True where a cell is hidden from the encoder, shape ``(n, d + c)``; None without masking.
    """

    latent: Tensor
    numbers: Tensor | None = None
    hidden: Tensor | None = None


def draw_noise(model: TableVAE, n: int, generator: torch.Generator) -> Noise:
    """Draws what one step of n rows needs."""
    settings, layout, device = model.settings, model.layout, generator.device
    latent = torch.randn(1, n, model.k, generator=generator, device=device)
    numbers = hidden = None
    if settings.noise > 0 and layout.d:
        numbers = torch.randn(n, layout.d, generator=generator, device=device)
    if settings.mask_rate > 0:
        draws = torch.rand(n, layout.d + layout.c + 1, generator=generator, device=device)
        rate = settings.mask_rate * 2.0 * draws[:, :1]  # some rows lose many cells, some none
        hidden = draws[:, 1:] < rate
    return Noise(latent, numbers, hidden)


def objective(model: TableVAE, rows: Rows, noise: Noise) -> Tensor:
    r"""The negative ELBO with the KL weighted, mean over the rows, nats.

    .. math:: -\mathbb{E}_{q(z|\tilde x)} \log p(x_{obs} | z) + \beta\, KL(q(z|\tilde x) \| p(z))

    where :math:`\tilde x` is the row as the encoder sees it: with noise where it denoises, with cells hidden where it
    learns to do without. The row it is held against is the clean one. beta 1 is the VAE, other values the beta-VAE; an
    autoencoder has no KL and no noise on z.

    References:
        beta-VAE (Higgins et al., 2017); Extracting and Composing Robust Features with Denoising Autoencoders (Vincent
        et al., 2008)
    """
    posterior = model.posterior(corrupted(model, rows, noise).features())
    z = posterior.at(noise.latent) if model.settings.is_variational else posterior.mean[None]
    terms = model.terms(rows, posterior, z)
    return (terms.column.sum(dim=1) + model.settings.kl_weight * terms.latent).mean()


def corrupted(model: TableVAE, rows: Rows, noise: Noise) -> Rows:
    """Rows as the encoder sees them in training; missing cells stay missing."""
    if noise.numbers is not None:
        rows = rows._replace(x=rows.x + model.settings.noise * noise.numbers * rows.observed)
    if noise.hidden is None:
        return rows
    kept = (~noise.hidden).to(rows.x.dtype)
    seen, seen_categories = kept[:, : model.layout.d], kept[:, model.layout.d :]
    return rows._replace(
        x=rows.x * seen,
        observed=rows.observed * seen,
        onehot=rows.onehot * seen_categories.index_select(1, model.preparation.column_of),
        known=rows.known * seen_categories,
    )
