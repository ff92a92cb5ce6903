"""Cost of a training step through an objective against the same mathematics written by hand in eager PyTorch.

    python benchmarks/step_cost.py --turns 40 --threads 1

Both run in one process, turn by turn, on copies of one network and one batch; what counts is the ratio. Before any
timing the parameter gradients of the two are compared, so that the hand-written step is the same mathematics.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from interleave import interleaved
from torch import Tensor, nn

import robustreg as rr
from robustreg.models import build

Step = Callable[[nn.Module, Tensor, Tensor], Tensor]
EPS = 0.1


def plain(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(x), y)


def gradient_penalty(net: nn.Module, x: Tensor, y: Tensor, p: float) -> Tensor:
    u = x.clone().requires_grad_()
    losses = F.cross_entropy(net(u), y, reduction="none")
    (g,) = torch.autograd.grad(losses.sum(), u, create_graph=True)
    dual = 1.0 if p == float("inf") else 2.0
    return losses.mean() + EPS * torch.linalg.vector_norm(g.flatten(1), dual, dim=1).mean()


def fgsm_training(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    frozen = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for m in frozen:
        m.track_running_stats = False
    u = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(net(u), y), u)
    for m in frozen:
        m.track_running_stats = True
    return F.cross_entropy(net(x + EPS * g.sign()), y)


def pgd_training(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    net.eval()
    z = x.clone()
    for _ in range(3):
        u = z.detach().requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(net(u), y), u)
        z = (z + EPS / 3 * g.sign()).clamp(x - EPS, x + EPS).clamp(0, 1)
    net.train()
    return F.cross_entropy(net(z.detach()), y)


LINF, L2 = rr.Threat("linf", EPS), rr.Threat("l2", EPS)
PAIRS: dict[str, tuple[Step, rr.Objective]] = {
    "plain": (plain, rr.Objective.of(rr.CrossEntropy())),
    "gradient norm, p = inf": (
        lambda n, x, y: gradient_penalty(n, x, y, float("inf")),
        rr.CrossEntropy() + rr.GradientNorm(LINF),
    ),
    "gradient norm, p = 2": (
        lambda n, x, y: gradient_penalty(n, x, y, 2.0),
        rr.CrossEntropy() + rr.GradientNorm(L2),
    ),
    "perturbed, p = inf": (fgsm_training, rr.Objective.of(rr.Perturbed(LINF))),
    "PGD-3 training": (
        pgd_training,
        rr.Objective.of(rr.CrossEntropy(at=rr.PGD(LINF, steps=3, step_size=EPS / 3, start=rr.Clean()))),
    ),
}


def step_of(loss: Callable[[], Tensor], net: nn.Module) -> Callable[[], object]:
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    return step


def gradient_gap(net: nn.Module, x: Tensor, y: Tensor, by_hand: Step, objective: rr.Objective) -> float:
    """Largest difference of the parameter gradients, relative to their largest entry, in float64."""
    a, b = copy.deepcopy(net).double(), copy.deepcopy(net).double()
    by_hand(a, x.double(), y).backward()
    rr.ObjectiveModule(b, objective, seed=0)(x.double(), y, step=0).backward()
    pairs = [(p.grad, q.grad) for p, q in zip(a.parameters(), b.parameters(), strict=True)]
    scale = max(float(p.abs().max()) for p, _ in pairs)
    return max(float((p - q).abs().max()) for p, q in pairs) / scale


def measure(
    name: str, net: nn.Module, shape: tuple[int, ...], batch: int, turns: int
) -> list[dict[str, object]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, *shape, generator=generator)
    y = torch.randint(0, 10, (batch,), generator=generator)
    rows = []
    for title, (by_hand, objective) in PAIRS.items():
        gap = gradient_gap(net, x[:8], y[:8], by_hand, objective)
        if gap > 1e-9:
            raise SystemExit(f"{title}: the hand-written step is other mathematics (gradient gap {gap:.1e})")
        one, two = copy.deepcopy(net), copy.deepcopy(net)
        module = rr.ObjectiveModule(two, objective, seed=0)
        timings = interleaved(
            {
                "by hand": step_of(lambda h=by_hand, n=one: h(n, x, y), one),
                "objective": step_of(lambda m=module: m(x, y), two),
            },
            turns,
        )
        ratio, low, high = timings["objective"].ratio_to(timings["by hand"])
        row = {
            "network": name,
            "step": title,
            "by_hand_ms": 1e3 * timings["by hand"].median,
            "objective_ms": 1e3 * timings["objective"].median,
            "ratio": ratio,
            "ratio_quartiles": [low, high],
            "gradient_gap": gap,
        }
        rows.append(row)
        print(
            f"{name:<18} {title:<24} by hand {row['by_hand_ms']:8.2f} ms   objective {row['objective_ms']:8.2f} ms   "
            f"ratio {ratio:.3f} [{low:.3f}, {high:.3f}]",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for name, net, shape, batch in (
        ("small_conv", build("small_conv", shape=(1, 8, 8), seed=0), (1, 8, 8), 64),
        ("lenet_plus", build("lenet_plus", shape=(1, 28, 28), seed=0), (1, 28, 28), 64),
        (
            "preact_resnet18/4",
            build("preact_resnet18", shape=(3, 32, 32), width=0.25, seed=0),
            (3, 32, 32),
            32,
        ),
    ):
        rows += measure(name, net, shape, batch, options.turns)
    if options.out:
        machine = {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "processor": platform.machine(),
        }
        record = {"machine": machine, "threads": options.threads, "turns": options.turns, "rows": rows}
        options.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
