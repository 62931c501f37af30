"""A convolutional forecaster: the next step from those before it."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipelines.series_bench.steps import Cells, Floats

BLOCKS = 50
"""Pieces of time, of which a tenth decides when to stop."""


class Forecaster(nn.Module):
    """Two convolutions with pooling, then a dense layer: DeepAnT.

    Args:
        channels: d.
        history: Steps it sees.
        width: Channels of the convolutions.

    References:
        DeepAnT: A Deep Learning Approach for Unsupervised Anomaly Detection in Time Series (Munir et al., IEEE Access 2019)
    """

    def __init__(self, channels: int, history: int, width: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv1d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool1d(2),
            nn.Conv1d(width, width, 3, padding=1), nn.ReLU(), nn.MaxPool1d(2),
        )  # fmt: skip
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(width * (history // 4), 2 * width), nn.ReLU(), nn.Dropout(0.25),
            nn.Linear(2 * width, channels),
        )  # fmt: skip

    def forward(self, series: Tensor) -> Tensor:
        """The next step, shape ``(n, d)``, from steps of shape ``(n, history, d)``."""
        found: Tensor = self.head(self.convolutions(series.transpose(1, 2)))
        return found


@dataclass(frozen=True, slots=True)
class ForecasterSettings:
    """How a forecaster is fitted.

    Attributes:
        width: Channels of the convolutions.
        epochs: At most.
        patience: Epochs without a better held-out error that end it.
        rate: Of Adam.
        batch: Windows a step of it.
    """

    width: int = 64
    epochs: int = 50
    patience: int = 5
    rate: float = 1e-3
    batch: int = 128


def fit_forecaster(windows: Cells, settings: ForecasterSettings, seed: int) -> Callable[[Cells], Floats]:
    """Fits a forecaster of the newest step of windows; gives the function that says how far off it is.

    Args:
        windows: Scaled, in order of time, shape ``(k, w, d)``.
        settings: Of the fit.
        seed: Of weights and batches.

    Returns:
        From windows to the mean squared error of their newest step, shape ``(k,)``.
    """
    torch.manual_seed(seed)
    data = torch.from_numpy(windows)
    block = torch.arange(len(data)) * BLOCKS // len(data)
    held = torch.isin(block, torch.randperm(BLOCKS)[: BLOCKS // 10])
    train, check = data[~held], data[held]
    model = Forecaster(windows.shape[2], windows.shape[1] - 1, settings.width)
    optimiser = torch.optim.Adam(model.parameters(), lr=settings.rate)
    best, least, worse = copy.deepcopy(model.state_dict()), math.inf, 0
    for _ in range(settings.epochs):
        _epoch(model, optimiser, train, settings.batch)
        error = float(_errors(model, check).mean())
        if error < least:
            best, least, worse = copy.deepcopy(model.state_dict()), error, 0
        else:
            worse += 1
        if worse == settings.patience:
            break
    model.load_state_dict(best)
    return lambda windows: _errors(model, torch.from_numpy(windows)).numpy().astype(np.float64)


def _epoch(model: Forecaster, optimiser: torch.optim.Optimizer, train: Tensor, batch: int) -> None:
    model.train()
    order = torch.randperm(len(train))
    for first in range(0, len(train), batch):
        part = train[order[first : first + batch]]
        loss = (model(part[:, :-1]) - part[:, -1]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


@torch.no_grad()
def _errors(model: Forecaster, windows: Tensor) -> Tensor:
    """Mean squared error of each window's newest step."""
    model.eval()
    found: Tensor = (model(windows[:, :-1]) - windows[:, -1]).square().mean(dim=1)
    return found
