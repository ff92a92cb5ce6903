from __future__ import annotations

import hashlib
import math
import os
import stat

import pytest

from robustreg.files import (
    read_json,
    replace_folder,
    settled_folder,
    sha256_file,
    write_json_atomic,
    write_text_atomic,
)


def test_text_is_written_with_its_folders(tmp_path):
    path = write_text_atomic(tmp_path / "a" / "b" / "c.txt", "héllo")
    assert path.read_text(encoding="utf-8") == "héllo"
    assert [p.name for p in path.parent.iterdir()] == ["c.txt"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = write_text_atomic(tmp_path / "x", "old")

    def full(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        write_text_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = write_json_atomic(tmp_path / "x.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json_atomic(path, {"a": object()})
    assert read_json(path) == {"a": 1}


def test_json_has_no_nan(tmp_path):
    path = write_json_atomic(tmp_path / "x.json", {"a": [math.nan, math.inf, (1.5, -math.inf)], "b": True})
    assert read_json(path) == {"a": [None, None, [1.5, None]], "b": True}


@pytest.mark.parametrize("content", [b'{"a": ', b"", b"\xff\xfe\x00"])
def test_unreadable_json_is_named(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.json is not readable JSON"):
        read_json(tmp_path / "x.json")


def test_files_have_ordinary_permissions(tmp_path):
    path = write_text_atomic(tmp_path / "x", "text")
    (tmp_path / "y").write_text("text")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "y").stat().st_mode)


def test_sha256(tmp_path):
    data = b"x" * 3_000_000
    (tmp_path / "x").write_bytes(data)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def test_a_folder_replaces_another_whole(tmp_path):
    old, new = tmp_path / "data", tmp_path / "new"
    for folder, text in ((old, "old"), (new, "new")):
        folder.mkdir()
        (folder / "f").write_text(text)
    replace_folder(new, old)
    assert (old / "f").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_a_stop_between_the_renames_is_settled(tmp_path, monkeypatch):
    old, new = tmp_path / "data", tmp_path / "new"
    for folder, text in ((old, "old"), (new, "new")):
        folder.mkdir()
        (folder / "f").write_text(text)
    real = os.rename

    def second_fails(a, b):
        if str(a) == str(new):
            raise KeyboardInterrupt
        real(a, b)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(KeyboardInterrupt):
        replace_folder(new, old)
    monkeypatch.undo()
    assert not old.exists()
    assert (settled_folder(old) / "f").read_text() == "old"
    replace_folder(new, old)
    assert (settled_folder(old) / "f").read_text() == "new"
