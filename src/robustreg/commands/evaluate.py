"""`robustreg evaluate`: attack a trained run again, or otherwise."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options
from .terminal import console


def evaluate(
    run: options.RunFolder,
    overrides: options.Overrides = None,
    data_dir: options.DataDir = None,
    imports: options.Imports = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    no_progress: options.NoProgress = False,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Print a table of the classes, too.")
    ] = False,
) -> None:
    """Measure a run's clean and robust accuracy, and leave evidence that `verify` re-checks.

    Overrides choose other attacks, such as 'evaluation.attacks=[{attack: pgd, steps: 100, restarts: 5}]', or measure
    how far away the nearest misclassified points are: 'evaluation.distances=[fab]'. The results replace those in
    RUN/evaluation.
    """
    from . import workflow

    recipe = workflow.recipe_of(run, overrides, imports)
    setting = workflow.Setting(data_dir, device, threads, not no_progress)
    evaluation = workflow.evaluate_run(recipe, run, setting)
    out = console()
    out.print(f"\n{evaluation.table()}\n")
    if per_class:
        out.print(f"{evaluation.class_table()}\n")
    out.print(f"results:  {run / 'evaluation' / 'evaluation.json'}")
    if (run / workflow.EVIDENCE / "manifest.json").is_file():  # a full disk has none, which was warned of
        out.print(f"evidence: {run / workflow.EVIDENCE}")
