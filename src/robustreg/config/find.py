"""Where recipes are: a file the user names, or one that ships with the package, by its bare name."""

from __future__ import annotations

from pathlib import Path

from robustreg.registry import suggestion

from .problems import RecipeError

_PACKAGE = Path(__file__).resolve().parent.parent


def recipe_folder() -> Path:
    """The recipes that ship with the package; in a checkout they lie at its root, where people look."""
    installed = _PACKAGE / "recipes"
    return installed if installed.is_dir() else _PACKAGE.parent.parent / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of every recipe that ships with the package."""
    return {path.stem: path for path in sorted(recipe_folder().glob("*.yaml"))}


def find_recipe(name: str | Path) -> Path:
    """The file for a path or a bare name such as `gradient_l2`; a run folder stands for its own recipe.

    Raises:
        RecipeError: in one sentence, with the closest name.
    """
    path = Path(name)
    if path.is_dir() and (path / "recipe.yaml").is_file():
        return path / "recipe.yaml"
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if str(name) in shipped:
        return shipped[str(name)]
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        beside = [str(other) for other in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise RecipeError([f"there is no recipe file {path}{suggestion(str(path), beside or shipped)}"])
    raise RecipeError([f"there is no recipe named {str(name)!r}{suggestion(str(name), shipped)}"])


def summary(path: Path) -> str:
    """The first line of the recipe's opening comment, which says what it is."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            return line.lstrip("# ").rstrip()
        break
    return ""
