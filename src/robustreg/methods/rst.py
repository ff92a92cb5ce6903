"""RST: robust self-training, TRADES on labels and pseudo-labels (Carmon et al. 2019)."""

from __future__ import annotations

from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.methods.trades import attack_from_noise
from robustreg.objective import Objective
from robustreg.penalties.consistency import Consistency
from robustreg.penalties.targets import PseudoLabelled
from robustreg.penalties.teacher import Teacher
from robustreg.points import CLEAN, Point
from robustreg.terms import LossAt
from robustreg.threat import Threat

CARD = Card(
    name="rst",
    title="robust self-training: TRADES, with a teacher's class where there is no label",
    citation=(
        "Y. Carmon, A. Raghunathan, L. Schmidt, P. Liang, J. C. Duchi, Unlabeled Data Improves Adversarial Robustness, "
        "NeurIPS 2019, arXiv 1905.13736"
    ),
    equations=(
        "CE(x, y^) + beta KL(p(x) || p(x')),  y^: the label, or the class that the teacher predicts at x",
        "x': the attack of TRADES",
    ),
    settings=(
        Setting(
            "CIFAR-10 and 500,000 pseudo-labelled images, WRN-28-10",
            {"eps": "0.031", "step": 0.007, "steps": 10, "beta": 6, "batch": "128 labelled and 128 others"},
            "the paper, recalled",
        ),
    ),
    published=(
        Published(
            "CIFAR-10 with extra data, WRN-28-10, clean / AutoAttack",
            "89.69 / 59.53 %",
            True,
            "the leaderboard quoted in GAIRAT's README",
        ),
        Published(
            "CIFAR-10 with 4000 labels, WRN-28-5, clean / AutoAttack",
            "79.77 / 46.69 %",
            True,
            "a public summary of SRST-AWR",
        ),
    ),
    changes=(
        "the formula is that of SRST-AWR's code; the teacher is asked at every step instead of once beforehand",
        "one batch of samples with and without labels (-1), drawn alike; the authors draw as many of each",
    ),
    compared=(Compared("dyoony/SRST_AWR", 3e-16, 4e-13, "one adversarial point for both"),),
)


@described_by(CARD)
def rst(
    threat: Threat,
    teacher: Teacher | None = None,
    beta: float = 6.0,
    *,
    steps: int = 10,
    step_size: float | None = None,
    attack: Point | None = None,
) -> Objective:
    """RST: ``CE(x, y^) + beta KL(p(x) || p(x'))``, ``y^`` the label or the teacher's class.

    Args:
        threat: the ball to be robust in.
        teacher: a network with the same classes, held fixed, or a ``WeightAverage`` of this one. Without it the
            objective can be looked at, but its first step refuses.
        beta: weight of the divergence.
        steps: of the attack.
        step_size: of the attack, by default ``eps / 4``.
        attack: in place of the paper's attack.
    """
    adversary = attack or attack_from_noise(threat, steps, step_size, "kl")
    return LossAt(CLEAN, PseudoLabelled(teacher)) + beta * Consistency(adversary)
