"""Cross-Lipschitz regularisation and its relatives: how fast the *differences* of logits move.

M. Hein, M. Andriushchenko, "Formal Guarantees on the Robustness of a Classifier against Adversarial Manipulation",
NIPS 2017. With ``J_k`` the input gradient of logit ``k`` and ``J_c`` the rows minus their mean,

    1/C^2 sum_{l,m} ||J_l - J_m||^2  =  (2/C) ||J_c||_F^2,

so the double sum over classes costs ``C`` input gradients. Unlike the Jacobian's norm it is blind to a direction that
all logits share, as the softmax is. :class:`AnchoredCrossLipschitz` and :class:`FisherTrace` are ours: they follow from
identities that relate this penalty, the input gradient and the curvature of the cross-entropy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.losses import RowLoss
from robustreg.modes import Mode, check_mode
from robustreg.penalties.jacobian import (
    Projection,
    check_projections,
    class_gradients,
    sum_of_squares,
)
from robustreg.points import CLEAN, Point
from robustreg.probe import Probe
from robustreg.terms import Term

Weights = Literal["uniform", "probability"]


@dataclass(frozen=True)
class CrossLipschitz(Term):
    """``1/C^2 sum_{l,m} ||J_l - J_m||_2^2`` per sample, both orders counted, label-free (Hein & Andriushchenko 2017).

    Args:
        projections: None for the exact value, one input gradient for each class; a number ``n`` for the unbiased
            estimate ``2/(C n) sum_i ||J^T P u_i||^2`` with ``E u u^T = I`` and ``P`` removing the mean.
        at: where the gradients are taken.
        mode: the mode in which the network is run.
    """

    projections: int | None = None
    at: Point = CLEAN
    mode: Mode = "train"

    def __post_init__(self) -> None:
        check_mode(self.mode)
        check_projections(self.projections)

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]``."""
        if self.projections is None:
            rows = class_gradients(probe, self.at, self.mode)
            # Centred first: the difference of the two sums would cancel where the logits share a large direction.
            mean = torch.stack(rows).mean(0)
            return 2 / len(rows) * sum_of_squares([row - mean for row in rows])
        rows = [
            probe.grad(self.at, Projection(number, centred=True), self.mode, differentiable=True)
            for number in range(self.projections)
        ]
        classes = probe.logits(self.at, self.mode).shape[1]
        return 2 / (classes * self.projections) * sum_of_squares(rows)


@dataclass(frozen=True)
class AnchoredCrossLipschitz(Term):
    """``sum_{k != y} w_k ||J_k - J_y||_2^2`` per sample: only the differences that can change the decision. Ours.

    With ``w = p`` it is the squared input gradient plus the trace of the input Hessian of the cross-entropy (exactly,
    in a linear region of the network). Confident networks make that small without being robust; ``floor`` keeps the
    weights up.

    Args:
        weights: ``"uniform"`` for ``w_k = 1/(C - 1)``; ``"probability"`` for ``w_k = max(p_k, floor)``, constant.
        floor: the least weight of a class.
        projections: None for the exact value, one input gradient for each class; a number for the unbiased estimate
            from so many random combinations ``sum_{k != y} +-sqrt(w_k) (J_k - J_y)``.
        at: where the gradients are taken.
        mode: the mode in which the network is run.
    """

    weights: Weights = "uniform"
    floor: float = 0.0
    projections: int | None = None
    at: Point = CLEAN
    mode: Mode = "train"

    needs = frozenset({"labels"})

    def __post_init__(self) -> None:
        check_mode(self.mode)
        check_projections(self.projections)
        if self.weights not in ("uniform", "probability"):
            raise ValueError(f"weights must be 'uniform' or 'probability', got {self.weights!r}")
        if not 0.0 <= self.floor <= 1.0:
            raise ValueError(f"floor is the least weight of a class and must lie in [0, 1], got {self.floor}")

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]``; 0 for samples without a label."""
        y = probe.labels()
        if self.projections is not None:
            anchored = [
                AnchoredProjection(self.weights, self.floor, number) for number in range(self.projections)
            ]
            rows = [probe.grad(self.at, a, self.mode, differentiable=True) for a in anchored]
            return sum_of_squares(rows) / self.projections
        rows = class_gradients(probe, self.at, self.mode)
        probe.loss(self.at, "ce", self.mode)  # says in a sentence if a label is beyond the classes
        jacobian = torch.stack([numerics.flatten(numerics.upcast(row)) for row in rows], 1)
        own = jacobian[torch.arange(len(y), device=y.device), y.clamp(min=0)]
        squares = (jacobian - own.unsqueeze(1)).square().sum(2)
        weights = anchored_weights(probe.logits(self.at, self.mode), y, self.weights, self.floor)
        return (weights * squares).sum(1)


@dataclass(frozen=True)
class FisherTrace(Term):
    """``tr(J^T (diag(p) - p p^T) J)`` per sample: the input-space Fisher information, label-free. Ours.

    It is ``E_{k ~ p} ||grad_x(-log p_k)||^2``, and in a linear region of the network the trace of the input Hessian of
    the cross-entropy: curvature without second differences.

    Args:
        samples: a number ``n`` for the mean over ``n`` labels drawn from the prediction, one input gradient each; None
            for the exact value, one input gradient for each class.
        detach: hold the probabilities of the labels constant in the exact value. The sampled one always does: its
            parameter gradient is unbiased for the exact one's with ``detach=True``.
        at: where the gradients are taken.
        mode: the mode in which the network is run.
    """

    samples: int | None = 1
    detach: bool = False
    at: Point = CLEAN
    mode: Mode = "train"

    def __post_init__(self) -> None:
        check_mode(self.mode)
        if self.samples is not None and self.samples < 1:
            raise ValueError(
                f"samples must be a number from 1, or None for the exact value, got {self.samples}"
            )

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]``."""
        if self.samples is not None:
            rows = [
                probe.grad(self.at, SampledLabel(number), self.mode, differentiable=True)
                for number in range(self.samples)
            ]
            return sum_of_squares(rows) / self.samples
        rows = class_gradients(probe, self.at, self.mode)
        jacobian = torch.stack([numerics.flatten(numerics.upcast(row)) for row in rows], 1)
        p = probe.logits(self.at, self.mode).softmax(1)
        gradients = jacobian - (p.unsqueeze(2) * jacobian).sum(1, keepdim=True)
        return ((p.detach() if self.detach else p) * gradients.square().sum(2)).sum(1)


def anchored_weights(logits: Tensor, y: Tensor, weights: Weights, floor: float) -> Tensor:
    """The weights ``[B, C]`` of the classes beside the label, 0 for the label itself and without one; constant."""
    classes = logits.shape[1]
    if weights == "uniform":
        w = torch.full_like(logits, 1 / max(classes - 1, 1)).clamp(min=floor)
    else:
        w = logits.detach().softmax(1).clamp(min=floor)
    own = torch.arange(classes, device=y.device) == y.unsqueeze(1)
    return w.masked_fill(own | (y < 0).unsqueeze(1), 0.0)


@dataclass(frozen=True)
class AnchoredProjection:
    """``sum_{k != y} s_k sqrt(w_k) (z_k - z_y)`` with random signs ``s``."""

    weights: Weights
    floor: float
    number: int
    reads_labels = True

    def bind(self, probe: Probe, mode: Mode) -> RowLoss:
        """The loss for this probe's batch."""
        labels = probe.labels()

        def of(logits: Tensor, rows: Tensor | None) -> Tensor:
            probe.loss_function("ce", mode)(
                logits, rows
            )  # says in a sentence if a label is beyond the classes
            normal = probe.normal((len(labels), logits.shape[1]), "signs", self.number)
            signs = torch.where(normal >= 0, 1.0, -1.0).to(logits.dtype)
            y, signs = (labels, signs) if rows is None else (labels[rows], signs[rows])
            u = signs * anchored_weights(logits, y, self.weights, self.floor).sqrt()
            own = logits.gather(1, y.clamp(min=0).unsqueeze(1))
            return (u * (logits - own)).sum(1)

        return of


@dataclass(frozen=True)
class SampledLabel:
    """``-log p_k`` for a label ``k`` drawn from the network's own prediction, sample by sample."""

    number: int = 0
    reads_labels = False

    def bind(self, probe: Probe, mode: Mode) -> RowLoss:
        """The loss for this probe's batch."""

        def of(logits: Tensor, rows: Tensor | None) -> Tensor:
            shape = (probe.x.shape[0], 1)
            normal = probe.normal(shape, "sampled label", self.number).to(logits.dtype)
            level = torch.special.ndtr(normal if rows is None else normal[rows])  # uniform in [0, 1]
            with torch.no_grad():
                k = (logits.softmax(1).cumsum(1) < level).sum(1).clamp(max=logits.shape[1] - 1)
            return numerics.cross_entropy(logits, k)

        return of
