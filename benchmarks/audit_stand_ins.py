"""Stand-ins for designs that a later, blind test found misjudged.

They are no independent evidence: checks were changed for them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from audit_later import Around, Material, several
from torch import Tensor, nn

import robustreg as rr


def chosen_by_checksum(nets: nn.Module, x: Tensor) -> Tensor:
    """Each input is answered by one of several networks, which one a checksum of its digits says."""
    which = (x.detach().flatten(1) * 1e4).long().sum(1) % len(nets)  # type: ignore[arg-type]
    said = torch.stack([net(x) for net in nets], 1)  # type: ignore[attr-defined]
    return said[torch.arange(len(x), device=x.device), which]


class SteepLast(nn.Module):
    """The features of a trained network behind a steep sigmoid, and a last layer that was trained on them."""

    def __init__(self, net: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.features = copy.deepcopy(net)
        self.features.layers = self.features.layers[:-1]  # type: ignore[index,assignment]
        self.features.requires_grad_(False)
        with torch.no_grad():
            hidden = self.features(x)
        self.register_buffer("centre", hidden.mean(0))
        self.last = nn.Linear(hidden.shape[1], 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, C]`."""
        z: Tensor = self.last(torch.sigmoid(80 * (self.features(x) - self.centre)))
        return z


class SortedPairs(nn.Module):
    """The larger and the smaller of each pair (GroupSort), which keeps lengths."""

    def forward(self, x: Tensor) -> Tensor:
        """As many as came."""
        one, other = x.chunk(2, 1)
        return torch.cat([torch.maximum(one, other), torch.minimum(one, other)], 1)


def lipschitz(m: Material) -> nn.Module:
    """A network of orthogonal layers, whose logits are small: nothing is hidden, and cross-entropy aims badly."""
    linear = nn.utils.parametrizations.orthogonal
    torch.manual_seed(m.seed)
    net = nn.Sequential(
        nn.Flatten(),
        linear(nn.Linear(m.x[0].numel(), 64)),
        SortedPairs(),
        linear(nn.Linear(64, 64)),
        SortedPairs(),
        linear(nn.Linear(64, 10)),
    )
    return m.fit(net, rr.CrossEntropy(), 30)


def robust(m: Material) -> nn.Module:
    """Trained on PGD."""
    return m.fit(m.other(m.arch, m.seed), rr.methods.pgd_at(m.threat, steps=5), 0)


STAND_INS: dict[str, Callable[[Material], nn.Module]] = {
    "checksum": lambda m: Around(several(m, 4), chosen_by_checksum),
    "steep_last": lambda m: m.fit(SteepLast(robust(m), m.x), rr.CrossEntropy(), 60),
}
SOUND_STAND_INS: dict[str, Callable[[Material], nn.Module]] = {"group_sort": lipschitz}
