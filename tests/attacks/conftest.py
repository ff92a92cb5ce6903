"""A trained network for attacks to fool."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Trained = tuple[nn.Module, Tensor, Tensor]


@lru_cache(maxsize=8)
def _train(classes: int) -> Trained:
    g = torch.Generator().manual_seed(4)
    x = torch.rand(64, 2, 5, generator=g, dtype=torch.float64)
    y = ((x.flatten(1) - 0.5) @ torch.randn(10, classes, generator=g, dtype=torch.float64)).argmax(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, classes)).double()
    optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(80):
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimiser.step()
    optimiser.zero_grad()
    return net.eval(), x, y


@pytest.fixture
def classifier() -> Callable[[int], Trained]:
    """From a number of classes: a smooth network in float64, 64 samples `[64, 2, 5]` and their labels.

    It is right on almost all of them, and fooled on some within linf 0.05, l2 0.16 and l1 0.35. The tests share it and
    leave it as it is.
    """
    return _train


class Affine(nn.Module):
    """Logits that are an affine function of the input, in float64."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(classes, features, generator=g, dtype=torch.float64))
        self.bias = nn.Parameter(torch.randn(classes, generator=g, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias


@pytest.fixture
def affine() -> Trained:
    """An affine network of four classes, 30 rows of 12 features, and what it predicts: boundaries are known."""
    net = Affine(12, 4)
    x = torch.rand(30, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        return net, x, net(x).argmax(1)


@lru_cache(maxsize=1)
def _images() -> Trained:
    g = torch.Generator().manual_seed(4)
    x = torch.rand(30, 2, 6, 6, generator=g, dtype=torch.float64)
    y = (x.flatten(1) @ torch.randn(72, 4, generator=g, dtype=torch.float64)).argmax(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(72, 16), nn.Tanh(), nn.Linear(16, 4)).double()
    optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(net(x + 0.1 * torch.randn(x.shape, generator=g, dtype=x.dtype)), y).backward()
        optimiser.step()
    optimiser.zero_grad()
    y[3] = (y[3] + 1) % 4
    return net.eval(), x, y


@pytest.fixture
def images() -> Trained:
    """A smooth network in float64, right on 29 of 30 images `[2, 6, 6]` of four classes; number 3 is wrong as it is."""
    return _images()
