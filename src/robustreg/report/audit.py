"""The page of `robustreg audit`: the verdict, the reasons and what to do, then every finding."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robustreg.files import read_json, write_text_atomic
from robustreg.report import formatting as fmt
from robustreg.report.page import render
from robustreg.report.png import data_uri

FILE, DATA = "audit.html", "audit.json"
_TONES = {"sound": "right", "suspicious": "wrong", "masked": "wrong"}
_LEVEL = {
    "masked": "points to masking",
    "suspicious": "suspicious",
    "notice": "worth knowing",
    "none": "fine",
}
_WIDTH, _HEIGHT, _MARGIN = 420.0, 180.0, 34.0


def write_audit_page(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write one self-contained HTML page about the audit in a folder.

    Args:
        folder: where audit.json is.
        out: the file to write; by default `audit.html` beside it.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: there is no audit.json.
        ValueError: it is damaged.
        ModuleNotFoundError: the report's extra is not installed.
    """
    audit = read_json(Path(folder) / DATA)
    try:
        context = _context(audit)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{Path(folder) / DATA} is damaged: {type(error).__name__} {error}") from error
    target = Path(folder) / FILE if out is None else Path(out)
    return write_text_atomic(target, render("audit.html.j2", context))


def _context(audit: Mapping[str, Any]) -> dict[str, Any]:
    findings = [_finding(entry) for entry in audit["findings"]]
    return {
        "verdict": audit["verdict"],
        "tone": _TONES[audit["verdict"]],
        "sentence": audit["sentence"],
        "threat": fmt.threat_name(audit["threat"]),
        "n": audit["n"],
        "correct": audit["correct"],
        "seed": audit["seed"],
        "seconds": round(audit["seconds"]),
        "thorough": audit["thorough"],
        "reasons": [f for f in findings if f["check"] in audit["reasons"]],
        "notices": [f for f in findings if f["concern"] == "notice"],
        "findings": findings,
        "pictures": [f for f in findings if f["lines"] or f["surface"]],
    }


def _finding(entry: Mapping[str, Any]) -> dict[str, Any]:
    plot = entry["plot"] or {}
    return {
        **entry,
        "level": _LEVEL[entry["concern"]],
        "tone": "wrong" if entry["concern"] in ("suspicious", "masked") else "muted",
        "lines": _lines(plot) if plot.get("kind") == "lines" else None,
        "surface": _surface(plot) if plot.get("kind") == "surface" else None,
    }


def _lines(plot: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One small chart for each line, as points of an SVG polyline."""
    xs = [math.log(value) if plot["x"].get("log") else value for value in plot["x"]["values"]]
    charts = []
    for line in plot["series"]:
        top = max([*line["values"], 1e-12])
        places = [
            (_place(x, min(xs), max(xs), _WIDTH), _HEIGHT - _place(y, 0.0, top, _HEIGHT))
            for x, y in zip(xs, line["values"], strict=True)
        ]
        charts.append(
            {
                "name": line["name"],
                "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in places),
                "dots": [(f"{x:.1f}", f"{y:.1f}") for x, y in places],
                "top": f"{top:.3g}",
                "low": f"{plot['x']['values'][0]:.3g}",
                "high": f"{plot['x']['values'][-1]:.3g}",
                "x": plot["x"]["title"],
                "values": ", ".join(f"{value:.3g}" for value in line["values"]),
            }
        )
    return charts


def _place(value: float, low: float, high: float, length: float) -> float:
    share = (value - low) / (high - low) if high > low else 0.5
    return _MARGIN + share * (length - 2 * _MARGIN)


def _surface(plot: Mapping[str, Any]) -> dict[str, Any]:
    """A picture of the values, dark where they are low."""
    values: Sequence[Sequence[float]] = plot["values"]
    grid = np.asarray(values, dtype=np.float64)[::-1]  # the gradient's direction upwards
    low, high = float(grid.min()), float(grid.max())
    level = (grid - low) / (high - low) if high > low else np.zeros_like(grid)
    stops = np.array([[37, 52, 92], [70, 126, 150], [158, 202, 160], [245, 238, 170]], dtype=np.float64)
    at = np.linspace(0, 1, len(stops))
    colours = np.stack([np.interp(level, at, stops[:, i]) for i in range(3)], axis=-1)
    return {
        "src": data_uri(np.round(colours).astype(np.uint8)),
        "low": f"{low:.3g}",
        "high": f"{high:.3g}",
        "x": plot["x"],
        "y": plot["y"],
    }
