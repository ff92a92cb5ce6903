"""Bounds at a sample, tight where the notes say so, and bounds that are too good to be true."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustreg.connections import Case, Claim, Residual
from robustreg.connections import quantities as q

Plant = Callable[[str, Case, Any], Residual]
ALL = ["B1", "B1b", "B1c", "B1d", "B2", "B2b", "B2c", "B2d", "B2e", "B2f", "B3", "B3b", "B3c", "B3d", "B4", "B4b",
       "B4c", "B4d", "B5s", "B5t", "B5", "B5b", "B5f", "B5c", "B5d", "B5e"]  # fmt: skip
TIGHT = ["B1", "B1b", "B2", "B2b", "B2d", "B2e", "B3", "B3b", "B3c", "B3d", "B4", "B4d", "B5s"]
"""Equalities for two classes."""


def ratio(claim: Claim, case: Case) -> Tensor:
    left, right = claim.sides(case)
    return left / right


@pytest.mark.parametrize("key", ALL)
def test_on_four_networks(
    key: str, claims: dict[str, Claim], ternary: Case, square: Case, pair: Case, logistic: Case
) -> None:
    for case in (ternary, square, pair, logistic):
        residual = claims[key].residual(case)
        assert residual.verdict == "holds"
        assert residual.applies.all()


@pytest.mark.parametrize("key", TIGHT)
def test_tight_for_two_classes(key: str, claims: dict[str, Claim], pair: Case, logistic: Case) -> None:
    for case in (pair, logistic):
        assert ratio(claims[key], case).min() > 1 - 1e-9


@pytest.mark.parametrize("key", ["B2d", "B2e", "B3c", "B3d", "B4d", "B5f", "B5t"])
def test_loose_for_three_classes(key: str, claims: dict[str, Claim], square: Case) -> None:
    found = ratio(claims[key], square)
    assert (found <= 1).all()
    assert found.min() < 0.999


def test_confidence_alone_lowers_the_gradient(claims: dict[str, Claim], ternary: Case) -> None:
    """At ten times the logits the gradient is a small part of what it was, the Jacobian ten times as long."""
    left, right = claims["B2f"].sides(ternary)
    scaled = ternary.changed(lambda z, x: 10 * z)
    assert scaled.p_y.item() > ternary.p_y.item()
    assert left.item() == pytest.approx(q.igr(scaled).item())
    assert left.item() < right.item()
    assert q.jacobian_term(scaled).item() == pytest.approx(100 * q.jacobian_term(ternary).item())


WRONG: dict[str, tuple[str, Any]] = {
    "swapped": ("B2e", lambda a, b, c: (b, a)),
    "without the factor two": ("B2d", lambda a, b, c: (a, b / 2)),
    "the missing probability squared": ("B3c", lambda a, b, c: (a, b * q.wrong(c))),
    "the other dual norm": ("B3", lambda a, b, c: (a, q.wrong(c) * q.differences(c).norm(dim=2).amax(1))),
    "the trace below its largest eigenvalue": ("B4d", lambda a, b, c: (b, a)),
    "a quarter for a half": ("B5t", lambda a, b, c: (a, 0.5 * b)),
    "a split without the label": ("B1d", lambda a, b, c: (a, b - q.wrong(c).square())),
    "confidence squared": ("B2f", lambda a, b, c: (a, b * 1e-3)),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_ones_show(name: str, square: Case, planted: Plant) -> None:
    key, wrong = WRONG[name]
    assert planted(key, square, wrong).verdict == "violated"


def test_a_hundred_classes_and_large_logits(claims: dict[str, Claim]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Linear(16, 100)
        net.weight.data *= 3e3
    x = torch.rand(3, 16, generator=torch.Generator().manual_seed(0))
    case = Case(net, x, torch.tensor([0, 50, 99]))
    assert case.logits.abs().max() > 1e3
    assert [key for key in ALL if claims[key].residual(case).verdict != "holds"] == []
