"""The eigenvalue of largest magnitude of symmetric matrices that are known by their products only (Lanczos 1950).

Against power iteration: an eigenvalue close behind the largest one holds power iteration back long before its change
says so. Lanczos comes with a residual, and with it a bound of the distance to an eigenvalue that holds at any gap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Extreme:
    """An eigenvalue of each matrix of a batch.

    Attributes:
        value: ``[B]``, at most the largest in magnitude, up to rounding.
        residual: ``||A v - value v||`` of the unit vector ``v`` found ``[B]``: an eigenvalue lies so near.
        iterations: products with all matrices.
    """

    value: Tensor
    residual: Tensor
    iterations: int


def extreme(product: Callable[[Tensor], Tensor], start: Tensor, tolerance: float, most: int) -> Extreme:
    """The eigenvalue of largest magnitude.

    Args:
        product: ``A v`` for one symmetric matrix and one vector a sample, ``[B, N]`` to ``[B, N]``.
        start: random vectors ``[B, N]``: one that has no part along the largest eigenvector does not find it.
        tolerance: it ends when the residual is below this share of the value on every sample.
        most: iterations at most; after ``N`` the values are exact but for rounding.
    """
    basis = [_unit(start)]
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    while True:
        image = product(basis[-1])
        diagonal.append((basis[-1] * image).sum(1))
        rest = _without(image, basis)
        beside.append(rest.norm(dim=1))
        done = len(basis) == min(most, start.shape[1])
        if done or _time_to_look(len(basis)):
            found = _ritz(diagonal, beside)
            if done or bool((found.residual <= tolerance * found.value.abs()).all()):
                return found
        # nothing is left but rounding where the vectors so far span all that the matrix reaches from the start
        left = beside[-1] > 1e-12 * image.norm(dim=1)
        beside[-1] = torch.where(left, beside[-1], 0.0)
        basis.append(_unit(torch.where(left[:, None], rest, 0.0)))


def _without(v: Tensor, basis: list[Tensor]) -> Tensor:
    """``v`` less its part in a basis, twice, as rounding leaves some of it the first time."""
    q = torch.stack(basis, 2)
    for _ in range(2):
        v = v - torch.einsum("bnk,bmk,bm->bn", q, q, v)
    return v


def _ritz(diagonal: list[Tensor], beside: list[Tensor]) -> Extreme:
    """The largest eigenvalue of the tridiagonal matrix, and how much of its vector reaches out of the basis."""
    inner = torch.diag_embed(torch.stack(diagonal, 1))
    if len(beside) > 1:
        off = torch.diag_embed(torch.stack(beside[:-1], 1), 1)
        inner = inner + off + off.transpose(1, 2)
    values, vectors = torch.linalg.eigh(inner)
    best = values.abs().argmax(1, keepdim=True)
    last = vectors[:, -1].gather(1, best)[:, 0].abs()
    return Extreme(values.gather(1, best)[:, 0], beside[-1] * last, len(diagonal))


def _time_to_look(iterations: int) -> bool:
    """Often at first, later once in about a tenth more iterations: a look costs the cube of their number."""
    return iterations < 16 or iterations % max(1, iterations // 10) == 0


def _unit(v: Tensor) -> Tensor:
    length = v.norm(dim=1, keepdim=True)
    return v / torch.where(length > 0, length, 1.0)
