"""The user's own modules: imported only when the user's recipe or `--import` names them."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from .problems import RecipeError


def absolute(imports: Iterable[str], folder: Path) -> list[str]:
    """File paths made absolute against `folder`; module names as they are."""
    return [str((folder / entry).resolve()) if is_file(entry) else entry for entry in imports]


def is_file(entry: str) -> bool:
    """`penalties/mine.py` is a file, `my_package.penalties` a module."""
    return entry.endswith(".py")


def module_name(path: Path) -> str:
    """What the module of a file is called: one for each, so that two files of the same name shadow nothing."""
    resolved = path.resolve()
    return f"robustreg_import_{hashlib.sha256(str(resolved).encode()).hexdigest()[:12]}_{resolved.stem}"


def load(imports: Iterable[str]) -> None:
    """Import each file or module once, so that its `@register` lines run.

    Raises:
        RecipeError: a file or module that is not there, or that fails while it is imported.
    """
    for entry in imports:
        if is_file(entry) and not Path(entry).is_file():
            raise RecipeError([f"the import {entry} is not there; say where it is with --import"])
        try:
            _load_file(Path(entry)) if is_file(entry) else _load_module(entry)
        except (Exception, SystemExit) as error:  # a script may read its command line and end there
            raise RecipeError([f"the import {entry} failed: {type(error).__name__}: {error}"]) from error


def _load_module(name: str) -> None:
    """As `python -m` would find it: the working folder counts, though an installed script leaves it out."""
    sys.path.insert(0, "")
    try:
        importlib.import_module(name)
    finally:
        sys.path.remove("")


def _load_file(path: Path) -> None:
    resolved, name = path.resolve(), module_name(path)
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, resolved)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while it is executed
    folder = str(resolved.parent)
    sys.path.insert(0, folder)  # a file finds those beside it, as it does for `python FILE`
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(folder)
