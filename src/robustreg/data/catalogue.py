"""Data sets by name."""

from __future__ import annotations

import os
from collections.abc import Callable

from ..registry import closest
from . import cifar, idx, small_sets
from .arrays import ArrayData
from .errors import DataError
from .splits import Splits, cut_validation, hide_labels, stratified_cut

Folder = str | os.PathLike[str] | None
Reader = Callable[[Folder, bool], list[ArrayData]]

READERS: dict[str, Reader] = {
    "digits": lambda data_dir, download: small_sets.read_digits(),
    "mnist": lambda data_dir, download: idx.read_set(idx.MNIST, "mnist", data_dir, download),
    "fashion_mnist": lambda data_dir, download: idx.read_set(
        idx.FASHION_MNIST, "fashion_mnist", data_dir, download
    ),
    "cifar10": lambda data_dir, download: cifar.read_set(cifar.CIFAR10, "cifar10", data_dir, download),
    "cifar100": lambda data_dir, download: cifar.read_set(cifar.CIFAR100, "cifar100", data_dir, download),
    "svhn": small_sets.read_svhn,
}
NAMES = (*READERS, "arrays")


def load(
    name: str,
    data_dir: Folder = None,
    *,
    validation: float | int = 0.1,
    seed: int = 0,
    train_size: float | int | None = None,
    labelled: float | int | None = None,
    path: str | os.PathLike[str] | None = None,
    download: bool = True,
) -> Splits:
    """A data set by name, its validation samples cut from the training set.

    Args:
        name: digits, mnist, fashion_mnist, cifar10, cifar100, svhn, or arrays (an .npz file given by `path`).
        data_dir: folder to look in first; then the folder that ROBUSTREG_DATA_DIR names, then the user's
            cache. In each, the usual layouts are known (`mnist/...gz`, `FashionMNIST/raw/...`,
            `cifar-10-batches-py/...`).
        validation: a fraction of the training set (a float), a number of samples (an int), or 0 for none.
        seed: of the cut; keep it equal over runs that are compared.
        train_size: keep only so much of what is left for training, a stratified fraction or number.
        labelled: keep the labels of only so much of that, a stratified fraction or number; the others are -1.
        path: of the .npz file, for `arrays` only.
        download: fetch files that are nowhere; False makes that an error which says where they were looked
            for.

    Raises:
        DataError: an unknown name, or files that are not what they claim to be.
        DataNotFound: files that are not there.
        ModuleNotFoundError: a reader's library is not installed.
    """
    if (path is not None) != (name == "arrays"):
        raise DataError(
            f"the data 'arrays' need path=FILE.npz, and no others take it; got {name!r} and {path!r}"
        )
    if path is not None:
        train, test = small_sets.read_npz(path)
    elif name in READERS:
        train, test = READERS[name](data_dir, download)
    else:
        near = closest(name, NAMES)
        hint = f"; did you mean {near!r}?" if near else ";"
        raise DataError(f"unknown data set {name!r}{hint} there are {', '.join(NAMES)}")
    splits = cut_validation(train, test, validation, seed)
    part = splits.train
    if train_size is not None:
        part = part.subset(stratified_cut(part.y, train_size, seed, what=f"{name}: train_size")[1])
    if labelled is not None:
        part = hide_labels(part, labelled, seed, what=f"{name}: labelled")
    return Splits(part, splits.validation, splits.test)
