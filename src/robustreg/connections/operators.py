"""The matrices of the theory without their entries: products, traces and norms of Jacobian, Hessian and Fisher matrix.

Every operator is a batch of matrices ``[B, M, N]``, one a sample, on vectors in input space ``[B, N]`` (and logits
space ``[B, M]`` for the Jacobians). A product is two or three backward passes through the network whatever its size;
only ``dense()`` makes the entries.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from robustreg.connections.case import Case

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A random estimate for every sample.

    Attributes:
        value: ``[B]``.
        error: its standard error ``[B]``, estimated from the same draws.
    """

    value: Tensor
    error: Tensor


@dataclass(frozen=True)
class Norm:
    """A spectral norm found by iteration: a lower bound of the true one, up to rounding.

    Attributes:
        value: ``[B]``.
        change: relative change in the last iteration ``[B]``.
        iterations: how many there were.
        converged: where the change was below the tolerance ``[B]``.
    """

    value: Tensor
    change: Tensor
    iterations: int
    converged: Tensor


class Operator(ABC):
    """One real matrix ``[M, N]`` for every sample of a case."""

    def __init__(self, case: Case) -> None:
        self.case = case

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """``(B, M, N)``."""

    @abstractmethod
    def matvec(self, v: Tensor) -> Tensor:
        """``A v`` for one vector a sample: ``[B, N]`` to ``[B, M]``."""

    @abstractmethod
    def rmatvec(self, u: Tensor) -> Tensor:
        """``A^T u`` for one vector a sample: ``[B, M]`` to ``[B, N]``."""

    def dense(self) -> Tensor:
        """All entries ``[B, M, N]``, by a product for every column or row, whichever are fewer."""
        batch, rows, columns = self.shape
        few, product = (rows, self.rmatvec) if rows <= columns else (columns, self.matvec)
        lines = []
        for i in range(few):
            unit = self.case.flat.new_zeros(batch, few)
            unit[:, i] = 1.0
            lines.append(product(unit))
        return torch.stack(lines, 1 if rows <= columns else 2)

    def frobenius_squared(self, draws: int = 32, seed: int = 0) -> Estimate:
        """``||A||_F^2`` by Hutchinson's estimator on the smaller side: ``E ||A^T u||^2`` over random signs ``u``."""
        batch, rows, columns = self.shape
        size, product = (rows, self.rmatvec) if rows <= columns else (columns, self.matvec)
        return _mean(product(u).square().sum(1) for u in _signs(self.case, (batch, size), draws, seed))

    def frobenius_squared_by_sketch(self, draws: int = 32, seed: int = 0) -> Estimate:
        """``||A||_F^2`` as the trace of ``A A^T`` or ``A^T A``, whichever is smaller, by Hutch++."""
        return Gram(self).trace_by_sketch(draws, seed)

    def spectral_norm(self, tolerance: float = 1e-6, most: int = 200, seed: int = 0) -> Norm:
        """The largest singular value by power iteration on ``A^T A``.

        Args:
            tolerance: it ends when the value changes by less, relative to itself, on every sample.
            most: iterations at most.
            seed: of the starting vectors.
        """
        batch, rows, columns = self.shape
        wide = rows <= columns
        v = _unit(_normal(self.case, (batch, min(rows, columns)), seed))
        value = torch.zeros_like(v[:, 0])
        change = torch.full_like(value, math.inf)
        iterations = 0
        while iterations < most and bool((change > tolerance).any()):
            image = self.rmatvec(v) if wide else self.matvec(v)
            now = image.norm(dim=1)
            # the change understates what is missing where the two largest values are close
            change = torch.where(now > 0, (now - value).abs() / torch.where(now > 0, now, 1.0), 0.0)
            value, iterations = now, iterations + 1
            v = _unit(self.matvec(image) if wide else self.rmatvec(image))
        return Norm(value, change, iterations, change <= tolerance)

    def to_scipy(self, i: int) -> Any:
        """The matrix of sample ``i`` as a ``scipy.sparse.linalg.LinearOperator``.

        Every product runs the whole batch; make a case of one sample for many of them.
        """
        from scipy.sparse.linalg import LinearOperator

        batch, rows, columns = self.shape
        if not 0 <= i < batch:
            raise IndexError(f"there are {batch} samples, and none with the number {i}")

        def of_one(product: Callable[[Tensor], Tensor], size: int) -> Callable[[np.ndarray], np.ndarray]:
            def apply(v: np.ndarray) -> np.ndarray:
                padded = self.case.flat.new_zeros(batch, size)
                padded[i] = torch.as_tensor(v.reshape(-1), dtype=padded.dtype, device=padded.device)
                result: np.ndarray = product(padded)[i].cpu().numpy()
                return result

            return apply

        return LinearOperator(
            (rows, columns), of_one(self.matvec, columns), of_one(self.rmatvec, rows), dtype="float64"
        )


class Symmetric(Operator):
    """A symmetric matrix ``[N, N]`` for every sample."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(B, D, D)``."""
        batch, inputs = self.case.flat.shape
        return batch, inputs, inputs

    def rmatvec(self, u: Tensor) -> Tensor:
        """The same as ``matvec``."""
        return self.matvec(u)

    def trace(self, draws: int = 32, seed: int = 0) -> Estimate:
        """``tr A`` by Hutchinson's estimator, ``E v^T A v`` over random signs ``v``."""
        vectors = _signs(self.case, self.shape[:2], draws, seed)
        return _mean((v * self.matvec(v)).sum(1) for v in vectors)

    def trace_by_sketch(self, draws: int = 32, seed: int = 0) -> Estimate:
        """``tr A`` by Hutch++ (Meyer, Musco, Musco and Woodruff 2021): exact on a sketch, Hutchinson on the rest.

        A third of the products makes the sketch, a third its trace, and a third the estimate. It is exact for
        matrices of a rank up to a third of the draws, as ``J^T S J`` is with few classes.
        """
        third = draws // 3
        if third < 2:
            raise ValueError(f"Hutch++ needs at least 6 draws, got {draws}")
        sketch = [self.matvec(v) for v in _signs(self.case, self.shape[:2], third, seed)]
        basis = torch.linalg.qr(torch.stack(sketch, 2)).Q  # [B, D, third], or fewer where D is small
        known = [(q * self.matvec(q)).sum(1) for q in basis.unbind(2)]

        def outside(v: Tensor) -> Tensor:
            w = v - torch.einsum("bdq,beq,be->bd", basis, basis, v)
            return (w * self.matvec(w)).sum(1)

        rest = _mean(outside(v) for v in _signs(self.case, self.shape[:2], third, seed + 1))
        return Estimate(torch.stack(known).sum(0) + rest.value, rest.error)


class Gram(Symmetric):
    """``A A^T`` of another operator, or ``A^T A`` where that is smaller."""

    def __init__(self, operator: Operator) -> None:
        super().__init__(operator.case)
        self.operator = operator

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(B, N, N)`` with ``N`` the smaller side."""
        batch, rows, columns = self.operator.shape
        return batch, min(rows, columns), min(rows, columns)

    def matvec(self, v: Tensor) -> Tensor:
        """``A (A^T v)`` or ``A^T (A v)``."""
        _, rows, columns = self.operator.shape
        if rows <= columns:
            return self.operator.matvec(self.operator.rmatvec(v))
        return self.operator.rmatvec(self.operator.matvec(v))


class Jacobian(Operator):
    """``J = dz/dx`` ``[B, C, D]``."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(B, C, D)``."""
        batch, classes = self.case.logits.shape
        return batch, classes, self.case.flat.shape[1]

    def matvec(self, v: Tensor) -> Tensor:
        """``J v``: the derivative of ``J^T u`` in ``u`` (two backwards)."""
        x = self.case.x.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.case.logits_at(x)
            u = torch.zeros_like(logits, requires_grad=True)
            (pulled,) = torch.autograd.grad(logits, x, u, create_graph=True)
            (image,) = torch.autograd.grad(pulled, u, v.reshape(x.shape))
        return image

    def rmatvec(self, u: Tensor) -> Tensor:
        """``J^T u`` (one backward)."""
        return self.case.gradient_of(lambda z: (z * u).sum(1), self.case.x)


class CentredJacobian(Jacobian):
    """``J_c``, the Jacobian without its mean row."""

    def matvec(self, v: Tensor) -> Tensor:
        """``J_c v``."""
        return _centred(super().matvec(v))

    def rmatvec(self, u: Tensor) -> Tensor:
        """``J_c^T u``."""
        return super().rmatvec(_centred(u))


class GaussNewton(Symmetric):
    """``J^T S J``: the loss's Hessian where logits are affine, and on any network the Fisher matrix of the input."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self._jacobian = Jacobian(case)

    def matvec(self, v: Tensor) -> Tensor:
        """``J^T S (J v)`` (three backwards)."""
        p, pushed = self.case.p, self._jacobian.matvec(v)
        # deviations from the mean lose less than S does where one class is nearly certain
        return self._jacobian.rmatvec(p * (pushed - (p * pushed).sum(1, keepdim=True)))


Fisher = GaussNewton
"""``E_{k~p} g_k g_k^T`` with ``g_k = grad_x(-log p_k)``: the same matrix (claim I8)."""


class Hessian(Symmetric):
    """``grad_x^2 L``, the loss's Hessian by differentiating twice, on any network."""

    def matvec(self, v: Tensor) -> Tensor:
        """``H v`` (a backward through a backward)."""
        x = self.case.x.detach().requires_grad_()
        with torch.enable_grad():
            loss = torch.nn.functional.cross_entropy(self.case.logits_at(x), self.case.y, reduction="none")
            (g,) = torch.autograd.grad(loss.sum(), x, create_graph=True)
            (image,) = torch.autograd.grad(g, x, v.reshape(x.shape))
        return image.flatten(1)


def _centred(u: Tensor) -> Tensor:
    return u - u.mean(1, keepdim=True)


def _unit(v: Tensor) -> Tensor:
    length = v.norm(dim=1, keepdim=True)
    return v / torch.where(length > 0, length, 1.0)


def _normal(case: Case, shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(case.x.device)


def _signs(case: Case, shape: tuple[int, ...], draws: int, seed: int) -> list[Tensor]:
    if draws < 2:
        raise ValueError(f"an error bar needs at least 2 draws, got {draws}")
    generator = torch.Generator().manual_seed(seed)
    signs = 2 * torch.randint(2, (draws, *shape), generator=generator, dtype=torch.float64) - 1
    return list(signs.to(case.x.device).unbind(0))


def _mean(values: Any) -> Estimate:
    drawn = torch.stack(list(values))
    return Estimate(drawn.mean(0), drawn.std(0) / math.sqrt(len(drawn)))
