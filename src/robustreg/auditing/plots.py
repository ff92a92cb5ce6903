"""Pictures of what checks measured, as plain JSON values; the page draws them.

Kinds: ``bars`` (named values with intervals), ``histogram`` (one number a sample), ``scatter`` (two numbers a sample),
``lines`` (values over a setting) and ``surface`` (values over a plane).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from robustreg.auditing.statistics import Estimate

Plot = dict[str, Any]

BINS, POINTS = 24, 200
_DECADES = 12  # of a logarithmic axis; what is smaller stands at its left end


def bars(title: str, named: Mapping[str, Estimate], *, percent: bool = True) -> Plot:
    """Named values, each with its interval.

    Args:
        title: what the axis shows.
        named: the values; those that are not finite are left out.
        percent: whether they are shares.
    """
    rows = [
        {"name": name, "value": e.value, "low": e.low, "high": e.high}
        for name, e in named.items()
        if all(map(math.isfinite, e))
    ]
    return {"kind": "bars", "title": title, "percent": percent, "bars": rows}


def histogram(title: str, named: Mapping[str, Tensor], *, log: bool = False) -> Plot:
    """How often numbers occur, one row of counts for each named tensor, all over the same bins.

    Args:
        title: what the axis shows.
        named: the numbers, of any shape.
        log: a logarithmic axis; zeros, like what is not finite, are counted under ``outside``.
    """
    flat = {name: values.detach().double().flatten().cpu() for name, values in named.items()}
    kept = {name: v[v.isfinite() & ((v > 0) if log else True)] for name, v in flat.items()}
    numbers = torch.cat(list(kept.values()))
    if log:
        numbers = numbers.log10()
    low, high = (float(numbers.min()), float(numbers.max())) if len(numbers) else (0.0, 1.0)
    low = max(low, high - _DECADES) if log else low
    if high - low < 1e-9 * max(abs(high), 1.0):
        low, high = low - 0.5, high + 0.5
    series = []
    for name, values in kept.items():
        shown = (values.log10() if log else values).clamp(low, high)
        counts = torch.histc(shown, BINS, low, high).long().tolist()
        series.append({"name": name, "counts": counts, "outside": len(flat[name]) - len(values)})
    return {"kind": "histogram", "title": title, "log": log, "low": low, "high": high, "series": series}


def scatter(x: str, y: str, across: Tensor, along: Tensor) -> Plot:
    """One point a sample `[N]`, at most 200 of them; those that are not finite are left out."""
    first, second = (v.detach().double().flatten().cpu()[:POINTS] for v in (across, along))
    keep = first.isfinite() & second.isfinite()
    return {"kind": "scatter", "x": x, "y": y, "points": torch.stack([first, second], 1)[keep].tolist()}


def lines(
    x: str,
    at: Sequence[float],
    series: Mapping[str, Sequence[float]],
    *,
    log: bool = False,
    percent: bool = False,
) -> Plot:
    """One small chart for each named row of values over the same settings; `percent` if they are shares."""
    rows = [{"name": name, "values": list(values), "percent": percent} for name, values in series.items()]
    return {"kind": "lines", "x": {"title": x, "values": list(at), "log": log}, "series": rows}


def surface(x: str, y: str, values: Tensor) -> Plot:
    """Values over a plane `[rows, columns]`, the first row at the bottom."""
    return {"kind": "surface", "x": x, "y": y, "values": values.double().tolist()}
