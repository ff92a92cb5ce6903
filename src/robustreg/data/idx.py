"""MNIST's IDX files: a big-endian header of type and sizes, then the bytes.

Format: LeCun, Cortes, Burges, the MNIST database. Images have the magic number 2051 (bytes, 3 dimensions),
labels 2049 (bytes, 1 dimension).
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from .arrays import ArrayData, from_arrays
from .errors import DataError
from .files import FileSet, Remote, obtain

IMAGES, LABELS = 2051, 2049


def read_idx(path: str | os.PathLike[str], magic: int) -> Any:
    """The uint8 array in an IDX file, raw or gzip'd (told by content, not by name).

    Args:
        path: of the file.
        magic: 2051 for images [N, H, W], 2049 for labels [N].

    Raises:
        DataError: not gzip or damaged inside, another magic number, or not exactly as many bytes as the
            header says.
    """
    source = Path(path)
    try:
        with open(source, "rb") as probe:
            zipped = probe.read(2) == b"\x1f\x8b"
        with gzip.open(source) if zipped else open(source, "rb") as stream:
            return _read(cast(IO[bytes], stream), source, magic)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{source} is a damaged or truncated gzip file: {error}") from None


def _read(stream: IO[bytes], source: Path, magic: int) -> Any:
    start = stream.read(4)
    if len(start) < 4:
        raise DataError(
            f"{source} is truncated: an IDX file has a header of at least 8 bytes, got {len(start)}"
        )
    found = int.from_bytes(start, "big")
    if found != magic:
        kind = {IMAGES: "images", LABELS: "labels"}
        raise DataError(
            f"{source} is no IDX file of {kind[magic]}: expected the magic number {magic}, "
            f"got {found}{f' ({kind[found]})' if found in kind else ''}"
        )
    ndim = magic % 256
    sizes = stream.read(4 * ndim)
    if len(sizes) < 4 * ndim:
        raise DataError(f"{source} is truncated inside its header")
    shape = tuple(int(n) for n in np.frombuffer(sizes, dtype=">u4"))
    count = int(np.prod(shape, dtype=object))
    if count == 0:
        raise DataError(f"{source} holds no data: its header gives the sizes {list(shape)}")
    body = _at_most(stream, count + 1)
    if len(body) != count:
        came = f"only {len(body)}" if len(body) < count else "more"
        raise DataError(
            f"{source} must hold {count} bytes after its header ({list(shape)}), but holds {came}"
        )
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)


def _at_most(stream: IO[bytes], count: int) -> bytearray:
    """Up to `count` bytes, block by block: a forged header must not reserve memory that the file cannot fill."""
    body = bytearray()
    while len(body) < count:
        block = stream.read(min(count - len(body), 1 << 24))
        if not block:
            break
        body += block
    return body


def read_pair(images: Path, labels: Path, classes: tuple[str, ...]) -> tuple[Any, Any]:
    """Images [N, 1, H, W] and labels [N], both uint8, from a pair of IDX files."""
    x, y = read_idx(images, IMAGES), read_idx(labels, LABELS)
    if len(x) != len(y):
        raise DataError(f"{images} holds {len(x)} images but {labels} holds {len(y)} labels")
    if int(y.max()) >= len(classes):
        raise DataError(f"{labels} holds the label {int(y.max())}, but there are {len(classes)} classes")
    return x[:, None], y


def _files(title: str, folders: tuple[str, ...], mirrors: tuple[str, ...], md5: dict[str, str]) -> FileSet:
    return FileSet(
        title=title,
        folders=folders,
        variants=(tuple((f"{stem}.gz", stem) for stem in md5),),
        remotes=tuple(
            Remote(f"{s}.gz", m, tuple(f"{base}{s}.gz" for base in mirrors)) for s, m in md5.items()
        ),
    )


MNIST = _files(
    "MNIST",
    ("mnist", "MNIST/raw", "MNIST", ""),
    (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    {
        "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
    },
)
FASHION_MNIST = _files(
    "Fashion-MNIST",
    ("fashion-mnist", "fashion_mnist", "FashionMNIST/raw", "FashionMNIST", ""),
    ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    {
        "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
    },
)

CLASSES = {
    "MNIST": tuple("0123456789"),
    "Fashion-MNIST": (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
}

# SHA-256 of the published training and test labels. The two sets have the same file names, and only this
# tells them apart when somebody keeps them in a folder that does not say which it is.
_PUBLISHED_LABELS = {
    "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13": "MNIST",
    "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5": "MNIST",
    "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7": "Fashion-MNIST",
    "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9": "Fashion-MNIST",
}


def read_set(
    files: FileSet, name: str, data_dir: str | os.PathLike[str] | None, download: bool
) -> list[ArrayData]:
    """Training and test set of MNIST or one of its drop-in replacements."""
    paths = obtain(files, data_dir, download)
    return [_read_part(files.title, name, *paths[i : i + 2]) for i in (0, 2)]


def _read_part(title: str, name: str, images: Path, labels: Path) -> ArrayData:
    x, y = read_pair(images, labels, CLASSES[title])
    published = _PUBLISHED_LABELS.get(hashlib.sha256(y.tobytes()).hexdigest())
    if published not in (title, None):
        raise DataError(f"{labels} is {published}'s file, but {title} was asked for")
    note = "" if published else ", not the published files (their labels differ)"
    description = f"{title}, grey images {x.shape[2]}x{x.shape[3]}{note}"
    return from_arrays(x, y, name=name, classes=CLASSES[title], description=description)
