"""Curvature regularisation (CURE; Moosavi-Dezfooli et al. 2019)."""

from __future__ import annotations

from typing import Literal

from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.objective import Objective
from robustreg.penalties.curvature import Curvature, Direction
from robustreg.terms import CrossEntropy

CARD = Card(
    name="cure",
    title="robustness via curvature regularisation",
    citation=(
        "S.-M. Moosavi-Dezfooli, A. Fawzi, J. Uesato, P. Frossard, Robustness via Curvature Regularization, and Vice "
        "Versa, CVPR 2019, arXiv 1811.09716; code F-Salehi/CURE_robustness"
    ),
    equations=(
        "J = mean [ L(x) + gamma ||grad L(x + h z) - grad L(x)||^2 ]",
        "z = sign(grad L(x)) / ||sign(grad L(x))||_2, constant",
        "form='official': the norm is not squared",
    ),
    settings=(
        Setting("CIFAR-10", {"gamma": 4}, "the paper, recalled"),
        Setting(
            "CIFAR-10, authors' notebook",
            {
                "lambda": 1,
                "h": "0.1, 0.4, 0.8, 1.8, 3, then 3 (normalised units)",
                "epochs": 10,
                "optimizer": "Adam 1e-4",
            },
            "the authors' code",
        ),
    ),
    published=(
        Published("CIFAR-10, linf 8/255, ResNet-18, clean and PGD-20", "81.2 %, 36.3 %", False, "the paper"),
        Published("the same, WRN-28-10", "83.1 %, 41.4 %", False, "the paper"),
    ),
    changes=(
        "h is in l2 on the pixel scale 0-1; the authors' inputs are divided by standard deviations of about 0.2, so "
        "their h = 3 is about 0.6 here",
        "the authors fine-tune a normally trained network with a growing h; this objective has one h",
        "the code's offsets of 1e-7 in z, which move the penalty's eighth digit, are left out: z = 0 for g = 0",
        "the penalty sees BatchNorm's statistics from before the step; the code's have been moved by the clean forward",
        "the code hands the backward of a mean loss ones of the batch's size, which the torch of its time adds up: its "
        "gradients are those of each sample's own loss, as here. Newer versions refuse it",
        "the code leaves the network in eval mode after the penalty; here only the penalty is in eval mode",
    ),
    compared=(
        Compared("F-Salehi/CURE_robustness", 1e-09, 6e-08, "form='official'; BatchNorm with momentum 0"),
    ),
)


@described_by(CARD)
def cure(
    gamma: float = 4.0,
    h: float = 0.6,
    form: Literal["paper", "official"] = "paper",
    *,
    direction: Direction = "sign",
) -> Objective:
    """Cross-entropy plus ``gamma`` times the change of the input gradient over a step of length ``h``.

    Args:
        gamma: weight of the penalty.
        h: l2 length of the step on the pixel scale 0-1.
        form: ``"paper"`` squares the change's norm, ``"official"`` does not.
        direction: ``"sign"`` or ``"gradient"``.
    """
    if form not in ("paper", "official"):
        raise ValueError(f"form must be 'paper' or 'official', got {form!r}")
    return CrossEntropy() + gamma * Curvature(h, direction, squared=form == "paper")
