"""Our own detector as users get it: a bundle fitted on a table in raw units, scored by the product's scorer."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

import anomvae
from anomvae.errors import TooFewRowsError
from anomvae.fitting import FitSettings, fit_bundle
from anomvae.scoring import Scorer
from anomvae.training.settings import TrainingSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anomvae.bundle import Bundle
    from pipelines.accuracy_bench.peers import Score
    from pipelines.accuracy_bench.protocol import Floats

CODE = ("vae", "training", "export", "fitting", "data", "calibration", "scoring")
"""Packages whose code decides the scores: a change in them makes a new version."""
HIGHER_RATES = (0.05, 0.1, 0.2)
"""Alarm rates for tables whose rows do not support the default one; scores do not depend on the rate, the split does."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to fit our detector.

    Attributes:
        settings: Fields of :class:`FitSettings` beyond the defaults; the seed is the run's.
    """

    settings: Mapping[str, Any]

    @property
    def version(self) -> str:
        """Digest of the code and of all settings."""
        text = f"{code_digest()} {FitSettings(**self.settings)}"
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def fit(self, train: pa.Table, seed: int, max_steps: int | None = None) -> Score:
        """Fits a table in raw units; gives the function that scores rows of the same columns; see :meth:`scorer`."""
        scorer = self.scorer(train, seed, max_steps)

        def score(rows: Floats) -> Floats:
            found: Floats = scorer.score(as_table(rows))["score"].to_numpy()
            return found

        return score

    def scorer(self, train: pa.Table, seed: int, max_steps: int | None = None) -> Scorer:
        """Fits a table in raw units; gives the product's scorer, on one thread.

        Args:
            train: Training rows.
            seed: Of the fit.
            max_steps: Most steps of the training; None: the default.

        Raises:
            AnomvaeError: The rows cannot be learnt from.
        """
        training = (
            TrainingSettings(seed=seed) if max_steps is None else TrainingSettings(seed=seed, max_steps=max_steps)
        )
        settings = FitSettings(**{"name": "accuracy", **self.settings, "training": training})
        with tempfile.TemporaryDirectory() as folder:
            return Scorer(_bundle(train, settings, Path(folder) / "bundle", HIGHER_RATES), threads=1)


def _bundle(train: pa.Table, settings: FitSettings, folder: Path, higher: tuple[float, ...]) -> Bundle:
    """The bundle of a fit at the stated alarm rate, or at the first higher one that the rows support."""
    try:
        return fit_bundle(train, settings, folder).bundle
    except TooFewRowsError:
        if not higher:
            raise
        return _bundle(train, replace(settings, alarm_rate=higher[0]), folder, higher[1:])


def as_table(rows: Floats) -> pa.Table:
    """Rows as a table of doubles with columns `c0`, `c1` and so on."""
    return pa.table({f"c{j}": column for j, column in enumerate(rows.T.copy())})


@cache
def code_digest() -> str:
    """Digest of the code that decides the scores."""
    root = Path(anomvae.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for package in CODE for path in (root / package).rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def offered(variants: Mapping[str, Mapping[str, Any]]) -> dict[str, Variant]:
    """The variants whose settings this version of the product has."""
    known = {field.name for field in fields(FitSettings)}
    return {name: Variant(settings) for name, settings in variants.items() if settings.keys() <= known}


DEFAULT = "anomvae"
OURS = offered(
    {
        DEFAULT: {},
        "anomvae quick": {"effort": "quick"},
        "anomvae best": {"effort": "best"},
        "anomvae private": {"private": True},
    }
)
