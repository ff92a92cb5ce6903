"""`robustreg train`: from a recipe to a trained, evaluated run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .terminal import UsageError, console

if TYPE_CHECKING:
    from robustreg.config import Recipe

    from .workflow import Setting

RUNS = Path("runs")


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A recipe file, the name of a shipped one, or a run folder.",
            show_default=False,
        ),
    ],
    overrides: options.Overrides = None,
    run_dir: options.RunDir = None,
    data_dir: options.DataDir = None,
    imports: options.Imports = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the run in its folder stopped.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Short for seed=N.", show_default=False)
    ] = None,
    devices: Annotated[
        int, typer.Option("--devices", min=1, help="Train on so many, with a process for each.")
    ] = 1,
    no_progress: options.NoProgress = False,
) -> None:
    """Train a recipe, evaluate the result under attack, and save examples."""
    from robustreg.config import load_recipe
    from robustreg.training.processes import is_first, leave, of_many

    from . import workflow

    workflow.refuse_adopted(recipe)
    changes = [*(overrides or []), *([] if seed is None else [f"seed={seed}"])]
    loaded = load_recipe(recipe, changes, imports=imports or [])
    folder = _folder(recipe, loaded, run_dir, resume)
    if resume:
        _check_same_recipe(loaded, folder)
    setting = workflow.Setting(data_dir, device, threads, not no_progress)
    _check_devices(devices, workflow.torch_device(device))
    if devices > 1 and not of_many():
        _train_in_many(devices, recipe, overrides or [], folder, imports or [], setting, resume, seed)
        return

    out = console()
    if is_first():
        out.print(f"training {loaded.name}, seed {loaded.seed}: {folder}")
    result = workflow.train_run(loaded, folder, setting, resume=resume)
    leave()
    if not is_first():  # the others are done: it is the first that evaluates
        raise typer.Exit(0 if result.status == "finished" else 130)
    if result.status != "finished":
        out.print(
            f"stopped at step {result.step} of {result.total}; `robustreg train {folder} --resume` goes on"
        )
        raise typer.Exit(130)
    evaluation = workflow.evaluate_run(loaded, folder, setting)
    out.print(f"\n{evaluation.table()}\n")
    out.print(f"run:      {folder}")
    out.print(f"report:   robustreg report {folder}")
    out.print(f"verify:   robustreg verify {folder}")
    out.print(f"evaluate: robustreg evaluate {folder} 'evaluation.attacks=[{{attack: pgd, steps: 100}}]'")


def _folder(recipe: str, loaded: Recipe, run_dir: Path | None, resume: bool) -> Path:
    """Where the run goes: what was asked for, the run itself when it is resumed, or a new folder under runs/."""
    from robustreg.training.processes import is_first, of_many

    if of_many():
        if run_dir is None:
            raise UsageError(
                "under torchrun give --run-dir: all processes must know the folder before it is there"
            )
        if not is_first():  # the first process has begun to fill it, maybe
            return run_dir
    if run_dir is None and resume:
        run_dir = Path(recipe) if Path(recipe).is_dir() else RUNS / loaded.name
    if resume and run_dir is not None:
        if not (run_dir / "checkpoints").is_dir():
            raise UsageError(f"there is nothing to resume in {run_dir}: it has no checkpoint")
        return run_dir
    if run_dir is not None:
        if run_dir.is_dir() and any(run_dir.iterdir()):
            raise UsageError(
                f"{run_dir} is not empty; add --resume to go on with the run in it, or name another folder"
            )
        return run_dir
    folder, number = RUNS / loaded.name, 1
    while folder.exists():
        number += 1
        folder = RUNS / f"{loaded.name}-{number}"
    return folder


def _check_same_recipe(loaded: Recipe, folder: Path) -> None:
    """A resumed run goes on with the recipe it began with, or not at all."""
    from . import workflow

    began = workflow.recipe_of(folder, imports=loaded.imports)
    now, before = loaded.to_dict(), began.to_dict()
    changed = [key for key in now if now[key] != before[key] and key not in ("evaluation", "logging")]
    if changed:
        raise UsageError(
            f"cannot resume {folder} with another recipe: {', '.join(changed)} differ from its recipe.yaml; "
            f"`robustreg train {folder} --resume` goes on with its own"
        )


def _check_devices(devices: int, device: str) -> None:
    """More processes than GPUs would share them, which is most likely not what was meant."""
    import torch

    if device == "cuda" and devices > torch.cuda.device_count():
        raise UsageError(f"--devices {devices}, but torch finds {torch.cuda.device_count()} CUDA devices")


def _train_in_many(
    devices: int,
    recipe: str,
    overrides: list[str],
    folder: Path,
    imports: list[str],
    setting: Setting,
    resume: bool,
    seed: int | None,
) -> None:
    """The same command in a process for each device."""
    from robustreg.training.processes import start

    arguments = ["train", recipe, *overrides, "--run-dir", str(folder), "--device", setting.device]
    arguments += [part for name in imports for part in ("--import", name)]
    arguments += [] if setting.data_dir is None else ["--data-dir", str(setting.data_dir)]
    arguments += [] if setting.threads is None else ["--threads", str(setting.threads)]
    arguments += [] if seed is None else ["--seed", str(seed)]
    arguments += ["--resume"] * resume + ["--no-progress"] * (not setting.progress)
    status = start(devices, "robustreg", arguments)
    if status:
        raise typer.Exit(status)
