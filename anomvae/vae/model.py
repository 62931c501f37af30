"""The model: preparation, encoder, decoder, likelihood and prior in one module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from anomvae.vae.decoder import Decoded, RowLikelihood, mlp
from anomvae.vae.exemplars import ExemplarPrior
from anomvae.vae.gaussian import LOG_VARIANCE_RANGE, Gaussian
from anomvae.vae.mixture import PseudoRowPrior
from anomvae.vae.novelty import Novelty, NoveltySpec
from anomvae.vae.preparation import Preparation
from anomvae.vae.prior import NoPrior, Prior, StandardNormalPrior, Terms
from anomvae.vae.settings import PSEUDO_ROWS

if TYPE_CHECKING:
    from anomvae.vae.layout import Layout, Scaling
    from anomvae.vae.preparation import Rows
    from anomvae.vae.settings import ModelSettings


@dataclass(frozen=True, slots=True)
class StoredSizes:
    """Sizes of what a fitted model stores beside its weights.

    Attributes:
        exemplars: Rows stored.
        matches: Known values of categories that can be copied from them.
        novelty: Sizes of the tables of seen values; None without.
    """

    exemplars: int = 0
    matches: int = 0
    novelty: NoveltySpec | None = None


NOTHING_STORED = StoredSizes()


class TableVAE(nn.Module):
    """A variational autoencoder of rows; with the settings of an autoencoder, one of those.

    Args:
        layout: Columns.
        settings: What is fitted.
        stored: Sizes of what is stored beside the weights; none before a fit.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014), arXiv:1312.6114
    """

    def __init__(self, layout: Layout, settings: ModelSettings, stored: StoredSizes = NOTHING_STORED) -> None:
        super().__init__()
        self.layout, self.settings = layout, settings
        self.k = settings.latent_size(layout.d + layout.c)
        scaling: Scaling = "unit" if settings.likelihood == "bernoulli" else "standard"
        self.preparation = Preparation(layout, scaling)
        outputs = 2 * self.k if settings.is_variational else self.k
        widths = list(settings.layers)
        self.encoder = mlp([layout.n_features, *widths, outputs])
        self.decoder = mlp([self.k, *reversed(widths), layout.d + layout.n_onehot])
        self.likelihood = RowLikelihood(layout, settings, self.preparation.blocks)
        self.prior: Prior = self._prior(stored)
        self.novelty = None if stored.novelty is None else Novelty(layout, stored.novelty)

    def _prior(self, stored: StoredSizes) -> Prior:
        settings = self.settings
        if not settings.is_variational:
            return NoPrior(self.k)
        if settings.prior_in_force == "exemplars":
            return ExemplarPrior(self.layout, self.k, stored.exemplars, stored.matches)
        if settings.prior_in_force == "pseudo-rows":
            return PseudoRowPrior(self.k, self.layout.n_features, settings.exemplars or PSEUDO_ROWS)
        return StandardNormalPrior(self.k)

    def stored_sizes(self) -> StoredSizes:
        """Sizes of what is stored beside the weights."""
        novelty = None if self.novelty is None else self.novelty.spec
        if isinstance(self.prior, ExemplarPrior):
            return StoredSizes(self.prior.rows, len(self.prior.matched), novelty)
        return StoredSizes(novelty=novelty)

    def posterior(self, features: Tensor) -> Gaussian:
        """The approximate posterior of rows.

        Args:
            features: :meth:`Rows.features`, shape ``(n, f)``.

        Returns:
            Mean and log variance, shape ``(n, k)``; an autoencoder's variance is nil in all but name.
        """
        hidden = self.encoder(features)
        if not self.settings.is_variational:
            return Gaussian(hidden, torch.full_like(hidden, -torch.inf))
        mean, log_variance = hidden.chunk(2, dim=1)
        return Gaussian(mean, torch.clamp(log_variance, *LOG_VARIANCE_RANGE))

    def decode(self, z: Tensor) -> Decoded:
        """What the decoder expects at z, shape ``(draws, n, k)``."""
        answer = self.decoder(z)
        return Decoded(answer[..., : self.layout.d], answer[..., self.layout.d :])

    def terms(self, rows: Rows, posterior: Gaussian, z: Tensor) -> Terms:
        """Terms of the negative ELBO of rows, the expectation over z taken at draws.

        Args:
            rows: n prepared rows.
            posterior: Their posteriors, shape ``(n, k)``.
            z: Draws from them, shape ``(draws, n, k)``.
        """
        return self.prior.terms(rows, posterior, self.decode(z), self.likelihood)

    @torch.no_grad()
    def sample(self, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Rows drawn from the prior, noise of the likelihood left out.

        Args:
            n: How many.
            seed: Seed of the draw.

        Returns:
            Numbers in raw units ``(n, d)`` and category codes ``(n, c)``.
        """
        return self.decode_rows(self.prior.sample(n, torch.Generator().manual_seed(seed)))

    @torch.no_grad()
    def decode_rows(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Rows at points of the latent space: for samples, interpolations and traversals.

        Args:
            z: Shape ``(n, k)``.

        Returns:
            Numbers in raw units ``(n, d)`` and the most probable category codes ``(n, c)``.
        """
        decoded = self.decode(z[None])
        numbers = self.preparation.raw(self.likelihood.numeric.mean(decoded.numeric[0]))
        return numbers, self.most_probable(decoded.logits[0])

    def most_probable(self, weights: Tensor) -> Tensor:
        """Most probable code of each category, int64, shape ``(n, c)``.

        Args:
            weights: Logits or masses of the known values, shape ``(n, K)``.
        """
        if not self.layout.c:
            return weights.new_zeros((weights.shape[0], 0), dtype=torch.int64)
        columns = torch.split(weights, list(self.layout.cardinalities), dim=1)
        # `shape`, not `len`: the exporter would take a length for a constant.
        none = weights.new_zeros(weights.shape[0], dtype=torch.int64)  # training saw only missing cells
        return torch.stack([column.argmax(dim=1) if column.shape[1] else none for column in columns], dim=1)
