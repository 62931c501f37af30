"""What a fresh detector notices: faults put into its own normal rows, each answered as if the detector had not met the row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from anomvae.data.encoding import EncodedRows
from anomvae.evaluation.power import measure_power
from anomvae.evaluation.power_result import MIN_ROWS, PowerSettings

if TYPE_CHECKING:
    import numpy.typing as npt

    from anomvae.bundle import Manifest
    from anomvae.calibration import Calibrated
    from anomvae.evaluation.power_result import PowerResult
    from anomvae.fitting.model import FittedModel
    from anomvae.fitting.preparation import PreparedData

ROWS = 100
BUDGET_ROWS = 12_000
"""Faulty rows a fit makes: a fraction of a second. `anomvae power` takes its time."""
MOST_COLUMNS = 100
"""Wider tables are left to `anomvae power`: every column takes at least 20 rows a fault."""


def measure_fit(
    manifest: Manifest, prepared: PreparedData, fitted: FittedModel, calibrated: Calibrated
) -> PowerResult | None:
    """Power on rows that calibrate, out of member; None where there are too few, or too many columns.

    Args:
        manifest: Columns, groups, alarm rate, seed.
        prepared: The rows.
        fitted: Answers for faulty rows in the place of those they were made from.
        calibrated: Gives the verdicts.
    """
    positions = prepared.split.calibration
    if len(positions) < MIN_ROWS or len(manifest.columns) > MOST_COLUMNS:
        return None
    draw = np.random.default_rng([manifest.provenance.seed, 7])
    positions = np.sort(draw.choice(positions, min(len(positions), ROWS), replace=False))
    rows, groups = prepared.normal.take(positions), prepared.groups(positions)
    numbers = {group.name: number for number, group in enumerate(manifest.calibration.groups)}
    group = None if groups is None else np.array([numbers.get(name or "", -1) for name in groups], dtype=np.int64)
    rate = manifest.calibration.alarm_rate

    def alarms(
        numeric: npt.NDArray[np.float32], categorical: npt.NDArray[np.int64], of: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        found = fitted.explain(EncodedRows(numeric, categorical), positions[of])
        score, error = (found[name].astype(np.float32) for name in ("score", "reconstruction_error"))
        return calibrated.tables.verdicts(score, error, rate, None if group is None else group[of]).alarm

    settings = PowerSettings(rate, rows=ROWS, budget_rows=BUDGET_ROWS, seed=manifest.provenance.seed)
    return measure_power(alarms, rows.numeric, rows.categorical, manifest.columns, settings)
