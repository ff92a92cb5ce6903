"""NuAT and NuAT2: nuclear-norm adversarial training (Sriramanan et al. 2021)."""

from __future__ import annotations

from typing import Literal

from robustreg.attacks.guided import Guided
from robustreg.attacks.pgd import PGD
from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.methods.gat import guided_step
from robustreg.objective import Objective
from robustreg.penalties.consistency import Consistency
from robustreg.points import Point
from robustreg.schedules import Ramp, Weight
from robustreg.terms import CrossEntropy
from robustreg.threat import Threat

Form = Literal["nuat", "nuat2"]

CARD = Card(
    name="nuat",
    title="nuclear-norm adversarial training: one or two steps, guided by the batch's logit gap",
    citation=(
        "G. Sriramanan, S. Addepalli, A. Baburaj, R. V. Babu, Towards Efficient and Effective Adversarial Training, "
        "NeurIPS 2021"
    ),
    equations=(
        "CE(x, y) + lam ||Z(x) - Z(x')||_* / B,  Z the B x C logits of the batch, gradient through both",
        "NuAT, x': one step of eps up CE + lam ||Z(x) - Z(x')||_* / B from random signs of eps / 2, network in "
        "evaluation mode; in every other step of training up CE alone",
        "NuAT2, x': two steps of eps, the first guided, the second up CE alone",
    ),
    settings=(
        Setting(
            "CIFAR-10, ResNet-18 (NuAT)",
            {
                "eps": "8/255",
                "start": "4/255",
                "lam": "0 to 4.5 over 90 of 100 epochs",
                "lr": "0 to 0.1 and back, cyclic, then a tenth twice",
                "weight decay": 5e-4,
                "batch": 64,
            },
            "the authors' code",
        ),
        Setting(
            "CIFAR-10, WRN-34-10 (NuAT2)", {"lam": "0 to 4 over 55 epochs", "batch": 64}, "the authors' code"
        ),
    ),
    published=(
        Published(
            "CIFAR-10 ResNet-18, clean / PGD-20 / GAMA / AutoAttack",
            "81.01 / 53.30 / 49.46 / 49.24 %",
            True,
            "authors' README",
        ),
        Published(
            "the same with weight averaging", "82.21 / 54.14 / 50.97 / 50.75 %", True, "authors' README"
        ),
    ),
    changes=(
        "the nuclear norm is a quantity of the whole batch, and of each process's shard where several train together; "
        "it is divided by the batch's own size, the authors' by the nominal one",
        "the clean prediction is computed once in training mode, for attack and loss; the authors run the clean batch "
        "twice (NuAT2: in evaluation mode for the attack, as here)",
        "NuAT's attack sees BatchNorm's statistics from before the step; the authors' have been moved by the clean "
        "forward, NuAT2's not",
        "odd and even are counted over all of training, there within an epoch",
        "the ramp is linear in the progress instead of stepping at each epoch's end",
        "where the logit gap lacks rank, the subgradient of least norm is taken",
    ),
    compared=(
        Compared(
            "val-iisc/NuAT", 2e-16, 0.0, "both forms, odd and even steps; NuAT with BatchNorm with momentum 0"
        ),
    ),
)


@described_by(CARD)
def nuat(
    threat: Threat,
    lam: float = 4.5,
    *,
    ramp: float = 0.9,
    form: Form = "nuat",
    attack: Point | None = None,
) -> Objective:
    """NuAT: ``CE(x, y) + lam ||Z(x) - Z(x')||_* / B`` at a one-step guided attack.

    Args:
        threat: the ball to be robust in.
        lam: weight of the nuclear norm at the end of its ramp, in the attack and in the loss.
        ramp: fraction of training over which it rises from 0; 0 keeps it constant, and then no progress is needed.
        form: ``"nuat"`` with one step, ``"nuat2"`` with two.
        attack: in place of the paper's attack.
    """
    if form not in ("nuat", "nuat2"):
        raise ValueError(f"form must be 'nuat' or 'nuat2', got {form!r}")
    weight: Weight = Ramp(0.0, lam, ramp) if ramp else lam
    if form == "nuat":
        adversary = guided_step(threat, Guided("nuclear", weight, odd=True))
    else:
        first = guided_step(threat, Guided("nuclear", weight, reference_mode="eval"))
        adversary = PGD(threat, 1, threat.eps or None, start=first)
    return CrossEntropy() + weight * Consistency(attack or adversary, "nuclear")
