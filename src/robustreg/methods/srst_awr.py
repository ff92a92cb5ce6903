"""SRST-AWR: robust training with few labels, a teacher and adaptive weights (Yang, Kong & Kim 2023)."""

from __future__ import annotations

from typing import Literal

from robustreg.attacks.pgd import PGD
from robustreg.losses import Loss, SmoothedCrossEntropy
from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.methods.trades import quarter
from robustreg.objective import Objective
from robustreg.penalties.consistency import Consistency
from robustreg.penalties.targets import PseudoLabelled
from robustreg.penalties.teacher import AdaptiveWeight, Distillation, Teacher
from robustreg.points import CLEAN, Point
from robustreg.terms import CrossEntropy, LossAt, weighted
from robustreg.threat import Threat

Form = Literal["srst_awr", "semi_trades", "awr"]

CARD = Card(
    name="srst_awr",
    title="semi-supervised robust self-training with adaptively weighted regularisation and distillation",
    citation=(
        "D. Yang, I. Kong, Y. Kim, Enhancing Adversarial Robustness in Low-Label Regime via Adaptively Weighted "
        "Regularization and Knowledge Distillation, ICCV 2023, arXiv 2308.04061"
    ),
    equations=(
        "LS_a(x, y) of labelled samples + gamma KL(T_tau(x) || p_tau(x)) + lam w(x) KL(p(x) || p(x')) of all samples",
        "w(x) = beta <T(x), p(x)> + (1 - beta) (1 - <T(x), p(x')>),  T: the teacher's probabilities; no factor tau^2",
        "Semi-TRADES: w = 1, a = 0",
        "AWR: no distillation; LS_a of all samples, pseudo-labelled where there is no label, and T(x') beside p(x')",
        "x': 10 steps of eps / 4 up KL(p(x) || p(x')), or up CE to the teacher's class, from a uniform point of the "
        "ball, network in evaluation mode",
    ),
    settings=(
        Setting(
            "CIFAR-10, 4000 labels, WRN-28-5",
            {
                "lam": 20,
                "gamma": 4,
                "beta": 0.5,
                "tau": 1.2,
                "smoothing": 0.2,
                "teacher": "FixMatch, the same network",
                "batch": "64 labelled and 128 of all",
                "lr": "0.05, a tenth from epochs 50 and 150",
                "epochs": 200,
                "weight averaging": "every epoch from 51",
            },
            "the authors' README and code",
        ),
        Setting("CIFAR-100, 4000 labels, WRN-28-8", {"tau": 1, "attack": "ce"}, "the authors' README"),
        Setting("STL-10, 1000 labels, WRN-28-5", {"lam": 8, "tau": 1, "attack": "ce"}, "the authors' README"),
    ),
    published=(
        Published(
            "CIFAR-10 with 4000 labels, WRN-28-5, clean / AutoAttack",
            "84.56 / 51.72 %",
            True,
            "a public summary of the paper, not the paper",
        ),
    ),
    changes=(
        "one batch of samples with and without labels (-1), drawn alike, where the authors draw 64 labelled samples "
        "beside each 128: with few labels a step here sees fewer of them",
        "the paper's teacher is trained with FixMatch, which is not part of this library: give any network (a recipe "
        "names the run that trained it), or an average of this one's weights, WeightAverage(0.999)",
        "the clean batch is run once where the code runs it two or three times, and BatchNorm's statistics move once; "
        "divergences are computed from log-probabilities, where the code adds 1e-12",
        "the attack up CE takes the teacher's class for all samples, as the authors' attack on the unlabelled does",
        "the start is projected before the first step; weight averaging is the recipe's key swa",
    ),
    compared=(
        Compared(
            "dyoony/SRST_AWR",
            6e-11,
            2e-11,
            "one adversarial point for both; BatchNorm where all samples are labelled, or form='awr'",
        ),
    ),
)


@described_by(CARD)
def srst_awr(
    threat: Threat,
    teacher: Teacher | None = None,
    lam: float = 20.0,
    gamma: float = 4.0,
    beta: float = 0.5,
    tau: float = 1.2,
    smoothing: float | None = None,
    form: Form = "srst_awr",
    *,
    loss: Literal["kl", "ce"] = "kl",
    steps: int = 10,
    step_size: float | None = None,
    attack: Point | None = None,
) -> Objective:
    """SRST-AWR: a labelled loss, distillation from a teacher, and TRADES' divergence weighted with its help.

    Args:
        threat: the ball to be robust in.
        teacher: a network with the same classes, held fixed, or a ``WeightAverage`` of this one. Without it the
            objective can be looked at, but its first step refuses.
        lam: weight of the divergence.
        gamma: weight of the distillation.
        beta: from 0, ARoW's weight with the teacher for a label, to 1, CoW's.
        tau: temperature of the distillation.
        smoothing: label smoothing ``a``, by default 0.2; ``"semi_trades"`` has none.
        form: ``"srst_awr"``, ``"semi_trades"`` or ``"awr"``.
        loss: what the attack climbs: ``"kl"``, or ``"ce"`` to the teacher's class.
        steps: of the attack.
        step_size: of the attack, by default ``eps / 4``.
        attack: in place of the paper's attack.
    """
    if form not in ("srst_awr", "semi_trades", "awr"):
        raise ValueError(f"form must be 'srst_awr', 'semi_trades' or 'awr', got {form!r}")
    if form == "semi_trades" and smoothing:
        raise ValueError(f"the form 'semi_trades' has no label smoothing, got {smoothing}")
    a = 0.0 if form == "semi_trades" else 0.2 if smoothing is None else smoothing
    climbed: Loss = PseudoLabelled(teacher, keep=False) if loss == "ce" else "kl"
    adversary = attack or PGD(threat, steps, quarter(threat, step_size), loss=climbed)
    by = AdaptiveWeight(teacher, adversary, beta, follow=form == "awr")
    if form == "awr":
        return LossAt(CLEAN, PseudoLabelled(teacher, SmoothedCrossEntropy(a))) + lam * weighted(
            Consistency(adversary), by=by
        )
    divergence = Consistency(adversary) if form == "semi_trades" else weighted(Consistency(adversary), by=by)
    return CrossEntropy(smoothing=a) + gamma * Distillation(teacher, temperature=tau) + lam * divergence
