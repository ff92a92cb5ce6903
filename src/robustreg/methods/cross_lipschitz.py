"""Cross-Lipschitz regularisation (Hein & Andriushchenko 2017)."""

from __future__ import annotations

from robustreg.methods.card import Card, Compared, Setting, described_by
from robustreg.modes import Mode
from robustreg.objective import Objective
from robustreg.penalties.cross_lipschitz import CrossLipschitz
from robustreg.terms import CrossEntropy

CARD = Card(
    name="cross_lipschitz",
    title="cross-Lipschitz regularisation: the gradients of all differences of logits",
    citation=(
        "M. Hein, M. Andriushchenko, Formal Guarantees on the Robustness of a Classifier against Adversarial "
        "Manipulation, NIPS 2017; code max-andr/cross-lipschitz"
    ),
    equations=(
        "J = mean [ L(x) + lam/C^2 sum_{l,m} ||grad z_l - grad z_m||_2^2 ],  both orders counted",
        "computed as (2/C) ||J_c||_F^2, J_c the Jacobian's rows minus their mean",
    ),
    settings=(
        Setting("default", {"lam": 0.1, "lr": 0.2, "batch": 128, "epochs": 200}, "the authors' code"),
        Setting("ResNet-32", {"lam": 1e-4}, "the authors' code"),
    ),
    changes=(
        "C input gradients in place of the code's loop over pairs, the same number",
        "projections (random combinations of differences, one input gradient each) are ours",
    ),
    compared=(Compared("max-andr/cross-lipschitz", 2e-16, 3e-13),),
)


@described_by(CARD)
def cross_lipschitz(lam: float = 0.1, projections: int | None = None, *, mode: Mode = "train") -> Objective:
    """Cross-entropy plus ``lam`` times the cross-Lipschitz penalty, inputs on the pixel scale 0-1.

    Args:
        lam: weight of the penalty.
        projections: None for the exact penalty (one input gradient for each class), or random projections per step.
        mode: the mode in which the penalty's network is run.
    """
    return CrossEntropy() + lam * CrossLipschitz(projections, mode=mode)
