"""Adversarial training with projected gradient ascent (Madry et al. 2018)."""

from __future__ import annotations

from robustreg.attacks.pgd import PGD
from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.methods.trades import quarter
from robustreg.modes import Mode
from robustreg.objective import Objective
from robustreg.points import Point
from robustreg.terms import CrossEntropy
from robustreg.threat import Threat

CARD = Card(
    name="pgd_at",
    title="adversarial training: the cross-entropy at the end of a projected gradient ascent",
    citation=(
        "A. Madry, A. Makelov, L. Schmidt, D. Tsipras, A. Vladu, Towards Deep Learning Models Resistant to Adversarial "
        "Attacks, ICLR 2018, arXiv 1706.06083"
    ),
    equations=(
        "min_theta E max_{||x' - x||_p <= eps} CE(x', y)",
        "x': steps up CE(x', y) from a uniform point of the ball, projected after each",
    ),
    settings=(
        Setting("CIFAR-10", {"eps": "8/255", "step": "2/255", "steps": 7}, "the paper, recalled"),
        Setting("CIFAR-10", {"eps": "8/255", "step": "2/255", "steps": 10}, "later papers"),
        Setting("MNIST", {"eps": 0.3, "step": 0.01, "steps": 40}, "the paper, recalled"),
    ),
    published=(
        Published(
            "CIFAR-10 ResNet-18, clean / PGD-20 / AutoAttack", "81.12 / 53.08 / 48.75 %", True, "NuAT's table"
        ),
        Published(
            "CIFAR-10 PreActResNet-18, best epoch, PGD-20 / clean", "52.79 / 81.70 %", True, "AWP's logs"
        ),
        Published("the same at the last epoch (robust overfitting)", "43.75 / 84.60 %", True, "AWP's logs"),
        Published("CIFAR-10 WRN-34-10, best epoch, PGD-20 / clean", "56.80 / 86.07 %", True, "AWP's logs"),
        Published("MNIST, clean / PGD-100 with 20 restarts", "98.8 / 89.3 %", False, "the paper"),
    ),
    changes=(
        "the network is attacked in evaluation mode; fast_adversarial and AWP's code attack in training mode, where "
        "the running statistics move at every step: find='train' (find='batch' leaves them alone)",
        "the step is eps / 4 by default, 2/255 at 8/255",
    ),
    compared=(Compared("dyoony/ARoW, attacks/pgd.py", 2e-16, 0.0),),
)


@described_by(CARD)
def pgd_at(
    threat: Threat,
    steps: int = 10,
    *,
    step_size: float | None = None,
    find: Mode = "eval",
    attack: Point | None = None,
) -> Objective:
    """Adversarial training: ``CE(x', y)`` at the end of a PGD attack.

    Args:
        threat: the ball to be robust in.
        steps: of the attack.
        step_size: of the attack, by default ``eps / 4``.
        find: the mode in which the network is attacked.
        attack: in place of the paper's attack.
    """
    return Objective.of(CrossEntropy(at=attack or PGD(threat, steps, quarter(threat, step_size), mode=find)))
