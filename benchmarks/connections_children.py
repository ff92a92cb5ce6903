"""Regularisers that the claims suggest, against their parents at equal cost.

    python benchmarks/connections_matrix.py --out runs/matrix
    python benchmarks/connections_children.py --out runs/matrix

Every one has the weight that the search of `connections_matrix.py` found for it. Where a child's step costs less than
its parent's, by `objective.plan().relative_cost`, it is trained for as many epochs more, and its weight is searched
again for those. Differences are paired by seed, with 95 % intervals of Student's t over the seeds. Runs are kept: the
same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import math
import shutil
import statistics
from pathlib import Path
from typing import Any

import torch
from connections_matrix import BASES, INPUTS, Lab, regularisers, search

from robustreg.commands import workflow
from robustreg.config import build
from robustreg.files import read_json, write_json_atomic
from robustreg.report.reading import read_run

PAIRS = (
    ("anchored", "cross_lipschitz"),
    ("anchored", "jacobian"),
    ("anchored_floored", "anchored_probability"),
    ("anchored_floored", "gradient_l2_squared"),
    ("fisher_trace", "cure"),
    ("fisher_trace", "gradient_l2_squared"),
    ("adaptive_gradient", "gradient_l1"),
    ("adaptive_gradient", "gradient_l2"),
)
EPOCHS = 20  # as in the search
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # by the number of seeds


def costs(lab: Lab, objectives: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Of a step, in steps of plain training."""
    found = {}
    for name, objective in objectives.items():
        built = build(lab.recipe(name, objective, 0))
        found[name] = built.objective.plan(built.splits.train.shape).relative_cost
    return found


def scores(lab: Lab, name: str, objective: dict[str, Any], epochs: int) -> list[dict[str, float]]:
    """Clean and worst-case accuracy on the test set, a seed after the other."""
    rows = []
    for seed in range(lab.seeds):
        run = lab.out / "children" / f"{name}-{epochs}-epochs-s{seed}"
        recipe = lab.recipe(name, objective, seed, epochs)
        searched = lab.out / "runs" / f"{name}-s{seed}"
        if epochs == EPOCHS and searched.is_dir() and not run.is_dir():
            shutil.copytree(searched, run)  # the very same run
        if workflow.status_of(run) != "finished":
            shutil.rmtree(run, ignore_errors=True)
            workflow.train_run(recipe, run, lab.setting)
        if not workflow.is_evaluated(run):
            workflow.evaluate_run(recipe, run, lab.setting)
        read = read_run(run)
        assert read.evaluation is not None
        assert read.evaluation.clean is not None
        assert read.evaluation.worst is not None
        rows.append(
            {
                "clean": read.evaluation.clean.accuracy,
                "robust": read.evaluation.worst.accuracy,
                "validation": float(read.validation["clean"][-1] or 0.0),
                "step_seconds": read.step_seconds or math.nan,
            }
        )
    return rows


def searched_again(lab: Lab, name: str, epochs: int, start: float, found: dict[str, Any]) -> float:
    """The weight whose clean accuracy on the validation split is nearest to the search's target."""
    known = regularisers(BASES[lab.data]["eps"], INPUTS[lab.data])

    def tried(weight: float) -> float:
        folder = lab.out / "search" / f"{name}-{epochs}-epochs-{weight:g}"
        return lab.accuracy(name, known[name][0](weight), folder, found["target"], epochs)

    seen = search(tried, start, found["target"], found["tolerance"], 7)
    return min(seen, key=lambda w: abs(seen[w] - found["target"]))


def paired(child: list[dict[str, float]], parent: list[dict[str, float]], key: str) -> dict[str, float]:
    """Child less parent."""
    differences = [a[key] - b[key] for a, b in zip(child, parent, strict=True)]
    half = STUDENT[len(differences)] * statistics.stdev(differences) / math.sqrt(len(differences))
    mean = statistics.fmean(differences)
    return {"mean": mean, "low": mean - half, "high": mean + half}


def main() -> None:
    """Train, evaluate, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/matrix"))
    parser.add_argument("--data", choices=sorted(BASES), default="digits")
    parser.add_argument("--seeds", type=int, default=5, choices=sorted(STUDENT))
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lab = Lab(options.data, options.out, options.seeds, options.device)
    known = regularisers(BASES[options.data]["eps"], INPUTS[options.data])
    found = read_json(options.out / "search.json")
    searched = found["regularisers"]
    names = dict.fromkeys(name for pair in PAIRS for name in pair)
    weights = {name: searched[name]["weight"] for name in names}
    cost = costs(lab, {name: known[name][0](weights[name]) for name in names})
    rows: dict[str, Any] = {}

    def trained(name: str, epochs: int) -> str:
        """Add a row where there is none; its name."""
        row = name if epochs == EPOCHS else f"{name}, {epochs} epochs"
        if row not in rows:
            weight = weights[name]
            if epochs != EPOCHS:
                weight = searched_again(lab, name, epochs, weight, found)
            seeds = scores(lab, name, known[name][0](weight), epochs)
            rows[row] = {"weight": weight, "relative_cost": cost[name], "epochs": epochs, "seeds": seeds}
            clean, robust = (100 * statistics.fmean(s[key] for s in seeds) for key in ("clean", "robust"))
            print(f"{row}: weight {weight:g}, clean {clean:.2f}, worst case {robust:.2f}", flush=True)
        return row

    table = []
    for child, parent in PAIRS:
        other = trained(parent, EPOCHS)
        ours = trained(child, round(EPOCHS * max(1.0, cost[parent] / cost[child])))
        differences = {
            key: paired(rows[ours]["seeds"], rows[other]["seeds"], key) for key in ("clean", "robust")
        }
        table.append({"child": ours, "parent": other, **differences})
    for row in table:
        told = ", ".join(
            f"{key} {100 * row[key]['mean']:+.2f} [{100 * row[key]['low']:+.2f}, {100 * row[key]['high']:+.2f}]"
            for key in ("clean", "robust")
        )
        print(f"{row['child']} - {row['parent']}: {told}")
    write_json_atomic(
        options.out / "children.json", {"data": options.data, "regularisers": rows, "pairs": table}
    )


if __name__ == "__main__":
    main()
