from __future__ import annotations

import gzip
import hashlib

import numpy as np
import pytest
import torch

from robustreg.data import DataError, idx, load

NAMES = ["mnist", "fashion_mnist"]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("mnist", "mnist"),
        ("mnist", "MNIST/raw"),
        ("mnist", "."),
        ("fashion_mnist", "fashion-mnist"),
        ("fashion_mnist", "FashionMNIST/raw"),
        ("fashion_mnist", "."),
    ],
)
def test_layouts(name, folder, zipped, tmp_path, write_mnist):
    arrays = write_mnist(tmp_path / folder, zipped)
    splits = load(name, tmp_path, validation=10, download=False)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (30, 10, 20)
    assert splits.test.shape == (1, 4, 4)
    assert np.array_equal(splits.test.x[:, 0].numpy(), arrays["t10k-images-idx3-ubyte"])
    assert np.array_equal(splits.test.y.numpy(), arrays["t10k-labels-idx1-ubyte"])
    assert splits.test.name == name
    assert "not the published files" in splits.test.description
    pixels = torch.cat([splits.train.x, splits.validation.x]).sum()
    assert int(pixels) == int(arrays["train-images-idx3-ubyte"].sum(dtype=np.int64))


def test_gzip_is_told_by_content_not_by_name(tmp_path, as_idx):
    array = np.arange(6, dtype=np.uint8)
    (tmp_path / "raw.gz").write_bytes(as_idx(array))
    (tmp_path / "zipped").write_bytes(gzip.compress(as_idx(array)))
    assert np.array_equal(idx.read_idx(tmp_path / "raw.gz", idx.LABELS), array)
    assert np.array_equal(idx.read_idx(tmp_path / "zipped", idx.LABELS), array)


def corrupt(name, change):
    def apply(folder):
        path = folder / "mnist" / f"{name}.gz"
        content = gzip.decompress(path.read_bytes())
        path.write_bytes(gzip.compress(change(content)))

    return apply


def cut_gzip(folder):
    path = folder / "mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-30])


def flip_gzip(folder):
    path = folder / "mnist" / "train-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[-6] ^= 255  # inside the checksum at the end
    path.write_bytes(content)


def swap(folder):
    images, labels = (folder / "mnist" / f"t10k-{s}.gz" for s in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    content = images.read_bytes()
    images.write_bytes(labels.read_bytes())
    labels.write_bytes(content)


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_gzip, f"{IMAGES}.gz is a damaged or truncated gzip file"),
        (flip_gzip, f"{IMAGES}.gz is a damaged or truncated gzip file"),
        (swap, r"t10k-images-idx3-ubyte.gz is no IDX file of images: .* 2051, got 2049 \(labels\)"),
        (corrupt(IMAGES, lambda b: b"\0\0\x0d\x03" + b[4:]), "expected the magic number 2051, got 3331"),
        (corrupt(IMAGES, lambda b: b[:-1]), r"must hold 640 bytes .* holds only 639"),
        (corrupt(IMAGES, lambda b: b + b"\0"), "must hold 640 bytes .* holds more"),
        (corrupt(IMAGES, lambda b: b[:3]), "is truncated: an IDX file has a header"),
        (corrupt(IMAGES, lambda b: b[:10]), "is truncated inside its header"),
        (
            corrupt(IMAGES, lambda b: b[:4] + bytes(12)),
            r"holds no data: its header gives the sizes \[0, 0, 0\]",
        ),
        (corrupt(LABELS, lambda b: b[:7] + bytes([39]) + b[8:-1]), "holds 40 images but .* holds 39 labels"),
        (corrupt(LABELS, lambda b: b[:-1] + bytes([10])), f"{LABELS}.gz holds the label 10"),
        (corrupt(IMAGES, lambda b: b[:4] + b"\xff" * 12 + b[16:]), "must hold .* holds only 640"),
    ],
)
def test_damaged_files(damage, message, tmp_path, write_mnist):
    write_mnist(tmp_path / "mnist")
    damage(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        load("mnist", tmp_path, download=False)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_set_in_place_of_the_other_is_noticed(tmp_path, write_mnist, monkeypatch):
    write_mnist(tmp_path)
    labels = hashlib.sha256(bytes(np.arange(40, dtype=np.uint8) % 10)).hexdigest()
    monkeypatch.setitem(idx._PUBLISHED_LABELS, labels, "MNIST")
    assert load("mnist", tmp_path, download=False).train.description == "MNIST, grey images 4x4"
    with pytest.raises(DataError, match="is MNIST's file, but Fashion-MNIST was asked for"):
        load("fashion_mnist", tmp_path, download=False)
