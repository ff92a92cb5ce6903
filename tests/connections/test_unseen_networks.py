"""Every claim on networks that give trouble: none may be violated, none may fail, and certificates stay sound."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustreg.connections import CLAIMS, Case, distance_bounds
from robustreg.threat import Threat

X = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(11))


class Scaled(nn.Module):
    """Logits of any size."""

    def __init__(self, net: nn.Module, scale: float) -> None:
        super().__init__()
        self.net, self.scale = net, scale

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.scale * self.net(x)
        return logits


class Transformer(nn.Module):
    """Four tokens, attention, LayerNorm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.layers = nn.TransformerEncoderLayer(8, 2, 8, 0.1, batch_first=True, norm_first=True)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.layers(self.into(x.reshape(-1, 4, 4))).mean(1))
        return logits


class Ordered(nn.Module):
    """The four largest inputs, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(x.flatten(1).topk(4, 1).values)
        return logits


def mlp(classes: int, kind: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 20), kind(), nn.Linear(20, 12), kind(), nn.Linear(12, classes)
    )


def at_a_kink() -> nn.Module:
    """A unit whose input is the first feature, which is 0 in all samples."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        net[1].weight[0], net[1].bias[0] = torch.eye(16)[0], 0.0
    return net


def dropout() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Dropout2d(0.3), nn.Flatten(), nn.Dropout(0.5), nn.Linear(24, 3),
    )  # fmt: skip


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "one logit": lambda: Scaled(mlp(1), 300.0),
    "thirty classes, large logits": lambda: Scaled(mlp(30), 1e5),
    "two classes, large logits": lambda: Scaled(mlp(2), 1e4),
    "smooth, large logits": lambda: Scaled(mlp(3, nn.GELU), 1e4),
    "affine, large logits": lambda: Scaled(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), 1e4),
    "transformer": Transformer,
    "dropout": dropout,
    "hardsigmoid": lambda: mlp(3, nn.Hardsigmoid),
    "jumps": lambda: mlp(3, nn.Hardshrink),
    "ordered": Ordered,
    "kink": at_a_kink,
}


FAR = ("smooth, large logits", "affine, large logits", "ordered")
"""Those that are looked at with a displacement that leaves every region and every order behind."""


@pytest.mark.parametrize(("name", "radius"), [(name, 3.0 if name in FAR else 1e-3) for name in NETWORKS])
def test_nothing_is_violated(name: str, radius: float) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        net = NETWORKS[name]().eval()
    x = X.clone()
    if name == "kink":
        x[:, 0, 0, 0] = 0.0
    classes = max(2, net(x).shape[1])
    case = Case(net, x, torch.arange(4) % classes, radius=radius, threat=Threat("linf", 0.1, bounds=None))
    found = {claim.key: claim.residual(case) for claim in CLAIMS}
    assert [key for key, residual in found.items() if residual.verdict == "violated"] == []
    assert sum(residual.verdict == "holds" for residual in found.values()) > 80
    if radius < 1:
        assert not distance_bounds(case, "l2").refuted.any()


@pytest.mark.parametrize(
    "bend",
    [
        lambda x: torch.where(x > 0.7, 5 * (x - 0.7), 0 * x),
        lambda x: 5 * (x - 0.7) * (x > 0.7),
        lambda x: (5 * (x - 0.7)).masked_fill(x <= 0.7, 0.0),
        lambda x: torch.maximum(5 * (x - 0.7), torch.zeros(())) + 0 * F.adaptive_max_pool1d(x[:, None], 1)[:, 0],
    ],
)  # fmt: skip
def test_a_network_that_compares_gets_no_certificate(bend: Callable[[Tensor], Tensor]) -> None:
    class Bent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x[:, :1] - 1.0 + bend(x[:, :1]), 0 * x[:, :1]], 1)

    case = Case(Bent(), torch.tensor([[0.5, 0.5]]), torch.tensor([1]), threat=Threat("l2", 1.0, bounds=None))
    assert not distance_bounds(case, "l2").certified.any()
