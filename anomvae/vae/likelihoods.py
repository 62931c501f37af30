"""How a decoded row explains the cells it is held against: one cost per column, in nats."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from anomvae.vae.layout import Scaling
    from anomvae.vae.preparation import Rows

NumericLikelihoodName = Literal["gaussian", "mse", "bernoulli", "student-t"]
NUMERIC_LIKELIHOODS: tuple[NumericLikelihoodName, ...] = ("gaussian", "mse", "bernoulli", "student-t")
LOG_2PI = math.log(2.0 * math.pi)


class NumericLikelihood(Protocol):
    """What a likelihood of numbers offers; each is an ``nn.Module``."""

    scaling: Scaling

    def cost(self, decoded: Tensor, x: Tensor) -> Tensor:
        """Negative log density per column, nats, shape of `x` broadcast with `decoded`."""

    def mean(self, decoded: Tensor) -> Tensor:
        """What the decoder expects, scaled units."""


class GaussianLikelihood(nn.Module):
    r"""Normal noise with one learnt variance per column.

    .. math:: -\log p = \tfrac12 \big( \log 2\pi\sigma_j^2 + (x_j - g_j)^2 / \sigma_j^2 \big)

    The learnt variance is what lets a precise column weigh more than a noisy one; it is clipped from below, since a
    column that repeats its values would drive it to zero.

    Args:
        d: Columns.
        log_variance_floor: Smallest log variance, of scaled units.

    References:
        Simple and Effective VAE Training with Calibrated Decoders (Rybkin et al., 2021), arXiv:2006.13202
    """

    scaling: Scaling = "standard"

    def __init__(self, d: int, log_variance_floor: float) -> None:
        super().__init__()
        self.free_log_variance = nn.Parameter(torch.zeros(d))
        self.floor = log_variance_floor

    @property
    def log_variance(self) -> Tensor:
        """Log variance per column, shape ``(d,)``."""
        return torch.clamp(self.free_log_variance, min=self.floor)

    def cost(self, decoded: Tensor, x: Tensor) -> Tensor:
        """See :class:`NumericLikelihood`."""
        log_variance = self.log_variance
        return 0.5 * ((x - decoded).square() * torch.exp(-log_variance) + (log_variance + LOG_2PI))

    def mean(self, decoded: Tensor) -> Tensor:
        """See :class:`NumericLikelihood`."""
        return decoded


class SquaredErrorLikelihood(nn.Module):
    r"""Normal noise of unit variance in every column: the field's mean squared error, in nats.

    .. math:: -\log p = \tfrac12 \log 2\pi + \tfrac12 (x_j - g_j)^2
    """

    scaling: Scaling = "standard"

    def cost(self, decoded: Tensor, x: Tensor) -> Tensor:
        """See :class:`NumericLikelihood`."""
        return 0.5 * ((x - decoded).square() + LOG_2PI)

    def mean(self, decoded: Tensor) -> Tensor:
        """See :class:`NumericLikelihood`."""
        return decoded


class BernoulliLikelihood(nn.Module):
    r"""Binary cross-entropy of columns scaled to 0..1, as the field uses it for grey values and flags.

    .. math:: -\log p = -x_j \log \pi_j - (1 - x_j) \log (1 - \pi_j), \quad \pi_j = \mathrm{sigmoid}(g_j)
    """

    scaling: Scaling = "unit"

    def cost(self, decoded: Tensor, x: Tensor) -> Tensor:
        """See :class:`NumericLikelihood`."""
        return functional.softplus(decoded) - x * decoded

    def mean(self, decoded: Tensor) -> Tensor:
        """See :class:`NumericLikelihood`."""
        return torch.sigmoid(decoded)


class StudentTLikelihood(nn.Module):
    r"""Student's t with four degrees of freedom and one learnt scale per column: heavy tails cost less.

    .. math:: -\log p = \log s_j + \tfrac{\nu + 1}{2} \log\Big(1 + \frac{(x_j - g_j)^2}{\nu s_j^2}\Big) + \text{const}

    Args:
        d: Columns.
        log_variance_floor: Smallest log of the squared scale.
        degrees: Degrees of freedom, nu.
    """

    scaling: Scaling = "standard"

    def __init__(self, d: int, log_variance_floor: float, degrees: float = 4.0) -> None:
        super().__init__()
        self.free_log_variance = nn.Parameter(torch.zeros(d))
        self.floor = log_variance_floor
        self.degrees = degrees
        self.constant = math.lgamma(degrees / 2) - math.lgamma((degrees + 1) / 2) + 0.5 * math.log(degrees * math.pi)

    def cost(self, decoded: Tensor, x: Tensor) -> Tensor:
        """See :class:`NumericLikelihood`."""
        log_variance = torch.clamp(self.free_log_variance, min=self.floor)
        distance = (x - decoded).square() * torch.exp(-log_variance) / self.degrees
        return 0.5 * log_variance + 0.5 * (self.degrees + 1) * torch.log1p(distance) + self.constant

    def mean(self, decoded: Tensor) -> Tensor:
        """See :class:`NumericLikelihood`."""
        return decoded


class CategoricalLikelihood(nn.Module):
    r"""A softmax per column over its known values; values never seen share the mass of one row in n + 1.

    .. math:: p(k) = (1 - \epsilon)\, \mathrm{softmax}(l)_k, \quad p(\text{unknown}) = \epsilon = 1 / (n + 1)

    Two values make it the Bernoulli likelihood of a flag, with the difference of its logits. All columns are summed by
    one matrix of blocks, so that the graph has three products however many columns there are. Logits are held within
    +-`LIMIT` (smoothly), so that no sum of exponentials over- or underflows.

    Args:
        blocks: 1 where a value belongs to a column, shape ``(K, c)``.
        unknown_mass: epsilon.
    """

    LIMIT = 20.0

    def __init__(self, blocks: Tensor, unknown_mass: float) -> None:
        super().__init__()
        self.blocks: Tensor
        self.register_buffer("blocks", blocks, persistent=False)
        self.cost_known = -math.log1p(-unknown_mass)
        self.cost_unknown = -math.log(unknown_mass)
        self.unknown_mass = unknown_mass

    def cost(self, logits: Tensor, rows: Rows) -> Tensor:
        """Negative log mass per column, nats; zero where the cell is missing.

        Args:
            logits: Shape ``(..., n, K)``.
            rows: n rows.
        """
        logits = self._held(logits)
        # Clamped for a column without known values; the least a held logit gives is 2e-9.
        log_total = torch.log(torch.clamp(torch.exp(logits) @ self.blocks, min=1e-30))
        chosen = (rows.onehot * logits) @ self.blocks
        return rows.known * (log_total - chosen + self.cost_known) + rows.unknown * self.cost_unknown

    def probabilities(self, logits: Tensor) -> Tensor:
        """Mass of each known value, shape ``(..., K)``; sums to 1 - epsilon within a column."""
        weights = torch.exp(self._held(logits))
        return (1.0 - self.unknown_mass) * weights / ((weights @ self.blocks) @ self.blocks.T)

    def brier(self, probabilities: Tensor, rows: Rows) -> Tensor:
        """Brier score per column, 0 to 2, the unknown being a value of its own; zero where the cell is missing.

        Args:
            probabilities: Mass of each known value, shape ``(n, K)``.
            rows: n rows.
        """
        squared = (probabilities - rows.onehot).square() @ self.blocks
        unknown = (self.unknown_mass - rows.unknown).square()
        return (rows.known + rows.unknown) * (squared + unknown)

    def _held(self, logits: Tensor) -> Tensor:
        return self.LIMIT * torch.tanh(logits / self.LIMIT)


def numeric_likelihood(name: NumericLikelihoodName, d: int, log_variance_floor: float) -> NumericLikelihood:
    """The likelihood of a name; see :data:`NUMERIC_LIKELIHOODS`."""
    if name == "gaussian":
        return GaussianLikelihood(d, log_variance_floor)
    if name == "student-t":
        return StudentTLikelihood(d, log_variance_floor)
    return BernoulliLikelihood() if name == "bernoulli" else SquaredErrorLikelihood()
