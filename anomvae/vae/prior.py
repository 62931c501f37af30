"""The prior and what it makes of a row: one cost per column and one for the latent.

A prior is given the rows, their posterior and the decoder, and answers with the terms of the negative ELBO. N(0, I) takes
the columns as the decoder gives them; exemplars (:mod:`anomvae.vae.exemplars`) are edited instead, and need the same three.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from anomvae.vae.decoder import row_sums
from anomvae.vae.gaussian import Gaussian, kl_from_standard

if TYPE_CHECKING:
    from anomvae.vae.decoder import Decoded, RowLikelihood
    from anomvae.vae.preparation import Rows


class Terms(NamedTuple):
    """The negative ELBO of each row, term by term, in nats.

    Attributes:
        column: One cost per scored column, numbers then categories, shape ``(n, d + c)``.
        latent: Cost of the latent, shape ``(n,)``.
        score: Their sum, where the prior has it exactly, shape ``(n,)``; None: to be summed.
        carried: What exemplars add to the decoded numbers, scaled units, shape ``(n, d)``; None without.
        mass: Mass of each category's known values, exemplars included, shape ``(n, K)``; None: the decoder's own.
    """

    column: Tensor
    latent: Tensor
    score: Tensor | None = None
    carried: Tensor | None = None
    mass: Tensor | None = None

    def total(self) -> Tensor:
        """The score, nats, shape ``(n,)``."""
        return row_sums(self.column) + self.latent if self.score is None else self.score


class Prior(Protocol):
    """What a prior offers."""

    def terms(self, rows: Rows, posterior: Gaussian, decoded: Decoded, likelihood: RowLikelihood) -> Terms:
        """Terms of the negative ELBO.

        Args:
            rows: n prepared rows.
            posterior: Their approximate posteriors, shape ``(n, k)``.
            decoded: The decoder's answer at draws of z, shape ``(n, draws, ...)``.
            likelihood: Holds rows against a decoded answer.
        """

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws of z, shape ``(n, k)``."""


class StandardNormalPrior:
    """N(0, I): the textbook's.

    Args:
        k: Size of the latent space.
    """

    def __init__(self, k: int) -> None:
        self.k = k

    def terms(self, rows: Rows, posterior: Gaussian, decoded: Decoded, likelihood: RowLikelihood) -> Terms:
        """Mean cost of each column over the draws, and the KL from N(0, I) in closed form."""
        return Terms(likelihood.cost(decoded, rows).mean(dim=0), row_sums(kl_from_standard(posterior)))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws of N(0, I), shape ``(n, k)``."""
        return torch.randn(n, self.k, generator=generator)


class NoPrior:
    """A plain autoencoder's: the latent is a point and costs nothing.

    Args:
        k: Size of the latent space.
    """

    def __init__(self, k: int) -> None:
        self.k = k

    def terms(self, rows: Rows, posterior: Gaussian, decoded: Decoded, likelihood: RowLikelihood) -> Terms:
        """Mean cost of each column over the draws, and nothing for the latent."""
        return Terms(likelihood.cost(decoded, rows).mean(dim=0), torch.zeros_like(posterior.mean[:, 0]))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws of N(0, I): an autoencoder has no prior of its own to draw from; shape ``(n, k)``."""
        return torch.randn(n, self.k, generator=generator)
