"""`robustreg demo`: five ways to train on digits, the same attacks, one table and one report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .terminal import console

RECIPES = ("plain", "gradient_l2", "gradient_linf", "perturbed_linf", "pgd_at")


def demo(
    out: Annotated[Path, typer.Option("--out", help="The comparison's folder.")] = Path("runs/demo"),
    device: options.Device = "auto",
    threads: options.Threads = None,
    no_progress: options.NoProgress = False,
) -> None:
    """Train five methods on scikit-learn's digits, attack them alike, and write a report: about three minutes.

    Nothing is downloaded. An interrupted demo goes on where it stopped; a finished one is kept and a new folder
    is taken.
    """
    from . import workflow
    from .compare import load_all
    from .comparing import default_jobs, is_done, run_comparison

    recipes = load_all(list(RECIPES), [], [], [], seeds=1)
    folder, number = out, 1
    while (folder / "compare.json").is_file() and all(is_done(recipe, folder) for recipe in recipes):
        number += 1
        folder = out.with_name(f"{out.name}-{number}")
    console().print(f"five ways to train a network of the digits 0 to 9, into {folder}")
    setting = workflow.Setting(None, device, threads, not no_progress)
    run_comparison(recipes, folder, setting, title="Five ways to train on digits", jobs=default_jobs(setting))
