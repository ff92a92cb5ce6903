"""Nested state as tensors plus JSON: what lets a checkpoint be read without running any code.

State dictionaries hold tensors beside plain values, with keys that JSON does not know (an optimiser counts
its parameters with integers). `pack` takes such a tree apart into named tensors (for safetensors) and a JSON
tree, and `unpack` puts it together again, equal in every bit, type and key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

MARK = "$"  # a JSON object with one key that starts so stands for something JSON lacks


def pack(tree: Any) -> tuple[dict[str, Tensor], Any]:
    """Split a tree of dict, list, tuple, tensor, number, string, bool, None into (tensors by path, JSON).

    Raises:
        TypeError: something else is in it; the message names its place and type.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _pack(tree, "", tensors)


def unpack(tensors: Mapping[str, Tensor], tree: Any) -> Any:
    """The inverse of `pack`.

    Raises:
        ValueError: the JSON tree names a tensor that is not there, or a mark this version does not know.
    """
    if isinstance(tree, list):
        return [unpack(tensors, item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) != 1 or not next(iter(tree)).startswith(MARK):
        return {key: unpack(tensors, value) for key, value in tree.items()}
    [(mark, content)] = tree.items()
    if mark == "$tensor":
        if content not in tensors:
            raise ValueError(f"the tensor {content!r} is missing")
        return tensors[content]
    if mark == "$tuple":
        return tuple(unpack(tensors, item) for item in content)
    if mark == "$dict":
        return {unpack(tensors, key): unpack(tensors, value) for key, value in content}
    if mark == "$float":
        return float(content)
    raise ValueError(f"it holds {mark!r}, which this version does not know")


def _pack(item: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(item, Tensor):
        while path in tensors:  # {"a/b": ..., "a": {"b": ...}} would be one path
            path += "'"
        # A copy of its own: safetensors refuses storage shared between names (tied weights) and strided
        # views.
        tensors[path] = item.detach().to("cpu", copy=True).contiguous()
        return {"$tensor": path}
    if item is None or isinstance(item, (bool, int, str)):
        return item
    if isinstance(item, float):
        return item if math.isfinite(item) else {"$float": repr(item)}
    if isinstance(item, Mapping):
        below = [(key, _pack(value, f"{path}/{key}", tensors)) for key, value in item.items()]
        if all(isinstance(key, str) and not key.startswith(MARK) for key, _ in below):
            return dict(below)
        return {"$dict": [[_pack(key, f"{path}/key", {}), value] for key, value in below]}
    if isinstance(item, (list, tuple)):
        items = [_pack(value, f"{path}/{index}", tensors) for index, value in enumerate(item)]
        return items if isinstance(item, list) else {"$tuple": items}
    raise TypeError(
        f"a checkpoint holds tensors, numbers, strings, lists and dictionaries; "
        f"{path or 'the state'} is a {type(item).__name__}"
    )


def same(one: Any, other: Any) -> bool:
    """Whether two trees are equal in every bit (tensors by dtype, shape and value; NaN equals NaN)."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return (
            isinstance(one, Tensor)
            and isinstance(other, Tensor)
            and one.dtype == other.dtype
            and one.shape == other.shape
            and torch.equal(_bits(one), _bits(other))
        )
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, float) and math.isnan(one):
        return math.isnan(other)
    return bool(one == other)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
