"""FGSM training with aligned gradients: GradAlign (Andriushchenko & Flammarion 2020)."""

from __future__ import annotations

from typing import Literal

from robustreg.attacks.linearity import ThroughClamp
from robustreg.attacks.single_step import RS_FGSM
from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.modes import Mode
from robustreg.objective import Objective
from robustreg.penalties.linearity import Detach, GradAlign
from robustreg.points import CLEAN, FGSM, Point, Uniform
from robustreg.terms import CrossEntropy
from robustreg.threat import Threat

CARD = Card(
    name="grad_align",
    title="FGSM training whose input gradient must not turn within the threat",
    citation=(
        "M. Andriushchenko, N. Flammarion, Understanding and Improving Fast Adversarial Training, NeurIPS 2020, "
        "arXiv 2007.02617; code tml-epfl/understanding-fast-adv-training"
    ),
    equations=(
        "g1 = grad CE(x) held constant,  g2 = grad CE(x + U(-eps, eps))",
        "mean CE(x + eps sign g1) + lambda (1 - mean_i cos(g1_i, g2_i))",
    ),
    settings=(
        Setting(
            "CIFAR-10, by 255 eps",
            {
                "lambda": "6: .112, 7: .150, 8: .200, 9: .267, 10: .356, 11: .474, 12: .632, 13: .843, 14: 1.124, "
                "15: 1.5, 16: 2.0"
            },
            "the authors' code",
        ),
        Setting(
            "CIFAR-10",
            {
                "network": "PreActResNet-18",
                "epochs": 30,
                "batch": 128,
                "learning rate": "cyclic, largest 0.3 in the README's command, 0.2 by default",
                "weight decay": 5e-4,
            },
            "the authors' code",
        ),
        Setting("SVHN", {"warm-up": "of the step, 5 epochs"}, "the authors' code"),
    ),
    published=(
        Published("CIFAR-10, eps 8/255: clean, PGD-50 with 10 restarts", "81.0, 47.6 %", False, "the paper"),
        Published(
            "CIFAR-10, ResNet-18, eps 8/255, 100 epochs, label smoothing 0.4 and weight averaging: clean, PGD-50, "
            "AutoAttack",
            "79.39, 52.87, 47.99 %",
            True,
            "FastAT Benchmark, arXiv 2604.22853",
        ),
    ),
    changes=(
        "the attack starts at the sample, as in the README's command; start='uniform' is the code's default, with a "
        "step of 1.25 eps",
        "the gradient of the attack is not taken through the clamp to the box: with it a linear loss is no longer "
        "aligned where pixels are at a bound, and pixels that a random start pushed beyond it stay there. "
        "through_clamp=True is the code's",
        "samples with a zero gradient are left out of the mean, as in the code; if all are, the term is 0 and not NaN",
    ),
    compared=(
        Compared("tml-epfl/understanding-fast-adv-training", 3e-16, 3e-13, "through_clamp=True, both starts"),
    ),
)


@described_by(CARD)
def grad_align(
    threat: Threat,
    lam: float = 0.2,
    *,
    start: Literal["zero", "uniform"] = "zero",
    detach: Detach = "first",
    through_clamp: bool = False,
    mode: Mode = "train",
) -> Objective:
    """GradAlign: the loss at the FGSM point plus ``lam`` times one minus the cosine of two input gradients.

    Args:
        threat: norm, radius and box.
        lam: weight of the regulariser; it grows with ``eps``, see the card.
        start: of the attack, which is also where the first gradient is taken.
        detach: which of the two gradients is a constant.
        through_clamp: take the gradient of the attack through the clamp to the box.
        mode: the mode of everything.
    """
    if start not in ("zero", "uniform"):
        raise ValueError(f"start must be 'zero' or 'uniform', got {start!r}")
    first: Point = CLEAN if start == "zero" else Uniform(threat)
    attack = FGSM(threat, mode=mode) if start == "zero" else RS_FGSM(threat, mode=mode)
    if through_clamp and start == "uniform":  # from the sample the sign is the same
        attack = ThroughClamp(threat, first, attack.scale, mode=mode)
    penalty = GradAlign(threat, first, detach=detach, through_clamp=through_clamp, mode=mode)
    return CrossEntropy(at=attack, mode=mode) + lam * penalty
