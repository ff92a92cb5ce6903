"""Which of the functionals bounds which, at a sample (B1 to B5)."""

from __future__ import annotations

from functools import partial

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
    pairwise,
    residual_p,
    spectral,
    squared,
    trace,
    wrong,
)
from robustreg.penalties import AnchoredCrossLipschitz

INFLATION = 10.0


def _b1_low(case: Case) -> tuple[Tensor, Tensor]:
    classes = case.logits.shape[1]
    return classes / (classes - 1) * wrong(case).square(), squared(residual_p(case))


def _b1_high(case: Case) -> tuple[Tensor, Tensor]:
    return squared(residual_p(case)), 2 * wrong(case).square()


def _b1_one(case: Case) -> tuple[Tensor, Tensor]:
    return residual_p(case).abs().sum(1), 2 * wrong(case)


def _b1_split(case: Case) -> tuple[Tensor, Tensor]:
    others = squared(case.p.scatter(1, case.y[:, None], 0.0))
    return squared(residual_p(case)), wrong(case).square() + others


def _b2(case: Case) -> tuple[Tensor, Tensor]:
    return igr(case), spectral(case.centred) * squared(residual_p(case)).sqrt()


def _b2_cl(case: Case) -> tuple[Tensor, Tensor]:
    return igr(case), (case.logits.shape[1] * cross_lipschitz_term(case)).sqrt() * wrong(case)


def _b2_jacobian(case: Case) -> tuple[Tensor, Tensor]:
    return igr(case), 2.0**0.5 * wrong(case) * (2 * jacobian_term(case)).sqrt()


def _b2_frobenius(case: Case) -> tuple[Tensor, Tensor]:
    r = squared(residual_p(case)).sqrt()
    return spectral(case.centred) * r, _root_of_cl(case) * r


def _b2_last(case: Case) -> tuple[Tensor, Tensor]:
    root = _root_of_cl(case)
    return root * squared(residual_p(case)).sqrt(), 2.0**0.5 * root * wrong(case)


def _root_of_cl(case: Case) -> Tensor:
    """``sqrt(C / 2 CL)``, which is ``||J_c||_F``."""
    return (case.logits.shape[1] / 2 * cross_lipschitz_term(case)).sqrt()


def _b2_inflated(case: Case) -> tuple[Tensor, Tensor]:
    """The gradient of the loss of ``t z`` by autograd, against what is left of the label's missing probability."""
    left = case.gradient_of(
        lambda z: torch.nn.functional.cross_entropy(INFLATION * z, case.y, reduction="none"), case.x
    )
    classes, margin = case.logits.shape[1], numerics.margin(case.logits, case.y)
    missing = ((classes - 1) * torch.exp(-INFLATION * margin)).clamp(max=1.0)
    farthest = differences(case).norm(dim=2).amax(1)
    return left.norm(dim=1), INFLATION * missing * farthest


def _b3(case: Case, q: float = 1.0) -> tuple[Tensor, Tensor]:
    steepest = torch.linalg.vector_norm(differences(case), ord=q, dim=2).amax(1)
    return torch.linalg.vector_norm(case.gradient, ord=q, dim=1), wrong(case) * steepest


def _b3_squared(case: Case) -> tuple[Tensor, Tensor]:
    anchored = case.term(AnchoredCrossLipschitz(weights="probability", mode="eval"))
    return squared(case.gradient), wrong(case) * anchored


def _b4(case: Case) -> tuple[Tensor, Tensor]:
    return squared(case.gradient) * case.p_y, wrong(case) * trace(case)


def _b4_eigenvalue(case: Case) -> tuple[Tensor, Tensor]:
    return case.p_y * squared(case.gradient), largest(case.hessian)


def _b4_trace(case: Case) -> tuple[Tensor, Tensor]:
    return largest(case.hessian), trace(case)


def _b5(case: Case) -> tuple[Tensor, Tensor]:
    return largest(case.hessian), 0.5 * spectral(case.centred).square()


def _b5_jacobian(case: Case) -> tuple[Tensor, Tensor]:
    return largest(case.hessian), jacobian_term(case)


def _b5_pairs(case: Case) -> tuple[Tensor, Tensor]:
    others = 1 - torch.eye(case.p.shape[1], dtype=torch.float64, device=case.x.device)
    impure = (case.p * (case.p @ others)).sum(1)  # 1 - ||p||^2 without cancellation
    return trace(case), 0.5 * pairwise(case).amax((1, 2)) * impure


def _b4_loewner(case: Case) -> tuple[Tensor, Tensor]:
    own = case.p_y[:, None, None] * case.gradient[:, :, None] * case.gradient[:, None]
    return -torch.linalg.eigvalsh(case.hessian - own)[:, 0], 1e-9 * trace(case)


def _b5_softmax(case: Case) -> tuple[Tensor, Tensor]:
    s = torch.diag_embed(case.p) - case.p[:, :, None] * case.p[:, None]
    return largest(s), (2 * case.p * (1 - case.p)).amax(1)


def _b5_half(case: Case) -> tuple[Tensor, Tensor]:
    most = (2 * case.p * (1 - case.p)).amax(1)
    return most, torch.full_like(most, 0.5)


def _b5_norms(case: Case) -> tuple[Tensor, Tensor]:
    return 0.5 * spectral(case.centred).square(), jacobian_term(case)


def _b5_low(case: Case) -> tuple[Tensor, Tensor]:
    classes = case.logits.shape[1]
    return 0.5 * case.p.amin(1).square() * classes**2 * cross_lipschitz_term(case), trace(case)


def _b5_cl(case: Case) -> tuple[Tensor, Tensor]:
    classes = case.logits.shape[1]
    return trace(case), 0.5 * case.p.amax(1).square() * classes**2 * cross_lipschitz_term(case)


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
        "B1d",
        "and what it is made of",
        r"\|p - e_y\|_2^2 = (1-p_y)^2 + \sum_{k \ne y} p_k^2",
        OURS,
        "derived",
        "=",
        _b1_split,
    ),
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
        "B2d",
        "between them, by cross-Lipschitz",
        r"\|J_c\|_2\, \|p - e_y\|_2 \le \sqrt{\tfrac{C}{2}\, \mathrm{CL}}\, \|p - e_y\|_2",
        OURS,
        "derived",
        "<=",
        _b2_frobenius,
    ),
    Claim(
        "B2e",
        "and by the label's missing probability",
        r"\sqrt{\tfrac{C}{2}\, \mathrm{CL}}\, \|p - e_y\|_2 \le \sqrt{C \cdot \mathrm{CL}}\, (1 - p_y)",
        OURS,
        "derived",
        "<=",
        _b2_last,
    ),
    Claim(
        "B2f",
        "the gradient can be made small by confidence alone",
        r"\|\nabla_x L(tz)\|_2 \le t\, (C-1)\, e^{-tm} \max_k \|J_k - J_y\|_2,\quad m = z_y - \max_{k \ne y} z_k",
        OURS,
        "derived",
        "<=",
        _b2_inflated,
        meaning="Logits ten times larger, on a right prediction: no margin grows in the input, but the penalty goes.",
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
        "B3c",
        "for l2 attacks",
        r"\|g\|_2 \le (1-p_y) \max_{k \ne y} \|J_k - J_y\|_2",
        OURS,
        "derived",
        "<=",
        partial(_b3, q=2.0),
    ),
    Claim(
        "B3d",
        "for l1 attacks",
        r"\|g\|_\infty \le (1-p_y) \max_{k \ne y} \|J_k - J_y\|_\infty",
        OURS,
        "derived",
        "<=",
        partial(_b3, q=float("inf")),
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
        "B4d",
        "and no direction has more than all together",
        r"\lambda_{\max}(H) \le \mathrm{tr}\, H",
        OURS,
        "derived",
        "<=",
        _b4_trace,
        meaning="Equal for two classes (T4).",
    ),
    Claim(
        "B5s",
        "softmax cannot bend more than one half",
        r"\lambda_{\max}(\mathrm{diag}(p) - p p^\top) \le \max_k 2 p_k (1 - p_k)",
        OURS,
        "derived",
        "<=",
        _b5_softmax,
    ),
    Claim(
        "B5t",
        "and that is at most one half, for two classes that share all",
        r"\max_k 2 p_k (1 - p_k) \le \tfrac12",
        OURS,
        "derived",
        "<=",
        _b5_half,
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
        "B5f",
        "as centring and the largest direction only take away",
        r"\tfrac12 \|J_c\|_2^2 \le \tfrac12 \|J\|_F^2",
        OURS,
        "derived",
        "<=",
        _b5_norms,
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
)
