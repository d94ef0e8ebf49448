"""The report of a run: its figures, what it learned from, samples and warnings, as a page, as Markdown and as JSON."""

from plaudit.evaluation.report.run_report import (
    Climb,
    Curve,
    FeedbackSummary,
    Row,
    RunReport,
    RunWarning,
    Sample,
    Watched,
    WatchedAnswer,
)
from plaudit.evaluation.report.warnings import WarningThresholds, find_warnings
from plaudit.evaluation.report.write import render_html, render_markdown, write_report

__all__ = [
    "Climb",
    "Curve",
    "FeedbackSummary",
    "Row",
    "RunReport",
    "RunWarning",
    "Sample",
    "WarningThresholds",
    "Watched",
    "WatchedAnswer",
    "find_warnings",
    "render_html",
    "render_markdown",
    "write_report",
]
