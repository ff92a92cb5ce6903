"""Input-gradient, Jacobian, curvature and cross-Lipschitz regularisation, and how they are connected.

The four functionals are those of Guo, Chen, Chen and Zhang, "On Connections between Regularizations for Improving DNN
Robustness", TPAMI 2020 (arXiv 2007.02209), on networks with rectified linear units. Only the paper's abstract and
first page could be read when this was written: the statements below are our own derivations for its functionals and
its class of networks, and none is attributed to a numbered theorem of the paper.

Where the library has a term for a functional, the term itself is one of the sides.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.connections.case import Case
from robustreg.connections.claim import Claim, Condition
from robustreg.connections.operators import Hessian
from robustreg.connections.regions import (
    AFFINE_HERE,
    BIAS_FREE,
    BINARY,
    CORRECT,
    SAME_REGION,
    SMOOTH,
    affine_between,
)
from robustreg.penalties import (
    AnchoredCrossLipschitz,
    Consistency,
    CrossLipschitz,
    Curvature,
    FisherTrace,
    GradientNorm,
    JacobianNorm,
)
from robustreg.threat import Threat

OURS = "derived for the functionals of Guo et al. 2020 (arXiv 2007.02209)"
L2 = Threat("l2", 1.0, bounds=None)


# -- quantities -------------------------------------------------------------------------------------------------------


def squared(v: Tensor) -> Tensor:
    """The sum of squares of each sample, ``[B]``."""
    return v.flatten(1).square().sum(1)


def residual_p(case: Case) -> Tensor:
    """``p - e_y``, ``[B, C]``."""
    one_hot = torch.zeros_like(case.p)
    one_hot.scatter_(1, case.y[:, None], 1.0)
    return case.p - one_hot


def differences(case: Case) -> Tensor:
    """``J_k - J_y`` ``[B, C, D]``."""
    return case.jacobian - case.of_label(case.jacobian)[:, None]


def pairwise(case: Case) -> Tensor:
    """``||J_l - J_m||^2`` ``[B, C, C]``."""
    gaps = case.jacobian[:, :, None] - case.jacobian[:, None]
    return gaps.square().sum(3)


def trace(case: Case) -> Tensor:
    """``tr H`` ``[B]``."""
    return torch.einsum("bdd->b", case.hessian)


def largest(matrices: Tensor) -> Tensor:
    """The largest eigenvalue of symmetric matrices ``[B, D, D]``."""
    values: Tensor = torch.linalg.eigvalsh(matrices)
    return values[:, -1]


def spectral(matrices: Tensor) -> Tensor:
    """The largest singular value of matrices ``[B, C, D]``."""
    norms: Tensor = torch.linalg.matrix_norm(matrices, ord=2)
    return norms


def igr(case: Case) -> Tensor:
    """``||g||_2`` by the library's term."""
    return case.term(GradientNorm(L2, mode="eval"))


def jacobian_term(case: Case) -> Tensor:
    """``1/2 ||J||_F^2`` by the library's term."""
    return case.term(JacobianNorm(mode="eval"))


def cross_lipschitz_term(case: Case) -> Tensor:
    """``1/C^2 sum_lm ||J_l - J_m||^2`` by the library's term."""
    return case.term(CrossLipschitz(mode="eval"))


def fisher_term(case: Case) -> Tensor:
    """``sum_k p_k ||grad(-log p_k)||^2`` by the library's term, over all labels."""
    return case.term(FisherTrace(samples=None, mode="eval"))


def hessian_by_autograd(case: Case) -> Tensor:
    """The loss's Hessian ``[B, D, D]``, differentiated twice."""
    u = case.x.detach().requires_grad_()
    with torch.enable_grad():
        loss = torch.nn.functional.cross_entropy(case.logits_at(u), case.y, reduction="none")
        (g,) = torch.autograd.grad(loss.sum(), u, create_graph=True)
        g = g.flatten(1)
        rows = [
            torch.autograd.grad(column.sum(), u, retain_graph=True)[0].flatten(1) for column in g.unbind(1)
        ]
    return torch.stack(rows, 1)


def gradient_change(case: Case) -> Tensor:
    """``grad L(x + d) - grad L(x)`` ``[B, D]``."""
    return case.loss_gradient_at(case.end) - case.gradient


# -- identities -------------------------------------------------------------------------------------------------------


def _i1(case: Case) -> tuple[Tensor, Tensor]:
    by_residual = torch.einsum("bk,bkd->bd", residual_p(case), case.centred)
    return igr(case), by_residual.norm(dim=1)


def _i1_components(case: Case) -> tuple[Tensor, Tensor]:
    anchored = torch.einsum("bk,bkd->bd", case.p, differences(case))
    return (case.gradient - anchored).norm(dim=1) + case.gradient.norm(dim=1), case.gradient.norm(dim=1)


def _i2(case: Case) -> tuple[Tensor, Tensor]:
    return cross_lipschitz_term(case), 2 / case.logits.shape[1] * squared(case.centred)


def _i2_split(case: Case) -> tuple[Tensor, Tensor]:
    classes = case.logits.shape[1]
    common = squared(case.jacobian.sum(1))
    return jacobian_term(case), classes / 4 * cross_lipschitz_term(case) + common / (2 * classes)


def _i2_bound(case: Case) -> tuple[Tensor, Tensor]:
    return cross_lipschitz_term(case), 4 / case.logits.shape[1] * jacobian_term(case)


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


def _i6(case: Case) -> tuple[Tensor, Tensor]:
    return trace(case), 0.5 * torch.einsum("bl,bm,blm->b", case.p, case.p, pairwise(case))


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


def _i9(case: Case) -> tuple[Tensor, Tensor]:
    moved = torch.einsum("bkd,bk->bd", case.jacobian, case.logits_at(case.end).softmax(1) - case.p)
    change = gradient_change(case).norm(dim=1)
    return (gradient_change(case) - moved).norm(dim=1) + change, change


def _i9_order(case: Case) -> tuple[Tensor, Tensor]:
    straight = torch.einsum("bde,be->bd", case.hessian, case.displacement)
    return gradient_change(case).norm(dim=1), straight.norm(dim=1)


def _bent(case: Case) -> Tensor:
    """``grad_x^2 L d`` ``[B, D]`` by differentiating twice, on any network."""
    return Hessian(case).matvec(case.displacement)


def _i9_smooth(case: Case) -> tuple[Tensor, Tensor]:
    return gradient_change(case).norm(dim=1), _bent(case).norm(dim=1)


def _i9_beyond(case: Case) -> tuple[Tensor, Tensor]:
    moved = torch.einsum("bkd,bk->bd", case.jacobian, case.logits_at(case.end).softmax(1) - case.p)
    left_over = (gradient_change(case) - moved).norm(dim=1)
    return left_over, torch.zeros_like(left_over)


def _i10(case: Case) -> tuple[Tensor, Tensor]:
    return (case.flat * case.gradient).sum(1), (residual_p(case) * case.logits).sum(1)


def _i11(case: Case) -> tuple[Tensor, Tensor]:
    return _gap(case), case.term(Consistency(case.displaced, mode="eval"))


def _gap(case: Case) -> Tensor:
    """``L(x + d) - L(x) - d . g``."""
    return case.loss_at(case.end) - case.loss - (case.displacement * case.gradient).sum(1)


def _i11_smooth(case: Case) -> tuple[Tensor, Tensor]:
    return _gap(case), 0.5 * (case.displacement * _bent(case)).sum(1)


def _i11_beyond(case: Case) -> tuple[Tensor, Tensor]:
    return _gap(case), numerics.kl(case.logits, case.logits_at(case.end))


def _i11_order(case: Case) -> tuple[Tensor, Tensor]:
    half = 0.5 * torch.einsum("bd,bde,be->b", case.displacement, case.hessian, case.displacement)
    return numerics.kl(case.logits, case.logits_at(case.end)), half


IDENTITIES = (
    Claim(
        "I1",
        "the gradient is made of logit differences",
        r"\nabla_x L = J^\top (p - e_y) = J_c^\top (p - e_y)",
        OURS,
        "derived",
        "=",
        _i1,
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
        meaning="Inside a linear region the loss is convex in the input.",
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
        "I9",
        "the gradient's change along a segment",
        r"\nabla L(x+d) - \nabla L(x) = J^\top (p(x+d) - p(x))",
        OURS,
        "derived",
        "=",
        _i9,
        (AFFINE_HERE, SAME_REGION),
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
        "I11",
        "linearity gap = KL divergence",
        r"L(x+d) - L(x) - d \cdot \nabla L(x) = \mathrm{KL}(p(x) \,\|\, p(x+d))",
        OURS,
        "derived",
        "=",
        _i11,
        (AFFINE_HERE, SAME_REGION),
        tolerance=1e-6,
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


# -- inequalities -----------------------------------------------------------------------------------------------------


def _wrong(case: Case) -> Tensor:
    """``1 - p_y``, without cancellation."""
    return -torch.expm1(-case.loss)


def _b1_low(case: Case) -> tuple[Tensor, Tensor]:
    classes = case.logits.shape[1]
    return classes / (classes - 1) * _wrong(case).square(), squared(residual_p(case))


def _b1_high(case: Case) -> tuple[Tensor, Tensor]:
    return squared(residual_p(case)), 2 * _wrong(case).square()


def _b1_one(case: Case) -> tuple[Tensor, Tensor]:
    return residual_p(case).abs().sum(1), 2 * _wrong(case)


def _b2(case: Case) -> tuple[Tensor, Tensor]:
    return igr(case), spectral(case.centred) * squared(residual_p(case)).sqrt()


def _b2_cl(case: Case) -> tuple[Tensor, Tensor]:
    return igr(case), (case.logits.shape[1] * cross_lipschitz_term(case)).sqrt() * _wrong(case)


def _b2_jacobian(case: Case) -> tuple[Tensor, Tensor]:
    return igr(case), 2.0**0.5 * _wrong(case) * (2 * jacobian_term(case)).sqrt()


def _b3(case: Case) -> tuple[Tensor, Tensor]:
    steepest = differences(case).abs().sum(2).amax(1)
    return case.gradient.abs().sum(1), _wrong(case) * steepest


def _b3_squared(case: Case) -> tuple[Tensor, Tensor]:
    anchored = case.term(AnchoredCrossLipschitz(weights="probability", mode="eval"))
    return squared(case.gradient), _wrong(case) * anchored


def _b4(case: Case) -> tuple[Tensor, Tensor]:
    return squared(case.gradient) * case.p_y, _wrong(case) * trace(case)


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


def margin_distance(case: Case, dual: float = 2.0) -> Tensor:
    """``min_k (z_y - z_k) / ||J_y - J_k||_q`` ``[B]``: where a linear network changes its mind; 0 if it is wrong."""
    gaps = case.of_label(case.logits)[:, None] - case.logits
    slopes = torch.linalg.vector_norm(differences(case), ord=dual, dim=2)
    ratio = torch.where(slopes > 0, gaps / torch.where(slopes > 0, slopes, 1.0), torch.inf)
    ratio.scatter_(1, case.y[:, None], torch.inf)
    return ratio.amin(1).clamp(min=0)


def _b7(case: Case) -> tuple[Tensor, Tensor]:
    """Along the case's direction the margin stays positive up to the distance, as far as the region reaches."""
    step = torch.minimum(margin_distance(case), torch.full_like(case.loss, case.radius))
    end = case.x + (step[:, None] * case.direction).reshape(case.x.shape)
    return -numerics.margin(case.logits_at(end), case.y), torch.full_like(case.loss, 1e-9)


INEQUALITIES = (
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


# -- two classes ------------------------------------------------------------------------------------------------------


def weight(case: Case) -> Tensor:
    """``w = J_0 - J_1`` ``[B, D]``."""
    return case.jacobian[:, 0] - case.jacobian[:, 1]


def _bin_igr(case: Case) -> tuple[Tensor, Tensor]:
    return igr(case), _wrong(case) * weight(case).norm(dim=1)


def _bin_cl(case: Case) -> tuple[Tensor, Tensor]:
    return cross_lipschitz_term(case), 0.5 * squared(weight(case))


def _bin_jacobian(case: Case) -> tuple[Tensor, Tensor]:
    both = squared(case.jacobian[:, 0] + case.jacobian[:, 1])
    return jacobian_term(case), 0.25 * squared(weight(case)) + 0.25 * both


def _bin_hessian(case: Case) -> tuple[Tensor, Tensor]:
    return largest(case.hessian), case.p_y * _wrong(case) * squared(weight(case))


def _bin_change(case: Case) -> tuple[Tensor, Tensor]:
    p = case.of_label(case.logits_at(case.end).softmax(1))
    return gradient_change(case).norm(dim=1), (p - case.p_y).abs() * weight(case).norm(dim=1)


def _bin_ratio(case: Case) -> tuple[Tensor, Tensor]:
    return squared(case.gradient) * case.p_y, _wrong(case) * trace(case)


def _bin_tight(case: Case) -> tuple[Tensor, Tensor]:
    return igr(case), (2 * cross_lipschitz_term(case)).sqrt() * _wrong(case)


def _bin_curvature_ratio(case: Case) -> tuple[Tensor, Tensor]:
    return trace(case), 2 * case.p_y * _wrong(case) * cross_lipschitz_term(case)


def _steepest_end(case: Case, norm: str) -> Tensor:
    threat = Threat(norm, case.radius, bounds=None)
    return case.x + threat.steepest(case.gradient.reshape(case.x.shape))


def _bin_worst(case: Case, norm: str = "l2", dual: float = 2.0) -> tuple[Tensor, Tensor]:
    """The steepest step is the worst case of an affine binary network, and the loss there has a closed form."""
    margin = numerics.margin(case.logits, case.y)
    slope = torch.linalg.vector_norm(weight(case), ord=dual, dim=1)
    return case.loss_at(_steepest_end(case, norm)), torch.nn.functional.softplus(
        -margin + case.radius * slope
    )


def _bin_cure(case: Case) -> tuple[Tensor, Tensor]:
    """CURE's step of l2 length h along the sign of the gradient, as the library's term takes it."""
    change = case.term(Curvature(case.radius, squared=False, mode="eval"))
    w, size = weight(case), case.flat.shape[1] ** 0.5
    return change, case.radius * case.p_y * _wrong(case) * w.abs().sum(1) * w.norm(dim=1) / size


STEEPEST_REGION = Condition(
    "one linear region up to the steepest step",
    lambda c: affine_between(c, c.x, _steepest_end(c, "l2")),
)
SIGN_REGION = Condition(
    "one linear region up to the step along the gradient's sign",
    lambda c: affine_between(c, c.x, _steepest_end(c, "linf")),
)

BINARY_CASE = (
    Claim(
        "T1",
        "two classes: the input gradient",
        r"\|g\|_2 = (1-p_y) \|w\|_2,\quad w = J_0 - J_1",
        OURS,
        "derived",
        "=",
        _bin_igr,
        (BINARY,),
        meaning="Fades on samples that are confidently right.",
    ),
    Claim(
        "T2",
        "two classes: cross-Lipschitz",
        r"\mathrm{CL} = \tfrac12 \|w\|^2",
        OURS,
        "derived",
        "=",
        _bin_cl,
        (BINARY,),
        meaning="Never fades.",
    ),
    Claim(
        "T3",
        "two classes: the Jacobian",
        r"\tfrac12\|J\|_F^2 = \tfrac14\|w\|^2 + \tfrac14 \|J_0+J_1\|^2",
        OURS,
        "derived",
        "=",
        _bin_jacobian,
        (BINARY,),
    ),
    Claim(
        "T4",
        "two classes: curvature",
        r"\lambda_{\max}(H) = \mathrm{tr}\,H = p_y (1-p_y) \|w\|^2",
        OURS,
        "derived",
        "=",
        _bin_hessian,
        (BINARY,),
        meaning="Fades on samples that are confidently right and confidently wrong.",
    ),
    Claim(
        "T5",
        "two classes: what CURE sees",
        r"\|\nabla L(x+d) - \nabla L(x)\| = |p_y(x+d) - p_y(x)|\, \|w\|",
        OURS,
        "derived",
        "=",
        _bin_change,
        (BINARY, AFFINE_HERE, SAME_REGION),
        tolerance=1e-7,
    ),
    Claim(
        "T6",
        "two classes: gradient against curvature",
        r"p_y\|g\|^2 = (1-p_y)\,\mathrm{tr}\,H",
        OURS,
        "derived",
        "=",
        _bin_ratio,
        (BINARY,),
    ),
    Claim(
        "T7",
        "two classes: adversarial training in closed form",
        r"\max_{\|d\|_2 \le \epsilon} L(x+d) = \log(1 + e^{-m + \epsilon \|w\|_2})",
        OURS,
        "derived",
        "=",
        _bin_worst,
        (BINARY, AFFINE_HERE, STEEPEST_REGION),
        tolerance=1e-7,
        meaning="To first order in the radius, adversarial training is input-gradient regularisation.",
    ),
    Claim(
        "T7b",
        "and under linf",
        r"\max_{\|d\|_\infty \le \epsilon} L(x+d) = \log(1 + e^{-m + \epsilon \|w\|_1})",
        OURS,
        "derived",
        "=",
        partial(_bin_worst, norm="linf", dual=1.0),
        (BINARY, AFFINE_HERE, SIGN_REGION),
        tolerance=1e-7,
        meaning="FGSM is exact, and the dual norm of the logits' difference is all that matters.",
    ),
    Claim(
        "T8",
        "two classes: bound B2b is attained",
        r"\|g\|_2 = \sqrt{2\,\mathrm{CL}}\,(1-p_y)",
        OURS,
        "derived",
        "=",
        _bin_tight,
        (BINARY,),
        meaning="Input-gradient regularisation is cross-Lipschitz regularisation times a factor of confidence.",
    ),
    Claim(
        "T9",
        "two classes: curvature against cross-Lipschitz",
        r"\mathrm{tr}\,H = 2 p_y (1-p_y)\,\mathrm{CL}",
        OURS,
        "derived",
        "=",
        _bin_curvature_ratio,
        (BINARY,),
        meaning="So is curvature, with a factor that fades on both sides.",
    ),
    Claim(
        "T10",
        "two classes: CURE in closed form",
        r"\|\nabla L(x+hv) - \nabla L(x)\| = h\,p_y(1-p_y)\,\|w\|_1 \|w\|_2 / \sqrt{D} + O(h^2),\ "
        r"v = \mathrm{sign}(g)/\sqrt{D}",
        OURS,
        "derived",
        "~",
        _bin_cure,
        (BINARY, AFFINE_HERE, SIGN_REGION),
        order=2.0,
        meaning="The sign's direction brings the l1 norm in, which is what linf attacks see.",
    ),
)

CLAIMS = IDENTITIES + INEQUALITIES + BINARY_CASE
