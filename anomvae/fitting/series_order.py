"""The judges of whole windows: what they are held against, and how much the order of steps tells them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from anomvae.fitting.series_preparation import FEW, TRAIN, VALIDATION, thinned
from anomvae.vae.discords import WindowExemplars

if TYPE_CHECKING:
    from anomvae.fitting.series_preparation import PreparedSeries
    from anomvae.vae.series import SeriesPreparation, SeriesScorer

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

MOST_EXEMPLARS, MOST_CELLS = 3_000, 2**21
"""Windows kept, and cells of all of them: a window is held against each."""
AMPLE_WINDOWS = 10
"""Windows that share no step from which on most of what they tell is believed."""
MOST_SPLICED, ENOUGH_SPLICED, MOST_ROUNDS = 1_000, 500, 8
CHUNK_CELLS = 2**20


class Order(NamedTuple):
    """What judges of windows tell of the order of steps.

    Attributes:
        window: Chance that a normal window whose second half is that of another costs the window member more than a whole one.
        distance: Chance that it lies further from known windows.
    """

    window: float
    distance: float


@torch.no_grad()
def window_exemplars(prepared: PreparedSeries, preparation: SeriesPreparation, window: int) -> WindowExemplars:
    """Windows of training steps, evenly thinned where there are too many."""
    windows = prepared.windows(window, TRAIN, whole=True)
    most = max(1, min(MOST_EXEMPLARS, MOST_CELLS // (window * len(prepared.columns))))
    encoded = thinned(windows, most).encoded()
    values, _ = preparation(torch.from_numpy(np.ascontiguousarray(encoded.series)), torch.from_numpy(encoded.asset))
    return WindowExemplars(values)


@torch.no_grad()
def judge_order(scorer: SeriesScorer, prepared: PreparedSeries, seed: int) -> Order:
    """Splices normal validation windows of an asset, half by half, and looks who notices.

    Each step of a spliced window is as normal as it was: only what knows the order of steps can tell. How well a detector
    notices anomalies made from normal data says which one to choose (Goswami et al., 2023, arXiv:2210.01078).

    What few windows tell is drawn towards one half: a distance from a handful of them says little of those to come, and their
    calibration less.

    Returns:
        One half each, as one who guesses, where there are too few windows.
    """
    windows = prepared.observed(prepared.windows(scorer.window, VALIDATION, whole=False))
    guess = Order(0.5, 0.5)
    if len(windows) < FEW or scorer.window < 2 or scorer.window_model is None:  # noqa: PLR2004  halves
        return guess
    windows = thinned(windows, MOST_SPLICED)
    encoded = windows.encoded()
    values, mask = scorer.preparation(
        torch.from_numpy(np.ascontiguousarray(encoded.series)), torch.from_numpy(encoded.asset)
    )
    draw = np.random.default_rng([seed, 7])
    whole = _judged(scorer, values, mask)
    rounds = min(MOST_ROUNDS, -(-ENOUGH_SPLICED // len(windows)))
    spliced = []
    for _ in range(rounds):
        other = torch.from_numpy(_partners(encoded.asset, windows.starts, scorer.window, draw))
        parts = (
            torch.cat([each[:, : scorer.window // 2], each[other, scorer.window // 2 :]], 1) for each in (values, mask)
        )
        spliced.append(_judged(scorer, *parts))
    apart = _windows_apart(prepared, scorer.window)
    kept = apart / (apart + AMPLE_WINDOWS)
    chances = (_auroc(normal, strange) for normal, strange in zip(whole, np.concatenate(spliced, 1), strict=True))
    return Order(*(0.5 + kept * (chance - 0.5) for chance in chances))


def _windows_apart(prepared: PreparedSeries, window: int) -> int:
    """Windows of training steps that share none."""
    starts = prepared.windows(window, TRAIN, whole=True).starts
    sequence = prepared.sequences.sequence[starts]
    return sum(-(-int(count) // window) for count in np.unique(sequence, return_counts=True)[1])


def _judged(scorer: SeriesScorer, values: torch.Tensor, mask: torch.Tensor) -> FloatArray:
    """Nats a step of the window member, and the distance, of windows; shape ``(2, n)``."""
    assert scorer.window_model is not None  # noqa: S101  for the type checker
    assert scorer.exemplars is not None  # noqa: S101  likewise
    found = []
    size = max(1, CHUNK_CELLS // (scorer.window * max(64, scorer.channels)))
    for few, seen in zip(torch.split(values, size), torch.split(mask, size), strict=True):
        told, observed = scorer.window_model(few, seen), (seen.sum(2) > 0).to(seen.dtype)
        cost = ((told.cost.sum(2) + told.divergence) * observed).sum(1) / observed.sum(1).clamp(min=1.0)
        found.append(torch.stack([cost, scorer.exemplars(few, seen).distance]))
    joined: FloatArray = torch.cat(found, dim=1).numpy()
    return joined


def _partners(asset: IntArray, start: IntArray, window: int, draw: np.random.Generator) -> IntArray:
    """Another window of the same asset for each, by chance, that shares no step with it; the farthest where all do."""
    partner = np.empty(len(asset), dtype=np.int64)
    for code in np.unique(asset):
        own = np.flatnonzero(asset == code)
        apart = np.abs(start[own][:, None] - start[own])
        chance = np.where(apart >= min(window, apart.max(initial=0)), draw.random(apart.shape), -1.0)
        chance[apart.max(axis=1) < window] = apart[apart.max(axis=1) < window]
        partner[own] = own[chance.argmax(axis=1)]
    return partner


def _auroc(normal: FloatArray, strange: FloatArray) -> float:
    """Chance that one of the second kind is higher than one of the first (Mann and Whitney)."""
    from sklearn.metrics import roc_auc_score

    scores = np.nan_to_num(np.concatenate([normal, strange]), nan=0.0, posinf=float(np.finfo(np.float32).max))
    return float(roc_auc_score(np.repeat([0, 1], [len(normal), len(strange)]), scores))
