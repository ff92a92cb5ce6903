"""The page of `robustreg connections COMPARISON`: what training with each regulariser did to every functional."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustreg.files import write_text_atomic
from robustreg.report import charts
from robustreg.report.connections import formula
from robustreg.report.page import render

LIMIT = 2.0  # decades, where colours are at their strongest
ROW, HEAD = 22, 190  # pixels


def write_matrix(result: Mapping[str, Any], out: str | Path) -> Path:
    """Write the self-contained page about a matrix of functionals and regularisers.

    Args:
        result: what `robustreg connections` writes into connections.json of a comparison.
        out: the file to write.

    Returns:
        The path of the page.

    Raises:
        ModuleNotFoundError: when jinja2, plotly or latex2mathml is not installed.
    """
    heat, factors = _heat(result), _factors(result)
    context = {
        "title": f"Connections in {result['title']}",
        "baseline": result["baseline"],
        "left_out": result["left_out"],
        "trained": _trained(result),
        "samples": result["networks"][0]["samples"],
        "threat": result["networks"][0]["threat"],
        "heat": heat,
        "factors": factors,
        "table": _numbers(result),
        "stands_in": _stands_in(result),
        "ranks": _ranks(result),
        "confidence": _confidence(result),
        "functionals": [{**f, "formula": formula(f["latex"])} for f in result["functionals"]],
        "chart_data": [heat, factors],
    }
    return write_text_atomic(out, render("matrix.html.j2", context))


def _titles(result: Mapping[str, Any]) -> dict[str, str]:
    return {f["key"]: f["title"] for f in result["functionals"]}


def _members(result: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    return [n for n in result["networks"] if n["name"] == name]


def _trained(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """Each regulariser's accuracies: the mean over its seeds, and the standard deviation."""
    rows = []
    for name in [*_rows(result), result["baseline"]]:
        members = _members(result, name)
        clean, robust = ([n[key] for n in members] for key in ("clean", "robust"))
        rows.append(
            {"name": name, "seeds": str(len(members)), "clean": _percent(clean), "robust": _percent(robust)}
        )
    return rows


def _percent(values: Sequence[float]) -> str:
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.1f}{spread}"


def _rows(result: Mapping[str, Any]) -> list[str]:
    """What networks were trained with, the most robust first."""
    names = [name for name in result["regularisers"] if name != result["baseline"]]
    return sorted(names, key=lambda name: -statistics.fmean(n["robust"] for n in _members(result, name)))


def _heat(result: Mapping[str, Any]) -> charts.Chart:
    """Regularisers against functionals: the logarithm of the ratio to the baseline."""
    titles, names = _titles(result), _rows(result)
    cells = [[result["log10_ratios"][name][key] for key in titles] for name in names]
    return {
        "id": "chart-matrix",
        "series": [],
        "x": {"names": list(titles.values())},
        "y": {"names": names},
        "z": [[mean for mean, _ in row] for row in cells],
        "text": [
            ["●" if key == name else "" for key in titles] for name in names
        ],  # a regulariser on its own functional
        "note": [[_ratio_note(*cell) for cell in row] for row in cells],
        "limit": LIMIT,
        "ticks": {"at": [-2, -1, 0, 1, 2], "names": ["÷100", "÷10", "=", "×10", "×100"]},
        "height": HEAD + ROW * len(names),
    }


def _ratio_note(mean: float | None, spread: float | None) -> str:
    if mean is None:
        return "0 or not finite"
    return f"× {10**mean:.3g}" + ("" if spread is None else f" (a factor {10**spread:.2f} over seeds)")


def _numbers(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The heat map as numbers: a row a regulariser."""
    titles = _titles(result)
    return [
        {"name": name, "cells": [_ratio(result["log10_ratios"][name][key][0]) for key in titles]}
        for name in _rows(result)
    ]


def _ratio(mean: float | None) -> str:
    return "–" if mean is None else f"{10**mean:.2g}"


def _stands_in(result: Mapping[str, Any]) -> dict[str, Any]:
    """How much of what a functional's own regulariser does to it, each other one does."""
    shares = result["stands_in"]
    keys = list(next(iter(shares.values()), {}))
    rows = [
        {
            "name": name,
            "cells": [f"{shares[name][key]:.2f}" for key in keys],
            "own": [key == name for key in keys],
        }
        for name in _rows(result)
    ]
    return {"keys": keys, "rows": rows}


def _ranks(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rank correlations with worst-case accuracy, the strongest negative one first."""
    titles = _titles(result)
    known = {k: found for k, found in result["correlations"].items() if None not in found.values()}
    return [
        {
            "title": titles[key],
            "value": f"{found['value']:.2f}",
            "seeds": f"{found['low']:.2f} to {found['high']:.2f}",
            "all": f"{found['low_all']:.2f} to {found['high_all']:.2f}",
            "place": _place(found["value"], found["low"], found["high"]),
        }
        for key, found in sorted(known.items(), key=lambda item: item[1]["value"])
    ]


def _place(value: float, low: float, high: float) -> dict[str, str]:
    """Of a correlation on an axis from -1 to 1."""
    at, left, right = (50 * (1 + v) for v in (value, low, high))
    return {"at": f"{at:.1f}%", "low": f"{left:.1f}%", "width": f"{right - left:.1f}%"}


def _confidence(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """How the samples' values go with the label's missing probability, on the networks of the comparison."""
    rows = []
    for functional in result["functionals"]:
        found = [n["by_confidence"][functional["key"]] for n in result["networks"]]
        known = sorted(v for v in found if v is not None)
        if known and functional["key"] != "confidence":
            rows.append(
                {
                    "title": functional["title"],
                    "median": f"{statistics.median(known):.2f}",
                    "range": f"{known[0]:.2f} to {known[-1]:.2f}",
                }
            )
    return rows


def _factors(result: Mapping[str, Any]) -> charts.Chart:
    """Rank correlations over the regularisers between functionals with and without a factor of confidence."""
    titles, between = _titles(result), result["factors"]["between"]
    names = [titles[key] for key in result["factors"]["keys"]]
    shown = [["" if v is None else f"{v:.2f}" for v in row] for row in between]
    return {
        "id": "chart-factors",
        "series": [],
        "x": {"names": names},
        "y": {"names": names},
        "z": between,
        "text": shown,
        "note": shown,
        "limit": 1.0,
        "ticks": {"at": [-1, 0, 1], "names": ["−1", "0", "1"]},
        "height": HEAD + 30 * len(names),
    }
