"""`anomvae.fit`: a fit in one call from Python."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomvae.detector import Detector
from anomvae.fitting.fit import fit_bundle
from anomvae.fitting.series import fit_series_bundle
from anomvae.fitting.settings import settings_from, settings_from_toml

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomvae.training.loop import Hook


def fit(
    data: Any,
    *,
    config: str | Path | None = None,
    out: str | Path | None = None,
    hooks: Sequence[Hook] = (),
    **settings: Any,
) -> Detector:
    """Fits, calibrates and exports a detector of normal rows.

    Args:
        data: A pandas or Arrow table, or a file, folder or glob of Parquet, CSV, Arrow or JSON lines.
        config: A TOML file of settings; keywords overrule it.
        out: Folder for the bundle; None: a temporary one that goes with the detector (`Detector.save` keeps it).
        hooks: Told of every step and check of the training.
        **settings: Fields of :class:`anomvae.fitting.FitSettings`: `name`, `alarm_rate`, `decision`, `label`, `time`, `by`,
            `window` and its companions, `drop`, `columns`, `keep_constant`, `model` and `training` (dicts, or their settings), and `seed` and `device`.

    Returns:
        The detector.

    Raises:
        InputError: The data or the settings are wrong; the message says what to do.

    Example:
        >>> import anomvae
        >>> detector = anomvae.fit("normal.parquet", alarm_rate=0.01, drop=["batch"])  # doctest: +SKIP
    """
    chosen = settings_from_toml(Path(config), settings) if config else settings_from({}, settings)
    fit_one = fit_bundle if chosen.window is None else fit_series_bundle
    if out is not None:
        return Detector(fit_one(data, chosen, Path(out), hooks=hooks).bundle)
    folder = tempfile.mkdtemp(prefix="anomvae-")
    try:
        detector = Detector(fit_one(data, chosen, Path(folder) / chosen.name, hooks=hooks).bundle)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(detector, shutil.rmtree, folder, ignore_errors=True)
    return detector
