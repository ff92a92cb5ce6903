"""Energies of the path and of the ball, and what is between them (E8 to E11)."""

from __future__ import annotations

import torch
from torch import Tensor

from robustreg.connections.case import Case
from robustreg.connections.claim import Claim
from robustreg.connections.energies import (
    QUADRATURE,
    RESOLVED,
    SOURCE,
    Path,
    ball,
    ball_gradients,
    ball_term,
    midpoints,
    path,
    resolves,
    segment,
    steepest,
    steepest_path,
)
from robustreg.terms import LossAt


def _directional(case: Case) -> Tensor:
    """``int_0^1 |r . grad L(x + t r)| dt`` to the steepest step, by midpoints."""
    slopes: Tensor = case.measured(steepest_path).slopes
    return slopes.abs().sum(0)


def _along(case: Case) -> tuple[Tensor, Tensor]:
    return case.term(LossAt(steepest(case), mode="eval")) - case.loss, case.measured(_directional)


def _all_of_it(case: Case) -> tuple[Tensor, Tensor]:
    return case.measured(_directional), segment(case, end=steepest(case))


def _in_ball(case: Case) -> Tensor:
    return case.term(ball_term(case))


def _ball_sup(case: Case) -> tuple[Tensor, Tensor]:
    return _in_ball(case), case.radius * case.measured(ball_gradients).norm(dim=2).amax(0)


def _jensen(case: Case) -> tuple[Tensor, Tensor]:
    return case.radius * case.measured(ball_gradients).mean(0).norm(dim=1), _in_ball(case)


def _diameters(case: Case) -> list[tuple[Tensor, Tensor]]:
    """Two of the ball: a random one, and the one of the steepest step."""
    step = (case.found(steepest(case)) - case.x).flatten(1)
    return [
        (case.x - d.reshape(case.x.shape), case.x + d.reshape(case.x.shape))
        for d in (case.displacement, step)
    ]


def _random_diameter(case: Case) -> Path:
    return path(case, *_diameters(case)[0])


def _steepest_diameter(case: Case) -> Path:
    return path(case, *_diameters(case)[1])


def _oscillation(case: Case) -> tuple[Tensor, Tensor]:
    """The largest difference of losses between ends of diameters, against the steepness between them."""
    gaps, steep = [], []
    for ends in _diameters(case):
        gaps.append((case.loss_at(ends[1]) - case.loss_at(ends[0])).abs())
        steep += [case.loss_gradient_at(u).norm(dim=1) for u in midpoints(case, *ends)]
    return torch.stack(gaps).amax(0), 2 * case.radius * torch.stack(steep).amax(0)


def _rise_and_oscillation(case: Case) -> tuple[Tensor, Tensor]:
    ends = [case.x, case.end, case.found(steepest(case))]
    ends += [case.found(point) for point in ball_term(case).around(ball(case))]
    losses = torch.stack([case.loss_at(u) for u in ends])
    return losses.amax(0) - case.loss, losses.amax(0) - losses.amin(0)


CLAIMS = (
    Claim(
        "E8",
        "the rise is at most what the loss moves along the path",
        r"L(x+r) - L(x) \le \int_0^1 |r \cdot \nabla L(x+tr)|\,dt",
        SOURCE,
        "derived",
        "<=",
        _along,
        (RESOLVED,),
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
        (resolves(_random_diameter, _steepest_diameter),),
        tolerance=QUADRATURE,
        meaning="Looked at over two diameters of the ball, a random one and the steepest.",
    ),
    Claim(
        "E9b",
        "and the rise is at most their difference",
        r"\max_u L(x+u) - L(x) \le \max_{u,v} |L(x+u) - L(x+v)|",
        SOURCE,
        "derived",
        "<=",
        _rise_and_oscillation,
        meaning="By definition, over the points that were found: the sample is one of them.",
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
)
