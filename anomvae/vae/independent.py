"""Columns taken one by one: what rows cost where no column says anything of another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from torch import Tensor

    from anomvae.vae.model import TableVAE

    Doubles = npt.NDArray[np.float64]
    Integers = npt.NDArray[np.int64]

WIDTHS = 10
"""Bandwidths that are tried."""
MOST_BINS = 2**16
REACH = 4.0
"""Bandwidths beyond which a kernel is nil."""
PSEUDO_COUNT = 0.5


class IndependentColumns:
    r"""A density of rows with independent columns, in the units of the model's score.

    .. math:: -\log p(x) = -\sum_j \log p_j(x_j)

    A number's density is a Gaussian kernel estimate, in scaled units, with one training row in n + 1 spread over the
    range to which scaled numbers are clipped, as a category's unknown values share the mass of one row in n + 1. The
    bandwidth is the one that explains the training cells best, each left out in turn. It is never finer than both Scott's
    rule and the model's own noise in that column: repeated values would otherwise be worth any number of nats to the one
    and not to the other. Missing cells cost nothing, as in the masked ELBO.

    Args:
        model: Fitted; gives scaling, noise and categories.
        numeric: Training rows, raw units, NaN where missing, shape ``(n, d)``.
        categorical: Their codes, shape ``(n, c)``.

    References:
        Multivariate Density Estimation (Scott, 1992); An alternative method of cross-validation for the smoothing of
        density estimates (Bowman, 1984)
    """

    def __init__(self, model: TableVAE, numeric: Tensor, categorical: Tensor) -> None:
        self.preparation, self.layout = model.preparation, model.layout
        noise = torch.exp(0.5 * model.likelihood.log_variance()).detach().numpy().astype(np.float64)
        x, observed = self._numbers(numeric)
        low, high = self.preparation.bounds
        self.numbers = [_Density.learn(x[observed[:, j], j], float(noise[j]), high - low) for j in range(self.layout.d)]
        codes = categorical.numpy()
        self.categories = [self._costs(codes[:, j], size) for j, size in enumerate(self.layout.cardinalities)]

    def cost(self, numeric: Tensor, categorical: Tensor) -> Doubles:
        """Cost of each cell.

        Args:
            numeric: Raw units, NaN where missing, shape ``(n, d)``.
            categorical: Codes, shape ``(n, c)``.

        Returns:
            Nats, numbers then categories, shape ``(n, d + c)``; zero where missing.
        """
        x, observed = self._numbers(numeric)
        codes = categorical.numpy()
        columns = [density.cost(x[:, j]) * observed[:, j] for j, density in enumerate(self.numbers)]
        for j, costs in enumerate(self.categories):
            known = (codes[:, j] >= 0) & (codes[:, j] < len(costs) - 1)
            cells = costs[np.where(known, codes[:, j], len(costs) - 1)]
            columns.append(np.where(codes[:, j] == self.layout.missing_codes[j], 0.0, cells))
        return np.stack(columns, axis=1)

    def _numbers(self, numeric: Tensor) -> tuple[Doubles, npt.NDArray[np.bool_]]:
        x, observed = self.preparation.numbers(numeric)
        return x.numpy().astype(np.float64), observed.numpy() > 0

    def _costs(self, codes: Integers, size: int) -> Doubles:
        """Nats of each known value, and last of an unknown one."""
        known = codes[(codes >= 0) & (codes < size)]
        counts = np.bincount(known, minlength=size) + PSEUDO_COUNT
        unknown = self.layout.unknown_mass
        costs: Doubles = -np.log(np.append((1.0 - unknown) * counts / max(1.0, counts.sum()), unknown))
        return costs


@dataclass(frozen=True, slots=True)
class _Density:
    """A density of one column on bins.

    Attributes:
        start: Middle of the first bin, scaled units.
        step: Width of a bin.
        costs: Nats in each bin.
        elsewhere: Nats outside of them.
    """

    start: float
    step: float
    costs: Doubles
    elsewhere: float

    @classmethod
    def learn(cls, cells: Doubles, noise: float, span: float) -> _Density:
        """Learns from training cells.

        Args:
            cells: Scaled units, shape ``(n,)``.
            noise: The model's standard deviation in this column.
            span: Width of the range of scaled numbers.
        """
        n = len(cells)
        rest = 1.0 / (n + 1.0) / span
        if n < 2:  # noqa: PLR2004  nothing to leave out
            return cls(0.0, 1.0, np.empty(0), math.log(span))
        scott = float(cells.std()) * n**-0.2
        finest = min(noise, scott) if scott > 0 else noise
        widest = max(2.0 * scott, finest)
        reach = float(np.ptp(cells)) + 2.0 * REACH * widest
        step = max(finest / 3.0, reach / MOST_BINS)
        start, bins = float(cells.min()) - REACH * widest, 2 ** math.ceil(math.log2(reach / step + 1.0))
        counts = np.bincount(np.round((cells - start) / step).astype(np.int64), minlength=bins)
        waves, frequency = np.fft.rfft(counts), np.fft.rfftfreq(bins, step)
        best, chosen = -math.inf, np.empty(0)
        for width in np.geomspace(max(finest, 2.0 * step), max(widest, 2.0 * step), WIDTHS):
            kernel = np.exp(-2.0 * np.square(np.pi * frequency * width))
            total = np.maximum(np.fft.irfft(waves * kernel, bins), 0.0) / step
            others = np.maximum(total - np.fft.irfft(kernel, bins)[0] / step, 0.0) / (n - 1)
            fit = float(counts @ np.log(n / (n + 1.0) * others + rest))
            if fit > best:
                best, chosen = fit, total / n
        return cls(start, step, -np.log(n / (n + 1.0) * chosen + rest), -math.log(rest))

    def cost(self, cells: Doubles) -> Doubles:
        """Nats of cells in scaled units, shape ``(n,)``."""
        place = np.round((cells - self.start) / self.step)
        inside = (place >= 0) & (place < len(self.costs))
        costs = np.append(self.costs, self.elsewhere)
        return costs[np.where(inside, place, len(self.costs)).astype(np.int64)]
