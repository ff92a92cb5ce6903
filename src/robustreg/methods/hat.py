"""HAT: helper-based adversarial training (Rade & Moosavi-Dezfooli 2022)."""

from __future__ import annotations

from torch import nn

from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.methods.trades import attack_from_noise
from robustreg.objective import Objective
from robustreg.penalties.consistency import Consistency
from robustreg.penalties.teacher import TeacherCrossEntropy
from robustreg.points import CLEAN, Along, Point
from robustreg.terms import CrossEntropy
from robustreg.threat import Threat

CARD = Card(
    name="hat",
    title="TRADES with helper samples beyond the ball, so that the margin does not grow more than it must",
    citation=(
        "R. Rade, S.-M. Moosavi-Dezfooli, Reducing Excessive Margin to Achieve a Better Accuracy vs. Robustness "
        "Trade-off, ICLR 2022"
    ),
    equations=(
        "CE(x, y) + beta KL(p(x) || p(x')) + gamma CE(x_h, y_h)",
        "x_h = x + h (x' - x), not projected;  y_h = argmax of a standardly trained network at x'",
        "x': the attack of TRADES",
    ),
    settings=(
        Setting(
            "CIFAR-10, ResNet-18",
            {
                "eps": "8/255",
                "step": "2/255",
                "steps": 10,
                "h": 2,
                "beta": 2.5,
                "gamma": 0.5,
                "lr": "0.21, one cycle",
                "epochs": 50,
                "batch": 128,
                "weight decay": 5e-4,
            },
            "the authors' README",
        ),
        Setting(
            "CIFAR-10 with extra data",
            {
                "beta": 3.5,
                "gamma": 0.5,
                "lr": 0.4,
                "epochs": 400,
                "batch": 1024,
                "ema": 0.995,
                "smoothing": 0.1,
            },
            "the authors' README",
        ),
        Setting("CIFAR-10, as ARoW's baseline", {"gamma": 0.25, "h": 2, "beta": "lam"}, "ARoW's code"),
    ),
    published=(
        Published("CIFAR-10 ResNet-18, clean / AutoAttack", "84.90 / 49.08 %", True, "authors' README"),
        Published("the same at eps 12/255", "79.30 / 33.47 %", True, "authors' README"),
        Published("SVHN ResNet-18, clean / AutoAttack", "93.08 / 52.83 %", True, "authors' README"),
        Published("CIFAR-10 WRN-28-10 with extra data", "91.30 / 62.50 %", True, "authors' README"),
    ),
    changes=(
        "the clean prediction is shared by both parts of the loss",
        "the start is projected before the first step, which attack=PGD(..., project_start=False) leaves out",
    ),
    compared=(Compared("imrahulr/hat", 2e-16, 1e-12, "attack=PGD(..., project_start=False)"),),
)


@described_by(CARD)
def hat(
    threat: Threat,
    helper: nn.Module | None = None,
    beta: float = 2.5,
    gamma: float = 0.5,
    h: float = 2.0,
    *,
    smoothing: float = 0.0,
    steps: int = 10,
    step_size: float | None = None,
    attack: Point | None = None,
) -> Objective:
    """HAT: TRADES plus ``gamma CE(x_h, y_h)`` at the helper samples.

    Args:
        threat: the ball to be robust in.
        helper: a network with the same classes, trained without an adversary; it is held fixed and run in evaluation
            mode. Without it the objective can be looked at, but its first step refuses.
        beta: weight of the divergence.
        gamma: weight of the helper samples.
        h: how far beyond the adversarial point they lie, as a multiple of its perturbation.
        smoothing: label smoothing of the clean cross-entropy.
        steps: of the attack.
        step_size: of the attack, by default ``eps / 4``.
        attack: in place of the paper's attack.
    """
    adversary = attack or attack_from_noise(threat, steps, step_size, "kl")
    beyond = Along(CLEAN, adversary, h)
    return (
        CrossEntropy(smoothing=smoothing)
        + beta * Consistency(adversary)
        + gamma * TeacherCrossEntropy(helper, at=beyond, teacher_at=adversary)
    )
