from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from robustreg.data import DataError, DataNotFound, load


def test_digits_are_complete_scaled_and_split_for_good():
    datasets = pytest.importorskip("sklearn.datasets")
    splits = load("digits")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (1212, 135, 450)
    assert splits.train.shape == (1, 8, 8)
    everything = torch.cat([splits.train.x, splits.validation.x, splits.test.x])
    bunch = datasets.load_digits()
    assert float(everything.double().sum() * 16) == bunch.images.sum()
    assert everything.max() == 1
    counts = torch.bincount(torch.cat([splits.train.y, splits.validation.y, splits.test.y]))
    assert counts.tolist() == np.bincount(bunch.target).tolist()
    assert min(torch.bincount(splits.test.y).tolist()) >= 43
    assert load("digits", seed=5, validation=0.3).test.sha256 == splits.test.sha256
    assert splits.test.sha256 == "6f81abb89ea42443f4deb445dfa9bc684ca30eda7736a23e166ba806fd28d792"


@pytest.mark.parametrize(("name", "module"), [("digits", "sklearn.datasets"), ("svhn", "scipy.io")])
def test_a_missing_library_is_named(name, module, tmp_path, monkeypatch):
    for file in ("train_32x32.mat", "test_32x32.mat"):
        (tmp_path / file).write_bytes(b"")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=r"is not installed; the extra robustreg\[train\]"):
        load(name, tmp_path)


def write_svhn(folder, n=20, x=None, y=None, keys=("X", "y")):
    io = pytest.importorskip("scipy.io")
    folder.mkdir(parents=True, exist_ok=True)
    source = np.random.default_rng(0)
    x = source.integers(0, 256, (32, 32, 3, n), dtype=np.uint8) if x is None else x
    y = (np.arange(n)[:, None] % 10 + 1).astype(np.uint8) if y is None else y
    for file in ("train_32x32.mat", "test_32x32.mat"):
        io.savemat(folder / file, dict(zip(keys, (x, y), strict=True)))
    return x, y


@pytest.mark.parametrize("folder", ["svhn", "SVHN", "."])
def test_svhn(folder, tmp_path):
    x, _ = write_svhn(tmp_path / folder)
    splits = load("svhn", tmp_path, validation=0, download=False)
    assert splits.train.shape == (3, 32, 32)
    assert splits.train.x[4, 2, 10, 20] == x[10, 20, 2, 4]
    assert splits.train.y.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x": np.zeros((32, 32, 3, 20))}, r"X must be uint8 \[32, 32, 3, N\], got float64"),
        ({"x": np.zeros((20, 3, 32, 32), dtype=np.uint8)}, "X must be uint8"),
        ({"y": np.ones((19, 1), dtype=np.uint8)}, "holds 20 images but 19 labels"),
        ({"y": np.zeros((20, 1), dtype=np.uint8)}, r"labels must be 1\.\.10 .* got 0\.\.0"),
        ({"keys": ("images", "y")}, "lacks the variable 'X'"),
    ],
)
def test_bad_svhn_contents(options, message, tmp_path):
    write_svhn(tmp_path, **options)
    with pytest.raises(DataError, match=message) as caught:
        load("svhn", tmp_path, download=False)
    assert "train_32x32.mat" in str(caught.value)


def test_damaged_svhn_files(tmp_path):
    write_svhn(tmp_path)
    path = tmp_path / "train_32x32.mat"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"train_32x32\.mat is no readable \.mat file"):
        load("svhn", tmp_path, download=False)
    path.write_bytes(b"nothing of the kind" * 20)
    with pytest.raises(DataError, match=r"train_32x32\.mat is no readable \.mat file"):
        load("svhn", tmp_path, download=False)


def test_npz_with_its_own_test_set(tmp_path):
    path = tmp_path / "mine.npz"
    x = np.random.default_rng(0).random((30, 4))
    np.savez(path, x_train=x[:20], y_train=np.arange(20) % 3, x_test=x[20:], y_test=np.arange(10) % 3)
    splits = load("arrays", path=path, validation=5)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (15, 5, 10)
    assert splits.test.x.numpy() == pytest.approx(x[20:].astype(np.float32))
    assert splits.train.classes == ("0", "1", "2")
    assert splits.train.description == "arrays of mine.npz"


def test_npz_without_a_test_set_gets_a_fixed_one(tmp_path):
    path = tmp_path / "mine.npz"
    x = np.random.default_rng(0).integers(0, 256, (50, 1, 2, 2), dtype=np.uint8)
    np.savez(path, x=x, y=np.arange(50) % 2, classes=np.array(["no", "yes"]))
    one, other = load("arrays", path=path, seed=0), load("arrays", path=path, seed=9)
    assert len(one.test) == 10
    assert torch.bincount(one.test.y).tolist() == [5, 5]
    assert one.test.sha256 == other.test.sha256
    assert one.train.sha256 != other.train.sha256
    assert one.train.classes == ("no", "yes")


def test_npz_classes_that_only_the_test_set_has(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, x_train=np.zeros((4, 2)), y_train=[0, 1, 0, 1], x_test=np.zeros((2, 2)), y_test=[0, 2])
    assert load("arrays", path=path, validation=0).train.num_classes == 3


def objects(path):
    np.savez(path, x=np.array([{}, {}]), y=[0, 1])


def truncated(path):
    np.savez(path, x=np.zeros((9, 9)), y=np.arange(9))
    path.write_bytes(path.read_bytes()[:300])


def single(path):
    with open(path, "wb") as stream:
        np.save(stream, np.zeros(3))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: np.savez(path, x=np.zeros((3, 2))), "must hold x and y, .* it holds x"),
        (lambda path: np.savez(path, x_train=[[0.0]], y_train=[0], y_test=[0]), "must hold x and y"),
        (objects, "no readable .npz file of plain arrays: Object arrays cannot be loaded"),
        (truncated, "no readable .npz file"),
        (lambda path: path.write_bytes(b"PK nothing"), "no readable .npz file"),
        (lambda path: path.write_bytes(b""), "no readable .npz file"),
        (single, "holds a single array"),
        (
            lambda path: np.savez(
                path, x_train=[[0.0]] * 2, y_train=["a", "b"], x_test=[[0.0]], y_test=["a"]
            ),
            "mine_train: y must be an array of numbers",
        ),
        (lambda path: np.savez(path, x=np.full((4, 2), 200.0), y=[0, 1, 0, 1]), "divide by 255"),
        (lambda path: np.savez(path, x=np.full((4, 2), np.nan), y=[0, 1, 0, 1]), "NaN"),
        (lambda path: np.savez(path, x=np.ones((4, 2)), y=[0, 1, 0]), "4 samples but y has 3"),
        (lambda path: np.savez(path, x=np.ones((4, 2)), y=[0.0, 1, 0, 1]), "labels must be integers"),
        (
            lambda path: np.savez(path, x=np.ones((4, 2)), y=[0, 1, 0, 7], classes=["a", "b"]),
            "label 7 of sample 3",
        ),
    ],
)
def test_bad_npz_files_are_named(write, message, tmp_path):
    path = tmp_path / "mine.npz"
    write(path)
    with pytest.raises(DataError, match=message) as caught:
        load("arrays", path=path)
    assert str(path) in str(caught.value)


def test_a_missing_npz_file(tmp_path):
    with pytest.raises(DataNotFound, match=r"there is no file .*nowhere\.npz"):
        load("arrays", path=tmp_path / "nowhere.npz")
