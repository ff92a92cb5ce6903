"""Adversarial logit pairing (Kannan et al. 2018)."""

from __future__ import annotations

from robustreg.attacks.pgd import PGD
from robustreg.methods.card import Card, Published, Setting, described_by
from robustreg.methods.trades import quarter
from robustreg.objective import Objective
from robustreg.penalties.consistency import Consistency
from robustreg.points import Point
from robustreg.terms import CrossEntropy
from robustreg.threat import Threat

CARD = Card(
    name="alp",
    title="adversarial logit pairing",
    citation="H. Kannan, A. Kurakin, I. Goodfellow, Adversarial Logit Pairing, 2018, arXiv 1803.06373",
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
        "the paper was recalled, not read. Whether the squared distance is summed or averaged over the classes differs "
        "between accounts: it is summed here, so lam / C gives the other",
        "the number and length of the attack's steps are ours",
    ),
)


@described_by(CARD)
def alp(
    threat: Threat,
    lam: float = 0.5,
    *,
    steps: int = 10,
    step_size: float | None = None,
    attack: Point | None = None,
) -> Objective:
    """ALP: ``(CE(x, y) + CE(x', y)) / 2 + lam ||z(x) - z(x')||^2``.

    Args:
        threat: the ball to be robust in.
        lam: weight of the squared distance, summed over the classes.
        steps: of the attack.
        step_size: of the attack, by default ``eps / 4``.
        attack: in place of PGD on the cross-entropy.
    """
    adversary = attack or PGD(threat, steps, quarter(threat, step_size))
    return 0.5 * (CrossEntropy() + CrossEntropy(at=adversary)) + lam * Consistency(
        adversary, "squared_logits"
    )
