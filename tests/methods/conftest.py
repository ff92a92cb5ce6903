"""A network whose logits are given, so that a method's value can be compared with arithmetic on paper."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import robustreg as rr


class Table(nn.Module):
    """Looks the logits of sample number x up: the parameters are the logits themselves."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.logits[x.flatten().round().long()]


@dataclass(frozen=True)
class Beside(rr.Point):
    """The sample so many numbers further on."""

    by: int

    def locate(self, probe: rr.Probe) -> Tensor:
        return probe.x + self.by


@dataclass(frozen=True)
class Fixture:
    """Two samples, numbers 0 and 1, whose adversarial points are numbers 2 and 3."""

    net: Table
    x: Tensor
    y: Tensor
    attack: rr.Point
    threat: rr.Threat

    def step(self, objective: rr.Objective) -> tuple[float, Tensor, Tensor, dict[str, Tensor]]:
        """The loss, its gradients with respect to the clean and the adversarial logits, and each term's values."""
        self.net.zero_grad()
        out = objective.detailed(self.net, self.x, self.y, step=0)
        out.loss.backward()
        assert self.net.logits.grad is not None
        return out.loss.item(), self.net.logits.grad[:2], self.net.logits.grad[2:4], out.per_sample


@pytest.fixture
def fixture() -> Fixture:
    """The fixture of three classes: clean logits, adversarial logits, and those of the points as far again."""
    logits = torch.tensor(
        [[2, 1, 0], [0, 1, 0.5], [1, 1.5, 0], [-0.5, 0.25, 1], [0, 2, 0], [-1, -0.5, 1.5]],
        dtype=torch.float64,
    )
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    return Fixture(Table(logits), x, torch.tensor([0, 1]), Beside(2), rr.Threat("linf", 0.1, None))
