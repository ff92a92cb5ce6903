"""The kinks of a network: every place where a piecewise linear operation changes its piece, seen as it is run.

A ReLU changes its piece where its input is 0, a maximum where two of its inputs are equal. Each such operation, whether
a layer or a function called by hand, is met by a ``TorchFunctionMode`` and gives *codes*, which piece each unit is on,
and *margins*, how far it is from another one. Two inputs with equal codes lie in one convex linear region, unless the
network bends by something that cannot be read, such as a comparison: that there is such a thing is taken down too.
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
Reading = Callable[..., Sequence[Kink] | None]
"""None where an operation is used in a way that is not read."""


class Kinks(TorchFunctionMode):
    """While active, takes down the kinks of every piecewise linear operation on tensors of more than one dimension.

    Attributes:
        codes: one tensor ``[B, K]`` an operation.
        margins: likewise, in the units of the operation's input.
        unread: names of operations that may have kinks which are not among them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.codes: list[Tensor] = []
        self.margins: list[Tensor] = []
        self.unread: set[str] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        reading = READINGS.get(func)
        if reading is not None:  # before the operation runs, which may overwrite its input
            found = reading(*args, **(kwargs or {}))
            for codes, margins in found or []:
                self.codes.append(codes.flatten(1))
                self.margins.append(margins.flatten(1))
        if func in UNREAD or (reading is not None and found is None):
            self.unread.add(getattr(func, "__name__", str(func)))
        return func(*args, **(kwargs or {}))


def _thresholds(x: Tensor, *at: float) -> list[Kink] | None:
    """An operation on single units that bends at the given places."""
    x = x.clone()
    bends = [b for b in at if math.isfinite(b)]
    if x.ndim < 2:
        return None
    if not bends:
        return []
    codes = sum((x > b).long() for b in bends)
    assert isinstance(codes, Tensor)
    return [(codes, torch.stack([(x - b).abs() for b in bends]).amin(0))]


def _bends_at_zero(x: Tensor, *args: object, **kwargs: object) -> list[Kink] | None:
    return _thresholds(x, 0.0)


def _clamp(x: Tensor, min: Any = None, max: Any = None, **kwargs: Any) -> list[Kink] | None:
    if isinstance(min, Tensor) or isinstance(max, Tensor):
        return None
    return _thresholds(x, *(float(b) for b in (min, max) if b is not None))


def _clamp_min(x: Tensor, min: float) -> list[Kink] | None:
    return _thresholds(x, float(min))


def _hardtanh(
    x: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> list[Kink] | None:
    return _thresholds(x, float(min_val), float(max_val))


def _relu6(x: Tensor, inplace: bool = False) -> list[Kink] | None:
    return _thresholds(x, 0.0, 6.0)


def _threshold(x: Tensor, threshold: float, value: float, inplace: bool = False) -> list[Kink] | None:
    return _thresholds(x, float(threshold))


def _pairwise(x: Tensor, other: Tensor) -> list[Kink] | None:
    return _thresholds(x - other, 0.0)


def _over_dim(x: Tensor, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> list[Kink] | None:
    """The largest along a dimension: how far each other entry is below it."""
    if isinstance(dim, Tensor):  # the two-tensor form of torch.max
        return _pairwise(x, dim)
    dims = [dim] if isinstance(dim, int) else list(dim or [])
    if len(dims) != 1 or x.ndim < 2 or dims[0] % x.ndim == 0:
        return None
    return [_winners(x.clone().movedim(dims[0], -1))]


def _smallest_over_dim(x: Tensor, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> list[Kink] | None:
    if isinstance(dim, Tensor):
        return _pairwise(x, dim)
    return _over_dim(-x, dim)


def _sorted(x: Tensor, dim: Any = -1, *args: Any, **kwargs: Any) -> list[Kink] | None:
    """The order of the entries along a dimension: how far each is from the next one."""
    if not isinstance(dim, int) or x.ndim < 2 or dim % x.ndim == 0:
        return None
    rows, order = x.clone().movedim(dim, -1).sort(-1)
    return [(order, (rows[..., 1:] - rows[..., :-1]).flatten(1))]


def _one_of_order(x: Tensor, k: Any, dim: Any = -1, *args: Any, **kwargs: Any) -> list[Kink] | None:
    return _sorted(x, dim)


def _shrink(x: Tensor, lambd: float = 0.5) -> list[Kink] | None:
    return _thresholds(x, -float(lambd), float(lambd))


def _hardswish(x: Tensor, inplace: bool = False) -> list[Kink] | None:
    return _thresholds(x, -3.0, 3.0)


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
) -> list[Kink] | None:
    if x.ndim != 4:
        return None
    kernel, step, pad, spread = (_two(v) for v in (kernel_size, stride or kernel_size, padding, dilation))
    lowest = torch.finfo(x.dtype).min / 4  # never wins, and differences with it stay finite
    more = [
        _beyond(n, k, s, p, w) if ceil_mode else 0
        for n, k, s, p, w in zip(x.shape[2:], kernel, step, pad, spread, strict=True)
    ]
    padded = F.pad(x.clone(), (pad[1], pad[1] + more[1], pad[0], pad[0] + more[0]), value=lowest)
    batch, channels = x.shape[:2]
    windows = F.unfold(padded, kernel, dilation=spread, stride=step)
    windows = windows.reshape(batch, channels, kernel[0] * kernel[1], -1).transpose(2, 3)
    return [_winners(windows)]


def _beyond(size: int, kernel: int, step: int, pad: int, spread: int) -> int:
    """Entries that ``ceil_mode`` adds behind the padding, for a last window that starts within it."""
    reach = spread * (kernel - 1) + 1
    windows = math.ceil((size + 2 * pad - reach) / step) + 1
    if (windows - 1) * step >= size + pad:
        windows -= 1
    return max(0, (windows - 1) * step + reach - size - 2 * pad)


def _max_pool1d(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    *args: Any,
    **kwargs: Any,
) -> list[Kink] | None:
    if x.ndim != 3:
        return None
    one = [v if isinstance(v, int) else v[0] for v in (kernel_size, stride or kernel_size, padding, dilation)]
    across = ((1, one[0]), (1, one[1]), (0, one[2]), (1, one[3]))
    return _max_pool2d(x[:, :, None], *across, *args, **kwargs)


def _adaptive_max_pool2d(x: Tensor, output_size: Any, return_indices: bool = False) -> list[Kink] | None:
    if x.ndim != 4 or _two(output_size) != (1, 1):
        return None
    return [_winners(x.clone().flatten(2))]


def _two(value: Any) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    return (int(pair[0]), int(pair[-1]))


READINGS: dict[Any, Reading] = {
    **dict.fromkeys(
        [
            F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_,
            F.leaky_relu, F.prelu, torch.prelu, Tensor.prelu, F.rrelu,
            torch.abs, torch.absolute, Tensor.abs, Tensor.absolute,
            F.elu, F.selu, torch.selu, F.celu, torch.celu,
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
    **dict.fromkeys([torch.min, Tensor.min, torch.amin, Tensor.amin], _smallest_over_dim),
    **dict.fromkeys([torch.sort, Tensor.sort, torch.median, Tensor.median], _sorted),
    **dict.fromkeys([torch.topk, Tensor.topk, torch.kthvalue, Tensor.kthvalue], _one_of_order),
    **dict.fromkeys([F.softshrink, F.hardshrink, torch.hardshrink, Tensor.hardshrink], _shrink),
    **dict.fromkeys([F.hardswish], _hardswish),
    **dict.fromkeys([F.max_pool2d, torch.max_pool2d, F.max_pool2d_with_indices], _max_pool2d),
    **dict.fromkeys([F.max_pool1d, torch.max_pool1d, F.max_pool1d_with_indices], _max_pool1d),
    **dict.fromkeys([F.adaptive_max_pool2d, F.adaptive_max_pool2d_with_indices], _adaptive_max_pool2d),
}  # fmt: skip

UNREAD: frozenset[Any] = frozenset({
    torch.where, Tensor.where, Tensor.masked_fill, torch.masked_fill, torch.heaviside,
    torch.gt, torch.ge, torch.lt, torch.le, Tensor.gt, Tensor.ge, Tensor.lt, Tensor.le,
    Tensor.__gt__, Tensor.__ge__, Tensor.__lt__, Tensor.__le__,
    torch.sign, Tensor.sign, torch.round, Tensor.round, torch.floor, Tensor.floor, torch.ceil, Tensor.ceil,
    torch.quantile, Tensor.quantile, torch.argmax, Tensor.argmax, torch.argsort, Tensor.argsort,
    F.max_pool3d, F.max_pool3d_with_indices, F.adaptive_max_pool1d, F.adaptive_max_pool3d, F.fractional_max_pool2d,
    F.adaptive_max_pool1d_with_indices, F.adaptive_max_pool3d_with_indices, F.fractional_max_pool2d_with_indices,
})  # fmt: skip
"""Operations by which a network can bend, and of which it is not seen where."""
