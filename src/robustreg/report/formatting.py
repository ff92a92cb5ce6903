"""Numbers as people read them: percent, intervals, radii, durations. What is unknown is an en dash."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

UNKNOWN = "–"
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def number(value: Any) -> float | None:
    """The value as a finite float, or None when it is anything else (files are read, not trusted)."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def integer(value: Any) -> int | None:
    """The value as an int when it is a whole number, else None."""
    result = number(value)
    return int(result) if result is not None and result == int(result) else None


def percent(fraction: float | None) -> str:
    """0.9755 as `97.6 %`, with a no-break space; 100.0 % and 0.0 % are only written when they are exact."""
    if fraction is None:
        return UNKNOWN
    text = f"{100.0 * fraction:.1f}"
    if text == "100.0" and fraction < 1.0:
        text = "> 99.9"
    if text == "0.0" and fraction > 0.0:
        text = "< 0.1"
    return f"{text}\u00a0%".replace(" ", "\u00a0")


def interval(low: float | None, high: float | None) -> str:
    """The ends of an interval in percent, `96.1–98.7`; empty when there is none."""
    if low is None or high is None:
        return ""
    return f"{100.0 * low:.1f}–{100.0 * high:.1f}"


def points(spread: float | None) -> str:
    """A standard deviation of accuracies, in percentage points: `±\u202f1.2`."""
    return "" if spread is None else f"±\u202f{100.0 * spread:.1f}"


def radius(eps: float | None) -> str:
    """An eps as it was most likely written: 0.2 stays 0.2, 0.0313725 becomes 8/255."""
    if eps is None:
        return UNKNOWN
    short = f"{eps:.4g}"
    levels = eps * 255.0
    if (
        not math.isclose(float(short), eps, rel_tol=1e-7)
        and abs(levels - round(levels)) < 1e-4
        and round(levels)
    ):
        return f"{round(levels)}/255"
    return short


def norm_name(norm: Any) -> str:
    """`linf`, `inf` or infinity as ℓ∞; `l2` or 2.0 as ℓ₂; anything else as it stands."""
    text = str(norm).strip()
    bare = text[1:] if text[:1] in ("l", "L") else text
    if bare.lower() in ("inf", "infinity"):
        return "ℓ∞"
    order = number(bare)
    if order is None:
        return text
    return f"ℓ{str(int(order)).translate(_SUBSCRIPTS)}" if order == int(order) else f"ℓp, p = {order:g}"


def threat_name(threat: Any) -> str:
    """A threat dictionary as `ℓ∞, ε = 8/255`; empty when there is none."""
    if not isinstance(threat, Mapping) or "norm" not in threat:
        return ""
    eps = number(threat.get("eps"))
    return norm_name(threat["norm"]) + (f", ε = {radius(eps)}" if eps is not None else "")


def seconds(value: float | None) -> str:
    """A time with the unit that keeps it readable: `4.2 ms`, `1.8 s`, `3 min 20 s`, `1 h 05 min`."""
    if value is None or value < 0:
        return UNKNOWN
    if value < 1.0:
        return f"{1000.0 * value:.3g}\u00a0ms"
    if value < 60.0:
        return f"{value:.1f}\u00a0s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60}\u00a0min {whole % 60:02d}\u00a0s"
    return f"{whole // 3600}\u00a0h {whole % 3600 // 60:02d}\u00a0min"


def times(ratio: float | None) -> str:
    """A ratio, `2.1×`."""
    return UNKNOWN if ratio is None else f"{ratio:.2f}\u00a0×"


def count(value: Any) -> str:
    """A whole number with thin spaces between thousands."""
    whole = integer(value)
    return UNKNOWN if whole is None else f"{whole:,}".replace(",", "\u202f")


def moment(value: Any) -> datetime | None:
    """A time from an ISO 8601 string or seconds since the epoch; None when it is neither."""
    try:
        stamp = number(value)
        if stamp is not None:
            return datetime.fromtimestamp(stamp).astimezone()
        return datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    except (ValueError, OverflowError, OSError):
        return None


def duration(started: Any, finished: Any) -> str:
    """How long it took from one time to another; an en dash when either is unknown."""
    start, end = moment(started), moment(finished)
    if start is None or end is None or (start.tzinfo is None) != (end.tzinfo is None):
        return UNKNOWN
    return seconds((end - start).total_seconds())


def describe(value: Any) -> str:
    """A JSON value in one line: the `name` of a dictionary first, then its other entries."""
    if isinstance(value, Mapping):
        rest = [
            f"{key} {describe(item)}"
            for key, item in value.items()
            if key != "name" and item not in (None, {}, [])
        ]
        return ", ".join([str(value["name"]), *rest] if value.get("name") else rest)
    if isinstance(value, list | tuple):
        return "(" + ", ".join(describe(item) for item in value) + ")"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)
