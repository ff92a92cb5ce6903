"""Virtual adversarial training, and the adversarial training it is compared with (Miyato et al. 2018)."""

from __future__ import annotations

from robustreg.attacks.virtual import Virtual
from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.objective import Objective
from robustreg.penalties.gradient import Perturbed
from robustreg.points import Clip
from robustreg.terms import CrossEntropy, LossAt
from robustreg.threat import Threat

CITATION = (
    "T. Miyato, S. Maeda, M. Koyama, S. Ishii, Virtual Adversarial Training: A Regularization Method for Supervised "
    "and Semi-Supervised Learning, TPAMI 41(8), 2018, arXiv 1704.03976; code takerum/vat, vat_tf, vat_chainer"
)
SUPERVISED = Setting("MNIST", {"p": 2, "eps": 2.1, "lam": 1.0}, "the authors' code")

VAT_CARD = Card(
    name="vat",
    title="virtual adversarial training",
    citation=CITATION,
    equations=(
        "J = mean_L L(x) + lam * mean_{L and U} KL(p(x) || p(x + r)),  p(x) constant",
        "d <- normalised grad_d KL(p(x) || p(x + xi d)), d random at first;  r = eps d, constant",
    ),
    settings=(
        SUPERVISED,
        Setting("MNIST, 100 labels", {"p": 2, "eps": 0.3, "lam": 1.0, "iterations": 1}, "the authors' code"),
        Setting(
            "CIFAR-10, 4000 labels",
            {"p": 2, "eps": "10, 8 augmented", "lam": 1.0},
            "the authors' code, ZCA scale",
        ),
        Setting("SVHN, 1000 labels", {"p": 2, "eps": "2.5, 3.5 augmented", "lam": 1.0}, "the authors' code"),
    ),
    published=(
        Published("permutation-invariant MNIST, test error", "0.64 %", False, "the paper"),
        Published("CIFAR-10 with 4000 labels, test error", "11.36 %", False, "the paper"),
        Published("SVHN with 1000 labels, test error", "5.42 %", False, "the paper"),
    ),
    changes=(
        "xi is 0.1 in float32: the code's 1e-6 is below what float32 resolves",
        "for other norms than l2 the last step is the steepest one of the norm",
        "BatchNorm's statistics are updated by the clean forward only, as in the authors' code",
    ),
    compared=(Compared("takerum/vat_tf", 4e-09, 2e-08),),
)


@described_by(VAT_CARD)
def vat(
    threat: Threat,
    lam: float = 1.0,
    *,
    norm: str | float | None = None,
    eps: float | None = None,
    iterations: int = 1,
    xi: float | None = None,
    clip: Clip = "none",
) -> Objective:
    """Cross-entropy of the labelled samples plus ``lam`` times the local distributional smoothness of all samples.

    Args:
        threat: the ball; its norm and radius are those of ``r``.
        lam: weight of the smoothness.
        norm: where it is to differ from the threat's.
        eps: the radius, where it is to differ from the threat's.
        iterations: of the power iteration.
        xi: length of its probing step.
        clip: whether ``x + r`` is kept within the bounds.
    """
    point = Virtual(_within(threat, norm, eps), iterations, xi, mode="batch", clip=clip)
    return CrossEntropy() + lam * LossAt(point, "kl", "batch")


AT_CARD = Card(
    name="adversarial_training_l2",
    title="adversarial training with one gradient step beside the clean loss",
    citation=CITATION + " (the supervised baseline, after Goodfellow et al. 2015)",
    equations=("J = mean [ L(x) + lam * L(x + eps g / ||g||_2) ],  the step constant",),
    settings=(SUPERVISED,),
    published=(
        Published("permutation-invariant MNIST, l2, test error", "0.71 %", False, "the VAT paper"),
        Published("the same with linf", "0.78 %", False, "the VAT paper"),
    ),
    changes=(
        "it is the mixed form of the gradient family up to a factor; the increment that it lowers is a lower bound "
        "of the energy",
    ),
    compared=(Compared("takerum/vat_tf", 7e-09, 3e-08),),
)


@described_by(AT_CARD)
def adversarial_training_l2(
    threat: Threat, lam: float = 1.0, *, eps: float | None = None, clip: Clip = "none"
) -> Objective:
    """Cross-entropy at the sample plus ``lam`` times that one l2 gradient step away.

    Args:
        threat: its radius is the length of the step; its norm plays no part.
        lam: weight of the adversarial loss.
        eps: the length, where it is to differ from the threat's.
        clip: whether the point is kept within the bounds.
    """
    return CrossEntropy() + lam * Perturbed(_within(threat, "l2", eps), clip=clip)


def _within(threat: Threat, norm: str | float | None, eps: float | None) -> Threat:
    return Threat(threat.norm if norm is None else norm, threat.eps if eps is None else eps, threat.bounds)
