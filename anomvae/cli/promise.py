"""What a calibration promises, as the commands print it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anomvae.bundle import Calibration, Manifest

NEVER = 3e38
NATS = "nats"
SPREADS = "spreads of normal steps"
"""The unit of a series detector's score."""
HOW = {
    "cross": "each scored by a network that has not seen it",
    "split": "which trained no network",
}
REFITTED = "scored by a network that had not seen them (the one kept was then trained on all {steps:,} steps)"


def promise(calibration: Calibration, unit: str = NATS, refitted_on: int | None = None) -> list[str]:
    """Lines that say what is promised, and on what it rests.

    Args:
        calibration: What is promised.
        unit: Of the score.
        refitted_on: Steps, those that calibrate among them, that the detector was trained on thereafter; None: it was not.
    """
    from anomvae.calibration import Budget
    from anomvae.report.promise import headline, is_extrapolated

    budget = Budget(
        calibration.alarm_rate, calibration.alarms_per_day, calibration.rows_per_day, calibration.confidence
    )
    how = HOW[calibration.method] if refitted_on is None else REFITTED.format(steps=refitted_on)
    promised = headline(calibration) if is_extrapolated(calibration) else budget.describe()
    lines = [
        f"calibrated on {calibration.rows:,} rows, {how}: {promised} "
        f"({thresholds(calibration, unit)}); rates down to {calibration.smallest_alarm_rate:.2g} are supported"
    ]
    if calibration.by is not None:
        lines.append(
            f"{len(calibration.groups):,} groups of {calibration.by} have calibrations of their own, "
            f"{calibration.groups_pooled:,} have too few rows and are held against the rows of all; so are new ones, for which nothing is promised"
        )
    if is_extrapolated(calibration):
        lines.append(
            "the rows cannot support this rate by themselves: it is extrapolated by a generalised Pareto tail, without a "
            "guarantee, and such verdicts are flagged `tail`"
        )
    return lines


def thresholds(calibration: Calibration, unit: str = NATS) -> str:
    """What alarms, in the scores' units."""
    score = f"score above {_limit(calibration.score_threshold)} {unit}"
    error = f"reconstruction error above {_limit(calibration.reconstruction_threshold)}"
    return {"elbo": score, "reconstruction": error}.get(calibration.decision, f"{score}, or {error}")


def unit_of(manifest: Manifest) -> str:
    """The unit of a detector's score."""
    return NATS if manifest.series is None else SPREADS


def _limit(threshold: float) -> str:
    """A threshold; one that nothing can pass at this rate as infinity."""
    return f"{threshold:.4g}" if threshold < NEVER else "infinity (never at this rate)"
