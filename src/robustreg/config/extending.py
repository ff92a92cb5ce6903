"""`extends`: a recipe that says only what it changes of another one.

    extends: cifar10/_fast          # a recipe that ships with the package, or a .yaml file beside this one
    objective: {method: n_fgsm}
    optimizer: {weight_decay: 1.0e-4}

What a recipe says goes before what its base says. Keys within a section (`optimizer`, `validation`, ...) are merged;
everything else, lists too, is replaced, and so is a section that names its component anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import imports as user_modules
from .find import find_base
from .problems import KeyPath, RecipeError
from .yaml_file import SHORTHANDS, read

KEY = "extends"
Places = dict[KeyPath, str]


def extended(
    content: dict[str, Any], places: Places, folder: Path, chain: tuple[Path, ...] = ()
) -> tuple[dict[str, Any], Places]:
    """The content laid over that of its base, and of the base's base, with the place that each key came from.

    Args:
        content: of a recipe's file, as `read` gives it.
        places: where its keys stand.
        folder: that a base's file is looked for in.
        chain: the bases met so far.

    Raises:
        RecipeError: a base that is not there, is no recipe, or leads back to itself.
    """
    if KEY not in content:
        return content, places
    name, place = content[KEY], places.get((KEY,), "the recipe")
    if not isinstance(name, str):
        raise RecipeError([f"{place}: `{KEY}` should name one recipe, but is {name!r}"])
    path = find_base(name, folder, place).resolve()
    if path in chain:
        loop = " -> ".join(found.name for found in (*chain, path))
        raise RecipeError([f"{place}: `{KEY}` leads back to {path}: {loop}"])
    base, base_places = read(path)
    _anchor_imports(base, path.parent)
    base, base_places = extended(base, base_places, path.parent, (*chain, path))
    own = {key: value for key, value in content.items() if key != KEY}
    return _merged(base, own), _merged_places(base_places, places, _replaced(base, own))


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in own.items():
        result[key] = {**base[key], **value} if _adds(base, key, value) else value
    return result


def _adds(base: dict[str, Any], key: str, value: Any) -> bool:
    """Whether the section's keys join the base's. The options of one component mean nothing to another."""
    names_anew = isinstance(value, dict) and any(word in value for word in (SHORTHANDS.get(key), "terms"))
    return isinstance(value, dict) and isinstance(base.get(key), dict) and not names_anew


def _replaced(base: dict[str, Any], own: dict[str, Any]) -> list[KeyPath]:
    """The paths of the base that are gone."""
    found: list[KeyPath] = []
    for key, value in own.items():
        found += [(key, inner) for inner in value] if _adds(base, key, value) else [(key,)]
    return found


def _merged_places(base: Places, own: Places, gone: list[KeyPath]) -> Places:
    kept = {path: place for path, place in base.items() if not any(path[: len(g)] == g for g in gone)}
    return {**kept, **own}


def _anchor_imports(content: dict[str, Any], folder: Path) -> None:
    """Files that a base imports are meant from the base's folder, not from that of who extends it."""
    listed = content.get("imports")
    if isinstance(listed, list) and all(isinstance(entry, str) for entry in listed):
        content["imports"] = user_modules.absolute(listed, folder)
