"""The report: one HTML file that says what was learned and how far to trust it."""

from anomvae.report.contents import Reason, ReportContents, ScoredRows, StrangeRow
from anomvae.report.page import render
from anomvae.report.recalibration import render_recalibration

__all__ = ["Reason", "ReportContents", "ScoredRows", "StrangeRow", "render", "render_recalibration"]
