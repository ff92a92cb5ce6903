"""Is this usable data? Each check raises `DataError`: one sentence, what was expected and what came."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from .errors import DataError

Bounds: TypeAlias = "tuple[float | Tensor, float | Tensor] | None"


def value_tensor(x: Any, name: str) -> Tensor:
    """Samples as a contiguous uint8 or floating tensor; float64 becomes float32, other types are refused."""
    tensor = _tensor(x, name, "x")
    if tensor.dtype == torch.float64:
        tensor = tensor.to(torch.float32)
    if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
        raise DataError(
            f"{name}: x must be uint8 (pixels 0-255) or floating point, got {tensor.dtype}; convert it"
        )
    return tensor.detach().contiguous()


def label_tensor(y: Any, name: str) -> Tensor:
    """Labels as an int64 tensor; floating point labels are refused even when they are whole numbers."""
    tensor = _tensor(y, name, "y")
    if tensor.numel() and (tensor.is_floating_point() or tensor.is_complex()):
        raise DataError(
            f"{name}: labels must be integers (class numbers), got {tensor.dtype}{_first(tensor)}"
        )
    return tensor.detach().to(torch.int64)


def check_form(x: Tensor, y: Tensor, name: str) -> None:
    """Types, shapes and lengths."""
    if x.dtype != torch.uint8 and not x.is_floating_point():
        raise DataError(f"{name}: x must be uint8 or floating point, got {x.dtype}")
    if y.dtype != torch.int64:
        raise DataError(f"{name}: y must be int64, got {y.dtype}")
    if x.ndim < 2:
        raise DataError(f"{name}: x must be [N, ...] with at least two dimensions, got shape {list(x.shape)}")
    if y.ndim != 1:
        raise DataError(f"{name}: y must be [N], one class number a sample, got shape {list(y.shape)}")
    if x.numel() == 0:
        raise DataError(f"{name}: there are no samples, x has shape {list(x.shape)}")
    if len(x) != len(y):
        raise DataError(f"{name}: x has {len(x)} samples but y has {len(y)} labels")
    if x.device != y.device:
        raise DataError(f"{name}: x is on {x.device} but y is on {y.device}")


def check_labels(y: Tensor, classes: int, name: str) -> None:
    """Every label is a class number, or -1 for none."""
    if classes < 2:
        raise DataError(f"{name}: a classifier needs at least two classes, got {classes}")
    wrong = ((y < -1) | (y >= classes)).nonzero()
    if len(wrong):
        i = int(wrong[0])
        raise DataError(
            f"{name}: label {int(y[i])} of sample {i} is out of range, "
            f"labels are 0..{classes - 1}, or -1 for a sample without one"
        )


def check_bounds(x: Tensor, bounds: Bounds, name: str) -> None:
    """Floating values are finite and inside the bounds; bytes always are."""
    check_limits(bounds, x, name)
    if x.dtype == torch.uint8:
        if not is_unit(bounds):
            raise DataError(f"{name}: uint8 pixels are handed out in the scale 0-1, so bounds must be (0, 1)")
        return
    low, high = (float(v) for v in torch.aminmax(x))
    if not (math.isfinite(low) and math.isfinite(high)):
        bad = int((~torch.isfinite(x)).sum())
        raise DataError(f"{name}: x must be finite, but {bad} of {x.numel()} values are NaN or infinite")
    if bounds is None:
        return
    below, above = (torch.as_tensor(b, device=x.device) for b in bounds)
    if not bool(((x < below) | (x > above)).any()):
        return
    if is_unit(bounds) and low >= 0 and 1 < high <= 255:
        raise DataError(
            f"{name}: values go up to {high:g} where pixels 0-1 are declared; divide by 255, or pass uint8"
        )
    raise DataError(
        f"{name}: values span [{low:g}, {high:g}], outside the declared bounds {_text(bounds)}; "
        "rescale them or declare other bounds"
    )


def bounds_pair(bounds: Any, name: str) -> Bounds:
    """Bounds as a pair of floats or float32 tensors, from numbers, arrays, lists or None."""
    if bounds is None:
        return None
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise DataError(f"{name}: bounds must be a pair (low, high) or None, got {bounds!r}")
    low, high = (
        float(b) if isinstance(b, (int, float)) else _tensor(b, name, "a bound").float() for b in bounds
    )
    return low, high


def is_unit(bounds: Bounds) -> bool:
    """Whether the bounds are the numbers 0 and 1."""
    return bounds is not None and all(isinstance(b, (int, float)) for b in bounds) and bounds == (0, 1)


def check_limits(bounds: Bounds, x: Tensor, name: str) -> None:
    """The bounds themselves: low below high, and of a shape that fits the samples."""
    if bounds is None:
        return
    low, high = (torch.as_tensor(b) for b in bounds)
    for bound in (low, high):
        if bound.ndim and bound.shape != x.shape[1:]:
            raise DataError(
                f"{name}: bounds must be numbers or of one sample's shape {list(x.shape[1:])}, "
                f"got {list(bound.shape)}"
            )
    if not bool((low < high).all()):
        raise DataError(f"{name}: bounds must have low < high, got {_text(bounds)}")


def _text(bounds: tuple[Any, Any]) -> str:
    numbers = (f"{b:g}" if isinstance(b, (int, float)) else "per feature" for b in bounds)
    return f"({', '.join(numbers)})"


def _tensor(value: Any, name: str, which: str) -> Tensor:
    if isinstance(value, Tensor):
        return value
    try:
        array = np.asarray(value)
    except ValueError as error:  # lists of rows of different lengths
        raise DataError(f"{name}: {which} is no array of numbers: {error}") from None
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name}: {which} must be an array of numbers, got one of type {array.dtype}")
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    # torch refuses memory it may not write, negative strides and 16-byte floats.
    kept = native if native.dtype != np.longdouble else native.astype(np.float64)
    return torch.from_numpy(np.require(kept, requirements=["C", "W"]))


def _first(y: Tensor) -> str:
    fractional = (y != y.round()).nonzero() if y.is_floating_point() else y.new_empty(0)
    return f" (label {float(y[tuple(fractional[0])]):g} is no whole number)" if len(fractional) else ""
