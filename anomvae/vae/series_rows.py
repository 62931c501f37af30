"""What the member of single steps says of steps: for all of a window, or for those of which it has not been asked before."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from anomvae.vae.novelty import Novelty
    from anomvae.vae.scores import RowScorer
    from anomvae.vae.series import SeriesScorer


class Explained(NamedTuple):
    """What a member makes of the w steps of n windows.

    Attributes:
        cells: Nats of each cell, shape ``(n, w, d)``.
        rest: The rest of each step's nats, shape ``(n, w)``.
        expected: Scaled values, shape ``(n, w, d)``.
        latent: Of each window, shape ``(n, k)``.
    """

    cells: Tensor
    rest: Tensor
    expected: Tensor
    latent: Tensor


def row_terms_width(channels: int) -> int:
    """Numbers that say all of a step: nats of each channel, the rest of them, and what was expected of each channel."""
    return 2 * channels + 1


def explain_rows(row: RowScorer, novelty: Novelty | None, rows: Tensor, values: Tensor, mask: Tensor) -> Explained:
    """What the row member says of single steps: an :class:`Explained` without the dimension of steps.

    Args:
        row: The member.
        novelty: Counts what training never held; None: without.
        rows: Raw units, shape ``(m, d)``.
        values: The same scaled, 0 where missing.
        mask: 1 where observed, else 0.
    """
    nothing = torch.zeros_like(rows[:, :0], dtype=torch.int64)
    told = row(torch.where(mask > 0, values, torch.full_like(values, math.nan)), nothing)
    cells = told.contribution
    if novelty is not None:
        cells = cells + novelty(rows, nothing, own=False) * mask
    return Explained(cells, told.latent_contribution, told.expected, told.latent)


def explain_steps(
    row: RowScorer, novelty: Novelty | None, windows: tuple[Tensor, Tensor, Tensor], known: Tensor | None
) -> Explained:
    """What the row member says of the steps of windows.

    Args:
        row: The member.
        novelty: As for :func:`explain_rows`.
        windows: Raw values, scaled values and the mask, shape ``(n, w, d)`` each.
        known: What :class:`RowTerms` has said of the first p steps, p < w: their nats, and behind these what was expected of
            them or nothing, which then is NaN; shape ``(n, p, t)`` or ``(1, p, t)``, where t is 2d + 1 or d + 1; None: of none.
            Steps of which it was not asked, as missing ones, are NaN.
    """
    count, window, channels = windows[1].shape
    first = 0 if known is None else known.shape[1]
    rows, values, mask = (part[:, first:].reshape(-1, channels) for part in windows)
    told = explain_rows(row, novelty, rows, values, mask)
    shape = (count, window - first, channels)
    cells, rest, expected = told.cells.reshape(shape), told.rest.reshape(shape[:2]), told.expected.reshape(shape)
    latent = told.latent.reshape(count, window - first, told.latent.shape[1])[:, -1]
    if known is not None:
        known = known.expand(count, -1, -1)
        nats = known[:, :, : channels + 1]
        nats = torch.where(torch.isnan(nats), torch.zeros_like(nats), nats)
        open_end = torch.full_like(known[:, :, :1], math.nan).expand(-1, -1, channels)
        foretold = torch.cat([known, open_end], dim=2)[:, :, channels + 1 : row_terms_width(channels)]
        cells = torch.cat([nats[:, :, :channels], cells], dim=1)
        rest = torch.cat([nats[:, :, channels], rest], dim=1)
        expected = torch.cat([foretold, expected], dim=1)
    return Explained(cells, rest, expected, latent)


class RowTerms(nn.Module):
    """What the row member of a detector of series says of single rows, to be given to it with the windows they lie in.

    A step lies in as many windows as these have steps, and the member says the same of it in each.

    Args:
        scorer: The detector; with a row member.
    """

    def __init__(self, scorer: SeriesScorer) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, rows: Tensor, asset: Tensor) -> Tensor:
        """Nats of each channel, the rest of them, and scaled values expected, shape ``(n, 2d + 1)``.

        Args:
            rows: Raw units, NaN where missing, shape ``(n, d)``.
            asset: Number of each row's asset, as windows have it, shape ``(n,)``.
        """
        values, mask = (part[:, 0] for part in self.scorer.preparation(rows[:, None], asset))
        assert self.scorer.row is not None  # noqa: S101  else there is nothing to say
        told = explain_rows(self.scorer.row, self.scorer.novelty, rows, values, mask)
        return torch.cat([told.cells, told.rest[:, None], told.expected], dim=1)
