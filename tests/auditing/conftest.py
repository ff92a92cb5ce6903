"""A small network that was trained once, samples it was not trained on, and a threat that it does not withstand."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import robustreg as rr
from robustreg.data import load

Samples = tuple[Tensor, Tensor]
THREAT = rr.Threat("linf", 0.15)


@cache
def _digits() -> tuple[Samples, Samples]:
    splits = load("digits", validation=0)
    train, test = splits.train.floats(), splits.test.floats()
    return (train.x, train.y), (test.x[:64], test.y[:64])


@cache
def _trained(method: str) -> nn.Module:
    (x, y), _ = _digits()
    objectives = {
        "plain": rr.CrossEntropy(),
        "pgd": rr.methods.pgd_at(THREAT, steps=3),
        "trades": rr.methods.trades(THREAT, steps=3),
        "gradient": rr.CrossEntropy() + 0.3 * rr.GradientNorm(THREAT),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layers = nn.Linear(64, 32), nn.GELU() if method == "gradient" else nn.ReLU(), nn.Linear(32, 10)
    net = nn.Sequential(nn.Flatten(), *layers)
    module, generator = rr.ObjectiveModule(net, objectives[method], seed=0), torch.Generator().manual_seed(0)
    optimiser, step = torch.optim.Adam(net.parameters(), 5e-3), 0
    for _ in range(8):
        for rows in torch.randperm(len(x), generator=generator).split(100):
            optimiser.zero_grad()
            module(x[rows], y[rows], step=step, progress=0.0).backward()
            optimiser.step()
            step += 1
    return net.eval()


@pytest.fixture
def trained() -> Callable[[str], nn.Module]:
    """The network of a method, trained once a session."""
    return _trained


@pytest.fixture
def test_samples() -> Samples:
    """Samples `[64, 1, 8, 8]` with labels."""
    return _digits()[1]
