"""From raw rows to scores and what they consist of: deterministic, and the same whatever rows stand beside."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from anomvae.vae.decoder import Decoded, row_sums
from anomvae.vae.exemplars import ExemplarPrior
from anomvae.vae.gaussian import antithetic_noise

if TYPE_CHECKING:
    from anomvae.vae.gaussian import Gaussian
    from anomvae.vae.model import TableVAE
    from anomvae.vae.preparation import Rows
    from anomvae.vae.prior import Terms


class RowScores(NamedTuple):
    """Scores of n rows, all a graph answers before calibration.

    Attributes:
        score: Negative ELBO (exemplars: estimate of -log p(x)), nats, shape ``(n,)``; higher is stranger.
        reconstruction_error: Mean squared error in scaled units over the observed columns (categories: Brier), ``(n,)``.
        contribution: Nats each column adds, numbers then categories, shape ``(n, d + c)``.
        latent_contribution: Nats the latent adds, shape ``(n,)``; with `contribution` they sum to `score`.
        expected: What the decoder, and the exemplars that answer for the row, expect, raw units, shape ``(n, d)``.
        expected_category: Most probable code of each category, int64, shape ``(n, c)``.
        latent: Posterior mean, shape ``(n, k)``.
    """

    score: Tensor
    reconstruction_error: Tensor
    contribution: Tensor
    latent_contribution: Tensor
    expected: Tensor
    expected_category: Tensor
    latent: Tensor


class RowScorer(nn.Module):
    """Scores raw rows.

    The expectation over z is taken at fixed antithetic draws, the same for every row, so that a score is a function of
    its row alone. Expected values and reconstruction error are those at the posterior mean.

    Args:
        model: A fitted model.
    """

    def __init__(self, model: TableVAE) -> None:
        super().__init__()
        self.model = model
        draws = model.settings.score_draws if model.settings.is_variational else 1
        self.averages = draws > 1
        self.noise: Tensor
        self.register_buffer("noise", antithetic_noise(draws, model.k)[:, None, :])

    def forward(
        self, numeric: Tensor, categorical: Tensor, own: Tensor | None = None, *, learnt: bool = False
    ) -> RowScores:
        """Scores rows.

        Args:
            numeric: Raw units, NaN where missing, float32, shape ``(n, d)``.
            categorical: Codes, int64, shape ``(n, c)``.
            own: Position of each row among the stored exemplars, -1 for none, int64, shape ``(n,)``: a row that is stored
                must not answer for itself.
            learnt: Whether the rows are among those that the seen values were learnt from: a value counts as seen
                only if another row holds it.
        """
        model = self.model
        rows, posterior, at_mean, terms = self._explained(numeric, categorical, own)
        score, column = terms.total(), terms.column
        if model.novelty is not None:
            novelty = model.novelty(numeric, categorical, own=learnt)
            score, column = score + row_sums(novelty), column + novelty
        return RowScores(
            score=score,
            reconstruction_error=model.likelihood.reconstruction_error(at_mean, rows, terms.carried, terms.mass),
            contribution=column,
            latent_contribution=terms.latent,
            expected=self._expected(at_mean, terms),
            expected_category=model.most_probable(at_mean.logits[0] if terms.mass is None else terms.mass),
            latent=posterior.mean,
        )

    def category_weights(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        """What the expected categories are the largest of: masses, or logits without exemplars; shape ``(n, K)``."""
        _, _, at_mean, terms = self._explained(numeric, categorical, None)
        return at_mean.logits[0] if terms.mass is None else terms.mass

    def _explained(
        self, numeric: Tensor, categorical: Tensor, own: Tensor | None
    ) -> tuple[Rows, Gaussian, Decoded, Terms]:
        model = self.model
        rows = model.preparation(numeric, categorical)
        posterior = model.posterior(rows.features())
        at_mean = model.decode(posterior.mean[None])
        decoded = model.decode(posterior.at(self.noise)) if self.averages else at_mean
        if own is not None and isinstance(model.prior, ExemplarPrior):
            is_own = own[:, None] == torch.arange(model.prior.rows, device=own.device)
            return rows, posterior, at_mean, model.prior.terms(rows, posterior, decoded, model.likelihood, is_own)
        return rows, posterior, at_mean, model.prior.terms(rows, posterior, decoded, model.likelihood)

    def _expected(self, decoded: Decoded, terms: Terms) -> Tensor:
        if not self.model.layout.d:
            return decoded.numeric[0]
        scaled = self.model.likelihood.numeric.mean(decoded.numeric[0])
        return self.model.preparation.raw(scaled if terms.carried is None else scaled + terms.carried)
