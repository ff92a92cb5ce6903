"""`robustreg evaluate`: attack a trained run again, or otherwise."""

from __future__ import annotations

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
) -> None:
    """Measure a run's clean and robust accuracy, and leave evidence that `verify` re-checks.

    Overrides choose other attacks, such as 'evaluation.attacks=[{attack: pgd, steps: 100, restarts: 5}]'. The
    results replace those in RUN/evaluation.
    """
    from . import workflow

    recipe = workflow.recipe_of(run, overrides, imports)
    setting = workflow.Setting(data_dir, device, threads, not no_progress)
    evaluation = workflow.evaluate_run(recipe, run, setting)
    out = console()
    out.print(f"\n{evaluation.table()}\n")
    out.print(f"results:  {run / 'evaluation' / 'evaluation.json'}")
    out.print(f"evidence: {run / workflow.EVIDENCE}")
