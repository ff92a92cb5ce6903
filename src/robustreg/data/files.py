"""Where a data set's files are: a folder given, ROBUSTREG_DATA_DIR, the user's cache, or a download."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import DataError, DataNotFound

ENVIRONMENT = "ROBUSTREG_DATA_DIR"


@dataclass(frozen=True)
class Remote:
    """A file that can be downloaded.

    Attributes:
        file: its name on disk.
        md5: checksum its publishers give.
        urls: mirrors, tried in order.
    """

    file: str
    md5: str
    urls: tuple[str, ...]


@dataclass(frozen=True)
class FileSet:
    """The files of a data set in the layouts in which people keep them.

    Attributes:
        title: name for messages.
        folders: relative to a data folder, in the order in which they are tried; downloads go to the first.
        variants: ways to have the set complete, each a list of files, each file a list of names that will do.
        remotes: what to download when no variant is there.
    """

    title: str
    folders: tuple[str, ...]
    variants: tuple[tuple[tuple[str, ...], ...], ...]
    remotes: tuple[Remote, ...] = ()


def cache_dir() -> Path:
    """The user's own cache: `$XDG_CACHE_HOME/robustreg`, or `~/.cache/robustreg`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "robustreg"


def roots(data_dir: str | os.PathLike[str] | None) -> list[Path]:
    """The data folders to look in, in order.

    Raises:
        DataError: a folder that was named is a file.
    """
    named = [("data_dir", data_dir), (ENVIRONMENT, os.environ.get(ENVIRONMENT) or None)]
    found = []
    for what, value in named:
        if value is not None:
            folder = Path(value).expanduser()
            if folder.exists() and not folder.is_dir():
                raise DataError(f"{what} must be a folder, but {folder} is a file")
            found.append(folder)
    return list(dict.fromkeys([*found, cache_dir()]))


def obtain(
    files: FileSet, data_dir: str | os.PathLike[str] | None = None, download: bool = True
) -> list[Path]:
    """Paths of a complete variant of the set, downloaded if need be.

    Raises:
        DataNotFound: the files are not there and `download` is False, or the download failed.
        ModuleNotFoundError: a download is needed and pooch is not installed.
    """
    folders = roots(data_dir)
    found = locate(files, folders)
    if found is not None:
        return found
    if not download or not files.remotes:
        raise DataNotFound(_not_found(files, folders))
    target = _writable(folders) / files.folders[0]
    _download(files, target)
    fetched = _complete(files, target)
    assert fetched is not None, "the remotes of a file set make one of its variants complete"
    return fetched


def locate(files: FileSet, folders: Sequence[Path]) -> list[Path] | None:
    """Paths of the first complete variant under these data folders, None when there is none."""
    for root in folders:
        for folder in files.folders:
            found = _complete(files, root / folder)
            if found is not None:
                return found
    return None


def _complete(files: FileSet, folder: Path) -> list[Path] | None:
    for variant in files.variants:
        found = [_first(folder, names) for names in variant]
        if all(path is not None for path in found):
            return [path for path in found if path is not None]
    return None


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _not_found(files: FileSet, folders: Sequence[Path]) -> str:
    wanted = " or ".join(", ".join(names[0] for names in variant) for variant in files.variants)
    inside = ", ".join(folder or "the folder itself" for folder in files.folders)
    where = ", ".join(map(str, folders))
    message = f"{files.title} was not found: looked for {wanted} under {where} (in {inside})"
    for root in folders:
        for folder in files.folders:
            for variant in files.variants:
                missing = [names[0] for names in variant if _first(root / folder, names) is None]
                if len(missing) < len(variant):
                    return f"{message}; {root / folder} lacks {', '.join(missing)}"
    return f"{message}; name the folder that has them as data_dir or {ENVIRONMENT}, or allow the download"


def _writable(folders: Sequence[Path]) -> Path:
    """The first folder that can be written to, existing or not; data often lie on a read-only share."""
    for folder in folders:
        existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        if os.access(existing, os.W_OK):
            return folder
    return folders[-1]


def _download(files: FileSet, target: Path) -> None:
    """Fetch the files that the folder lacks; a file that is there is never overwritten."""
    alternatives = [names for variant in files.variants for names in variant]
    for remote in files.remotes:
        names = next(names for names in alternatives if remote.file in names)
        if _first(target, names) is None:
            _retrieve(files.title, remote, target)


def _retrieve(title: str, remote: Remote, target: Path) -> None:
    try:
        import pooch
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{title} is not there and downloading it needs pooch, which the extra robustreg[train] installs"
        ) from None
    reasons = []
    for url in remote.urls:
        try:
            pooch.retrieve(url, known_hash=f"md5:{remote.md5}", fname=remote.file, path=target)
            return
        except Exception as error:  # each transport has its own; every one means "try the next mirror"
            lines = str(error).strip().splitlines()
            reasons.append(f"{url}: {lines[0] if lines else type(error).__name__}")
    raise DataNotFound(
        f"{title}: {remote.file} could not be downloaded ({'; '.join(reasons)}); put it into {target} by hand"
    )
