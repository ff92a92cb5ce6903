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
from robustreg.connections.case import Case, Displaced
from robustreg.connections.claim import Claim, Condition
from robustreg.connections.claims.two_classes import STEEPEST_REGION
from robustreg.connections.regions import AFFINE_HERE, BINARY, SMOOTH
from robustreg.penalties import Consistency, Energy, GradientNorm
from robustreg.points import Along, Point, Steepest
from robustreg.terms import LossAt
from robustreg.threat import Threat

SOURCE = "the inferred energy of Zhang, Huang & Xu 2019 (arXiv 1911.06479)"
STEPS, DRAWS = 20, 8
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


def _midpoints(case: Case, start: Tensor, end: Tensor) -> list[Tensor]:
    """Of the segment's ``STEPS`` equal parts."""
    return [start + (k + 0.5) / STEPS * (end - start) for k in range(STEPS)]


def _directional(case: Case) -> Tensor:
    """``int_0^1 |r . grad L(x + t r)| dt`` to the steepest step, by midpoints."""
    end = case.found(steepest(case))
    r = (end - case.x).flatten(1)
    slopes = [(r * case.loss_gradient_at(u)).sum(1).abs() for u in _midpoints(case, case.x, end)]
    return torch.stack(slopes).mean(0)


def _along(case: Case) -> tuple[Tensor, Tensor]:
    return case.term(LossAt(steepest(case), mode="eval")) - case.loss, case.measured(_directional)


def _all_of_it(case: Case) -> tuple[Tensor, Tensor]:
    return case.measured(_directional), segment(case, end=steepest(case))


def _ball_gradients(case: Case) -> Tensor:
    """Gradients ``[K, B, D]`` at the points at which the library's term looks in the ball."""
    points = _ball_term(case).around(ball(case))
    return torch.stack([case.loss_gradient_at(case.found(point)) for point in points])


def _ball_term(case: Case) -> Energy:
    return Energy(ball(case), "ball", samples=DRAWS, find="eval", mode="eval")


def _in_ball(case: Case) -> Tensor:
    return case.term(_ball_term(case))


def _ball_sup(case: Case) -> tuple[Tensor, Tensor]:
    return _in_ball(case), case.radius * case.measured(_ball_gradients).norm(dim=2).amax(0)


def _jensen(case: Case) -> tuple[Tensor, Tensor]:
    return case.radius * case.measured(_ball_gradients).mean(0).norm(dim=1), _in_ball(case)


def _oscillation(case: Case) -> tuple[Tensor, Tensor]:
    """The largest difference of losses between ends of diameters, against the steepness between them."""
    step = (case.found(steepest(case)) - case.x).flatten(1)
    gaps, steep = [], []
    for d in (case.displacement, step):
        ends = [case.x + (sign * d).reshape(case.x.shape) for sign in (-1, 1)]
        gaps.append((case.loss_at(ends[1]) - case.loss_at(ends[0])).abs())
        steep += [case.loss_gradient_at(u).norm(dim=1) for u in _midpoints(case, *ends)]
    return torch.stack(gaps).amax(0), 2 * case.radius * torch.stack(steep).amax(0)


def _small_ball(case: Case) -> tuple[Tensor, Tensor]:
    end = case.displaced
    return segment(case, end=end, steps=2), case.radius * case.gradient.norm(dim=1)


def _top(case: Case) -> Displaced:
    """``x + eps v`` along the largest eigenvalue of the Fisher matrix: where VAT goes."""
    v = torch.linalg.eigh(case.hessian).eigenvectors[:, :, -1]
    return Displaced(case.x + (case.radius * v).reshape(case.x.shape))


def _top_segment(case: Case) -> tuple[Tensor, Tensor]:
    return segment(case, "kl", _top(case), steps=2), case.term(Consistency(_top(case), mode="eval"))


def _top_slope(case: Case) -> tuple[Tensor, Tensor]:
    end = _top(case)
    slope = GradientNorm(Threat("l2", case.radius, bounds=None), at=end, loss="kl", mode="eval")
    return case.term(slope), 2 * case.term(Consistency(end, mode="eval"))


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


def _no_kink_to_the_top(case: Case) -> Tensor:
    toward = case.at_radius(case.radius)
    toward.direction = (_top(case).end - case.x).flatten(1) / case.radius
    return SMOOTH.measure(toward)


TOP_SMOOTH = Condition("no kink along the sharpest direction", _no_kink_to_the_top)

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
        (SMOOTH,),
        order=3.0,
        meaning="Small steps: the energy of the divergence penalises what CURE penalises.",
    ),
    Claim(
        "E8",
        "the rise is at most what the loss moves along the path",
        r"L(x+r) - L(x) \le \int_0^1 |r \cdot \nabla L(x+tr)|\,dt",
        SOURCE,
        "derived",
        "<=",
        _along,
        tolerance=QUADRATURE,
        meaning="Equal where the loss rises all the way; far apart where it rises and falls again.",
    ),
    Claim(
        "E8b",
        "which is at most the energy",
        r"\int_0^1 |r \cdot \nabla L(x+tr)|\,dt \le \|r\| \int_0^1 \|\nabla L(x+tr)\|\,dt",
        SOURCE,
        "derived",
        "<=",
        _all_of_it,
        meaning="The energy sees steepness across the path as well.",
    ),
    Claim(
        "E9",
        "losses in the ball differ by at most twice the worst point's energy",
        r"\max_{u,v} |L(x+u) - L(x+v)| \le 2 \epsilon \sup_u \|\nabla L(x+u)\|",
        SOURCE,
        "derived",
        "<=",
        _oscillation,
        tolerance=QUADRATURE,
        meaning="Looked at over two diameters of the ball, a random one and the steepest.",
    ),
    Claim(
        "E10",
        "the ball's energy is at most that of the worst point",
        r"\epsilon\,\mathbb{E}_u \|\nabla L(x+u)\| \le \epsilon \sup_u \|\nabla L(x+u)\|",
        SOURCE,
        "derived",
        "<=",
        _ball_sup,
        meaning="It is no bound of what adversarial training lowers: a mean can miss the path to the worst point.",
    ),
    Claim(
        "E11",
        "the ball's energy is at least the smoothed loss's gradient",
        r"\epsilon\,\|\mathbb{E}_u \nabla L(x+u)\| \le \epsilon\,\mathbb{E}_u \|\nabla L(x+u)\|",
        SOURCE,
        "derived",
        "<=",
        _jensen,
        meaning="Jensen: what smoothing averages away, the energy still counts.",
    ),
    Claim(
        "E12",
        "in a small ball every energy is the gradient norm",
        r"E_{\mathrm{seg}} = \epsilon \|\nabla L(x)\|_2 + O(\epsilon^2)",
        SOURCE,
        "derived",
        "~",
        _small_ball,
        (SMOOTH,),
        order=2.0,
        meaning="Energies part from each other and from the gradient family only where the loss bends.",
    ),
    Claim(
        "E13",
        "along the sharpest direction VAT's bound is attained",
        r"E_{\mathrm{seg}}^{\mathrm{KL}}(\epsilon v) = \mathrm{KL}(p(x)\|p(x+\epsilon v)) + O(\epsilon^3)",
        SOURCE,
        "derived",
        "~",
        _top_segment,
        (TOP_SMOOTH,),
        order=3.0,
        meaning="There VAT and the label-free energy are one.",
    ),
    Claim(
        "E14",
        "and the worst point's energy is twice as much",
        r"\epsilon \|\nabla_u \mathrm{KL}(p(x)\|p(x+u))\|_{u = \epsilon v} = 2\,\mathrm{KL} + O(\epsilon^3)",
        SOURCE,
        "derived",
        "~",
        _top_slope,
        (TOP_SMOOTH,),
        order=3.0,
    ),
)
