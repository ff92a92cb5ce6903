"""Standardisation as a model's first layer, so that attacks and penalties live in pixel scale 0-1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ..registry import closest

Statistics: TypeAlias = "str | tuple[float | Sequence[float], float | Sequence[float]] | None"

# Mean and standard deviation of the training pixels per channel, in pixel scale 0-1.
STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "digits": ((0.3053,), (0.3760,)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
}


class Normalize(nn.Module):
    """`(x - mean) / std` for `x` [B, C, ...]; mean and std are one number, or one per channel or feature.

    Raises:
        ValueError: a std that is not positive, or means and stds of different number.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        super().__init__()
        means, stds = (torch.tensor(v, dtype=torch.float32).reshape(-1) for v in (mean, std))
        if len(means) != len(stds) or not len(means):
            raise ValueError(f"Normalize needs as many means as stds, got {len(means)} and {len(stds)}")
        if not bool((stds > 0).all() and torch.isfinite(stds).all() and torch.isfinite(means).all()):
            raise ValueError(
                f"Normalize needs finite means and stds above 0, got {means.tolist()}, {stds.tolist()}"
            )
        self.register_buffer("mean", means)
        self.register_buffer("std", stds)

    def forward(self, x: Tensor) -> Tensor:
        """Standardise, in the precision of `x`."""
        if len(self.mean) not in (1, x.shape[1]):
            raise ValueError(
                f"the input has {x.shape[1]} channels, but is normalised by {len(self.mean)} means"
            )
        view = (1, -1) + (1,) * (x.ndim - 2)
        return (x - self.mean.view(view).to(x.dtype)) / self.std.view(view).to(x.dtype)

    def extra_repr(self) -> str:
        """Show the numbers when the model is printed."""
        mean, std = ([round(v, 4) for v in values.tolist()] for values in (self.mean, self.std))
        return f"mean={mean}, std={std}"


def normalization(statistics: Statistics) -> nn.Module:
    """The first layer for these statistics.

    Args:
        statistics: None for none, the name of a data set, or a pair (mean, std).

    Raises:
        ValueError: an unknown name, or no pair.
    """
    if statistics is None:
        return nn.Identity()
    if isinstance(statistics, str):
        if statistics not in STATISTICS:
            near = closest(statistics, STATISTICS)
            hint = f"did you mean {near!r}? " if near else ""
            raise ValueError(f"no statistics of {statistics!r}; {hint}there are {', '.join(STATISTICS)}")
        return Normalize(*STATISTICS[statistics])
    if not isinstance(statistics, (tuple, list)) or len(statistics) != 2:
        raise ValueError(f"normalize takes a data set's name, a pair (mean, std) or None, got {statistics!r}")
    return Normalize(*statistics)
