"""Cost of a composition from no paper against the same mathematics written by hand in eager PyTorch.

    python benchmarks/composition.py --turns 40 --threads 1

Smoothed cross-entropy, ARoW's weighted consistency, energy on the way to the same attack (without labels) and the
Jacobian's norm in one projection, on a batch of which half has no label; then the same under adversarial weight
perturbation. Whoever writes it by hand here knows what can be shared: one attack for two terms, one clean forward for
all. Both run in one process, turn by turn; what counts is the ratio. Before any timing the parameter gradients of the
two are compared, so that the hand-written step is the same mathematics.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from interleave import interleaved
from torch import Tensor, nn

import robustreg as rr
from robustreg.models import build
from robustreg.streams import Stream
from robustreg.training.weight_perturbation import perturbed, perturbed_weights, same_buffers

EPS, STEPS, SIZE, GAMMA = 0.1, 3, 0.04, 0.005
THREAT = rr.Threat("linf", EPS)
NOISE = rr.Gaussian(0.001)
ATTACK = rr.PGD(THREAT, steps=STEPS, step_size=SIZE, start=NOISE, loss="kl")


def objective() -> rr.Objective:
    return (
        rr.CrossEntropy(smoothing=0.2)
        + 3.0 * rr.weighted(rr.Consistency(ATTACK), by=rr.Vulnerability(ATTACK))
        + 0.5 * rr.Energy(THREAT, divergence="kl", end=ATTACK)
        + 0.01 * rr.JacobianNorm(projections=1)
    )


Backward = Callable[[], None]  # leaves the step's gradient in the parameters


# -- by hand -----------------------------------------------------------------------------------------------------------


@contextmanager
def frozen_statistics(net: nn.Module):
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for m in norms:
        m.track_running_stats = False
    yield
    for m in norms:
        m.track_running_stats = True


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(1)


def attack(net: nn.Module, x: Tensor, noise: Tensor) -> Tensor:
    net.eval()
    with torch.no_grad():
        target = net(x).log_softmax(1)
    z = (x + 0.001 * noise).clamp(x - EPS, x + EPS).clamp(0, 1)
    for _ in range(STEPS):
        u = z.detach().requires_grad_()
        (g,) = torch.autograd.grad(kl(target, net(u).log_softmax(1)).sum(), u)
        z = (z + SIZE * g.sign()).clamp(x - EPS, x + EPS).clamp(0, 1)
    net.train()
    return z.detach()


def loss_at(net: nn.Module, x: Tensor, y: Tensor, z: Tensor, projection: Tensor) -> Tensor:
    labelled = y >= 0
    u = x.clone().requires_grad_()
    logits = net(u)
    clean, other = logits.log_softmax(1), net(z).log_softmax(1)
    loss = F.cross_entropy(logits[labelled], y[labelled], label_smoothing=0.2)
    vulnerability = 1 - other[labelled].exp().gather(1, y[labelled].unsqueeze(1)).squeeze(1)
    loss = loss + 3.0 * (vulnerability * kl(clean, other)[labelled]).mean()
    with frozen_statistics(net):
        middle = ((x + z) / 2).requires_grad_()
        divergence = kl(clean.detach(), net(middle).log_softmax(1)).sum()
    (g,) = torch.autograd.grad(divergence, middle, create_graph=True)
    loss = loss + 0.5 * ((z - x).flatten(1).abs().amax(1) * g.flatten(1).abs().sum(1)).mean()
    v = projection / projection.norm(dim=1, keepdim=True) * math.sqrt(projection.shape[1])
    (row,) = torch.autograd.grad((v * logits).sum(), u, create_graph=True)
    return loss + 0.01 * 0.5 * row.flatten(1).square().sum(1).mean()


Draw = Callable[[], tuple[Tensor, Tensor]]  # the attack's start and the projection


def by_hand(net: nn.Module, x: Tensor, y: Tensor, draw: Draw) -> Backward:
    def backward() -> None:
        noise, projection = draw()
        loss_at(net, x, y, attack(net, x, noise), projection).backward()

    return backward


def by_hand_perturbed(net: nn.Module, x: Tensor, y: Tensor, draw: Draw) -> Backward:
    def backward() -> None:
        noise, projection = draw()
        z = attack(net, x, noise)
        with frozen_statistics(net):
            loss_at(net, x, y, z, projection).backward()
        weights = [p for name, p in net.named_parameters() if "weight" in name and p.ndim >= 2]
        kept = [w.detach().clone() for w in weights]
        for w in weights:
            w.data.add_(w.grad * (GAMMA * w.norm() / w.grad.norm()))
        net.zero_grad(set_to_none=True)
        loss_at(net, x, y, z, projection).backward()
        for w, old in zip(weights, kept, strict=True):
            w.data.copy_(old)

    return backward


# -- composed ----------------------------------------------------------------------------------------------------------


def composed(net: nn.Module, x: Tensor, y: Tensor) -> Backward:
    module = rr.ObjectiveModule(net, objective(), seed=0)
    return lambda: module(x, y).backward()


def composed_perturbed(net: nn.Module, x: Tensor, y: Tensor) -> Backward:
    module = rr.ObjectiveModule(net, objective(), seed=0)
    steps = iter(range(10**9))

    def backward() -> None:
        step = next(steps)
        with module.holding_points():
            with same_buffers(net):
                module(x, y, step=step).backward()
            with perturbed(perturbed_weights(net), GAMMA):
                net.zero_grad(set_to_none=True)
                module(x, y, step=step).backward()

    return backward


PAIRS = {
    "composition": (by_hand, composed),
    "composition, perturbed weights": (by_hand_perturbed, composed_perturbed),
}

# -- measuring ---------------------------------------------------------------------------------------------------------


def gradient_gap(net: nn.Module, x: Tensor, y: Tensor, name: str) -> float:
    """Largest difference of the first step's gradients, relative to their largest entry, in float64."""
    stream, x = Stream(0, 0), x.double()
    noise = NOISE.draw(x, stream.generator("cpu", "draw", NOISE.key))
    generator = stream.generator("cpu", "normal", (len(x), 10), "projection", 0)
    projection = torch.randn(len(x), 10, generator=generator, dtype=torch.float64)
    hand, ours = PAIRS[name]
    a, b = copy.deepcopy(net).double(), copy.deepcopy(net).double()
    hand(a, x, y, lambda: (noise, projection))()
    ours(b, x, y)()
    pairs = [(p.grad, q.grad) for p, q in zip(a.parameters(), b.parameters(), strict=True)]
    scale = max(float(p.abs().max()) for p, _ in pairs)
    return max(float((p - q).abs().max()) for p, q in pairs) / scale


def step_of(net: nn.Module, backward: Backward) -> Callable[[], object]:
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        backward()
        optimizer.step()

    return step


def measure(
    network: str, net: nn.Module, shape: tuple[int, ...], batch: int, turns: int
) -> list[dict[str, object]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, *shape, generator=generator)
    y = torch.randint(0, 10, (batch,), generator=generator)
    y[1::2] = -1
    rows = []
    for title, (hand, ours) in PAIRS.items():
        gap = gradient_gap(net, x[:8], y[:8], title)
        if gap > 1e-9:
            raise SystemExit(f"{title}: the hand-written step is other mathematics (gradient gap {gap:.1e})")
        one, two = copy.deepcopy(net), copy.deepcopy(net)
        timings = interleaved(
            {
                "by hand": step_of(
                    one, hand(one, x, y, lambda: (torch.randn_like(x), torch.randn(batch, 10)))
                ),
                "objective": step_of(two, ours(two, x, y)),
            },
            turns,
        )
        ratio, low, high = timings["objective"].ratio_to(timings["by hand"])
        row = {
            "network": network,
            "step": title,
            "by_hand_ms": 1e3 * timings["by hand"].median,
            "objective_ms": 1e3 * timings["objective"].median,
            "ratio": ratio,
            "ratio_quartiles": [low, high],
            "gradient_gap": gap,
        }
        rows.append(row)
        print(
            f"{network:<18} {title:<30} by hand {row['by_hand_ms']:8.2f} ms   objective {row['objective_ms']:8.2f} ms"
            f"   ratio {ratio:.3f} [{low:.3f}, {high:.3f}]",
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
    for name, shape, batch, more in (
        ("small_conv", (1, 8, 8), 64, {}),
        ("lenet_plus", (1, 28, 28), 64, {}),
        ("preact_resnet18", (3, 32, 32), 32, {"width": 0.25}),
    ):
        net = build(name, shape=shape, seed=0, **more)
        rows += measure(f"{name}/4" if more else name, net, shape, batch, options.turns)
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
