"""The pictures of an audit's findings as places on a page: widths in percent, and points of small SVG charts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robustreg.report.png import data_uri

WIDTH, HEIGHT, MARGIN = 420.0, 200.0, 40.0
_BOTTOM = HEIGHT - MARGIN


def picture(plot: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What the template needs to draw a plot of `robustreg.auditing.plots`; None for none or an unknown kind."""
    if not plot:
        return None
    kinds = {
        "bars": _bars,
        "histogram": _histogram,
        "scatter": _scatter,
        "lines": _lines,
        "surface": _surface,
    }
    make = kinds.get(plot["kind"])
    return None if make is None else {"kind": plot["kind"], **make(plot)}


def gauge(finding: Mapping[str, Any]) -> dict[str, Any] | None:
    """A value with its interval on a line, and where the check becomes concerned; None without a threshold."""
    value, threshold, decisive = finding["value"], finding["threshold"], finding["decisive"]
    if value is None or threshold is None:
        return None
    percent = finding["percent"]
    low, high = (value if end is None else end for end in (finding["low"], finding["high"]))
    marks = [mark for mark in (threshold, decisive) if mark is not None]
    left = min(0.0, low, *marks)
    right = 1.0 if percent else max(high, *marks) * 1.15

    def at(number: float) -> float:
        return float(round(100 * (number - left) / (right - left), 2))

    names = ["suspicious", "masked"] if decisive is not None else ["of concern"]
    if threshold == decisive:
        names, marks = names[1:], marks[1:]
    interval = f", 95 % interval {_short(low, percent)} to {_short(high, percent)}" if high > low else ""
    return {
        "dot": at(value),
        "left": at(low),
        "width": max(at(high) - at(low), 0.5),
        "said": _short(value, percent) + interval,
        "marks": [
            {
                "at": at(mark),
                "text": f"{name} {'below' if finding['below'] else 'above'} {_short(mark, percent)}",
            }
            for name, mark in zip(names, marks, strict=True)
        ],
    }


def _bars(plot: Mapping[str, Any]) -> dict[str, Any]:
    percent = plot["percent"]
    top = 1.0 if percent else max([bar["high"] for bar in plot["bars"]] + [1e-12])
    rows = [
        {
            "name": bar["name"],
            "width": round(100 * max(bar["value"], 0.0) / top, 2),
            "left": round(100 * max(bar["low"], 0.0) / top, 2),
            "spread": round(100 * max(bar["high"] - max(bar["low"], 0.0), 0.0) / top, 2),
            "text": _short(bar["value"], percent),
        }
        for bar in plot["bars"]
    ]
    return {"title": plot["title"], "rows": rows}


def _histogram(plot: Mapping[str, Any]) -> dict[str, Any]:
    top = max([count for series in plot["series"] for count in series["counts"]] + [1])
    series = []
    for i, row in enumerate(plot["series"]):
        each = (WIDTH - 2 * MARGIN) / len(row["counts"])
        rectangles = [
            {
                "x": f"{MARGIN + k * each:.1f}",
                "width": f"{max(each - 1, 1):.1f}",
                "y": f"{_BOTTOM - count / top * (_BOTTOM - MARGIN):.1f}",
                "height": f"{count / top * (_BOTTOM - MARGIN):.1f}",
            }
            for k, count in enumerate(row["counts"])
            if count
        ]
        series.append({"name": row["name"], "colour": f"s{i}", "rectangles": rectangles})
    ends = [10.0 ** plot[end] if plot["log"] else plot[end] for end in ("low", "high")]
    shown = [f"{end:.2g}" for end in ends]
    if shown[0] == shown[1]:
        shown = [f"{end:.7g}" for end in ends]
    left_out = [
        f"{row['outside']} of {row['name']} are {'zero or ' if plot['log'] else ''}no number and not drawn"
        for row in plot["series"]
        if row["outside"]
    ]
    return {
        "title": plot["title"] + (", on a logarithmic axis" if plot["log"] else ""),
        "series": series,
        "top": top,
        "low": shown[0],
        "high": shown[1],
        "left_out": "; ".join(left_out),
    }


def _scatter(plot: Mapping[str, Any]) -> dict[str, Any]:
    points = plot["points"]
    size = max([abs(number) for point in points for number in point] + [1e-12])
    dots = [
        (f"{_place(x, -size, size, WIDTH):.1f}", f"{HEIGHT - _place(y, -size, size, HEIGHT):.1f}")
        for x, y in points
    ]
    return {"x": plot["x"], "y": plot["y"], "dots": dots, "size": f"{size:.2g}"}


def _lines(plot: Mapping[str, Any]) -> dict[str, Any]:
    """One small chart for each line, as points of an SVG polyline."""
    xs = [math.log(value) if plot["x"].get("log") else value for value in plot["x"]["values"]]
    charts = []
    for line in plot["series"]:
        percent = line.get("percent", False)
        top = 1.0 if percent else max([*line["values"], 1e-12])
        places = [
            (_place(x, min(xs), max(xs), WIDTH), HEIGHT - _place(y, 0.0, top, HEIGHT))
            for x, y in zip(xs, line["values"], strict=True)
        ]
        charts.append(
            {
                "name": line["name"],
                "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in places),
                "dots": [(f"{x:.1f}", f"{y:.1f}") for x, y in places],
                "top": _short(top, percent),
                "low": f"{plot['x']['values'][0]:.3g}",
                "high": f"{plot['x']['values'][-1]:.3g}",
                "values": ", ".join(f"{value:.3g}" for value in line["values"]),
            }
        )
    return {"x": plot["x"]["title"], "charts": charts}


def _place(value: float, low: float, high: float, length: float) -> float:
    share = (value - low) / (high - low) if high > low else 0.5
    return MARGIN + share * (length - 2 * MARGIN)


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


def _short(value: float, percent: bool) -> str:
    return f"{100 * value:.3g} %" if percent else f"{value:.3g}"
