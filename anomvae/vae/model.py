"""The model: preparation, encoder, decoder, likelihood and prior in one module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from anomvae.vae.decoder import Decoded, RowLikelihood, mlp
from anomvae.vae.gaussian import LOG_VARIANCE_RANGE, Gaussian
from anomvae.vae.preparation import Preparation
from anomvae.vae.prior import NoPrior, Prior, StandardNormalPrior, Terms

if TYPE_CHECKING:
    from anomvae.vae.layout import Layout, Scaling
    from anomvae.vae.preparation import Rows
    from anomvae.vae.settings import ModelSettings


class TableVAE(nn.Module):
    """A variational autoencoder of rows; with the settings of an autoencoder, one of those.

    Args:
        layout: Columns.
        settings: What is fitted.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014), arXiv:1312.6114
    """

    def __init__(self, layout: Layout, settings: ModelSettings) -> None:
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
        self.prior: Prior = StandardNormalPrior(self.k) if settings.is_variational else NoPrior(self.k)

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
        return numbers, self.most_probable(decoded)

    def most_probable(self, decoded: Decoded) -> Tensor:
        """Most probable code of each category at the first draw, int64, shape ``(n, c)``."""
        if not self.layout.c:
            return decoded.logits.new_zeros((decoded.logits.shape[1], 0), dtype=torch.int64)
        columns = torch.split(decoded.logits[0], list(self.layout.cardinalities), dim=1)
        # `shape`, not `len`: the exporter would take a length for a constant.
        none = decoded.logits.new_zeros(decoded.logits.shape[1], dtype=torch.int64)  # training saw only missing cells
        return torch.stack([column.argmax(dim=1) if column.shape[1] else none for column in columns], dim=1)
