"""The report: one HTML file that says what was learned and how far to trust it."""

from anomvae.report.contents import Reason, ReportContents, ScoredRows, StrangeRow
from anomvae.report.page import render

__all__ = ["Reason", "ReportContents", "ScoredRows", "StrangeRow", "render"]
