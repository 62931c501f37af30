"""The graph's float32 answers as people and files get them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from anomvae.bundle import Manifest


def exact(manifest: Manifest, name: str, answers: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """One output in double precision; p-values as the exact multiples of 1 / (m + 1) that they are, `alarm` as booleans.

    Args:
        manifest: The detector's; m is its number of calibration rows.
        name: Name of the output.
        answers: As the graph gave it, n entries.
    """
    if name == "alarm":
        return np.asarray(answers, dtype=np.bool_)
    wide = np.asarray(answers, dtype=np.float64)
    if name.startswith("p_value"):
        return np.rint(wide * (manifest.calibration.rows + 1)) / (manifest.calibration.rows + 1)
    return wide
