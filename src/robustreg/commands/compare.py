"""`robustreg compare`: several recipes under several seeds and the same attacks, in one table and one report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .terminal import UsageError, console

if TYPE_CHECKING:
    from robustreg.config import Recipe

    from .workflow import Setting

SAME = ("threat", "data", "evaluation")  # what must agree, or the numbers would not be comparable
BASE = "plain"  # the recipe whose model and schedule `--methods` trains


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
            metavar="A,B",
            help="Methods to train as the recipe `plain` trains.",
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
    no_progress: options.NoProgress = False,
) -> None:
    """Train several recipes under several seeds, attack them alike, print one table and write a report.

    Runs that are finished are kept: the same command goes on after an interruption.
    """
    from . import workflow

    words = recipes or []
    overrides = [word for word in words if "=" in word] + ([f"data={data}"] if data else [])
    names = [word for word in words if "=" not in word]
    loaded = load_all(names, methods.split(",") if methods else [], overrides, imports or [], seeds)
    workflow.torch_device(device)
    setting = workflow.Setting(data_dir, device, threads, not no_progress)
    run_comparison(
        loaded, out, setting, title=f"{out.name}: " + ", ".join(dict.fromkeys(r.name for r in loaded))
    )


def load_all(
    names: list[str], methods: list[str], overrides: list[str], imports: list[str], seeds: int
) -> list[Recipe]:
    """Every recipe under every seed, checked before the first one is trained."""
    from robustreg.config import load_recipe

    if not names and not methods:
        raise UsageError("nothing to compare; name recipes, or --methods a,b (see `robustreg list`)")
    wanted = [(name, overrides) for name in names]
    wanted += [(BASE, [f"objective={method}", f"name={method}", *overrides]) for method in methods]
    loaded: list[Recipe] = []
    for name, changes in wanted:
        first = load_recipe(name, changes, imports=imports)
        if any(first.name == other.name for other in loaded):
            raise UsageError(f"two recipes are named {first.name!r}; give one of them another `name:`")
        check_comparable(first, loaded)
        loaded += [first.model_copy(update={"seed": first.seed + i}) for i in range(seeds)]
    return loaded


def check_comparable(recipe: Recipe, others: list[Recipe]) -> None:
    """The same data, threat and attacks, or a sentence that says which differ."""
    if not others:
        return
    one, other = others[0].to_dict(), recipe.to_dict()
    for key in SAME:
        if one[key] != other[key]:
            part = next((k for k in one[key] if one[key][k] != other[key].get(k)), None)
            what = key if part is None else f"{key}.{part}"
            raise UsageError(
                f"{others[0].name} and {recipe.name} cannot be compared: `{what}` differs "
                f"({one[key].get(part)} and {other[key].get(part)}); override it for both, such as {what}=..."
            )


def run_comparison(recipes: list[Recipe], out: Path, setting: Setting, title: str) -> None:
    """Train and evaluate what is not finished yet, then print the table and write the report."""
    from robustreg.files import write_json_atomic

    from . import leaderboard, workflow

    print_line = console().print
    todo = [recipe for recipe in recipes if not is_done(recipe, out)]
    listing = [{"name": r.name, "path": folder_of(r), "seed": r.seed} for r in recipes]
    write_json_atomic(out / "compare.json", {"title": title, "runs": listing})
    if len(todo) < len(recipes):
        print_line(f"{len(recipes) - len(todo)} of {len(recipes)} runs are finished already")
    for number, recipe in enumerate(todo, 1):
        folder = out / folder_of(recipe)
        print_line(f"[{number}/{len(todo)}] {recipe.name}, seed {recipe.seed}")
        if workflow.status_of(folder) != "finished":
            resume = (folder / "checkpoints" / "last").is_dir()
            result = workflow.train_run(recipe, folder, setting, resume=resume)
            if result.status != "finished":
                print_line(
                    f"stopped at step {result.step} of {result.total}; the same command goes on from there"
                )
                raise typer.Exit(130)
        workflow.evaluate_run(recipe, folder, setting)
    leaderboard.show(out)
    print_line(f"\ncomparison: {out}")
    try:
        from robustreg.report import write_report

        print_line(f"report:     {write_report(out)}")
    except ModuleNotFoundError as error:
        print_line(f'no report, because {error.name} is not installed: pip install "robustreg[report]"')


def folder_of(recipe: Recipe) -> str:
    """The run's folder within the comparison."""
    return f"{recipe.name}-s{recipe.seed}"


def is_done(recipe: Recipe, out: Path) -> bool:
    """Whether this very run is there, finished and evaluated.

    Raises:
        UsageError: the folder holds a run of another recipe, which must not pass for this one.
    """
    from . import workflow

    folder = out / folder_of(recipe)
    if not (folder / workflow.RECIPE_FILE).is_file():
        return False
    before, now = workflow.recipe_of(folder, imports=list(recipe.imports)).to_dict(), recipe.to_dict()
    changed = [key for key in now if now[key] != before[key]]
    if changed:
        raise UsageError(
            f"{folder} holds a run of another recipe ({', '.join(changed)} differ); choose another --out"
        )
    return workflow.is_evaluated(folder)
