"""What became of claims and bounds, as plain data that JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from robustreg.connections.case import Case
from robustreg.connections.certificates import Sandwich
from robustreg.connections.claim import Claim, Residual
from robustreg.connections.functionals import FUNCTIONALS
from robustreg.connections.matrix import Network, between, by_name, correlations, ratios, stands_in


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
        "empty": residual.empty,
        "tightness": finite(_tightness(residual)),
        "tolerance": residual.tolerance,
        "order": claim.order,
        "observed_order": None if residual.order is None else finite(residual.order),
        "below_rounding": residual.order == math.inf,
        "radii": list(residual.radii),
        "errors": [finite(e) for e in residual.errors],
        "left": numbers(residual.left),
        "right": numbers(residual.right),
    }


def _tightness(residual: Residual) -> float:
    """Of an inequality: the median of left over right, where it applies and the left side is above rounding."""
    shown = residual.applies & (residual.left > residual.rounding) & (residual.right > 0)
    shown = shown & residual.right.isfinite()
    if residual.relation != "<=" or not bool(shown.any()):
        return math.nan
    return float((residual.left[shown] / residual.right[shown]).median())


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


FACTORS = (
    "gradient_l2",
    "fisher_trace",
    "gradient_free",
    "curvature_free",
    "cross_lipschitz",
    "jacobian",
    "confidence",
)
"""Input gradient and curvature with and without their factor of confidence, between those that have none."""


def matrix_of(
    networks: Sequence[Network], looks: Sequence[Mapping[str, Any]], baseline: str
) -> dict[str, Any]:
    """The matrix experiment: what each regulariser did to each functional, and how functionals rank robustness.

    Args:
        networks: one a run.
        looks: what was measured on each, as ``Look.as_json`` gives it, with the run's name and seed.
        baseline: the name of the networks that others are set against.
    """
    table = ratios(networks, baseline)
    return {
        "functionals": [{"key": f.key, "title": f.title, "latex": f.latex} for f in FUNCTIONALS],
        "networks": [
            {**look, "clean": network.clean, "robust": network.robust}
            for network, look in zip(networks, looks, strict=True)
        ],
        "regularisers": list(by_name(networks)),
        "log10_ratios": {
            name: {key: [finite(mean), finite(spread)] for key, (mean, spread) in row.items()}
            for name, row in table.items()
        },
        "stands_in": stands_in(table),
        "correlations": {
            key: {name: finite(value) for name, value in vars(found).items()}
            for key, found in correlations(networks).items()
        },
        "factors": {"keys": list(FACTORS), "between": _finite_rows(between(networks, FACTORS))},
    }


def _finite_rows(rows: Sequence[Sequence[float]]) -> list[list[float | None]]:
    return [[finite(value) for value in row] for row in rows]
