"""Local linearity regularisation: LLR (Qin et al. 2019)."""

from __future__ import annotations

from robustreg.attacks.linearity import LeastLinear
from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.objective import Objective
from robustreg.penalties.linearity import FirstOrderChange, LinearityGap
from robustreg.terms import CrossEntropy
from robustreg.threat import Threat

CARD = Card(
    name="llr",
    title="clean training with a loss that is close to its tangent within the threat",
    citation=(
        "C. Qin, J. Martens, S. Gowal, D. Krishnan, K. Dvijotham, A. Fawzi, S. De, R. Stanforth, P. Kohli, Adversarial "
        "Robustness through Local Linearization, NeurIPS 2019, arXiv 1907.02610"
    ),
    equations=(
        "gap(d) = |L(x + d) - L(x) - d . grad L(x)|,  d* = argmax_{||d|| <= eps} gap(d)",
        "nominal L(x) + lambda (gap(d*) + smooth |d* . grad L(x)|)",
    ),
    settings=(
        Setting(
            "CIFAR-10",
            {
                "network": "WRN-28-8, softplus",
                "nominal": 2,
                "lambda": 4,
                "smooth": "0.3, so that |d . grad L| has weight 1.2",
                "search": "10 steps of Adam, 0.1",
                "warm-up": "of eps, 500 of 100k steps",
                "learning rate": "0.1, lower from 80k, 88k and 96k steps",
                "weight decay": 2e-4,
            },
            "the authors' code",
        ),
    ),
    published=(
        Published(
            "CIFAR-10, WRN-40-8, eps 8/255: clean, reported, AutoAttack",
            "86.28, 52.81, 52.84 %",
            True,
            "README of AWP",
        ),
    ),
    changes=(
        "the point is searched by projected steepest steps, the authors use Adam",
        "the authors normalise the perturbed forwards with the batch statistics of the clean one; here they use their "
        "own, and like the authors' do not update the running ones",
        "the warm-up of eps is not part of the objective",
    ),
    compared=(
        Compared(
            "deepmind/local_linearity_regularizer",
            3e-16,
            9e-13,
            "the point of this search for both; BatchNorm by each forward's own statistics",
        ),
    ),
)


@described_by(CARD)
def llr(
    threat: Threat,
    lam: float = 4.0,
    smooth: float = 0.3,
    nominal: float = 2.0,
    *,
    steps: int = 10,
    step_size: float | None = None,
) -> Objective:
    """LLR: ``nominal L(x) + lam (gap + smooth |d . grad L(x)|)`` at the point where the gap is largest.

    Args:
        threat: norm, radius and box.
        lam: weight of the regulariser.
        smooth: weight of the change along the tangent beside the gap.
        nominal: weight of the clean loss.
        steps: of the search.
        step_size: of the search, in the threat's norm; by default ``2.5 * eps / steps``.
    """
    point = LeastLinear(threat, steps, step_size, mode="batch")
    gap, change = LinearityGap(threat, point), FirstOrderChange(threat, point)
    return nominal * CrossEntropy() + lam * gap + lam * smooth * change
