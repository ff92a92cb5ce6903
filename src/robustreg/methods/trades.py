"""TRADES and TRADES-LS (Zhang et al. 2019), and the attack that its descendants share."""

from __future__ import annotations

from robustreg.attacks.pgd import PGD
from robustreg.losses import Loss
from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.objective import Objective
from robustreg.penalties.consistency import Consistency
from robustreg.points import Gaussian, Point
from robustreg.terms import CrossEntropy
from robustreg.threat import Threat

CARD = Card(
    name="trades",
    title="trade-off between clean and robust accuracy by the divergence from the clean prediction",
    citation=(
        "H. Zhang, Y. Yu, J. Jiao, E. P. Xing, L. El Ghaoui, M. I. Jordan, Theoretically Principled Trade-off between "
        "Robustness and Accuracy, ICML 2019, arXiv 1901.08573"
    ),
    equations=(
        "CE(x, y) + beta KL(p(x) || p(x')),  gradient through both predictions",
        "x': steps of eps / 4 up KL(p(x) || p(x')) from x + 0.001 N(0, I), network in evaluation mode",
        "TRADES-LS: the cross-entropy's target is (1 - a) e_y + a / C",
    ),
    settings=(
        Setting(
            "CIFAR-10, WRN-34-10",
            {
                "eps": "0.031",
                "step": 0.007,
                "steps": 10,
                "beta": 6,
                "batch": 128,
                "lr": "0.1, a tenth from epoch 75",
                "weight decay": 2e-4,
                "epochs": 76,
            },
            "the authors' code",
        ),
        Setting(
            "MNIST, small CNN",
            {"eps": 0.3, "step": 0.01, "steps": 40, "beta": 1, "lr": 0.01, "epochs": 100},
            "the authors' code",
        ),
    ),
    published=(
        Published(
            "CIFAR-10 WRN-34-10, clean / PGD-20 / AutoAttack",
            "84.92 / 56.61 / 53.08 %",
            True,
            "authors' README",
        ),
        Published("MNIST, clean / PGD-40", "99.48 / 96.07 %", True, "authors' README"),
        Published(
            "CIFAR-10 ResNet-18, clean / PGD-20 / AutoAttack", "81.47 / 52.73 / 49.06 %", True, "NuAT's table"
        ),
    ),
    changes=(
        "the clean prediction is computed once for the attack and once for both parts of the loss; the authors' code "
        "runs the clean batch three times and updates BatchNorm's statistics with it twice",
        "the start is projected before the first step; the authors clip after each step only: "
        "attack=PGD(threat, 10, step, start=Gaussian(0.001), loss='kl', project_start=False)",
        "the step is eps / 4 by default; the authors' 0.007 at eps 0.031 is a little less: step_size=0.007",
        "for l2 the authors normalise the gradient as here and step 2 eps / steps, and clip to the box before the ball",
    ),
    compared=(
        Compared("yaodongyu/TRADES", 2e-16, 9e-13, "attack=PGD(..., project_start=False)"),
        Compared("yaodongyu/TRADES, l2", 2e-08, 3e-07, "the same, samples inside the box"),
    ),
)


def attack_from_noise(threat: Threat, steps: int, step_size: float | None, loss: Loss) -> PGD:
    """PGD as in TRADES: from 0.001 N(0, I), in steps of ``eps / 4`` by default, on the network in evaluation mode."""
    return PGD(threat, steps, quarter(threat, step_size), start=Gaussian(0.001), loss=loss)


def quarter(threat: Threat, step_size: float | None) -> float | None:
    """The step that these methods share, where none is given; none where ``eps`` is 0 and there is no way to go."""
    return (threat.eps / 4 or None) if step_size is None else step_size


@described_by(CARD)
def trades(
    threat: Threat,
    beta: float = 6.0,
    smoothing: float = 0.0,
    *,
    steps: int = 10,
    step_size: float | None = None,
    attack: Point | None = None,
) -> Objective:
    """TRADES: ``CE(x, y) + beta KL(p(x) || p(x'))``; with label smoothing TRADES-LS.

    Args:
        threat: the ball to be robust in.
        beta: weight of the divergence.
        smoothing: label smoothing ``a`` of the cross-entropy.
        steps: of the attack.
        step_size: of the attack, by default ``eps / 4``.
        attack: in place of the paper's attack.
    """
    adversary = attack or attack_from_noise(threat, steps, step_size, "kl")
    return CrossEntropy(smoothing=smoothing) + beta * Consistency(adversary)
