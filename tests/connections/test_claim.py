"""How a claim is judged: relative errors, rounding, orders near rounding and next to a next order of the other sign."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustreg.connections import Case, Claim, outcome
from robustreg.connections.claim import FURTHER, RADII


@pytest.fixture
def case() -> Case:
    """Two samples of a small network; the claims here do not look at it."""
    return Case(nn.Linear(3, 2), torch.rand(2, 3), torch.tensor([0, 1]), radius=1.0)


def to_an_order(error: Callable[[float], float], order: float) -> Claim:
    def sides(case: Case) -> tuple[Tensor, Tensor]:
        return torch.full((2,), error(case.radius), dtype=torch.float64), torch.zeros(2, dtype=torch.float64)

    return Claim("X", "", "", "", "derived", "~", sides, order=order)


def equal(left: Tensor, right: Tensor, relation: str = "=", **options: object) -> Claim:
    return Claim("X", "", "", "", "derived", relation, lambda c: (left, right), **options)  # type: ignore[arg-type]


RIGHT: dict[str, tuple[Callable[[float], float], float]] = {
    "exactly": (lambda r: r**3, 3),
    "more than claimed": (lambda r: r**4, 3),
    "with a next order of the other sign, vanishing at 1/500": (lambda r: 1e-3 * (r**3 - 500 * r**4), 3),
    "where it shows at small radii only": (lambda r: min(1.0, (1e4 * r) ** 2), 2),
    "from far above rounding to below it": (lambda r: 1e3 if r > 0.1 else 1e-30, 3),
    "never above rounding": (lambda r: 1e-17, 3),
}
WRONG: dict[str, tuple[Callable[[float], float], float]] = {
    "one too few": (lambda r: r**2, 3),
    "a trace of a lower order": (lambda r: r**3 + 1e-2 * r**2, 3),
    "of a lower order, of the other sign": (lambda r: r**3 - 1e-2 * r**2, 3),
    "half an order too few": (lambda r: r**2.5, 3),
    "a small constant": (lambda r: r**2 + 1e-6, 2),
    "linear and faint": (lambda r: 1e-9 * r, 2),
    "not a number": (lambda r: math.nan, 2),
    "infinite": (lambda r: math.inf, 2),
}


@pytest.mark.parametrize("name", RIGHT)
def test_orders_that_are_there(name: str, case: Case) -> None:
    error, order = RIGHT[name]
    residual = to_an_order(error, order).residual(case)
    assert residual.verdict == "holds"
    assert residual.order is not None
    assert residual.order > order - 0.25


@pytest.mark.parametrize("name", WRONG)
def test_orders_that_are_not(name: str, case: Case) -> None:
    error, order = WRONG[name]
    residual = to_an_order(error, order).residual(case)
    assert residual.verdict == "violated"
    assert residual.order is not None
    assert residual.order < order - 0.25


def test_radii_go_further_only_where_an_order_does_not_show(case: Case) -> None:
    plain = to_an_order(RIGHT["exactly"][0], 3).residual(case)
    assert len(plain.radii) == len(plain.errors) == len(RADII)
    late = to_an_order(*RIGHT["where it shows at small radii only"]).residual(case)
    assert len(late.radii) == len(late.errors) == len(RADII) + len(FURTHER)


def test_what_float64_leaves_is_given(case: Case) -> None:
    left, right = torch.tensor([1e-9, 0.0]).double(), torch.zeros(2).double()
    assert equal(left, right).residual(case).verdict == "violated"
    given = equal(left, right, rounding=lambda c: torch.full((2,), 2e-9).double()).residual(case)
    assert given.verdict == "holds"
    assert given.worst == 0.0
    assert equal(1e3 * left, right, rounding=lambda c: 2 * left).residual(case).verdict == "violated"


def test_sides_that_are_not_finite_do_not_hold(case: Case) -> None:
    one, inf, nan = (torch.full((2,), v, dtype=torch.float64) for v in (1.0, math.inf, math.nan))
    for left, right, relation in ((one, nan, "="), (inf, inf, "="), (inf, one, "<="), (nan, one, "<=")):
        assert equal(left, right, relation).residual(case).verdict == "violated"
    assert equal(one, inf, "<=").residual(case).verdict == "holds"  # a bound that says nothing


def test_a_claim_about_zeros_says_so(case: Case) -> None:
    zero, one = torch.zeros(2).double(), torch.ones(2).double()
    empty = equal(zero, zero).residual(case)
    assert (empty.verdict, empty.empty) == ("holds", True)
    assert outcome.outcome(equal(zero, zero), empty)["empty"] is True
    assert not equal(one, one).residual(case).empty
    assert not equal(zero, torch.tensor([0.0, 1e-9], dtype=torch.float64), "<=").residual(case).empty
