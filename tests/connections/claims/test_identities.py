"""Identities at a sample: numbers of the notes, and what they are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from robustreg.connections import Case, Claim, Residual
from robustreg.connections import quantities as q

Plant = Callable[[str, Case, Any], Residual]
Exact = Callable[[str, Case], None]
KEYS = [
    "I1",
    "I1b",
    "I2",
    "I2b",
    "I2d",
    "I2e",
    "I3",
    "I4",
    "I5",
    "I5c",
    "I6",
    "I6b",
    "I6c",
    "I7",
    "I8",
    "I8b",
]


@pytest.mark.parametrize("key", KEYS)
def test_exact_on_three_networks(key: str, ternary: Case, square: Case, pair: Case, exact: Exact) -> None:
    for case in (ternary, square, pair):
        exact(key, case)


def test_numbers_of_the_notes(ternary: Case, claims: dict[str, Claim]) -> None:
    """Cross-Lipschitz 8/3, squared Jacobian 4."""
    left, right = claims["I6c"].sides(ternary)
    assert (left.item(), right.item()) == pytest.approx((4 / 3, 4 / 3))
    assert claims["I2e"].sides(ternary)[1].item() == pytest.approx(9 * (8 / 3 + 2))


def residual_times(case: Case, rows: torch.Tensor) -> torch.Tensor:
    return torch.einsum("bk,bkd->bd", q.residual_p(case), rows).norm(dim=1)


WRONG: dict[str, tuple[str, Any]] = {
    "a transposed Jacobian": (
        "I1",
        lambda a, b, c: (q.igr(c), residual_times(c, c.jacobian.transpose(1, 2))),
    ),
    "a sign in p - e_y": (
        "I1",
        lambda a, b, c: (a, torch.einsum("bk,bkd->bd", 2 * c.p - q.residual_p(c), c.jacobian).norm(dim=1)),
    ),
    "half of cross-Lipschitz for all of it": ("I6c", lambda a, b, c: (a, 2 * b)),
    "curvature of another label, on the squared gradient": (
        "I5c",
        lambda a, b, c: (a + q.squared(c.gradient), b),
    ),
    "a Jacobian that does not see the common slope": (
        "I2d",
        lambda a, b, c: (
            q.jacobian_term(c.changed(lambda z, x: z + x.flatten(1).sum(1, keepdim=True))),
            q.jacobian_term(c),
        ),
    ),
    "linear in the scale": ("I2e", lambda a, b, c: (a, b / 3)),
    "pairs counted once": ("I6b", lambda a, b, c: (0.5 * a, b)),
    "scores of equal weight": (
        "I8b",
        lambda a, b, c: (torch.einsum("bk,bkd->bd", 1 / 3 - c.p, c.jacobian).norm(dim=1) + b, b),
    ),
    "the squared gradient taken off": ("I7", lambda a, b, c: (a - 2 * q.squared(c.gradient), b)),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_ones_show(name: str, square: Case, planted: Plant) -> None:
    key, wrong = WRONG[name]
    assert planted(key, square, wrong).verdict == "violated"


def test_the_jacobian_sees_a_common_slope(square: Case) -> None:
    lifted = square.changed(lambda z, x: z + 3 * x.sum(1, keepdim=True))
    torch.testing.assert_close(lifted.p, square.p)
    assert (q.jacobian_term(lifted) - q.jacobian_term(square)).abs().min() > 0.1
