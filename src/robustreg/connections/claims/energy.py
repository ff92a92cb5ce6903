"""The energy of the loss around a sample, and what it bounds.

S. Zhang, K. Huang, Z. Xu, "On Model Robustness Against Adversarial Examples", arXiv 1911.06479, state that adversarial
training under the l2 norm and VAT minimise a lower bound of an energy. The energy's formula is inferred (see
``robustreg.penalties.energy``); the inequalities are ours and hold for it on every network. Integrals are sums over
points, so they hold to the accuracy of the quadrature, and a supremum is the largest value that was found.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustreg.attacks import Virtual
from robustreg.connections.case import Case
from robustreg.connections.claim import Claim
from robustreg.connections.claims.connections import STEEPEST_REGION
from robustreg.connections.regions import AFFINE_HERE, BINARY, SAME_REGION
from robustreg.penalties import Consistency, Energy, GradientNorm
from robustreg.points import Along, Point, Steepest
from robustreg.terms import LossAt
from robustreg.threat import Threat

SOURCE = "the inferred energy of Zhang, Huang & Xu 2019 (arXiv 1911.06479)"
STEPS = 20
QUADRATURE = 2e-2  # relative: a kink between two of the points moves their sum by a share of 1 / STEPS


def ball(case: Case) -> Threat:
    """The l2 ball of the case's radius, without a box."""
    return Threat("l2", case.radius, bounds=None)


def segment(case: Case, divergence: str = "ce", end: Point | None = None, steps: int = STEPS) -> Tensor:
    """``||r|| int_0^1 ||grad D(t r)|| dt`` by the library's term."""
    term = Energy(
        ball(case), "segment", divergence=divergence, samples=steps, end=end, find="eval", mode="eval"
    )
    return case.term(term)


def steepest(case: Case) -> Point:
    """One step of adversarial training under l2."""
    return Steepest(ball(case))


def largest_gradient(case: Case, end: Point) -> Tensor:
    """The largest gradient norm that was found: along the segment, and where the library looks for it."""
    points = [Along(end=end, t=(k + 0.5) / STEPS) for k in range(STEPS)]
    norms = [case.loss_gradient_at(case.found(point)).norm(dim=1) for point in points]
    worst = case.term(Energy(ball(case), "worst", iterations=3, find="eval", mode="eval")) / case.radius
    return torch.stack([*norms, worst]).amax(0)


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


def _centre(case: Case) -> tuple[Tensor, Tensor]:
    centre = case.term(Energy(ball(case), "centre", find="eval", mode="eval"))
    return centre, case.term(GradientNorm(ball(case), mode="eval"))


def _binary(case: Case) -> tuple[Tensor, Tensor]:
    return segment(case, end=steepest(case)), case.term(LossAt(steepest(case), mode="eval")) - case.loss


def _quadratic(case: Case) -> tuple[Tensor, Tensor]:
    bent = torch.einsum("bde,be->bd", case.hessian, case.displacement)
    # to leading order the gradient grows linearly along the segment, and two midpoints integrate it exactly
    return segment(case, "kl", case.displaced, steps=2), 0.5 * case.radius * bent.norm(dim=1)


CLAIMS = (
    Claim(
        "E1",
        "adversarial training minimises a lower bound of the energy",
        r"L(x+r) - L(x) \le \|r\| \int_0^1 \|\nabla L(x+tr)\|\,dt",
        SOURCE,
        "published",
        "<=",
        _adversarial,
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
        "E4",
        "a small energy keeps the loss small",
        r"L(x+d) \le L(x) + \|d\| \sup_t \|\nabla L(x+td)\|",
        SOURCE,
        "published",
        "<=",
        _mean_value,
        tolerance=QUADRATURE,
        meaning="If the loss plus the energy is below log 2, no point of the ball is misclassified.",
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
        "E6",
        "two classes: the bound is attained",
        r"E_{\mathrm{seg}} = L(x+r) - L(x)",
        SOURCE,
        "derived",
        "=",
        _binary,
        (BINARY, AFFINE_HERE, STEEPEST_REGION),
        tolerance=1e-5,
        meaning="On an affine network of two classes adversarial training and the energy are one.",
    ),
    Claim(
        "E7",
        "label-free energy is curvature",
        r"E_{\mathrm{seg}}^{\mathrm{KL}} = \tfrac12 \|d\| \|Hd\| + O(\|d\|^3)",
        SOURCE,
        "derived",
        "~",
        _quadratic,
        (AFFINE_HERE, SAME_REGION),
        order=3.0,
        meaning="Small steps: the energy of the divergence penalises what CURE penalises.",
    ),
)
