"""How the gradient turns along an attack's step: what SORA measures, and a warning of catastrophic overfitting.

M. Teymourian et al., SORA, arXiv 2606.00738. **What is known:** the authors' code. **What is inferred:** whatever their
paper's text says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.attacks.adaptive_step import SoraStep
from robustreg.attacks.linearity import inner
from robustreg.losses import Loss, check_loss, needs_labels
from robustreg.modes import Mode, check_mode
from robustreg.penalties.linearity import direction
from robustreg.points import CLEAN, Point
from robustreg.probe import Probe
from robustreg.terms import Term
from robustreg.threat import steepest_direction


@dataclass(frozen=True)
class PertAlign(Term):
    """``cos(grad L(start), grad L(end))`` per sample, ``end`` being where an attack gets from ``start``: a constant.

    Near 1 the loss is linear along the step; where it falls, the network has begun to curve the loss within the step,
    which is how catastrophic overfitting starts. It is made to be logged, ``0 * PertAlign(attack)``; a penalty on the
    same angle is ``GradAlign``. Beside a ``SoraLoss`` at the same attack it costs nothing; otherwise a forward and a
    backward to the input, which are not part of the loss.

    A sample whose gradient is 0 at either end counts 0.

    Args:
        adversary: the attack.
        start: where its step begins; by default the first point that the attack is built from, or the sample.
        loss: whose gradients.
        find: the mode of the gradient at the start; the attack's own shares its pass.
        mode: the mode of the gradient at the end.
    """

    adversary: Point | None = None
    start: Point | None = None
    loss: Loss = "ce"
    find: Mode = "train"
    mode: Mode = "train"

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_mode(self.find)
        check_mode(self.mode)

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]`` in [-1, 1], without a graph."""
        if self.adversary is None:
            raise ValueError(f"the term {self.name} needs an adversary: pass a point such as RS_FGSM(threat)")
        first = start_of(self.adversary) if self.start is None else self.start
        before, _ = direction(probe.grad(first, self.loss, self.find))
        after, _ = direction(probe.grad(self.adversary, self.loss, self.mode))
        return inner(before, after)


@dataclass(frozen=True)
class SoraLoss(Term):
    """The loss at a ``SoraStep``, which also measures how linear the loss was along the step and tells the point.

    The measure is the mean over the samples of ``<e, grad L(point)> / <e, grad L(start)>`` with ``e`` the steepest
    direction at the start (for ``linf`` ``<sign g, g'> / ||g||_1``), clipped to [-1, 1]. It costs one backward to the
    input beside those of the attack and the loss. Samples whose gradient at the start is 0 are left out.

    Args:
        at: the point, which says the loss.
        mode: the mode in which the network is run there.
    """

    at: SoraStep
    mode: Mode = "train"

    def __post_init__(self) -> None:
        check_mode(self.mode)

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]``."""
        at = self.at
        # before the loss: a forward that is first asked for its logits might have to run again
        linearity, counted = self._linearity(probe)
        probe.defer(
            lambda: at.memory.observe(float(linearity / counted), at.initial, at.rate), memory=at.memory
        )
        return probe.loss(at, at.loss, self.mode)

    def _linearity(self, probe: Probe) -> tuple[Tensor, Tensor]:
        """The sum of the samples' linearities, and how many they are."""
        at = self.at
        after = numerics.upcast(probe.grad(at, at.loss, self.mode))
        before = numerics.upcast(probe.grad(at.first(), at.loss, at.mode))
        e = steepest_direction(before, at.threat.norm)
        slope = inner(e, before)
        counted = slope > 0
        if needs_labels(at.loss):
            counted = counted & (probe.labels() >= 0)
        rows = torch.where(counted, inner(e, after) / torch.where(slope > 0, slope, 1.0), 0.0)
        return rows.sum(), counted.sum()


def start_of(adversary: Point) -> Point:
    """The point from which an attack takes its first step: the first that it is built from, or the sample."""
    return next(iter(adversary.parts()), CLEAN)
