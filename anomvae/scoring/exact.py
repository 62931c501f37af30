"""The graph's float32 answers as people and files get them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from anomvae.bundle import Manifest


FLAGS = ("alarm", "tail", "pooled")


def exact(manifest: Manifest, name: str, answers: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """One output in double precision; flags as booleans.

    Conformal p-values of a calibration without groups, confidence, tail or order of time come as the exact multiples of 1 / (m + 1) that
    they are, others with the digits that float32 has.

    Args:
        manifest: The detector's; m is its number of calibration rows.
        name: Name of the output.
        answers: As the graph gave it, n entries.
    """
    if name in FLAGS:
        return np.asarray(answers, dtype=np.bool_)
    wide = np.asarray(answers, dtype=np.float64)
    if not name.startswith("p_value"):
        return wide
    calibration = manifest.calibration
    stepped = calibration.confidence is None and calibration.tail is None and calibration.effective_rows is None
    if calibration.groups or not stepped:
        return np.minimum(1.0, _rounded(answers))
    return np.rint(wide * (calibration.rows + 1)) / (calibration.rows + 1)


def _rounded(answers: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """To seven digits: what lies beyond is the noise of float32. Tables hold the float32 below a p-value: one step up is it."""
    wide = np.nextafter(np.asarray(answers, dtype=np.float32), np.float32(2.0)).astype(np.float64)
    scale = 10.0 ** (6.0 - np.floor(np.log10(wide)))
    rounded: npt.NDArray[np.float64] = np.rint(wide * scale) / scale
    return rounded
