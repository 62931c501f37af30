"""Detectors of the shared fit with other calibrations: groups, both scores, a tail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from anomvae.fitting.recalibration import RecalibrationSettings, recalibrate_bundle
from tests.conftest import mixed_table

if TYPE_CHECKING:
    from pathlib import Path

    from anomvae.bundle import Bundle

SITES = ("north", "south", "east")
"""Groups of :func:`sites`; the last is too small for a calibration of its own."""


def sites(n: int = 600, seed: int = 5) -> pa.Table:
    """Rows of the made-up press at several sites."""
    drawn = np.random.default_rng(seed).choice(SITES, n, p=(0.55, 0.43, 0.02))
    return mixed_table(n, seed).append_column("site", pa.array(drawn.tolist(), pa.string()))


def recalibrated(bundle: Bundle, folder: Path, **settings: object) -> Bundle:
    """The bundle calibrated anew on :func:`sites`."""
    return recalibrate_bundle(sites(), bundle, RecalibrationSettings(**settings), folder).bundle  # type: ignore[arg-type]
