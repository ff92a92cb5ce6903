"""Curvature regularisation: how much the input gradient changes along one direction.

S.-M. Moosavi-Dezfooli, A. Fawzi, J. Uesato, P. Frossard, "Robustness via Curvature Regularization, and Vice Versa",
CVPR 2019, arXiv 1811.09716 (CURE). ``||grad L(x + h v) - grad L(x)||`` is ``h ||H v||`` to first order in ``h``, ``H``
the input Hessian of the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.losses import Loss, check_loss
from robustreg.modes import Mode, check_mode
from robustreg.points import CLEAN, Point
from robustreg.probe import Probe
from robustreg.terms import Term
from robustreg.threat import steepest_direction

Direction = Literal["sign", "gradient"]


@dataclass(frozen=True)
class AlongGradient(Point):
    """``start + h v`` with ``||v||_2 = 1``: ``v`` the normalised sign of the gradient, or the normalised gradient.

    A sample whose gradient is zero stays where it is.
    """

    h: float
    direction: Direction = "sign"
    start: Point = CLEAN
    loss: Loss = "ce"
    mode: Mode = "eval"

    def locate(self, probe: Probe) -> Tensor:
        """The start plus the step."""
        g = probe.grad(self.start, self.loss, self.mode)
        along = torch.sign(g) if self.direction == "sign" else g
        return probe.at(self.start) + self.h * steepest_direction(along, 2.0)


@dataclass(frozen=True)
class Curvature(Term):
    """``||grad L(x + h v) - grad L(x)||_2^2`` per sample, both gradients differentiated again, ``v`` constant.

    The squared form with ``v = sign(g) / ||sign(g)||_2`` is the paper's (recalled); the authors' code, which was
    seen, penalises the norm unsquared. The gradients are those of each sample's own loss.

    Args:
        h: length of the step in l2, on the pixel scale 0-1. The authors give it in units of inputs normalised by
            the channels' standard deviations: there h = 3 is about 0.6 here.
        direction: ``"sign"`` or ``"gradient"``, for ``v = g / ||g||_2``.
        squared: False for the form of the authors' code.
        at: where the curvature is measured.
        end: any other point to compare the gradient with, in place of ``x + h v``.
        loss: whose gradient.
        mode: the mode in which the network is run; the authors' code evaluates the penalty in ``"eval"``.
    """

    h: float = 0.6
    direction: Direction = "sign"
    squared: bool = True
    at: Point = CLEAN
    end: Point | None = None
    loss: Loss = "ce"
    mode: Mode = "eval"

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_mode(self.mode)
        if self.direction not in ("sign", "gradient"):
            raise ValueError(f"direction must be 'sign' or 'gradient', got {self.direction!r}")
        if not self.h > 0:
            raise ValueError(f"h is the length of the step and must be positive, got {self.h}")

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]``."""
        end = self.end
        if end is None:
            end = AlongGradient(self.h, self.direction, self.at, self.loss, self.mode)
        here = probe.grad(self.at, self.loss, self.mode, differentiable=True)
        # The difference of two gradients needs the same dropout masks on both ends.
        there = probe.grad(end, self.loss, self.mode, differentiable=True, dropout_of=self.at)
        change = numerics.upcast(there) - numerics.upcast(here)
        return numerics.flatten(change).square().sum(1) if self.squared else numerics.norm(change, 2.0)
