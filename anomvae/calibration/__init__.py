"""From scores to p-values, thresholds and verdicts. NumPy alone."""

from anomvae.calibration.blocks import Dependence, RateInterval, autocorrelation_time, dependence, rate_interval
from anomvae.calibration.budget import Budget
from anomvae.calibration.calibrator import Calibrated, calibrate, thresholds
from anomvae.calibration.conditional import conditional_p_values, rows_needed_for
from anomvae.calibration.conformal import TIE, p_values, threshold
from anomvae.calibration.health import CalibrationHealth
from anomvae.calibration.parts import CalibrationRows
from anomvae.calibration.tables import CalibrationTables, Table, TailParameters, Verdicts, joint_p_values
from anomvae.calibration.tail import TailFit, fit_tail

__all__ = [
    "TIE",
    "Budget",
    "Calibrated",
    "CalibrationHealth",
    "CalibrationRows",
    "CalibrationTables",
    "Dependence",
    "RateInterval",
    "Table",
    "TailFit",
    "TailParameters",
    "Verdicts",
    "autocorrelation_time",
    "calibrate",
    "conditional_p_values",
    "dependence",
    "fit_tail",
    "joint_p_values",
    "p_values",
    "rate_interval",
    "rows_needed_for",
    "threshold",
    "thresholds",
]
