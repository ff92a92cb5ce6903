"""The PGD of foolbox, torchattacks and ART beside ours, through `robustreg.integrations`: verdicts and time.

    PYTHONPATH=FOLDER python benchmarks/other_libraries.py --out results/other_libraries.json

FOLDER holds the libraries, which this one does not need; those that are not there are left out. All attack the same
networks, trained here on digits, with the same steps, step size and a uniform start, sample by sample checked by the
evaluation. Their random starts differ, so a few samples at the edge may fall for one and not for another: how many
differ between two seeds of ours is the measure to hold the others to.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import robustreg as rr
from robustreg import models
from robustreg.data import load
from robustreg.files import write_json_atomic
from robustreg.integrations import from_art, from_foolbox, from_torchattacks

STEPS, ROUNDS, EPOCHS = 40, 3, 15
PACKAGES = {"foolbox": "foolbox", "torchattacks": "torchattacks", "art": "adversarial-robustness-toolbox"}


def their_pgd(threat: rr.Threat) -> dict[str, Callable[..., torch.Tensor]]:
    """The same attack of each library that is installed."""
    step = threat.eps / 10
    found: dict[str, Callable[..., torch.Tensor]] = {}
    if importlib.util.find_spec("foolbox"):
        attacks = importlib.import_module("foolbox").attacks
        found["foolbox"] = from_foolbox(attacks.LinfPGD(steps=STEPS, abs_stepsize=step), threat)
    if importlib.util.find_spec("torchattacks"):
        library = importlib.import_module("torchattacks")
        found["torchattacks"] = from_torchattacks(library.PGD, threat, steps=STEPS, alpha=step)
    if importlib.util.find_spec("art"):
        evasion = importlib.import_module("art.attacks.evasion")
        found["art"] = from_art(
            evasion.ProjectedGradientDescent, threat, max_iter=STEPS, eps_step=step, num_random_init=1
        )
    return found


def trained(objective: Any, seed: int) -> nn.Module:
    """A small convolutional network on digits."""
    net = models.build("small_conv", shape=(1, 8, 8), width=16, seed=seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    x, y = load("digits").train[:]
    generator = torch.Generator().manual_seed(seed)
    whole, step = rr.Objective.of(objective), 0
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x), generator=generator).split(64):
            optimizer.zero_grad()
            whole(net, x[rows], y[rows], step=step).backward()
            optimizer.step()
            step += 1
    return net.eval()


def compared(net: nn.Module, threat: rr.Threat) -> dict[str, Any]:
    """Accuracy under each attack, share of samples with our verdict, and the median of the times over ours."""
    ours = rr.PGD(threat, steps=STEPS, step_size=threat.eps / 10)
    attacks = {"ours": ours, **their_pgd(threat)}
    test = load("digits").test
    rounds = [rr.evaluate(net, test, attacks, threat, seed=seed) for seed in range(ROUNDS)]
    first = rounds[0]
    again = (rounds[1].outcomes["ours"] == first.outcomes["ours"]).double().mean()
    rows = {}
    for name in attacks:
        ratios = sorted(done[name].seconds / done["ours"].seconds for done in rounds)
        rows[name] = {
            "status": first[name].status,
            "accuracy": first[name].score.accuracy,
            "low": first[name].score.low,
            "high": first[name].score.high,
            "same_verdict": float((first.outcomes[name] == first.outcomes["ours"]).double().mean()),
            "time_over_ours": ratios[len(ratios) // 2],
        }
    return {"clean": first.clean.accuracy, "ours_with_another_seed": float(again), "attacks": rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=None, help="a JSON file for the results")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    threat = rr.Threat("linf", 0.1)
    objectives = {
        "plain": rr.CrossEntropy(),
        "single step": rr.CrossEntropy(at=rr.RS_FGSM(threat)),
        "PGD-trained": rr.CrossEntropy(at=rr.PGD(threat, steps=7)),
    }
    results: dict[str, Any] = {
        "versions": {"torch": torch.__version__, "python": platform.python_version(), **_versions()},
        "threat": threat.to_dict(),
        "steps": STEPS,
        "threads": args.threads,
        "networks": {},
    }
    for name, objective in objectives.items():
        results["networks"][name] = found = compared(trained(objective, seed=0), threat)
        print(f"{name}: clean {100 * found['clean']:.2f} %, ours with another seed the same verdict on "
              f"{100 * found['ours_with_another_seed']:.2f} %")  # fmt: skip
        for library, row in found["attacks"].items():
            print(
                f"  {library:13s} {100 * row['accuracy']:6.2f} %  same verdict {100 * row['same_verdict']:6.2f} %  "
                f"time {row['time_over_ours']:.2f} of ours"
            )
    if args.out is not None:
        print(write_json_atomic(args.out, results))


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(package) for name, package in PACKAGES.items() if importlib.util.find_spec(name)}


if __name__ == "__main__":
    main()
