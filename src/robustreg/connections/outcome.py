"""What became of claims and bounds, as plain data that JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from robustreg.connections.case import Case
from robustreg.connections.certificates import Sandwich
from robustreg.connections.claim import Claim, Residual


def outcome(claim: Claim, residual: Residual) -> dict[str, Any]:
    """A claim and its residual: numbers that are not finite become None."""
    return {
        "key": claim.key,
        "title": claim.title,
        "latex": claim.latex,
        "meaning": claim.meaning,
        "source": claim.source,
        "status": claim.status,
        "relation": claim.relation,
        "of_the_batch": claim.of_the_batch,
        "verdict": residual.verdict,
        "applies": int(residual.applies.sum()),
        "of": residual.applies.numel(),
        "conditions": [
            {"name": name, "holds": int(there.sum()), "of": there.numel()}
            for name, there in residual.conditions.items()
        ],
        "worst": finite(residual.worst),
        "tolerance": residual.tolerance,
        "order": claim.order,
        "observed_order": None if residual.order is None else finite(residual.order),
        "below_rounding": residual.order == math.inf,
        "radii": list(residual.radii),
        "errors": [finite(e) for e in residual.errors],
        "left": numbers(residual.left),
        "right": numbers(residual.right),
    }


def describe_case(case: Case) -> dict[str, Any]:
    """The samples, and what the claims were measured with."""
    return {
        "samples": case.x.shape[0],
        "inputs": case.flat.shape[1],
        "classes": case.logits.shape[1],
        "correct": int((case.logits.argmax(1) == case.y).sum()),
        "radius": case.radius,
        "threat": repr(case.threat),
        "seed": case.seed,
    }


def bounds_of(sandwich: Sandwich) -> dict[str, Any]:
    """The bounds of each sample's distance to the decision boundary."""
    return {
        "norm": sandwich.threat.name,
        "lower": numbers(sandwich.lower),
        "upper": numbers(sandwich.upper),
        "margin": numbers(sandwich.margin),
        "border": numbers(sandwich.border),
        "certified": sandwich.certified.tolist(),
        "exact": sandwich.exact.tolist(),
        "refuted": sandwich.refuted.tolist(),
    }


def numbers(values: Tensor) -> list[float | None]:
    """A vector as a list."""
    return [finite(value) for value in values.tolist()]


def finite(value: float) -> float | None:
    """The number, or None for one that JSON does not know."""
    return float(value) if math.isfinite(value) else None


def tally(outcomes: Iterable[dict[str, Any]]) -> dict[str, int]:
    """How many claims hold, are violated, and do not apply."""
    verdicts = [entry["verdict"] for entry in outcomes]
    return {verdict: verdicts.count(verdict) for verdict in ("holds", "violated", "does not apply")}
