"""Penalties on how far the loss is from linear within the threat: GradAlign, LLR and ELLE.

FGSM is the worst case of a loss that is linear in the ball, and single-step training fails (catastrophic overfitting)
where it is not. The three measure it by gradients that turn, by the distance from the tangent, and by the distance
from a chord.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.attacks.linearity import Between, LeastLinear, inner, slope_of_clamp
from robustreg.attacks.stack import stacked_logits
from robustreg.losses import Loss, check_loss
from robustreg.memory import Memory
from robustreg.modes import Mode, check_mode
from robustreg.points import CLEAN, Clip, Point, Uniform, check_clip
from robustreg.probe import Probe
from robustreg.terms import Term, mean_over_samples
from robustreg.threat import Threat

Detach = Literal["first", "second", "neither"]


@dataclass(frozen=True)
class GradAlign(Term):
    """``1 - cos(g1, g2)`` between the input gradients at two points of the threat.

    M. Andriushchenko and N. Flammarion, "Understanding and Improving Fast Adversarial Training", NeurIPS 2020, and
    the authors' code. A sample with a zero gradient at either point has no angle: it counts 0 and is left out of the
    mean, which is what the values of the others are scaled up for.

    Args:
        threat: where the second point is drawn.
        first: the first point; by default the sample.
        second: the second point; by default uniform in the ball, not clipped to the box.
        detach: which gradient is a constant: the code holds the first and differentiates the second again. The authors
            saw no substantial difference.
        through_clamp: take the first gradient through ``clamp(x, 0, 1)`` as the code does: a feature of the sample that
            is exactly at a bound then has half its gradient, and one that a random start pushed to the bound has none.
            The cosine of a linear loss is then below 1 where features are at a bound, as MNIST's background is.
        loss: whose gradients.
        mode: the mode in which the network is run.
    """

    threat: Threat | None = None
    first: Point = CLEAN
    second: Point | None = None
    detach: Detach = "first"
    through_clamp: bool = False
    loss: Loss = "ce"
    mode: Mode = "train"

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_mode(self.mode)
        if self.detach not in ("first", "second", "neither"):
            raise ValueError(f"detach must be 'first', 'second' or 'neither', got {self.detach!r}")

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]`` in [0, 2], scaled up where samples were left out."""
        threat = self.threat or probe.required_threat()
        second = Uniform(threat, 0, 1.0, "none") if self.second is None else self.second
        g1, g2 = (
            probe.grad(point, self.loss, self.mode, differentiable=self.detach != side)
            for point, side in ((self.first, "first"), (second, "second"))
        )
        if self.through_clamp:
            g1 = g1 * slope_of_clamp(threat, self.first, probe)
        (u1, there1), (u2, there2) = (direction(g) for g in (g1, g2))
        counted, samples = there1 & there2, torch.as_tensor(len(there1), device=there1.device)
        if "labels" in self.needs:
            # with BatchNorm an unlabelled sample has a gradient too: that of the others' losses
            counted, samples = counted & (probe.labels() >= 0), probe.labelled()
        values = torch.where(counted, 1.0 - inner(u1, u2), 0.0)
        return values * samples / counted.sum().clamp(min=1)


@dataclass(frozen=True)
class LinearityGap(Term):
    """``|L(x') - L(x) - d . grad L(x)|`` per sample, with ``d = x' - x``: the loss's distance from its tangent.

    C. Qin et al., "Adversarial Robustness through Local Linearization", NeurIPS 2019, where ``x'`` is the point of
    the threat at which it is largest. ``d`` is a constant; the loss and gradient at the sample are not, so
    there is a double backward. In a linear region of the network it is the divergence ``KL(p(x) || p(x'))`` of TRADES,
    whatever the label.

    Args:
        threat: where ``x'`` is searched.
        at: ``x'``; by default ten steps of ``LeastLinear``, on the statistics of the batch.
        loss: ``L``.
        mode: the mode in which the network is run at the sample. In ``"train"`` the forward at ``x'`` uses the batch's
            statistics too and does not update the running ones. It uses the sample's dropout masks in every mode.
    """

    threat: Threat | None = None
    at: Point | None = None
    loss: Loss = "ce"
    mode: Mode = "train"

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_mode(self.mode)

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]``."""
        point = _least_linear(self, probe)
        mode = _unrecorded(self.mode)
        rise = probe.loss(point, self.loss, mode, dropout_of=CLEAN) - probe.loss(CLEAN, self.loss, self.mode)
        return (rise - _slope(self, probe, point)).abs()


@dataclass(frozen=True)
class FirstOrderChange(Term):
    """``|d . grad L(x)|`` per sample, with ``d = x' - x``: how much the loss changes along its tangent.

    The second part of LLR (Qin et al. 2019), at the same ``x'`` as ``LinearityGap``.

    Args:
        threat: where ``x'`` is searched.
        at: ``x'``; by default that of ``LinearityGap``.
        loss: ``L``.
        mode: the mode in which the network is run at the sample.
    """

    threat: Threat | None = None
    at: Point | None = None
    loss: Loss = "ce"
    mode: Mode = "train"

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_mode(self.mode)

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]``."""
        return _slope(self, probe, _least_linear(self, probe)).abs()


@dataclass(frozen=True)
class ELLE(Term):
    """``(L(c) - (1 - t) L(a) - t L(b))^2`` per sample: the loss's distance from a chord, without double backward.

    ``a`` and ``b`` are uniform in the ball and ``c = (1 - t) a + t b`` with ``t`` uniform in [0, 1], sample by sample.
    E. Abad Rocamora et al., "Efficient local linearity regularization to overcome catastrophic overfitting", ICLR 2024.
    Gradients flow through all three losses.

    Args:
        threat: the ball.
        joint: the three points in one forward of ``3 B`` rows, as the authors' code.
        clip: ``"none"``, as the code; ``"box"`` keeps ``a`` and ``b``, and with them ``c``, within the bounds.
        loss: ``L``.
        mode: the mode in which the network is run.
    """

    threat: Threat | None = None
    joint: bool = True
    clip: Clip = "none"
    loss: Loss = "ce"
    mode: Mode = "train"

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_mode(self.mode)
        check_clip(self.clip)

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]``."""
        threat = self.threat or probe.required_threat()
        a, b = (Uniform(threat, number, 1.0, self.clip) for number in (0, 1))
        c = Between(a, b, 0)
        function = probe.loss_function(self.loss, self.mode)
        at_a, at_b, at_c = (
            function(z, None) for z in stacked_logits(probe, (a, b, c), self.mode, self.joint)
        )
        t = numerics.upcast(probe.noise(c)).flatten()
        return (at_c - at_a - t * (at_b - at_a)).square()


class UnusualErrors(Memory):
    """The weight of ``AdaptiveELLE``, and the number, mean and spread of the errors so far."""

    def __init__(self) -> None:
        self.weight = 0.0
        self.seen = 0
        self.mean = 0.0
        self.spread = 0.0  # sum of squared deviations from the mean

    def observe(self, error: float, sensitivity: float, decay: float) -> None:
        """Take note of a step's error and set the weight of the next."""
        deviation = math.sqrt(self.spread / self.seen) if self.seen else 0.0
        unusual = self.seen > 2 and error > self.mean + sensitivity * deviation
        self.weight = 1.0 if unusual else decay * self.weight
        self.seen += 1
        difference = error - self.mean
        self.mean += difference / self.seen
        self.spread += difference * (error - self.mean)

    def state_dict(self) -> dict[str, Any]:
        """The four numbers."""
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        if set(state) != set(vars(self)):
            raise ValueError(
                f"the state of elle_a is {', '.join(vars(self))}, but the checkpoint holds {sorted(state)}"
            )
        self.weight, self.mean, self.spread = (float(state[key]) for key in ("weight", "mean", "spread"))
        self.seen = int(state["seen"])


@dataclass(frozen=True)
class AdaptiveELLE(Term):
    """ELLE with a weight of its own that is on while the loss is unusually far from linear: ELLE-A.

    The weight is 0 at first. After every step it becomes 1 if the batch's error is more than ``sensitivity`` standard
    deviations above the mean of all earlier steps', of which there must be three, and otherwise falls by ``decay``. It
    changes after the step that it was measured on. The weight in the objective is the largest one, the authors'
    ``lambda_max``.

    It has a state, so it belongs to one objective, and each process of a distributed run has its own.

    Args:
        threat: the ball.
        sensitivity: in standard deviations.
        decay: factor per step.
        joint: the three points in one forward of ``3 B`` rows.
        clip: as ELLE's.
        loss: whose linearity.
        mode: the mode in which the network is run.
    """

    threat: Threat | None = None
    sensitivity: float = 2.0
    decay: float = 0.99
    joint: bool = True
    clip: Clip = "none"
    loss: Loss = "ce"
    mode: Mode = "train"
    memory: UnusualErrors = field(default_factory=UnusualErrors, repr=False, kw_only=True)

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_mode(self.mode)
        check_clip(self.clip)
        if not 0.0 <= self.decay <= 1.0:
            raise ValueError(f"decay is a factor per step and must lie in [0, 1], got {self.decay}")

    @property
    def name(self) -> str:
        """``elle_a``."""
        return "elle_a"

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]``: the weight times ELLE's."""
        values = ELLE(self.threat, self.joint, self.clip, self.loss, self.mode)(probe)
        error = mean_over_samples(values.detach(), self, probe)
        probe.defer(lambda: self.memory.observe(float(error), self.sensitivity, self.decay))
        return self.memory.weight * values


def direction(g: Tensor) -> tuple[Tensor, Tensor]:
    """Each sample's ``g / ||g||_2`` (0 for a zero gradient), and whether there is one ``[B]``, in at least float32."""
    g = numerics.upcast(g)
    length = numerics.norm(g, 2.0)
    there = length > 0
    safe = numerics.as_rows(torch.where(there, length, 1.0), g)
    return torch.where(there.reshape(safe.shape), g / safe, 0.0), there


def _least_linear(term: LinearityGap | FirstOrderChange, probe: Probe) -> Point:
    if term.at is not None:
        return term.at
    threat = term.threat or probe.required_threat()
    return LeastLinear(threat, 10, None, None, term.loss, _unrecorded(term.mode))


def _slope(term: LinearityGap | FirstOrderChange, probe: Probe, point: Point) -> Tensor:
    g = probe.grad(CLEAN, term.loss, term.mode, differentiable=True)
    return inner(probe.at(point) - probe.x, g)


def _unrecorded(mode: Mode) -> Mode:
    """The mode in which BatchNorm's statistics are not updated by what would be recorded in this one."""
    return "batch" if mode == "train" else mode
