"""GAIRAT: geometry-aware instance-reweighted adversarial training (Zhang et al. 2021)."""

from __future__ import annotations

import math

from robustreg.attacks.pgd import PGD
from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.methods.trades import quarter
from robustreg.objective import Objective
from robustreg.penalties.geometry import Form, Geometry
from robustreg.points import Point
from robustreg.schedules import Steps, Weight
from robustreg.terms import CrossEntropy, weighted
from robustreg.threat import Threat

CARD = Card(
    name="gair",
    title="adversarial training with more weight on samples that fall in fewer steps of the attack",
    citation=(
        "J. Zhang, J. Zhu, G. Niu, B. Han, M. Sugiyama, M. Kankanhalli, Geometry-aware Instance-reweighted Adversarial "
        "Training, ICLR 2021, arXiv 2010.01736"
    ),
    equations=(
        "w(x, y) CE(x', y),  w = (1 + tanh(lam + 5 (1 - 2 kappa / K))) / 2, divided by its mean over the batch",
        "kappa: how many of the attack's K looks, its start among them and its end not, still saw the class y",
        "x': steps of eps / 4 up CE(x', y) from a uniform point of the ball, network in evaluation mode",
        "w = 1 in the first part of training",
    ),
    settings=(
        Setting(
            "CIFAR-10, WRN-32-10",
            {
                "eps": 0.031,
                "step": 0.007,
                "steps": 10,
                "lam": "-1 from epoch 60",
                "lr": "0.1, a tenth from half, a hundredth from three quarters, a 200th from 11/12 of training",
                "weight decay": 2e-4,
                "epochs": 120,
                "batch": 128,
            },
            "the authors' code",
        ),
        Setting("CIFAR-10, as ARoW's baseline", {"lam": "-1 from epoch 50"}, "ARoW's code"),
    ),
    published=(
        Published(
            "CIFAR-10 WRN-32-10, best epoch, clean / PGD-20 / PGD-40 with 5 starts",
            "85.75 / 57.81 / 55.61 %",
            True,
            "authors' README",
        ),
        Published(
            "the same of plain adversarial training", "86.92 / 51.96 / 51.28 %", True, "authors' README"
        ),
        Published(
            "CIFAR-10 WRN-34-10 with weight averaging, clean / PGD-20 / AutoAttack",
            "85.4 / 67.3 / 46.4 %",
            False,
            "ARoW's table, with low confidence",
        ),
    ),
    changes=(
        "beware: it is known to mask gradients. Its gain is one under PGD; under AutoAttack it is below plain "
        "adversarial training (recalled): never judge it by PGD alone",
        "kappa counts looks that saw the label's class, as the authors' code does; the paper's number of steps to the "
        "first wrong prediction is the same where a sample that fell stays fallen",
        "2 kappa / K as in the paper; the code halves K to a whole number first, which differs where K is odd",
        "the start is projected before the first step; the step is eps / 4 by default",
        "samples without a label take part neither in the loss nor in the mean of the weights",
    ),
    compared=(
        Compared(
            "zjfheart/Geometry-aware-Instance-reweighted-Adversarial-Training",
            4e-16,
            3e-13,
            "all three forms, 10 steps",
        ),
    ),
)


@described_by(CARD)
def gair(
    threat: Threat,
    lam: float = -1.0,
    burn_in: float = 0.5,
    form: Form = "tanh",
    *,
    steps: int = 10,
    step_size: float | None = None,
    attack: Point | None = None,
) -> Objective:
    """GAIRAT: ``w(x, y) CE(x', y)``, ``w`` from the steps that the attack needed.

    Args:
        threat: the ball to be robust in.
        lam: the smaller, the more unequal the weights; ``inf`` gives plain adversarial training.
        burn_in: fraction of training before which the weights are 1; with 0 no progress is needed.
        form: of the weight: ``"tanh"``, ``"sigmoid"`` or ``"discrete"``.
        steps: of the attack.
        step_size: of the attack, by default ``eps / 4``.
        attack: in place of the paper's attack; a search with one start.
    """
    adversary = attack or PGD(threat, steps, quarter(threat, step_size))
    schedule: Weight = Steps((math.inf, lam), (burn_in,)) if burn_in else lam
    by = Geometry(adversary, schedule, form)
    return Objective.of(weighted(CrossEntropy(at=adversary), by=by, normalise=True))
