"""A single step whose length follows how linear the loss was along the steps before it: the attack of SORA."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.losses import Loss, check_loss
from robustreg.memory import Memory
from robustreg.modes import Mode, check_mode
from robustreg.points import Clip, Point, Uniform, check_clip, clipped
from robustreg.probe import Probe
from robustreg.threat import Threat


class StepLinearity(Memory):
    """The running mean of how linear the loss was along the steps; None before the first."""

    def __init__(self) -> None:
        self.mean: float | None = None

    def observe(self, linearity: float, initial: float, rate: float) -> None:
        """Take note of a step's linearity; one that is not finite says nothing."""
        if math.isfinite(linearity):
            mean = initial if self.mean is None else self.mean
            self.mean = (1 - rate) * mean + rate * min(max(linearity, -1.0), 1.0)

    def state_dict(self) -> dict[str, Any]:
        """The mean, if there is one."""
        return {} if self.mean is None else {"mean": self.mean}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        self.mean = None if state.get("mean") is None else float(state["mean"])


@dataclass(frozen=True)
class SoraStep(Point):
    """A step of random length for every feature, up to a length that shrinks where the loss is curved (SORA).

    ``start + a u * e`` with ``u`` uniform in [0, 1] for each feature, ``e`` the steepest direction of unit length and
    ``a = largest * eps * min(1, tolerance / (1 - r))``. ``r`` is a running mean of
    ``<e, grad L(point)> / <e, grad L(start)>``, 1 where the loss is linear along the step; a ``SoraLoss`` at this point
    measures it, and without one it keeps its initial value. The step is not projected on the ball.

    M. Teymourian et al., SORA, arXiv 2606.00738. It has a state, so it belongs to one objective, and each process of a
    distributed run has its own.

    Args:
        threat: norm, radius and box.
        largest: length of the longest step as a multiple of ``eps``.
        tolerance: how far ``r`` may fall below 1 before the step is shortened.
        absolute: take ``tolerance / (1 - r)`` in the units of the input, as the paper's formula is reported; the
            authors' code takes it as a share of the longest step.
        start: where the gradient is taken; by default uniform in the ball.
        initial: ``r`` before the first step.
        rate: the share of a new step in the running mean.
        number: of the draw of ``u``: equal points share theirs, another number makes another.
        loss: the loss that is climbed, and whose linearity is measured.
        mode: the mode in which the network is run to find the gradient.
        clip: ``"box"`` keeps the point within the threat's bounds, ``"threat"`` in ball and box.
    """

    threat: Threat
    largest: float = 2.0
    tolerance: float = 0.02
    absolute: bool = False
    start: Point | None = None
    initial: float = 0.99
    rate: float = 0.05
    number: int = 0
    loss: Loss = "ce"
    mode: Mode = "eval"
    clip: Clip = "box"
    memory: StepLinearity = field(default_factory=StepLinearity, repr=False, kw_only=True)

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_mode(self.mode)
        check_clip(self.clip)
        if not (self.largest >= 0 and self.tolerance >= 0):
            raise ValueError(f"largest and tolerance must be >= 0, got {self.largest} and {self.tolerance}")
        if not -1.0 <= self.initial <= 1.0:
            raise ValueError(f"initial is a linearity and must lie in [-1, 1], got {self.initial}")
        if not 0.0 <= self.rate <= 1.0:
            raise ValueError(f"rate is the share of a new step and must lie in [0, 1], got {self.rate}")

    def parts(self) -> Iterator[Point]:
        """The start."""
        yield self.first()

    def first(self) -> Point:
        """Where the step starts."""
        return Uniform(self.threat, 0, 1.0, "box") if self.start is None else self.start

    def length(self) -> float:
        """The largest length of the next step, in the units of the input."""
        longest = self.largest * self.threat.eps
        linearity = self.initial if self.memory.mean is None else self.memory.mean
        if linearity >= 1.0:
            return longest
        reach = self.tolerance / (1.0 - linearity)
        return min(longest, reach) if self.absolute else longest * min(1.0, reach)

    def draw(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """The share ``[B, ...]`` of the length that each feature goes, in [0, 1)."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        return torch.rand(x.shape, generator=generator, device=x.device, dtype=dtype)

    def locate(self, probe: Probe) -> Tensor:
        """The start plus the step."""
        g = numerics.upcast(probe.grad(self.first(), self.loss, self.mode))
        step = probe.noise(self) * self.threat.with_eps(self.length()).steepest(g)
        return clipped(probe.at(self.first()) + step.to(probe.x.dtype), probe.x, self.threat, self.clip)
