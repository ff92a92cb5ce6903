"""Files that are either whole or not there.

A run folder is read by other programs while training still writes it, and a machine can stop at any moment.
So every file here is written beside its target, forced to the disk, and then renamed onto it: a reader sees
the old file or the new one, never half of one.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import threading
from pathlib import Path
from typing import Any

PathLike = str | os.PathLike[str]


def write_bytes_synced(path: PathLike, data: bytes) -> None:
    """Write `data` and force it to the disk. Not atomic: for files of a folder that `replace_folder` renames."""
    with open(path, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def write_bytes_atomic(path: PathLike, data: bytes) -> Path:
    """Write `data` to `path` so that no reader ever sees a part of it. Missing parent folders are made."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        write_bytes_synced(temporary, data)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)
    return target


def write_text_atomic(path: PathLike, text: str) -> Path:
    """Write `text` as UTF-8, whole or not at all."""
    return write_bytes_atomic(path, text.encode("utf-8"))


def write_json_atomic(path: PathLike, obj: Any) -> Path:
    """Write `obj` as indented JSON, whole or not at all.

    JSON has no infinity and no NaN, and readers disagree about what to do with them: they are written as
    `null`. A type that JSON does not know raises TypeError before anything is written.
    """
    return write_text_atomic(path, json_text(obj))


def json_text(obj: Any) -> str:
    """The text that `write_json_atomic` writes."""
    return json.dumps(finite(obj), indent=2, allow_nan=False) + "\n"


def read_json(path: PathLike) -> Any:
    """Read a JSON file; ValueError in one sentence when it is not JSON, FileNotFoundError when missing."""
    source = Path(path)
    try:
        return json.loads(source.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{source} is not readable JSON (damaged or cut short): {error}.") from None


def sha256_file(path: PathLike) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def replace_folder(new: Path, target: Path) -> None:
    """Rename the folder `new` onto `target`, which may exist.

    A folder cannot be renamed onto one that has files, so the old one steps aside first, as `.NAME.old`. A
    stop between the two renames leaves that one complete; `settled_folder` finds it.
    """
    sync_folder(new)
    old = _aside(target)
    if target.exists():
        if old.exists():
            shutil.rmtree(old)
        os.rename(target, old)
    os.rename(new, target)
    sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def settled_folder(target: Path) -> Path:
    """The folder to read for `target`: itself, or its predecessor when a stop fell between two renames."""
    old = _aside(target)
    return old if old.exists() and not target.exists() else target


def sync_folder(folder: Path) -> None:
    """Force a folder's list of names to the disk, where the system can: a rename alone may be lost."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows cannot open folders
        return
    try:
        os.fsync(handle)
    except OSError:  # some network file systems cannot either
        pass
    finally:
        os.close(handle)


def finite(obj: Any) -> Any:
    """A copy of a JSON-like tree in which infinities and NaN are None."""
    if isinstance(obj, dict):
        return {key: finite(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [finite(value) for value in obj]
    if isinstance(obj, float) and not math.isfinite(obj):
        return None
    return obj


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")
