"""The energy of the loss around a sample, and what it bounds.

S. Zhang, K. Huang, Z. Xu, "On Model Robustness Against Adversarial Examples", arXiv 1911.06479, state that adversarial
training under the l2 norm and VAT minimise a lower bound of an energy. The energy's formula is inferred (see
``robustreg.penalties.energy``); the inequalities are ours and hold for it on every network. Integrals are sums over
points, so they hold to the accuracy of the quadrature, and a supremum is the largest value that was found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.connections.case import Case
from robustreg.connections.claim import Condition
from robustreg.penalties import Energy
from robustreg.points import Point, Steepest
from robustreg.threat import Threat

SOURCE = "the inferred energy of Zhang, Huang & Xu 2019 (arXiv 1911.06479)"
STEPS, DRAWS = 20, 8
QUADRATURE = 2e-2  # relative: what the sums may miss


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


def midpoints(case: Case, start: Tensor, end: Tensor) -> list[Tensor]:
    """Of the segment's ``STEPS`` equal parts."""
    return [start + (k + 0.5) / STEPS * (end - start) for k in range(STEPS)]


def ball_gradients(case: Case) -> Tensor:
    """Gradients ``[K, B, D]`` at the points at which the library's term looks in the ball."""
    points = ball_term(case).around(ball(case))
    return torch.stack([case.loss_gradient_at(case.found(point)) for point in points])


def ball_term(case: Case) -> Energy:
    """The energy of the ball, from a few draws."""
    return Energy(ball(case), "ball", samples=DRAWS, find="eval", mode="eval")


@dataclass(frozen=True)
class Path:
    """A function and its slope on the midpoints of a way, and whether they tell how the function moves.

    Attributes:
        values: at the ends of the parts ``[STEPS + 1, B]``.
        slopes: ``r . grad`` at the midpoints, over ``STEPS``, ``[STEPS, B]``.
    """

    values: Tensor
    slopes: Tensor

    @property
    def missed(self) -> Tensor:
        """By how much sums of slopes miss what the function has moved up to a part's end, at worst, ``[B]``."""
        moved = self.values[1:] - self.values[0]
        return (self.slopes.cumsum(0) - moved).abs().amax(0)

    @property
    def resolved(self) -> Tensor:
        """Whether that is little next to all that the slopes add up to, ``[B]``: no kink or peak fell between them."""
        rounding = 64 * torch.finfo(torch.float64).eps * (1 + self.values.abs().amax(0))
        return self.missed <= QUADRATURE / 4 * self.slopes.abs().sum(0) + rounding


def path(case: Case, start: Tensor, end: Tensor, loss: Callable[[Tensor], Tensor] | None = None) -> Path:
    """A function of the logits, by default the loss, on the way between two points ``[B, ...]``."""
    measure = loss or (lambda z: numerics.cross_entropy(z, case.y))
    r = (end - start).flatten(1)
    edges = [measure(case.logits_at(start + k / STEPS * (end - start))) for k in range(STEPS + 1)]
    slopes = [(r * case.gradient_of(measure, u)).sum(1) / STEPS for u in midpoints(case, start, end)]
    return Path(torch.stack(edges), torch.stack(slopes))


def steepest_path(case: Case) -> Path:
    """The loss on the way to the steepest step."""
    return path(case, case.x, case.found(steepest(case)))


def displaced_path(case: Case) -> Path:
    """The loss on the way to ``x + d``."""
    return path(case, case.x, case.end)


def resolves(*paths: Callable[[Case], Path]) -> Condition:
    """The condition that sums tell how a function moves on some ways."""
    return Condition(
        f"{STEPS} points of the path follow the loss",
        lambda c: torch.stack([c.measured(p).resolved for p in paths]).all(0),
    )


RESOLVED = resolves(steepest_path)
