"""UAT: adversarial training on labels and pseudo-labels (Alayrac et al. 2019)."""

from __future__ import annotations

from typing import Literal

from robustreg.attacks.pgd import PGD
from robustreg.methods.card import Card, Compared, Published, described_by
from robustreg.methods.trades import quarter
from robustreg.objective import Objective
from robustreg.penalties.consistency import Consistency
from robustreg.penalties.targets import PseudoLabelled
from robustreg.penalties.teacher import Teacher
from robustreg.points import Point
from robustreg.terms import LossAt
from robustreg.threat import Threat

Form = Literal["uat_ft", "uat++"]

CARD = Card(
    name="uat",
    title="unsupervised adversarial training with fixed targets, and with smoothness besides",
    citation=(
        "J.-B. Alayrac, J. Uesato, P.-S. Huang, A. Fawzi, R. Stanforth, P. Kohli, Are Labels Required for Improving "
        "Adversarial Robustness?, NeurIPS 2019, arXiv 1905.13725"
    ),
    equations=(
        "UAT-FT: CE(x', y^),  y^: the label, or the class that the teacher predicts at x",
        "UAT++:  CE(x', y^) + lam KL(sg p(x) || p(x'))",
        "x': 10 steps of eps / 4 up CE(x', y^) from a uniform point of the ball, network in evaluation mode",
    ),
    published=(
        Published(
            "CIFAR-10 with 4000 labels, WRN-28-5 (UAT++), clean / AutoAttack",
            "79.84 / 46.53 %",
            True,
            "a public summary of SRST-AWR",
        ),
    ),
    changes=(
        "the formulas are those of SRST-AWR's code; the paper itself was not read",
        "one batch of samples with and without labels (-1), drawn alike",
    ),
    compared=(Compared("dyoony/SRST_AWR", 2e-16, 1e-12, "both forms, one adversarial point for both"),),
)


@described_by(CARD)
def uat(
    threat: Threat,
    teacher: Teacher | None = None,
    lam: float = 5.0,
    form: Form = "uat++",
    *,
    steps: int = 10,
    step_size: float | None = None,
    attack: Point | None = None,
) -> Objective:
    """UAT: ``CE(x', y^)``, ``y^`` the label or the teacher's class; UAT++ adds the divergence from ``p(x)``.

    Args:
        threat: the ball to be robust in.
        teacher: a network with the same classes, held fixed, or a ``WeightAverage`` of this one. Without it the
            objective can be looked at, but its first step refuses.
        lam: weight of UAT++'s divergence, whose clean side is constant.
        form: ``"uat_ft"`` or ``"uat++"``.
        steps: of the attack.
        step_size: of the attack, by default ``eps / 4``.
        attack: in place of the paper's attack.
    """
    if form not in ("uat_ft", "uat++"):
        raise ValueError(f"form must be 'uat_ft' or 'uat++', got {form!r}")
    label = PseudoLabelled(teacher)
    adversary = attack or PGD(threat, steps, quarter(threat, step_size), loss=label)
    if form == "uat_ft":
        return Objective.of(LossAt(adversary, label))
    return LossAt(adversary, label) + lam * Consistency(adversary, detach_reference=True)
