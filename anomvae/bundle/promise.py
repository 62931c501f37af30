"""What a stated alarm rate takes in rows, and what may give the verdict."""

from __future__ import annotations

import math

DECISIONS = ("elbo", "reconstruction", "both")
"""What gives the verdict: the score, the reconstruction error, or both together at one rate."""


def rows_needed(alarm_rate: float) -> int:
    """Calibration rows that a stated alarm rate needs: the smallest p-value, 1 / (m + 1), must not exceed it.

    Example:
        >>> rows_needed(0.01)
        99
    """
    return max(1, math.ceil(1.0 / alarm_rate - 1e-9) - 1)
