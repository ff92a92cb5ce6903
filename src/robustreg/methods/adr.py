"""ADR: labels rectified by an average of the network itself (Wu, Wang & Chen 2024)."""

from __future__ import annotations

from typing import Literal

from robustreg.attacks.pgd import PGD
from robustreg.methods.card import Card, Published, Setting, described_by
from robustreg.methods.trades import attack_from_noise, quarter
from robustreg.objective import Objective
from robustreg.penalties.consistency import Consistency
from robustreg.penalties.targets import COOLING, TRUSTING, Rectified
from robustreg.penalties.weight_average import WeightAverage
from robustreg.points import CLEAN, Point
from robustreg.schedules import Weight
from robustreg.terms import LossAt
from robustreg.threat import Threat

Base = Literal["pgd_at", "trades"]

CARD = Card(
    name="adr",
    title="annealing self-distillation rectification: soft labels from the averaged network, more of them with time",
    citation=(
        "Y.-Y. Wu, H.-J. Wang, S.-T. Chen, Annealing Self-Distillation Rectification Improves Adversarial Training, "
        "ICLR 2024, arXiv 2305.12118"
    ),
    equations=(
        "the label is replaced by m P + (1 - m) e_y,  P = softmax(a(x) / T),  a: average of the weights",
        "m = clip(mix - (max_c P_c - P_y), 0, 1),  T and mix by half a cosine over training",
        "pgd_at: SCE(target, p(x')), x' climbs the same",
        "trades: SCE(target, p(x)) + beta KL(p(x) || p(x')), x' climbs the divergence",
    ),
    settings=(
        Setting(
            "CIFAR-10, ResNet-18",
            {
                "eps": "8/255",
                "steps": 10,
                "T": "2.5 to 2",
                "mix": "0.7 to 0.95",
                "decay": 0.995,
                "lr": "0.1, a tenth from epochs 100 and 150",
                "epochs": 200,
            },
            "the authors' code",
        ),
        Setting(
            "the same with AWP", {"T": "2.5 to 1.5", "mix": "0.7 to 0.85", "AWP": 0.005}, "the authors' code"
        ),
    ),
    published=(
        Published("CIFAR-10 ResNet-18, clean / AutoAttack", "82.41 / 50.39 %", True, "authors' README"),
        Published("the same, the averaged network", "82.59 / 50.86 %", True, "authors' README"),
        Published("the same with AWP", "83.26 / 51.24 %", True, "authors' README"),
        Published("CIFAR-10 WRN-34-10 with averaging and AWP", "86.11 / 55.22 %", True, "authors' README"),
        Published("CIFAR-100 ResNet-18 with averaging and AWP", "57.36 / 28.52 %", True, "authors' README"),
    ),
    changes=(
        "the average that is asked has the weights up to the step before: a step's own join it when the step was "
        "computed, so it lags one step behind an average that is updated with the optimiser",
        "BatchNorm's statistics are averaged like the weights",
        "the value of the loss is the soft cross-entropy, whose gradient is that of the divergence from the target",
        "T and mix follow the progress of every step; the averaged network is evaluated with the recipe's key ema",
    ),
)


@described_by(CARD)
def adr(
    threat: Threat,
    base: Base = "pgd_at",
    temperature: Weight = COOLING,
    mix: Weight = TRUSTING,
    *,
    decay: float = 0.995,
    beta: float = 6.0,
    steps: int = 10,
    step_size: float | None = None,
    attack: Point | None = None,
) -> Objective:
    """ADR over PGD training or TRADES; over anything else with ``LossAt(point, Rectified(...))``.

    Args:
        threat: the ball to be robust in.
        base: ``"pgd_at"`` or ``"trades"``.
        temperature: of the averaged network's prediction, or its schedule.
        mix: its largest share of the target, or its schedule.
        decay: of the average of the weights, per step.
        beta: weight of TRADES' divergence.
        steps: of the attack.
        step_size: of the attack, by default ``eps / 4``.
        attack: in place of the paper's attack.
    """
    if base not in ("pgd_at", "trades"):
        raise ValueError(f"base must be 'pgd_at' or 'trades', got {base!r}")
    label = Rectified(temperature, mix, memory=WeightAverage(decay))
    if base == "trades":
        adversary = attack or attack_from_noise(threat, steps, step_size, "kl")
        return LossAt(CLEAN, label) + beta * Consistency(adversary)
    return Objective.of(LossAt(attack or PGD(threat, steps, quarter(threat, step_size), loss=label), label))
