"""The standard ensemble beside the official AutoAttack code: verdict by verdict, and time against time.

    PYTHONPATH=FOLDER python benchmarks/standard_ensemble.py --out results/standard_ensemble.json

FOLDER holds a copy of the package ``autoattack`` (github.com/fra31/auto-attack), which is not part of this library;
without it only ours runs. Models are trained here by methods of the library, in float32, and kept in ``--models``. Both
sides get the same model and points in one process, chunk by chunk and in alternating order; every answer is checked
again here, in ball, in box and misclassified, before it counts. Finished models are in the file and are not run again.
``--seeds 2`` runs both sides a second time with another seed: how far does the official code agree with itself?
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import itertools
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import robustreg as rr
from robustreg import models
from robustreg.attacks.ensemble import StandardEnsemble, members
from robustreg.data import load
from robustreg.evaluation import wilson
from robustreg.files import write_json_atomic

OFFICIAL_SOURCE = "github.com/fra31/auto-attack at a392200"  # with which the results here were made
OFFICIAL = {"apgd_ce": "apgd-ce", "apgd_t": "apgd-t", "fab_t": "fab-t", "square": "square"}
BEYOND = 1e-5  # by which share of eps a point may lie outside: float32 rounding of a length
EPOCHS, LEARNING_RATE = {"digits": 40, "mnist": 4, "cifar10": 4}, 2e-3
TRAINING = {"digits": 1200, "mnist": 20_000, "cifar10": 20_000}


@dataclass(frozen=True)
class Subject:
    """A model to attack: how it is trained, and the radius at which it is attacked."""

    data: str
    activation: str
    objective: Callable[[rr.Threat], Any]
    train_eps: float
    eps: float
    norm: str = "linf"
    network: str = "small_conv"
    width: float = 16
    epochs: int | None = None
    noise: float = (
        0.0  # that the network adds to its inputs, at every run: it is attacked by the version "rand"
    )

    @property
    def version(self) -> Any:
        """Of the ensemble."""
        return "rand" if self.noise else "standard"


class Noisy(nn.Module):
    """A network that adds normal noise to its inputs at every run."""

    def __init__(self, net: nn.Module, std: float) -> None:
        super().__init__()
        self.net, self.std = net, std

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, C]``."""
        return self.net(x + self.std * torch.randn_like(x))


def _plain(threat: rr.Threat) -> Any:
    return rr.CrossEntropy()


def _pgd(threat: rr.Threat) -> Any:
    return rr.methods.pgd_at(threat, steps=7)


def _single(threat: rr.Threat) -> Any:
    return rr.CrossEntropy(at=rr.FGSM(threat))


SUBJECTS = {
    "mnist rs-fgsm resnet": Subject(
        "mnist", "relu", lambda t: rr.methods.rs_fgsm(t), 0.15, 0.15, "linf", "preact_resnet18", 0.5, 1
    ),
    "mnist plain relu": Subject("mnist", "relu", _plain, 0.1, 0.1),
    "mnist pgd relu": Subject("mnist", "relu", _pgd, 0.2, 0.2),
    "mnist rs-fgsm relu": Subject("mnist", "relu", lambda t: rr.methods.rs_fgsm(t), 0.2, 0.2),
    "mnist trades gelu": Subject("mnist", "gelu", lambda t: rr.methods.trades(t, steps=7), 0.2, 0.2),
    "digits pgd softplus": Subject("digits", "softplus", _pgd, 0.15, 0.15),
    "digits pgd gelu noisy": Subject("digits", "gelu", _pgd, 0.15, 0.15, noise=0.1),
    "mnist pgd relu noisy": Subject("mnist", "relu", _pgd, 0.2, 0.2, noise=0.1),
    "digits plain gelu": Subject("digits", "gelu", _plain, 0.1, 0.1),
    "digits pgd gelu": Subject("digits", "gelu", _pgd, 0.15, 0.15),
    "digits fgsm relu": Subject("digits", "relu", _single, 0.3, 0.2),
    "digits gradient relu": Subject(
        "digits", "relu", lambda t: rr.CrossEntropy() + 0.3 * rr.GradientNorm(t), 0.15, 0.15
    ),
    "mnist plain relu l2": Subject("mnist", "relu", _plain, 1.0, 1.0, "l2"),
    "mnist pgd gelu l2": Subject("mnist", "gelu", _pgd, 1.5, 1.5, "l2"),
    "digits pgd relu l2": Subject("digits", "relu", _pgd, 0.7, 0.7, "l2"),
    "digits rs-fgsm softplus l2": Subject(
        "digits", "softplus", lambda t: rr.methods.rs_fgsm(t), 0.7, 0.7, "l2"
    ),
    "cifar10 pgd relu": Subject("cifar10", "relu", _pgd, 4 / 255, 4 / 255, width=32),
    "cifar10 trades gelu l2": Subject(
        "cifar10", "gelu", lambda t: rr.methods.trades(t, steps=7), 0.25, 0.25, "l2", width=32
    ),
    "digits pgd gelu l1": Subject("digits", "gelu", _pgd, 1.5, 1.5, "l1"),
}


DEFAULT = ["digits fgsm relu", "digits plain gelu", "digits gradient relu", "digits pgd gelu"]  # minutes each


def samples(
    data: str, points: int, arrays: Path | None = None
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test samples in float32; CIFAR-10 from a file of arrays, if there is one."""
    splits = load("arrays", path=arrays) if data == "cifar10" and arrays else load(data)
    train, test = splits.train.floats(), splits.test.floats()
    n = TRAINING[data]
    return (train.x[:n], train.y[:n]), (test.x[:points], test.y[:points])


def trained(subject: Subject, data: tuple[Tensor, Tensor], seed: int, file: Path | None) -> nn.Module:
    """The subject's model: Adam with a learning rate that falls to 0; from the file, if it is there."""
    x, y = data
    net = models.build(
        subject.network,
        shape=tuple(x.shape[1:]),
        width=subject.width,
        activation=subject.activation,
        seed=seed,
    )
    if file is not None and file.exists():
        net.load_state_dict(load_file(file))
        return net.eval()
    objective = subject.objective(rr.Threat(subject.norm, subject.train_eps))
    module, generator = rr.ObjectiveModule(net, objective, seed=seed), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(net.parameters(), LEARNING_RATE)
    epochs = subject.epochs or EPOCHS[subject.data]
    total, step = epochs * -(-len(x) // 100), 0
    net.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(100):
            optimiser.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / total)
            optimiser.zero_grad()
            module(x[rows], y[rows], step=step, progress=step / total).backward()
            optimiser.step()
            step += 1
    optimiser.zero_grad()
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(net.state_dict(), file)
    return net.eval()


Verdicts = Callable[[Tensor, Tensor], Tensor]


def ours(
    net: nn.Module, threat: rr.Threat, attack: rr.Point, seed: int, batch: int, precision: Any = "full"
) -> Verdicts:
    """Which of the samples still stand, by this library."""

    def of(x: Tensor, y: Tensor) -> Tensor:
        evaluation = rr.evaluate(
            net, (x, y), {"attack": attack}, threat, seed=seed, batch_size=batch, precision=precision
        )
        if evaluation.attacks[0].problem:
            raise SystemExit(f"ours broke the threat: {evaluation.attacks[0].problem}")
        return evaluation.worst_case.outcomes

    return of


def official(
    net: nn.Module, threat: rr.Threat, attacks: list[str] | None, seed: int, batch: int, version: str
) -> Verdicts:
    """Which of the samples still stand, by the official code."""
    from autoattack import AutoAttack  # the user's own copy

    norm = {"linf": "Linf", "l2": "L2", "l1": "L1"}[threat.name]
    attack = AutoAttack(
        net, norm=norm, eps=threat.eps, seed=seed, verbose=False, version=version, device="cpu"
    )
    if attacks is not None:
        attack.attacks_to_run = attacks
    ball = threat.with_eps(threat.eps * (1 + BEYOND))

    def of(x: Tensor, y: Tensor) -> Tensor:
        found = attack.run_standard_evaluation(x.clone(), y.clone(), bs=batch)
        with torch.no_grad():
            fooled = net(found).argmax(1) != y
        outside = fooled & ~ball.contains(found, x)
        if outside.any():
            print(f"official: {int(outside.sum())} points outside the threat are not counted", flush=True)
        return ~(fooled & ~outside)

    return of


def beside(sides: dict[str, Verdicts], x: Tensor, y: Tensor, chunk: int) -> dict[str, Any]:
    """Every side on every chunk, in alternating order: verdicts, seconds, and where they differ."""
    seconds = {name: [] for name in sides}
    processor = {name: [] for name in sides}  # what others do on the machine enters it less
    verdicts = {name: [] for name in sides}
    for turn, rows in enumerate(torch.arange(len(y)).split(chunk)):
        for name in list(sides) if turn % 2 == 0 else reversed(list(sides)):
            start, busy = time.perf_counter(), time.process_time()
            verdicts[name].append(sides[name](x[rows], y[rows]))
            seconds[name].append(time.perf_counter() - start)
            processor[name].append(time.process_time() - busy)
    row: dict[str, Any] = {}
    for name in sides:
        standing = torch.cat(verdicts[name])
        row[name] = {
            "robust": int(standing.sum()),
            "accuracy": float(standing.double().mean()),
            "interval": wilson(int(standing.sum()), len(y)),
            "seconds": round(sum(seconds[name]), 2),
            "processor_seconds": round(sum(processor[name]), 2),
        }
    if "official" in sides:
        a, b = torch.cat(verdicts["ours"]), torch.cat(verdicts["official"])
        row["only_ours_fools"] = (~a & b).nonzero().flatten().tolist()
        row["only_official_fools"] = (a & ~b).nonzero().flatten().tolist()
        row["ratio"] = ratio(seconds)
        row["processor_ratio"] = ratio(processor)
        row["processor_ratio_by_chunk"] = [
            ratio({name: [values[turn]] for name, values in processor.items()})
            for turn in range(len(processor["ours"]))
        ]
    row["differ"] = {
        f"{one} / {other}": (torch.cat(verdicts[one]) != torch.cat(verdicts[other]))
        .nonzero().flatten().tolist()
        for one, other in itertools.combinations(sides, 2)
    }  # fmt: skip
    return row


def ratio(times: dict[str, list[float]]) -> float:
    """Ours to the official, all chunks and seeds together."""
    ours, theirs = (
        sum(sum(values) for name, values in times.items() if name.startswith(side))
        for side in ("ours", "official")
    )
    return round(ours / theirs, 3)


def compare(name: str, options: argparse.Namespace, has_official: bool) -> dict[str, Any]:
    """One model: the ensemble, and each of its attacks alone."""
    subject = SUBJECTS[name]
    train, (x, y) = samples(subject.data, options.points, options.arrays)
    file = options.models / f"{name.replace(' ', '_')}_{options.seed}.safetensors" if options.models else None
    net = trained(subject, train, options.seed, file)
    if subject.noise:
        net = Noisy(net, subject.noise).eval()
    mine = copy.deepcopy(net).to(memory_format=torch.channels_last) if options.channels_last else net
    threat = rr.Threat(subject.norm, subject.eps)
    with torch.no_grad():
        clean = int((net(x).argmax(1) == y).sum())
    row: dict[str, Any] = {
        "model": name,
        "norm": subject.norm,
        "eps": subject.eps,
        "n": len(y),
        "clean": clean,
        "settings": {
            k: getattr(options, k)
            for k in ("seed", "threads", "chunk", "batch", "official_batch", "precision", "channels_last")
        },
    }
    attacks: dict[str, rr.Point] = {"ensemble": StandardEnsemble(threat, subject.version)}
    if not subject.noise:
        attacks |= members(threat)
    for title, attack in attacks.items():
        if options.only and title not in options.only:
            continue
        sides: dict[str, Verdicts] = {}
        run = None if title == "ensemble" else [OFFICIAL[title]]  # None: all of its version
        for more in range(options.seeds):
            seed, named = options.seed + more, ["", ", another seed", f", seed {more}"][min(more, 2)]
            sides["ours" + named] = ours(mine, threat, attack, seed, options.batch, options.precision)
            if has_official:
                sides["official" + named] = official(
                    net, threat, run, seed, options.official_batch, subject.version
                )
        n = len(y) if title == "ensemble" else min(options.alone, len(y))
        row[title] = {"n": n, **beside(sides, x[:n], y[:n], options.chunk)}
        print(line(name, title, row[title]), flush=True)
    return row


def line(name: str, title: str, row: dict[str, Any]) -> str:
    """One line of the table."""
    text = f"{name:<27} {title:<9} robust {row['ours']['robust']:>4}"
    if "official" not in row:
        return f"{text} of {row['n']}, {row['ours']['seconds']:.1f} s"
    return (
        f"{text} / {row['official']['robust']:>4} of {row['n']:>4}  only ours fools {len(row['only_ours_fools'])}, "
        f"only official {len(row['only_official_fools'])}  {row['ours']['seconds']:.1f} / "
        f"{row['official']['seconds']:.1f} s = {row['ratio']:.2f}"
    )


def how(settings: dict[str, Any]) -> tuple[str, bool]:
    """The precision and the order of memory in which ours ran the network."""
    return settings["precision"], settings.get("channels_last", False)


def page(record: dict[str, Any]) -> str:
    """The record's ensembles as a Markdown table."""
    pairs = ["ours / official", "ours / ours, another seed", "official / official, another seed"]
    head = ["model", "attacked within", "samples", "right", "robust, ours", "robust, official"]
    head += ["only ours fools", "only official fools", *(f"differ, {pair}" for pair in pairs[1:])]
    head += ["share robust", "processor seconds, ours", "official", "ratio", "by chunk", "ratio of seconds"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in record["rows"]:
        both = row["ensemble"]
        if "official" not in both:
            continue
        precision, last = how(row["settings"])
        name = (
            row["model"]
            + ("" if precision == "full" else f", {precision}")
            + (", channels last" if last else "")
        )
        cells = [name, f"{row['norm']} {row['eps']:g}", both["n"], row["clean"]]
        cells += [both[side]["robust"] for side in ("ours", "official")]
        cells += [len(both[key]) for key in ("only_ours_fools", "only_official_fools")]
        cells += [len(both["differ"][pair]) if pair in both["differ"] else "" for pair in pairs[1:]]
        cells += [f"{100 * both['official']['accuracy']:.0f} %"]
        cells += [
            round(sum(both[name]["processor_seconds"] for name in both if name.startswith(f"{side}")))
            for side in ("ours", "official")
        ]
        ratios = ", ".join(f"{ratio:.2f}" for ratio in both["processor_ratio_by_chunk"])
        cells += [f"{both['processor_ratio']:.2f}", ratios, f"{both['ratio']:.2f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*lines, "", totals(record, pairs)])


def totals(record: dict[str, Any], pairs: list[str]) -> str:
    """How many samples of all rows each pair of sides judges differently, with 95 % intervals."""
    lines = []
    for pair in pairs:
        rows = [row["ensemble"] for row in record["rows"] if pair in row["ensemble"]["differ"]]
        n, differ = sum(row["n"] for row in rows), sum(len(row["differ"][pair]) for row in rows)
        if n:
            low, high = wilson(differ, n)
            share = f"{100 * differ / n:.2f} % ({100 * low:.2f} to {100 * high:.2f})"
            lines.append(f"{pair}: {differ} of {n} samples differ, {share}")
    return "\n".join(lines)


def main() -> None:
    """Run what is not in the file yet, and write it after every model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/standard_ensemble.json"))
    parser.add_argument("--models", type=Path, help="folder in which trained models are kept")
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=DEFAULT)
    parser.add_argument("--only", nargs="+", choices=["ensemble", *OFFICIAL])
    parser.add_argument("--arrays", type=Path, help="an .npz file to read CIFAR-10 from")
    parser.add_argument("--points", type=int, default=1000, help="at most so many test samples")
    parser.add_argument("--alone", type=int, default=1000, help="at most so many for each attack alone")
    parser.add_argument("--chunk", type=int, default=250)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--official-batch", type=int, default=250)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1, help="of both sides; time is taken over all")
    parser.add_argument("--precision", choices=("full", "bf16"), default="full", help="of our attacks")
    parser.add_argument("--channels-last", action="store_true", help="our copy of the network's weights")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    has_official = importlib.util.find_spec("autoattack") is not None
    versions = {"python": platform.python_version(), "torch": torch.__version__, "robustreg": rr.__version__}
    record = json.loads(options.out.read_text()) if options.out.exists() else {"rows": []}
    record.update(versions=versions, official=OFFICIAL_SOURCE)
    done = {(row["model"], how(row["settings"])) for row in record["rows"]}
    for name in options.subjects:
        if (name, how(vars(options))) not in done:
            record["rows"].append(compare(name, options, has_official))
            write_json_atomic(options.out, record)
    print(page(record))


if __name__ == "__main__":
    main()
