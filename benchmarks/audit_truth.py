"""What the models of the audit's second and third round hide, measured apart from the audit; one JSON file.

    python benchmarks/audit_truth.py [--seeds 3] [--out results/audit_confusion/truth.json]

On 128 digits, those that a model classifies right (the mean of 32 calls, so that random ones have an answer), it
measures how many fall to PGD of 50 steps on the cross-entropy, to PGD and APGD on the margin, too, and to attacks that
need none of the model's gradients: points that fool ordinary networks of four seeds (PGD of 100 steps on the margin),
Square of 5,000 queries, and 200 random corners. What the last find beyond the first is hidden from gradients.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path
from typing import Any

import torch
from audit_confusion import LATER_KINDS, built, jobs, plain, samples
from torch import Tensor, nn

import robustreg as rr
from robustreg.files import read_json, write_json_atomic

OUT = Path("results/audit_confusion/truth.json")
CALLS, CORNERS = 32, 200


def fooled(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Samples whose mean answer is wrong, `[B]`, asked of a copy that remembers no earlier calls."""
    net = copy.deepcopy(net)
    with torch.no_grad():
        first = net(x)
        calls = 1 if all(torch.equal(first, net(x)) for _ in range(3)) else CALLS
        z = torch.stack([net(x) for _ in range(calls)]).mean(0)
    return (z.argmax(1) != y) | z.isnan().any(1)


def measured(job: dict[str, Any]) -> dict[str, Any]:
    """Shares of the right samples that fall."""
    net, threat = built(job)
    net.eval()
    x, y = (part[:128] for part in samples(job["data"])[1])
    right = ~fooled(net, x, y)
    x, y = x[right], y[right]
    torch.manual_seed(job["seed"])

    def falls(attack: Any, model: nn.Module) -> Tensor:
        try:
            points = attack(model, x, y)
        except Exception:  # a model without a gradient: that attack finds nothing
            return torch.zeros_like(y, dtype=torch.bool)
        return fooled(net, points, y)

    pgd = falls(rr.PGD(threat, steps=50), net)
    margin = falls(rr.PGD(threat, steps=50, loss="margin"), net)
    margin |= falls(rr.APGD(threat, steps=100, loss="margin"), net)
    others = torch.zeros_like(pgd)
    for i in range(4):
        twin = plain(job["data"], job["arch"], job["seed"] + (0 if i == 0 else 10 * i))
        others |= falls(rr.PGD(threat, steps=100, loss="margin", early_exit=False), twin)
    others |= falls(rr.Square(threat, queries=5000), net)
    for i in range(CORNERS):
        signs = torch.randn(x.shape, generator=torch.Generator().manual_seed(i))
        others |= fooled(net, threat.project(x + threat.steepest(signs), x), y)
    return {
        **job,
        "right": len(x),
        "pgd": float(pgd.double().mean()),
        "margin": float((pgd | margin).double().mean()),
        "all": float((pgd | margin | others).double().mean()),
        "hidden": float((others & ~pgd & ~margin).double().mean()),
    }


def main() -> None:
    """One row a model, written after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = read_json(given.out)["models"] if given.out.is_file() else []
    for job in jobs(["digits"], given.seeds, list(LATER_KINDS)):
        if any(job.items() <= row.items() for row in rows):
            continue
        started = time.perf_counter()
        row = measured(job)
        rows.append(row)
        print(
            {k: v if isinstance(v, str) else round(v, 3) for k, v in row.items()},
            f"{time.perf_counter() - started:.1f} s",
        )
        write_json_atomic(given.out, {"torch": torch.__version__, "models": rows})
    print(table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: means over the seeds, in percent."""
    lines = ["| Kind | Model | PGD | margin too | all | hidden |", "|---|---|---|---|---|---|"]
    for kind, name in dict.fromkeys((r["kind"], r["name"]) for r in rows):
        same = [r for r in rows if (r["kind"], r["name"]) == (kind, name)]
        means = [sum(r[key] for r in same) / len(same) for key in ("pgd", "margin", "all", "hidden")]
        lines.append(f"| {kind} | `{name}` | " + " | ".join(f"{100 * m:.0f}" for m in means) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
