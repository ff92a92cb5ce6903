"""What training with each regulariser does to all of them: weights matched by clean accuracy, then runs to measure.

    python benchmarks/connections_matrix.py --out runs/matrix [--only trades,cure] [--data mnist]
    robustreg matrix runs/matrix/runs --out results/connections_matrix

Each regulariser stands beside the cross-entropy, and its weight is searched until clean accuracy on the validation
split, the mean over the seeds, is a given number of points below that of plain training. Everything is kept as it
comes: the same command goes on after an interruption. The attacks of the evaluation are those of the recipe.
"""

from __future__ import annotations

import argparse
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from robustreg.commands import workflow
from robustreg.config import Recipe, load_recipe
from robustreg.files import read_json, write_json_atomic
from robustreg.report.reading import read_run

BASES: dict[str, dict[str, Any]] = {
    "digits": {
        "eps": 0.15,
        "overrides": ["model.width=16", "optimizer.lr=5.0e-3", "validation.size=0.3"],
    },
    "mnist": {
        "eps": 0.1,
        # Most of the training set is held out: runs of seconds, and a clean accuracy known to a tenth of a point.
        "overrides": [
            "epochs=4",
            "validation.size=50000",
            "evaluation.samples=500",
            "evaluation.checkpoint=last",
        ],
    },
}
ATTACKS = "[fgsm, {attack: pgd, steps: 20, restarts: 2}, {attack: apgdt, steps: 20}, {attack: square, queries: 500}]"
FAR = 0.025  # of one seed's accuracy from the target
INPUTS = {"digits": 64, "mnist": 784}


def regularisers(eps: float, inputs: int) -> dict[str, tuple[Callable[[float], dict[str, Any]], float]]:
    """An objective for each weight, and the weight to begin with. l2 radii are those of a linf step, eps sqrt(D)."""
    l2 = {"norm": "l2", "eps": round(eps * math.sqrt(inputs), 6)}

    def term(name: str, **options: Any) -> Callable[[float], dict[str, Any]]:
        return lambda w: {"terms": ["cross_entropy", {"term": name, "weight": w, **options}]}

    def method(name: str, knob: str = "lam", **options: Any) -> Callable[[float], dict[str, Any]]:
        return lambda w: {"method": name, knob: w, **options}

    anchored, energy = "anchored_cross_lipschitz", {"norm": l2["norm"], "eps": l2["eps"]}
    return {
        "gradient_l1": (term("gradient_norm"), 2.0),
        "gradient_l2_squared": (method("double_backpropagation"), 1.0),
        "jacobian": (method("jacobian", projections=1), 0.02),
        "cross_lipschitz": (method("cross_lipschitz", projections=1), 0.05),
        "fisher_trace": (term("fisher_trace"), 0.2),
        "cure": (method("cure", "gamma", h=l2["eps"]), 0.5),
        "anchored": (term(anchored, projections=1), 0.02),
        "anchored_floored": (term(anchored, projections=1, weights="probability", floor=0.05), 0.02),
        "energy_segment": (method("energy", points="segment", **energy), 1.0),
        "vat": (method("vat", **energy), 2.0),
        "trades": (method("trades", "beta", steps=5), 6.0),
        "arow": (method("arow", form="arow_ce", steps=5), 12.0),
        "llr": (method("llr", nominal=1.0, smooth=0.0, steps=5), 4.0),
        "sat_r1": (term("sat_r1", steps=5), 1.0),
        "sat_r2": (term("sat_r2"), 20.0),
        "sat_r3": (term("sat_r3"), 2.0),
        "grad_align": (term("grad_align"), 2.0),
        "pgd": (term("cross_entropy", at={"point": "pgd", "steps": 5}), 8.0),
        "jacobian_spectral": (term("jacobian_norm", norm="spectral", iterations=3), 0.05),
        "energy_worst": (method("energy", points="worst", **energy), 0.5),
        "energy_ball": (method("energy", points="ball", **energy), 1.0),
        "anchored_probability": (term(anchored, projections=1, weights="probability"), 0.2),
        "adaptive_gradient": (term("adaptive_gradient_norm", p="absolute", tau=0.9, rescale=True), 2.0),
        "gradient_l2": (term("gradient_norm", threat=l2), 1.0),
        "fgsm": (term("perturbed"), 8.0),
    }


class Lab:
    """The runs of one data set in one folder."""

    def __init__(self, data: str, out: Path, seeds: int, device: str) -> None:
        self.data, self.out, self.seeds = data, out, seeds
        self.setting = workflow.Setting(None, device, 1 if device == "cpu" else None, progress=False)

    def recipe(self, name: str, objective: dict[str, Any], seed: int, epochs: int | None = None) -> Recipe:
        """The shipped recipe of plain training with another objective, and other epochs where they are given."""
        base = BASES[self.data]
        plain = "plain" if self.data == "digits" else f"{self.data}/plain"
        changes = [f"threat.eps={base['eps']}", "validation.attack=null", "validation.every=1000"]
        changes += [f"evaluation.attacks={ATTACKS}", "evaluation.curve=[]", *base["overrides"]]
        recipe = load_recipe(plain, changes)
        changed = {**recipe.to_dict(), "name": name, "objective": objective, "seed": seed}
        changed["epochs"] = epochs or recipe.epochs
        return Recipe.model_validate(changed)

    def accuracy(
        self,
        name: str,
        objective: dict[str, Any],
        folder: Path,
        target: float | None = None,
        epochs: int | None = None,
    ) -> float:
        """Clean accuracy on the validation split, the mean over the seeds, of runs made where there are none.

        Where the first seed is far from the target the others are not made: the weight is not that.
        """
        found: list[float] = []
        for seed in range(self.seeds):
            run = folder / f"{name}-s{seed}"
            if workflow.status_of(run) != "finished":
                shutil.rmtree(run, ignore_errors=True)
                workflow.train_run(self.recipe(name, objective, seed, epochs), run, self.setting)
            found.append(float(read_run(run).validation["clean"][-1] or 0.0))
            if target is not None and abs(found[0] - target) > FAR:
                break
        return math.fsum(found) / len(found)

    def keep(self, folder: Path) -> list[Path]:
        """The chosen runs, evaluated, beside each other as `robustreg compare` has them."""
        kept = []
        for source in sorted(folder.glob("*-s*")):
            run = self.out / "runs" / source.name
            shutil.rmtree(run, ignore_errors=True)
            shutil.copytree(source, run)
            recipe = workflow.recipe_of(run)
            if not workflow.is_evaluated(run):
                workflow.evaluate_run(recipe, run, self.setting)
            kept.append(run)
        return kept


def search(
    accuracy: Callable[[float], float], start: float, target: float, tolerance: float, most: int
) -> dict[float, float]:
    """Accuracies by weight: the weight is quadrupled or quartered until the target is passed, then bisected."""
    seen: dict[float, float] = {}
    weight = start
    while len(seen) < most:
        seen[weight] = accuracy(weight)
        if abs(seen[weight] - target) <= tolerance:
            break
        weak = [w for w, a in seen.items() if a > target]
        strong = [w for w, a in seen.items() if a <= target]
        if not strong:
            weight = 4 * max(weak)
        elif not weak:
            weight = min(strong) / 4
        else:  # accuracy is a noisy function of the weight: the strongest of the weak ones below the strong ones
            low, high = max((w for w in weak if w < min(strong)), default=min(strong) / 4), min(strong)
            weight = math.sqrt(low * high)
        weight = float(f"{weight:.3g}")
        if weight in seen:
            break
    return seen


def main() -> None:
    """Search, keep, evaluate."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/matrix"))
    parser.add_argument("--data", choices=sorted(BASES), default="digits")
    parser.add_argument("--only", help="of the regularisers, by name")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--points", type=float, default=1.5, help="below plain training")
    parser.add_argument("--tolerance", type=float, default=0.5, help="in points")
    parser.add_argument("--most", type=int, default=7, help="weights tried at most")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lab = Lab(options.data, options.out, options.seeds, options.device)
    plain = lab.accuracy("plain", {"terms": ["cross_entropy"]}, options.out / "search" / "plain")
    target = plain - options.points / 100
    runs = lab.keep(options.out / "search" / "plain")
    print(f"plain {100 * plain:.2f}, target {100 * target:.2f}", flush=True)
    known = regularisers(BASES[options.data]["eps"], INPUTS[options.data])
    file = options.out / "search.json"
    table = read_json(file)["regularisers"] if file.is_file() else {}
    for name in options.only.split(",") if options.only else known:
        made, start = known[name]

        def tried(weight: float, name: str = name, made: Callable[[float], dict[str, Any]] = made) -> float:
            return lab.accuracy(name, made(weight), options.out / "search" / f"{name}-{weight:g}", target)

        seen = search(tried, start, target, options.tolerance / 100, options.most)
        best = min(seen, key=lambda w: abs(seen[w] - target))
        seen[best] = lab.accuracy(name, made(best), options.out / "search" / f"{name}-{best:g}")
        table[name] = {
            "weight": best,
            "validation": seen[best],
            "matched": abs(seen[best] - target) <= options.tolerance / 100,
            "objective": made(best),
            "tried": [[w, a] for w, a in sorted(seen.items())],
        }
        runs += lab.keep(options.out / "search" / f"{name}-{best:g}")
        write_json_atomic(
            file,
            {
                "data": options.data,
                "seeds": options.seeds,
                "plain": plain,
                "target": target,
                "tolerance": options.tolerance / 100,
                "regularisers": table,
            },
        )
        tries = ", ".join(f"{w:g}: {100 * a:.2f}" for w, a in sorted(seen.items()))
        print(f"{name} {best:g} {'' if table[name]['matched'] else 'NOT MATCHED '}({tries})", flush=True)
    runs = sorted((options.out / "runs").glob("*-s*"))
    listing = [{"name": r.name.rpartition("-s")[0], "path": r.name, "seed": int(r.name[-1])} for r in runs]
    title = f"{options.data}, matched by clean accuracy"
    write_json_atomic(options.out / "runs" / "compare.json", {"title": title, "runs": listing})


if __name__ == "__main__":
    main()
