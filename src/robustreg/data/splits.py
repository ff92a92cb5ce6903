"""Training, validation and test samples, with the validation samples cut from the training set."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .arrays import ArrayData
from .errors import DataError


@dataclass(frozen=True)
class Splits:
    """What a run trains on, selects on and reports on.

    Attributes:
        train: for the weights.
        validation: cut from the training set, for every choice made during training (which checkpoint, when
            to stop); None when nothing is selected.
        test: for the numbers reported at the end, and for nothing before.
    """

    train: ArrayData
    validation: ArrayData | None
    test: ArrayData

    def __post_init__(self) -> None:
        for part in (self.validation, self.test):
            if part is not None and (part.shape, part.classes) != (self.train.shape, self.train.classes):
                raise DataError(
                    f"{self.train.name}: all splits must have the same sample shape and classes, got "
                    f"{list(self.train.shape)} with {self.train.num_classes} classes and "
                    f"{list(part.shape)} with {part.num_classes}"
                )

    def to(self, device: torch.device | str) -> Splits:
        """The same splits on another device."""
        validation = None if self.validation is None else self.validation.to(device)
        return Splits(self.train.to(device), validation, self.test.to(device))

    def describe(self) -> dict[str, Any]:
        """For run.json: name, description, sample counts of each split, labels to train with, the hash of all."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        hashes = {name: None if part is None else part.sha256 for name, part in parts.items()}
        joined = "\n".join(f"{name} {value}" for name, value in hashes.items())
        return {
            **self.train.describe(),
            **{name: 0 if part is None else len(part) for name, part in parts.items()},
            "labelled": int((self.train.y >= 0).sum()),
            "count": sum(len(part) for part in parts.values() if part is not None),
            "sha256": hashlib.sha256(joined.encode()).hexdigest(),
            "hashes": hashes,
        }


def cut_validation(train: ArrayData, test: ArrayData, validation: float | int = 0.1, seed: int = 0) -> Splits:
    """Cut a validation set from the training set; the test set is handed through untouched.

    Args:
        train: the whole training set.
        test: the test set.
        validation: a fraction of the labelled training samples (a float in (0, 1)), a number of samples (an
            int), or 0 for none.
        seed: of the cut alone. Runs that are compared keep it equal, whatever their own seeds.
    """
    if validation == 0:
        return Splits(train, None, test)
    rest, cut = stratified_cut(train.y, validation, seed, what=f"{train.name}: validation")
    return Splits(train.subset(rest), train.subset(cut), test)


def stratified_cut(y: Tensor, amount: float | int, seed: int, what: str = "cut") -> tuple[Tensor, Tensor]:
    """Positions of labels `y` [N] in two parts, each in ascending order: `(rest, cut)`.

    The cut has every class in the proportion in which the labels have it, to within one sample, and no
    unlabelled samples; which ones is a permutation from NumPy's frozen legacy generator, so equal on every
    version and machine.

    Raises:
        DataError: an amount that is no fraction in (0, 1) and no number in 1..N-1.
    """
    labels = y.cpu().numpy()
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    total = _amount(amount, int(counts.sum()), len(labels), what)
    source = np.random.RandomState(seed)
    chosen = [
        source.permutation(np.flatnonzero(labels == label))[:quota]
        for label, quota in zip(classes, _quotas(counts, total), strict=True)
    ]
    mask = np.zeros(len(labels), dtype=bool)
    mask[np.concatenate(chosen)] = True
    return torch.from_numpy(np.flatnonzero(~mask)), torch.from_numpy(np.flatnonzero(mask))


def hide_labels(data: ArrayData, kept: float | int, seed: int, what: str = "labelled") -> ArrayData:
    """The same samples with the labels of `kept` of them, a stratified fraction or number; the others get -1.

    Raises:
        DataError: an amount that is no fraction in (0, 1) and no number in 1..N-1.
    """
    rest, _ = stratified_cut(data.y, kept, seed, what=what)
    y = data.y.clone()
    y[rest.to(y.device)] = -1
    return dataclasses.replace(data, y=y)


def _amount(amount: float | int, labelled: int, n: int, what: str) -> int:
    if isinstance(amount, bool) or not isinstance(amount, (int, float)):
        raise DataError(f"{what} must be a fraction or a number of samples, got {amount!r}")
    if isinstance(amount, float) and not 0 < amount < 1:
        raise DataError(
            f"{what} as a fraction must lie between 0 and 1, got {amount!r}; write a count without a point"
        )
    total = max(1, round(amount * labelled)) if isinstance(amount, float) else amount
    if not 1 <= total <= labelled or total >= n:
        raise DataError(f"{what} of {total} samples cannot be cut from {n}, of which {labelled} are labelled")
    return total


def _quotas(counts: Any, total: int) -> list[int]:
    """How many of each class: proportional, whole, and exactly `total` in sum (largest remainders first)."""
    shares = [total * int(c) / int(counts.sum()) for c in counts]
    quotas = [math.floor(s) for s in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: (quotas[i] - shares[i], i))
    for i in by_remainder[: total - sum(quotas)]:
        quotas[i] += 1
    return quotas
