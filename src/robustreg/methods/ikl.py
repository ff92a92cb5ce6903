"""IKL adversarial training: the KL divergence in two halves, and the better of each (Cui et al. 2024)."""

from __future__ import annotations

from robustreg.attacks.staged import Grown, Staged
from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.methods.trades import attack_from_noise
from robustreg.objective import Objective
from robustreg.penalties.class_gap import ClassWeightedGap
from robustreg.penalties.consistency import Consistency
from robustreg.points import Point
from robustreg.schedules import Ramp
from robustreg.terms import CrossEntropy
from robustreg.threat import Threat

CARD = Card(
    name="ikl",
    title="improved Kullback-Leibler divergence for adversarial training (IKL-AT, and GKL)",
    citation=(
        "J. Cui, Z. Tian, Z. Zhong, X. Qi, B. Yu, H. Zhang, Decoupled Kullback-Leibler Divergence Loss, NeurIPS 2024, "
        "arXiv 2305.13948; extended as GKL, arXiv 2503.08038"
    ),
    equations=(
        "CE(x, y) + alpha SCE(sg p(x), p(x')) + beta/4 sum_jk w_j w_k ((z_j - z_k) - (z'_j - z'_k))^2",
        "SCE(p, q) = -sum_k p_k log q_k;  w: mean of softmax(z / T) over the class of y, of the epoch before",
        "GKL: w^gamma, normalised by the batch's total weight",
        "x': steps up KL(p(x) || p(x')) from x + 0.001 N(0, I), network in evaluation mode",
    ),
    settings=(
        Setting(
            "CIFAR-10 and CIFAR-100, WRN-34-10",
            {
                "alpha": "4 (5 for more clean accuracy)",
                "beta": 20,
                "T": 4,
                "gamma": 1,
                "eps": "0 to 8/255 over all of training",
                "steps": "2, 3, 4, 5 by quarters of training",
                "AWP": 0.005,
                "lr": "0.2, cosine",
                "epochs": 200,
            },
            "the authors' code",
        ),
        Setting("GKL, the other setting", {"T": 1, "gamma": 0.2}, "the authors' code"),
    ),
    published=(
        Published(
            "CIFAR-10 WRN-34-10 with AWP and averaging, clean / AutoAttack",
            "85.31 / 57.13 %",
            True,
            "authors' README",
        ),
        Published(
            "CIFAR-100 WRN-34-10 with AWP and averaging, clean / AutoAttack",
            "65.76 / 31.91 %",
            True,
            "authors' README",
        ),
    ),
    changes=(
        "radius and number of steps are constant; growing=True lets both grow over training as the authors do, the "
        "radius with every step instead of every epoch. Their AWP is the recipe's key awp",
        "classes that an epoch did not show keep uniform weights; the authors' code divides by zero",
        "refresh is in steps, since a term does not know of epochs: give it the steps of one",
    ),
    compared=(
        Compared(
            "jiequancui/DKL",
            2e-16,
            1e-12,
            "4 steps in turn, the class means renewed; attack=PGD(..., project_start=False); BatchNorm with momentum 0",
        ),
    ),
)


def growing_attack(threat: Threat) -> Point:
    """The authors' attack: the radius from 0 to ``eps``, and 2, 3, 4, 5 steps of 1, 2/3, 1/2, 1/2 of it by quarters."""
    plans = ((2, 1.0), (3, 2 / 3), (4, 0.5), (5, 0.5))
    stages = [attack_from_noise(threat, steps, share * threat.eps or None, "kl") for steps, share in plans]
    return Grown(Staged(tuple(stages), (0.25, 0.5, 0.75)), Ramp(0.0, 1.0))


@described_by(CARD)
def ikl(
    threat: Threat,
    alpha: float = 4.0,
    beta: float = 20.0,
    *,
    temperature: float = 4.0,
    gamma: float = 1.0,
    refresh: int = 391,
    growing: bool = False,
    steps: int = 10,
    step_size: float | None = None,
    attack: Point | None = None,
) -> Objective:
    """IKL-AT: cross-entropy, soft cross-entropy to the clean prediction, and the class-weighted logit gap.

    Args:
        threat: the ball to be robust in.
        alpha: weight of the soft cross-entropy.
        beta: weight of the logit gap.
        temperature: of the predictions whose class means weight the gap.
        gamma: power of those weights (GKL).
        refresh: steps of one epoch, after which the class means are renewed.
        growing: the authors' attack in place of a constant one: its radius grows from 0 over all of training, in 2, 3,
            4 and 5 steps by quarters of it. ``steps`` and ``step_size`` then say nothing.
        steps: of the attack.
        step_size: of the attack, by default ``eps / 4``.
        attack: in place of the paper's attack.
    """
    constant = attack_from_noise(threat, steps, step_size, "kl")
    adversary = attack or (growing_attack(threat) if growing else constant)
    gap = ClassWeightedGap(adversary, temperature, refresh, gamma)
    return CrossEntropy() + alpha * Consistency(adversary, "soft_cross_entropy") + beta * gap
