"""Single-step training from a start that hides the label's own perturbation: LIET (Pan et al. 2025)."""

from __future__ import annotations

from robustreg.attacks.class_start import ClassStart, RandomTargets
from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.modes import Mode
from robustreg.objective import Objective
from robustreg.penalties.consistency import Consistency
from robustreg.points import Steepest
from robustreg.schedules import Ramp
from robustreg.terms import LossAt
from robustreg.threat import Threat

CODE = "the authors' code"
BENCHMARK = "FastAT Benchmark, arXiv 2604.22853"
PROTOCOL = "eps 8/255, 100 epochs, weight averaging 0.9995: clean, PGD-50, AutoAttack"
TRAINING: dict[str, object] = {
    "network": "ResNet-18",
    "eps": "8/255",
    "epochs": 100,
    "batch": 128,
    "learning rate": "one cycle, largest 0.1",
    "weight decay": 5e-4,
    "weight averaging": 0.9995,
}

CARD = Card(
    name="liet",
    title="adversarial training from the label's own perturbation, with agreement of start and end",
    citation=(
        "C. Pan, K. Tang, Q. Li, X. Yao, Mitigating Catastrophic Overfitting in Fast Adversarial Training via Label "
        "Information Elimination, ICCV 2025; code fzjcdt/LIET and fzjcdt/FastAT_Benchmark"
    ),
    equations=(
        "LI_c = eps sign grad CE_a(f(0.5), c) in evaluation mode, every 20 steps",
        "delta_0 = s LI_y with s = 1 or -1 for the batch and U(-eps, eps) in a random 10 to 50 % of the features",
        "delta = clip_eps(delta_0 + eps sign grad CE_a(x + delta_0)), x + delta clipped to the box",
        "mean CE_a(x + delta) + t lam JS(p(x + delta_0), p(x + delta)),  t the progress of training",
        "CE_a: target 1 - a for the label, a spread at random over the others",
    ),
    settings=(
        Setting("CIFAR-10", {**TRAINING, "lam": 100, "smoothing": 0.6}, CODE),
        Setting("CIFAR-100", {**TRAINING, "lam": 200, "smoothing": 0.8}, CODE),
        Setting(
            "TinyImageNet", {**TRAINING, "network": "PreActResNet-18", "lam": 100, "smoothing": 0.6}, CODE
        ),
        Setting("eps above 8/255", {"wide": True}, CODE),
    ),
    published=(
        Published(f"CIFAR-10, ResNet-18, {PROTOCOL}", "80.68, 55.97, 49.99 %", True, BENCHMARK),
        Published(f"CIFAR-100, ResNet-18, {PROTOCOL}", "50.47, 32.44, 26.64 %", True, BENCHMARK),
        Published(f"TinyImageNet, PreActResNet-18, {PROTOCOL}", "44.80, 26.52, 19.88 %", True, BENCHMARK),
    ),
    changes=(
        "lam grows with every step, there with every epoch",
        "the 20 steps are counted over all of training, there within an epoch",
        "what depends on eps > 8/255 in the code is the option wide here, because 8/255 is a radius of its data sets",
        "for norms other than linf the steepest step and the ball's noise take the sign's and the box's place",
    ),
    compared=(Compared("fzjcdt/LIET", 1e-15, 6e-13, "5 steps in turn, wide and not"),),
)


@described_by(CARD)
def liet(
    threat: Threat,
    lam: float = 100.0,
    *,
    smoothing: float = 0.6,
    every: int = 20,
    least: float = 0.1,
    most: float = 0.5,
    grey: float = 0.5,
    wide: bool = False,
    mode: Mode = "train",
) -> Objective:
    """LIET: the loss one step from a start that carries the label's perturbation, and agreement with that start.

    The plan counts a step in which the class perturbations are found; the others are cheaper.

    Args:
        threat: norm, radius and box.
        lam: weight of the Jensen-Shannon divergence at the end of training; it grows linearly from 0.
        smoothing: the target's mass on the other classes.
        every: steps for which the class perturbations are kept.
        least: smallest share of features that have noise.
        most: largest share of features that have noise.
        grey: value of the plain image for which the class perturbations are found.
        wide: noise of ``2 eps`` and no clipping to ``eps``, as the authors do for large radii.
        mode: the mode in which the step is found.
    """
    attacked, trained = RandomTargets(smoothing, 0), RandomTargets(smoothing, 1)
    start = ClassStart(threat, every, least, most, 2.0 if wide else 1.0, grey, attacked)
    step = Steepest(threat, start, 1.0, attacked, mode, "box" if wide else "threat")
    return LossAt(step, trained) + Ramp(0.0, lam) * Consistency(step, "js", start)
