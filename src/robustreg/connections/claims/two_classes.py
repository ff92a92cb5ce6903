"""Two classes: all functionals are one vector under different weights, and attacks have closed forms (T1 to T10)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.connections.case import Case
from robustreg.connections.claim import Claim, Condition
from robustreg.connections.quantities import (
    OURS,
    cross_lipschitz_term,
    entry_by_entry,
    gradient_change,
    gradient_rounding,
    igr,
    jacobian_term,
    largest,
    squared,
    steepest_end,
    trace,
    weight,
    wrong,
)
from robustreg.connections.regions import AFFINE_HERE, BINARY, SAME_REGION, affine_between
from robustreg.penalties import Curvature


def _bin_igr(case: Case) -> tuple[Tensor, Tensor]:
    return igr(case), wrong(case) * weight(case).norm(dim=1)


def _bin_vector(case: Case) -> tuple[Tensor, Tensor]:
    return entry_by_entry(-_sign(case) * wrong(case)[:, None] * weight(case), case.gradient)


def _sign(case: Case) -> Tensor:
    """``s = 1`` where the label is class 0 and -1 where it is class 1, ``[B, 1]``."""
    return (1 - 2 * case.y[:, None]).double()


def _bin_cl(case: Case) -> tuple[Tensor, Tensor]:
    return cross_lipschitz_term(case), 0.5 * squared(weight(case))


def _bin_jacobian(case: Case) -> tuple[Tensor, Tensor]:
    both = squared(case.jacobian[:, 0] + case.jacobian[:, 1])
    return jacobian_term(case), 0.25 * squared(weight(case)) + 0.25 * both


def _bin_hessian(case: Case) -> tuple[Tensor, Tensor]:
    return largest(case.hessian), case.p_y * wrong(case) * squared(weight(case))


def _bin_matrix(case: Case) -> tuple[Tensor, Tensor]:
    w, size = weight(case), case.p_y * wrong(case)
    return entry_by_entry(size[:, None, None] * w[:, :, None] * w[:, None], case.hessian)


def _bin_change(case: Case) -> tuple[Tensor, Tensor]:
    p = case.of_label(case.logits_at(case.end).softmax(1))
    return gradient_change(case).norm(dim=1), (p - case.p_y).abs() * weight(case).norm(dim=1)


def _bin_ratio(case: Case) -> tuple[Tensor, Tensor]:
    return squared(case.gradient) * case.p_y, wrong(case) * trace(case)


def _bin_tight(case: Case) -> tuple[Tensor, Tensor]:
    return igr(case), (2 * cross_lipschitz_term(case)).sqrt() * wrong(case)


def _bin_curvature_ratio(case: Case) -> tuple[Tensor, Tensor]:
    return trace(case), 2 * case.p_y * wrong(case) * cross_lipschitz_term(case)


def _bin_worst(case: Case, norm: str = "l2", dual: float = 2.0) -> tuple[Tensor, Tensor]:
    """The steepest step is the worst case of an affine binary network, and the loss there has a closed form."""
    margin = numerics.margin(case.logits, case.y)
    slope = torch.linalg.vector_norm(weight(case), ord=dual, dim=1)
    return case.loss_at(steepest_end(case, norm)), torch.nn.functional.softplus(-margin + case.radius * slope)


def _bin_worst_to_second_order(case: Case) -> tuple[Tensor, Tensor]:
    first = case.radius * weight(case).norm(dim=1)
    rise = case.loss_at(steepest_end(case, "l2")) - case.loss
    return rise, wrong(case) * first + 0.5 * case.p_y * wrong(case) * first.square()


def _bin_along_gradient(case: Case) -> tuple[Tensor, Tensor]:
    change = case.loss_gradient_at(steepest_end(case, "l2")) - case.gradient
    return change.norm(dim=1), case.radius * case.p_y * wrong(case) * squared(weight(case))


def _bin_along(case: Case) -> tuple[Tensor, Tensor]:
    w = weight(case)
    slope = (w * case.displacement).sum(1).abs()
    return gradient_change(case).norm(dim=1), case.p_y * wrong(case) * slope * w.norm(dim=1)


def _bin_cure(case: Case) -> tuple[Tensor, Tensor]:
    """CURE's step of l2 length h along the sign of the gradient, as the library's term takes it."""
    change = case.term(Curvature(case.radius, squared=False, mode="eval"))
    w, size = weight(case), case.flat.shape[1] ** 0.5
    return change, case.radius * case.p_y * wrong(case) * w.abs().sum(1) * w.norm(dim=1) / size


def _one_logit(z: Tensor, x: Tensor) -> Tensor:
    """``f = z_1 - z_0`` ``[B, 1]``, positive for class 1."""
    return z[:, 1:] - z[:, :1]


def _logistic(f: Tensor, y: Tensor) -> Tensor:
    return torch.nn.functional.binary_cross_entropy_with_logits(f[:, 0], y.to(f.dtype), reduction="none")


def _single_loss(case: Case) -> tuple[Tensor, Tensor]:
    """The logistic loss and its input gradient, next to the cross-entropy's."""
    one = case.changed(_one_logit)
    g = one.gradient_of(lambda f: _logistic(f, case.y), case.x)
    off = squared(g - case.gradient).sqrt() + (_logistic(one.logits, case.y) - case.loss).abs()
    size = case.loss + squared(case.gradient).sqrt()
    return size + off, size


def _single_jacobian(case: Case) -> tuple[Tensor, Tensor]:
    return jacobian_term(case.changed(_one_logit)), cross_lipschitz_term(case)


STEEPEST_REGION = Condition(
    "a gradient in float64, and one linear region up to the steepest step",
    lambda c: (c.gradient != 0).any(1) & affine_between(c, c.x, steepest_end(c, "l2")),
)
SIGN_REGION = Condition(
    "a gradient in float64, and one linear region up to the step along its sign",
    lambda c: (c.gradient != 0).any(1) & affine_between(c, c.x, steepest_end(c, "linf")),
)


CLAIMS = (
    Claim(
        "T1",
        "two classes: the input gradient",
        r"\|g\|_2 = (1-p_y) \|w\|_2,\quad w = J_0 - J_1",
        OURS,
        "derived",
        "=",
        _bin_igr,
        (BINARY,),
        rounding=gradient_rounding,
        meaning="Fades on samples that are confidently right.",
    ),
    Claim(
        "T1b",
        "and as a vector",
        r"g = -s\, (1-p_y)\, w,\quad s = 1 \text{ if } y = 0, \text{ else } -1",
        OURS,
        "derived",
        "=",
        _bin_vector,
        (BINARY,),
        rounding=gradient_rounding,
        meaning="In every norm the gradient is that share of the logits' difference.",
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
        "T4b",
        "of rank one",
        r"H = p_y (1-p_y)\, w w^\top",
        OURS,
        "derived",
        "=",
        _bin_matrix,
        (BINARY,),
        meaning="So the largest eigenvalue, the trace and the Frobenius norm are one number.",
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
        rounding=gradient_rounding,
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
        "T7c",
        "and to second order curvature comes in",
        r"\max_{\|d\|_2 \le \epsilon} L(x+d) - L(x) "
        r"= \epsilon (1-p_y) \|w\|_2 + \tfrac12 \epsilon^2 p_y (1-p_y) \|w\|_2^2 + O(\epsilon^3)",
        OURS,
        "derived",
        "~",
        _bin_worst_to_second_order,
        (
            BINARY,
            AFFINE_HERE,
            STEEPEST_REGION,
        ),
        order=3.0,
        meaning="Adversarial training is the input gradient's norm plus half of the trace of the curvature.",
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
        rounding=gradient_rounding,
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
    Claim(
        "T10b",
        "along the gradient itself",
        r"\|\nabla L(x+hv) - \nabla L(x)\| = h\,p_y(1-p_y)\,\|w\|_2^2 + O(h^2),\ v = g / \|g\|_2",
        OURS,
        "derived",
        "~",
        _bin_along_gradient,
        (
            BINARY,
            AFFINE_HERE,
            STEEPEST_REGION,
        ),
        order=2.0,
    ),
    Claim(
        "T10c",
        "and along any direction",
        r"\|\nabla L(x+d) - \nabla L(x)\| = p_y(1-p_y)\,|w \cdot d|\,\|w\|_2 + O(\|d\|^2)",
        OURS,
        "derived",
        "~",
        _bin_along,
        (
            BINARY,
            AFFINE_HERE,
            SAME_REGION,
        ),
        order=2.0,
        meaning="Across the logits' difference nothing bends.",
    ),
    Claim(
        "T11",
        "one logit: the same loss and gradient",
        r"\log(1 + e^{-sf}) = L,\ f = z_1 - z_0,\quad "
        r"\nabla_x \log(1 + e^{-sf}) = g,\quad s = 1 \text{ if } y = 1, \text{ else } -1",
        OURS,
        "derived",
        "=",
        _single_loss,
        (BINARY,),
        rounding=gradient_rounding,
        meaning="A network with one logit and the logistic loss is one with two logits, one of which is 0.",
    ),
    Claim(
        "T12",
        "one logit: the Jacobian",
        r"\tfrac12 \|\nabla_x f\|_2^2 = \tfrac12 \|w\|_2^2 = \mathrm{CL}",
        OURS,
        "derived",
        "=",
        _single_jacobian,
        (BINARY,),
        meaning="With one logit Jacobian and cross-Lipschitz regularisation are the same; with two, I2b parts them.",
    ),
)
