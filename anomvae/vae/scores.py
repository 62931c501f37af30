"""From raw rows to scores and what they consist of: deterministic, and the same whatever rows stand beside."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

from anomvae.vae.decoder import Decoded, row_sums
from anomvae.vae.gaussian import antithetic_noise

if TYPE_CHECKING:
    from anomvae.vae.model import TableVAE


class RowScores(NamedTuple):
    """Scores of n rows, all a graph answers before calibration.

    Attributes:
        score: Negative ELBO, nats, shape ``(n,)``; higher is stranger.
        reconstruction_error: Mean squared error in scaled units over the observed columns (categories: Brier), ``(n,)``.
        contribution: Nats each column adds, numbers then categories, shape ``(n, d + c)``.
        latent_contribution: Nats the latent adds, shape ``(n,)``; with `contribution` they sum to `score`.
        expected: What the decoder expects, raw units, shape ``(n, d)``.
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

    def forward(self, numeric: Tensor, categorical: Tensor) -> RowScores:
        """Scores rows.

        Args:
            numeric: Raw units, NaN where missing, float32, shape ``(n, d)``.
            categorical: Codes, int64, shape ``(n, c)``.
        """
        model = self.model
        rows = model.preparation(numeric, categorical)
        posterior = model.posterior(rows.features())
        at_mean = model.decode(posterior.mean[None])
        decoded = model.decode(posterior.at(self.noise)) if self.averages else at_mean
        terms = model.prior.terms(rows, posterior, decoded, model.likelihood)
        return RowScores(
            score=row_sums(terms.column) + terms.latent,
            reconstruction_error=model.likelihood.reconstruction_error(at_mean, rows),
            contribution=terms.column,
            latent_contribution=terms.latent,
            expected=self._expected(at_mean),
            expected_category=model.most_probable(at_mean),
            latent=posterior.mean,
        )

    def _expected(self, decoded: Decoded) -> Tensor:
        if not self.model.layout.d:
            return decoded.numeric[0]
        return self.model.preparation.raw(self.model.likelihood.numeric.mean(decoded.numeric[0]))
