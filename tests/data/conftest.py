"""Every test here looks for files in its own empty folders, never in those of the person who runs it."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _no_outside_files(tmp_path, monkeypatch):
    monkeypatch.delenv("ROBUSTREG_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no-cache"))


def idx_bytes(array, magic=None):
    array = np.asarray(array, dtype=np.uint8)
    header = (magic or 2048 + array.ndim).to_bytes(4, "big")
    return header + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


@pytest.fixture
def as_idx():
    return idx_bytes


@pytest.fixture
def write_mnist():
    """Write four IDX files of random 4x4 images; returns what is in them."""

    def write(folder: Path, zipped=True, train=40, test=20, seed=0, skip=()):
        folder.mkdir(parents=True, exist_ok=True)
        source = np.random.default_rng(seed)
        arrays = {}
        for stem, n in (("train", train), ("t10k", test)):
            arrays[f"{stem}-images-idx3-ubyte"] = source.integers(0, 256, (n, 4, 4), dtype=np.uint8)
            arrays[f"{stem}-labels-idx1-ubyte"] = np.arange(n, dtype=np.uint8) % 10
        for name, array in arrays.items():
            if name in skip:
                continue
            content = idx_bytes(array)
            path = folder / (f"{name}.gz" if zipped else name)
            path.write_bytes(gzip.compress(content) if zipped else content)
        return arrays

    return write
