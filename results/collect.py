"""Copy what is worth keeping of a comparison into this folder, and write its table as Markdown.

    python results/collect.py runs/mnist results/mnist_gradient_family

Kept of every run: the resolved recipe, run.json, plan.json, validation.csv, the evaluation and the evidence's manifest
(hashes of model, data and adversarial points). Weights and points are too large; the recipe makes them again.
"""

from __future__ import annotations

import argparse
import shutil
from functools import partial
from pathlib import Path

from robustreg.report.aggregate import attack_keys, attack_of, group_by_name, group_mean
from robustreg.report.reading import Run, Score, read_comparison

KEPT = (
    "recipe.yaml",
    "run.json",
    "plan.json",
    "validation.csv",
    "evaluation/evaluation.json",
    "evaluation/evidence/manifest.json",
)


def copy(comparison: Path, out: Path) -> None:
    shutil.copy(comparison / "compare.json", out / "compare.json")
    for run in sorted(p.parent for p in comparison.glob("*/run.json")):
        for name in KEPT:
            if (run / name).is_file():
                target = out / run.name / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(run / name, target)


def clean(run: Run) -> Score | None:
    return run.evaluation.clean if run.evaluation else None


def worst(run: Run) -> Score | None:
    return run.evaluation.worst if run.evaluation else None


def under(key: tuple[str, str], run: Run) -> Score | None:
    attack = attack_of(run, key)
    return attack.score if attack else None


def table(comparison: Path) -> str:
    """Accuracies in percent: mean and standard deviation over seeds, then each seed with its Wilson interval."""
    runs = read_comparison(comparison).runs
    keys = attack_keys(runs)
    columns = [
        ("clean", clean),
        *((" ".join(k).strip(), partial(under, k)) for k in keys),
        ("worst case", worst),
    ]
    head = ["", "seeds", *(name for name, _ in columns)]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for group in group_by_name(runs):
        cells = [f"**{group.name}**", str(len(group.runs))]
        for _, pick in columns:
            mean = group_mean(group, pick)
            spread = f" ± {100 * mean.spread:.2f}" if mean and mean.spread is not None else ""
            cells.append(f"{100 * mean.accuracy:.2f}{spread}" if mean else "")
        lines.append("| " + " | ".join(cells) + " |")
        for run in group.runs:
            cells = [f"{group.name}", f"{run.info.get('seed', '')}"]
            for _, pick in columns:
                score = pick(run)
                known = score is not None and score.low is not None and score.high is not None
                cells.append(
                    f"{100 * score.accuracy:.2f} [{100 * score.low:.2f}, {100 * score.high:.2f}]"
                    if known
                    else ""
                )
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("comparison", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    copy(options.comparison, options.out)
    (options.out / "table.md").write_text(table(options.comparison), encoding="utf-8")
    print(table(options.comparison))


if __name__ == "__main__":
    main()
