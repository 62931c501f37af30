"""The whole detector as one torch module: raw values in, calibrated answers out. What is exported."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from anomvae.bundle.promise import DECISION_SHARES
from anomvae.calibration import TIE, ScoreTable

if TYPE_CHECKING:
    from anomvae.calibration.conformal import FloatArray
    from anomvae.vae.scores import RowScorer


class Answers(NamedTuple):
    """The graph's outputs, in its order; see the manifest for shapes and meaning."""

    score: Tensor
    reconstruction_error: Tensor
    p_value: Tensor
    p_value_reconstruction: Tensor
    alarm: Tensor
    contribution: Tensor
    latent_contribution: Tensor
    expected: Tensor
    expected_category: Tensor
    latent: Tensor


class PValues(nn.Module):
    """P-values from a table of calibration scores; see :class:`anomvae.calibration.ScoreTable`."""

    def __init__(self, calibration: FloatArray) -> None:
        super().__init__()
        table = ScoreTable.of(calibration)
        self.rows, self.width = table.rows, table.blocks.shape[1]
        self.first: Tensor
        self.blocks: Tensor
        self.register_buffer("first", torch.from_numpy(table.first))
        self.register_buffer("blocks", torch.from_numpy(table.blocks))

    def forward(self, score: Tensor) -> Tensor:
        """P-values of scores, both of shape ``(n,)``."""
        moved = score - TIE * torch.clamp(score.abs(), min=1.0)
        moved = torch.where(torch.isnan(moved), torch.full_like(score, torch.inf), moved)[:, None]  # inf - inf too
        block = (self.first < moved).to(torch.float32).sum(dim=1).to(torch.int64)
        within = (self.blocks.index_select(0, block) < moved).to(torch.float32).sum(dim=1)
        below = torch.clamp(block.to(torch.float32) * self.width + within, max=float(self.rows))
        return (1.0 + self.rows - below) / (self.rows + 1.0)


class CalibratedDetector(nn.Module):
    """Scores, p-values and verdict of raw rows.

    Args:
        scorer: Scores.
        score: Calibration scores, shape ``(m,)``.
        reconstruction: Calibration reconstruction errors, shape ``(m,)``.
        decision: Which p-value gives the verdict.
    """

    def __init__(self, scorer: RowScorer, score: FloatArray, reconstruction: FloatArray, decision: str) -> None:
        super().__init__()
        self.scorer = scorer
        self.p_score, self.p_reconstruction = PValues(score), PValues(reconstruction)
        self.shares = DECISION_SHARES[decision]

    def forward(self, numeric: Tensor, categorical: Tensor, alarm_rate: Tensor) -> Answers:
        """Answers for raw rows.

        Args:
            numeric: Raw units, NaN where missing, float32, shape ``(n, d)``.
            categorical: Codes, int64, shape ``(n, c)``.
            alarm_rate: Stated rate, float32, shape ``()``.
        """
        scores = self.scorer(numeric, categorical)
        p_score, p_reconstruction = self.p_score(scores.score), self.p_reconstruction(scores.reconstruction_error)
        return Answers(
            scores.score,
            scores.reconstruction_error,
            p_score,
            p_reconstruction,
            self._verdict(p_score, p_reconstruction, alarm_rate),
            scores.contribution,
            scores.latent_contribution,
            scores.expected,
            scores.expected_category,
            scores.latent,
        )

    def _verdict(self, p_score: Tensor, p_reconstruction: Tensor, alarm_rate: Tensor) -> Tensor:
        by_score, by_reconstruction = self.shares
        rate = alarm_rate * (1.0 + 1e-6)  # p-values are multiples of 1 / (m + 1): equality survives float32
        if not by_reconstruction:
            return p_score <= rate
        if not by_score:
            return p_reconstruction <= rate
        return (p_score <= rate * by_score) | (p_reconstruction <= rate * by_reconstruction)
