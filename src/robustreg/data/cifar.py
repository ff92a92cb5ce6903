"""CIFAR-10 and CIFAR-100 in their "python version": pickled batches, in a folder or still in their .tar.gz.

Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, technical report, 2009. A batch is
a dictionary of `data`, uint8 [N, 3072] (32x32 red, then green, then blue), and `labels` or `fine_labels`, a
list.
"""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .arrays import ArrayData, from_arrays
from .errors import DataError
from .files import FileSet, Remote, obtain
from .safe_pickle import StoredArray, read_pickle

_LIMIT = 1 << 29  # bytes; the largest official batch has 155 million


@dataclass(frozen=True)
class Layout:
    """How one of the two sets is stored."""

    title: str
    folder: str
    train: tuple[str, ...]
    test: str
    labels: str
    meta: str
    names: str
    num_classes: int
    files: FileSet


def _layout(title: str, number: int, md5: str, **rest: Any) -> Layout:
    folder = f"cifar-{number}-{'batches-py' if number == 10 else 'python'}"
    archive = f"cifar-{number}-python.tar.gz"
    short = f"cifar{number}"
    files = FileSet(
        title=title,
        folders=(
            short,
            f"cifar-{number}",
            f"{short}/{folder}",
            f"cifar-{number}/{folder}",
            folder,
            short.upper(),
            "",
        ),
        variants=(tuple((batch,) for batch in (*rest["train"], rest["test"])), ((archive,),)),
        remotes=(Remote(archive, md5, (f"https://www.cs.toronto.edu/~kriz/{archive}",)),),
    )
    return Layout(title=title, folder=folder, num_classes=number, files=files, **rest)


CIFAR10 = _layout(
    "CIFAR-10",
    10,
    "c58f30108f718f92721af3b95e74349a",
    train=tuple(f"data_batch_{i}" for i in range(1, 6)),
    test="test_batch",
    labels="labels",
    meta="batches.meta",
    names="label_names",
)
CIFAR100 = _layout(
    "CIFAR-100",
    100,
    "eb9058c3a382ffc7106e4002c42a8d85",
    train=("train",),
    test="test",
    labels="fine_labels",
    meta="meta",
    names="fine_label_names",
)


def read_set(
    layout: Layout, name: str, data_dir: str | os.PathLike[str] | None, download: bool
) -> list[ArrayData]:
    """Training and test set, images uint8 [N, 3, 32, 32]."""
    paths = obtain(layout.files, data_dir, download)
    archived = paths[0].name.endswith(".tar.gz")
    wanted = (*layout.train, layout.test, layout.meta)
    contents = _members(paths[0], layout.folder, wanted) if archived else _folder(paths[0].parent, wanted)
    classes = _class_names(layout, contents.get(layout.meta))

    def part(batches: tuple[str, ...]) -> ArrayData:
        missing = [batch for batch in batches if batch not in contents]
        if missing:
            raise DataError(f"{paths[0]} lacks {layout.folder}/{missing[0]}")
        read = [read_batch(*contents[batch], layout.labels, layout.num_classes) for batch in batches]
        x, y = (np.concatenate(arrays) for arrays in zip(*read, strict=True))
        description = f"{layout.title}, colour images 32x32"
        return from_arrays(x, y, name=name, classes=classes, description=description)

    return [part(layout.train), part((layout.test,))]


def read_batch(load: Callable[[], bytes], source: str, labels: str, num_classes: int) -> tuple[Any, Any]:
    """Images uint8 [N, 3, 32, 32] and labels int64 [N] of one batch.

    Args:
        load: gives the file's bytes.
        source: what to call the file in messages.
        labels: key of the labels.
        num_classes: how many classes there are.

    Raises:
        DataError: a pickle that is not what it claims to be.
    """
    batch = read_pickle(load(), source)
    for key in ("data", labels):
        if key not in batch:
            raise DataError(f"{source} lacks the key {key!r}; it has {', '.join(map(repr, batch)) or 'none'}")
    x = _images(batch["data"], source)
    y = batch[labels]
    if not isinstance(y, list) or not all(type(label) is int for label in y):
        raise DataError(f"{source}: {labels!r} must be a list of whole numbers")
    if len(y) != len(x):
        raise DataError(f"{source} holds {len(x)} images but {len(y)} labels")
    wrong = [label for label in y if not 0 <= label < num_classes]
    if wrong:
        raise DataError(f"{source} holds the label {wrong[0]}, labels are 0..{num_classes - 1}")
    return x, np.array(y, dtype=np.int64)


def _images(stored: Any, source: str) -> Any:
    if not isinstance(stored, StoredArray):
        raise DataError(f"{source}: 'data' must be an array, got {type(stored).__name__}")
    try:
        flat = stored.uint8()
    except ValueError as error:
        raise DataError(f"{source}: 'data' is damaged: {error}") from None
    if flat.ndim != 2 or flat.shape[1] != 3072 or not len(flat):
        raise DataError(f"{source}: 'data' must have the shape [N, 3072], got {list(flat.shape)}")
    return np.ascontiguousarray(flat).reshape(-1, 3, 32, 32)


Member = tuple[Callable[[], bytes], str]


def _folder(folder: Path, wanted: tuple[str, ...]) -> dict[str, Member]:
    return {
        name: ((folder / name).read_bytes, str(folder / name)) for name in wanted if (folder / name).is_file()
    }


def _members(archive: Path, folder: str, wanted: tuple[str, ...]) -> dict[str, Member]:
    """The wanted files of a .tar.gz, read in memory: nothing is unpacked onto the disk."""
    found: dict[str, Member] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = member.name.removeprefix("./").removeprefix(f"{folder}/")
                if name not in wanted or not member.isfile():
                    continue
                if member.size > _LIMIT:
                    raise DataError(
                        f"{archive}: {member.name} claims {member.size} bytes, more than any batch has"
                    )
                stream = tar.extractfile(member)
                assert stream is not None  # only members that are no files have none
                found[name] = (_constant(stream.read()), f"{archive}: {member.name}")
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataError(f"{archive} is a damaged or truncated .tar.gz file: {error}") from None
    return found


def _constant(content: bytes) -> Callable[[], bytes]:
    return lambda: content


def _class_names(layout: Layout, meta: Member | None) -> tuple[str, ...]:
    """From the set's own list of names; plain numbers where that file is not there."""
    if meta is None:
        return tuple(str(i) for i in range(layout.num_classes))
    load, source = meta
    names = read_pickle(load(), source).get(layout.names)
    if not isinstance(names, list) or len(names) != layout.num_classes:
        raise DataError(f"{source} must list {layout.num_classes} names under {layout.names!r}")
    return tuple(name.decode("latin1") if isinstance(name, bytes) else str(name) for name in names)
