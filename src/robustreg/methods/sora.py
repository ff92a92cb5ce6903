"""Single-step training whose step shrinks as the loss curves: SORA (Teymourian et al. 2026)."""

from __future__ import annotations

from robustreg.attacks.adaptive_step import SoraStep
from robustreg.losses import SmoothedCrossEntropy
from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.modes import Mode
from robustreg.objective import Objective
from robustreg.penalties.alignment import PertAlign, SoraLoss
from robustreg.threat import Threat

NOTE = "a public note on the paper"

CARD = Card(
    name="sora",
    title="adversarial training with a random step, as long as the loss was linear along the steps before",
    citation=(
        "Teymourian, Moslemi, Rahmani, Rohban, SORA, ICML 2026, arXiv 2606.00738; code SecondOrderAT/SORA"
    ),
    equations=(
        "eta ~ U(-eps, eps), x + eta clipped to the box;  g = grad CE(x + eta);  u ~ U(0, 1) for each feature",
        "delta = eta + a u sign g, x + delta clipped to the box, not to eps;  mean CE(x + delta)",
        "a = 2 eps min(1, 0.02 / (1 - r)),  r <- 0.95 r + 0.05 mean <sign g, g'> / ||g||_1,  r_0 = 0.99",
        "g' = grad CE(x + delta);  PertAlign = mean cos(g, g')",
    ),
    settings=(
        Setting(
            "CIFAR-10, CIFAR-100, TinyImageNet, ImageNet-100, PathMNIST, TissueMNIST",
            {
                "network": "PreActResNet-18",
                "eps": "8/255",
                "largest": 2,
                "tolerance": 0.02,
                "epochs": 30,
                "batch": 128,
                "learning rate": "cyclic, 0.01 to 0.2",
                "weight decay": 5e-4,
            },
            "the authors' code",
        ),
    ),
    published=(
        Published("PathMNIST, PreActResNet-18, eps 8/255: clean, AutoAttack", "84.88, 35.54 %", True, NOTE),
        Published(
            "ImageNet-100, PreActResNet-18, eps 8/255: clean, AutoAttack", "57.26, 18.56 %", True, NOTE
        ),
        Published(
            "CIFAR-10, PreActResNet-18, eps 8/255, 30 epochs: clean, FGSM, PGD-10",
            "80.04, 53.39, 48.63 %",
            True,
            "a public re-run of the authors' code by others",
        ),
    ),
    changes=(
        "g' is a backward to the input of its own, so a step costs one more than the authors', who read it off the "
        "training backward: it then is the gradient of the loss at the point alone, whatever its weight, the precision "
        "and the other terms, and the state does not depend on a backward that the loop may make otherwise",
        "the authors' formula for a differs from the one that the paper is reported to have, "
        "a = min(2 eps, 0.02 / (1 - r)) in pixels: absolute=True",
        "samples whose gradient at the start is 0 are left out of r; the code counts them as 0",
        "for l2 the start is uniform in the ball of radius eps and the step as long as a; the code has both sqrt(3) "
        "times as long on colour images, and starts at a uniform distance instead",
        "the gradient is found in training mode, as in the code; mode='eval' or 'batch' is the alternative",
    ),
    compared=(Compared("SecondOrderAT/SORA", 3e-16, 6e-13, "6 steps in turn"),),
)


@described_by(CARD)
def sora(
    threat: Threat,
    largest: float = 2.0,
    tolerance: float = 0.02,
    *,
    absolute: bool = False,
    rate: float = 0.05,
    initial: float = 0.99,
    smoothing: float = 0.0,
    mode: Mode = "train",
) -> Objective:
    """SORA: the loss at a random single step whose length follows the loss's linearity; PertAlign is logged.

    Args:
        threat: norm, radius and box.
        largest: length of the longest step as a multiple of ``eps``.
        tolerance: how far the linearity ``r`` may fall below 1 before the step is shortened.
        absolute: take ``tolerance / (1 - r)`` in the units of the input and not as a share of the longest step.
        rate: the share of a new step in the running mean ``r``.
        initial: ``r`` before the first step.
        smoothing: label smoothing, of the attack and of the loss.
        mode: the mode in which the step is found.
    """
    loss = SmoothedCrossEntropy(smoothing) if smoothing else "ce"
    step = SoraStep(threat, largest, tolerance, absolute, None, initial, rate, loss=loss, mode=mode)
    return SoraLoss(step) + 0.0 * PertAlign(step, loss=loss, find=mode)
