"""The charts as plain data: which lines, which axes.

A chart is a JSON-able dictionary that `report.js` turns into a Plotly figure in the colours and fonts of the
page's theme, so this file needs no Plotly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from robustreg.report.aggregate import Curve, Group, curves_by_norm
from robustreg.report.formatting import points
from robustreg.report.reading import Columns, Run

Chart = dict[str, Any]

COLOURS = 8  # as many as the style sheet defines; beyond them colours repeat with another dash
_BINS = 300
_NOT_TERMS = ("step", "epoch", "lr", "loss", "seconds")


def robustness_charts(groups: Sequence[Group]) -> list[Chart]:
    """Accuracy over eps, one chart for each norm that was evaluated, one line for each group.

    The band is the Wilson interval of a single run, and the range from the worst to the best seed of several.
    """
    return [
        {
            "id": f"chart-curve-{i}",
            "title": f"Accuracy under {norm} attacks" if norm else "",
            "x": {"title": f"ε ({norm})" if norm else "ε", "zero": True},
            "y": {"title": "Accuracy", "percent": True, "range": [0.0, 1.01]},
            "markers": True,
            "height": 400,
            "series": [_curve_line(index, groups[index].name, curve) for index, curve in curves],
        }
        for i, (norm, curves) in enumerate(curves_by_norm(groups).items())
    ]


def distance_charts(groups: Sequence[Group]) -> list[Chart]:
    """The share of samples without a misclassified point within a distance, one chart for each norm.

    For one run there is a line for each attack; for several a line for each group, of the nearest point that any of
    its attacks found for a sample, over all seeds.
    """
    alone = len(groups) == 1 and len(groups[0].runs) == 1
    lines: dict[str, list[dict[str, Any]]] = {}
    for index, group in enumerate(groups):
        listed = [
            one for run in group.runs if run.evaluation for one in run.evaluation.distances if not one.problem
        ]
        for norm in dict.fromkeys(one.norm for one in listed):
            named: list[tuple[dict[str, Any], Sequence[float]]]
            own = [one for one in listed if one.norm == norm]
            if alone:
                named = [(_line(place, one.name), one.values) for place, one in enumerate(own)]
            else:
                named = [
                    (_line(index, group.name), [value for run in group.runs for value in nearest(run, norm)])
                ]
            lines.setdefault(norm, []).extend({**line, **_standing(values)} for line, values in named)
    return [
        {
            "id": f"chart-distance-{i}",
            "title": f"Distances in {norm}" if norm else "",
            "x": {"title": f"Distance ({norm})" if norm else "Distance", "zero": True},
            "y": {"title": "Share further away", "percent": True, "range": [0.0, 1.01]},
            "height": 320,
            "series": drawn,
        }
        for i, (norm, drawn) in enumerate(lines.items())
    ]


def nearest(run: Run, norm: str) -> list[float]:
    """A run's distances in a norm: for each sample the smallest that any attack on the same samples found."""
    listed = run.evaluation.distances if run.evaluation else ()
    own = [one for one in listed if one.norm == norm and not one.problem]
    same = [one for one in own if (one.samples, len(one.values)) == (own[0].samples, len(own[0].values))]
    return [min(values) for values in zip(*(one.values for one in same), strict=True)]


def _standing(values: Sequence[float]) -> dict[str, Any]:
    """The points of the falling line: at each distance the share of values above it."""
    finite = sorted(value for value in values if math.isfinite(value) and value > 0)
    zero = sum(value == 0 for value in values)
    step = max(1, math.ceil(len(finite) / _BINS))
    shown = sorted({*range(step - 1, len(finite), step), *([len(finite) - 1] if finite else [])})
    at = [(0.0, 1 - zero / len(values)), *((finite[i], 1 - (zero + i + 1) / len(values)) for i in shown)]
    return {"x": [x for x, _ in at], "y": [y for _, y in at]}


def training_charts(groups: Sequence[Group]) -> list[Chart]:
    """The loss, each term and the learning rate over the steps: a small chart each, a line for each run."""
    runs = [run for group in groups for run in group.runs]
    names = _ordered_union(_term_names(run.metrics) for run in runs)
    charts = []
    for i, name in enumerate(["loss", *names, "lr"]):
        lines = _run_lines(groups, name, "metrics", "step")
        if lines:
            title = {"loss": "Loss", "lr": "Learning rate"}.get(name, name)
            y = _log_axis(lines) if name != "lr" and _wants_log(lines) else {"title": ""}
            charts.append(_small(f"chart-term-{i}", title, "Step", y, lines))
    return charts


def validation_charts(groups: Sequence[Group]) -> list[Chart]:
    """Clean and robust validation accuracy over epochs: together for one run, a chart each for several."""
    kinds = {"clean": "Clean", "robust": "Robust"}
    axis = {"title": "Accuracy", "percent": True}
    if len(groups) == 1 and len(groups[0].runs) == 1:
        lines = []
        for colour, (column, title) in enumerate(kinds.items()):
            for line in _run_lines(groups, column, "validation", "epoch"):
                lines.append({**line, "name": title, "colour": colour, "group": column})
        return [{**_small("chart-validation", "", "Epoch", axis, lines), "height": 320}] if lines else []
    charts = []
    for column, title in kinds.items():
        lines = _run_lines(groups, column, "validation", "epoch")
        if lines:
            charts.append(_small(f"chart-validation-{column}", f"{title} accuracy", "Epoch", axis, lines))
    return charts


def legend(charts: Iterable[Chart]) -> list[dict[str, Any]]:
    """The entries of the legend that the charts share: each group of lines once."""
    entries: dict[str, dict[str, Any]] = {}
    for chart in charts:
        for line in chart["series"]:
            entries.setdefault(line["group"], {key: line[key] for key in ("group", "name", "colour", "dash")})
    return list(entries.values())


def thin(
    x: Sequence[float | None], y: Sequence[float | None], bins: int = _BINS
) -> tuple[list[float], list[float]]:
    """At most `bins` points of a line: means of equally many successive points, missing values left out."""
    known = [(a, b) for a, b in zip(x, y, strict=False) if a is not None and b is not None]
    width = max(1, math.ceil(len(known) / bins))
    parts = [known[i : i + width] for i in range(0, len(known), width)]
    return (
        [math.fsum(a for a, _ in part) / len(part) for part in parts],
        [math.fsum(b for _, b in part) / len(part) for part in parts],
    )


def _curve_line(index: int, name: str, curve: Curve) -> dict[str, Any]:
    means = [mean for _, mean in curve]
    return {
        **_line(index, name),
        "x": [eps for eps, _ in curve],
        "y": [mean.accuracy for mean in means],
        "low": [mean.low for mean in means],
        "high": [mean.high for mean in means],
        "note": [
            f"{points(mean.spread)} over {mean.count} seeds" if mean.count > 1 else "" for mean in means
        ],
    }


def _run_lines(groups: Sequence[Group], column: str, source: str, over: str) -> list[dict[str, Any]]:
    lines = []
    for index, group in enumerate(groups):
        for run in group.runs:
            columns: Columns = getattr(run, source)
            if column not in columns or over not in columns:
                continue
            x, y = thin(columns[over], columns[column])
            if x:
                line = {**_line(index, group.name), "x": x, "y": y}
                if len(group.runs) > 1:
                    line.update(thin=True, note=[f"seed {run.seed}"] * len(x))
                lines.append(line)
    return lines


def _line(index: int, name: str) -> dict[str, Any]:
    return {"name": name, "group": f"g{index}", "colour": index % COLOURS, "dash": index // COLOURS % 3}


def _small(identity: str, title: str, x: str, y: dict[str, Any], lines: list[dict[str, Any]]) -> Chart:
    axis: dict[str, Any] = {"title": x}
    if max((value for line in lines for value in line["x"]), default=0.0) <= 10.0:
        axis["dtick"] = 1  # epochs are whole; left alone, a short axis gets ticks at halves
    return {"id": identity, "title": title, "x": axis, "y": y, "height": 240, "series": lines}


def _term_names(metrics: Columns) -> list[str]:
    return [name for name in metrics if name not in _NOT_TERMS]


def _ordered_union(lists: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for names in lists for name in names))


def _log_axis(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    values = [value for line in lines for value in line["y"]]
    # Over few decades powers of ten alone would be too few ticks; D2 adds 2 and 5 between them.
    return {"title": "log scale", "log": True, "dtick": "D2" if max(values) < 300.0 * min(values) else 1}


def _wants_log(lines: Sequence[dict[str, Any]]) -> bool:
    """Whether the values span so much that a linear axis would hide most of the training."""
    values = [value for line in lines for value in line["y"]]
    return bool(values) and min(values) > 0.0 and max(values) > 50.0 * min(values)
