"""How far away the nearest misclassified points are: a row for each run and attack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from robustreg.report import formatting as fmt
from robustreg.report.aggregate import Group
from robustreg.report.charts import COLOURS

QUANTILES = ("0.1", "0.25", "0.75", "0.9")


def distances(groups: Sequence[Group]) -> dict[str, Any] | None:
    """Medians with their intervals, and quantiles; None where none were measured."""
    rows = [
        {
            "run": run.label if len(group.runs) > 1 else run.name,
            "colour": index % COLOURS,
            "name": one.name,
            "norm": one.norm,
            "median": _length(one.median),
            "interval": "" if one.low is None else f"{_length(one.low)} – {_length(one.high)}",
            "quantiles": [_length(one.quantiles.get(q)) for q in QUANTILES],
            "found": f"{sum(value < float('inf') for value in one.values)} of {len(one.values)}",
            "seconds": fmt.seconds(one.seconds),
            "problem": one.problem,
        }
        for index, group in enumerate(groups)
        for run in group.runs
        for one in (run.evaluation.distances if run.evaluation else ())
    ]
    return {"quantiles": [f"{100 * float(q):g} %" for q in QUANTILES], "rows": rows} if rows else None


def _length(value: float | None) -> str:
    return fmt.UNKNOWN if value is None else f"{value:.4g}"
