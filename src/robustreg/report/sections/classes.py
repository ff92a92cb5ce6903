"""Accuracy class by class, and how well the clean predictions are calibrated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from robustreg.report import formatting as fmt
from robustreg.report.aggregate import Group, mean_score
from robustreg.report.charts import COLOURS
from robustreg.report.reading import ClassScore, Run, Score


def classes(groups: Sequence[Group], compared: bool) -> dict[str, Any] | None:
    """A row for each class of one run; of a comparison a row for each group with the worst case of every class."""
    if not compared:
        run = groups[0].runs[0]
        rows = [_row(score) for score in _classes(run)]
        return {"labels": [], "rows": rows} if rows else None
    labels = list(
        dict.fromkeys(score.label for group in groups for run in group.runs for score in _classes(run))
    )
    if not labels:
        return None
    return {
        "labels": labels,
        "rows": [_group_row(index, group, labels) for index, group in enumerate(groups)],
    }


def calibration(groups: Sequence[Group], compared: bool) -> list[str]:
    """The expected calibration error of each run, one sentence each."""
    sentences = []
    for group in groups:
        known = [e for run in group.runs if (e := run.evaluation) is not None and e.ece is not None]
        if not known:
            continue
        errors = [fmt.percent(e.ece) for e in known]
        own = f"{group.name}: " if compared else ""
        confidence = (
            f", mean confidence {fmt.percent(known[0].confidence)}"
            if len(known) == 1 and known[0].confidence is not None
            else ""
        )
        sentences.append(f"{own}{', '.join(errors)}{confidence}")
    return sentences


def _classes(run: Run) -> Sequence[ClassScore]:
    return run.evaluation.classes if run.evaluation else ()


def _row(score: ClassScore) -> dict[str, Any]:
    return {
        "label": score.label,
        "n": fmt.count(score.n),
        "clean": _cell(score.clean),
        "worst": _cell(score.worst),
    }


def _group_row(index: int, group: Group, labels: Sequence[str]) -> dict[str, Any]:
    cells = []
    for label in labels:
        scores = [
            s.worst for run in group.runs for s in _classes(run) if s.label == label and s.worst is not None
        ]
        mean = mean_score(scores)
        accuracy = None if mean is None else mean.accuracy
        cells.append({"text": fmt.percent(accuracy), "sort": "" if accuracy is None else f"{accuracy:.8f}"})
    return {"name": group.name, "colour": index % COLOURS, "cells": cells}


def _cell(score: Score | None) -> dict[str, str]:
    if score is None:
        return {"text": fmt.UNKNOWN, "interval": ""}
    return {"text": fmt.percent(score.accuracy), "interval": fmt.interval(score.low, score.high)}
