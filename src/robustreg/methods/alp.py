"""Adversarial logit pairing (Kannan et al. 2018)."""

from __future__ import annotations

from robustreg.attacks.pgd import PGD
from robustreg.attacks.stack import Stack
from robustreg.losses import SmoothedCrossEntropy
from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.methods.trades import quarter
from robustreg.objective import Objective
from robustreg.penalties.consistency import Consistency
from robustreg.penalties.single_step import JointLoss
from robustreg.points import CLEAN, Point
from robustreg.terms import CrossEntropy
from robustreg.threat import Threat

CARD = Card(
    name="alp",
    title="adversarial logit pairing",
    citation=(
        "H. Kannan, A. Kurakin, I. Goodfellow, Adversarial Logit Pairing, 2018, arXiv 1803.06373; code "
        "tensorflow/models, research/adversarial_logit_pairing"
    ),
    equations=(
        "(CE(x, y) + CE(x', y)) / 2 + lam ||z(x) - z(x')||_2^2",
        "x': the end of a PGD attack on the cross-entropy",
    ),
    settings=(Setting("all", {"lam": 0.5}, "the paper, recalled"),),
    published=(
        Published(
            "ImageNet, targeted PGD", "not robust under a stronger attack", False, "Engstrom et al. 2018"
        ),
    ),
    changes=(
        "the paper was recalled, not read: there the squared distance is summed over the classes. The authors' code, "
        "which was read, averages it, smooths the labels by 0.1 and runs both halves in one forward: average=True, "
        "smoothing=0.1, joint=True",
        "the attack's number and length of steps are ours; the code attacks towards a random or the least likely class",
    ),
    compared=(
        Compared(
            "tensorflow/models, train.py",
            2e-16,
            3e-13,
            "smoothing=0.1, average=True, joint=True, one adversarial point for both",
        ),
    ),
)


@described_by(CARD)
def alp(
    threat: Threat,
    lam: float = 0.5,
    *,
    smoothing: float = 0.0,
    average: bool = False,
    joint: bool = False,
    steps: int = 10,
    step_size: float | None = None,
    attack: Point | None = None,
) -> Objective:
    """ALP: ``(CE(x, y) + CE(x', y)) / 2 + lam ||z(x) - z(x')||^2``.

    Args:
        threat: the ball to be robust in.
        lam: weight of the squared distance.
        smoothing: label smoothing of both cross-entropies.
        average: average the squared distance over the classes instead of summing it.
        joint: one forward for the samples and the adversarial ones.
        steps: of the attack.
        step_size: of the attack, by default ``eps / 4``.
        attack: in place of PGD on the cross-entropy.
    """
    adversary = attack or PGD(threat, steps, quarter(threat, step_size))
    pairing = Consistency(adversary, "mean_squared_logits" if average else "squared_logits", joint=joint)
    if joint:
        stack, loss = Stack((CLEAN, adversary)), SmoothedCrossEntropy(smoothing) if smoothing else "ce"
        return 0.5 * (JointLoss(stack, 0, loss) + JointLoss(stack, 1, loss)) + lam * pairing
    return 0.5 * (CrossEntropy(smoothing=smoothing) + CrossEntropy(adversary, smoothing)) + lam * pairing
