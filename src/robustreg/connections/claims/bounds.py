"""Which of the functionals bounds which (B1 to B7)."""

from __future__ import annotations

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.connections.case import Case
from robustreg.connections.claim import Claim
from robustreg.connections.quantities import (
    OURS,
    cross_lipschitz_term,
    differences,
    igr,
    jacobian_term,
    largest,
    margin_distance,
    pairwise,
    residual_p,
    spectral,
    squared,
    trace,
    wrong,
)
from robustreg.connections.regions import AFFINE_HERE, CORRECT, SAME_REGION
from robustreg.penalties import AnchoredCrossLipschitz


def _b1_low(case: Case) -> tuple[Tensor, Tensor]:
    classes = case.logits.shape[1]
    return classes / (classes - 1) * wrong(case).square(), squared(residual_p(case))


def _b1_high(case: Case) -> tuple[Tensor, Tensor]:
    return squared(residual_p(case)), 2 * wrong(case).square()


def _b1_one(case: Case) -> tuple[Tensor, Tensor]:
    return residual_p(case).abs().sum(1), 2 * wrong(case)


def _b2(case: Case) -> tuple[Tensor, Tensor]:
    return igr(case), spectral(case.centred) * squared(residual_p(case)).sqrt()


def _b2_cl(case: Case) -> tuple[Tensor, Tensor]:
    return igr(case), (case.logits.shape[1] * cross_lipschitz_term(case)).sqrt() * wrong(case)


def _b2_jacobian(case: Case) -> tuple[Tensor, Tensor]:
    return igr(case), 2.0**0.5 * wrong(case) * (2 * jacobian_term(case)).sqrt()


def _b3(case: Case) -> tuple[Tensor, Tensor]:
    steepest = differences(case).abs().sum(2).amax(1)
    return case.gradient.abs().sum(1), wrong(case) * steepest


def _b3_squared(case: Case) -> tuple[Tensor, Tensor]:
    anchored = case.term(AnchoredCrossLipschitz(weights="probability", mode="eval"))
    return squared(case.gradient), wrong(case) * anchored


def _b4(case: Case) -> tuple[Tensor, Tensor]:
    return squared(case.gradient) * case.p_y, wrong(case) * trace(case)


def _b4_eigenvalue(case: Case) -> tuple[Tensor, Tensor]:
    return case.p_y * squared(case.gradient), largest(case.hessian)


def _b5(case: Case) -> tuple[Tensor, Tensor]:
    return largest(case.hessian), 0.5 * spectral(case.centred).square()


def _b5_jacobian(case: Case) -> tuple[Tensor, Tensor]:
    return largest(case.hessian), jacobian_term(case)


def _b5_pairs(case: Case) -> tuple[Tensor, Tensor]:
    return trace(case), 0.5 * pairwise(case).amax((1, 2)) * (1 - squared(case.p))


def _b4_loewner(case: Case) -> tuple[Tensor, Tensor]:
    own = case.p_y[:, None, None] * case.gradient[:, :, None] * case.gradient[:, None]
    return -torch.linalg.eigvalsh(case.hessian - own)[:, 0], 1e-9 * trace(case)


def _b5_softmax(case: Case) -> tuple[Tensor, Tensor]:
    s = torch.diag_embed(case.p) - case.p[:, :, None] * case.p[:, None]
    return largest(s), (2 * case.p * (1 - case.p)).amax(1)


def _b5_low(case: Case) -> tuple[Tensor, Tensor]:
    classes = case.logits.shape[1]
    return 0.5 * case.p.amin(1).square() * classes**2 * cross_lipschitz_term(case), trace(case)


def _b5_cl(case: Case) -> tuple[Tensor, Tensor]:
    classes = case.logits.shape[1]
    return trace(case), 0.5 * case.p.amax(1).square() * classes**2 * cross_lipschitz_term(case)


def _b6(case: Case) -> tuple[Tensor, Tensor]:
    length = case.displacement.norm(dim=1)
    bound = (
        case.loss + length * case.gradient.norm(dim=1) + 0.25 * (length * spectral(case.jacobian)).square()
    )
    return case.loss_at(case.end), bound


def _b7(case: Case) -> tuple[Tensor, Tensor]:
    """Along the case's direction the margin stays positive up to the distance, as far as the region reaches."""
    step = torch.minimum(margin_distance(case), torch.full_like(case.loss, case.radius))
    end = case.x + (step[:, None] * case.direction).reshape(case.x.shape)
    return -numerics.margin(case.logits_at(end), case.y), torch.full_like(case.loss, 1e-9)


CLAIMS = (
    Claim(
        "B1",
        "how wrong a prediction is, from below",
        r"\tfrac{C}{C-1} (1-p_y)^2 \le \|p - e_y\|_2^2",
        OURS,
        "derived",
        "<=",
        _b1_low,
        meaning="The factor that probabilities bring into the input gradient is the label's missing probability.",
    ),
    Claim(
        "B1b",
        "and from above",
        r"\|p - e_y\|_2^2 \le 2 (1-p_y)^2",
        OURS,
        "derived",
        "<=",
        _b1_high,
    ),
    Claim("B1c", "in the other norm, exactly", r"\|p - e_y\|_1 = 2 (1-p_y)", OURS, "derived", "=", _b1_one),
    Claim(
        "B2",
        "the gradient is at most the centred Jacobian",
        r"\|g\|_2 \le \|J_c\|_2 \, \|p - e_y\|_2",
        OURS,
        "derived",
        "<=",
        _b2,
        meaning="A small Jacobian makes a small input gradient.",
    ),
    Claim(
        "B2b",
        "and at most cross-Lipschitz",
        r"\|g\|_2 \le \sqrt{C \cdot \mathrm{CL}} \,(1-p_y)",
        OURS,
        "derived",
        "<=",
        _b2_cl,
        meaning="The other way round fails: a confident prediction has a small gradient whatever its Jacobian is.",
    ),
    Claim(
        "B2c",
        "and the Jacobian's norm",
        r"\|g\|_2 \le \sqrt2 (1-p_y) \|J\|_F",
        OURS,
        "derived",
        "<=",
        _b2_jacobian,
    ),
    Claim(
        "B3",
        "for linf attacks",
        r"\|g\|_1 \le (1-p_y) \max_{k \ne y} \|J_k - J_y\|_1",
        OURS,
        "derived",
        "<=",
        _b3,
    ),
    Claim(
        "B3b",
        "label-anchored cross-Lipschitz bounds the gradient",
        r"\|g\|_2^2 \le (1-p_y) \sum_{k \ne y} p_k \|J_k - J_y\|^2",
        OURS,
        "derived",
        "<=",
        _b3_squared,
    ),
    Claim(
        "B4",
        "the gradient is at most curvature",
        r"p_y \|g\|_2^2 \le (1-p_y)\, \mathrm{tr}\, H",
        OURS,
        "derived",
        "<=",
        _b4,
        meaning="Low curvature makes low gradients, unless the label is believed impossible.",
    ),
    Claim(
        "B4b",
        "one direction of it",
        r"p_y \|g\|_2^2 \le \lambda_{\max}(H)",
        OURS,
        "derived",
        "<=",
        _b4_eigenvalue,
    ),
    Claim(
        "B4c",
        "and in every direction",
        r"p_y\, g g^\top \preceq H",
        OURS,
        "derived",
        "<=",
        _b4_loewner,
        meaning="Curvature penalties contain the input gradient's, as far as the label is believed.",
    ),
    Claim(
        "B5s",
        "softmax cannot bend more than one half",
        r"\lambda_{\max}(\mathrm{diag}(p) - p p^\top) \le \max_k 2 p_k (1 - p_k) \le \tfrac12",
        OURS,
        "derived",
        "<=",
        _b5_softmax,
    ),
    Claim(
        "B5",
        "curvature is at most half the squared Jacobian",
        r"\lambda_{\max}(H) \le \tfrac12 \|J_c\|_2^2",
        OURS,
        "derived",
        "<=",
        _b5,
        meaning="Softmax cannot bend more than one half.",
    ),
    Claim(
        "B5b",
        "so at most the Jacobian functional",
        r"\lambda_{\max}(H) \le \tfrac12 \|J\|_F^2",
        OURS,
        "derived",
        "<=",
        _b5_jacobian,
    ),
    Claim(
        "B5c",
        "the trace, by the farthest pair",
        r"\mathrm{tr}\,H \le \tfrac12 \max_{l,m} \|J_l - J_m\|^2 (1 - \|p\|_2^2)",
        OURS,
        "derived",
        "<=",
        _b5_pairs,
    ),
    Claim(
        "B5d",
        "and by cross-Lipschitz",
        r"\mathrm{tr}\,H \le \tfrac12 (\max_k p_k)^2 C^2\, \mathrm{CL}",
        OURS,
        "derived",
        "<=",
        _b5_cl,
    ),
    Claim(
        "B5e",
        "from below too",
        r"\tfrac12 (\min_k p_k)^2 C^2\, \mathrm{CL} \le \mathrm{tr}\,H",
        OURS,
        "derived",
        "<=",
        _b5_low,
        meaning="Where all classes are equally likely, curvature is half of cross-Lipschitz, exactly.",
    ),
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
)
