"""A linear model whose robust accuracy is known in closed form, and data for it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustreg.threat import Threat


class Linear(nn.Module):
    """Logits (0, w.x + b) on rows [B, D]: robust to linf eps exactly where |w.x + b| > eps * ||w||_1."""

    def __init__(self, features: int = 6) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.w = nn.Parameter(torch.randn(features, generator=generator))
        self.b = nn.Parameter(torch.tensor(-0.5) * self.w.detach().sum())

    def forward(self, x: Tensor) -> Tensor:
        z = x.flatten(1) @ self.w + self.b
        return torch.stack([torch.zeros_like(z), z], dim=1)

    def margin(self, x: Tensor, y: Tensor) -> Tensor:
        z = self(x)[:, 1].detach()
        return torch.where(y == 1, z, -z)

    def robust(self, x: Tensor, y: Tensor, eps: float) -> Tensor:
        """Whether any perturbation of linf length eps leaves the sample right, without the box."""
        return self.margin(x, y) > eps * self.w.detach().abs().sum()


@pytest.fixture
def linear() -> Linear:
    return Linear().train()


@pytest.fixture
def data(linear: Linear) -> tuple[Tensor, Tensor]:
    """Samples well inside the box, of which about a tenth are labelled wrongly."""
    generator = torch.Generator().manual_seed(2)
    x = 0.2 + 0.6 * torch.rand(120, 6, generator=generator)
    y = (linear(x)[:, 1] > 0).long()
    flip = torch.rand(120, generator=generator) < 0.1
    return x, torch.where(flip, 1 - y, y)


@pytest.fixture
def threat() -> Threat:
    return Threat("linf", 0.1)


class SmallNet(nn.Module):
    """A small BatchNorm and dropout network on [B, 1, 5, 5] with three classes, in train mode."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 3)
        )
        self.body[1].running_mean.uniform_(-0.1, 0.1)
        with torch.no_grad():  # so that all three classes occur
            self.body[5].bias -= self.eval()(torch.rand(200, 1, 5, 5)).mean(0)
        self.train()
        self.body[1].eval()  # one layer frozen by its owner

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@pytest.fixture
def net() -> SmallNet:
    state = torch.get_rng_state()
    net = SmallNet()
    torch.set_rng_state(state)
    return net


@pytest.fixture
def images(net: SmallNet) -> tuple[Tensor, Tensor]:
    """Random images with the net's own predictions as labels, every seventh wrong."""
    x = torch.rand(40, 1, 5, 5, generator=torch.Generator().manual_seed(4))
    flags = [m.training for m in net.modules()]
    net.eval()
    y = net(x).argmax(1).detach()
    for module, flag in zip(net.modules(), flags, strict=True):
        module.training = flag
    y[::7] = (y[::7] + 1) % 3
    return x, y
