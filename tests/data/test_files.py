from __future__ import annotations

import functools
import hashlib
import http.server
import sys
import threading

import pytest

from robustreg.data import DataError, DataNotFound, load
from robustreg.data.files import FileSet, Remote, cache_dir, obtain, roots

CONTENT = {"one.bin": b"first", "two.bin": b"second"}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """Serves a folder on this machine; gives the folder and its address."""
    folder = tmp_path / "served"
    folder.mkdir()
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()
        thread.join()


def file_set(*bases, md5=None):
    remotes = tuple(
        Remote(name, md5 or hashlib.md5(content).hexdigest(), tuple(f"{base}{name}" for base in bases))
        for name, content in CONTENT.items()
    )
    return FileSet("Tiny", ("tiny", ""), ((("one.bin", "one"), ("two.bin",)),), remotes)


def test_folders_in_order(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTREG_DATA_DIR", str(tmp_path / "environment"))
    assert roots(tmp_path / "given") == [tmp_path / "given", tmp_path / "environment", cache_dir()]
    assert cache_dir() == tmp_path / "no-cache" / "robustreg"
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"data_dir must be a folder, but .*file is a file"):
        roots(tmp_path / "file")


def test_the_first_complete_folder_wins(tmp_path, monkeypatch, write_mnist):
    monkeypatch.setenv("ROBUSTREG_DATA_DIR", str(tmp_path / "environment"))
    write_mnist(cache_dir() / "mnist", test=11)
    assert len(load("mnist", download=False).test) == 11
    write_mnist(tmp_path / "environment" / "MNIST" / "raw", test=12)
    assert len(load("mnist", download=False).test) == 12
    write_mnist(tmp_path / "given", test=13)
    assert len(load("mnist", tmp_path / "given", download=False).test) == 13
    write_mnist(tmp_path / "given" / "mnist", test=14, skip=["t10k-labels-idx1-ubyte"])
    assert len(load("mnist", tmp_path / "given", download=False).test) == 13


def test_missing_files_say_what_was_looked_for_and_where(tmp_path, monkeypatch, write_mnist):
    monkeypatch.setenv("ROBUSTREG_DATA_DIR", str(tmp_path / "environment"))
    with pytest.raises(DataNotFound) as caught:
        load("mnist", tmp_path / "given", download=False)
    for part in (
        "train-images-idx3-ubyte.gz",
        "given",
        "environment",
        "no-cache",
        "MNIST/raw",
        "allow the download",
    ):
        assert part in str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)
    write_mnist(tmp_path / "given" / "mnist", skip=["t10k-labels-idx1-ubyte"])
    with pytest.raises(DataNotFound, match=r"given/mnist lacks t10k-labels-idx1-ubyte\.gz$"):
        load("mnist", tmp_path / "given", download=False)


def test_download_checks_and_keeps_what_is_there(server, tmp_path):
    pytest.importorskip("pooch")
    folder = tmp_path / "data" / "tiny"
    folder.mkdir(parents=True)
    (folder / "one").write_bytes(b"the user's own")
    paths = obtain(file_set(server), tmp_path / "data")
    assert paths == [folder / "one", folder / "two.bin"]
    assert paths[0].read_bytes() == b"the user's own"
    assert paths[1].read_bytes() == b"second"
    assert not (folder / "one.bin").exists()


def test_download_tries_each_mirror(server, tmp_path):
    pytest.importorskip("pooch")
    paths = obtain(file_set(server + "gone/", server), tmp_path / "data")
    assert [p.read_bytes() for p in paths] == [b"first", b"second"]


def test_a_wrong_checksum_leaves_nothing_behind(server, tmp_path):
    pytest.importorskip("pooch")
    with pytest.raises(
        DataNotFound, match=r"Tiny: one\.bin could not be downloaded .*put it into .*tiny by hand"
    ):
        obtain(file_set(server, md5="0" * 32), tmp_path / "data")
    assert list((tmp_path / "data").rglob("*.bin")) == []


def test_a_download_needs_pooch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ModuleNotFoundError, match=r"downloading it needs pooch, .* robustreg\[train\]"):
        obtain(file_set("http://127.0.0.1:9/"), tmp_path)


def test_a_read_only_folder_is_not_downloaded_into(server, tmp_path, monkeypatch):
    pytest.importorskip("pooch")
    given = tmp_path / "given"
    given.mkdir()
    import robustreg.data.files as files

    real = files.os.access
    monkeypatch.setattr(files.os, "access", lambda path, mode: path != given and real(path, mode))
    paths = obtain(file_set(server), given)
    assert paths[0].parent == cache_dir() / "tiny"
    assert list(given.iterdir()) == []


def test_official_addresses_and_checksums():
    """The published values, as every other reader of these sets has them."""
    from robustreg.data import cifar, idx, small_sets

    md5 = {r.file: r.md5 for s in (idx.MNIST, cifar.CIFAR10.files, cifar.CIFAR100.files) for r in s.remotes}
    md5.update({r.file: r.md5 for r in small_sets.SVHN.remotes})
    assert md5 == {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
        "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
        "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
        "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
    }
    remotes = [
        r for s in (idx.MNIST, idx.FASHION_MNIST, cifar.CIFAR10.files, small_sets.SVHN) for r in s.remotes
    ]
    assert all(url.endswith(f"/{r.file}") for r in remotes for url in r.urls)
