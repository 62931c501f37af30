"""What the last few steps foretell: a linear forecast of each step, and how far the step is from it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Forecast(NamedTuple):
    """Forecasts of the w steps of n windows.

    Attributes:
        cost: Half the squared distance of each cell from its forecast, in spreads of normal ones, nats; 0 where missing;
            shape ``(n, w, d)``.
        mean: What was foretold, scaled values, shape ``(n, w, d)``.
    """

    cost: Tensor
    mean: Tensor


class Autoregression(nn.Module):
    r"""A vector autoregression of p steps: :math:`\hat x_t = b + \sum_{l=1}^{p} A_l x_{t-l}`.

    A cell that is missing counts as 0, the centre of its channel; the variance of a forecast that looks at such cells grows by
    the most that they could have been together, :math:`(\sum |A| \sqrt v)^2`, so that what cannot be foretold surprises less. So
    does a cell further out than training held: a wild reading must not have the normal steps after it look wild too. Steps
    before the window are missing ones: the first p steps of a window are foretold from less, see :meth:`reach`.

    Args:
        kernel: :math:`A_l`, the latest step last, shape ``(d, d, p)``: of a channel, by a channel, at a step.
        bias: b, shape ``(d,)``.
        variance: Of the forecasts' errors on normal steps, above 0, shape ``(d,)``.
        usual: v, the mean square of a scaled channel, shape ``(d,)``.
        bound: How far out cells are looked at and foretold, scaled values, shape ``(d,)``.

    References:
        Lütkepohl, New Introduction to Multiple Time Series Analysis (2005), chapter 2.
    """

    def __init__(self, kernel: Tensor, bias: Tensor, variance: Tensor, usual: Tensor, bound: Tensor) -> None:
        super().__init__()
        self.kernel: Tensor
        self.bias: Tensor
        self.variance: Tensor
        self.doubt: Tensor
        self.bound: Tensor
        self.register_buffer("kernel", kernel)
        self.register_buffer("bias", bias)
        self.register_buffer("variance", variance)
        self.register_buffer("doubt", kernel.abs() * usual.sqrt()[None, :, None])
        self.register_buffer("bound", bound)

    @property
    def order(self) -> int:
        """P: steps that a forecast looks back."""
        return self.kernel.shape[2]

    def reach(self, window: int) -> Tensor:
        """1 for the steps of a window that have all the past they are foretold from within it, shape ``(w,)``."""
        return (torch.arange(window) >= self.order).to(self.kernel.dtype)

    def forward(self, values: Tensor, mask: Tensor) -> Forecast:
        """Foretells every step of windows.

        Args:
            values: Scaled, 0 where missing, shape ``(n, w, d)``.
            mask: 1 where observed, else 0, shape ``(n, w, d)``.
        """
        seen = mask * (values.abs() <= self.bound).to(mask.dtype)
        told = self._over_the_past(values * seen, self.kernel) + self.bias
        told = torch.minimum(torch.maximum(told, -self.bound), self.bound)
        doubt = self._over_the_past(1.0 - seen, self.doubt, before=1.0).square()
        return Forecast(0.5 * (values - told).square() / (self.variance + doubt) * mask, told)

    def _over_the_past(self, steps: Tensor, kernel: Tensor, before: float = 0.0) -> Tensor:
        past = nn.functional.pad(steps.transpose(1, 2)[:, :, :-1], (self.order, 0), value=before)
        summed: Tensor = nn.functional.conv1d(past, kernel).transpose(1, 2)
        return summed
