"""Points that tell how far the loss around a sample is from linear."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from robustreg import bounds as box
from robustreg import numerics
from robustreg.losses import Loss, check_loss
from robustreg.modes import Mode, check_mode
from robustreg.points import CLEAN, Clean, Clip, Point, Steepest, Uniform
from robustreg.probe import Probe
from robustreg.threat import Threat


@dataclass(frozen=True)
class Between(Point):
    """A random point on the segment from ``start`` to ``end``, uniform in the share of the way, sample by sample.

    ``probe.noise`` of this point are the shares ``[B, 1, ...]``.

    Args:
        start: share 0.
        end: share 1.
        number: of the draw: equal points share theirs, another number makes another.
    """

    start: Point
    end: Point
    number: int = 0

    def draw(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """The shares ``[B, 1, ...]``, in [0, 1)."""
        shape = (x.shape[0], *[1] * (x.ndim - 1))
        return torch.rand(shape, generator=generator, device=x.device, dtype=x.dtype)

    def locate(self, probe: Probe) -> Tensor:
        """``(1 - t) * start + t * end``."""
        t, start, end = (
            numerics.upcast(v) for v in (probe.noise(self), probe.at(self.start), probe.at(self.end))
        )
        return ((1 - t) * start + t * end).to(probe.x.dtype)


@dataclass(frozen=True)
class LeastLinear(Point):
    """The point of the threat where the loss is furthest from its first-order Taylor polynomial at the sample.

    Projected ascent on ``|L(x + d) - L(x) - d . grad L(x)|`` (Qin et al. 2019), the gradient at the sample held
    constant: steepest steps along ``grad L(x + d) - grad L(x)``, or against it where the loss is below the polynomial.

    Args:
        threat: ball and box.
        steps: number of steps.
        step_size: length of a step in the threat's norm; by default ``2.5 * eps / steps``.
        start: where to start; by default uniform in the ball (at the sample itself the ascent would stand still).
        loss: whose linearity.
        mode: the mode in which the network is run while searching. ``"batch"`` shares the clean forward with a loss
            that is trained on.
    """

    threat: Threat
    steps: int = 10
    step_size: float | None = None
    start: Point | None = None
    loss: Loss = "ce"
    mode: Mode = "eval"

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_mode(self.mode)
        if self.steps < 1:
            raise ValueError(f"LeastLinear needs steps >= 1, got {self.steps}")
        if self.step_size is not None and not self.step_size > 0:
            raise ValueError(f"step_size must be positive, got {self.step_size}")

    def parts(self) -> Iterator[Point]:
        """The start."""
        yield self._start()

    def locate(self, probe: Probe) -> Tensor:
        """The end of the search, within ball and box."""
        base = probe.loss(CLEAN, self.loss, self.mode).detach()
        slope = probe.grad(CLEAN, self.loss, self.mode)
        size = 2.5 * self.threat.eps / self.steps if self.step_size is None else self.step_size
        step = self.threat.with_eps(size)
        z = self.threat.project(probe.at(self._start()), probe.x)
        for i in range(self.steps):
            _, losses, g = probe.ascend(z, None, self.loss, self.mode, self, i, point=self)
            assert g is not None  # asked for by default
            below = losses - base - inner(z - probe.x, slope) < 0
            turn = numerics.as_rows(torch.where(below, -1.0, 1.0), g)
            z = self.threat.project(z + step.steepest(turn.to(g.dtype) * (g - slope)), probe.x)
        return z

    def _start(self) -> Point:
        return Uniform(self.threat, 0, 1.0, "box") if self.start is None else self.start


def inner(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each sample's entries, ``[B, ...]`` twice to ``[B]``, in at least float32."""
    return (numerics.flatten(numerics.upcast(a)) * numerics.flatten(numerics.upcast(b))).sum(1)


@dataclass(frozen=True)
class ThroughClamp(Steepest):
    """A ``Steepest`` step whose gradient is taken through the clamp of its start to the box.

    A feature that a random start pushed beyond a bound has no gradient then and stays at the bound, as in the code of
    GradAlign (Andriushchenko & Flammarion 2020), which clamps what the network is shown and not the start.

    Args:
        threat: norm, radius and box.
        start: where the gradient is taken.
        scale: length of the step as a multiple of ``eps``.
        loss: the loss that is climbed.
        mode: the mode in which the network is run to find the gradient.
        clip: ``"threat"`` keeps the point in ball and box, ``"box"`` in the bounds.
    """

    clip: Clip = "threat"

    def gradient(self, probe: Probe) -> Tensor:
        """The gradient ``[B, ...]`` with respect to the start before it was clipped."""
        return super().gradient(probe) * slope_of_clamp(self.threat, self.start, probe)


def slope_of_clamp(threat: Threat, start: Point, probe: Probe) -> Tensor:
    """The derivative ``[B, ...]`` of ``max(min(z, high), low)`` at a point that was clipped to the box.

    Autograd halves it where the two are equal.
    """
    z = probe.at(start)
    if threat.bounds is None:
        return torch.ones_like(z)
    at_bound = torch.zeros_like(z, dtype=torch.bool)
    for bound in threat.bounds:
        at_bound = at_bound | (z == box.fit(bound, z))
    # the sample itself lies at the bound; a clipped start was beyond it
    return torch.where(at_bound, 0.5 if isinstance(start, Clean) else 0.0, 1.0).to(z.dtype)
