"""Readers of a few lines each: scikit-learn's digits, SVHN's .mat files, and .npz files of arrays."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from .arrays import ArrayData, from_arrays
from .errors import DataError, DataNotFound
from .files import FileSet, Remote, obtain
from .splits import stratified_cut

TEST_SEED = 0  # of test sets cut here; fixed for good, so that results stay comparable


def read_digits() -> list[ArrayData]:
    """Handwritten digits, 1797 images [1, 8, 8], embedded in scikit-learn: no file, no network.

    Source: Alpaydin, Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998. Its 17 grey
    levels 0-16 become pixel scale 0-1. The set has no official split: 450 samples, stratified and always the
    same, are the test set.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "the digits come with scikit-learn, which is not installed; the extra robustreg[train] has it"
        ) from None
    bunch = load_digits()
    data = from_arrays(
        (bunch.images[:, None] / 16).astype(np.float32),
        bunch.target,
        name="digits",
        classes=tuple("0123456789"),
        description="scikit-learn's handwritten digits, grey images 8x8, fixed test set of 450",
    )
    return _with_test(data, 450)


SVHN = FileSet(
    title="SVHN",
    folders=("svhn", "SVHN", ""),
    variants=((("train_32x32.mat",), ("test_32x32.mat",)),),
    remotes=(
        Remote(
            "train_32x32.mat",
            "e26dedcc434d2e4c54c9b2d4a06d8373",
            ("http://ufldl.stanford.edu/housenumbers/train_32x32.mat",),
        ),
        Remote(
            "test_32x32.mat",
            "eb5a983be6a315427106f1b164d9cef3",
            ("http://ufldl.stanford.edu/housenumbers/test_32x32.mat",),
        ),
    ),
)


def read_svhn(data_dir: str | os.PathLike[str] | None, download: bool) -> list[ArrayData]:
    """Street View House Numbers, cropped digits, uint8 [N, 3, 32, 32].

    Source: Netzer et al., Reading Digits in Natural Images with Unsupervised Feature Learning, NIPS workshop,
    2011.
    """
    return [_read_mat(path) for path in obtain(SVHN, data_dir, download)]


def _read_mat(path: Path) -> ArrayData:
    try:
        from scipy.io import loadmat
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "SVHN's .mat files are read by scipy, which is not installed; the extra robustreg[train] has it"
        ) from None
    try:
        content = loadmat(path, variable_names=["X", "y"])
    except Exception as error:  # scipy raises whatever a damaged file leads it to
        raise DataError(f"{path} is no readable .mat file (damaged or truncated): {error}") from None
    for key in ("X", "y"):
        if key not in content:
            raise DataError(f"{path} lacks the variable {key!r}")
    x, y = content["X"], np.asarray(content["y"])
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[:3] != (32, 32, 3):
        raise DataError(f"{path}: X must be uint8 [32, 32, 3, N], got {x.dtype} {list(x.shape)}")
    if y.size != x.shape[3]:
        raise DataError(f"{path} holds {x.shape[3]} images but {y.size} labels")
    labels = y.reshape(-1).astype(np.int64)
    if not ((labels >= 1) & (labels <= 10)).all():
        raise DataError(
            f"{path}: labels must be 1..10 (10 is the digit 0), got {labels.min()}..{labels.max()}"
        )
    return from_arrays(
        np.ascontiguousarray(x.transpose(3, 2, 0, 1)),
        labels % 10,
        name="svhn",
        classes=tuple("0123456789"),
        description="SVHN, colour images 32x32",
    )


def read_npz(path: str | os.PathLike[str]) -> list[ArrayData]:
    """Training and test set from a .npz file of plain arrays, read without unpickling.

    The file holds `x_train`, `y_train`, `x_test`, `y_test`; or `x`, `y`, of which a fixed stratified fifth
    becomes the test set. An array `classes` of names may be there too. See `from_arrays` for what `x` and `y`
    may be.

    Raises:
        DataNotFound: no such file.
        DataError: not a .npz file, keys missing, arrays of Python objects, and all of `from_arrays`.
    """
    source = Path(path).expanduser()
    if not source.is_file():
        raise DataNotFound(f"there is no file {source}")
    arrays = _open_npz(source)
    classes = [str(c) for c in arrays["classes"]] if "classes" in arrays else None
    description = f"arrays of {source.name}"

    def part(suffix: str, names: Any) -> ArrayData:
        try:
            return from_arrays(
                arrays[f"x{suffix}"],
                arrays[f"y{suffix}"],
                name=f"{source.stem}{suffix}",
                classes=names,
                description=description,
            )
        except DataError as error:
            raise DataError(f"{source}: {error}") from None

    if "x_train" not in arrays:
        return _with_test(part("", classes), 0.2)
    labels = (arrays["y_train"], arrays["y_test"])
    if classes is None and all(y.dtype.kind in "iu" for y in labels):  # others are refused below
        classes = [str(i) for i in range(max(int(y.max(initial=1)) for y in labels) + 1)]
    return [part("_train", classes), part("_test", classes)]


def _open_npz(source: Path) -> dict[str, Any]:
    arrays = None
    try:
        with open(source, "rb") as stream:
            opened = np.load(stream, allow_pickle=False)
            if hasattr(opened, "files"):  # a .npy file under this name gives the array itself
                arrays = dict(opened)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{source} is no readable .npz file of plain arrays: {error}") from None
    if arrays is None:
        raise DataError(f"{source} holds a single array; an .npz file of x and y is needed")
    for keys in (("x_train", "y_train", "x_test", "y_test"), ("x", "y")):
        if all(key in arrays for key in keys):
            return arrays
    raise DataError(
        f"{source} must hold x and y, or x_train, y_train, x_test and y_test; "
        f"it holds {', '.join(sorted(arrays)) or 'nothing'}"
    )


def _with_test(data: ArrayData, amount: float | int) -> list[ArrayData]:
    train, test = stratified_cut(data.y, amount, TEST_SEED, what=f"{data.name}: test set")
    return [data.subset(train), data.subset(test)]
