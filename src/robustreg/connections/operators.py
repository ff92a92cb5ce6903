"""The matrices of the theory without their entries: products, traces and norms of Jacobian, Hessian and Fisher matrix.

Every operator is a batch of matrices ``[B, M, N]``, one a sample, on vectors in input space ``[B, N]`` (and logits
space ``[B, M]`` for the Jacobians). Only ``dense()`` makes the entries.

They are the linear maps of ``torch.func``: the network runs once for an operator, and every product is a backward pass
through what that left (two for ``J v``, whose map is the transpose of a transpose: forward mode would run the network
again each time, and asks for more than a network's operations always have). The graphs live as long as the operator.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import grad, vjp

from robustreg import numerics
from robustreg.connections.case import Case
from robustreg.connections.lanczos import Extreme, extreme

if TYPE_CHECKING:
    import numpy as np

Map = Callable[[Tensor], tuple[Tensor, ...]]


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
        error: a singular value lies within this share of the value ``[B]``. That it is the largest is all but certain
            from a random start, also where others are close behind.
        iterations: how many there were.
        converged: where the error is below the tolerance ``[B]``.
    """

    value: Tensor
    error: Tensor
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
        """The largest singular value, by Lanczos on the smaller of ``A A^T`` and ``A^T A``.

        Args:
            tolerance: relative, for every sample.
            most: iterations at most, each of them two products.
            seed: of the starting vectors.
        """
        gram = Gram(self)
        found = extreme(gram.matvec, _normal(self.case, gram.shape[:2], seed), tolerance, most)
        return _as_norm(found, found.value.clamp(min=0).sqrt(), tolerance)

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

    def spectral_norm(self, tolerance: float = 1e-6, most: int = 200, seed: int = 0) -> Norm:
        """The largest magnitude of an eigenvalue, by Lanczos on the matrix itself: one product an iteration."""
        found = extreme(self.matvec, _normal(self.case, self.shape[:2], seed), tolerance, most)
        return _as_norm(found, found.value.abs(), tolerance)

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
        """``J v``."""
        (image,) = self._push(v.reshape(self.case.x.shape))
        return image

    def rmatvec(self, u: Tensor) -> Tensor:
        """``J^T u``."""
        (image,) = self._pull(u)
        return image.flatten(1)

    @cached_property
    def _pull(self) -> Map:
        pull: Map = vjp(self.case.logits_at, self.case.x)[1]
        return pull

    @cached_property
    def _push(self) -> Map:
        push: Map = vjp(lambda u: self._pull(u)[0], torch.zeros_like(self.case.logits))[1]
        return push


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
        """``J^T S (J v)``."""
        p, pushed = self.case.p, self._jacobian.matvec(v)
        # deviations from the mean lose less than S does where one class is nearly certain
        return self._jacobian.rmatvec(p * (pushed - (p * pushed).sum(1, keepdim=True)))


Fisher = GaussNewton
"""``E_{k~p} g_k g_k^T`` with ``g_k = grad_x(-log p_k)``: the same matrix (claim I8)."""


class Hessian(Symmetric):
    """``grad_x^2 L``, the loss's Hessian by differentiating twice, on any network."""

    def matvec(self, v: Tensor) -> Tensor:
        """``H v``."""
        (image,) = self._pull(v.reshape(self.case.x.shape))
        return image.flatten(1)

    @cached_property
    def _pull(self) -> Map:
        def loss(x: Tensor) -> Tensor:
            return numerics.cross_entropy(self.case.logits_at(x), self.case.y).sum()

        pull: Map = vjp(grad(loss), self.case.x)[1]
        return pull


def _centred(u: Tensor) -> Tensor:
    return u - u.mean(1, keepdim=True)


def _normal(case: Case, shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(case.x.device)


def _signs(case: Case, shape: tuple[int, ...], draws: int, seed: int) -> list[Tensor]:
    if draws < 2:
        raise ValueError(f"an error bar needs at least 2 draws, got {draws}")
    generator = torch.Generator().manual_seed(seed)
    signs = 2 * torch.randint(2, (draws, *shape), generator=generator, dtype=torch.float64) - 1
    return list(signs.to(case.x.device).unbind(0))


def _as_norm(found: Extreme, value: Tensor, tolerance: float) -> Norm:
    size = found.value.abs()
    error = torch.where(size > 0, found.residual / torch.where(size > 0, size, 1.0), found.residual)
    return Norm(value, error, found.iterations, error <= tolerance)


def _mean(values: Any) -> Estimate:
    drawn = torch.stack(list(values))
    return Estimate(drawn.mean(0), drawn.std(0) / math.sqrt(len(drawn)))
