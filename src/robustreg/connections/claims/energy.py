"""Energies along a path bound what adversarial training and VAT lower (E1 to E7)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.attacks import Virtual
from robustreg.connections.case import Case
from robustreg.connections.claim import Claim, Condition
from robustreg.connections.claims.two_classes import STEEPEST_REGION
from robustreg.connections.energies import (
    QUADRATURE,
    RESOLVED,
    SOURCE,
    STEPS,
    Path,
    ball,
    ball_gradients,
    ball_term,
    displaced_path,
    path,
    resolves,
    segment,
    steepest,
    steepest_path,
)
from robustreg.connections.quantities import gradient_rounding, weight
from robustreg.connections.regions import AFFINE_HERE, BINARY, SMOOTH, affine_between
from robustreg.penalties import Consistency, Energy, GradientNorm
from robustreg.points import Along, Point
from robustreg.terms import LossAt


def largest_gradient(case: Case, end: Point) -> Tensor:
    """The largest gradient norm that was found: along the segment, and where the library looks for it."""
    points = [Along(end=end, t=(k + 0.5) / STEPS) for k in range(STEPS)]
    norms = [case.loss_gradient_at(case.found(point)).norm(dim=1) for point in points]
    worst = case.term(Energy(ball(case), "worst", iterations=3, find="eval", mode="eval")) / case.radius
    return torch.stack([*norms, worst]).amax(0)


def _segment_sup_free(case: Case) -> tuple[Tensor, Tensor]:
    """With the divergence from the clean prediction for the loss, on the way that VAT goes."""
    end = Virtual(ball(case), mode="eval")
    points = [Along(end=end, t=(k + 0.5) / STEPS) for k in range(STEPS)]
    slopes = [case.term(GradientNorm(ball(case), at=point, loss="kl", mode="eval")) for point in points]
    return segment(case, "kl", end), torch.stack(slopes).amax(0)


def _adversarial(case: Case) -> tuple[Tensor, Tensor]:
    return case.term(LossAt(steepest(case), mode="eval")) - case.loss, segment(case, end=steepest(case))


def _virtual(case: Case) -> tuple[Tensor, Tensor]:
    end = Virtual(ball(case), mode="eval")
    return case.term(Consistency(end, mode="eval")), segment(case, "kl", end)


def _segment_sup(case: Case) -> tuple[Tensor, Tensor]:
    end = steepest(case)
    return segment(case, end=end), case.radius * largest_gradient(case, end)


def _mean_value(case: Case) -> tuple[Tensor, Tensor]:
    rise = case.loss_at(case.end) - case.loss
    return rise, case.radius * largest_gradient(case, case.displaced)


def _below_log_two(case: Case) -> Tensor:
    most: Tensor = _mean_value(case)[1] + case.loss + case.measured(displaced_path).missed
    return most < math.log(2)


def _safe(case: Case) -> tuple[Tensor, Tensor]:
    loss = case.loss_at(case.end)
    return loss, torch.full_like(loss, math.log(2))


def _centre_and_sup(case: Case) -> tuple[Tensor, Tensor]:
    centre = case.radius * case.gradient.norm(dim=1)
    return centre, torch.maximum(centre, case.radius * largest_gradient(case, steepest(case)))


def _centre_free(case: Case) -> tuple[Tensor, Tensor]:
    target = case.logits.detach()
    g = case.gradient_of(lambda z: numerics.kl(target, z), case.x)
    return case.radius * g.norm(dim=1), torch.zeros_like(case.loss)


def _centre(case: Case) -> tuple[Tensor, Tensor]:
    centre = case.term(Energy(ball(case), "centre", find="eval", mode="eval"))
    return centre, case.term(GradientNorm(ball(case), mode="eval"))


def _binary(case: Case) -> tuple[Tensor, Tensor]:
    return segment(case, end=steepest(case)), case.term(LossAt(steepest(case), mode="eval")) - case.loss


def _binary_sup(case: Case) -> tuple[Tensor, Tensor]:
    """The largest of what was found in the ball, the steepest step among it."""
    draws = case.measured(ball_gradients).norm(dim=2).amax(0)
    there = case.loss_gradient_at(case.found(steepest(case))).norm(dim=1)
    w = weight(case).norm(dim=1)
    closed = torch.sigmoid(case.radius * w - numerics.margin(case.logits, case.y))
    return case.radius * torch.maximum(draws, there), case.radius * w * closed


def _quadratic(case: Case) -> tuple[Tensor, Tensor]:
    bent = torch.einsum("bde,be->bd", case.hessian, case.displacement)
    # to leading order the gradient grows linearly along the segment, and two midpoints integrate it exactly
    return segment(case, "kl", case.displaced, steps=2), 0.5 * case.radius * bent.norm(dim=1)


def _bent_and_along(case: Case) -> tuple[Tensor, Tensor]:
    bent = torch.einsum("bde,be->bd", case.hessian, case.displacement)
    return 0.5 * (case.displacement * bent).sum(1), 0.5 * case.radius * bent.norm(dim=1)


BALL_REGION = Condition(
    "one linear region up to the points of the ball",
    lambda c: torch.stack(
        [affine_between(c, c.x, c.found(point)) for point in ball_term(c).around(ball(c))]
    ).all(0),
)


SMALL_ENERGY = Condition("the loss and the energy on the way to x + d are below log 2", _below_log_two)


def _free_path(case: Case) -> Path:
    """The divergence on the way that VAT goes."""
    target = case.logits
    end = case.found(Virtual(ball(case), mode="eval"))
    return path(case, case.x, end, lambda z: numerics.kl(target, z))


RESOLVED_FREE, RESOLVED_RANDOM = resolves(_free_path), resolves(displaced_path)

CLAIMS = (
    Claim(
        "E1",
        "adversarial training minimises a lower bound of the energy",
        r"L(x+r) - L(x) \le \|r\| \int_0^1 \|\nabla L(x+tr)\|\,dt",
        SOURCE,
        "published",
        "<=",
        _adversarial,
        (RESOLVED,),
        tolerance=QUADRATURE,
        meaning="The rise of the loss to the end of a path is at most the steepness along the path.",
    ),
    Claim(
        "E2",
        "and so does VAT",
        r"\mathrm{KL}(p(x)\|p(x+r)) \le \|r\| \int_0^1 \|\nabla_u \mathrm{KL}(p(x)\|p(x+u))|_{u=tr}\|\,dt",
        SOURCE,
        "published",
        "<=",
        _virtual,
        (RESOLVED_FREE,),
        tolerance=QUADRATURE,
        meaning="Both can be small while the loss moves in between.",
    ),
    Claim(
        "E3",
        "the segment's energy is at most that of the worst point",
        r"\|r\| \int_0^1 \|\nabla L(x+tr)\|\,dt \le \epsilon \sup_u \|\nabla L(x+u)\|",
        SOURCE,
        "derived",
        "<=",
        _segment_sup,
        meaning="The supremum is the largest gradient that was found, the path's own points among the candidates.",
    ),
    Claim(
        "E3b",
        "label-free too",
        r"\|r\| \int_0^1 \|\nabla_u \mathrm{KL}(p(x)\|p(x+u))|_{u=tr}\|\,dt "
        r"\le \epsilon \sup_u \|\nabla_u \mathrm{KL}(p(x)\|p(x+u))\|",
        SOURCE,
        "derived",
        "<=",
        _segment_sup_free,
    ),
    Claim(
        "E3c",
        "and so is the centre's",
        r"E_{\mathrm{centre}} \le \epsilon \sup_u \|\nabla L(x+u)\|",
        SOURCE,
        "derived",
        "<=",
        _centre_and_sup,
        meaning="By definition: the centre is one of the points. How much less it is shows what the centre misses.",
    ),
    Claim(
        "E4",
        "a small energy keeps the loss small",
        r"L(x+d) \le L(x) + \|d\| \sup_t \|\nabla L(x+td)\|",
        SOURCE,
        "published",
        "<=",
        _mean_value,
        (RESOLVED_RANDOM,),
        tolerance=QUADRATURE,
        meaning="If the loss plus the energy is below log 2, no point of the ball is misclassified.",
    ),
    Claim(
        "E4b",
        "so no adversarial example is there",
        r"L(x) + \|d\| \sup_t \|\nabla L(x+td)\| < \log 2 \Rightarrow L(x+d) < \log 2",
        SOURCE,
        "published",
        "<=",
        _safe,
        (SMALL_ENERGY, RESOLVED_RANDOM),
        meaning="Below log 2 the label has more than half of the probability, and no other class can win.",
    ),
    Claim(
        "E5",
        "the energy at the centre is the gradient norm",
        r"E_{\mathrm{centre}} = \epsilon \|\nabla L(x)\|_2",
        SOURCE,
        "derived",
        "=",
        _centre,
        meaning="The unified gradient family is the energy without a neighbourhood.",
    ),
    Claim(
        "E5b",
        "the label-free energy has none",
        r"\nabla_u \mathrm{KL}(p(x)\|p(x+u))|_{u=0} = 0",
        SOURCE,
        "derived",
        "=",
        _centre_free,
        rounding=gradient_rounding,
        meaning="The divergence is smallest where nothing has moved: it must be looked at beside the sample.",
    ),
    Claim(
        "E6",
        "two classes: the bound is attained",
        r"E_{\mathrm{seg}} = L(x+r) - L(x)",
        SOURCE,
        "derived",
        "=",
        _binary,
        (BINARY, AFFINE_HERE, STEEPEST_REGION, RESOLVED),
        tolerance=1e-5,
        rounding=lambda c: c.measured(steepest_path).missed,
        meaning="On an affine network of two classes adversarial training and the energy are one.",
    ),
    Claim(
        "E6b",
        "two classes: the worst point in closed form",
        r"E_{\sup} = \epsilon \|w\|_2\, \sigma(-m + \epsilon \|w\|_2)",
        SOURCE,
        "derived",
        "=",
        _binary_sup,
        (
            BINARY,
            AFFINE_HERE,
            STEEPEST_REGION,
            BALL_REGION,
        ),
        tolerance=1e-7,
        rounding=gradient_rounding,
        meaning="The largest gradient of the ball is where adversarial training goes.",
    ),
    Claim(
        "E7",
        "label-free energy is curvature",
        r"E_{\mathrm{seg}}^{\mathrm{KL}} = \tfrac12 \|d\| \|Hd\| + O(\|d\|^3)",
        SOURCE,
        "derived",
        "~",
        _quadratic,
        (SMOOTH,),
        order=3.0,
        meaning="Small steps: the energy of the divergence penalises what CURE penalises.",
    ),
    Claim(
        "E7b",
        "which is at least the curvature along the path",
        r"\tfrac12 d^\top H d \le \tfrac12 \|d\| \|Hd\|",
        SOURCE,
        "derived",
        "<=",
        _bent_and_along,
        meaning="Equal along eigenvectors: the energy also counts how the gradient turns.",
    ),
)
