"""Energies where the loss has a shape: in small balls, along eigenvectors, linear and quadratic (E12 to E17)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from robustreg.connections.case import Case, Displaced
from robustreg.connections.claim import Claim, Condition
from robustreg.connections.energies import (
    QUADRATURE,
    RESOLVED,
    SOURCE,
    ball,
    ball_term,
    midpoints,
    segment,
    steepest,
    steepest_path,
)
from robustreg.connections.quantities import entry_by_entry, gradient_rounding, hessian_by_autograd, squared
from robustreg.connections.regions import AFFINE_HERE, SMOOTH, affine_between
from robustreg.penalties import Consistency, GradientNorm
from robustreg.threat import Threat


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


def _up_and_down(case: Case) -> tuple[Tensor, Tensor]:
    """Twice the highest loss on the way, less those at its ends."""
    values: Tensor = case.measured(steepest_path).values
    return 2 * values.amax(0) - values[0] - values[-1], segment(case, end=steepest(case))


def _of_runner_up(case: Case) -> Callable[[Tensor], Tensor]:
    """A loss that is linear where the logits are: how far the label's logit is below the sample's next one."""
    others = case.logits.scatter(1, case.y[:, None], -torch.inf)
    rival = others.argmax(1, keepdim=True)
    return lambda z: (z.gather(1, rival) - z.gather(1, case.y[:, None]))[:, 0]


def _linear_ends(case: Case) -> list[Tensor]:
    """The steepest step of the linear loss, and points of the ball."""
    c: Tensor = case.measured(_linear_slope)
    step = (case.radius * c / c.norm(dim=1, keepdim=True).clamp(min=1e-300)).reshape(case.x.shape)
    return [case.x + step, *(case.found(point) for point in ball_term(case).around(ball(case)))]


def _linear_slope(case: Case) -> Tensor:
    """``J_k - J_y``."""
    return case.gradient_of(_of_runner_up(case), case.x)


def _linear(case: Case) -> tuple[Tensor, Tensor]:
    """The largest and the smallest of all energies of the linear loss, and of what it rises."""
    loss, ends = _of_runner_up(case), _linear_ends(case)

    def steep(u: Tensor) -> Tensor:
        length: Tensor = case.gradient_of(loss, u).norm(dim=1)
        return length

    on_way = torch.stack([steep(u) for u in midpoints(case, case.x, ends[0])])
    in_ball = torch.stack([steep(u) for u in ends[1:]])
    centre, worst = steep(case.x), torch.cat([on_way, in_ball]).amax(0)
    energies = case.radius * torch.stack([centre, on_way.mean(0), in_ball.mean(0), worst])
    rise = loss(case.logits_at(ends[0])) - loss(case.logits)
    every = torch.cat([energies, rise[None]])
    return every.amax(0), every.amin(0)


def _linear_region(case: Case) -> Tensor:
    return torch.stack([affine_between(case, case.x, u) for u in _linear_ends(case)]).all(0)


def _dirichlet(case: Case, ball_or_sphere: int) -> tuple[Tensor, Tensor]:
    """The mean squared gradient of ``g u + 1/2 u^T H u``, over ``2 D`` points on the axes.

    They have the second moments of the ball, ``eps^2 / (D + 2)`` in each direction, or of the sphere, ``eps^2 / D``.
    """
    size = case.flat.shape[1]
    spread = case.radius**2 / (size + ball_or_sphere)
    h, g = case.measured(hessian_by_autograd), case.gradient
    step = math.sqrt(size * spread) * h
    mean = torch.stack([(g[:, :, None] + sign * step).square().sum(1) for sign in (-1, 1)]).mean((0, 2))
    return mean, squared(g) + spread * squared(h)


def _smoothed(case: Case) -> tuple[Tensor, Tensor]:
    step = case.radius * case.measured(hessian_by_autograd)
    rows = torch.stack([case.gradient[:, :, None] + sign * step for sign in (-1, 1)])
    return entry_by_entry(rows.mean((0, 3)), case.gradient)


def _no_kink_to_the_top(case: Case) -> Tensor:
    toward = case.at_radius(case.radius)
    toward.direction = (_top(case).end - case.x).flatten(1) / case.radius
    return SMOOTH.measure(toward)


TOP_SMOOTH = Condition("no kink along the sharpest direction", _no_kink_to_the_top)


LINEAR_REGION = Condition("one linear region up to all points that were looked at", _linear_region)


CLAIMS = (
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
    Claim(
        "E15",
        "of a linear loss all energies are one",
        r"\ell = z_k - z_y:\quad E_{\mathrm{centre}} = E_{\mathrm{seg}} = E_{\mathrm{ball}} = E_{\sup} "
        r"= \ell(x+r) - \ell(x) = \epsilon \|J_k - J_y\|_2",
        SOURCE,
        "derived",
        "=",
        _linear,
        (
            AFFINE_HERE,
            LINEAR_REGION,
        ),
        tolerance=1e-7,
        meaning="Energies differ by what the loss bends only. Here k is the class next to the label.",
    ),
    Claim(
        "E16",
        "of a quadratic loss the ball's energy adds curvature",
        r"\mathbb{E}_{\|u\|\le\epsilon} \|g + Hu\|^2 = \|g\|^2 + \frac{\epsilon^2}{D+2} \|H\|_F^2",
        SOURCE,
        "derived",
        "=",
        partial(_dirichlet, ball_or_sphere=2),
        meaning="For the loss's own quadratic part at the sample: input gradient and curvature in one penalty.",
    ),
    Claim(
        "E16b",
        "on the sphere a little more",
        r"\mathbb{E}_{\|u\|=\epsilon} \|g + Hu\|^2 = \|g\|^2 + \frac{\epsilon^2}{D} \|H\|_F^2",
        SOURCE,
        "derived",
        "=",
        partial(_dirichlet, ball_or_sphere=0),
    ),
    Claim(
        "E16c",
        "and smoothing changes no gradient",
        r"\mathbb{E}_{\|u\|\le\epsilon} (g + Hu) = g",
        SOURCE,
        "derived",
        "=",
        _smoothed,
        rounding=gradient_rounding,
        meaning="E11's left side is then the gradient at the centre: smoothing hides all the curvature.",
    ),
    Claim(
        "E17",
        "the energy counts the way up and the way down",
        r"2 \max_t L(x+tr) - L(x) - L(x+r) \le \|r\| \int_0^1 \|\nabla L(x+tr)\|\,dt",
        SOURCE,
        "derived",
        "<=",
        _up_and_down,
        (RESOLVED,),
        tolerance=QUADRATURE,
        meaning="Adversarial training sees their difference, which can be 0.",
    ),
)
