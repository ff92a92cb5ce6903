"""Small networks and batches for the checks: smooth, with everything that has a state, constant, saturated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustreg.threat import Threat

Shape = tuple[int, ...]
LINF = Threat("linf", 0.1)
IMAGES: Shape = (2, 5, 4)
ROWS: Shape = (7,)


@dataclass(frozen=True)
class Batch:
    """Samples ``x [n, ...]``, labels ``y [n]`` or None, and the samples' places ``index [n]`` in the data."""

    x: Tensor
    y: Tensor | None
    index: Tensor

    def __len__(self) -> int:
        return self.x.shape[0]

    def rows(self, places: Tensor) -> Batch:
        """The samples at ``places``, in that order."""
        y = None if self.y is None else self.y[places]
        return Batch(self.x[places], y, self.index[places])

    def labelled(self, y: Tensor | None) -> Batch:
        """The same samples under other labels."""
        return Batch(self.x, y, self.index)

    def at(self, x: Tensor) -> Batch:
        """The same labels and places with other samples."""
        return Batch(x, self.y, self.index)

    def to(self, place: torch.dtype | torch.device) -> Batch:
        """The same batch on a device, or its samples in another precision."""
        if isinstance(place, torch.dtype):
            return self.at(self.x.to(place))
        return Batch(self.x.to(place), None if self.y is None else self.y.to(place), self.index.to(place))


def samples(shape: Shape, classes: int, threats: list[Threat], n: int = 6) -> Batch:
    """``n`` samples well inside every threat's box, one class after the other."""
    g = torch.Generator().manual_seed(1)
    x = 0.25 + 0.5 * torch.rand(n, *shape, generator=g)
    for threat in threats:
        x = threat.clip(x)
    # the places are not the rows' numbers, so that nobody can take the one for the other
    return Batch(x, torch.arange(n) % classes, 2 * torch.arange(n) + 1)


def shape_of(threats: Iterable[Threat]) -> Shape:
    """The sample shape that per-feature bounds imply, otherwise small images."""
    bounds = [bound for threat in threats for bound in threat.bounds or ()]
    shapes = [tuple(bound.shape) for bound in bounds if isinstance(bound, Tensor) and bound.ndim]
    return shapes[0] if shapes else IMAGES


def corners(batch: Batch, threats: list[Threat]) -> Batch:
    """The batch with every value at 0 or 1, or at the nearest bound: where clipping and ties happen."""
    x = (batch.x > 0.5).to(batch.x.dtype)
    x[0] = 0.0
    for threat in threats:
        x = threat.clip(x)
    return batch.at(x)


def smooth(shape: Shape, classes: int) -> nn.Module:
    """A smooth network whose samples know nothing of each other."""
    return _seeded(
        lambda: nn.Sequential(
            *_first(shape, 3), nn.GELU(), nn.Flatten(), *_middle(shape, 3), nn.Tanh(), _last(classes)
        )
    )


def restless(shape: Shape, classes: int) -> nn.Module:
    """A smooth network with everything that has a state or draws numbers: BatchNorm and dropout, in training."""
    norm = nn.BatchNorm2d(3) if len(shape) == 3 else nn.BatchNorm1d(3)
    return _seeded(
        lambda: nn.Sequential(
            *_first(shape, 3),
            norm,
            nn.GELU(),
            nn.Dropout(0.3),
            nn.Flatten(),
            *_middle(shape, 3),
            nn.BatchNorm1d(6),
            nn.Tanh(),
            nn.Dropout(0.2),
            _last(classes),
        )
    )


def constant(shape: Shape, classes: int, bias: float = 1.0) -> nn.Module:
    """A network whose logits are the same everywhere, so that every input gradient is exactly 0.

    With ``bias`` 0 all logits are equal, too.
    """
    net = smooth(shape, classes)
    with torch.no_grad():
        last = list(net.parameters())[-2:]
        last[0].zero_()
        last[1].mul_(bias)
    return net


def saturated(shape: Shape, classes: int) -> nn.Module:
    """A network with logits of some ten thousand, for which every softmax is one-hot."""
    return nn.Sequential(smooth(shape, classes), Scaled(1e4))


class Scaled(nn.Module):
    """Logits times a number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, logits: Tensor) -> Tensor:
        """``factor * logits``."""
        return self.factor * logits


def _first(shape: Shape, width: int) -> list[nn.Module]:
    if len(shape) == 3:
        return [nn.Conv2d(shape[0], width, 3, padding=1)]
    return [nn.Flatten(), nn.Linear(math.prod(shape), width)]


def _middle(shape: Shape, width: int) -> list[nn.Module]:
    return [nn.Linear(width * math.prod(shape[1:]) if len(shape) == 3 else width, 6)]


def _last(classes: int) -> nn.Module:
    return nn.Linear(6, classes)


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()
