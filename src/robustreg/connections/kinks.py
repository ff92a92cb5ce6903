"""The kinks of a network: every place where a piecewise linear operation changes its piece, seen as it is run.

A ReLU changes its piece where its input is 0, a maximum where two of its inputs are equal. Each such operation, whether
a layer or a function called by hand, is met by a ``TorchFunctionMode`` and gives *codes*, which piece each unit is on,
and *margins*, how far it is from another one. Two inputs with equal codes lie in one convex linear region.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

Kink = tuple[Tensor, Tensor]
"""Codes ``[B, K]`` (integers) and margins ``[B, K]`` (positive, with a graph to the input where it has one)."""
Reading = Callable[..., Sequence[Kink]]


class Kinks(TorchFunctionMode):
    """While active, takes down the kinks of every piecewise linear operation on tensors of more than one dimension.

    Attributes:
        codes: one tensor ``[B, K]`` an operation.
        margins: likewise, in the units of the operation's input.
    """

    def __init__(self) -> None:
        super().__init__()
        self.codes: list[Tensor] = []
        self.margins: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        reading = READINGS.get(func)
        if reading is not None:  # before the operation runs, which may overwrite its input
            for codes, margins in reading(*args, **(kwargs or {})):
                self.codes.append(codes.flatten(1))
                self.margins.append(margins.flatten(1))
        return func(*args, **(kwargs or {}))


def _thresholds(x: Tensor, *at: float) -> list[Kink]:
    """An operation on single units that bends at the given places."""
    x = x.clone()
    bends = [b for b in at if math.isfinite(b)]
    if x.ndim < 2 or not bends:
        return []
    codes = sum((x > b).long() for b in bends)
    assert isinstance(codes, Tensor)
    return [(codes, torch.stack([(x - b).abs() for b in bends]).amin(0))]


def _bends_at_zero(x: Tensor, *args: object, **kwargs: object) -> list[Kink]:
    return _thresholds(x, 0.0)


def _clamp(x: Tensor, min: Any = None, max: Any = None, **kwargs: Any) -> list[Kink]:
    if isinstance(min, Tensor) or isinstance(max, Tensor):
        return []
    return _thresholds(x, *(float(b) for b in (min, max) if b is not None))


def _clamp_min(x: Tensor, min: float) -> list[Kink]:
    return _thresholds(x, float(min))


def _hardtanh(x: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> list[Kink]:
    return _thresholds(x, float(min_val), float(max_val))


def _relu6(x: Tensor, inplace: bool = False) -> list[Kink]:
    return _thresholds(x, 0.0, 6.0)


def _threshold(x: Tensor, threshold: float, value: float, inplace: bool = False) -> list[Kink]:
    return _thresholds(x, float(threshold))


def _pairwise(x: Tensor, other: Tensor) -> list[Kink]:
    return _thresholds(x - other, 0.0)


def _over_dim(x: Tensor, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> list[Kink]:
    """The largest along a dimension: how far each other entry is below it."""
    if isinstance(dim, Tensor):  # the two-tensor form of torch.max
        return _pairwise(x, dim)
    dims = [dim] if isinstance(dim, int) else list(dim or [])
    if len(dims) != 1 or x.ndim < 2 or dims[0] % x.ndim == 0:
        return []
    return [_winners(x.clone().movedim(dims[0], -1))]


def _winners(rows: Tensor) -> Kink:
    """Of entries ``[..., n]``: who is largest, and by how much each other one falls short."""
    best, winner = rows.max(-1)
    short = torch.where(
        torch.nn.functional.one_hot(winner, rows.shape[-1]).bool(), math.inf, best[..., None] - rows
    )
    return winner, torch.nan_to_num(short.flatten(1), nan=math.inf)


def _max_pool2d(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> list[Kink]:
    if x.ndim != 4 or ceil_mode:
        return []
    kernel, step, pad, spread = (_two(v) for v in (kernel_size, stride or kernel_size, padding, dilation))
    lowest = torch.finfo(x.dtype).min / 4  # never wins, and differences with it stay finite
    padded = F.pad(x.clone(), (pad[1], pad[1], pad[0], pad[0]), value=lowest)
    batch, channels = x.shape[:2]
    windows = F.unfold(padded, kernel, dilation=spread, stride=step)
    windows = windows.reshape(batch, channels, kernel[0] * kernel[1], -1).transpose(2, 3)
    return [_winners(windows)]


def _two(value: Any) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    return (int(pair[0]), int(pair[-1]))


READINGS: dict[Any, Reading] = {
    **dict.fromkeys(
        [
            F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_,
            F.leaky_relu, F.prelu, torch.prelu, Tensor.prelu, F.rrelu,
            torch.abs, torch.absolute, Tensor.abs, Tensor.absolute,
        ],
        _bends_at_zero,
    ),
    **dict.fromkeys([F.relu6], _relu6),
    **dict.fromkeys([F.hardtanh], _hardtanh),
    **dict.fromkeys([F.threshold], _threshold),
    **dict.fromkeys([torch.clamp, torch.clip, Tensor.clamp, Tensor.clip], _clamp),
    **dict.fromkeys([torch.clamp_min, Tensor.clamp_min], _clamp_min),
    **dict.fromkeys([torch.clamp_max, Tensor.clamp_max], _clamp_min),
    **dict.fromkeys([torch.maximum, torch.minimum, Tensor.maximum, Tensor.minimum], _pairwise),
    **dict.fromkeys([torch.max, Tensor.max, torch.amax, Tensor.amax], _over_dim),
    **dict.fromkeys([F.max_pool2d, torch.max_pool2d, F.max_pool2d_with_indices], _max_pool2d),
}  # fmt: skip
