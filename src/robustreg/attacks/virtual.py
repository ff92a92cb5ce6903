"""Virtual adversarial points: where the prediction changes fastest, found without labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.modes import Mode, check_mode
from robustreg.points import Clip, Point, check_clip, clipped
from robustreg.probe import Probe
from robustreg.threat import Threat, steepest_direction

_XI = {torch.float64: 1e-6, torch.float32: 0.1}


@dataclass(frozen=True)
class Virtual(Point):
    """The virtual adversarial point of Miyato et al. (VAT, TPAMI 2018), by power iteration.

    From a random direction ``d``, repeat ``d <- grad_d KL(p(x) || p(x + xi d))`` normalised in l2: to second order
    the divergence is ``1/2 r^T H r``, and the gradient at ``xi d`` is ``xi H d``. Then ``x + r`` with ``r`` the
    steepest step for the last gradient, ``eps d`` for an l2 threat. The divergence is even to second order, so the sign
    of ``r`` is arbitrary. No labels are read. In modes with dropout each forward has masks of its own.

    Args:
        threat: norm and radius of ``r``.
        iterations: of the power iteration; 0 leaves a random direction.
        xi: l2 length of the probing step. The authors' code has 1e-6, which only float64 resolves (the default
            there); by default 0.1 in float32 and 1 below.
        number: of the draw: equal points share theirs, another number makes another.
        mode: the mode in which the network is run to find the point.
        clip: ``"none"`` is the mathematics; ``"box"`` keeps the point in the bounds, ``"threat"`` in ball and box.
    """

    threat: Threat
    iterations: int = 1
    xi: float | None = None
    number: int = 0
    mode: Mode = "eval"
    clip: Clip = "none"

    def __post_init__(self) -> None:
        check_mode(self.mode)
        check_clip(self.clip)
        if self.iterations < 0:
            raise ValueError(f"Virtual needs iterations >= 0, got {self.iterations}")
        if self.xi is not None and not self.xi > 0:
            raise ValueError(f"xi is the length of the probing step and must be positive, got {self.xi}")

    def draw(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """A normal direction ``[B, ...]``."""
        return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)

    def locate(self, probe: Probe) -> Tensor:
        """The sample plus ``r``."""
        xi = _XI.get(probe.x.dtype, 1.0) if self.xi is None else self.xi
        d = probe.noise(self)
        for i in range(self.iterations):
            z = probe.x + xi * steepest_direction(d, 2.0)
            _, _, g = probe.ascend(z, None, "kl", self.mode, self, i, point=self)
            assert g is not None  # asked for by default
            # A prediction that does not move says nothing of a direction: keep the one there is.
            flat = numerics.as_rows(numerics.norm(g, 2.0) == 0, g)
            d = torch.where(flat, d, g)
        return clipped(probe.x + self.threat.steepest(d), probe.x, self.threat, self.clip)
