"""The audit's confusion table: sound models, planted defences and masked models of other designs; one JSON file.

    python benchmarks/audit_confusion.py [--data digits mnist] [--seeds 3] [--kinds sound planted ...] [--table]

Sound models are trained here by methods of the library on several networks, seeds and data sets; the thresholds of
the audit were held against the kind `sound` and never against `held_out`, `sound_other` and `collapsed`. Models that
are in the file, audited by the same code, are not looked at again. MNIST is used where ROBUSTREG_DATA_DIR has it.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from audit_designs import HELD_OUT, OTHERS
from audit_last import LAST, SOUND_LAST
from audit_later import HARMLESS, LATER, SOUND_LATER, Material
from audit_stand_ins import SOUND_STAND_INS, STAND_INS
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

import robustreg as rr
from robustreg import auditing, models
from robustreg.data import load
from robustreg.evaluation import wilson
from robustreg.files import read_json, write_json_atomic
from robustreg.testing.planted import PLANTED, planted

OUT = Path("results/audit_confusion/confusion.json")
EPS = {"digits": 0.15, "mnist": 0.1}
EPOCHS = {"digits": 15, "mnist": 5}
TRAINING = {"digits": 1400, "mnist": 6000}
RATE = {"digits": 2e-3, "mnist": 1e-3}
SOUND = {"digits": ("mlp-relu", "mlp-gelu", "conv-relu", "resnet"), "mnist": ("conv-relu",)}
MASKED = {"digits": ("mlp-relu",), "mnist": ("conv-relu",)}
LATER_KINDS = {
    "later": LATER,
    "harmless": HARMLESS,
    "sound_later": SOUND_LATER,
    "last": LAST,
    "sound_last": SOUND_LAST,
    "stand_in": STAND_INS,
    "sound_stand_in": SOUND_STAND_INS,
}
KINDS = ("sound", "sound_other", "planted", "held_out", "collapsed", *LATER_KINDS)
Samples = tuple[Tensor, Tensor]
OBJECTIVES: dict[str, Callable[[rr.Threat], Any]] = {
    "plain": lambda threat: rr.CrossEntropy(),
    "pgd": lambda threat: rr.methods.pgd_at(threat, steps=5),
    "trades": lambda threat: rr.methods.trades(threat, steps=5),
    "gradient": lambda threat: rr.CrossEntropy() + 0.3 * rr.GradientNorm(threat),
}


@functools.cache
def samples(data: str) -> tuple[Samples, Samples]:
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
    if arch == "linear":
        return models.mlp(size * size, 10, (), seed=seed)
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


def trained(net: nn.Module, objective: Any, data: Samples, epochs: int, lr: float, seed: int) -> nn.Module:
    """Adam on shuffled batches of 100."""
    x, y = data
    module = rr.ObjectiveModule(net, objective, seed=seed)
    generator = torch.Generator().manual_seed(seed)
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


def collapsed(seed: int) -> tuple[nn.Module, rr.Threat]:
    """FGSM training that breaks down: MNIST, the network of Wong, Rice and Kolter (2020), eps 0.3, two epochs.

    The weights are kept beside the temporary files of the machine, because this is the longest training here.
    """
    threat = rr.Threat("linf", 0.3)
    net = models.strided_conv(1, 10, 28, seed=seed)
    kept = Path(tempfile.gettempdir()) / f"robustreg-collapsed-{seed}.safetensors"
    if kept.is_file():
        load_model(net, kept)
        return net.eval(), threat
    x, y = load("mnist").train.floats()[:]
    module = rr.ObjectiveModule(net, rr.CrossEntropy(at=rr.FGSM(threat)), seed=seed)
    generator, optimiser = torch.Generator().manual_seed(seed), torch.optim.Adam(net.parameters(), 5e-3)
    batches = [rows for _ in range(2) for rows in torch.randperm(len(x), generator=generator).split(64)]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 5e-3, total_steps=len(batches), pct_start=0.4, anneal_strategy="linear"
    )
    net.train()
    for step, rows in enumerate(batches):
        optimiser.zero_grad()
        module(x[rows], y[rows], step=step, progress=step / len(batches)).backward()
        optimiser.step()
        schedule.step()
    save_model(net, str(kept))
    return net.eval(), threat


@functools.lru_cache(maxsize=2)
def plain(data: str, arch: str, seed: int) -> nn.Module:
    """The ordinary network that defences are put before or behind."""
    return trained(
        network(arch, data, seed), rr.CrossEntropy(), samples(data)[0], EPOCHS[data], RATE[data], seed
    )


def built(job: dict[str, Any]) -> tuple[nn.Module, rr.Threat]:
    """The model of a job and the threat of its audit."""
    data, name, arch, seed = job["data"], job["name"], job["arch"], job["seed"]
    threat = rr.Threat("linf", EPS[data])
    train = samples(data)[0]
    if job["kind"] == "sound":
        net = network(arch, data, seed)
        return trained(net, OBJECTIVES[name](threat), train, EPOCHS[data], RATE[data], seed), threat
    if job["kind"] == "sound_other":
        other = OTHERS[name]
        net = other.prepared(network(arch, data, seed))
        net = trained(net, other.objective(), train, other.epochs, RATE[data], seed)
        return net, other.threat
    if job["kind"] == "collapsed":
        return collapsed(seed)
    if job["kind"] == "planted":
        return planted(name, plain(data, arch, seed)), threat
    if job["kind"] in LATER_KINDS:
        return LATER_KINDS[job["kind"]][name](material(job)), threat
    design = HELD_OUT[name]
    if not design.trained:
        return design.wrap(plain(data, arch, seed)), threat
    net = design.wrap(network(arch, data, seed))
    return trained(net, rr.CrossEntropy(), train, EPOCHS[data], RATE[data], seed), threat


def material(job: dict[str, Any]) -> Material:
    """What the designs of the second round are made from."""
    data, arch, seed = job["data"], job["arch"], job["seed"]
    train = samples(data)[0]

    def fit(net: nn.Module, objective: Any, epochs: int) -> nn.Module:
        torch.manual_seed(seed)  # of dropout
        return trained(net, objective, train, epochs or EPOCHS[data], RATE[data], seed)

    threat, ordinary = rr.Threat("linf", EPS[data]), plain(data, arch, seed)
    return Material(
        ordinary,
        lambda name, number: network(name, data, number),
        fit,
        *train,
        samples(data)[1][0],
        threat,
        seed,
    )


def jobs(data_sets: list[str], seeds: int, kinds: list[str]) -> Iterator[dict[str, Any]]:
    """One job a model."""
    names = {"sound": tuple(OBJECTIVES), "planted": PLANTED, "held_out": tuple(HELD_OUT)}
    names |= {kind: tuple(designs) for kind, designs in LATER_KINDS.items()}
    for seed in range(seeds):
        for data in data_sets:
            for kind in kinds:
                if kind == "collapsed":
                    if data == "mnist":
                        yield {
                            "data": data,
                            "arch": "strided_conv",
                            "seed": seed,
                            "kind": kind,
                            "name": "fgsm",
                        }
                    continue
                if kind == "sound_other":
                    for name, other in OTHERS.items() if data == "digits" else ():
                        yield {"data": data, "arch": other.arch, "seed": seed, "kind": kind, "name": name}
                    continue
                for arch in (SOUND if kind == "sound" else MASKED)[data]:
                    for name in names[kind]:
                        yield {"data": data, "arch": arch, "seed": seed, "kind": kind, "name": name}


def look(job: dict[str, Any], thorough: bool = False) -> dict[str, Any]:
    """Train, plant, audit."""
    net, threat = built(job)
    wall, cpu = time.perf_counter(), time.process_time()
    found = auditing.audit(net, samples(job["data"])[1], threat, thorough=thorough)
    return {
        **job,
        "eps": threat.eps,
        "audited_by": fingerprint(),
        "verdict": found.verdict,
        "reasons": [f.check for f in found.reasons],
        "correct": found.correct / found.n,
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "seconds": round(time.perf_counter() - wall, 2),
        "values": {f.check: [f.value, f.low, f.high, f.concern] for f in found.findings},
        "failed": [[f.check, f.measured] for f in found.findings if f.failed],
    }


@functools.cache
def fingerprint() -> str:
    """Of the audit's code: rows of other code are measured anew."""
    folder = Path(auditing.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def main() -> None:
    """Run all jobs and write the file after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--data", nargs="+", choices=list(EPS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--thorough", action="store_true")
    parser.add_argument("--table", action="store_true", help="print the tables of the documentation and stop")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = read_json(given.out)["models"] if given.out.is_file() else []
    if given.table:
        print(tables(rows))
        return
    torch.set_num_threads(1)
    data_sets = given.data or ["digits", *(["mnist"] if "ROBUSTREG_DATA_DIR" in os.environ else [])]
    for job in jobs(data_sets, given.seeds, given.kinds):
        known = [row for row in rows if job.items() <= row.items()]
        if any(row["audited_by"] == fingerprint() for row in known):
            continue
        row = look(job, given.thorough)
        rows = [other for other in rows if other not in known] + [row]
        print(row["kind"], row["data"], row["arch"], row["name"], row["seed"], row["verdict"], flush=True)
        write_json_atomic(given.out, {"counts": counts(rows), "torch": torch.__version__, "models": rows})
    print(tables(rows))


def counts(rows: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """How often each kind was given each verdict."""
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        found.setdefault(row["kind"], dict.fromkeys(("sound", "suspicious", "masked"), 0))[
            row["verdict"]
        ] += 1
    return found


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown: the confusion table, each defence, and the time of an audit."""
    lines = ["| | models | said sound | said suspicious | said masked |", "|---|---|---|---|---|"]
    for kind, said in counts(rows).items():
        n = sum(said.values())
        low, high = wilson(said["sound"], n)
        share = f"{said['sound']} ({100 * low:.0f} to {100 * high:.0f} %)"
        lines.append(f"| {kind} | {n} | {share} | {said['suspicious']} | {said['masked']} |")
    lines += ["", "| Kind | Model | Data, network | Verdicts | Heaviest reasons |", "|---|---|---|---|---|"]
    for key in dict.fromkeys((r["kind"], r["name"], r["data"], r["arch"]) for r in rows):
        same = [r for r in rows if (r["kind"], r["name"], r["data"], r["arch"]) == key]
        said_ = ", ".join(f"{v} {n}" for v, n in counts(same)[key[0]].items() if n)
        first = ", ".join(f"`{name}`" for name in same[0]["reasons"][:3])
        lines.append(f"| {key[0]} | `{key[1]}` | {key[2]}, {key[3]} | {said_} | {first} |")
    lines += ["", "| Data, network | audits | median seconds of CPU | longest |", "|---|---|---|---|"]
    for data, arch in dict.fromkeys((r["data"], r["arch"]) for r in rows):
        times = sorted(r["cpu_seconds"] for r in rows if (r["data"], r["arch"]) == (data, arch))
        lines.append(f"| {data}, {arch} | {len(times)} | {times[len(times) // 2]:.1f} | {times[-1]:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
