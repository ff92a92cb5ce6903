"""The squared input gradient: double backpropagation, and its finite difference (tulip)."""

from __future__ import annotations

import math
from typing import Literal

from robustreg.methods.card import Card, Compared, Setting, described_by
from robustreg.objective import Objective
from robustreg.penalties.gradient import Estimator, GradientNorm
from robustreg.terms import CrossEntropy
from robustreg.threat import Threat

DOUBLE = Card(
    name="double_backpropagation",
    title="double backpropagation: the squared l2 norm of the input gradient",
    citation=(
        "H. Drucker, Y. LeCun, Improving Generalization Performance Using Double Backpropagation, IEEE Transactions on "
        "Neural Networks 3(6), 1992; for robustness: A. Ross, F. Doshi-Velez, Improving the Adversarial Robustness and "
        "Interpretability of Deep Neural Networks by Regularizing their Input Gradients, AAAI 2018"
    ),
    equations=("J = mean [ L(x) + lam * ||grad_x L(x)||_2^2 ]",),
    changes=(
        "the papers' texts were not seen; the formula is recalled",
        "the gradient is that of each sample's own loss: code that differentiates the batch mean scales the penalty by "
        "1/B^2",
    ),
)


@described_by(DOUBLE)
def double_backpropagation(lam: float = 0.1) -> Objective:
    """Cross-entropy plus ``lam ||grad_x L||_2^2``, inputs on the pixel scale 0-1.

    Args:
        lam: weight of the penalty.
    """
    return CrossEntropy() + lam * GradientNorm(Threat("l2", 1.0, None), squared=True)


TULIP = Card(
    name="tulip",
    title="scaleable input gradient regularisation: a finite difference in place of the double backward",
    citation=(
        "C. Finlay, A. Oberman, Scaleable input gradient regularization for adversarial robustness, arXiv 1905.11468, "
        "2019; code cfinlay/tulip"
    ),
    equations=(
        "J = mean [ L(x) + lam/2 ((L(x + h v) - L(x)) / h)^2 ],  v constant",
        "v = g / ||g||_2 (l2), sign(g) / sqrt(d) (l1), sign(g_j) e_j at the largest entry (linf)",
        "second order: (L(x + h v) - L(x - h v)) / (2 h)",
    ),
    settings=(
        Setting(
            "CIFAR-10",
            {"norm": "l2 or l1", "lam": "0.1 or 1", "h": 0.01},
            "the authors' code and released models",
        ),
        Setting("ImageNet", {"lam": 0.1}, "the authors' code"),
    ),
    changes=(
        "the point x + h v is run without updating BatchNorm's statistics and with the clean forward's dropout masks; "
        "the authors' code updates and draws anew",
        "norm='l1' is told the number of input features, for its factor 1/sqrt(d)",
    ),
    compared=(Compared("cfinlay/tulip", 9e-16, 2e-11, "three norms, both orders"),),
)


@described_by(TULIP)
def tulip(
    lam: float = 0.1,
    norm: Literal["l2", "l1", "linf"] = "l2",
    *,
    h: float = 0.01,
    order: int = 1,
    features: int | None = None,
) -> Objective:
    """Cross-entropy plus half the squared finite difference of the loss along its gradient.

    Args:
        lam: weight of the penalty.
        norm: of the *gradient*, as the paper names it: ``"l1"`` is for linf attacks.
        h: length of the step in l2, on the pixel scale 0-1.
        order: 1 for the forward difference, 2 for the central one.
        features: the number ``d`` of input features, for ``norm="l1"``.
    """
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order!r}")
    if norm == "l1" and features is None:
        raise ValueError(
            "norm='l1' needs features, the number of input features, for its factor 1/sqrt(features)"
        )
    within = {
        "l2": Threat("l2", 1.0, None),
        "l1": Threat("linf", 1 / math.sqrt(features or 1), None),
        "linf": Threat("l1", 1.0, None),
    }
    if norm not in within:
        raise ValueError(f"norm must be 'l2', 'l1' or 'linf', got {norm!r}")
    # the central difference of GradientNorm spans h, the paper's 2 h
    estimator: Estimator = "forward" if order == 1 else "central"
    step = h if order == 1 else 2 * h
    return CrossEntropy() + 0.5 * lam * GradientNorm(
        within[norm], squared=True, estimator=estimator, step=step
    )
