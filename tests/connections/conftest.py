"""Networks of many kinds, none of them trained, in the shapes that the claims are checked on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """One head of self-attention over four tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(4, 4) for _ in range(3))
        self.out = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(-1, 4, 4)
        a = torch.softmax(self.q(x) @ self.k(x).transpose(1, 2), -1) @ self.v(x)
        return self.out(a.flatten(1))


class Encoder(nn.Module):
    """PyTorch's own attention, by the function and in a transformer's layer with normalisation and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, 0.0, nn.functional.gelu, batch_first=True)
        self.out = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(-1, 4, 4)
        heads = x.reshape(-1, 4, 2, 2).transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(heads, heads, heads)
        return self.out(self.layer(x + mixed.transpose(1, 2).flatten(2)).flatten(1))


class ByHand(nn.Module):
    """Kinks that no layer announces: functions called by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 12), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x.flatten(1)))
        return self.last(torch.maximum(hidden[:, :6], hidden[:, 6:].abs()))


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "relu_pool": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 8), nn.LeakyReLU(0.2),
        nn.Linear(8, 3),
    ),
    "batch_norm": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16, 3)
    ),
    "by_hand": ByHand,
    "gelu": lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.GELU(), nn.Linear(8, 3)),
    "attention": Attention,
    "leaky": lambda: nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.LeakyReLU(0.1), nn.Conv2d(3, 4, 2), nn.PReLU(4), nn.Flatten(), nn.Linear(4, 3)
    ),
    "encoder": Encoder,
    "affine": lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3)),
    "two_classes": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(16, 8, bias=False), nn.ReLU(), nn.Linear(8, 2, bias=False)
    ),
}  # fmt: skip


@pytest.fixture
def network() -> Callable[[str], nn.Module]:
    """A network by name, always with the same weights."""

    def build(name: str) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            net = BUILDERS[name]()
            for module in net.modules():
                if isinstance(module, nn.BatchNorm2d):  # statistics of some data
                    module.running_mean.uniform_(-0.2, 0.2)
                    module.running_var.uniform_(0.5, 1.5)
        return net

    return build


@pytest.fixture
def samples() -> Tensor:
    """``[6, 1, 4, 4]``."""
    return torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(5))
