"""Batches are written as Python 2 wrote the official ones, by a pickler of a few lines, and as Python 3 writes them."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile

import numpy as np
import pytest

from robustreg.data import DataError, load
from robustreg.data.safe_pickle import read_pickle


def text2(value: bytes) -> bytes:
    """A Python 2 str: SHORT_BINSTRING or BINSTRING."""
    return (
        b"U" + bytes([len(value)]) + value
        if len(value) < 256
        else b"T" + struct.pack("<i", len(value)) + value
    )


def array2(array) -> bytes:
    """A NumPy array as Python 2's cPickle wrote it in protocol 2."""
    shape = b"".join(b"J" + struct.pack("<i", n) for n in array.shape)
    dtype = b"cnumpy\ndtype\n" + text2(b"u1") + b"K\0K\1\x87R(K\3" + text2(b"|") + b"NNN"
    dtype += b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + text2(b"b") + b"\x87R"
    return start + b"(K\1(" + shape + b"t" + dtype + b"\x89" + text2(array.tobytes()) + b"tb"


def value2(value) -> bytes:
    if isinstance(value, np.ndarray):
        return array2(value)
    if isinstance(value, list):
        return b"](" + b"".join(value2(v) for v in value) + b"e"
    return b"K" + bytes([value]) if isinstance(value, int) else text2(value.encode())


def python2(batch) -> bytes:
    items = b"".join(text2(key.encode()) + value2(value) for key, value in batch.items())
    return b"\x80\x02}(" + items + b"u."


WRITERS = {
    "python2": python2,
    **{f"python3-{p}": (lambda batch, p=p: pickle.dumps(batch, protocol=p)) for p in (0, 1, 2, 4, 5)},
    "bytes-keys": lambda batch: pickle.dumps({k.encode(): v for k, v in batch.items()}, protocol=2),
    "fortran": lambda batch: pickle.dumps({**batch, "data": np.asfortranarray(batch["data"])}, protocol=2),
    "old-numpy": lambda batch: pickle.dumps(batch, protocol=2).replace(b"numpy._core", b"numpy.core"),
}


def images(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 3072), dtype=np.uint8)


def batches10(write=python2, n=12):
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    made = {
        name: {"data": images(n, i), "labels": [j % 10 for j in range(n)]} for i, name in enumerate(names)
    }
    files = {
        name: write({"batch_label": name, **batch, "filenames": ["a.png"] * n})
        for name, batch in made.items()
    }
    files["batches.meta"] = write({"label_names": list("abcdefghij"), "num_vis": 77})
    return made, files


def write_folder(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def write_tar(path, folder, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("writer", WRITERS)
def test_every_way_in_which_batches_are_pickled(writer):
    batch = {"data": images(7), "labels": [3, 1, 2, 0, 9, 8, 7]}
    read = read_pickle(WRITERS[writer](batch), "batch")
    assert np.array_equal(read["data"].uint8(), batch["data"])
    assert read["labels"] == batch["labels"]


def test_the_python_2_form_is_what_pickle_itself_understands():
    batch = {"data": images(3), "labels": [1, 2, 3]}
    plain = pickle.loads(python2(batch), encoding="bytes")
    assert np.array_equal(plain[b"data"], batch["data"])


@pytest.mark.parametrize("folder", ["cifar10/cifar-10-batches-py", "cifar-10-batches-py", "cifar10", "."])
def test_cifar10_from_a_folder(folder, tmp_path):
    made, files = batches10()
    write_folder(tmp_path / folder, files)
    splits = load("cifar10", tmp_path, validation=0, download=False)
    assert splits.train.shape == (3, 32, 32)
    assert splits.train.classes == tuple("abcdefghij")
    expected = np.concatenate([made[f"data_batch_{i}"]["data"] for i in range(1, 6)])
    assert np.array_equal(splits.train.x.flatten(1).numpy(), expected)
    assert np.array_equal(splits.test.x.flatten(1).numpy(), made["test_batch"]["data"])
    # Row 5, column 7 of the green channel: red comes first, each channel by rows.
    assert splits.test.x[2, 1, 5, 7] == made["test_batch"]["data"][2, 1024 + 5 * 32 + 7]


def test_cifar10_from_the_archive_unpacks_nothing(tmp_path):
    made, files = batches10()
    write_tar(tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py", files)
    splits = load("cifar10", tmp_path, validation=6, download=False)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (54, 6, 12)
    assert np.array_equal(splits.test.x.flatten(1).numpy(), made["test_batch"]["data"])
    assert os.listdir(tmp_path) == ["cifar-10-python.tar.gz"]


def test_cifar10_without_its_list_of_names(tmp_path):
    _, files = batches10()
    del files["batches.meta"]
    write_folder(tmp_path, files)
    assert load("cifar10", tmp_path, download=False).train.classes == tuple("0123456789")


@pytest.mark.parametrize("archived", [True, False])
def test_cifar100_reads_the_fine_labels(archived, tmp_path):
    n = 110
    files = {
        name: python2(
            {"data": images(n), "fine_labels": [i % 100 for i in range(n)], "coarse_labels": [0] * n}
        )
        for name in ("train", "test")
    }
    files["meta"] = python2({"fine_label_names": [f"thing {i}" for i in range(100)]})
    if archived:
        write_tar(tmp_path / "cifar100" / "cifar-100-python.tar.gz", "cifar-100-python", files)
    else:
        write_folder(tmp_path / "cifar-100-python", files)
    splits = load("cifar100", tmp_path, validation=0, download=False)
    assert splits.train.num_classes == 100
    assert splits.train.classes[42] == "thing 42"
    assert splits.test.y[105] == 5


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["ROBUSTREG_TEST_TARGET"],)


def state_on_a_function() -> bytes:
    """BUILD with attributes for the stand-in of `numpy.dtype`: would alter it for later readers."""
    return b"\x80\x02cnumpy\ndtype\n}U\1xK\1sb."


def forged_dtype() -> bytes:
    """An array of objects whose "pointers" are bytes of the file: memory corruption if NumPy believed it."""
    honest = python2({"data": images(2), "labels": [0, 1]})
    return honest.replace(text2(b"u1"), text2(b"O8"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: pickle.dumps({"data": Evil(), "labels": []}), r"it wants to use \w+\.mkdir"),
        (lambda: b"\x80\x02cbuiltins\neval\nU\x031+1\x85R.", r"it wants to use (builtins|__builtin__)\.eval"),
        (lambda: pickle.dumps({"data": np.float64(3)}), r"multiarray\.scalar"),
        (lambda: b"\x80\x02c_codecs\nencode\nX\1\0\0\0aU\3rot\x86R.", "refused"),
        (state_on_a_function, "assigns a state"),
        (forged_dtype, "expected an array of uint8, got 'O8'"),
        (lambda: pickle.dumps([1, 2]), "must be a pickled dictionary, got list"),
        (lambda: python2({"data": images(2), "labels": [0, 1]})[:-40], "not a readable pickle"),
        (lambda: b"", "not a readable pickle"),
        (lambda: b"GIF89a, not a pickle at all", "not a readable pickle"),
        (lambda: python2({"labels": [0]}), r"lacks the key 'data'; it has 'labels'"),
        (lambda: python2({"data": images(1), "fine_labels": [0]}), "lacks the key 'labels'"),
        (lambda: python2({"data": "text", "labels": [0]}), "'data' must be an array, got bytes"),
        (
            lambda: python2({"data": images(2)[:, :3000].copy(), "labels": [0, 1]}),
            r"\[N, 3072\], got \[2, 3000\]",
        ),
        (
            lambda: pickle.dumps({"data": images(2).astype(float), "labels": [0, 1]}),
            "array of uint8, got 'f8'",
        ),
        (lambda: python2({"data": images(2), "labels": [0]}), "holds 2 images but 1 labels"),
        (lambda: python2({"data": images(2), "labels": [0, 10]}), r"holds the label 10, labels are 0\.\.9"),
        (lambda: pickle.dumps({"data": images(2), "labels": [0, 1.0]}), "list of whole numbers"),
        (lambda: pickle.dumps({"data": images(2), "labels": None}), "list of whole numbers"),
        (
            lambda: array_with_shape(images(2), (3, 3072)),
            r"'data' is damaged: an array of shape \[3, 3072\] comes with 6144 bytes",
        ),
    ],
)
def test_hostile_and_damaged_batches_are_refused(content, message, tmp_path, monkeypatch):
    target = tmp_path / "made by the pickle"
    monkeypatch.setenv("ROBUSTREG_TEST_TARGET", str(target))
    _, files = batches10()
    write_folder(tmp_path / "cifar10", {**files, "data_batch_3": content()})
    with pytest.raises(DataError, match=message) as caught:
        load("cifar10", tmp_path, download=False)
    assert str(tmp_path / "cifar10" / "data_batch_3") in str(caught.value)
    assert not target.exists()


def array_with_shape(array, shape) -> bytes:
    honest = b"".join(b"J" + struct.pack("<i", n) for n in array.shape)
    forged = b"".join(b"J" + struct.pack("<i", n) for n in shape)
    return python2({"data": array, "labels": [0, 1]}).replace(honest, forged)


def test_reading_leaves_the_stand_ins_as_they_were():
    with pytest.raises(DataError):
        read_pickle(state_on_a_function(), "hostile")
    batch = {"data": images(2), "labels": [0, 1]}
    assert np.array_equal(read_pickle(python2(batch), "honest")["data"].uint8(), batch["data"])


def test_damaged_archives(tmp_path):
    path = tmp_path / "cifar-10-python.tar.gz"
    _, files = batches10()
    write_tar(path, "cifar-10-batches-py", files)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cifar-10-python.tar.gz is a damaged or truncated .tar.gz file"):
        load("cifar10", tmp_path, download=False)
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match="damaged or truncated"):
        load("cifar10", tmp_path, download=False)
    del files["data_batch_4"]
    write_tar(path, "cifar-10-batches-py", files)
    with pytest.raises(DataError, match="lacks cifar-10-batches-py/data_batch_4"):
        load("cifar10", tmp_path, download=False)


def test_a_wrong_list_of_names(tmp_path):
    _, files = batches10()
    write_folder(tmp_path, {**files, "batches.meta": python2({"label_names": ["a", "b"]})})
    with pytest.raises(DataError, match="must list 10 names under 'label_names'"):
        load("cifar10", tmp_path, download=False)
