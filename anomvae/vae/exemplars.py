"""The exemplar prior: a row is explained as an edit of a stored normal row."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from anomvae.vae.decoder import row_sums
from anomvae.vae.gaussian import Gaussian
from anomvae.vae.likelihoods import LOG_2PI
from anomvae.vae.mixture import SPREAD_RANGE, closeness, log_mean_exp, sample_mixture
from anomvae.vae.prior import Terms

if TYPE_CHECKING:
    from anomvae.vae.decoder import Decoded, RowLikelihood
    from anomvae.vae.layout import Layout
    from anomvae.vae.preparation import Rows

MOST_MATCHES = 512
"""Known values of categories that can be copied, the most frequent of the exemplars: a product this wide stays cheap."""
NOT_ITS_OWN = 1e30
WIDE = 16
CARRY_START = {False: -1.0, True: 1.0}
"""Where carries start, by whether the table is wide: from a VAE, or nearer to a kernel density, which few rows of many
columns bear better; training moves them."""


class Exemplars(NamedTuple):
    """Stored rows as the model sees them.

    Attributes:
        posterior: Of each, shape ``(M, k)``.
        residual: What the decoder leaves of its numbers, scaled units, zero where missing, shape ``(M, d)``.
        onehot: Its known categories, shape ``(M, K)``.
    """

    posterior: Gaussian
    residual: Tensor
    onehot: Tensor


class ExemplarPrior(nn.Module):
    r"""The mixture of the posteriors of M stored rows, with a decoder that carries or copies what it finds there.

    Given exemplar m, a number is explained by the decoder and a learnt share of the exemplar's own residual; a category is
    copied with a learnt probability or else drawn from the decoder's softmax s:

    .. math:: x_j \sim N(g_j(z) + \rho_j e_{mj}, \sigma_j^2), \quad
              p(x_j | m) = \kappa_j [x_j = x_{mj}] + (1 - \kappa_j) s_j(x_j | z)

    .. math:: \mathrm{score}(x) = -\log \frac1M \sum_m \exp\Big( -KL(q(z|x) \| q_m) + \sum_j \log p(x_j | z, m) \Big)

    with :math:`q_m = N(\mu_m, \lambda_m e^{b})` and z at the posterior mean: an estimate of -log p(x), not a strict
    bound. With rho = 0 it is a VAE whose prior is the aggregated posterior, with rho = 1 nearly a kernel density estimate
    in learnt units; training chooses per column. A column's term is its mean under the exemplars' responsibilities,
    and the latent has the rest, so that they sum to the score.

    Args:
        layout: Columns.
        k: Size of the latent space.
        rows: M; 0 before anything is stored.
        matches: How many of the categories' known values can be copied.

    References:
        Exemplar VAE (Norouzi et al., 2020), arXiv:2004.04795
    """

    def __init__(self, layout: Layout, k: int, rows: int = 0, matches: int = 0) -> None:
        super().__init__()
        self.k, self.layout = k, layout
        self.spread_logit = nn.Parameter(torch.full((k,), math.log(2.0)))
        start = CARRY_START[layout.d + layout.c >= WIDE]
        self.carry_logit = nn.Parameter(torch.full((layout.d,), start))
        self.copy_logit = nn.Parameter(torch.full((layout.c,), -1.0))
        self.stored_mean: Tensor
        self.stored_log_variance: Tensor
        self.stored_residual: Tensor
        self.stored_onehot: Tensor
        self.matched: Tensor
        for name, width in (("mean", k), ("log_variance", k), ("residual", layout.d), ("onehot", matches)):
            self.register_buffer(f"stored_{name}", torch.zeros(rows, width))
        self.register_buffer("matched", torch.zeros(matches, dtype=torch.int64))
        self.place: Tensor  # of each known value among those that can be copied; the last place is nobody's
        self.register_buffer("place", torch.full((layout.n_onehot,), matches, dtype=torch.int64))

    @property
    def rows(self) -> int:
        """Exemplars stored."""
        return self.stored_mean.shape[0]

    @property
    def spread(self) -> Tensor:
        """Log of the factor on the exemplars' posterior variances, shape ``(k,)``."""
        return torch.clamp(self.spread_logit, *SPREAD_RANGE)

    @property
    def carry(self) -> Tensor:
        """Share of an exemplar's residual that is carried over, 0 to 1, shape ``(d,)``."""
        return torch.sigmoid(self.carry_logit)

    @property
    def stored(self) -> Exemplars:
        """What is stored; its one-hots are those of `matched` alone."""
        return Exemplars(Gaussian(self.stored_mean, self.stored_log_variance), self.stored_residual, self.stored_onehot)

    def components(self, exemplars: Exemplars) -> Gaussian:
        """The mixture's components: the exemplars' posteriors, widened by the learnt spread, shape ``(M, k)``."""
        return exemplars.posterior._replace(log_variance=exemplars.posterior.log_variance + self.spread)

    @torch.no_grad()
    def store(self, exemplars: Exemplars) -> None:
        """Keeps exemplars; of their categories the values that most of them hold."""
        often = exemplars.onehot.sum(dim=0)
        kept = torch.argsort(often, descending=True, stable=True)[: min(MOST_MATCHES, int((often > 0).sum()))]
        self.matched = torch.sort(kept).values
        self.place = torch.full_like(self.place, len(kept))
        self.place[self.matched] = torch.arange(len(kept), device=kept.device)
        self.stored_mean, self.stored_log_variance = (part.clone() for part in exemplars.posterior)
        self.stored_residual = exemplars.residual.clone()
        self.stored_onehot = exemplars.onehot.index_select(1, self.matched)

    def terms(
        self,
        rows: Rows,
        posterior: Gaussian,
        decoded: Decoded,
        likelihood: RowLikelihood,
        own: Tensor | None = None,
    ) -> Terms:
        """Terms of the score against the stored exemplars; `own` as for :meth:`explain`."""
        return self.explain(rows, posterior, decoded, likelihood, self.stored, own, is_stored=True)

    def explain(  # noqa: PLR0913  what a row is and what it is held against
        self,
        rows: Rows,
        posterior: Gaussian,
        decoded: Decoded,
        likelihood: RowLikelihood,
        exemplars: Exemplars,
        own: Tensor | None = None,
        *,
        is_stored: bool = False,
    ) -> Terms:
        """Terms of the score against exemplars.

        Args:
            rows: n prepared rows.
            posterior: Their posteriors, shape ``(n, k)``.
            decoded: The decoder's answer, shape ``(1, n, ...)``.
            likelihood: Gaussian in numbers.
            exemplars: M of them.
            own: True where an exemplar is the row itself, shape ``(n, M)``: a row never answers for itself.
            is_stored: Whether `exemplars.onehot` holds only the values in `matched`.
        """
        found = self.held_against(rows, posterior, decoded, likelihood, exemplars, own, is_stored=is_stored)
        log_mean, share = log_mean_exp(found.fit)
        columns, carried, mass = [], None, None
        if found.numbers is not None:
            cost, carried = found.numbers.columns(share)
            columns.append(cost)
        if found.categories is not None:
            columns.append(found.categories.columns(share))
            mass = found.categories.probabilities(share)
        column = torch.cat(columns, dim=1)
        score = found.constant - log_mean
        return Terms(column, score - row_sums(column), score, carried, mass)

    def held_against(  # noqa: PLR0913  as for explain
        self,
        rows: Rows,
        posterior: Gaussian,
        decoded: Decoded,
        likelihood: RowLikelihood,
        exemplars: Exemplars,
        own: Tensor | None = None,
        *,
        is_stored: bool = False,
    ) -> Held:
        """What each exemplar makes of each row: the score before its columns are told apart; arguments as for :meth:`explain`."""
        numbers = categories = None
        fit = closeness(posterior, self.components(exemplars))
        constant = torch.zeros_like(posterior.mean[:, 0])
        if self.layout.d:
            numbers = _Numbers(self, rows, decoded, likelihood, exemplars)
            fit, constant = fit + numbers.fit(), constant + numbers.constant
        if self.layout.c:
            categories = _Categories(self, rows, decoded, likelihood, exemplars, is_stored)
            fit, constant = fit + categories.fit(), constant + categories.constant
        if own is not None:
            fit = torch.where(own, torch.full_like(fit, -NOT_ITS_OWN), fit)
        return Held(fit, constant, numbers, categories)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws of z from the exemplars' posteriors, shape ``(n, k)``."""
        return sample_mixture(self.components(self.stored), n, generator)


class Held(NamedTuple):
    """n rows held against M exemplars.

    Attributes:
        fit: What each exemplar adds to the log density, nats, shape ``(n, M)``.
        constant: What the decoder alone charges, nats, shape ``(n,)``.
        numbers: The numbers' part; None without.
        categories: The categories' part; None without.
    """

    fit: Tensor
    constant: Tensor
    numbers: _Numbers | None
    categories: _Categories | None

    def score(self) -> Tensor:
        """The score alone, nats, shape ``(n,)``: all that training needs."""
        return self.constant - log_mean_exp(self.fit)[0]


class _Numbers:
    """What the numbers of n rows cost against M exemplars; arguments as for :meth:`ExemplarPrior.explain`."""

    def __init__(
        self, prior: ExemplarPrior, rows: Rows, decoded: Decoded, likelihood: RowLikelihood, exemplars: Exemplars
    ) -> None:
        log_variance = likelihood.log_variance()
        self.precision = torch.exp(-log_variance)
        self.observed = rows.observed
        self.residual = (rows.x - decoded.numeric[0]) * rows.observed
        self.carried = prior.carry * exemplars.residual
        self.free = 0.5 * (self.residual.square() * self.precision + (log_variance + LOG_2PI) * rows.observed)
        self.constant = row_sums(self.free)

    def fit(self) -> Tensor:
        """Log likelihood that the exemplars add to the decoder's own, nats, shape ``(n, M)``: one matrix product."""
        left = torch.cat([self.residual, self.observed], dim=1)
        right = torch.cat([self.carried * self.precision, -0.5 * self.carried.square() * self.precision], dim=1)
        return left @ right.T

    def columns(self, share: Tensor) -> tuple[Tensor, Tensor]:
        """Cost per column under the exemplars' shares ``(n, M)``, nats, and what they add to the decoded; ``(n, d)`` each."""
        both = share @ torch.cat([self.carried, self.carried.square()], dim=1)
        first, second = both.chunk(2, dim=1)
        return self.free + self.precision * self.observed * (0.5 * second - self.residual * first), first


class _Categories:
    r"""What the categories of n rows cost against M exemplars; arguments as for :meth:`ExemplarPrior.explain`.

    With :math:`\delta = \log(1 + \kappa / ((1 - \kappa) s))` a match adds delta to the log mass of generating, so all
    columns are again one matrix product, of one-hots.
    """

    def __init__(
        self,
        prior: ExemplarPrior,
        rows: Rows,
        decoded: Decoded,
        likelihood: RowLikelihood,
        exemplars: Exemplars,
        is_stored: bool,
    ) -> None:
        self.blocks, self.exemplars = likelihood.categorical.blocks, exemplars
        self.copy = torch.sigmoid(prior.copy_logit)
        self.matched: Tensor | None = prior.matched if is_stored else None
        self.place: Tensor | None = prior.place if is_stored else None
        self.generated = likelihood.categorical.cost(decoded.logits, rows)[0]
        # delta from -log s, in a form that does not overflow: log(1 + exp(copy_logit - log s)).
        delta = functional.softplus(prior.copy_logit + self.generated) * rows.known
        self.free = self.generated + functional.softplus(prior.copy_logit) * (rows.known + rows.unknown)
        self.constant = row_sums(self.free)
        self.bonus = self._matched(rows.onehot * (delta @ self.blocks.T))
        self.categorical, self.logits = likelihood.categorical, decoded.logits[0]

    def _matched(self, wide: Tensor) -> Tensor:
        return wide if self.matched is None else wide.index_select(1, self.matched)

    def fit(self) -> Tensor:
        """Log mass that matches add, nats, shape ``(n, M)``."""
        return self.bonus @ self.exemplars.onehot.T

    def columns(self, share: Tensor) -> Tensor:
        """Cost per column under the exemplars' shares ``(n, M)``, nats, shape ``(n, c)``."""
        blocks = self.blocks if self.matched is None else self.blocks.index_select(0, self.matched)
        return self.free - (self.bonus * (share @ self.exemplars.onehot)) @ blocks

    def probabilities(self, share: Tensor) -> Tensor:
        """Mass of each known value, copied or generated, shape ``(n, K)``."""
        held, softmax = share @ self.exemplars.onehot, self.categorical.probabilities(self.logits)
        if self.place is not None:
            held = torch.cat([held, torch.zeros_like(softmax[:, :1])], dim=1).index_select(1, self.place)
        copy = self.copy @ self.blocks.T
        return copy * held + (1.0 - copy) * softmax
