"""One side of the box of valid inputs: a number, or a tensor with a value per feature.

`Threat` holds two of them; here they are checked, compared by content, written as JSON and fitted to an
input.
"""

from __future__ import annotations

import hashlib
import math
from numbers import Real
from typing import Any, TypeAlias, TypeGuard

import torch
from torch import Tensor

__all__ = [
    "Bound",
    "at_least",
    "at_most",
    "content",
    "fit",
    "from_json",
    "is_number",
    "parse",
    "show",
    "to_json",
]

Bound: TypeAlias = float | Tensor


def is_number(value: object) -> TypeGuard[float]:
    """Return whether `value` is a real number; True and False are not."""
    return not isinstance(value, bool) and isinstance(value, Real)


def parse(value: object) -> tuple[Bound, Bound] | None:
    """Return `value` as (lower, upper) or None, tensors copied.

    Raises:
        ValueError: another type, NaN, or lower > upper anywhere.
    """
    if value is None:
        return None
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"bounds are None or (lower, upper), got {value!r}")
    lower, upper = _parse_side(value[0]), _parse_side(value[1])
    if isinstance(lower, float) and isinstance(upper, float):
        if lower > upper:
            raise ValueError(f"bounds are (lower, upper) with lower <= upper, got ({lower:g}, {upper:g})")
        return lower, upper
    low, high = _wide(lower), _wide(upper)
    try:
        crossed = low > high
    except RuntimeError:
        raise ValueError(
            f"the bounds' shapes {list(low.shape)} and {list(high.shape)} do not broadcast together"
        ) from None
    if bool(crossed.any()):
        raise ValueError(
            "bounds are (lower, upper) with lower <= upper, "
            f"got lower > upper in {int(crossed.sum())} features"
        )
    return lower, upper


def _parse_side(value: object) -> Bound:
    if isinstance(value, Tensor) and not value.is_complex() and value.dtype != torch.bool:
        if bool(value.isnan().any()):
            raise ValueError("each bound is a number or a tensor of numbers, got a tensor that holds NaN")
        if value.dim() == 0:
            return float(value)
        return value.detach().clone() if value.is_floating_point() else value.double()
    if not is_number(value) or math.isnan(value):
        raise ValueError(f"each bound is a number or a tensor that broadcasts to x[0], got {value!r}")
    return float(value)


def _wide(bound: Bound) -> Tensor:
    """The bound's values in float64 on the CPU, where every bound is exact."""
    return torch.as_tensor(bound).detach().cpu().double()


def content(bound: Bound) -> object:
    """Return a hashable value, equal for equal bounds whatever their dtype and device."""
    return (tuple(bound.shape), _digest(bound)) if isinstance(bound, Tensor) else bound


def show(bound: Bound) -> str:
    """Return a short text, different for different bounds."""
    return f"tensor{list(bound.shape)}#{_digest(bound)[:12]}" if isinstance(bound, Tensor) else repr(bound)


def _digest(bound: Tensor) -> str:
    values = _wide(bound) + 0.0  # -0.0 becomes the bytes of 0.0, to which it is equal
    return hashlib.sha256(values.contiguous().numpy().tobytes()).hexdigest()


def to_json(bound: Bound) -> Any:
    """Return the bound as a number or nested lists; infinity, which JSON lacks, as "inf" or "-inf"."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(v) for v in value]
        return value if math.isfinite(value) else str(value)

    return plain(_wide(bound).tolist() if isinstance(bound, Tensor) else bound)


def from_json(value: Any) -> Any:
    """Return what `to_json` wrote as a bound; anything else is left for `parse` to refuse.

    Raises:
        ValueError: a list that is not a table of numbers.
    """

    def number(value: Any) -> Any:
        if isinstance(value, list):
            return [number(v) for v in value]
        return float(value) if value in ("inf", "-inf") else value

    if not isinstance(value, list):
        return number(value)
    try:
        return torch.tensor(number(value), dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"bounds are numbers or nested lists of numbers, got {value!r}") from None


def fit(bound: Bound, x: Tensor) -> Bound:
    """Return the bound in the dtype and on the device of x `[B, ...]`.

    Raises:
        ValueError: a tensor that does not broadcast to x[0].
    """
    if not isinstance(bound, Tensor):
        return bound
    features = x.shape[1:]
    fits = bound.dim() <= len(features) and all(
        b in (1, n) for b, n in zip(reversed(bound.shape), reversed(features), strict=False)
    )
    if not fits:
        raise ValueError(
            f"the threat's bounds of shape {list(bound.shape)} do not broadcast to one input, {list(features)}"
        )
    return bound.to(x.dtype).to(x.device)


def at_least(x: Tensor, lower: Bound) -> Tensor:
    """Return max(x, lower)."""
    return torch.maximum(x, lower) if isinstance(lower, Tensor) else x.clamp(min=lower)


def at_most(x: Tensor, upper: Bound) -> Tensor:
    """Return min(x, upper)."""
    return torch.minimum(x, upper) if isinstance(upper, Tensor) else x.clamp(max=upper)
