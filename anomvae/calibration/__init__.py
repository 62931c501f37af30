"""From scores to p-values, thresholds and verdicts. NumPy alone."""

from anomvae.calibration.budget import Budget
from anomvae.calibration.calibrator import Calibrated, CalibrationRows, calibrate, thresholds
from anomvae.calibration.conditional import conditional_p_values, rows_needed_for
from anomvae.calibration.conformal import TIE, p_values, threshold
from anomvae.calibration.health import CalibrationHealth
from anomvae.calibration.tables import CalibrationTables, Table, TailParameters, Verdicts, joint_p_values
from anomvae.calibration.tail import TailFit, fit_tail

__all__ = [
    "TIE",
    "Budget",
    "Calibrated",
    "CalibrationHealth",
    "CalibrationRows",
    "CalibrationTables",
    "Table",
    "TailFit",
    "TailParameters",
    "Verdicts",
    "calibrate",
    "conditional_p_values",
    "fit_tail",
    "joint_p_values",
    "p_values",
    "rows_needed_for",
    "threshold",
    "thresholds",
]
