"""How far a window lies from the nearest of those kept from training: the discord's distance."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

CANDIDATES = 4
"""Windows among which the differences themselves decide."""
ALIKE = 0.05
"""Of scaled units: windows that differ by less are about alike."""
SOFT = 0.01
"""Share by which a squared distance may exceed the least and still be of about the same weight."""
TIE = 1e-4
"""Added per place to squared distances: of windows just as near the earlier counts, whatever sums the last digit is of."""


class Nearest(NamedTuple):
    """n windows beside their nearest ones.

    Attributes:
        distance: With D the mean squared difference over observed cells, sqrt(D + a^2) - a, where a is :data:`ALIKE`; ``(n,)``.
        cells: Squared difference of each observed cell, 0 elsewhere, shape ``(n, w, d)``.
    """

    distance: Tensor
    cells: Tensor

    def shares(self, mask: Tensor) -> Tensor:
        """What each cell has of its window's distance, which they sum to, shape ``(n, w, d)``; mask as it was given."""
        count = mask.sum((1, 2), keepdim=True).clamp(min=1.0)
        return self.cells / (count * (self.distance[:, None, None] + 2.0 * ALIKE))


class WindowExemplars(nn.Module):
    """Windows of training steps, whole; what lies far from all of them is a discord.

    Steps may each be normal where their order is not: a beat that comes early, a phase that is left out. A network that explains
    a window from its parts sees little of that; the distance from what has been sees it at once.

    The nearest few are found by a matrix product, whose sums lose what they have in common; among them the differences
    themselves decide, by a soft minimum, so that no answer hangs by a last digit. Differences below :data:`ALIKE` count for little.

    Args:
        windows: Scaled, 0 where missing, shape ``(K, w, d)``.

    References:
        HOT SAX: Efficiently Finding the Most Unusual Time Series Subsequence (Keogh, Lin and Fu, 2005), and the AB-join of the
        Matrix Profile (Yeh et al., 2016).
    """

    def __init__(self, windows: Tensor) -> None:
        super().__init__()
        self.stored: Tensor
        self.register_buffer("stored", windows.flatten(1))  # (K, w * d)

    def __len__(self) -> int:
        return self.stored.shape[0]

    def forward(self, values: Tensor, mask: Tensor) -> Nearest:
        """Holds windows against those stored.

        Args:
            values: Scaled, 0 where missing, shape ``(n, w, d)``.
            mask: 1 where observed, likewise.
        """
        flat, seen = values.flatten(1), mask.flatten(1)
        # The windows' own squares are the same for all that are stored, and decide nothing.
        apart = torch.addmm(seen @ self.stored.square().T, flat, self.stored.T, alpha=-2.0)
        apart = apart + TIE * torch.arange(len(self), dtype=apart.dtype)
        near = torch.topk(apart, min(CANDIDATES, len(self)), dim=1, largest=False).indices
        chosen = self.stored.index_select(0, near.flatten()).reshape(*near.shape, flat.shape[1])
        cells = ((flat[:, None] - chosen) * seen[:, None]).square()
        count = seen.sum(dim=1).clamp(min=1.0)
        squares = cells.sum(dim=2) / count[:, None] + ALIKE**2
        least = squares.amin(dim=1, keepdim=True)
        share = torch.softmax((1.0 - squares / least) / SOFT, dim=1)
        joined = (share[:, :, None] * cells).sum(dim=1)
        distance = torch.sqrt(joined.sum(dim=1) / count + ALIKE**2) - ALIKE
        return Nearest(distance, joined.reshape(values.shape))
