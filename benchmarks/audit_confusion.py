"""The audit's confusion table: sound models and planted defences, what the audit says of each, one JSON file.

    python benchmarks/audit_confusion.py [--out FILE] [--only digits] [--seeds 2] [--sound ARCH ...] [--masked ARCH ...]

Sound models are trained here by methods of the library on several architectures, activations, seeds and data sets;
the thresholds of the audit are held against them. MNIST is used where ROBUSTREG_DATA_DIR has it.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import robustreg as rr
from robustreg import models
from robustreg.auditing import audit
from robustreg.data import load
from robustreg.files import write_json_atomic
from robustreg.testing.planted import PLANTED, planted

EPS = {"digits": 0.15, "mnist": 0.2}
OVERFIT_EPS = 0.3
TRAINING = {"digits": 1400, "mnist": 4000}
OBJECTIVES: dict[str, Callable[[rr.Threat], Any]] = {
    "plain": lambda threat: rr.CrossEntropy(),
    "pgd": lambda threat: rr.methods.pgd_at(threat, steps=5),
    "trades": lambda threat: rr.methods.trades(threat, steps=5),
    "gradient": lambda threat: rr.CrossEntropy() + 0.3 * rr.GradientNorm(threat),
}


def samples(data: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test samples, floating point."""
    splits = load(data)
    train, test = splits.train.floats(), splits.test.floats()
    n = min(TRAINING[data], len(train))
    return (train.x[:n], train.y[:n]), (test.x[:1000], test.y[:1000])


def network(arch: str, data: str, seed: int) -> nn.Module:
    """A small network by name."""
    size = 8 if data == "digits" else 28
    if arch == "resnet":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _residual(size)
    kind, _, act = arch.partition("-")
    if kind == "mlp":
        return models.mlp(size * size, 10, (64, 64), activation=act, seed=seed)
    return models.small_conv(1, 10, size, width=8, activation=act, seed=seed)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


def _residual(size: int) -> nn.Module:
    stride = 1 if size == 8 else 2
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, stride, padding=1), _Block(12), _Block(12), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
        nn.Linear(12 * 16, 10),
    )  # fmt: skip


def trained(
    net: nn.Module, objective: Any, data: tuple[Tensor, Tensor], epochs: int, lr: float = 2e-3
) -> nn.Module:
    """Adam on shuffled batches of 100; epochs cut for a smoke run."""
    x, y = data
    module, generator = rr.ObjectiveModule(net, objective, seed=0), torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(net.parameters(), lr)
    total, step = epochs * -(-len(x) // 100), 0
    net.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(100):
            optimiser.zero_grad()
            module(x[rows], y[rows], step=step, progress=step / total).backward()
            optimiser.step()
            step += 1
    return net.eval()


def jobs(data_sets: list[str], seeds: int, sound: list[str], masked: list[str]) -> Iterator[dict[str, Any]]:
    """One job a model."""
    for data in data_sets:
        for seed in range(seeds):
            for arch in masked:
                for name in PLANTED:
                    yield {"data": data, "arch": arch, "seed": seed, "kind": "masked", "name": name}
            for arch in sound:
                for objective in OBJECTIVES:
                    yield {"data": data, "arch": arch, "seed": seed, "kind": "sound", "name": objective}
            yield {
                "data": data,
                "arch": "conv-relu",
                "seed": seed,
                "kind": "single_step",
                "name": "trained_on_fgsm",
            }


def look(job: dict[str, Any]) -> dict[str, Any]:
    """Train, plant, audit."""
    torch.set_num_threads(1)
    data, name = job["data"], job["name"]
    threat = rr.Threat("linf", EPS[data])
    train, test = samples(data)
    epochs = 15 if data == "digits" else 5
    net = network(job["arch"], data, job["seed"])
    if job["kind"] == "sound":
        net = trained(net, OBJECTIVES[name](threat), train, epochs)
    elif name == "trained_on_fgsm":
        threat = threat.with_eps(OVERFIT_EPS)
        net = trained(net, rr.CrossEntropy(at=rr.FGSM(threat)), train, 3 * epochs)
    else:
        net = planted(name, trained(net, rr.CrossEntropy(), train, epochs))
    started = time.perf_counter()
    found = audit(net, test, threat)
    return {
        **job,
        "eps": threat.eps,
        "verdict": found.verdict,
        "reasons": [f.check for f in found.reasons],
        "correct": found.correct / found.n,
        "seconds": round(time.perf_counter() - started, 2),
        "values": {f.check: [f.value, f.low, f.high, f.concern] for f in found.findings},
        "failed": [[f.check, f.measured] for f in found.findings if f.failed],
    }


def main() -> None:
    """Run all jobs and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/audit_confusion/confusion.json"))
    parser.add_argument("--only", choices=list(EPS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument(
        "--sound", nargs="+", default=["mlp-relu", "mlp-gelu", "conv-relu", "conv-gelu", "resnet"]
    )
    parser.add_argument("--masked", nargs="+", default=["mlp-relu", "conv-gelu"])
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    given = parser.parse_args()
    data_sets = (
        [given.only] if given.only else ["digits", *(["mnist"] if "ROBUSTREG_DATA_DIR" in os.environ else [])]
    )
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(given.processes) as pool:
        for row in pool.map(look, jobs(data_sets, given.seeds, given.sound, given.masked)):
            rows.append(row)
            print(
                row["kind"], row["data"], row["arch"], row["name"], row["verdict"], row["reasons"], flush=True
            )
            write_json_atomic(
                given.out, {"counts": _counts(rows), "torch": torch.__version__, "models": rows}
            )
    print(_counts(rows))


def _counts(rows: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        counts.setdefault(row["kind"], dict.fromkeys(("sound", "suspicious", "masked"), 0))[
            row["verdict"]
        ] += 1
    return counts


if __name__ == "__main__":
    main()
