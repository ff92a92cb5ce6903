"""The cost of a step: what the plan foresees beside what was measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from robustreg.report import formatting as fmt
from robustreg.report.aggregate import PASSES, Group, costs
from robustreg.report.reading import Run


def cost(groups: Sequence[Group]) -> dict[str, Any]:
    """Passes and time of each group's step, both relative to the plain run where there is one."""
    rows = [row for row in costs(groups) if row.passes or row.seconds is not None]
    ratios = [ratio for row in rows for ratio in (row.predicted, row.measured) if ratio is not None]
    longest = max(ratios, default=1.0)
    return {
        "has_plain": any(row.is_plain for row in rows),
        "rows": [
            {
                "name": row.group.name,
                "plain": row.is_plain,
                "passes": [fmt.count(row.passes.get(key)) for key in PASSES],
                "relative": fmt.times(row.relative),
                "seconds": fmt.seconds(row.seconds),
                "sort": "" if row.seconds is None else f"{row.seconds:.9f}",
                "predicted": fmt.times(row.predicted),
                "measured": fmt.times(row.measured),
                "predicted_share": _share(row.predicted, longest),
                "measured_share": _share(row.measured, longest),
            }
            for row in rows
        ],
        "steps": _measured_steps(groups),
        "plans": [plan for plan in map(_plan, groups) if plan["rows"]],
    }


def _plan(group: Group) -> dict[str, Any]:
    """The passes one by one, equal ones counted."""
    for run in group.runs:
        listed = run.plan.get("rows") if run.plan else None
        if isinstance(listed, list):
            counted = Counter(_pass(row) for row in listed if isinstance(row, Mapping))
            return {"name": group.name, "rows": [(times, *row) for row, times in counted.items()]}
    return {"name": group.name, "rows": []}


def _pass(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    asked = row.get("asked_by")
    terms = ", ".join(map(str, asked)) if isinstance(asked, list) else ""
    return str(row.get("kind", "")), str(row.get("point", "")), str(row.get("mode", "")), terms


def _share(ratio: float | None, longest: float) -> str | None:
    return None if ratio is None else f"{100.0 * ratio / max(longest, 1e-12):.2f}%"


def _measured_steps(groups: Sequence[Group]) -> str:
    counts = [found for group in groups for run in group.runs if (found := _step_count(run))]
    if not counts:
        return ""
    least, most = fmt.count(min(counts)), fmt.count(max(counts))
    return least if least == most else f"{least} to {most}"


def _step_count(run: Run) -> int | None:
    measured = run.info.get("step_seconds")
    return fmt.integer(measured.get("count")) if isinstance(measured, Mapping) else None
