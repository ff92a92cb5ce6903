"""Regularisers of single-step adversarial training: SAT-R1, SAT-R2 and SAT-R3.

B. S. Vivek and R. V. Babu, "Regularizers for Single-step Adversarial Training", arXiv 2002.00614, 2020. **What is
known:** the abstract and the authors' code (val-iisc/SAT-Rx), which these terms follow. **What is inferred:** anything
that the paper's text, which was not to be had, says otherwise.

Networks trained on single-step attacks learn to make these attacks weak (gradient masking). Each term penalises one
symptom of it: a multi-step attack ends elsewhere than the single-step one (R1), a step from a noisy start too (R2), the
loss along the step rises early and falls again (R3). All three train on adversarial samples only; the points of a loss
go through the network together, in one training forward, so BatchNorm's statistics are those of all of them. The
attacks are made in evaluation mode and are constants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustreg.attacks.single_step import IFGSM, Rademacher, last_labelled
from robustreg.attacks.stack import Stack, stacked_logits
from robustreg.discrepancies import squared_logits
from robustreg.losses import Loss, check_loss
from robustreg.modes import Mode, check_mode
from robustreg.penalties.consistency import Consistency
from robustreg.points import CLEAN, FGSM, Clip, Steepest
from robustreg.probe import Probe
from robustreg.terms import Term, mean_over_samples
from robustreg.threat import Threat

Budget = Literal["full", "eps_minus_alpha"]


@dataclass(frozen=True)
class JointLoss(Term):
    """The loss per sample at one of several points that go through the network together.

    It shares the forward of the terms that look at the same stack, as ``CrossEntropy(at=...)`` shares that of a point.

    Args:
        stack: the points.
        part: which of them; it must look at every sample.
        loss: the loss there.
        mode: the mode in which the network is run.
    """

    stack: Stack
    part: int = 0
    loss: Loss = "ce"
    mode: Mode = "train"

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_mode(self.mode)
        if not 0 <= self.part < len(self.stack.points):
            raise ValueError(f"part is one of the {len(self.stack.points)} points, from 0, got {self.part}")

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]``."""
        logits = stacked_logits(probe, self.stack.points, self.mode)[self.part]
        return probe.loss_function(self.loss, self.mode)(logits, None)


@dataclass(frozen=True)
class SatR1(Term):
    """SAT-R1: ``||z(FGSM) - z(IFGSM)||_2^2`` between the logits of the single- and the multi-step attack.

    As in the authors' code the multi-step attack is made for **one** sample of the batch, the last labelled one (a
    random one, where batches are shuffled), and its logits come from the same forward as those of the whole batch. **A
    scalar**, whatever the batch size: the mean over these samples. Whether the paper's text says one sample or more is
    not known. Gradients flow through both logits.

    Args:
        threat: norm, radius and box.
        steps: of the multi-step attack, ``eps / steps`` each.
        samples: how many samples at the end of the batch it is made for; None for all, and then values ``[B]``.
        loss: the loss that the attacks climb.
        find: the mode in which the attacks are made.
        mode: the mode in which the logits are taken.
    """

    threat: Threat | None = None
    steps: int = 10
    samples: int | None = 1
    loss: Loss = "ce"
    find: Mode = "eval"
    mode: Mode = "train"

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_mode(self.find)
        check_mode(self.mode)
        if self.steps < 1:
            raise ValueError(f"SAT-R1 needs steps >= 1, got {self.steps}")
        if self.samples is not None and self.samples < 1:
            raise ValueError(f"samples is a number from 1, or None for all, got {self.samples}")

    @property
    def needs(self) -> frozenset[str]:
        """Labels, which say what the last labelled sample is, and a threat where there is none."""
        return super().needs | {"labels"}

    def stack(self, threat: Threat) -> Stack:
        """The two attacks: FGSM for the batch and, below it, IFGSM for its last samples."""
        fgsm = FGSM(threat, CLEAN, 1.0, self.loss, self.find)
        return Stack((fgsm, IFGSM(threat, self.steps, self.samples, self.loss, self.find)))

    def __call__(self, probe: Probe) -> Tensor:
        """A scalar, or values ``[B]`` for ``samples=None``."""
        points = self.stack(self.threat or probe.required_threat()).points
        single, multi = stacked_logits(probe, points, self.mode)
        if self.samples is None:
            return squared_logits(single, multi)
        rows = last_labelled(probe.labels(), self.samples)
        counts = probe.labels()[rows] >= 0
        gaps = torch.where(counts, squared_logits(single[rows], multi), 0.0)
        return gaps.sum() / counts.sum().clamp(min=1)


@dataclass(frozen=True)
class SatR2(Term):
    """SAT-R2: ``||z(FGSM) - z(R-FGSM)||_2^2`` per sample, between a step from the sample and one from a noisy start.

    Gradients flow through both logits. Where the sign of the gradient does not change with the noise, its mean over the
    noise is ``alpha^2 ||J||_F^2`` (in pixel units), the Jacobian penalty; what it adds to it are the sign flips.

    Args:
        threat: norm, radius and box.
        alpha: size of the noise as a multiple of ``eps``; the authors' is 0.01 for ``eps`` 0.3.
        budget: ``"full"`` steps the whole ``eps`` from the noisy start as the code does, so that the point is up to
            ``eps + alpha`` from the sample; ``"eps_minus_alpha"`` is the usual R-FGSM.
        clip_start: keep the noisy start within the box; the code of R2 does not, that of R3 does.
        joint: both points in one forward, as the code; otherwise each has one of its own that other terms can share.
        loss: the loss that the attacks climb.
        find: the mode in which the attacks are made.
        mode: the mode in which the logits are taken.
    """

    threat: Threat | None = None
    alpha: float = 1 / 30
    budget: Budget = "full"
    clip_start: bool = False
    joint: bool = True
    loss: Loss = "ce"
    find: Mode = "eval"
    mode: Mode = "train"

    def __post_init__(self) -> None:
        _check_start(self.alpha, self.budget, 1.0)
        check_loss(self.loss)
        check_mode(self.find)
        check_mode(self.mode)

    def stack(self, threat: Threat) -> Stack:
        """The two attacks: FGSM and R-FGSM."""
        fgsm = FGSM(threat, CLEAN, 1.0, self.loss, self.find)
        start = Rademacher(threat, 0, self.alpha, _clip(self.clip_start))
        step = _step(1.0, self.alpha, self.budget)
        return Stack((fgsm, Steepest(threat, start, step, self.loss, self.find, "box")))

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]``."""
        single, noisy = self.stack(self.threat or probe.required_threat()).points
        agreement = Consistency(noisy, "squared_logits", single, False, self.mode, None, self.joint)
        return agreement(probe)


@dataclass(frozen=True)
class SatR3(Term):
    """SAT-R3: ``relu(l_low - tau * l_high)``: a small step must not cost more than a share of what the full step does.

    ``l_low`` and ``l_high`` are the mean losses of the batch after a small and a full step from the same noisy start in
    the same direction. The hinge is on these means, so the term is **a scalar**. Beside the loss at the full step with
    weight 1 and this term with weight ``lambda``, an active hinge leaves the full step's loss the weight
    ``1 - lambda * tau``.

    Args:
        threat: norm, radius and box; its ``eps`` is the full step.
        tau: the share.
        low: the small step as a multiple of ``eps``.
        alpha: size of the start's noise as a multiple of ``eps``.
        budget: ``"full"`` takes the steps whole as the code does; ``"eps_minus_alpha"`` shortens both by ``alpha``.
        clip_start: keep the noisy start within the box, as the code.
        joint: both points in one forward, as the code; otherwise each has one of its own that other terms can share.
        loss: the loss that is climbed and compared.
        find: the mode in which the steps are found.
        mode: the mode in which the losses are taken.
    """

    threat: Threat | None = None
    tau: float = 0.4
    low: float = 1 / 3
    alpha: float = 1 / 30
    budget: Budget = "full"
    clip_start: bool = True
    joint: bool = True
    loss: Loss = "ce"
    find: Mode = "eval"
    mode: Mode = "train"

    def __post_init__(self) -> None:
        _check_start(self.alpha, self.budget, self.low)
        check_loss(self.loss)
        check_mode(self.find)
        check_mode(self.mode)
        if not 0 <= self.low <= 1:
            raise ValueError(f"low is the small step as a multiple of eps, in [0, 1], got {self.low}")

    def stack(self, threat: Threat) -> Stack:
        """The two points: after the small step and after the full one."""
        start = Rademacher(threat, 0, self.alpha, _clip(self.clip_start))
        small, full = (_step(size, self.alpha, self.budget) for size in (self.low, 1.0))
        return Stack(
            (
                Steepest(threat, start, small, self.loss, self.find, "box"),
                Steepest(threat, start, full, self.loss, self.find, "box"),
            )
        )

    def __call__(self, probe: Probe) -> Tensor:
        """A scalar."""
        points = self.stack(self.threat or probe.required_threat()).points
        function = probe.loss_function(self.loss, self.mode)
        low, high = (
            mean_over_samples(function(z, None), self, probe)
            for z in stacked_logits(probe, points, self.mode, self.joint)
        )
        return (low - self.tau * high).relu()


def _clip(start: bool) -> Clip:
    return "box" if start else "none"


def _step(size: float, alpha: float, budget: Budget) -> float:
    return size if budget == "full" else size - alpha


def _check_start(alpha: float, budget: Budget, smallest: float) -> None:
    if budget not in ("full", "eps_minus_alpha"):
        raise ValueError(f"budget must be 'full' or 'eps_minus_alpha', got {budget!r}")
    if not alpha >= 0:
        raise ValueError(f"alpha is the size of the noise as a multiple of eps and must be >= 0, got {alpha}")
    if budget == "eps_minus_alpha" and alpha > smallest:
        raise ValueError(
            f"budget='eps_minus_alpha' leaves no step: alpha {alpha:g} is more than the step, {smallest:g}"
        )
