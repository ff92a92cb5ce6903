"""`load_recipe`: from a file and overrides to a checked `Recipe`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import imports as user_modules
from .checks import check_components
from .extending import KEY as EXTENDS
from .extending import extended
from .find import find_recipe
from .needed import needed
from .problems import KeyPath, Problems, RecipeError
from .schema import Named, Recipe
from .validation import validate
from .yaml_file import override, read, resolve


def load_recipe(
    name: str | Path,
    overrides: Sequence[str] = (),
    *,
    imports: Sequence[str] = (),
) -> Recipe:
    """Read a recipe, apply overrides and check everything that can be known before work starts.

    Args:
        name: a YAML file, the bare name of a recipe that ships with the package, or a run folder.
        overrides: `key.path=value` assignments, such as `data=mnist` or `objective.terms.1.weight=0.1`.
        imports: the user's own modules or `.py` files, whose registered components the recipe may name.

    Raises:
        RecipeError: with every problem found, each naming the key, the place and the closest valid name.
    """
    path = find_recipe(name)
    content, places = read(path)
    return recipe_from(content, places, str(path), path.parent, overrides, imports)


def recipe_from(
    content: dict[str, Any],
    places: dict[KeyPath, str],
    title: str,
    folder: Path,
    overrides: Sequence[str] = (),
    imports: Sequence[str] = (),
) -> Recipe:
    """As `load_recipe`, from content that is already read. Files that it names are meant from `folder`."""
    content, places = extended(content, places, folder)
    override(content, places, overrides)
    if EXTENDS in content:  # it was an override: too late, and it would change what the others mean
        place = places.get((EXTENDS,), "an override")
        raise RecipeError([f"{place}: `{EXTENDS}` is said in a recipe's file, not by an override"])
    content = resolve(content, places, title)
    _name_defaults(content)
    problems = Problems(title, places)
    _add_imports(content, folder, imports)
    recipe = validate(content, problems)
    listed = content.get("imports")
    if isinstance(listed, list) and all(isinstance(entry, str) for entry in listed):
        user_modules.load(listed)
    check_components(content, problems)
    problems.raise_if_any()
    assert recipe is not None
    needed(recipe)  # so that what is wrong with them is said now
    return recipe


def _name_defaults(content: dict[str, Any]) -> None:
    """`data.train_size=100` speaks of the default data set where the recipe names none."""
    for key, field in Recipe.model_fields.items():
        if isinstance(field.default, Named) and isinstance(content.get(key), dict):
            content[key].setdefault("name", field.default.name)


def _add_imports(content: dict[str, Any], folder: Path, imports: Sequence[str]) -> None:
    """What `--import` names replaces an import of the same file name, which may have moved since."""
    listed = content.get("imports", [])
    if not isinstance(listed, list) or not all(isinstance(entry, str) for entry in listed):
        return  # validation says so
    given = user_modules.absolute(imports, Path.cwd())
    names = {Path(entry).name for entry in given}
    kept = [entry for entry in user_modules.absolute(listed, folder) if Path(entry).name not in names]
    if kept or given:
        content["imports"] = [*kept, *given]
