"""Steepest steps in an l_p norm that each sample's gradient chooses: adaptive lp-FGSM.

F. B. Mehouachi and S. E. Jabari, "Adaptive Norm Selection Prevents Catastrophic Overfitting in Fast Adversarial
Training", 2025, arXiv 2505.02360.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from robustreg import numerics
from robustreg.concentration import adaptive_exponent
from robustreg.losses import Loss, check_loss
from robustreg.modes import Mode, check_mode
from robustreg.points import CLEAN, Clip, Point, Uniform, check_clip, clipped
from robustreg.probe import Probe
from robustreg.threat import Threat, steepest_direction


@dataclass(frozen=True, kw_only=True)
class LpNorm:
    """Which norm a step is measured in: that of one ``p``, or of a ``p`` for each sample, read off its gradient.

    Args:
        p: a number from 1; ``"relative"``, the authors' rule, ``q = 1 + beta / dH``; or ``"absolute"``,
            ``q = 1 + max(0, tau sqrt(d / PR1) - 1) / dH``, with ``1/p + 1/q = 1`` and ``q`` in [1.00098, 2]. See
            ``robustreg.concentration`` for ``dH`` and ``PR1``.
        beta: of the relative rule: by which share the cosine with the l2 step is to grow over the sign's.
        tau: of the absolute rule: the cosine with the l2 step that is asked for, in (0, 1].
        rescale: take the radius ``eps * D^(1/p)``, ``D`` the number of features, so that a gradient whose entries are
            all of one size moves each of them by ``eps`` whatever ``p``; without, by ``eps * D^(-1/p)``. The ball then
            holds that of linf, and the step may leave it.
        floor: added to the size of every entry before ``dH`` and ``PR1`` are measured; with 0, entries that are exactly
            0 are left out. The authors add 1e-12 to the gradient of a batch's mean loss, which is ``1e-12 B`` here.
    """

    p: float | Literal["relative", "absolute"] = "relative"
    beta: float = 0.01
    tau: float = 0.8
    rescale: bool = False
    floor: float = 0.0

    def __post_init__(self) -> None:
        if not self.floor >= 0:
            raise ValueError(
                f"floor is added to the size of a gradient's entries and must be >= 0, got {self.floor}"
            )
        if self.p not in ("relative", "absolute") and not (isinstance(self.p, (int, float)) and self.p >= 1):
            raise ValueError(f"p must be 'relative', 'absolute' or a number from 1, got {self.p!r}")
        if not self.beta >= 0:
            raise ValueError(f"beta is a share by which a cosine grows and must be >= 0, got {self.beta}")
        if not 0 < self.tau <= 1:
            raise ValueError(f"tau is a cosine and must lie in (0, 1], got {self.tau}")

    def exponent(self, g: Tensor) -> float | Tensor:
        """``p`` for gradients ``[B, ...]``: the number, or ``[B]`` as a constant."""
        if self.p == "relative" or self.p == "absolute":
            g = numerics.upcast(g).abs() + self.floor if self.floor else g
            return adaptive_exponent(g, self.p, self.beta if self.p == "relative" else self.tau)
        return float(self.p)

    def steepest(self, g: Tensor, eps: float) -> Tensor:
        """The steepest step ``[B, ...]`` of length ``eps`` for gradients ``[B, ...]``, a constant.

        ``eps * sign(g) * (|g| / ||g||_q)^(q - 1)``, in at least float32.
        """
        p = self.exponent(g)
        radius = self._radius(g, p, eps)
        if isinstance(radius, Tensor):
            radius = numerics.as_rows(radius, g)
        return radius * steepest_direction(numerics.upcast(g), p)

    def rise(self, g: Tensor, eps: float) -> Tensor:
        """``eps * ||g||_q`` per sample ``[B]``, what that step gains along ``g``; differentiable, ``q`` a constant."""
        p = self.exponent(g)
        return self._radius(g, p, eps) * numerics.norm(g, numerics.dual_exponent(p))

    def _radius(self, g: Tensor, p: float | Tensor, eps: float) -> float | Tensor:
        return eps * numerics.flatten(g).shape[1] ** (1 / p) if self.rescale else eps


@dataclass(frozen=True)
class LpFGSM(LpNorm, Point):
    """One steepest step in an l_p norm, of length ``eps`` in that norm: FGSM for ``q -> 1``, an l2 step for ``q = 2``.

    ``base + scale * delta`` with ``delta = eps * sign(g) * (|g| / ||g||_q)^(q - 1)``, ``g`` the gradient of the loss at
    ``start``. By default ``q`` is chosen sample by sample from how concentrated ``g`` is (Mehouachi & Jabari 2025). No
    feature moves by more than ``eps``, most move by less. The point is a constant: no gradient flows through it.

    Args:
        threat: radius and box; its norm only matters to ``clip="threat"``.
        start: where the gradient is taken.
        base: what the step is added to; by default ``start``.
        scale: length of the step as a multiple of ``eps``; negative descends.
        loss: the loss that is climbed.
        mode: the mode in which the network is run to find the gradient.
        clip: ``"none"`` is the authors' code; ``"box"`` keeps the point in the bounds, ``"threat"`` in ball and box.
        p: the norm: a number from 1, ``"relative"`` or ``"absolute"``.
        beta: share by which the relative rule raises the cosine with the l2 step.
        tau: the cosine with the l2 step that the absolute rule asks for.
        rescale: take the radius ``eps * D^(1/p)``, ``D`` the number of features.
        floor: added to the size of every entry before ``q`` is chosen.
    """

    threat: Threat
    start: Point = CLEAN
    base: Point | None = None
    scale: float = 1.0
    loss: Loss = "ce"
    mode: Mode = "eval"
    clip: Clip = "none"

    def __post_init__(self) -> None:
        LpNorm.__post_init__(self)
        check_loss(self.loss)
        check_mode(self.mode)
        check_clip(self.clip)

    def locate(self, probe: Probe) -> Tensor:
        """The base plus the step."""
        g = probe.grad(self.start, self.loss, self.mode)
        step = self.scale * self.steepest(g, self.threat.eps)
        base = probe.at(self.start if self.base is None else self.base)
        return clipped(base + step.to(base.dtype), probe.x, self.threat, self.clip)


@dataclass(frozen=True)
class LpNoise(Point):
    """The sample plus ``Uniform``'s noise, reshaped to length ``eps`` in an l_p norm.

    ``eps * sign(u) * (|u| / ||u||_q)^(q - 1)`` with the draw ``u`` of ``Uniform(threat, number, 1.0, "none")``, with
    which it shares that draw. Where the older code of lp-FGSM takes its gradient.

    Args:
        threat: radius.
        p: of the norm, a number from 1.
        number: of the draw.
    """

    threat: Threat
    p: float = 32.0
    number: int = 0

    def __post_init__(self) -> None:
        if not self.p >= 1:
            raise ValueError(f"p must be a number from 1, got {self.p!r}")

    def parts(self) -> Iterator[Point]:
        """The noise."""
        yield self._noise()

    def locate(self, probe: Probe) -> Tensor:
        """The sample plus the noise."""
        return probe.x + self.threat.eps * steepest_direction(probe.noise(self._noise()), self.p)

    def _noise(self) -> Point:
        return Uniform(self.threat, self.number, 1.0, "none")
