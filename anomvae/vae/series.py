"""From raw windows to scores of steps: per-asset scaling, two VAEs and a forecast, several time scales."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from anomvae.vae.likelihoods import GaussianLikelihood
from anomvae.vae.series_rows import Explained, explain_steps

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anomvae.vae.autoregression import Autoregression
    from anomvae.vae.convolution import ConvolutionalVAE
    from anomvae.vae.discords import WindowExemplars
    from anomvae.vae.novelty import Novelty
    from anomvae.vae.scores import RowScorer

SHORT_SHARE = 8
"""The middle time scale is an eighth of the window."""
FAR = 1e30
"""Scaled values further out count as this: an infinity is as strange as a number can be."""
AROUND = 2.0
"""Around a step the mean over the window counts as much as two of the shorter time scales."""
LEAST = 1e-6
"""Of a weight, and of what a weight is divided by."""
MOST_FORESIGHT = 0.5
"""The forecast counts at most as half of the member of single steps, or of windows where there is none of steps."""
MOST_ODDS = 9.0
"""The distance from known windows counts at most as this many time scales."""


class SeriesScores(NamedTuple):
    """Scores of n windows of w steps and d channels.

    Attributes:
        score: Of the newest step by its past, in spreads of normal steps, shape ``(n,)``; higher is stranger.
        reconstruction_error: Mean squared error of the newest step in scaled units over its observed channels, ``(n,)``.
        contribution: What each channel adds to `score`, shape ``(n, d)``.
        latent_contribution: What the latents and the constants add; with `contribution` they sum to `score`; ``(n,)``.
        expected: What was expected of the newest step, raw units, shape ``(n, d)``.
        latent: Posterior mean of the newest steps, shape ``(n, k)``.
        step_score: Of each step by all of the window, shape ``(n, w)``; a missing step's is that of the steps around it.
        step_error: Reconstruction error of each step, shape ``(n, w)``; 0 for missing steps.
        step_contribution: What each channel adds to `step_score`, shape ``(n, w, d)``.
        step_expected: What was expected of each step, raw units, shape ``(n, w, d)``.
        step_deviation: One standard deviation of it, raw units, shape ``(n, w, d)``.
    """

    score: Tensor
    reconstruction_error: Tensor
    contribution: Tensor
    latent_contribution: Tensor
    expected: Tensor
    latent: Tensor
    step_score: Tensor
    step_error: Tensor
    step_contribution: Tensor
    step_expected: Tensor
    step_deviation: Tensor


class SeriesPreparation(nn.Module):
    """Scales each channel by its asset's own centre and spread, then draws far values in by their logarithm.

    Args:
        centre: Per asset, the last for assets not met before, raw units, shape ``(a + 1, d)``.
        spread: Likewise, above 0.
    """

    def __init__(self, centre: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.centre: Tensor
        self.spread: Tensor
        self.register_buffer("centre", centre)
        self.register_buffer("spread", spread)

    @property
    def assets(self) -> int:
        """Assets with a scaling of their own."""
        return len(self.centre) - 1

    def scaling(self, asset: Tensor) -> tuple[Tensor, Tensor]:
        """Centre and spread of each window's asset, raw units, shape ``(n, 1, d)`` each."""
        known = torch.where((asset >= 0) & (asset < self.assets), asset, torch.full_like(asset, self.assets))
        return self.centre[known][:, None], self.spread[known][:, None]

    def forward(self, series: Tensor, asset: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled values, 0 where missing, and 1 where observed, each of shape ``(n, w, d)``.

        Args:
            series: Raw units, NaN where missing, float32, shape ``(n, w, d)``.
            asset: Number of each window's asset; others than the known ones mean none of them; int64, shape ``(n,)``.
        """
        centre, spread = self.scaling(asset)
        missing = torch.isnan(series)
        scaled = torch.clamp((series - centre) / spread, -FAR, FAR)
        values = torch.sign(scaled) * torch.log1p(torch.abs(scaled))
        return torch.where(missing, torch.zeros_like(values), values), 1.0 - missing.to(values.dtype)

    def raw(self, values: Tensor, asset: Tensor) -> Tensor:
        """Scaled values in raw units."""
        centre, spread = self.scaling(asset)
        return torch.sign(values) * (torch.exp(torch.abs(values).clamp(max=60.0)) - 1.0) * spread + centre

    def raw_deviation(self, values: Tensor, deviation: Tensor, asset: Tensor) -> Tensor:
        """Deviations around scaled values in raw units, to first order."""
        _, spread = self.scaling(asset)
        return deviation * torch.exp(torch.abs(values).clamp(max=60.0)) * spread


class SeriesScorer(nn.Module):
    """Scores raw windows.

    Three members judge the steps of a window: an exemplar VAE of single steps with a count of values never seen (the table
    detector), a convolutional VAE of the window, and a linear forecast of the step from the few before it. Each member's
    negative ELBO, or what the forecast missed, is measured in spreads of normal steps (their median and 95 % quantile), the
    members are averaged by weight, and what lies far out is drawn in by a square root, so that one wild reading does not
    outweigh a lasting change. A fourth judges the window as a whole, by its distance from the nearest one of training. A step's
    score is the mean over three time scales (the step, an eighth of the window, the window) of the mean over the observed
    steps there, again in spreads of normal ones, over the past for `score`, around the step for `step_score`, where the
    longest counts twice; and, by its weight, of the window's distance.

    How much the order of steps says differs from plant to plant, so the last three count by what they tell of it: see
    :func:`trust`. The first steps of a window, which lack the past that a forecast looks at, are judged by the others alone.

    Args:
        preparation: The scaling.
        row: The member of single steps, on scaled values; None: without.
        novelty: Counts values, and pairs of values, that training never held, in raw units; its nats go with the row member's;
            None: without.
        window_model: The member of windows; None: without.
        window: w.
        exemplars: Windows that others are held against; None: without.
        forecast: The member that foretells steps; None: without.
    """

    def __init__(  # noqa: PLR0913, PLR0917  a part each, of which any but the first may be absent
        self,
        preparation: SeriesPreparation,
        row: RowScorer | None,
        novelty: Novelty | None,
        window_model: ConvolutionalVAE | None,
        window: int,
        exemplars: WindowExemplars | None = None,
        forecast: Autoregression | None = None,
    ) -> None:
        super().__init__()
        self.preparation, self.row, self.novelty = preparation, row, novelty
        self.window_model, self.window, self.exemplars, self.forecast = window_model, window, exemplars, forecast
        self.scales = time_scales(window)
        parts = {"row": row, "window": window_model, "forecast": forecast}
        self.members = tuple(member for member, part in parts.items() if part is not None)
        self.member_centre: Tensor
        self.member_spread: Tensor
        self.scale_centre: Tensor
        self.scale_spread: Tensor
        self.distance_centre: Tensor
        self.distance_spread: Tensor
        self.weights: Tensor  # of the members, which sum to 1; and of the distance, where 1 is that of all time scales
        self.distance_weight: Tensor
        self.register_buffer("weights", torch.full((len(self.members),), 1.0 / len(self.members)))
        self.register_buffer("distance_weight", torch.zeros(()))
        for name, size in (("member", len(self.members)), ("scale", len(self.scales)), ("distance", 1)):
            self.register_buffer(f"{name}_centre", torch.zeros(size))
            self.register_buffer(f"{name}_spread", torch.ones(size))
        reach = torch.ones(len(self.members), window)
        if forecast is not None:
            reach[-1] = forecast.reach(window)
        self.reach: Tensor  # which steps of a window a member can judge
        self.register_buffer("reach", reach, persistent=False)
        self.past: Tensor
        self.around: Tensor
        self.register_buffer("past", torch.stack([_past(window, scale) for scale in self.scales]), persistent=False)
        self.register_buffer("around", torch.stack([_around(window, scale) for scale in self.scales]), persistent=False)
        self.past_share: Tensor  # of each time scale; seen from both sides the window says more than the step
        self.around_share: Tensor
        even, late = torch.ones(len(self.scales)), torch.ones(len(self.scales))
        late[-1] = AROUND
        for name, each in (("past_share", even), ("around_share", late)):
            self.register_buffer(name, each / each.sum(), persistent=False)

    @property
    def channels(self) -> int:
        """D."""
        return self.preparation.centre.shape[1]

    def trust(self, order: Mapping[str, float], explained: float = 0.0) -> None:
        """Weighs the members by what they tell of the order of steps; those of single steps know nothing of it.

        Args:
            order: By `window` and `distance`: chance that normal windows whose second half is that of another look stranger
                than whole ones (AUROC). The window member counts the square of what is above even chance, or 1 without a member
                of single steps; of the distance the odds count, x / (1 - x), up to :data:`MOST_ODDS`.
            explained: Share of the variance of normal steps that the forecast explains; its root, the correlation of what was
                foretold with what came, counts, up to :data:`MOST_FORESIGHT`.
        """
        above = {name: min(1.0, max(0.0, 2.0 * chance - 1.0)) for name, chance in order.items()}
        each = {
            "row": 1.0,
            "window": above["window"] ** 2 if self.row is not None else 1.0,
            "forecast": min(MOST_FORESIGHT, math.sqrt(explained)),
        }
        own = torch.tensor([max(LEAST, each[member]) for member in self.members])
        self.weights.copy_(own / own.sum())
        x = above["distance"] if self.exemplars is not None else 0.0
        self.distance_weight.fill_(min(MOST_ODDS, x / max(LEAST, 1.0 - x)) / len(self.scales))

    def member_costs(self, series: Tensor, asset: Tensor) -> tuple[Tensor, Tensor]:
        """Each member's negative ELBO of each step, nats, shape ``(members, n, w)``; and whether the step is observed."""
        values, mask = self.preparation(series, asset)
        parts = self._explained(series, values, mask)
        observed = (mask.sum(2) > 0).to(mask.dtype)
        return torch.stack([cost.sum(2) + rest for cost, rest, *_ in parts]), observed

    def evidence(self, series: Tensor, asset: Tensor) -> tuple[Tensor, Tensor]:
        """What the members together make of each step, in spreads, shape ``(n, w)``; and whether the step is observed."""
        costs, observed = self.member_costs(series, asset)
        return self._together(costs) * observed, observed

    def scale_means(self, evidence: Tensor, observed: Tensor) -> Tensor:
        """Mean over the past of the newest step at each time scale, shape ``(scales, n)``."""
        weight = self.past[:, None] * observed
        return (weight * evidence).sum(2) / weight.sum(2).clamp(min=1.0)

    def forward(self, series: Tensor, asset: Tensor, row_terms: Tensor | None = None) -> SeriesScores:
        """Scores windows.

        Args:
            series: Raw units, NaN where missing, the newest step last, float32, shape ``(n, w, d)``.
            asset: As for :class:`SeriesPreparation`.
            row_terms: What the row member has said of the first steps of each window, which it need not be asked again; see
                :func:`~anomvae.vae.series_rows.explain_steps`. Without what it expected of them, `step_expected` and
                `step_error` of them are NaN.
        """
        values, mask = self.preparation(series, asset)
        parts, share = self._explained(series, values, mask, row_terms), self._shares()[:, :, None]
        observed = (mask.sum(2) > 0).to(mask.dtype)
        joined = self._together(torch.stack([cost.sum(2) + rest for cost, rest, *_ in parts]), squash=False)
        evidence = _drawn_in(joined) * observed
        cells = (
            torch.stack([cost * (share[k] / self.member_spread[k]) for k, (cost, *_) in enumerate(parts)]).sum(0)
            * _kept_share(joined)[:, :, None]
        )
        weight = self.past[:, None] * observed
        weight = weight / weight.sum(2, keepdim=True).clamp(min=1.0)  # (scales, n, w)
        score = self._over_scales((weight * evidence).sum(2), self.past_share)
        told = weight * (self.past_share / self.scale_spread)[:, None, None]
        contribution = (cells * told.sum(0)[:, :, None]).sum(1)
        expected = torch.stack([part[2] * share[k] for k, part in enumerate(parts)]).sum(0)
        rebuilt = parts[: len(parts) - (self.forecast is not None)]
        errors = torch.stack([((values - part[2]) ** 2 * mask).sum(2) for part in rebuilt]).mean(0)
        error = errors / mask.sum(2).clamp(min=1.0)
        near = torch.einsum("stu,nu->snt", self.around, observed).clamp(min=1.0)
        step_score = self._over_scales(torch.einsum("stu,nu->snt", self.around, evidence) / near, self.around_share)
        each = (torch.einsum("stu,nud->sntd", self.around, cells) / near[..., None]).transpose(0, -1)
        step_contribution = (each * (self.around_share / self.scale_spread)).sum(-1).permute(1, 2, 0)
        if self.exemplars is not None:
            nearest, own = self.exemplars(values, mask), 1.0 / (1.0 + self.distance_weight)
            far = (1.0 - own) * (nearest.distance - self.distance_centre) / self.distance_spread
            score, step_score = own * score + far, own * step_score + far[:, None]
            apart = (1.0 - own) * nearest.shares(mask) / self.distance_spread
            contribution = own * contribution + apart.sum(1)
            step_contribution = own * step_contribution + self.window * apart
        return SeriesScores(
            score=score,
            reconstruction_error=error[:, -1],
            contribution=contribution,
            latent_contribution=score - contribution.sum(1),
            expected=self.preparation.raw(expected, asset)[:, -1],
            latent=rebuilt[-1][3],
            step_score=step_score,
            step_error=error,
            step_contribution=step_contribution,
            step_expected=self.preparation.raw(expected, asset),
            step_deviation=self.preparation.raw_deviation(expected, self._deviation(), asset),
        )

    def _over_scales(self, level: Tensor, share: Tensor) -> Tensor:
        """The mean over time scales of what they say, in spreads of normal steps; share of each, shape ``(scales,)``."""
        size = [len(self.scales)] + [1] * (level.dim() - 1)
        apart = (level - self.scale_centre.reshape(size)) / self.scale_spread.reshape(size)
        return (apart * share.reshape(size)).sum(0)

    def _together(self, costs: Tensor, *, squash: bool = True) -> Tensor:
        scaled = (costs - self.member_centre[:, None, None]) / self.member_spread[:, None, None]
        joined = torch.stack([part * weight for part, weight in zip(scaled, self._shares(), strict=True)]).sum(0)
        return _drawn_in(joined) if squash else joined

    def _shares(self) -> Tensor:
        """Share of each member in each step of a window, shape ``(members, w)``: their weights among those that can judge it."""
        able = self.weights[:, None] * self.reach
        return able / able.sum(0)

    def _explained(self, series: Tensor, values: Tensor, mask: Tensor, known: Tensor | None = None) -> list[Explained]:
        """What each member makes of the windows; `known` as for :func:`~anomvae.vae.series_rows.explain_steps`."""
        found = []
        if self.row is not None:
            found.append(explain_steps(self.row, self.novelty, (series, values, mask), known))
        if self.window_model is not None:
            told = self.window_model(values, mask)
            found.append(Explained(told.cost, told.divergence, told.mean, told.latent))
        if self.forecast is not None:
            foretold = self.forecast(values, mask)
            found.append(Explained(foretold.cost, torch.zeros_like(values[:, :, 0]), foretold.mean, values[:, 0, :0]))
        return found

    def _deviation(self) -> Tensor:
        if self.window_model is not None:
            return self.window_model.deviation
        return torch.ones(self.channels) if self.row is None else row_deviation(self.row)


def time_scales(window: int) -> tuple[int, ...]:
    """Lengths over which evidence is averaged, steps.

    Example:
        >>> time_scales(64), time_scales(4)
        ((1, 8, 64), (1, 4))
    """
    return tuple(sorted({1, max(1, window // SHORT_SHARE), window}))


def memory_of(window: int, *, past_only: bool) -> float:
    """Autocorrelation time of scores, steps, where steps depend on no neighbours: about that of the means they hold.

    Of a filter h over independent steps it is the square of the sum of h over the sum of its squares. A score by the past is the
    sum of means over 1, w / 8 and w steps, each in its own spreads, which gives 0.5 w; a score by all windows counts the longest
    twice, and is a mean over windows, which gives 0.9 w.

    Example:
        >>> memory_of(64, past_only=True), memory_of(64, past_only=False)
        (32.0, 57.6)
    """
    return max(1.0, window * (0.5 if past_only else 0.9))


def row_deviation(row: RowScorer) -> Tensor:
    """The row member's learnt standard deviation of each channel, in its input's units, shape ``(d,)``."""
    likelihood = row.model.likelihood.numeric
    learnt = likelihood.log_variance if isinstance(likelihood, GaussianLikelihood) else torch.zeros(row.model.layout.d)
    deviation: Tensor = torch.exp(0.5 * learnt) * row.model.preparation.scale
    return deviation


def _drawn_in(evidence: Tensor) -> Tensor:
    """Square roots of what is above 0, sqrt(1 + 2 e) - 1, with slope 1 there."""
    return evidence * _kept_share(evidence)


def _kept_share(evidence: Tensor) -> Tensor:
    """What is left of evidence when it is drawn in, over what it was: written so that nothing cancels near 0."""
    return 2.0 / (1.0 + torch.sqrt(1.0 + 2.0 * evidence.clamp(min=0.0)))


def _past(window: int, scale: int) -> Tensor:
    """1 for the newest `scale` steps."""
    return (torch.arange(window) >= window - scale).float()


def _around(window: int, scale: int) -> Tensor:
    """1 where step u lies within `scale` steps around step t, shape ``(w, w)``."""
    if scale >= window:
        return torch.ones(window, window)
    step = torch.arange(window)
    return ((step[:, None] - step).abs() <= scale // 2).float()
