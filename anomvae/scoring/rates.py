"""Which alarm rates a detector's calibration rows support."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomvae.bundle.promise import least_share, rows_needed
from anomvae.calibration.conformal import check_alarm_rate
from anomvae.errors import TooFewRowsError

if TYPE_CHECKING:
    from anomvae.bundle import Manifest

SMALLEST = 1e-12
"""Below this a rate takes more rows than anyone has, and than arithmetic can tell."""


def require_supported(manifest: Manifest, alarm_rate: float | None) -> None:
    """Refuses a rate that the calibration rows do not support.

    Args:
        manifest: The detector's.
        alarm_rate: Share of normal rows that may alarm; None, the detector's own, passes.

    Raises:
        SettingError: It is no share.
        TooFewRowsError: It is below the smallest rate.
    """
    if alarm_rate is None:
        return
    check_alarm_rate(alarm_rate)
    calibration = manifest.calibration
    needed = rows_needed(max(least_share(alarm_rate, calibration.decision), SMALLEST))
    if needed > calibration.rows:
        smallest = calibration.smallest_alarm_rate / least_share(1.0, calibration.decision)
        raise TooFewRowsError(
            f"an alarm rate of {alarm_rate:g} takes {needed:,} calibration rows, {manifest.name!r} was calibrated "
            f"on {calibration.rows:,}; the smallest rate it supports is {smallest:.2g}",
            needed,
        )
