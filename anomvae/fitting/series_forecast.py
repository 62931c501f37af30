"""The linear forecast of a step from the steps before it: fitted by ridge regression, judged on steps it has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from anomvae.fitting.series_preparation import FEW, TRAIN, VALIDATION, thinned
from anomvae.vae.autoregression import Autoregression

if TYPE_CHECKING:
    from anomvae.data.windows import Windows
    from anomvae.fitting.series_preparation import PreparedSeries
    from anomvae.vae.series import SeriesPreparation

Doubles = npt.NDArray[np.float64]

MOST_ORDER, MOST_INPUTS = 16, 1_024
"""Steps that a forecast looks back, and cells of all channels in them."""
LOOKED_BACK = 4
"""It looks back a quarter of the window at most: the rest of the window is foretold from all it asks for."""
MOST_CELLS = 2**23
"""Cells of the regression: targets are evenly thinned where there are more."""
STRENGTHS = tuple(10.0**power for power in range(-7, 4))
"""Of the ridge, relative to the mean square of the inputs."""
LEAST_VARIANCE = 1e-6
"""Of a forecast's errors, scaled units: no channel is known more surely than to a thousandth of its spread."""
SURE_CELLS = 50
"""Validation cells of a channel that check its forecast."""
BOUND = 1.5
"""Times the largest value of training: further out a channel is neither looked at nor foretold."""


@dataclass(frozen=True, slots=True)
class FittedForecast:
    """A fitted forecast.

    Attributes:
        network: The forecast.
        strength: Of the ridge that was best on validation steps.
        explained: Share of the variance of validation steps that their past explains, the mean over channels, from 0 to 1.
    """

    network: Autoregression
    strength: float
    explained: float


def order_of(window: int, channels: int) -> int:
    """Steps that a forecast in windows looks back; 0: there is none, windows are too short or channels too many.

    Example:
        >>> order_of(64, 8), order_of(64, 100), order_of(2, 8), order_of(64, 5_000)
        (16, 10, 1, 0)
    """
    if window < 2:  # noqa: PLR2004  a step and one before it
        return 0
    return min(MOST_ORDER, max(1, window // LOOKED_BACK), MOST_INPUTS // channels)


def fit_forecast(prepared: PreparedSeries, preparation: SeriesPreparation, window: int) -> FittedForecast | None:
    """Fits a forecast on training steps, as strongly shrunk as foretells validation steps best.

    Returns:
        None where there is too little to judge it by: a forecast that nobody has checked may be as wrong as it is sure.
    """
    held_out = prepared.observed(prepared.windows(window, VALIDATION, whole=False))
    order = order_of(window, len(prepared.columns))
    train = prepared.windows(window, TRAIN, whole=True)
    if not order or len(held_out) < FEW or len(train) < FEW:
        return None
    ridge = _Ridge(*_past_and_next(train, preparation, order))
    held_out = _fewer(held_out, order)
    values, mask = _cells(held_out, preparation)
    is_unseen = prepared.part[held_out.starts[:, None] + np.arange(window)] == VALIDATION
    unseen = _Unseen(values, mask, is_unseen, order)
    found = [(unseen.error(*ridge.solve(strength)), strength) for strength in STRENGTHS]
    error, strength = min(found, key=lambda each: float(np.log(each[0][unseen.moves]).sum()))
    explained = np.clip(1.0 - error / unseen.without, 0.0, 1.0) * unseen.moves
    solved = ridge.solve(strength)
    # a channel that validation does not hold, or holds still, is as unsure as it was in training, or as it is wide
    error = np.maximum(error, np.maximum(ridge.error(*solved), np.where(unseen.is_checked, 0.0, ridge.usual)))
    return FittedForecast(_network(*solved, error, ridge, order), strength, float(explained.mean()))


def refit_forecast(
    prepared: PreparedSeries, preparation: SeriesPreparation, window: int, fitted: FittedForecast
) -> FittedForecast:
    """The same forecast fitted on the training steps of `prepared`, which may be all there are, as sure of itself as before."""
    order = fitted.network.order
    ridge = _Ridge(*_past_and_next(prepared.windows(window, TRAIN, whole=True), preparation, order))
    error = fitted.network.variance.double().numpy()
    network = _network(*ridge.solve(fitted.strength), error, ridge, order)
    return FittedForecast(network, fitted.strength, fitted.explained)


class _Ridge:
    """Ridge regression of steps on their past, solved for any strength from one decomposition."""

    def __init__(self, past: Doubles, following: Doubles) -> None:
        channels = following.shape[1]
        self.bound = BOUND * np.maximum(
            np.abs(past).max(axis=0).reshape(-1, channels).max(axis=0), np.abs(following).max(axis=0)
        )
        self._inputs, self._targets = past, following
        self._past, self._following = past.mean(axis=0), following.mean(axis=0)
        past, following = past - self._past, following - self._following
        gram = past.T @ past
        self._scale = float(np.trace(gram)) / len(gram) + np.finfo(np.float64).tiny
        self._values, self._vectors = np.linalg.eigh(gram)
        self._turned = self._vectors.T @ (past.T @ following)
        self.usual = following.var(axis=0) + self._following**2

    def solve(self, strength: float) -> tuple[Doubles, Doubles]:
        """Coefficients ``(p * d, d)`` and bias ``(d,)``."""
        shrunk = np.maximum(self._values, 0.0) + strength * self._scale
        coefficients = self._vectors @ (self._turned / shrunk[:, None])
        return coefficients, self._following - self._past @ coefficients

    def error(self, coefficients: Doubles, bias: Doubles) -> Doubles:
        """Mean squared error of each channel on the steps it was solved for, ``(d,)``."""
        missed = self._targets - self._inputs @ coefficients - bias
        return np.asarray((missed**2).mean(axis=0) + LEAST_VARIANCE, np.float64)


class _Unseen:
    """Steps that a forecast is judged by: with 0 where cells are missing, as it will be used.

    Attributes:
        without: Variance of each channel, ``(d,)``: the error of one who foretells the mean.
        is_checked: Channels with cells enough to judge, ``(d,)``.
        moves: Those of them that do not stand still, or all; ``(d,)``.
    """

    def __init__(
        self, values: Doubles, mask: npt.NDArray[np.bool_], is_unseen: npt.NDArray[np.bool_], order: int
    ) -> None:
        self._past, self._following = _laid_out(np.where(mask, values, 0.0), order)
        past, there = (np.asarray(each, np.bool_) for each in _laid_out(mask, order))
        sure = np.logical_and(np.all(past, axis=1, keepdims=True), there)
        unseen = is_unseen[:, order:].reshape(-1, 1)
        sure, there = sure & unseen, there & unseen
        self._counts = np.where(sure.sum(axis=0) >= SURE_CELLS, sure, there)
        self.is_checked = self._counts.sum(axis=0) >= SURE_CELLS
        mean = (self._following * self._counts).sum(axis=0) / self._counts.sum(axis=0).clip(min=1)
        self.without = self._mean_square(self._following - mean)
        moves = self.is_checked & (self.without > 2.0 * LEAST_VARIANCE)
        self.moves = moves if moves.any() else np.ones(len(moves), dtype=np.bool_)

    def error(self, coefficients: Doubles, bias: Doubles) -> Doubles:
        """Mean squared error of each channel, ``(d,)``."""
        return self._mean_square(self._following - self._past @ coefficients - bias)

    def _mean_square(self, errors: Doubles) -> Doubles:
        total = (errors**2 * self._counts).sum(axis=0) / self._counts.sum(axis=0).clip(min=1)
        return np.asarray(total + LEAST_VARIANCE, np.float64)


def _network(coefficients: Doubles, bias: Doubles, variance: Doubles, ridge: _Ridge, order: int) -> Autoregression:
    channels = len(bias)
    kernel = coefficients.reshape(order, channels, channels).transpose(2, 1, 0)
    parts = (
        np.ascontiguousarray(each, dtype=np.float32) for each in (kernel, bias, variance, ridge.usual, ridge.bound)
    )
    return Autoregression(*(torch.from_numpy(part) for part in parts)).eval()


def _past_and_next(windows: Windows, preparation: SeriesPreparation, order: int) -> tuple[Doubles, Doubles]:
    values, mask = _cells(_fewer(windows, order), preparation)
    past, following = _laid_out(_carried_on(values, mask), order)
    known = np.asarray(_laid_out(mask, order)[1], np.bool_)
    whole, part = np.all(known, axis=1), np.any(known, axis=1)
    there = whole if whole.sum() >= max(SURE_CELLS, 2 * past.shape[1]) else part
    return (past[there], following[there]) if there.any() else (past, following)


def _fewer(windows: Windows, order: int) -> Windows:
    """Windows that hold most steps once, and not more than the regression bears."""
    cells = order * windows.sequences.values.shape[1]
    step = max(1, windows.window - order)
    sequence = windows.sequences.sequence[windows.starts]
    begins = np.diff(sequence, prepend=-1) != 0
    since = windows.starts - windows.starts[begins][np.cumsum(begins) - 1]
    apart = windows.take(np.flatnonzero((since % step == 0) | (np.diff(sequence, append=-1) != 0)))
    return thinned(apart if len(apart) >= FEW else windows, max(FEW, MOST_CELLS // (cells * step)))


def _cells(windows: Windows, preparation: SeriesPreparation) -> tuple[Doubles, npt.NDArray[np.bool_]]:
    encoded = windows.encoded()
    with torch.no_grad():
        values, mask = preparation(
            torch.from_numpy(np.ascontiguousarray(encoded.series)), torch.from_numpy(encoded.asset)
        )
    return values.double().numpy(), mask.numpy() > 0


def _carried_on(values: Doubles, mask: npt.NDArray[np.bool_]) -> Doubles:
    """Missing cells as the last before them in the window, or 0."""
    last = np.maximum.accumulate(np.where(mask, np.arange(values.shape[1])[:, None], 0), axis=1)
    return np.take_along_axis(values, last, axis=1)


def _laid_out(steps: npt.NDArray[np.generic], order: int) -> tuple[Doubles, Doubles]:
    """The p steps before each step, the latest last, ``(n, p * d)``, and the step, ``(n, d)``."""
    d = steps.shape[2]
    seen = np.lib.stride_tricks.sliding_window_view(steps, order + 1, axis=1).transpose(0, 1, 3, 2)
    return seen[:, :, :order].reshape(-1, order * d), seen[:, :, order].reshape(-1, d)
