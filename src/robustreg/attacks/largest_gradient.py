"""The point of the ball where the loss is steepest: ascent on the norm of the input gradient."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from robustreg.losses import Loss, check_loss
from robustreg.modes import Mode, check_mode
from robustreg.points import CLEAN, Clip, Point, Steepest, check_clip, clipped
from robustreg.probe import Probe
from robustreg.threat import Threat


@dataclass(frozen=True)
class LargestGradient(Point):
    """``x + r``, ``r`` the steepest step of length ``eps`` for ``||grad L||_{p*}``, seen from ``start``.

    The gradient of ``||g||_{p*}`` is ``H v``, ``v`` the unit direction along which the loss rises fastest, here as
    the difference of two gradients, ``g(start + step * eps * v) - g(start)``. For a quadratic loss whose gradient
    vanishes at the sample, taking this point as the next one's ``start`` is power iteration on ``H^2``.

    Args:
        threat: ball and box.
        start: where the ascent begins. With ``loss="kl"`` it must not be the sample, where that gradient is 0.
        step: of the finite difference, as a fraction of ``eps``.
        loss: whose gradient.
        mode: the mode in which the network is run to find the point.
        clip: ``"none"`` is the mathematics; ``"box"`` keeps the point in the bounds, ``"threat"`` in ball and box.
    """

    threat: Threat
    start: Point = CLEAN
    step: float = 0.1
    loss: Loss = "ce"
    mode: Mode = "eval"
    clip: Clip = "none"

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_mode(self.mode)
        check_clip(self.clip)
        if not self.step > 0:
            raise ValueError(
                f"step is the length of the finite difference and must be positive, got {self.step}"
            )

    def locate(self, probe: Probe) -> Tensor:
        """The sample plus ``r``."""
        near = Steepest(self.threat, self.start, self.step, self.loss, self.mode, "none")
        # The same dropout masks on both ends: masks that differ would be all of the difference.
        rise = probe.grad(near, self.loss, self.mode, dropout_of=self.start) - probe.grad(
            self.start, self.loss, self.mode
        )
        return clipped(probe.x + self.threat.steepest(rise), probe.x, self.threat, self.clip)
