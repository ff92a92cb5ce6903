"""The samples to evaluate on: one form for everything a user may hold them in, checked before any work."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Samples:
    """Inputs `[N, ...]` in floating point (pixel scale 0-1 for images) and their labels `[N]`, int64."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def as_model_takes(self, model: nn.Module) -> Samples:
        """Return the samples in the model's float32 or float64; half-precision models get what was given.

        NumPy and scikit-learn hand out float64, which a float32 network refuses. Pixels are never rounded to
        half precision here, because that would move them by more than many an eps.
        """
        wanted = next((p.dtype for p in model.parameters() if p.is_floating_point()), self.x.dtype)
        if wanted in (torch.float32, torch.float64) and self.x.dtype in (torch.float32, torch.float64):
            return Samples(self.x.to(wanted), self.y)
        return self


def gather(data: Any) -> Samples:
    """Collect `data` into tensors and check them.

    Args:
        data: a pair `(x, y)` of tensors or arrays, an object with `.x` and `.y`, a torch Dataset of `(x, y)`
            samples, or an iterable of `(x, y)` batches such as a DataLoader.

    Raises:
        TypeError: for data of another form, integer inputs, or labels that are not integers.
        ValueError: for no samples, inputs and labels of different number, or labels that are not `[N]`.
    """
    if hasattr(data, "x") and hasattr(data, "y"):
        x, y = _tensor(data.x), _tensor(data.y)
    elif isinstance(data, (tuple, list)) and len(data) == 2 and all(_is_array(part) for part in data):
        x, y = _tensor(data[0]), _tensor(data[1])
    elif isinstance(data, torch.utils.data.Dataset) and not isinstance(
        data, torch.utils.data.IterableDataset
    ):
        x, y = _from_dataset(data)
    elif isinstance(data, Iterable) and not _is_array(data):
        x, y = _from_batches(data)
    else:
        raise TypeError(
            "the data must be a pair (x, y), an object with .x and .y, or an iterable of (x, y) batches, "
            f"got {type(data).__name__}"
        )
    _check(x, y)
    return Samples(x.detach(), y.detach().to(x.device, torch.int64))


def check_labels(y: Tensor, classes: int) -> None:
    """Raise ValueError when a label `[N]` is not one of `classes` classes."""
    wrong = ((y < 0) | (y >= classes)).nonzero()
    if not len(wrong):
        return
    i = int(wrong[0])
    label = int(y[i])
    if label == -1:
        raise ValueError(
            f"sample {i} has label -1 (unlabelled): evaluation needs a label for every sample, "
            f"{int((y == -1).sum())} of {len(y)} have none"
        )
    raise ValueError(
        f"label {label} of sample {i} is out of range: the model has {classes} classes, 0..{classes - 1}"
    )


def _check(x: Tensor, y: Tensor) -> None:
    if x.ndim and x.numel() == 0:
        raise ValueError(f"there are no samples to evaluate on: the inputs have shape {list(x.shape)}")
    if x.ndim < 2:
        raise ValueError(
            f"the inputs must have shape [N, ...], [N, 1] where a sample is a single number, got {list(x.shape)}"
        )
    if not x.is_floating_point():
        hint = ": divide by 255" if x.dtype == torch.uint8 else ""
        raise TypeError(f"the inputs must be floating point (pixels in the scale 0-1), got {x.dtype}{hint}")
    if y.ndim != 1:
        hint = ": of one-hot labels take y.argmax(1)" if y.ndim == 2 and y.shape[1] > 1 else ""
        raise ValueError(
            f"the labels must have shape [N], one class number a sample, got {list(y.shape)}{hint}"
        )
    if y.is_floating_point() or y.is_complex():
        raise TypeError(f"the labels must be integers, class numbers from 0, got {y.dtype}")
    if len(x) != len(y):
        raise ValueError(f"there are {len(x)} inputs but {len(y)} labels")


def _is_array(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray))


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    array = np.asarray(value)
    if array.dtype == object or array.dtype.kind in "USV":
        raise TypeError(f"inputs and labels must be numeric tensors or arrays, got {array.dtype}")
    return torch.tensor(array)


def _from_dataset(data: Any) -> tuple[Tensor, Tensor]:
    pairs = [_pair(data[i], i) for i in range(len(data))]
    if not pairs:
        raise ValueError("there are no samples to evaluate on: the dataset is empty")
    xs, ys = [_tensor(x) for x, _ in pairs], [_tensor(y) for _, y in pairs]
    _check_alike(xs, "sample", 0)
    _check_alike(ys, "label", 0)
    return torch.stack(xs), torch.stack(ys)


def _from_batches(data: Iterable[Any]) -> tuple[Tensor, Tensor]:
    pairs = [_pair(batch, i) for i, batch in enumerate(data)]
    if not pairs:
        raise ValueError("there are no samples to evaluate on: the iterable of batches is empty")
    for i, (_, y) in enumerate(pairs):
        if _tensor(y).ndim == 0:
            raise ValueError(f"batch {i} has a single number for its labels; expected labels of shape [B]")
    xs, ys = [_tensor(x) for x, _ in pairs], [_tensor(y) for _, y in pairs]
    _check_alike(xs, "batch", 1)
    _check_alike(ys, "the labels of batch", 1)
    return torch.cat(xs), torch.cat(ys)


def _check_alike(parts: list[Tensor], what: str, first: int) -> None:
    """Raise ValueError where the shapes differ, those of batches in more than their length."""
    for i, part in enumerate(parts):
        if part.shape[first:] != parts[0].shape[first:] or part.ndim != parts[0].ndim:
            raise ValueError(
                f"all samples must have one shape, but {what} 0 has {list(parts[0].shape)} and {what} {i} "
                f"{list(part.shape)}"
            )


def _pair(item: Any, i: int) -> tuple[Any, Any]:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        found = (
            f"{type(item).__name__} of {len(item)}"
            if isinstance(item, (tuple, list))
            else type(item).__name__
        )
        raise TypeError(f"item {i} of the data must be a pair (x, y), got {found}")
    return item[0], item[1]
