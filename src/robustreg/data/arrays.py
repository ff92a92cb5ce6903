"""Labelled samples as two tensors: the one form in which data travel through training and evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checks import (
    Bounds,
    bounds_pair,
    check_bounds,
    check_form,
    check_labels,
    check_limits,
    label_tensor,
    value_tensor,
)
from .errors import DataError

_CHUNK = 4096  # samples hashed at a time, so that hashing on a GPU's tensor never copies all of it


def pixels(x: Tensor) -> Tensor:
    """Stored samples as a model takes them: float32; bytes become pixel scale 0-1, floats keep theirs."""
    return x.to(torch.float32).div(255) if x.dtype == torch.uint8 else x.to(torch.float32)


@dataclass(frozen=True, eq=False, repr=False)
class ArrayData:
    """Samples `x` [N, ...] with labels `y` [N], checked when made, never changed after.

    `x` is kept as it came, uint8 or floating point, because bytes need a quarter of the memory of float32;
    what is handed out (`data[i]`, `batches`, `floats`) is float32, and for bytes in pixel scale 0-1.

    Attributes:
        x: uint8 or floating [N, ...]; images are [N, C, H, W].
        y: int64 [N], a class number, or -1 for a sample without a label.
        name: of the data set.
        classes: one name per class.
        bounds: (low, high) of valid values, numbers or tensors of one sample's shape, in the scale handed
            out; None for values without bounds.
        description: one line for people.

    Raises:
        DataError: wrong types or shapes, no samples, NaN, values outside the bounds, labels that are no
            class.
    """

    x: Tensor
    y: Tensor
    name: str
    classes: tuple[str, ...]
    bounds: Bounds = (0.0, 1.0)
    description: str = ""

    def __post_init__(self) -> None:
        check_form(self.x, self.y, self.name)
        check_labels(self.y, len(self.classes), self.name)
        check_bounds(self.x, self.bounds, self.name)

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        return (
            f"ArrayData({self.name}: {len(self)} samples {list(self.shape)} {self.x.dtype}, "
            f"{self.num_classes} classes, {self.x.device})"
        )

    def __getitem__(self, index: int | slice | Tensor | Sequence[int]) -> tuple[Tensor, Tensor]:
        """Samples in float32 with their labels, which makes this a map-style torch dataset too."""
        chosen = index if isinstance(index, (int, slice, Tensor)) else torch.as_tensor(index)
        return pixels(self.x[chosen]), self.y[chosen]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample, [C, H, W] for images."""
        return tuple(self.x.shape[1:])

    @property
    def num_classes(self) -> int:
        """How many classes there are, whether or not each has a sample."""
        return len(self.classes)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.x.device

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of types, shapes and bytes of `x` and `y`; equal on every device and machine."""
        digest = hashlib.sha256()
        for name, tensor in (("x", self.x), ("y", self.y)):
            digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
            for start in range(0, len(tensor), _CHUNK):
                part = tensor[start : start + _CHUNK].cpu().contiguous()
                digest.update(part.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def floats(self) -> ArrayData:
        """The same samples stored as float32 (pixel scale 0-1), for code that takes `.x` directly."""
        return self if self.x.dtype == torch.float32 else self._with(pixels(self.x), self.y)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All samples in order, as `(x float32 [B, ...], y [B])`; the last batch may be smaller."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        for start in range(0, len(self), batch_size):
            yield self[start : start + batch_size]

    def subset(self, indices: Tensor | Sequence[int]) -> ArrayData:
        """The samples at these positions, in this order."""
        index = torch.as_tensor(indices, dtype=torch.int64, device=self.device)
        if index.ndim != 1 or not len(index):
            raise DataError(
                f"{self.name}: a subset needs a list of at least one index, got shape {list(index.shape)}"
            )
        if int(index.min()) < 0 or int(index.max()) >= len(self):
            raise DataError(
                f"{self.name}: a subset's indices must lie in 0..{len(self) - 1}, "
                f"got {int(index.min())}..{int(index.max())}"
            )
        return self._with(self.x[index], self.y[index])

    def take(self, n: int) -> ArrayData:
        """The first `n` samples."""
        if not 1 <= n <= len(self):
            raise DataError(f"{self.name}: cannot take {n} of {len(self)} samples")
        return self._with(self.x[:n], self.y[:n])

    def to(self, device: torch.device | str) -> ArrayData:
        """The same samples on another device."""
        x = self.x.to(device)
        return self if x is self.x else self._with(x, self.y.to(device))

    def describe(self) -> dict[str, Any]:
        """What these data are, as JSON-able values; `sha256` is that of the contents."""
        return {
            "name": self.name,
            "description": self.description,
            "count": len(self),
            "shape": list(self.shape),
            "dtype": str(self.x.dtype).removeprefix("torch."),
            "classes": list(self.classes),
            "bounds": None if self.bounds is None else [_plain(b) for b in self.bounds],
            "sha256": self.sha256,
        }

    def _with(self, x: Tensor, y: Tensor) -> ArrayData:
        """A copy with other tensors; what was checked once is not scanned again."""
        bounds = self.bounds
        if bounds is not None:
            bounds = tuple(b.to(x.device) if isinstance(b, Tensor) else b for b in bounds)  # type: ignore[assignment]
        made = object.__new__(type(self))
        given = {"name": self.name, "classes": self.classes, "description": self.description}
        made.__dict__.update({"x": x, "y": y, "bounds": bounds, **given})
        return made


def from_arrays(
    x: Any,
    y: Any,
    *,
    name: str = "arrays",
    classes: int | Sequence[str] | None = None,
    bounds: Bounds = (0.0, 1.0),
    description: str = "",
) -> ArrayData:
    """Data from any pair of arrays or tensors.

    Args:
        x: [N, ...] tensor, NumPy array or nested list; uint8 (pixels 0-255) or floating point. float64
            becomes float32. Images are [N, C, H, W].
        y: [N] integers, -1 for a sample without a label.
        name: of the data set; errors name it.
        classes: how many, or their names; by default as many as the largest label tells.
        bounds: (low, high) of valid float values, numbers or arrays of one sample's shape; None for no
            bounds. Values outside by at most 1e-6, as rounding leaves them, are put on the bound.
        description: one line for people.

    Raises:
        DataError: in one sentence, see `ArrayData`.
    """
    limits = bounds_pair(bounds, name)
    values = value_tensor(x, name)
    labels = label_tensor(y, name).to(values.device)
    check_form(values, labels, name)
    check_limits(limits, values, name)
    return ArrayData(
        x=_snapped(values, limits),
        y=labels,
        name=name,
        classes=_class_names(classes, labels, name),
        bounds=limits,
        description=description,
    )


def from_dataset(
    dataset: Any,
    *,
    name: str | None = None,
    classes: int | Sequence[str] | None = None,
    bounds: Bounds = (0.0, 1.0),
    description: str = "",
) -> ArrayData:
    """Data from any torch `Dataset` of `(x, y)` samples, read once from end to end.

    Samples may be tensors, NumPy arrays or PIL images (which become uint8 [C, H, W]). A dataset that augments
    at random is frozen as it came; augmentation belongs in the `Loader`.

    Raises:
        DataError: a sample that is no pair, samples of different shapes, and all of `from_arrays`.
    """
    title = type(dataset).__name__ if name is None else name
    names = getattr(dataset, "classes", None) if classes is None else classes
    if isinstance(names, (list, tuple)):
        names = [str(c) for c in names]
    samples = [_pair(sample, i, title) for i, sample in enumerate(_samples(dataset, title))]
    if not samples:
        raise DataError(f"{title}: the dataset has no samples")
    shapes = {tuple(x.shape) for x, _ in samples}
    if len(shapes) > 1:
        raise DataError(
            f"{title}: all samples must have one shape, got {sorted(shapes)[:3]}; resize them first"
        )
    x = torch.stack([x for x, _ in samples])
    y = np.array([y for _, y in samples])
    return from_arrays(x, y, name=title, classes=names, bounds=bounds, description=description)


def _samples(dataset: Any, name: str) -> Iterable[Any]:
    if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
        # By index up to the length: many datasets never raise the IndexError that plain iteration waits for.
        return (dataset[i] for i in range(len(dataset)))
    if isinstance(dataset, Iterable):
        return dataset
    raise DataError(f"{name}: expected a torch Dataset of (x, y) samples, got {type(dataset).__name__}")


def _pair(sample: Any, index: int, name: str) -> tuple[Tensor, Any]:
    if not isinstance(sample, (tuple, list)) or len(sample) != 2:
        raise DataError(f"{name}: sample {index} must be a pair (x, y), got {type(sample).__name__}")
    x, y = sample
    if hasattr(x, "getbands"):  # a PIL image, named by its attribute because PIL need not be installed
        array = np.asarray(x)
        x = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return value_tensor(x, f"{name}, sample {index}"), y.item() if isinstance(y, (Tensor, np.ndarray)) else y


def _snapped(x: Tensor, bounds: Bounds, tolerance: float = 1e-6) -> Tensor:
    """Rounding leaves pixels at -3e-8; they are put on the bound, so that later checks can be exact."""
    if bounds is None or x.dtype == torch.uint8:
        return x
    low, high = (torch.as_tensor(b, dtype=x.dtype, device=x.device) for b in bounds)
    if bool(((x < low) | (x > high)).any()):
        clamped = torch.minimum(torch.maximum(x, low), high)
        if bool(((x - clamped).abs() <= tolerance).all()):
            return clamped
    return x


def _class_names(classes: int | Sequence[str] | None, y: Tensor, name: str) -> tuple[str, ...]:
    if isinstance(classes, str):
        raise DataError(f"{name}: classes must be a number or a list of names, got the text {classes!r}")
    if classes is None:
        classes = int(y.max()) + 1
        if classes < 1:
            raise DataError(f"{name}: no sample has a label, so say how many classes there are")
    if isinstance(classes, int):
        return tuple(str(i) for i in range(classes))
    return tuple(str(c) for c in classes)


def _plain(bound: float | Tensor) -> Any:
    return bound.tolist() if isinstance(bound, Tensor) else float(bound)
