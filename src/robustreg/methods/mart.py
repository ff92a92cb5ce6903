"""MART: misclassification-aware adversarial training (Wang et al. 2020)."""

from __future__ import annotations

from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.methods.trades import attack_from_noise
from robustreg.objective import Objective
from robustreg.penalties.boosted import BoostedCrossEntropy
from robustreg.penalties.consistency import Consistency
from robustreg.points import Point
from robustreg.terms import Vulnerability, weighted
from robustreg.threat import Threat

CARD = Card(
    name="mart",
    title="more consistency for samples that are misclassified when clean",
    citation=(
        "Y. Wang, D. Zou, J. Yi, J. Bailey, X. Ma, Q. Gu, Improving Adversarial Robustness Requires Revisiting "
        "Misclassified Examples, ICLR 2020"
    ),
    equations=(
        "BCE(x', y) + beta (1 - p_y(x)) KL(p(x) || p(x')),  gradient through weight and both predictions",
        "BCE(x', y) = -log p_y(x') - log(1 - max_{k != y} p_k(x'))",
        "x': steps of eps / 4 up CE(x', y) from x + 0.001 N(0, I), network in evaluation mode",
    ),
    settings=(
        Setting(
            "CIFAR-10, ResNet-18",
            {
                "eps": 0.031,
                "step": 0.007,
                "steps": 10,
                "beta": 5,
                "lr": "0.01, x 0.1, 0.01, 0.001 from epochs 75, 90, 100",
                "weight decay": 3.5e-3,
                "epochs": 120,
                "batch": 128,
            },
            "the authors' code",
        ),
        Setting(
            "CIFAR-10, WRN-34-10",
            {"beta": 6, "lr": 0.1, "weight decay": 7e-4, "epochs": 90, "batch": 128},
            "the authors' code",
        ),
    ),
    published=(
        Published(
            "CIFAR-10 WRN-28-10 with extra data, clean / AutoAttack", "87.50 / 56.29 %", True, "AWP's README"
        ),
        Published(
            "MART-AWP, CIFAR-10 WRN-34-10, clean / AutoAttack", "84.43 / 54.23 %", True, "AWP's README"
        ),
    ),
    changes=(
        "the authors' code has 1.0001 - max p in the boosted part, which is slack=1e-4 here; slack=0 is the paper's",
        "its 1.0000001 - p_y(x) and +1e-12 inside logarithms are left out: everything is computed in log space",
        "the start is projected before the first step, which attack=PGD(..., project_start=False) leaves out; the step "
        "is eps / 4 by default",
    ),
    compared=(Compared("YisenWang/MART", 1e-08, 5e-08, "attack=PGD(..., project_start=False)"),),
)


@described_by(CARD)
def mart(
    threat: Threat,
    beta: float = 6.0,
    *,
    slack: float = 1e-4,
    steps: int = 10,
    step_size: float | None = None,
    attack: Point | None = None,
) -> Objective:
    """MART: ``BCE(x', y) + beta (1 - p_y(x)) KL(p(x) || p(x'))``.

    Args:
        threat: the ball to be robust in.
        beta: weight of the consistency.
        slack: inside the boosted cross-entropy's logarithm; 1e-4 is the authors' code, 0 the paper.
        steps: of the attack.
        step_size: of the attack, by default ``eps / 4``.
        attack: in place of the paper's attack.
    """
    adversary = attack or attack_from_noise(threat, steps, step_size, "ce")
    return BoostedCrossEntropy(adversary, slack) + beta * weighted(Consistency(adversary), by=Vulnerability())
