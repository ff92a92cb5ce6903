"""What happens along a segment: homogeneous networks, orders, and what shows as wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustreg.connections import Case, Claim, Residual
from robustreg.connections import quantities as q

Plant = Callable[[str, Case, Any], Residual]
Exact = Callable[[str, Case], None]


@pytest.mark.parametrize("key", ["I9", "I10", "I10b", "I11"])
def test_exact_without_biases(key: str, pair: Case, ternary: Case, exact: Exact) -> None:
    exact(key, ternary)
    exact(key, pair.at_radius(1e-3))


def test_with_biases_logits_are_no_product(logistic: Case, claims: dict[str, Claim]) -> None:
    """The logit is 0.3, the product 0.1."""
    residual = claims["I10b"].residual(logistic)
    assert residual.verdict == "does not apply"
    assert not residual.holds.any()


WRONG: dict[str, tuple[str, Any]] = {
    "a transposed Jacobian": (
        "I10b",
        lambda a, b, c: q.entry_by_entry(torch.einsum("bkd,bk->bd", c.jacobian, c.flat), c.logits),
    ),
    "the divergence turned round": ("I11", lambda a, b, c: (a, reverse_kl(c))),
    "a slope of the other sign": ("I11", lambda a, b, c: (a + 2 * (c.displacement * c.gradient).sum(1), b)),
    "half a Hessian": ("I9b", lambda a, b, c: (a, 0.5 * b)),
    "twice the curvature": ("I11b", lambda a, b, c: (a, 2 * b)),
}


def reverse_kl(case: Case) -> Tensor:
    q_, p = case.logits_at(case.end).log_softmax(1), case.logits.log_softmax(1)
    return (q_.exp() * (q_ - p)).sum(1)


@pytest.fixture
def homogeneous() -> Case:
    """Three classes, three inputs, no biases, and a step long enough to tell the two divergences apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = nn.Linear(3, 3, bias=False).double()
        net.weight.data *= 8
    x = torch.rand(4, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return Case(net, x, torch.arange(4) % 3, radius=0.5)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_ones_show(name: str, homogeneous: Case, planted: Plant) -> None:
    key, wrong = WRONG[name]
    assert planted(key, homogeneous, wrong).verdict == "violated"
