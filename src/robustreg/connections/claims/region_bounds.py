"""How far a linear region lets a loss rise, and a prediction stand (B6 and B7)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.connections.case import Case
from robustreg.connections.claim import Claim, Condition
from robustreg.connections.quantities import (
    OURS,
    boundary_point,
    margin_distance,
    spectral,
    squared,
)
from robustreg.connections.regions import AFFINE_HERE, CORRECT, SAME_REGION, affine_between
from robustreg.threat import Threat


def _b6(case: Case) -> tuple[Tensor, Tensor]:
    length = case.displacement.norm(dim=1)
    bound = (
        case.loss + length * case.gradient.norm(dim=1) + 0.25 * (length * spectral(case.jacobian)).square()
    )
    return case.loss_at(case.end), bound


def _b6_curvature(case: Case) -> tuple[Tensor, Tensor]:
    """For an attack under linf; the largest eigenvalue is looked for in nine places of the segment."""
    d = case.displacement
    first = d.abs().amax(1) * case.gradient.abs().sum(1)
    sharpest = torch.stack([_sharpest(case, k / 8) for k in range(9)]).amax(0)
    return case.loss_at(case.end), case.loss + first + 0.5 * squared(d) * sharpest


def _sharpest(case: Case, t: float) -> Tensor:
    """``lambda_max(J^T S J)`` at ``x + t d``, from the singular values of a ``C x D`` matrix."""
    u = case.x + t * (case.end - case.x)
    p, rows = case.logits_at(u).softmax(1), case.jacobian_at(u)
    off = rows - torch.einsum("bk,bkd->bd", p, rows)[:, None]
    return spectral(p.sqrt()[:, :, None] * off).square()


def _b7(case: Case) -> tuple[Tensor, Tensor]:
    """Along the case's direction the margin stays positive up to the distance, as far as the region reaches."""
    step = torch.minimum(margin_distance(case), torch.full_like(case.loss, case.radius))
    end = case.x + (step[:, None] * case.direction).reshape(case.x.shape)
    return -numerics.margin(case.logits_at(end), case.y), torch.full_like(case.loss, 1e-9)


def _b7_attained(case: Case, norm: str) -> tuple[Tensor, Tensor]:
    """The margin at the nearest boundary of the sample's linear piece, which is 0; beside that at the sample."""
    margin = numerics.margin(case.logits, case.y)
    return margin + numerics.margin(case.logits_at(boundary_point(case, norm)), case.y).abs(), margin


def _to_the_boundary(case: Case, norm: str) -> Tensor:
    finite = margin_distance(case, numerics.dual_exponent(Threat(norm, 1.0).norm)).isfinite()
    return finite & affine_between(case, case.x, boundary_point(case, norm))


def _reach(norm: str) -> Condition:
    return Condition(
        f"one linear region up to the nearest boundary in {norm}", partial(_to_the_boundary, norm=norm)
    )


FEW_LOGITS = Condition(
    "no logit changes by more than 2 from x to x + d",
    lambda c: (c.logits_at(c.end) - c.logits).abs().amax(1) <= 2,
)

CLAIMS = (
    Claim(
        "B6",
        "the loss within a region",
        r"L(x+d) \le L(x) + \|d\|_2 \|g\|_2 + \tfrac14 \|d\|_2^2 \|J\|_2^2",
        OURS,
        "derived",
        "<=",
        _b6,
        (AFFINE_HERE, SAME_REGION),
        meaning="Input gradient and Jacobian together bound what any attack within the region can do.",
    ),
    Claim(
        "B6b",
        "and with the curvature itself, in other norms",
        r"L(x+d) \le L(x) + \|d\|_\infty \|g\|_1 + \tfrac12 \|d\|_2^2\, \sup_t \lambda_{\max}(H(x+td))",
        OURS,
        "derived",
        "<=",
        _b6_curvature,
        (AFFINE_HERE, SAME_REGION, FEW_LOGITS),
        meaning="What a penalty on the gradient's l1 norm leaves to an attack under linf is curvature.",
    ),
    Claim(
        "B7",
        "the prediction is safe up to a distance",
        r"\|d\|_2 \le \min_{k \ne y} \frac{z_y - z_k}{\|J_y - J_k\|_2} \;\Rightarrow\; F(x+d) = y",
        "the linear case of Hein & Andriushchenko 2017, Theorem 2.1 (recalled)",
        "derived",
        "<=",
        _b7,
        (AFFINE_HERE, SAME_REGION, CORRECT),
        meaning="Exact inside the region: a certificate for as far as the region reaches.",
    ),
    Claim(
        "B7b",
        "and no farther",
        r"\|d\|_2 = \min_{k \ne y} \frac{z_y - z_k}{\|J_y - J_k\|_2},\ d \text{ steepest} "
        r"\Rightarrow z_y = \max_{k \ne y} z_k",
        OURS,
        "derived",
        "=",
        partial(_b7_attained, norm="l2"),
        (
            AFFINE_HERE,
            CORRECT,
            _reach("l2"),
        ),
        meaning="The distance is exact where the boundary lies in the sample's own region.",
    ),
    Claim(
        "B7c",
        "and under linf",
        r"\|d\|_\infty = \min_{k \ne y} \frac{z_y - z_k}{\|J_y - J_k\|_1},\ d \text{ steepest} "
        r"\Rightarrow z_y = \max_{k \ne y} z_k",
        OURS,
        "derived",
        "=",
        partial(_b7_attained, norm="linf"),
        (
            AFFINE_HERE,
            CORRECT,
            _reach("linf"),
        ),
    ),
    Claim(
        "B7d",
        "and under l1",
        r"\|d\|_1 = \min_{k \ne y} \frac{z_y - z_k}{\|J_y - J_k\|_\infty},\ d \text{ steepest} "
        r"\Rightarrow z_y = \max_{k \ne y} z_k",
        OURS,
        "derived",
        "=",
        partial(_b7_attained, norm="l1"),
        (
            AFFINE_HERE,
            CORRECT,
            _reach("l1"),
        ),
    ),
)
