"""`robustreg compare`: several recipes under several seeds and the same attacks, in one table and one report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .terminal import UsageError

if TYPE_CHECKING:
    from robustreg.config import Recipe

SAME = ("threat", "data", "evaluation")  # what must agree, or the numbers would not be comparable
LABELLED = "labelled"  # but for this option of the data: a method may be given fewer labels to train with
BASE = "plain"  # the recipe whose model and schedule a method without a recipe of its own is trained with
ALL = "all"
NAMED = 8  # recipes that a title still names


def compare(
    recipes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RECIPE|KEY=VALUE",
            help="Recipes, and overrides for all of them.",
            show_default=False,
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            metavar="A,B|all",
            help="Methods, each by its recipe for the data set, or else as the recipe `plain` trains; "
            "`all` is every method, and plain training.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="NAME", help="Short for data=NAME.", show_default=False)
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each recipe.")] = 1,
    out: Annotated[Path, typer.Option("--out", help="The comparison's folder.")] = Path("runs/compare"),
    data_dir: options.DataDir = None,
    imports: options.Imports = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            min=1,
            help="Runs at a time; by default one a core on the CPU, and one on an accelerator.",
            show_default=False,
        ),
    ] = None,
    no_progress: options.NoProgress = False,
) -> None:
    """Train several recipes under several seeds, attack them alike, print one table and write a report.

    Runs that are finished are kept: the same command goes on after an interruption.
    """
    from . import comparing, workflow

    words = recipes or []
    overrides = [word for word in words if "=" in word] + ([f"data={data}"] if data else [])
    names = [word for word in words if "=" not in word]
    for name in names:
        workflow.refuse_adopted(name)
    loaded = load_all(names, methods_named(methods), overrides, imports or [], seeds)
    workflow.torch_device(device)
    setting = workflow.Setting(data_dir, device, threads, not no_progress)
    different = list(dict.fromkeys(r.name for r in loaded))
    told = ", ".join(different) if len(different) <= NAMED else f"{len(different)} recipes"
    title = f"{out.name}: {told}"
    comparing.run_comparison(loaded, out, setting, title, jobs or comparing.default_jobs(setting))


def methods_named(listed: str | None) -> list[str]:
    """The methods behind `--methods`; `all` is every one of the library's, and plain training before them."""
    if listed != ALL:
        return listed.split(",") if listed else []
    from robustreg.registry import components

    return [BASE, *sorted(name for name, made in components("method").items() if hasattr(made, "card"))]


def load_all(
    names: list[str], methods: list[str], overrides: list[str], imports: list[str], seeds: int
) -> list[Recipe]:
    """Every recipe under every seed, checked before the first one is trained."""
    from robustreg.config import load_recipe

    if not names and not methods:
        raise UsageError("nothing to compare; name recipes, or --methods a,b (see `robustreg list`)")
    wanted = [(name, overrides) for name in names]
    wanted += [_recipe_of(method, overrides) for method in methods]
    loaded: list[Recipe] = []
    for name, changes in wanted:
        first = load_recipe(name, _but_for_its_own_data(name, changes, imports), imports=imports)
        if any(first.name == other.name for other in loaded):
            raise UsageError(f"two recipes are named {first.name!r}; give one of them another `name:`")
        check_comparable(first, loaded)
        loaded += [first.model_copy(update={"seed": first.seed + i}) for i in range(seeds)]
    return loaded


def _but_for_its_own_data(name: str, overrides: list[str], imports: list[str]) -> list[str]:
    """The overrides, without `data=NAME` for a recipe on that data set: it would wipe out the data's other options."""
    from robustreg.config import load_recipe

    own = f"data={load_recipe(name, imports=imports).data.name}"
    return [word for word in overrides if word != own]


def _recipe_of(method: str, overrides: list[str]) -> tuple[str, list[str]]:
    """The recipe that trains a method on the data set in question, and the overrides which make it that."""
    from robustreg.config import load_recipe
    from robustreg.config.find import shipped_recipes

    data = next((word.partition("=")[2] for word in overrides if word.startswith("data=")), None)
    data = load_recipe(BASE).data.name if data is None else data
    shipped = shipped_recipes()
    for name in (f"{data}/{method}", method):
        if name in shipped and load_recipe(name).data.name == data:
            return name, overrides
    base = f"{data}/{BASE}" if f"{data}/{BASE}" in shipped else BASE
    return base, [f"objective={method}", f"name={method}", *overrides]


def check_comparable(recipe: Recipe, others: list[Recipe]) -> None:
    """The same data, threat and attacks, or a sentence that says which differ."""
    if not others:
        return
    one, other = _compared(others[0]), _compared(recipe)
    for key in SAME:
        if one[key] != other[key]:
            part = next((k for k in one[key] if one[key][k] != other[key].get(k)), None)
            what = key if part is None else f"{key}.{part}"
            raise UsageError(
                f"{others[0].name} and {recipe.name} cannot be compared: `{what}` differs "
                f"({one[key].get(part)} and {other[key].get(part)}); override it for both, such as {what}=..."
            )


def _compared(recipe: Recipe) -> dict[str, Any]:
    content = recipe.to_dict()
    content["data"].pop(LABELLED, None)
    return content
