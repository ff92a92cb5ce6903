"""The tables of results/connections_matrix, from its JSON files.

    python benchmarks/connections_tables.py results/connections_matrix

It reads connections.json (of `robustreg connections`), search.json and children.json (of the two scripts beside this
one) and writes tables.md.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robustreg.files import read_json, write_text_atomic

SHOWN = (
    "gradient_l1", "gradient_l2_squared", "fisher_trace", "cure", "jacobian", "cross_lipschitz", "anchored",
    "energy_segment", "energy_worst", "vat", "trades", "llr", "grad_align", "confidence", "gradient_free",
    "curvature_free",
)  # fmt: skip


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def percent(values: Sequence[float]) -> str:
    return f"{100 * statistics.fmean(values):.1f} ± {100 * statistics.stdev(values):.1f}"


def trained(result: dict[str, Any], search: dict[str, Any]) -> str:
    rows = []
    for name in result["regularisers"]:
        members = [n for n in result["networks"] if n["name"] == name]
        found = search["regularisers"].get(name)
        weight = (
            "" if found is None else f"{found['weight']:g}" + ("" if found["matched"] else ", not matched")
        )
        validation = search["plain"] if found is None else found["validation"]
        rows.append(
            (
                float(statistics.fmean(n["robust"] for n in members)),
                [name, weight, f"{100 * validation:.1f}", percent([n["clean"] for n in members]),
                 percent([n["robust"] for n in members])],
            )
        )  # fmt: skip
    rows.sort(key=lambda row: -row[0])
    head = ["trained with", "weight", "validation, clean", "test, clean", "test, worst case"]
    return table(head, [row for _, row in rows])


def ratio(cell: Sequence[float | None]) -> str:
    return "" if cell[0] is None else f"{10 ** cell[0]:.2g}"


def ratios(result: dict[str, Any]) -> str:
    names = [name for name in result["regularisers"] if name != result["baseline"]]
    rows = [[name, *(ratio(result["log10_ratios"][name][key]) for key in SHOWN)] for name in names]
    return table(["trained with", *SHOWN], rows)


def stands_in(result: dict[str, Any]) -> str:
    shares = result["stands_in"]
    keys = list(next(iter(shares.values())))
    names = [name for name in result["regularisers"] if name != result["baseline"]]
    return table(["trained with", *keys], [[n, *(f"{shares[n][k]:.2f}" for k in keys)] for n in names])


def ranks(result: dict[str, Any]) -> str:
    known = {k: r for k, r in result["correlations"].items() if None not in r.values()}
    rows = [
        [
            k,
            f"{r['value']:.2f}",
            f"[{r['low']:.2f}, {r['high']:.2f}]",
            f"[{r['low_all']:.2f}, {r['high_all']:.2f}]",
        ]
        for k, r in sorted(known.items(), key=lambda item: item[1]["value"])
    ]
    return table(["functional", "rho", "over seeds", "over regularisers and seeds"], rows)


def factors(result: dict[str, Any]) -> str:
    keys, between = result["factors"]["keys"], result["factors"]["between"]
    rows = [
        [k, *("" if v is None else f"{v:.2f}" for v in row)] for k, row in zip(keys, between, strict=True)
    ]
    return table(["", *keys], rows)


def within(result: dict[str, Any]) -> str:
    rows = []
    for functional in result["functionals"]:
        found = [n["by_confidence"][functional["key"]] for n in result["networks"]]
        known = sorted(v for v in found if v is not None)
        if known:
            rows.append(
                [functional["key"], f"{statistics.median(known):.2f}", f"{known[0]:.2f} to {known[-1]:.2f}"]
            )
    return table(["functional", "median over networks", "range"], rows)


def interval(found: dict[str, float]) -> str:
    return f"{100 * found['mean']:+.1f} [{100 * found['low']:+.1f}, {100 * found['high']:+.1f}]"


def children(found: dict[str, Any]) -> str:
    regularisers = [
        [name, f"{r['weight']:g}", f"{r['relative_cost']:.2f}", str(r["epochs"]),
         percent([s["clean"] for s in r["seeds"]]), percent([s["robust"] for s in r["seeds"]])]
        for name, r in found["regularisers"].items()
    ]  # fmt: skip
    pairs = [
        [p["child"], p["parent"], *(interval(p[k]) for k in ("clean", "robust"))] for p in found["pairs"]
    ]
    head = ["trained with", "weight", "cost of a step", "epochs", "clean", "worst case"]
    return (
        table(head, regularisers)
        + "\n"
        + table(["new", "parent", "clean, points", "worst case, points"], pairs)
    )


def tables(folder: Path) -> str:
    """All of them as Markdown."""
    result, search = read_json(folder / "connections.json"), read_json(folder / "search.json")
    parts = {
        "Accuracies at matched strength": trained(result, search),
        "Each functional over that of plain training": ratios(result),
        "Who stands in for whom": stands_in(result),
        "Rank correlation with worst-case accuracy": ranks(result),
        "Rank correlations between functionals over the ways of training": factors(result),
        "Rank correlation over samples with 1 - p_y": within(result),
    }
    if (folder / "children.json").is_file():
        parts["New regularisers and their parents at equal cost"] = children(
            read_json(folder / "children.json")
        )
    return "# Tables\n\n" + "\n".join(f"## {title}\n\n{part}" for title, part in parts.items())


def main() -> None:
    """Write tables.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    text = tables(folder)
    write_text_atomic(folder / "tables.md", text)
    print(text)


if __name__ == "__main__":
    main()
