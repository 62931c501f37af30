"""What a fitted model makes of held-out rows: how much of the latent space it uses, and what relations between columns say."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from anomvae.vae.exemplars import ExemplarPrior
from anomvae.vae.gaussian import Gaussian, kl_from_standard
from anomvae.vae.independent import IndependentColumns
from anomvae.vae.mixture import PseudoRowPrior, divergences, log_mean_exp

if TYPE_CHECKING:
    from anomvae.vae.model import TableVAE
    from anomvae.vae.preparation import Rows

    Doubles = npt.NDArray[np.float64]

ACTIVE_VARIANCE = 0.01
DRAWS = 8
CHUNK = 512
TRIMMED = 0.05
LEAST_ROWS = 20


@dataclass(frozen=True, slots=True)
class LatentUse:
    r"""How a latent space is used, as means over held-out rows.

    Against a mixture of components :math:`q_m` the divergence of a row's posterior q is taken apart by the shares
    :math:`w_m` that the components have in explaining the row:

    .. math:: \sum_m w_m \sum_k KL_k(q \| q_m) + \sum_m w_m \log (M w_m)

    the second term being the nats that it takes to name the components. N(0, I) is one component, and has none.

    Attributes:
        kl: Divergence from the prior in each dimension, nats, shape ``(k,)``.
        choice: Nats that name the components.
        variance: Variance over rows of each dimension's posterior mean, in units of the variance of the prior's
            components (1 for N(0, I)), shape ``(k,)``.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), arXiv:1509.00519, for the active dimensions
    """

    kl: Doubles
    choice: float
    variance: Doubles

    @property
    def active(self) -> npt.NDArray[np.bool_]:
        """Dimensions whose posterior mean moves from row to row: its variance is above 0.01."""
        return np.asarray(self.variance > ACTIVE_VARIANCE)

    @property
    def total(self) -> float:
        """Mean divergence from the prior, nats."""
        return float(self.kl.sum()) + self.choice


@dataclass(frozen=True, slots=True)
class Relations:
    """What all columns together say beyond each on its own, on held-out rows.

    Attributes:
        fit: Mean bound of the fit, nats a row; never-seen values are left out of it.
        independent: Mean cost of the same rows with independent columns, nats.
        gain: How much less a row costs the fit: mean of the middle 90 % of differences, so that a few wild rows, whose
            nats have no limit, do not decide.
        error: Standard error of the gain.
        rows: How many rows.
    """

    fit: float
    independent: float
    gain: float
    error: float
    rows: int

    @property
    def help(self) -> bool:
        """Whether the fit explains rows better than independent columns do, by more than chance."""
        return self.gain > 2.0 * self.error

    @classmethod
    def of(cls, fit: Doubles, independent: Doubles) -> Relations | None:
        """Compares row by row.

        Args:
            fit: Cost of each row under the fit, nats, shape ``(n,)``.
            independent: The same with independent columns.

        Returns:
            None of fewer than 20 rows.

        References:
            Less vulnerable confidence and significance procedures for location based on a single sample: Trimming/
            Winsorization (Tukey and McLaughlin, 1963)
        """
        finite = np.isfinite(fit) & np.isfinite(independent)
        fit, independent = fit[finite], independent[finite]
        n = len(fit)
        if n < LEAST_ROWS:
            return None
        difference = np.sort(independent - fit)
        cut = int(TRIMMED * n)
        middle = difference[cut : n - cut]
        spread = float(np.clip(difference, middle[0], middle[-1]).std(ddof=1))
        error = spread / ((1.0 - 2.0 * cut / n) * math.sqrt(n))
        return cls(float(fit.mean()), float(independent.mean()), float(middle.mean()), error, n)


class Explained(NamedTuple):
    """Held-out rows under the model.

    Attributes:
        bound: Negative evidence lower bound of each row, nats, shape ``(n,)``; without what never-seen values add.
        latent: How the latent space is used.
    """

    bound: Doubles
    latent: LatentUse


@torch.no_grad()
def explain_rows(
    model: TableVAE,
    numeric: Tensor,
    categorical: Tensor,
    own: Tensor | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Explained:
    """Holds rows against the model and its prior.

    The expectation over z is taken at draws of the posterior, so that the answer bounds -log p(x) from above; the score
    takes the posterior mean, which is quicker and a little lower.

    Args:
        model: Fitted, on the CPU, variational.
        numeric: Raw units, NaN where missing, shape ``(n, d)``, n at least 1.
        categorical: Codes, shape ``(n, c)``.
        own: Position of each row among the stored exemplars, -1 for none, shape ``(n,)``: no row answers for itself.
        draws: Draws of z, in pairs of opposite sign; 1: the posterior mean alone.
        seed: Of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    bounds, means, kl, choice = [], [], torch.zeros(model.k, dtype=torch.float64), 0.0
    n = len(numeric)
    for start in range(0, n, CHUNK):
        part = slice(start, start + CHUNK)
        rows = model.preparation(numeric[part], categorical[part])
        posterior = model.posterior(rows.features())
        noise = _noise(draws, len(posterior.mean), model.k, generator)
        bound, share, components = _explain(model, rows, posterior, noise, None if own is None else own[part])
        bounds.append(bound.double())
        means.append(posterior.mean.double())
        if components is None:
            kl += kl_from_standard(_double(posterior)).sum(dim=0)
        else:
            share = share.double()
            kl += _shared_kl(_double(posterior), _double(components), share).sum(dim=0)
            choice += float(torch.xlogy(share, share * share.shape[1]).sum())
    variance = torch.cat(means).var(dim=0, unbiased=False) / _prior_variance(model)
    return Explained(torch.cat(bounds).numpy(), LatentUse((kl / n).numpy(), choice / n, variance.numpy()))


def has_density(model: TableVAE) -> bool:
    """Whether the model's bound is one of a density in scaled units, which independent columns can be held against.

    An autoencoder has no density, cross-entropy of numbers is none, and a variance fixed at 1 is no estimate of one.
    """
    numbers_have = not model.layout.d or model.settings.likelihood in ("gaussian", "student-t")
    return model.settings.is_variational and numbers_have


def compare_with_independent(
    model: TableVAE, bound: Doubles, held_out: tuple[Tensor, Tensor], train: tuple[Tensor, Tensor]
) -> Relations | None:
    """The fit beside independent columns, on the same rows.

    Args:
        model: Fitted.
        bound: Of the held-out rows; see :func:`explain_rows`.
        held_out: Numbers and codes of these rows.
        train: Numbers and codes of training rows, which independent columns are learnt from.

    Returns:
        None where there is nothing to compare: one column, few rows, or a model without a density.
    """
    if model.layout.d + model.layout.c < 2 or not has_density(model):  # noqa: PLR2004  one column has no relations
        return None
    return Relations.of(bound, IndependentColumns(model, *train).cost(*held_out).sum(axis=1))


def _noise(draws: int, n: int, k: int, generator: torch.Generator) -> Tensor:
    if draws <= 1:
        return torch.zeros(1, n, k)
    half = torch.randn(draws // 2, n, k, generator=generator)
    return torch.cat([half, -half])


def _explain(
    model: TableVAE, rows: Rows, posterior: Gaussian, noise: Tensor, own: Tensor | None
) -> tuple[Tensor, Tensor, Gaussian | None]:
    """The bound ``(n,)``, the shares of the prior's components ``(n, M)``, and these; None: one that is N(0, I)."""
    prior = model.prior
    if isinstance(prior, ExemplarPrior):
        return _explain_by_exemplars(model, prior, rows, posterior, noise, own)
    bound = model.terms(rows, posterior, posterior.at(noise)).total()
    if isinstance(prior, PseudoRowPrior):
        share = log_mean_exp(-divergences(posterior, prior.components))[1]
        return bound, share, prior.components
    return bound, torch.ones(len(bound), 1), None


def _explain_by_exemplars(
    model: TableVAE, prior: ExemplarPrior, rows: Rows, posterior: Gaussian, noise: Tensor, own: Tensor | None
) -> tuple[Tensor, Tensor, Gaussian]:
    """As :meth:`ExemplarPrior.explain`, but for the mean over draws of z inside the mixture, which makes it a bound."""
    is_own = None if own is None else own[:, None] == torch.arange(prior.rows)
    held = [
        prior.held_against(
            rows,
            posterior,
            model.decode(posterior.at(draw)[None]),
            model.likelihood,
            prior.stored,
            is_own,
            is_stored=True,
        )
        for draw in noise
    ]
    fit = torch.stack([part.fit for part in held]).mean(dim=0)
    constant = torch.stack([part.constant for part in held]).mean(dim=0)
    log_mean, share = log_mean_exp(fit)
    return constant - log_mean, share, prior.components(prior.stored)


def _shared_kl(posterior: Gaussian, components: Gaussian, share: Tensor) -> Tensor:
    """KL of posteriors from components in each dimension, mean under the components' shares, nats, shape ``(n, k)``."""
    precision = torch.exp(-components.log_variance)
    moments = (components.log_variance, precision, components.mean * precision, components.mean.square() * precision)
    log_variance, flat, first, second = (share @ moment for moment in moments)
    spread = (torch.exp(posterior.log_variance) + posterior.mean.square()) * flat
    return 0.5 * (log_variance - posterior.log_variance - 1.0 + spread - 2.0 * posterior.mean * first + second)


def _prior_variance(model: TableVAE) -> Tensor:
    """Geometric mean of the variances of the prior's components, shape ``(k,)``."""
    prior = model.prior
    if isinstance(prior, ExemplarPrior):
        return torch.exp(prior.components(prior.stored).log_variance.double().mean(dim=0))
    if isinstance(prior, PseudoRowPrior):
        return torch.exp(prior.components.log_variance.double().mean(dim=0))
    return torch.ones(model.k, dtype=torch.float64)


def _double(gaussian: Gaussian) -> Gaussian:
    return Gaussian(gaussian.mean.double(), gaussian.log_variance.double())
