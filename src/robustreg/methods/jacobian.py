"""Jacobian regularisation (Hoffman, Roberts & Yaida 2019)."""

from __future__ import annotations

from typing import Literal

from robustreg.methods.card import Card, Compared, Published, Setting, described_by
from robustreg.modes import Mode
from robustreg.objective import Objective
from robustreg.penalties.jacobian import JacobianNorm
from robustreg.terms import CrossEntropy

CARD = Card(
    name="jacobian",
    title="robust learning with Jacobian regularisation",
    citation=(
        "J. Hoffman, D. A. Roberts, S. Yaida, Robust Learning with Jacobian Regularization, arXiv 1908.02729, 2019; "
        "code facebookresearch/jacobian_regularizer"
    ),
    equations=(
        "J = mean [ L(x) + lam/2 ||dz/dx||_F^2 ]",
        "estimate: C/(2n) sum_i ||J^T v_i||^2,  v_i uniform on the unit sphere of R^C",
    ),
    settings=(
        Setting("README", {"lam": 0.01, "projections": 1}, "the authors' code"),
        Setting("MNIST", {"lam": 0.1, "lr": 0.01, "momentum": 0.9, "batch": 64}, "the authors' code"),
    ),
    published=(
        Published("MNIST, MLP 784-200-200-10, lam 0.1, 5 epochs, test accuracy", "0.970", True, "README"),
        Published("the same, penalty before and after", "3.656, 0.977", True, "README"),
    ),
    changes=("norm='spectral' (power iteration) is ours, beside the paper's Frobenius norm",),
    compared=(Compared("facebookresearch/jacobian_regularizer", 4e-16, 8e-13, "exact, 1 and 3 projections"),),
)


@described_by(CARD)
def jacobian(
    lam: float = 0.01,
    projections: int | None = 1,
    *,
    norm: Literal["frobenius", "spectral"] = "frobenius",
    mode: Mode = "train",
) -> Objective:
    """Cross-entropy plus ``lam/2`` times the squared norm of the logits' Jacobian, inputs on the pixel scale 0-1.

    Args:
        lam: weight of the penalty.
        projections: random projections per step, or None for the exact norm (one input gradient for each class).
        norm: ``"frobenius"``, or ``"spectral"``, which takes no projections.
        mode: the mode in which the Jacobian's network is run.
    """
    if norm == "spectral":
        projections = None
    return CrossEntropy() + lam * JacobianNorm(projections, norm, mode=mode)
