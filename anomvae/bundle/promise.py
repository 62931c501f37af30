"""What a stated alarm rate takes: in rows, and shared between the two scores."""

from __future__ import annotations

import math

DECISION_SHARES = {"elbo": (1.0, 0.0), "reconstruction": (0.0, 1.0), "either": (0.5, 0.5)}
"""Share of the alarm rate that each p-value may spend: the score's, then the reconstruction error's.

At half each the union of both keeps the rate, however they depend on one another.
"""


def rows_needed(alarm_rate: float) -> int:
    """Calibration rows that a stated alarm rate needs: the smallest p-value, 1 / (m + 1), must not exceed it.

    Example:
        >>> rows_needed(0.01)
        99
    """
    return max(1, math.ceil(1.0 / alarm_rate - 1e-9) - 1)


def least_share(alarm_rate: float, decision: str) -> float:
    """The rate that each deciding p-value must support.

    Example:
        >>> least_share(0.02, "elbo"), least_share(0.02, "either")
        (0.02, 0.01)
    """
    return alarm_rate * min(share for share in DECISION_SHARES[decision] if share)
