"""From scores to p-values, thresholds and verdicts. NumPy alone."""

from anomvae.calibration.conformal import TIE, ScoreTable, p_values, threshold

__all__ = ["TIE", "ScoreTable", "p_values", "threshold"]
