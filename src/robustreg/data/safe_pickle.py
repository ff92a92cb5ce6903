"""Reads the pickles of arrays, lists, dicts, texts and numbers that CIFAR comes as, without running any code.

A pickle is a program: it names functions and calls them. Here every name resolves to an inert stand-in of
this file that merely records what NumPy would have been told, and any other name is refused. NumPy's own
pickle functions are not called either, because a forged array state handed to them can corrupt memory. So the
worst that a hostile file can do is to be refused.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from .errors import DataError


class StoredArray:
    """A NumPy array as a pickle describes it; `uint8()` makes it real."""

    def __init__(self) -> None:
        self.shape: Any = None
        self.dtype: Any = None
        self.fortran: Any = False
        self.data: Any = None

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, self.fortran, self.data = state

    def uint8(self) -> Any:
        """The array, which must be of bytes.

        Raises:
            ValueError: another type, or not as many bytes as its shape needs.
        """
        if not isinstance(self.dtype, StoredType) or self.dtype.code not in ("u1", "uint8", "B", "|u1"):
            raise ValueError(f"expected an array of uint8, got {getattr(self.dtype, 'code', self.dtype)!r}")
        sizes = self.shape if isinstance(self.shape, tuple) else (self.shape,)
        if not all(type(n) is int and n >= 0 for n in sizes) or not isinstance(self.data, (bytes, bytearray)):
            raise ValueError("the state of an array is malformed")
        if int(np.prod(sizes, dtype=object)) != len(self.data):
            raise ValueError(f"an array of shape {list(sizes)} comes with {len(self.data)} bytes")
        return np.frombuffer(self.data, dtype=np.uint8).reshape(sizes, order="F" if self.fortran else "C")


class StoredType:
    """A NumPy dtype as a pickle describes it: its code, nothing more."""

    def __init__(self, code: Any) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else code

    def __setstate__(self, state: Any) -> None:
        """Byte order and flags say nothing more about bytes."""


class _Name:
    """What a permitted name resolves to; it accepts no attributes, so a pickle cannot alter it."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it assigns a state to a function")


class _Reconstruct(_Name):
    __slots__ = ()

    def __call__(self, *_: Any) -> StoredArray:
        return StoredArray()


class _FromBuffer(_Name):
    __slots__ = ()

    def __call__(self, data: Any, dtype: Any, shape: Any, order: Any) -> StoredArray:
        array = StoredArray()
        array.__setstate__((1, shape, dtype, order == "F", data))
        return array


class _Type(_Name):
    __slots__ = ()

    def __call__(self, code: Any, *_: Any) -> StoredType:
        return StoredType(code)


class _Encode(_Name):
    """`_codecs.encode(text, "latin1")`, by which Python 3 writes bytes in old pickle protocols."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str) -> bytes:
        if encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"it encodes as {encoding!r}")
        return text.encode("latin1")


def _names() -> dict[tuple[str, str], _Name]:
    names: dict[tuple[str, str], _Name] = {("_codecs", "encode"): _Encode(), ("numpy", "ndarray"): _Name()}
    names["numpy", "dtype"] = _Type()
    for numpy in ("numpy.core", "numpy._core"):  # the name before and after NumPy 2
        names[f"{numpy}.multiarray", "_reconstruct"] = _Reconstruct()
        names[f"{numpy}.numeric", "_frombuffer"] = _FromBuffer()
    return names


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, encoding="bytes")  # Python 2's texts are bytes; keys are decoded afterwards
        self._names = _names()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._names:
            raise pickle.UnpicklingError(
                f"it wants to use {module}.{name}, which a batch of images does not need"
            )
        return self._names[module, name]


def read_pickle(content: bytes, source: str) -> dict[str, Any]:
    """The dictionary in a pickle, its keys as texts, its arrays as `StoredArray`.

    Raises:
        DataError: in one sentence that names `source`: not a pickle, truncated, no dictionary, or one that
            names anything but what such a file needs.
    """
    try:
        loaded = _Unpickler(io.BytesIO(content)).load()
    except Exception as error:  # a damaged pickle can fail in any way at all
        reason = str(error) or type(error).__name__
        raise DataError(f"{source} was refused: not a readable pickle of plain arrays ({reason})") from None
    if not isinstance(loaded, dict):
        raise DataError(f"{source} must be a pickled dictionary, got {type(loaded).__name__}")
    return {
        key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in loaded.items()
    }
