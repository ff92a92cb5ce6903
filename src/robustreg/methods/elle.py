"""Efficient local linearity regularisation: ELLE and ELLE-A (Abad Rocamora et al. 2024)."""

from __future__ import annotations

from typing import Literal

from robustreg.attacks.single_step import N_FGSM
from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.modes import Mode
from robustreg.objective import Objective
from robustreg.penalties.linearity import ELLE, AdaptiveELLE
from robustreg.points import CLEAN, Point, Steepest, Uniform
from robustreg.terms import CrossEntropy
from robustreg.threat import Threat

Start = Literal["zero", "noise"]

CITATION = (
    "E. Abad Rocamora, F. Liu, G. G. Chrysos, P. M. Olmos, V. Cevher, Efficient local linearity regularization to "
    "overcome catastrophic overfitting, ICLR 2024, arXiv 2401.11618; code LIONS-EPFL/ELLE"
)
ERROR = (
    "a, b ~ x + U(-eps, eps),  t ~ U(0, 1),  c = (1 - t) a + t b,  e = mean (L(c) - (1 - t) L(a) - t L(b))^2"
)
CODE = "the authors' scripts"
TRAINING: dict[str, object] = {
    "network": "PreActResNet-18",
    "epochs": 30,
    "batch": 128,
    "learning rate": "cyclic, largest 0.2",
    "weight decay": 5e-4,
}
CHANGES = (
    "like the code, neither the attack nor the random points are clipped to the box; clip='box' does both",
    "the authors' trainer takes two optimiser steps for each batch, so their lambda does not carry over unchanged",
    "their trainer runs one more clean training forward for logging, which moves BatchNorm's statistics; ours does not",
)


@described_by(
    Card(
        name="elle",
        title="FGSM training with a loss that is close to its chords within the threat",
        citation=CITATION,
        equations=(ERROR, "mean CE(x + eps sign g) + lambda e"),
        settings=(
            Setting(
                "CIFAR-10",
                {**TRAINING, "lambda": "1000 up to eps 8/255, 5000 to 20/255, 10000 to 26/255"},
                CODE,
            ),
        ),
        published=(
            Published(
                "CIFAR-10, ResNet-18, eps 8/255, lambda 1 (the authors' is 1000): clean, PGD-50, AutoAttack",
                "77.78, 47.19, 32.46 %",
                True,
                "FastAT Benchmark, arXiv 2604.22853",
            ),
        ),
        changes=CHANGES,
        compared=(Compared("LIONS-EPFL/ELLE", 6e-16, 2e-12, "both starts"),),
    )
)
def elle(
    threat: Threat,
    lam: float = 1000.0,
    *,
    start: Start = "zero",
    clip: Literal["none", "box"] = "none",
    joint: bool = True,
    mode: Mode = "train",
) -> Objective:
    """ELLE: the loss at the FGSM point plus ``lam`` times the squared distance of the loss from a random chord.

    Args:
        threat: norm, radius and box.
        lam: weight of the regulariser.
        start: of the attack: the sample, or ``"noise"`` of twice the radius as in N-FGSM.
        clip: whether the points are kept within the box.
        joint: one forward for the three points of the chord, as the code.
        mode: the mode of everything.
    """
    penalty = ELLE(threat, joint, clip, mode=mode)
    return CrossEntropy(at=_attack(threat, start, clip, mode), mode=mode) + lam * penalty


@described_by(
    Card(
        name="elle_a",
        title="ELLE whose weight is on only while the loss is unusually far from linear",
        citation=CITATION,
        equations=(
            ERROR,
            "mean CE(x + eps sign g) + lambda_t e_t,  lambda_0 = 0",
            "lambda_{t+1} = lambda_max if e_t > mean + 2 std of e_0 .. e_{t-1}, else 0.99 lambda_t",
        ),
        settings=(
            Setting("CIFAR-10", {**TRAINING, "lambda_max": 4000, "sensitivity": 2, "decay": 0.99}, CODE),
        ),
        published=(
            Published(
                "CIFAR-10, PreActResNet-18, eps 8/255, AutoAttack", "about 44 %", False, "the literature"
            ),
        ),
        changes=(
            *CHANGES,
            "the mean and deviation are of all earlier steps; the authors' ImageNet code takes the last 500",
        ),
        compared=(Compared("LIONS-EPFL/ELLE", 9e-16, 5e-12, "8 steps in turn"),),
    )
)
def elle_a(
    threat: Threat,
    lam: float = 4000.0,
    *,
    sensitivity: float = 2.0,
    decay: float = 0.99,
    start: Start = "zero",
    clip: Literal["none", "box"] = "none",
    joint: bool = True,
    mode: Mode = "train",
) -> Objective:
    """ELLE-A: ELLE with the weight ``lam`` after a step of unusual error, falling by ``decay`` after the others.

    Args:
        threat: norm, radius and box.
        lam: the largest weight of the regulariser.
        sensitivity: how many standard deviations above the mean an error is unusual.
        decay: factor on the weight after each other step.
        start: of the attack: the sample, or ``"noise"`` of twice the radius as in N-FGSM.
        clip: whether the points are kept within the box.
        joint: one forward for the three points of the chord, as the code.
        mode: the mode of everything.
    """
    penalty = AdaptiveELLE(threat, sensitivity, decay, joint, clip, mode=mode)
    return CrossEntropy(at=_attack(threat, start, clip, mode), mode=mode) + lam * penalty


def _attack(threat: Threat, start: Start, clip: Literal["none", "box"], mode: Mode) -> Point:
    if start == "noise" and clip == "box":
        return N_FGSM(threat, mode=mode)
    if start == "noise":
        return Steepest(threat, Uniform(threat, scale=2.0, clip="none"), mode=mode)
    if start == "zero":
        return Steepest(threat, CLEAN, mode=mode, clip=clip)
    raise ValueError(f"start must be 'zero' or 'noise', got {start!r}")
