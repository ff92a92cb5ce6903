"""Cases whose numbers can be had by hand, and claims that are made wrong on purpose."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustreg.connections import CLAIMS, Case, Claim, Residual

BY_KEY = {claim.key: claim for claim in CLAIMS}


def affine(weight: list[list[float]], bias: list[float] | None = None) -> nn.Linear:
    net = nn.Linear(len(weight[0]), len(weight), bias=bias is not None).double()
    net.weight.data = torch.tensor(weight, dtype=torch.float64)
    if bias is not None:
        net.bias.data = torch.tensor(bias, dtype=torch.float64)
    return net


@pytest.fixture
def claims() -> dict[str, Claim]:
    """All claims by key."""
    return BY_KEY


@pytest.fixture
def binary() -> Case:
    """The notes' affine network of two classes."""
    x = torch.tensor([[0.2, 0.1]], dtype=torch.float64)
    return Case(affine([[1.5, -2.0], [-1.5, 2.0]]), x, torch.tensor([0]), radius=0.1)


@pytest.fixture
def ternary() -> Case:
    """The notes' affine network of three classes."""
    x = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    return Case(affine([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]), x, torch.tensor([0]), radius=1e-3)


@pytest.fixture
def logistic() -> Case:
    """The notes' logistic model: one logit, label 1."""
    x = torch.tensor([[0.5, 0.1, -0.4]], dtype=torch.float64)
    return Case(affine([[0.6, -0.8, 0.3]], [0.2]), x, torch.tensor([1]), radius=0.3)


@pytest.fixture
def square() -> Case:
    """As many classes as inputs, so that a Jacobian and its transpose have one shape."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    x = torch.rand(6, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return Case(net, x, torch.arange(6) % 3, radius=1e-3)


@pytest.fixture
def pair(network: Callable[[str], nn.Module], samples: Tensor) -> Case:
    """A ReLU network of two classes."""
    return Case(network("two_classes"), samples, torch.arange(len(samples)) % 2, radius=1e-2)


@pytest.fixture
def exact() -> Callable[[str, Case], None]:
    """Whether a claim holds on a case to 1e-8, and is no statement about zeros."""

    def check(key: str, case: Case) -> None:
        residual = BY_KEY[key].residual(case)
        assert residual.verdict == "holds", key
        assert residual.worst < 1e-8, (key, residual.worst)
        assert not residual.empty, key

    return check


@pytest.fixture
def planted() -> Callable[[str, Case, Any], Residual]:
    """A claim's residual with its sides changed by ``wrong(left, right, case)``."""

    def plant(key: str, case: Case, wrong: Any) -> Residual:
        claim = BY_KEY[key]
        return dataclasses.replace(claim, sides=lambda c: wrong(*claim.sides(c), c)).residual(case)

    return plant
