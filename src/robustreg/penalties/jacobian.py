"""Jacobian regularisation: the size of the derivative ``J = dz/dx`` of the logits, label-free.

J. Hoffman, D. A. Roberts, S. Yaida, "Robust Learning with Jacobian Regularization", arXiv 1908.02729, 2019.
``J_k`` is the input gradient of logit ``k``, so everything here is a few input gradients: one for each class (exact;
a loop, which on a CPU is two to four times faster than any batched way), or of random combinations of the logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.losses import RowLoss
from robustreg.modes import Mode, check_mode
from robustreg.points import CLEAN, Point
from robustreg.probe import Probe
from robustreg.terms import Term
from robustreg.threat import steepest_direction


@dataclass(frozen=True)
class JacobianNorm(Term):
    """``1/2 ||J||_F^2`` per sample, ``J`` the Jacobian ``[C, D]`` of the logits (Hoffman et al. 2019).

    With BatchNorm in ``"train"`` mode, as in the authors' code, a sample's row is the derivative of the whole batch's
    logits with respect to it; ``mode="eval"`` penalises the network that is deployed.

    Args:
        projections: None for the exact norm, one input gradient for each class; a number ``n`` for the unbiased
            estimate ``C / (2n) sum_i ||J^T v_i||^2`` with ``v_i`` uniform on the unit sphere of R^C, each sample's own.
        norm: ``"frobenius"``, or ``"spectral"`` for ``1/2 sigma_max(J)^2`` by power iteration. The singular vector
            is a constant: at convergence the gradient is the exact one (envelope theorem), before it the value is a
            lower bound.
        iterations: of the power iteration, each one input gradient and one product ``J d``.
        squared: False penalises ``||J||_F`` (or ``sigma_max``) itself, without the 1/2: as Jakubovitz & Giryes
            (ECCV 2018) do, by recollection; their paper was not seen.
        at: where the Jacobian is taken; ``Uniform(threat)`` makes the penalty hold around the sample.
        mode: the mode in which the network is run.
    """

    projections: int | None = None
    norm: Literal["frobenius", "spectral"] = "frobenius"
    iterations: int = 5
    squared: bool = True
    at: Point = CLEAN
    mode: Mode = "train"

    def __post_init__(self) -> None:
        check_mode(self.mode)
        check_projections(self.projections)
        if self.norm not in ("frobenius", "spectral"):
            raise ValueError(f"norm must be 'frobenius' or 'spectral', got {self.norm!r}")
        if self.norm == "spectral" and self.projections is not None:
            raise ValueError(
                "projections are for the Frobenius norm; the spectral norm is found by iterations"
            )
        if self.iterations < 1:
            raise ValueError(f"the power iteration needs iterations >= 1, got {self.iterations}")

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]``."""
        if self.norm == "spectral":
            rows = [self._spectral(probe)]
        elif self.projections is None:
            rows = class_gradients(probe, self.at, self.mode)
        else:
            rows = [
                probe.grad(self.at, Projection(number), self.mode, differentiable=True)
                for number in range(self.projections)
            ]
        n = self.projections or 1
        if not self.squared:
            return numerics.norm(torch.stack([numerics.flatten(g) for g in rows], 1), 2.0) / math.sqrt(n)
        return sum_of_squares(rows) / (2 * n)

    def _spectral(self, probe: Probe) -> Tensor:
        """``J^T v`` for the leading left singular vector ``v``."""
        right = probe.grad(self.at, Projection(0), self.mode)
        for i in range(1, self.iterations + 1):
            v = steepest_direction(probe.jvp(right, self.at, self.mode), 2.0)
            pairing = Pairing(f"singular vector {i}", v)
            right = probe.grad(self.at, pairing, self.mode, differentiable=i == self.iterations)
        return right


def check_projections(projections: int | None) -> None:
    """Refuse a number of projections below 1."""
    if projections is not None and projections < 1:
        raise ValueError(
            f"projections must be a number from 1, or None for the exact value, got {projections}"
        )


def class_gradients(probe: Probe, at: Point, mode: Mode) -> list[Tensor]:
    """The rows ``J_k [B, ...]`` of the Jacobian, one input gradient for each class, differentiable again.

    Terms that need them at the same point share them.
    """
    # a gradient before the logits: a forward that is first asked for its logits might have to run again
    first = probe.grad(at, Logit(0), mode, differentiable=True)
    classes = probe.logits(at, mode).shape[1]
    return [first, *(probe.grad(at, Logit(k), mode, differentiable=True) for k in range(1, classes))]


def sum_of_squares(rows: list[Tensor]) -> Tensor:
    """``sum_k ||J_k||^2`` per sample ``[B]`` of vectors ``[B, ...]``, in at least float32."""
    squares = [numerics.flatten(numerics.upcast(row)).square().sum(1) for row in rows]
    return torch.stack(squares).sum(0)


# -- functions of the logits whose input gradients are taken ----------------------------------------------------------


@dataclass(frozen=True)
class Logit:
    """The logit of one class: its input gradient is a row of the Jacobian."""

    number: int
    reads_labels = False

    def bind(self, probe: Probe, mode: Mode) -> RowLoss:
        """The loss for this probe's batch."""
        return lambda logits, rows: logits[:, self.number]


@dataclass(frozen=True)
class Projection:
    """``u . z`` with ``u = sqrt(C) v``, ``v`` uniform on the unit sphere of R^C for each sample: ``E u u^T = I``.

    Args:
        number: of the draw; equal projections share theirs, also between terms.
        centred: take ``u`` without its mean, which leaves only differences of logits.
    """

    number: int = 0
    centred: bool = False
    reads_labels = False

    def bind(self, probe: Probe, mode: Mode) -> RowLoss:
        """The loss for this probe's batch."""

        def of(logits: Tensor, rows: Tensor | None) -> Tensor:
            shape = (probe.x.shape[0], logits.shape[1])
            normal = probe.normal(shape, "projection", self.number).to(logits.dtype)
            u = math.sqrt(shape[1]) * steepest_direction(normal, 2.0)
            u = u - u.mean(1, keepdim=True) if self.centred else u
            return ((u if rows is None else u[rows]) * logits).sum(1)

        return of


@dataclass(frozen=True)
class Pairing:
    """``v . z`` for vectors ``v [B, C]`` that a term has computed; in a step equal names mean equal vectors."""

    name: str
    v: Tensor = field(compare=False, repr=False)
    reads_labels = False

    def bind(self, probe: Probe, mode: Mode) -> RowLoss:
        """The loss for this probe's batch."""
        return lambda logits, rows: ((self.v if rows is None else self.v[rows]) * logits).sum(1)
