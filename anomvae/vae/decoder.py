"""From z to what a row should hold, and the cost of a row against it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from anomvae.vae.likelihoods import CategoricalLikelihood, GaussianLikelihood, numeric_likelihood

if TYPE_CHECKING:
    from anomvae.vae.layout import Layout
    from anomvae.vae.preparation import Rows
    from anomvae.vae.settings import ModelSettings


def row_sums(x: Tensor) -> Tensor:
    """Sums over the columns as a matrix product, shape ``(n,)``.

    ONNX Runtime's own reduction adds in an order that depends on where a row lies in memory, hence on its batch-mates;
    the product adds each row alike.
    """
    return (x @ x.new_ones(x.shape[1], 4))[:, 0]


class Decoded(NamedTuple):
    """The decoder's answer.

    Attributes:
        numeric: Parameters of the number columns, shape ``(draws, n, d)``.
        logits: Logits of the categories' known values, shape ``(draws, n, K)``.
    """

    numeric: Tensor
    logits: Tensor


def mlp(sizes: list[int]) -> nn.Sequential:
    """Linear layers with SiLU between them.

    Args:
        sizes: Widths from input to output, at least two.
    """
    layers: list[nn.Module] = []
    for wide, narrow in itertools.pairwise(sizes[:-1]):
        layers += [nn.Linear(wide, narrow), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


class RowLikelihood(nn.Module):
    """The likelihood of whole rows: numbers and categories side by side.

    Args:
        layout: Sizes and categories.
        settings: Which likelihood numbers have.
        blocks: 1 where a value belongs to a category column, shape ``(K, c)``.
    """

    def __init__(self, layout: Layout, settings: ModelSettings, blocks: Tensor) -> None:
        super().__init__()
        self.layout = layout
        self.numeric = numeric_likelihood(settings.likelihood, layout.d, settings.log_variance_floor)
        self.categorical = CategoricalLikelihood(blocks, layout.unknown_mass)

    def cost(self, decoded: Decoded, rows: Rows) -> Tensor:
        """Negative log likelihood per column, nats; zero where the cell is missing (the masked ELBO).

        Returns:
            Shape ``(draws, n, d + c)``.

        References:
            Handling Incomplete Heterogeneous Data using VAEs (Nazabal et al., 2020), arXiv:1807.03653
        """
        parts = []
        if self.layout.d:
            parts.append(self.numeric.cost(decoded.numeric, rows.x) * rows.observed)
        if self.layout.c:
            parts.append(self.categorical.cost(decoded.logits, rows))
        return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]

    def log_variance(self) -> Tensor:
        """Log variance of each number, scaled units, shape ``(d,)``; 0 where the likelihood fixes it at 1."""
        if isinstance(self.numeric, GaussianLikelihood):
            return self.numeric.log_variance
        return torch.zeros(self.layout.d, device=self.categorical.blocks.device)

    def reconstruction_error(
        self, decoded: Decoded, rows: Rows, carried: Tensor | None = None, mass: Tensor | None = None
    ) -> Tensor:
        """Mean over the observed columns of the squared error in scaled units (categories: Brier score), shape ``(n,)``.

        Args:
            decoded: The decoder's answer at the posterior mean.
            rows: n rows.
            carried: What exemplars add to the decoded numbers, shape ``(n, d)``.
            mass: Mass of each category's known values, where exemplars have a say, shape ``(n, K)``.
        """
        total = torch.zeros_like(decoded.numeric[0, :, :1] if self.layout.d else decoded.logits[0, :, :1])[:, 0]
        count = torch.zeros_like(total)
        if self.layout.d:
            expected = self.numeric.mean(decoded.numeric)[0]
            error = (rows.x - (expected if carried is None else expected + carried)).square() * rows.observed
            total, count = total + row_sums(error), count + row_sums(rows.observed)
        if self.layout.c:
            known = self.categorical.probabilities(decoded.logits[0]) if mass is None else mass
            total = total + row_sums(self.categorical.brier(known, rows))
            count = count + row_sums(rows.known + rows.unknown)
        return total / torch.clamp(count, min=1.0)
