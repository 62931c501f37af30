"""What training minimises."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from anomvae.vae.exemplars import ExemplarPrior, Exemplars
from anomvae.vae.gaussian import Gaussian
from anomvae.vae.mixture import PseudoRowPrior

if TYPE_CHECKING:
    from anomvae.vae.model import TableVAE
    from anomvae.vae.preparation import Rows

SHRINKAGE = 1.0


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
    """The mean of :func:`objective_of_rows`, nats."""
    return objective_of_rows(model, rows, noise).mean()


def objective_of_rows(model: TableVAE, rows: Rows, noise: Noise) -> Tensor:
    r"""The negative ELBO of each row with the KL weighted, nats, shape ``(n,)``.

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
    if isinstance(model.prior, PseudoRowPrior):
        components = model.posterior(model.prior.pseudo_rows)
        terms = model.prior.terms(rows, posterior, model.decode(z), model.likelihood, components)
    else:
        terms = model.terms(rows, posterior, z)
    return terms.column.sum(dim=1) + model.settings.kl_weight * terms.latent


def shrinkage(model: TableVAE) -> Tensor:
    r"""Penalty that draws the columns' log variances together, nats: :math:`\sum_j (\log\sigma_j^2 - \overline{\log\sigma^2})^2`.

    A column that normal rows hardly vary in would otherwise drown all others.
    """
    return shrinkage_of(model.likelihood.log_variance())


def shrinkage_of(log_variance: Tensor) -> Tensor:
    """The same of log variances of shape ``(..., d)``; shape ``(...)``."""
    return SHRINKAGE * (log_variance - log_variance.mean(dim=-1, keepdim=True)).square().sum(dim=-1)


def exemplar_objective(model: TableVAE, rows: Rows, exemplars: Rows, own: Tensor, noise: Noise) -> Tensor:
    """The mean of :func:`exemplar_objective_of_rows`, nats."""
    return exemplar_objective_of_rows(model, rows, exemplars, own, noise).mean()


def exemplar_objective_of_rows(model: TableVAE, rows: Rows, exemplars: Rows, own: Tensor, noise: Noise) -> Tensor:
    """The score of each row against exemplars with both sides' z drawn, nats, shape ``(n,)``.

    Args:
        model: With an exemplar prior.
        rows: n rows.
        exemplars: E rows; none answers for itself.
        own: True where an exemplar is the row itself, shape ``(n, E)``.
        noise: For all n + E rows, the exemplars after the rows.
    """
    n = len(rows.observed)
    both = type(rows)(*(torch.cat(pair) for pair in zip(rows, exemplars, strict=True)))
    posterior = model.posterior(corrupted(model, both, noise).features())
    decoded = model.decode(posterior.at(noise.latent))
    left, right = Gaussian(*(part[:n] for part in posterior)), Gaussian(*(part[n:] for part in posterior))
    stored = Exemplars(right, (exemplars.x - decoded.numeric[0, n:]) * exemplars.observed, exemplars.onehot)
    prior = exemplar_prior(model)
    of_rows = type(decoded)(*(part[:, :n] for part in decoded))
    return prior.held_against(rows, left, of_rows, model.likelihood, stored, own).score()


def bound_of_rows(model: TableVAE, rows: Rows, exemplars: Exemplars) -> Tensor:
    """The score of each row against exemplars at its posterior mean, nats, shape ``(n,)``."""
    posterior = model.posterior(rows.features())
    decoded = model.decode(posterior.mean[None])
    return exemplar_prior(model).held_against(rows, posterior, decoded, model.likelihood, exemplars).score()


def encode_exemplars(model: TableVAE, rows: Rows) -> Exemplars:
    """Exemplars of rows, at posterior means."""
    posterior = model.posterior(rows.features())
    decoded = model.decode(posterior.mean[None])
    return Exemplars(posterior, (rows.x - decoded.numeric[0]) * rows.observed, rows.onehot)


def exemplar_prior(model: TableVAE) -> ExemplarPrior:
    """The model's prior, which must be one of exemplars."""
    if not isinstance(model.prior, ExemplarPrior):
        raise TypeError("the model has no exemplar prior")
    return model.prior


def store_pseudo_rows(model: TableVAE) -> None:
    """Keeps the posteriors of the pseudo-rows with the weights as they are; nothing under another prior."""
    if isinstance(model.prior, PseudoRowPrior):
        with torch.no_grad():
            model.prior.store(model.posterior(model.prior.pseudo_rows))


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
