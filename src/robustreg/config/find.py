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
    """Name -> file of every recipe that ships with the package: `trades`, `cifar10/trades`."""
    return {name: path for name, path in _shipped_files().items() if not is_base(path)}


def is_base(path: Path) -> bool:
    """Whether a shipped file is only there to be extended: its name begins with an underscore."""
    return path.name.startswith("_")


def _shipped_files() -> dict[str, Path]:
    folder = recipe_folder()
    files = sorted(folder.rglob("*.yaml"), key=lambda path: (path.parent, path.name))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}


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


def find_base(name: str, folder: Path, place: str) -> Path:
    """The file that `extends: name` means: a `.yaml` file from the recipe's folder, or one that ships.

    Args:
        name: as written, `mine/base.yaml` or `cifar10/_fast`.
        folder: of the recipe that says so.
        place: where it says so, for the message.

    Raises:
        RecipeError: in one sentence, with the closest name.
    """
    if name.endswith((".yaml", ".yml")):
        path = folder / name
        if path.is_file():
            return path
        beside = [str(other) for other in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise RecipeError([f"{place}: `extends` finds no file {path}{suggestion(str(path), beside)}"])
    shipped = _shipped_files()
    if name not in shipped:
        hint = suggestion(name, shipped)
        raise RecipeError([f"{place}: `extends` finds no recipe named {name!r} among those that ship{hint}"])
    return shipped[name]


def summary(path: Path) -> str:
    """The first line of the recipe's opening comment, which says what it is."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            return line.lstrip("# ").rstrip()
        break
    return ""
