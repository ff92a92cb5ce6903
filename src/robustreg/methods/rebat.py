"""ReBAT: adversarial training held near the average of its own weights (Wang et al. 2023)."""

from __future__ import annotations

from typing import Literal

from robustreg.attacks.pgd import PGD
from robustreg.attacks.staged import Staged
from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.methods.trades import quarter
from robustreg.modes import Mode
from robustreg.objective import Objective
from robustreg.penalties.teacher import Distillation
from robustreg.penalties.weight_average import WeightAverage
from robustreg.points import Point
from robustreg.schedules import Steps
from robustreg.terms import CrossEntropy
from robustreg.threat import Threat

Form = Literal["rebat", "rebat++"]

CARD = Card(
    name="rebat",
    title="rebalanced adversarial training: the prediction under attack near that of the averaged network",
    citation=(
        "Y. Wang, L. Li, J. Yang, Z. Lin, Y. Wang, Balance, Imbalance, and Rebalance: Understanding Robust Overfitting "
        "from a Minimax Game Perspective, NeurIPS 2023, arXiv 2310.19360"
    ),
    equations=(
        "CE(x', y) + beta KL(sg a(x') || p(x')),  a: the prediction of an average of the weights",
        "beta is 0, and the average the network itself, until shortly after the first decay of the learning rate",
        "the learning rate falls by a factor of 1.5 (1.7, 4) twice, not of 10",
        "x': 10 steps of eps / 4; ReBAT++: from half of training 12 of the same steps in the radius 10/8 eps",
    ),
    settings=(
        Setting(
            "CIFAR-10, PreActResNet-18 (ReBAT)",
            {
                "eps": "8/255",
                "step": "2/255",
                "beta": 1,
                "decay": "0.999 from epoch 105",
                "lr": "0.1, divided by 1.5 at epochs 100 and 150",
                "epochs": 200,
                "batch": 128,
                "weight decay": 5e-4,
            },
            "the authors' code",
        ),
        Setting(
            "the same (ReBAT++)",
            {"lr": "divided by 1.7", "eps": "10/255 from epoch 100"},
            "the authors' code",
        ),
        Setting("CIFAR-10, WRN-34-10 with CutMix", {"lr": "divided by 4", "beta": 2}, "the authors' code"),
    ),
    published=(
        Published(
            "CIFAR-10 PreActResNet-18, AutoAttack (ReBAT)", "51.13 to 51.22 %", True, "audits by others"
        ),
        Published("the same (ReBAT++), best and last epoch", "51.49 / 51.39 %", True, "audits by others"),
    ),
    changes=(
        "the average that is asked has the weights up to the step before; the authors update it with the optimiser",
        "the network is attacked in evaluation mode; the authors attack in training mode: find='train'",
        "the authors run the clean batch in training mode after every update, which moves BatchNorm's statistics once "
        "more; that forward is left out",
        "the averaged network is evaluated with the recipe's key ema, the learning rate is the recipe's schedule",
    ),
    compared=(
        Compared("PKU-ML/ReBAT", 2e-16, 6e-13, "one adversarial point and one averaged network for both"),
    ),
)


@described_by(CARD)
def rebat(
    threat: Threat,
    beta: float = 1.0,
    form: Form = "rebat",
    *,
    since: float = 0.525,
    decay: float = 0.999,
    steps: int = 10,
    step_size: float | None = None,
    find: Mode = "eval",
    attack: Point | None = None,
) -> Objective:
    """ReBAT: ``CE(x', y) + beta KL(sg a(x') || p(x'))``, ``a`` the averaged network.

    Args:
        threat: the ball to be robust in.
        beta: weight of the divergence.
        form: ``"rebat"``, or ``"rebat++"`` with a stronger attack in the second half of training.
        since: progress from which weights are averaged and the divergence counts.
        decay: of the average, per step.
        steps: of the attack.
        step_size: of the attack, by default ``eps / 4``.
        find: the mode in which the network is attacked.
        attack: in place of the paper's attack.
    """
    if form not in ("rebat", "rebat++"):
        raise ValueError(f"form must be 'rebat' or 'rebat++', got {form!r}")
    size = quarter(threat, step_size)
    adversary: Point = attack or PGD(threat, steps, size, mode=find)
    if form == "rebat++" and attack is None:
        stronger = PGD(threat.with_eps(1.25 * threat.eps), steps + 2, size, mode=find)
        adversary = Staged((adversary, stronger), (0.5,))
    average = WeightAverage(Steps((0.0, decay), (since,)))
    return CrossEntropy(at=adversary) + Steps((0.0, beta), (since,)) * Distillation(
        average, adversary, adversary
    )
