"""The page of `robustreg connections`: claims with their formulas, what was measured, and two kinds of chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustreg.files import write_text_atomic
from robustreg.report import charts
from robustreg.report.page import render

_RELATIONS = {"=": "equal", "<=": "left side at most the right", "~": "equal up to an order"}
FAMILIES = {
    "I": "What input gradient, Jacobian, curvature and cross-Lipschitz are made of",
    "B": "Which bounds which",
    "T": "Two classes, and one logit",
    "E": "Energy, adversarial training and VAT",
    "A": "ARoW, TRADES, MART and label smoothing",
    "S": "Regularisers of single-step training",
    "M": "Consistency terms, FGSM and LLR",
}
NOTATION = (
    (r"z,\ C", "the logits, and the number of classes"),
    (r"J,\ J_k,\ J_c", "their Jacobian in the input, its rows, and the Jacobian less its mean row"),
    (r"p,\ e_y", "the softmax of the logits, and the label's unit vector"),
    (r"S = \mathrm{diag}(p) - p p^\top", "what softmax bends"),
    (r"L,\ g = \nabla_x L", "the cross-entropy and its input gradient"),
    (r"H = J^\top S J", "the curvature: the loss's Hessian where the logits are affine"),
    (r"\mathrm{CL}", "the cross-Lipschitz functional, see I2"),
    (r"w = J_0 - J_1,\ m", "for two classes, and the margin of the label's logit"),
    (r"d,\ r,\ x'", "a random displacement, that of an attack, and an attacked point"),
)
_VERDICTS = {"holds": "right", "violated": "wrong", "does not apply": "muted"}


def write_connections(result: Mapping[str, Any], out: str | Path) -> Path:
    """Write the self-contained page about checked claims.

    Args:
        result: what `robustreg connections` writes into connections.json.
        out: the file to write.

    Returns:
        The path of the page.

    Raises:
        ModuleNotFoundError: when jinja2, plotly or latex2mathml is not installed.
    """
    claims = [_claim(entry) for entry in result["claims"]]
    drawn = {
        "distances": _distance_charts(result["distances"]),
        "orders": [_order_chart(i, entry) for i, entry in enumerate(result["claims"]) if _has_order(entry)],
    }
    context = {
        "title": f"Connections in {result['name']}",
        "case": result["case"],
        "tally": result["tally"],
        "notation": [(formula(symbols), meaning) for symbols, meaning in NOTATION],
        "families": _by_family(claims),
        "distances": result["distances"],
        "distance_rows": _distance_rows(result["distances"]),
        "charts": drawn,
        "legends": {key: charts.legend(figures) for key, figures in drawn.items()},
        "chart_data": [figure for figures in drawn.values() for figure in figures],
    }
    return write_text_atomic(out, render("connections.html.j2", context))


def formula(latex: str) -> Any:
    """LaTeX as MathML, which browsers draw by themselves."""
    from markupsafe import Markup

    try:
        from latex2mathml.converter import convert
    except ImportError as error:
        raise ModuleNotFoundError(
            'the page needs latex2mathml, which is not installed: pip install "robustreg[report]"',
            name="latex2mathml",
        ) from error
    return Markup(convert(latex, display="block"))


def _claim(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **entry,
        "formula": formula(entry["latex"]),
        "tone": _VERDICTS[entry["verdict"]],
        "relation_name": _RELATIONS[entry["relation"]],
        "measured": _measured(entry),
        "bar": _bar(entry),
        "failed": [c for c in entry["conditions"] if c["holds"] < c["of"]],
    }


def _measured(entry: Mapping[str, Any]) -> str:
    """What was found, in words."""
    if not entry["applies"]:
        return "no sample meets the conditions"
    if entry["relation"] == "~":
        if entry["below_rounding"]:
            return "no error above rounding at any radius"
        claimed = f"at least {entry['order']:g} claimed"
        return (
            f"order {entry['observed_order']:.2f} observed up to a radius of {entry['radii'][0]:g}, {claimed}"
        )
    if entry["empty"] and entry["verdict"] == "holds":
        return "both sides are 0, but for rounding, which says little unless that is the statement"
    worst = entry["worst"]
    if worst is None:
        return "a side is not finite"
    if entry["relation"] == "<=":
        return f"exceeded by {worst:.1e} of the larger side at worst" if worst else _tight(entry["tightness"])
    return f"off by {worst:.1e} of the larger side at worst" if worst else "equal but for rounding"


def _tight(share: float | None) -> str:
    return "exceeded nowhere" if share is None else f"the left side is {share:.1%} of the right in the median"


def _bar(entry: Mapping[str, Any]) -> str:
    """How tight an inequality is on these samples, as a width."""
    return "" if entry["tightness"] is None else f"{min(100.0, 100.0 * entry['tightness']):.1f}%"


def _by_family(claims: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The claims in their order, under what they are about."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for claim in claims:
        groups.setdefault(claim["key"][0], []).append(claim)
    return [_family(FAMILIES.get(key, key), members) for key, members in groups.items()]


def _family(name: str, members: list[dict[str, Any]]) -> dict[str, Any]:
    verdicts = [claim["verdict"] for claim in members]
    words = {"holds": "hold", "violated": "violated", "does not apply": "do not apply"}
    told = [f"{verdicts.count(v)} {word}" for v, word in words.items() if v in verdicts]
    return {
        "name": name,
        "source": members[0]["source"],
        "claims": members,
        "told": ", ".join(told),
        "violated": "violated" in verdicts,
    }


def _has_order(entry: Mapping[str, Any]) -> bool:
    """Whether there is an error to draw: rounding alone looks like a claim that fails."""
    return bool(entry["applies"]) and not entry["below_rounding"] and len(_points(entry)) > 1


def _points(entry: Mapping[str, Any]) -> list[tuple[float, float]]:
    return [(r, e) for r, e in zip(entry["radii"], entry["errors"], strict=True) if e is not None and e > 0]


def _order_chart(index: int, entry: Mapping[str, Any]) -> charts.Chart:
    """The error over the radius, beside the slope that is claimed."""
    radii, errors = zip(*_points(entry), strict=True)
    largest = radii[0]
    claimed = [errors[0] * (r / largest) ** entry["order"] for r in radii]
    return {
        "id": f"chart-order-{index}",
        "title": f"{entry['key']}: {entry['title']}",
        "x": {"title": "radius", "log": True, "powers": True, "dtick": 1},
        "y": {"title": "largest error", "log": True, "powers": True, "ticks": 5},
        "markers": True,
        "height": 280,
        "series": [
            _line("measured", 0, 0, radii, errors),
            _line("the claimed order, from the largest radius", 6, 1, radii, claimed),
        ],
    }


def _distance_charts(distances: Mapping[str, Any] | None) -> list[charts.Chart]:
    """Lower and upper bound of each sample, sorted by the upper one."""
    if distances is None:
        return []
    order = _nearest_first(distances)
    if not order:
        return []
    lines = [("lower bound", 2, "lower"), ("nearest point that an attack found", 1, "upper")]
    return [
        {
            "id": "chart-distances",
            "title": "",
            "x": {"title": "samples, nearest first", "dtick": 1 if len(order) <= 10 else None},
            "y": {"title": f"{distances['norm']} distance", "log": True, "powers": True, "dtick": 1},
            "markers": True,
            "height": 360,
            "series": [
                _line(name, colour, 0, range(1, len(order) + 1), [distances[key][i] for i in order])
                for name, colour, key in lines
            ],
        }
    ]


def _nearest_first(distances: Mapping[str, Any]) -> list[int]:
    """The samples that have both bounds, neither of them 0: they are drawn on a logarithmic axis."""
    both = [i for i, upper in enumerate(distances["upper"]) if upper and distances["lower"][i]]
    return sorted(both, key=lambda i: distances["upper"][i])


def _distance_rows(distances: Mapping[str, Any] | None) -> list[dict[str, str]]:
    if distances is None:
        return []
    return [
        {
            "sample": str(i),
            "lower": _shown(distances["lower"][i]) if distances["certified"][i] else "none",
            "upper": _shown(distances["upper"][i]),
            "margin": _shown(distances["margin"][i]),
            "border": _shown(distances["border"][i]),
            "remark": _remark(distances, i),
        }
        for i in range(len(distances["lower"]))
    ]


def _remark(distances: Mapping[str, Any], i: int) -> str:
    if distances["refuted"][i]:
        return "refuted by the attack"
    if distances["upper"][i] == 0:
        return "misclassified as it is"
    return "boundary in its own region" if distances["exact"][i] else ""


def _shown(value: float | None) -> str:
    return "∞" if value is None else f"{value:.4g}"


def _line(name: str, colour: int, dash: int, x: Sequence[float], y: Sequence[float]) -> dict[str, Any]:
    return {"name": name, "group": name, "colour": colour, "dash": dash, "x": list(x), "y": list(y)}
