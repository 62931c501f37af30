"""Which alarm rates a detector's calibration rows support."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from anomvae.bundle.promise import rows_needed
from anomvae.calibration.conformal import check_alarm_rate
from anomvae.errors import SettingError, TooFewRowsError

if TYPE_CHECKING:
    from anomvae.bundle import Calibration, Manifest

SMALLEST = 1e-12
"""Below this a rate takes more rows than anyone has, and than arithmetic can tell."""


def asked_rate(manifest: Manifest, alarm_rate: float | None) -> float | None:
    """The alarm rate that a request puts in the place of the detector's own.

    Args:
        manifest: The detector's.
        alarm_rate: Share of normal rows that may alarm, as the request states it; None: it states none.

    Returns:
        None where it is the detector's own: the graph needs no input for that.

    Raises:
        SettingError: It is no share, or smaller than any number of rows supports.
        TooFewRowsError: The calibration rows do not support it.
    """
    if alarm_rate == manifest.calibration.alarm_rate:
        return None
    require_supported(manifest, alarm_rate)
    return alarm_rate


def require_supported(manifest: Manifest, alarm_rate: float | None) -> None:
    """Refuses a rate that the calibration rows do not support.

    Args:
        manifest: The detector's.
        alarm_rate: Share of normal rows that may alarm; None, the detector's own, passes.

    Raises:
        SettingError: It is no share, or smaller than any number of rows supports.
        TooFewRowsError: It is below the smallest rate.
    """
    if alarm_rate is None:
        return
    check_alarm_rate(alarm_rate)
    if alarm_rate < SMALLEST:
        raise SettingError(
            f"an alarm rate below {SMALLEST:g} takes more calibration rows than can be; state a larger one"
        )
    calibration = manifest.calibration
    if alarm_rate < calibration.smallest_alarm_rate * (1.0 - 1e-9):
        rows = _rows(calibration)
        # A bound that holds with a confidence takes more rows in the same proportion, a tail fewer.
        share = calibration.smallest_alarm_rate * (rows + 1)
        needed = math.ceil((rows_needed(alarm_rate) + 1) * share - 1e-6) - 1
        where = "the smallest group of " if calibration.groups else ""
        raise TooFewRowsError(
            f"an alarm rate of {alarm_rate:g} takes {needed:,} calibration rows, {where}{manifest.name!r} was calibrated "
            f"on {rows:,}; the smallest rate it supports is {calibration.smallest_alarm_rate:.2g}",
            needed,
        )


def _rows(calibration: Calibration) -> int:
    """Rows of the smallest table."""
    return min([calibration.rows, *(group.rows for group in calibration.groups)])
