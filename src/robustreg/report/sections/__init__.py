"""What each section of the page shows, as plain data for the template: words, numbers and images, no HTML."""

from __future__ import annotations

from robustreg.report.sections.classes import calibration, classes
from robustreg.report.sections.cost import cost
from robustreg.report.sections.distances import distances
from robustreg.report.sections.pictures import examples
from robustreg.report.sections.reproduce import reproduce
from robustreg.report.sections.scores import accuracy, curve_notes, curve_tables, leaderboard
from robustreg.report.sections.summary import problems, summary

__all__ = [
    "accuracy",
    "calibration",
    "classes",
    "cost",
    "curve_notes",
    "curve_tables",
    "distances",
    "examples",
    "leaderboard",
    "problems",
    "reproduce",
    "summary",
]
