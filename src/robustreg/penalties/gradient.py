"""The gradient-regularisation family: the dual norm of the input gradient, and the loss at the steepest point.

C. Lyu, K. Huang, H.-N. Liang, "A Unified Gradient Regularization Family for Adversarial Examples", ICDM 2015,
arXiv 1511.06385. With ``g`` the input gradient of a sample's loss and ``1/p + 1/p* = 1``:

    max_{||e||_p <= eps} L(x + e)  =  L(x) + eps * ||g||_{p*} + O(eps^2)

``GradientNorm`` is the first-order term on its own (form A), ``Perturbed`` the loss at the maximiser of the
linearised problem (form B). To first order ``CrossEntropy() + GradientNorm(threat)`` and ``Perturbed(threat)`` are the
same objective. ``AdaptiveGradientNorm`` is form A in a norm that each sample's gradient chooses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from robustreg.attacks.adaptive import LpFGSM, LpNorm
from robustreg.losses import Loss, check_loss
from robustreg.modes import Mode, check_mode
from robustreg.points import CLEAN, Clip, Point, Steepest, check_clip
from robustreg.probe import Probe
from robustreg.terms import Term
from robustreg.threat import Threat

Estimator = Literal["double", "forward", "central"]


@dataclass(frozen=True)
class GradientNorm(Term):
    """``eps * ||grad_x L(x)||_{p*}`` per sample: the first-order increase of the loss within the threat.

    With weight 1 beside the cross-entropy it is form A of Lyu et al. 2015. ``p = inf`` penalises the l1 norm of the
    gradient, ``p = 2`` the l2 norm, ``p = 1`` the largest coordinate.

    Args:
        threat: norm ``p`` and radius ``eps`` (the paper's sigma).
        squared: penalise ``(eps * ||g||)^2`` instead (double backpropagation, Drucker & LeCun 1992).
        estimator: ``"double"`` differentiates the gradient again (exact). ``"forward"`` is the difference quotient
            ``(L(x + h e) - L(x)) / h`` along the steepest step ``e`` held constant, ``"central"`` the one between
            ``x +- h e / 2``: no double backward, and their parameter gradients tend to the exact one as ``h -> 0``,
            because ``e`` is the maximiser (envelope theorem).
        step: ``h``, as a fraction of ``e``. In float32 0.01 balances rounding against bias.
        at: where the gradient is taken.
        loss: whose gradient.
        mode: the mode in which the network is run.
    """

    threat: Threat | None = None
    squared: bool = False
    estimator: Estimator = "double"
    step: float = 0.01
    at: Point = CLEAN
    loss: Loss = "ce"
    mode: Mode = "train"

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_mode(self.mode)
        if self.estimator not in ("double", "forward", "central"):
            raise ValueError(f"estimator must be 'double', 'forward' or 'central', got {self.estimator!r}")
        if not self.step > 0:
            raise ValueError(
                f"step is the length of the finite difference and must be positive, got {self.step}"
            )

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]``, on the scale of the loss."""
        threat = self.threat or probe.required_threat()
        increase = (
            self._exact(probe, threat) if self.estimator == "double" else self._difference(probe, threat)
        )
        return increase.square() if self.squared else increase

    def _exact(self, probe: Probe, threat: Threat) -> Tensor:
        return threat.eps * threat.dual_norm(probe.grad(self.at, self.loss, self.mode, differentiable=True))

    def _difference(self, probe: Probe, threat: Threat) -> Tensor:
        ends = (1.0, 0.0) if self.estimator == "forward" else (0.5, -0.5)
        upper, lower = (self._loss_along(probe, threat, end * self.step) for end in ends)
        return probe.combined((1 / self.step, upper), (-1 / self.step, lower))

    def _loss_along(self, probe: Probe, threat: Threat, t: float) -> Tensor:
        if t == 0.0:
            return probe.loss(self.at, self.loss, self.mode)
        # The ends of the difference run with the statistics untouched and, above all, with the same dropout masks:
        # masks that differ would put their difference over h.
        mode: Mode = "batch" if self.mode == "train" else self.mode
        return probe.loss(self._end(threat, t, mode), self.loss, mode, dropout_of=self.at)

    def _end(self, threat: Threat, t: float, mode: Mode) -> Point:
        return Steepest(threat, start=self.at, scale=t, loss=self.loss, mode=mode)


@dataclass(frozen=True)
class AdaptiveGradientNorm(LpNorm, GradientNorm):
    """``eps * ||grad_x L(x)||_q`` per sample, with a norm that each sample's gradient chooses.

    The first-order increase of the loss within an l_p ball: ``q = 1`` is ``GradientNorm`` for ``linf``, ``q = 2`` for
    ``l2``, and ``q`` is found as for ``LpFGSM`` (Mehouachi & Jabari 2025), whose steepest step is the one of the finite
    differences. ``q`` is a constant. The penalty is no published method.

    Args:
        threat: radius ``eps``; its norm does not matter.
        squared: penalise the square instead.
        estimator: ``"double"``, ``"forward"`` or ``"central"``, as for ``GradientNorm``.
        step: length of the finite difference, as a fraction of the steepest step.
        at: where the gradient is taken.
        loss: whose gradient.
        mode: the mode in which the network is run.
        p: the norm of the step: a number from 1, ``"relative"`` or ``"absolute"``, as for ``LpFGSM``.
        beta: share by which the relative rule raises the cosine with the l2 step.
        tau: the cosine with the l2 step that the absolute rule asks for.
        rescale: take the radius ``eps * D^(1/p)``, ``D`` the number of features. The value then is at least that of
            ``GradientNorm`` for ``linf``, and equal to it where all entries of the gradient are of one size; without,
            it is at most that, and a small ``p`` also regularises less.
        floor: added to the size of every entry before ``q`` is chosen, as for ``LpFGSM``.
    """

    def __post_init__(self) -> None:
        LpNorm.__post_init__(self)
        GradientNorm.__post_init__(self)

    def _exact(self, probe: Probe, threat: Threat) -> Tensor:
        return self.rise(probe.grad(self.at, self.loss, self.mode, differentiable=True), threat.eps)

    def _end(self, threat: Threat, t: float, mode: Mode) -> Point:
        return LpFGSM(
            threat,
            start=self.at,
            base=None,
            scale=t,
            loss=self.loss,
            mode=mode,
            clip="none",
            p=self.p,
            beta=self.beta,
            tau=self.tau,
            rescale=self.rescale,
            floor=self.floor,
        )


@dataclass(frozen=True)
class Perturbed(Term):
    """``L(x + e)`` per sample at the steepest point: form B of Lyu et al. 2015, FGSM training for ``p = inf``.

    ``e`` has length ``eps`` in the threat's norm and is a constant. It is found on the training network (dropout
    active, batch statistics) without updating BatchNorm's statistics; the loss forward is an ordinary training one.

    Args:
        threat: norm ``p`` and radius ``eps`` (the paper's sigma).
        loss: the loss, for the step and at the point.
        clip: ``"none"`` is the paper's mathematics; ``"box"`` keeps ``x + e`` within the bounds.
        same_dropout: run the point with the clean sample's dropout masks instead of its own.
        find: mode in which ``e`` is found.
        mode: mode in which the loss is taken.
    """

    threat: Threat | None = None
    loss: Loss = "ce"
    clip: Clip = "none"
    same_dropout: bool = False
    find: Mode = "batch"
    mode: Mode = "train"

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_clip(self.clip)
        check_mode(self.find)
        check_mode(self.mode)

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]``."""
        threat = self.threat or probe.required_threat()
        # every field is spelt out: torch.compile cannot trace a dataclass's default that is an object
        point = Steepest(threat, start=CLEAN, loss=self.loss, mode=self.find, clip=self.clip)
        return probe.loss(point, self.loss, self.mode, dropout_of=CLEAN if self.same_dropout else None)
