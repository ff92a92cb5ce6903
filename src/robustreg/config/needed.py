"""Recipes that a recipe needs: a helper network written as `{recipe: plain}` is trained before it is asked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from .problems import KeyPath, RecipeError
from .schema import Recipe

KEY = "recipe"
FOLDER = "needed"

_loading: ContextVar[tuple[str, ...]] = ContextVar("_loading", default=())


def needed(recipe: Recipe) -> list[Recipe]:
    """Every recipe that must be trained before this one, each once.

    Raises:
        RecipeError: one is not there or is wrong, or they need each other in a circle.
    """
    found: list[Recipe] = []
    for spec, path in _specs({"start": recipe.start, "objective": recipe.objective.model_dump()}, ()):
        other = needed_recipe(spec, path, recipe)
        if other not in found:
            found.append(other)
    return found


def needed_recipe(spec: dict[str, Any], path: KeyPath, recipe: Recipe) -> Recipe:
    """The recipe behind `{recipe: NAME, key.path: value, ...}`, on the data and with the seed of `recipe`."""
    from .loading import load_recipe

    where = ".".join(map(str, path))
    name = str(spec[KEY])
    if name in _loading.get():
        raise RecipeError([f"`{where}` needs the recipe {name}, which needs itself"])
    token = _loading.set((*_loading.get(), name))
    try:
        same = {"data": {"name": recipe.data.name, **recipe.data.options}, "seed": recipe.seed}
        changes = {**same, **_flat({key: value for key, value in spec.items() if key != KEY})}
        return load_recipe(name, [_override(k, v) for k, v in changes.items()], imports=recipe.imports)
    except RecipeError as error:
        raise RecipeError(
            [f"`{where}`, the recipe {name}: {problem}" for problem in error.problems]
        ) from error
    finally:
        _loading.reset(token)


def folder_of(recipe: Recipe, beside: Path) -> Path:
    """Where a needed recipe is trained: in `beside`, the folder of the runs; recipes that differ never share one."""
    digest = hashlib.sha256(recipe.to_yaml().encode()).hexdigest()[:8]
    return beside / FOLDER / f"{recipe.name}-s{recipe.seed}-{digest}"


def _flat(changes: dict[str, Any], path: str = "") -> dict[str, Any]:
    """`{model: {width: 8}}` as `{model.width: 8}`: it changes one key and keeps the others."""
    flat: dict[str, Any] = {}
    for key, value in changes.items():
        flat |= _flat(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return flat


def _override(key: str, value: Any) -> str:
    import yaml

    text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n")
    return f"{key}={text.strip()}"


def _specs(value: Any, path: KeyPath) -> Iterator[tuple[dict[str, Any], KeyPath]]:
    if isinstance(value, dict) and KEY in value:
        yield value, path
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _specs(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _specs(inner, (*path, i))
