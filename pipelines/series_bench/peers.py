"""Detectors of series to compare with, each in the settings it is measured in."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.accuracy_bench.peers import installed_version
from pipelines.series_bench.steps import StepScores, drawn_in, scores_of_windows, training_windows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anomvae.data.series import Sequences
    from pipelines.series_bench.steps import Cells, Floats

    Score = Callable[[Cells], Floats]
    Fit = Callable[[Cells, Mapping[str, Any], int], Score]
    Smooth = Callable[[StepScores, Sequences, int], StepScores]

MOST_WINDOWS = 20_000
"""Training windows; more are evenly thinned."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A detector in one setting.

    Attributes:
        family: What it is; its best setting counts.
        window: Steps in its windows.
        package: That it comes from.
        fit: Fits training windows by settings and a seed; gives the function that scores windows or their steps.
        settings: Of the fit.
        seeded: Whether it draws.
        smooth: What becomes of the scores along a sequence; None: nothing.
        draw_in: Whether far values are drawn in by their logarithm, as our own detector does.
    """

    family: str
    window: int
    package: str
    fit: Fit
    settings: Mapping[str, Any] = field(default_factory=dict)
    seeded: bool = True
    smooth: Smooth | None = None
    draw_in: bool = False

    @property
    def version(self) -> str:
        """What the scores depend on beside the rows."""
        settings = json.dumps(dict(self.settings), sort_keys=True)
        return f"{self.package} {installed_version(self.package)} {settings}"

    def learn(self, train: Sequences, seed: int) -> Callable[[Sequences], StepScores]:
        """Fits scaled training steps; gives the function that scores scaled steps."""
        prepared = drawn_in if self.draw_in else _as_they_are
        score = self.fit(training_windows(prepared(train), self.window, MOST_WINDOWS), self.settings, seed)

        def scores(steps: Sequences) -> StepScores:
            found = scores_of_windows(prepared(steps), self.window, score)
            return found if self.smooth is None else self.smooth(found, steps, self.window)

        return scores


def _flat(windows: Cells) -> Cells:
    return windows.reshape(len(windows), -1)


def _pca(windows: Cells, settings: Mapping[str, Any], seed: int) -> Score:
    """Squared error of each step by the components that explain a share of the windows' variance."""
    from sklearn.decomposition import PCA

    found = PCA(settings["variance"], svd_solver="full", random_state=seed).fit(_flat(windows))

    def score(windows: Cells) -> Floats:
        rows = _flat(windows)
        wrong = rows - found.inverse_transform(found.transform(rows))
        each: Floats = np.square(wrong.reshape(windows.shape), dtype=np.float64).mean(axis=2)
        return each.mean(axis=1) if settings["whole"] else each

    return score


def _k_means(windows: Cells, settings: Mapping[str, Any], seed: int) -> Score:
    """Distance to the nearest centre."""
    from sklearn.cluster import KMeans

    found = KMeans(min(settings["clusters"], len(windows)), n_init=3, random_state=seed).fit(_flat(windows))
    return lambda windows: found.transform(_flat(windows)).min(axis=1).astype(np.float64)


def _iforest(windows: Cells, settings: Mapping[str, Any], seed: int) -> Score:
    from sklearn.ensemble import IsolationForest

    found = IsolationForest(**settings, random_state=seed).fit(_flat(windows))
    return lambda windows: -found.score_samples(_flat(windows))


def _neighbour(windows: Cells, _settings: Mapping[str, Any], _seed: int) -> Score:
    """Distance to the nearest training window."""
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(_flat(windows))
    return lambda windows: found.kneighbors(_flat(windows))[0][:, 0].astype(np.float64)


def _pyod_vae(windows: Cells, settings: Mapping[str, Any], seed: int) -> Score:
    from pyod.models.vae import VAE

    found = VAE(**settings, random_state=seed, verbose=0)
    found.fit(_flat(windows))
    return lambda windows: np.asarray(found.decision_function(_flat(windows)), dtype=np.float64)


def _forecaster(windows: Cells, settings: Mapping[str, Any], seed: int) -> Score:
    """Squared error of the newest step alone."""
    from pipelines.series_bench.forecaster import ForecasterSettings, fit_forecaster

    error = fit_forecaster(windows, ForecasterSettings(**settings), seed)

    def score(windows: Cells) -> Floats:
        each = np.full(windows.shape[:2], np.nan)
        each[:, -1] = error(windows)
        return each

    return score


def _exponential(found: StepScores, steps: Sequences, span: int) -> StepScores:
    """Mean of the past of each sequence with exponentially falling weights, batch and online alike.

    References:
        Detecting Spacecraft Anomalies Using LSTMs and Nonparametric Dynamic Thresholding (Hundman et al., KDD 2018)
    """
    import pandas as pd

    smoothed = pd.Series(found.online).groupby(steps.sequence).transform(lambda own: own.ewm(span=span).mean())
    past = np.where(np.isnan(found.online), np.nan, smoothed.to_numpy())
    return StepScores(past, past)


def _families(window: int) -> dict[str, Peer]:
    sk = "scikit-learn"
    found = {
        f"PCA {window}": Peer("PCA", window, sk, _pca, {"variance": 0.9, "whole": False}, seeded=False),
        f"PCA {window} mean": Peer("PCA", window, sk, _pca, {"variance": 0.9, "whole": True}, seeded=False),
        f"k-means {window}": Peer("k-means", window, sk, _k_means, {"clusters": 20}),
        f"IForest {window}": Peer("IForest", window, sk, _iforest, {"n_estimators": 200}),
        f"CNN forecaster {window}": Peer("CNN forecaster", window, "torch", _forecaster, smooth=_exponential),
        f"PyOD VAE {window}": Peer("PyOD VAE", window, "pyod", _pyod_vae),
        f"1-NN {window}": Peer("1-NN", window, sk, _neighbour, seeded=False),
    }
    return found | {
        f"{name} drawn in": replace(peer, draw_in=True)
        for name, peer in found.items()
        if peer.family in {"k-means", "IForest", "1-NN", "PyOD VAE"}
    }


def _as_they_are(steps: Sequences) -> Sequences:
    return steps


PEERS: dict[str, Peer] = {
    "PCA rows": Peer("PCA", 1, "scikit-learn", _pca, {"variance": 0.9, "whole": False}, seeded=False),
    "1-NN rows": Peer("1-NN", 1, "scikit-learn", _neighbour, seeded=False),
    **_families(16),
    **_families(64),
}
