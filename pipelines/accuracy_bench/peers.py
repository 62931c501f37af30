"""Detectors of other libraries, fitted on standardised rows with their own defaults."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipelines.accuracy_bench.protocol import Floats

Score = Callable[["Floats"], "Floats"]
FAR = 1e6
"""Standard deviations that an infinite cell counts as."""


ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Peer:
    """A detector to compare with.

    Attributes:
        package: That it comes from.
        settings: Beyond the package's defaults; the seed is the run's.
        fit: Fits training rows by these settings and a seed; gives the function that scores rows, higher is stranger.
    """

    package: str
    settings: Mapping[str, Any]
    fit: Callable[[Floats, Mapping[str, Any], int], Score]

    @property
    def version(self) -> str:
        """What the figures depend on beside the rows: the package's version and the settings."""
        settings = json.dumps(dict(self.settings), sort_keys=True)
        return f"{self.package} {installed_version(self.package)} {settings}"


def installed_version(package: str) -> str:
    """Version of a package, :data:`ABSENT` where it is not installed: reading results does without peers."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ABSENT


@dataclass(frozen=True, slots=True)
class Standardiser:
    """Puts columns on the training rows' scale: missing cells become the mean, constant columns are divided by 1.

    Attributes:
        mean: Shape ``(d,)``.
        scale: Shape ``(d,)``.
    """

    mean: Floats
    scale: Floats

    @classmethod
    def of(cls, train: Floats) -> Standardiser:
        """The scale of training rows, their finite cells alone."""
        cells = np.ma.masked_invalid(train)
        mean = cells.mean(axis=0).filled(0.0)
        scale = cells.std(axis=0).filled(1.0)
        constant = (cells.max(axis=0) == cells.min(axis=0)).filled(True) | (scale == 0)  # noqa: FBT003  a fill value
        return cls(mean, np.where(constant, 1.0, scale))

    def __call__(self, rows: Floats) -> Floats:
        """Rows in standard deviations; infinite cells count as a million of them."""
        scaled: Floats = np.nan_to_num((rows - self.mean) / self.scale, nan=0.0, posinf=FAR, neginf=-FAR)
        return scaled


def _pyod(module: str, name: str, *, seeded: bool = False) -> Callable[[Floats, Mapping[str, Any], int], Score]:
    def fit(rows: Floats, settings: Mapping[str, Any], seed: int) -> Score:
        kind = getattr(importlib.import_module(f"pyod.models.{module}"), name)
        detector = kind(**settings, **({"random_state": seed} if seeded else {}))
        detector.fit(rows)
        score: Score = detector.decision_function
        return score

    return fit


def _lof(rows: Floats, settings: Mapping[str, Any], _seed: int) -> Score:
    from sklearn.neighbors import LocalOutlierFactor

    detector = LocalOutlierFactor(**settings).fit(rows)
    return lambda rows: -detector.score_samples(rows)


def _pca(rows: Floats, settings: Mapping[str, Any], seed: int) -> Score:
    """Squared component scores over their variances, summed: A Novel Anomaly Detection Scheme Based on PCC (Shyu et al., 2003).

    Components of next to no variance are left out. PyOD's PCA divides by them, and then cannot rank tables whose columns
    depend on each other; by its defaults it is weaker on the other tables too.
    """
    from sklearn.decomposition import PCA

    found = PCA(random_state=seed).fit(rows)
    variance = found.explained_variance_
    kept = variance > settings["least_variance"] * variance.max()
    return lambda rows: (found.transform(rows)[:, kept] ** 2 / variance[kept]).sum(axis=1)


def _neighbours(rows: Floats, settings: Mapping[str, Any], _seed: int) -> Score:
    """Mean distance to the nearest training rows."""
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=min(settings["n_neighbors"], len(rows))).fit(rows)
    return lambda rows: index.kneighbors(rows)[0].mean(axis=1)


def _mixture(rows: Floats, settings: Mapping[str, Any], seed: int) -> Score:
    """Gaussian mixture of full covariances whose number of components has the least BIC; stops after a few that are worse."""
    from sklearn.mixture import GaussianMixture

    rows = rows[np.random.default_rng(seed).permutation(len(rows))[: settings["most_rows"]]]
    best, least, worse = None, np.inf, 0
    for components in range(1, min(settings["most_components"], len(rows)) + 1):
        found = GaussianMixture(components, reg_covar=settings["reg_covar"], random_state=seed).fit(rows)
        bic = found.bic(rows)
        if bic < least:
            best, least, worse = found, bic, 0
        else:
            worse += 1
        if worse == settings["patience"]:
            break
    if best is None:
        raise ValueError("no mixture has a finite BIC")
    chosen = best
    return lambda rows: -chosen.score_samples(rows)


MIXTURE = {"most_components": 20, "most_rows": 5_000, "reg_covar": 1e-6, "patience": 3}

PEERS: dict[str, Peer] = {
    "PyOD VAE": Peer("pyod", {"verbose": 0}, _pyod("vae", "VAE", seeded=True)),
    "PyOD AutoEncoder": Peer("pyod", {"verbose": 0}, _pyod("auto_encoder", "AutoEncoder", seeded=True)),
    "LOF": Peer("scikit-learn", {"novelty": True}, _lof),
    "IForest": Peer("pyod", {}, _pyod("iforest", "IForest", seeded=True)),
    "ECOD": Peer("pyod", {}, _pyod("ecod", "ECOD")),
    "OCSVM": Peer("pyod", {}, _pyod("ocsvm", "OCSVM")),
    "PCA": Peer("scikit-learn", {"least_variance": 1e-10}, _pca),
    "Gaussian mixture": Peer("scikit-learn", MIXTURE, _mixture),
    "1-NN": Peer("scikit-learn", {"n_neighbors": 1}, _neighbours),
    "5-NN": Peer("scikit-learn", {"n_neighbors": 5}, _neighbours),
}
