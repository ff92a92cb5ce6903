"""What happens along a segment, inside a linear region and to an order outside: CURE, LLR and TRADES (I9 to I11)."""

from __future__ import annotations

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.connections.case import Case
from robustreg.connections.claim import Claim
from robustreg.connections.quantities import (
    OURS,
    bent,
    entry_by_entry,
    gradient_change,
    gradient_rounding,
    linearity_gap,
    loss_rounding,
    residual_p,
)
from robustreg.connections.regions import AFFINE_HERE, BIAS_FREE, SAME_REGION, SMOOTH
from robustreg.penalties import Consistency


def _i9(case: Case) -> tuple[Tensor, Tensor]:
    moved = torch.einsum("bkd,bk->bd", case.jacobian, case.logits_at(case.end).softmax(1) - case.p)
    change = gradient_change(case).norm(dim=1)
    return (gradient_change(case) - moved).norm(dim=1) + change, change


def _i9_order(case: Case) -> tuple[Tensor, Tensor]:
    straight = torch.einsum("bde,be->bd", case.hessian, case.displacement)
    return gradient_change(case).norm(dim=1), straight.norm(dim=1)


def _i9_smooth(case: Case) -> tuple[Tensor, Tensor]:
    return gradient_change(case).norm(dim=1), bent(case).norm(dim=1)


def _i9_beyond(case: Case) -> tuple[Tensor, Tensor]:
    moved = torch.einsum("bkd,bk->bd", case.jacobian, case.logits_at(case.end).softmax(1) - case.p)
    left_over = (gradient_change(case) - moved).norm(dim=1)
    return left_over, torch.zeros_like(left_over)


def _i10(case: Case) -> tuple[Tensor, Tensor]:
    return (case.flat * case.gradient).sum(1), (residual_p(case) * case.logits).sum(1)


def _i10_logits(case: Case) -> tuple[Tensor, Tensor]:
    return entry_by_entry(torch.einsum("bkd,bd->bk", case.jacobian, case.flat), case.logits)


def _i11(case: Case) -> tuple[Tensor, Tensor]:
    return linearity_gap(case), case.term(Consistency(case.displaced, mode="eval"))


def _i11_smooth(case: Case) -> tuple[Tensor, Tensor]:
    return linearity_gap(case), 0.5 * (case.displacement * bent(case)).sum(1)


def _i11_beyond(case: Case) -> tuple[Tensor, Tensor]:
    return linearity_gap(case), numerics.kl(case.logits, case.logits_at(case.end))


def _i11_order(case: Case) -> tuple[Tensor, Tensor]:
    half = 0.5 * torch.einsum("bd,bde,be->b", case.displacement, case.hessian, case.displacement)
    return numerics.kl(case.logits, case.logits_at(case.end)), half


CLAIMS = (
    Claim(
        "I9",
        "the gradient's change along a segment",
        r"\nabla L(x+d) - \nabla L(x) = J^\top (p(x+d) - p(x))",
        OURS,
        "derived",
        "=",
        _i9,
        (AFFINE_HERE, SAME_REGION),
        rounding=gradient_rounding,
        meaning="What CURE penalises is the change of the probabilities, carried back by the Jacobian.",
    ),
    Claim(
        "I9b",
        "which is the Hessian's to first order",
        r"\| \nabla L(x+d) - \nabla L(x) \| = \| H d \| + O(\|d\|^2)",
        OURS,
        "derived",
        "~",
        _i9_order,
        (AFFINE_HERE, SAME_REGION),
        order=2.0,
        meaning="A finite difference of gradients measures curvature, with an error that its length decides.",
    ),
    Claim(
        "I9c",
        "on smooth networks too, with the whole Hessian",
        r"\| \nabla L(x+d) - \nabla L(x) \| = \| \nabla_x^2 L\, d \| + O(\|d\|^2)",
        OURS,
        "derived",
        "~",
        _i9_smooth,
        (SMOOTH,),
        order=2.0,
        meaning="CURE measures curvature of every kind: what softmax bends, and what the logits do.",
    ),
    Claim(
        "I9d",
        "how far a smooth network is from I9",
        r"\nabla L(x+d) - \nabla L(x) = J^\top (p(x+d) - p(x)) + O(\|d\|)",
        OURS,
        "derived",
        "~",
        _i9_beyond,
        (SMOOTH,),
        order=1.0,
        meaning="The curvature of the logits themselves is of the same order as the rest; in a region it is 0.",
    ),
    Claim(
        "I10",
        "a network without biases",
        r"x \cdot \nabla_x L = (p - e_y) \cdot z",
        OURS,
        "derived",
        "=",
        _i10,
        (AFFINE_HERE, BIAS_FREE),
        meaning="Along the ray through the sample the loss's slope is known from the logits alone.",
    ),
    Claim(
        "I10b",
        "its logits are linear in the sample",
        r"z(x) = J x",
        OURS,
        "derived",
        "=",
        _i10_logits,
        (
            AFFINE_HERE,
            BIAS_FREE,
        ),
        meaning="Such a network is homogeneous of degree one, and I10 follows.",
    ),
    Claim(
        "I11",
        "linearity gap = KL divergence",
        r"L(x+d) - L(x) - d \cdot \nabla L(x) = \mathrm{KL}(p(x) \,\|\, p(x+d))",
        OURS,
        "derived",
        "=",
        _i11,
        (AFFINE_HERE, SAME_REGION),
        tolerance=1e-6,
        rounding=loss_rounding,
        meaning="Inside a linear region LLR and TRADES penalise the same number, whatever the label.",
    ),
    Claim(
        "I11b",
        "and both are curvature",
        r"\mathrm{KL}(p(x) \,\|\, p(x+d)) = \tfrac12 d^\top J^\top S J\, d + O(\|d\|^3)",
        OURS,
        "derived",
        "~",
        _i11_order,
        (SMOOTH,),
        order=3.0,
        meaning="Small steps: TRADES is curvature regularisation, on smooth networks with the Fisher matrix.",
    ),
    Claim(
        "I11c",
        "the linearity gap is the whole Hessian's",
        r"L(x+d) - L(x) - d \cdot \nabla L(x) = \tfrac12 d^\top \nabla_x^2 L\, d + O(\|d\|^3)",
        OURS,
        "derived",
        "~",
        _i11_smooth,
        (SMOOTH,),
        order=3.0,
        meaning="On a smooth network LLR also sees the curvature of the logits, which TRADES does not.",
    ),
    Claim(
        "I11d",
        "how far a smooth network is from I11",
        r"L(x+d) - L(x) - d \cdot \nabla L(x) = \mathrm{KL}(p(x) \,\|\, p(x+d)) + O(\|d\|^2)",
        OURS,
        "derived",
        "~",
        _i11_beyond,
        (SMOOTH,),
        order=2.0,
        meaning="LLR and TRADES part at second order, by the curvature of the logits; in a region they do not.",
    ),
)
