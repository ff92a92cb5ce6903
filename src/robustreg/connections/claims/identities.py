"""Input gradient, Jacobian, curvature and cross-Lipschitz at a sample: what they are made of, exactly (I1 to I8)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from robustreg.connections.case import Case
from robustreg.connections.claim import Claim
from robustreg.connections.quantities import (
    OURS,
    bent,
    cross_lipschitz_term,
    differences,
    entry_by_entry,
    fisher_term,
    gradient_rounding,
    hessian_by_autograd,
    hessian_rounding,
    igr,
    jacobian_term,
    pairwise,
    residual_p,
    squared,
    trace,
)
from robustreg.connections.regions import AFFINE_HERE
from robustreg.penalties import AnchoredCrossLipschitz

SCALE = 3.0


def _i1(case: Case) -> tuple[Tensor, Tensor]:
    r = residual_p(case)
    by_rows, centred = (torch.einsum("bk,bkd->bd", r, rows) for rows in (case.jacobian, case.centred))
    off = squared(case.gradient - centred).sqrt() + squared(by_rows - centred).sqrt()
    return igr(case) + off, squared(centred).sqrt()


def _i1_components(case: Case) -> tuple[Tensor, Tensor]:
    return entry_by_entry(torch.einsum("bk,bkd->bd", case.p, differences(case)), case.gradient)


def _i2(case: Case) -> tuple[Tensor, Tensor]:
    return cross_lipschitz_term(case), 2 / case.logits.shape[1] * squared(case.centred)


def _i2_split(case: Case) -> tuple[Tensor, Tensor]:
    classes = case.logits.shape[1]
    common = squared(case.jacobian.sum(1))
    return jacobian_term(case), classes / 4 * cross_lipschitz_term(case) + common / (2 * classes)


def _i2_bound(case: Case) -> tuple[Tensor, Tensor]:
    return cross_lipschitz_term(case), 4 / case.logits.shape[1] * jacobian_term(case)


def _i2_common(case: Case) -> tuple[Tensor, Tensor]:
    """With one slope, as long as the Jacobian, added to all logits."""
    slope = squared(case.jacobian).sqrt()[:, None] * case.direction
    return cross_lipschitz_term(case.changed(partial(_lifted, slope=slope))), cross_lipschitz_term(case)


def _lifted(z: Tensor, x: Tensor, slope: Tensor) -> Tensor:
    return z + (slope * x.flatten(1)).sum(1, keepdim=True)


def _i2_scaled(case: Case) -> tuple[Tensor, Tensor]:
    scaled = case.changed(lambda z, x: SCALE * z)
    both = cross_lipschitz_term(case) + jacobian_term(case)
    return cross_lipschitz_term(scaled) + jacobian_term(scaled), SCALE**2 * both


def _i3(case: Case) -> tuple[Tensor, Tensor]:
    classes = case.logits.shape[1]
    cheap = 2 * classes * squared(case.jacobian) - 2 * squared(case.jacobian.sum(1))
    return pairwise(case).sum((1, 2)), cheap


def _i4(case: Case) -> tuple[Tensor, Tensor]:
    return fisher_term(case), trace(case)


def _i5(case: Case) -> tuple[Tensor, Tensor]:
    # Relative to the Jacobian: differentiating the softmax of a confident network leaves rounding of that size.
    gap = squared(case.measured(hessian_by_autograd) - case.hessian).sqrt()
    size = squared(case.hessian).sqrt() + 1e-4 * squared(case.jacobian)
    return gap + size, size


def _i5_psd(case: Case) -> tuple[Tensor, Tensor]:
    return -torch.linalg.eigvalsh(case.measured(hessian_by_autograd))[:, 0], 1e-9 * trace(case).abs()


def _i5_label(case: Case) -> tuple[Tensor, Tensor]:
    """Along one direction, the farthest of the other labels' products from the label's own."""
    own = bent(case)
    labels = range(case.logits.shape[1])
    off = torch.stack([squared(_bent_of(case, k) - own).sqrt() for k in labels]).amax(0)
    size = squared(own).sqrt() + 1e-4 * case.radius * squared(case.jacobian)  # see _i5
    return off + size, size


def _bent_of(case: Case, label: int) -> Tensor:
    """``grad_x^2 (-log p_k) d`` ``[B, D]``."""
    other = case.changed(lambda z, x: z)
    other.y = torch.full_like(case.y, label)
    return bent(other)


def _i6(case: Case) -> tuple[Tensor, Tensor]:
    return trace(case), 0.5 * torch.einsum("bl,bm,blm->b", case.p, case.p, pairwise(case))


def _i6_along(case: Case) -> tuple[Tensor, Tensor]:
    v, total = case.direction, torch.zeros_like(case.flat)
    for p_l, row in zip(case.p.unbind(1), case.jacobian.unbind(1), strict=True):
        gaps = case.jacobian - row[:, None]
        total += (
            0.5 * p_l[:, None] * torch.einsum("bm,bmd,bm->bd", case.p, gaps, (gaps @ v[:, :, None])[:, :, 0])
        )
    return entry_by_entry(total, torch.einsum("bde,be->bd", case.hessian, v))


def _i6_level(case: Case) -> tuple[Tensor, Tensor]:
    """With the logits' values at the sample taken off, which leaves their slopes and makes all classes equal."""
    level = case.changed(lambda z, x: z - case.logits)
    return fisher_term(level), 0.5 * cross_lipschitz_term(case)


def _i7(case: Case) -> tuple[Tensor, Tensor]:
    anchored = case.term(AnchoredCrossLipschitz(weights="probability", mode="eval"))
    return trace(case) + squared(case.gradient), anchored


def _i8(case: Case) -> tuple[Tensor, Tensor]:
    classes = case.logits.shape[1]
    eye = torch.eye(classes, dtype=torch.float64, device=case.x.device)
    g = torch.einsum("blk,bkd->bld", case.p[:, None] - eye, case.jacobian)
    weighted = torch.einsum("bl,bld,ble->bde", case.p, g, g)
    size = squared(case.hessian).sqrt()
    return squared(weighted - case.hessian).sqrt() + size, size


def _scores(case: Case) -> Tensor:
    """``g_k``, the input gradient if the label were ``k``, ``[B, C, D]``, each by a backward of its own."""
    return torch.stack(
        [case.gradient_of(partial(_surprise, label=k), case.x) for k in range(case.logits.shape[1])],
        1,
    )


def _surprise(z: Tensor, label: int) -> Tensor:
    return -z.log_softmax(1)[:, label]


def _i8_mean(case: Case) -> tuple[Tensor, Tensor]:
    weighted = case.p[:, :, None] * _scores(case)
    size = weighted.norm(dim=2).sum(1)
    return weighted.sum(1).norm(dim=1) + size, size


CLAIMS = (
    Claim(
        "I1",
        "the gradient is made of logit differences",
        r"\nabla_x L = J^\top (p - e_y) = J_c^\top (p - e_y)",
        OURS,
        "derived",
        "=",
        _i1,
        rounding=gradient_rounding,
        meaning="Input-gradient regularisation sees logit differences only, each weighted by its probability.",
    ),
    Claim(
        "I1b",
        "and of the differences to the label's logit",
        r"\nabla_x L = \sum_{k \ne y} p_k (J_k - J_y)",
        OURS,
        "derived",
        "=",
        _i1_components,
        rounding=gradient_rounding,
        meaning="A class that is believed impossible contributes nothing to the input gradient.",
    ),
    Claim(
        "I2",
        "cross-Lipschitz is the centred Jacobian",
        r"\frac{1}{C^2} \sum_{l,m} \|J_l - J_m\|_2^2 = \frac{2}{C} \|J_c\|_F^2",
        OURS,
        "derived",
        "=",
        _i2,
        meaning="Penalising all pairs of classes is penalising the Jacobian with its mean row taken out.",
    ),
    Claim(
        "I2b",
        "Jacobian = cross-Lipschitz + a direction that softmax does not see",
        r"\tfrac12 \|J\|_F^2 = \tfrac{C}{4}\, \mathrm{CL} + \tfrac{1}{2C} \left\| \sum_k J_k \right\|_2^2",
        OURS,
        "derived",
        "=",
        _i2_split,
        meaning="Jacobian regularisation also fights moving all logits together, which changes no prediction.",
    ),
    Claim(
        "I2c",
        "cross-Lipschitz is at most the Jacobian",
        r"\mathrm{CL} \le \tfrac{4}{C} \cdot \tfrac12 \|J\|_F^2",
        OURS,
        "derived",
        "<=",
        _i2_bound,
        meaning="A small Jacobian norm makes the cross-Lipschitz functional small; not the other way round.",
    ),
    Claim(
        "I2d",
        "a slope that all logits share is not seen",
        r"z_k' = z_k + a \cdot x\ \forall k \Rightarrow \mathrm{CL}(z') = \mathrm{CL}(z)",
        OURS,
        "derived",
        "=",
        _i2_common,
        meaning="Nor does any prediction change by it; the Jacobian's norm does (I2b).",
    ),
    Claim(
        "I2e",
        "both grow with the scale of the logits",
        r"\mathrm{CL}(tz) = t^2\, \mathrm{CL}(z),\quad \|tJ\|_F^2 = t^2 \|J\|_F^2",
        OURS,
        "derived",
        "=",
        _i2_scaled,
        meaning="They cannot be lowered by confidence, as the input gradient can (B2f).",
    ),
    Claim(
        "I3",
        "all pairs from C gradients",
        r"\sum_{l,m} \|J_l - J_m\|^2 = 2C \sum_l \|J_l\|^2 - 2 \left\| \sum_l J_l \right\|^2",
        "Hein & Andriushchenko 2017 for one hidden layer; here for any network",
        "derived",
        "=",
        _i3,
        meaning="The functional costs C backward passes, not C squared.",
    ),
    Claim(
        "I4",
        "sampled labels give the Fisher trace",
        r"\mathbb{E}_{k \sim p} \|\nabla_x (-\log p_k)\|^2 = \mathrm{tr}(J^\top S J)",
        OURS,
        "derived",
        "=",
        _i4,
        meaning="One backward pass with a label drawn from the prediction estimates the curvature without bias.",
    ),
    Claim(
        "I5",
        "the loss's Hessian is of Gauss-Newton form",
        r"\nabla_x^2 L = J^\top S J",
        OURS,
        "derived",
        "=",
        _i5,
        (AFFINE_HERE,),
        meaning="Where the logits are affine, curvature does not depend on the label: no adversarial knowledge in it.",
    ),
    Claim(
        "I5b",
        "and positive semidefinite",
        r"\nabla_x^2 L \succeq 0",
        OURS,
        "derived",
        "<=",
        _i5_psd,
        (AFFINE_HERE,),
        rounding=hessian_rounding,
        meaning="Inside a linear region the loss is convex in the input.",
    ),
    Claim(
        "I5c",
        "and the same whatever the label",
        r"\nabla_x^2 (-\log p_k) = \nabla_x^2 (-\log p_y)\quad \forall k",
        OURS,
        "derived",
        "=",
        _i5_label,
        (AFFINE_HERE,),
        meaning="Seen along one direction. Curvature regularisation needs no labels.",
    ),
    Claim(
        "I6",
        "curvature is cross-Lipschitz, weighted by probabilities",
        r"\mathrm{tr}\, H = \tfrac12 \sum_{l,m} p_l p_m \|J_l - J_m\|^2",
        OURS,
        "derived",
        "=",
        _i6,
        meaning="Curvature regularisation is cross-Lipschitz regularisation that fades where the network is confident.",
    ),
    Claim(
        "I6b",
        "and as a matrix",
        r"H = \tfrac12 \sum_{l,m} p_l p_m (J_l - J_m)(J_l - J_m)^\top",
        OURS,
        "derived",
        "=",
        _i6_along,
        meaning="Seen along one direction.",
    ),
    Claim(
        "I6c",
        "of equal probabilities it is half of cross-Lipschitz",
        r"p_k = \tfrac1C \Rightarrow \mathrm{tr}\, H = \tfrac12 \mathrm{CL}",
        OURS,
        "derived",
        "=",
        _i6_level,
        meaning="On a network with the slopes of yours, and logits of 0 at the sample.",
    ),
    Claim(
        "I7",
        "curvature + squared gradient = label-anchored cross-Lipschitz",
        r"\mathrm{tr}\, H + \|g\|^2 = \sum_{k \ne y} p_k \|J_k - J_y\|^2",
        OURS,
        "derived",
        "=",
        _i7,
        meaning="The two penalties that fade with confidence add up to one that fades on one side only.",
    ),
    Claim(
        "I8",
        "curvature is made of input gradients of all labels",
        r"H = \sum_k p_k\, g_k g_k^\top,\quad g_k = J^\top (p - e_k)",
        OURS,
        "derived",
        "=",
        _i8,
        meaning="Input-gradient regularisation keeps the label's summand of this sum.",
    ),
    Claim(
        "I8b",
        "and these have mean zero",
        r"\sum_k p_k\, g_k = 0",
        OURS,
        "derived",
        "=",
        _i8_mean,
        rounding=gradient_rounding,
        meaning="The expected gradient of a label that is drawn from the prediction vanishes: B4 follows from it.",
    ),
)
