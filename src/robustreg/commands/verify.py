"""`robustreg verify`: re-check the evidence of an evaluation, point by point."""

from __future__ import annotations

import typer

from . import options
from .terminal import UsageError, console


def verify(
    run: options.RunFolder,
    data_dir: options.DataDir = None,
    imports: options.Imports = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
) -> None:
    """Re-check every adversarial point that an evaluation left, without any attack code."""
    from robustreg.config import build
    from robustreg.evaluation import verify as check

    from . import workflow

    evidence = run / workflow.EVIDENCE
    evaluated = run / "evaluation" if (run / "evaluation" / workflow.RECIPE_FILE).is_file() else run
    recipe = workflow.recipe_of(evaluated, imports=imports)
    if not evidence.is_dir():
        raise UsageError(f"{run} holds no evidence yet; `robustreg evaluate {run}` makes it")
    setting = workflow.Setting(data_dir, device, threads)
    workflow.set_threads(setting)
    built = build(recipe, data_dir=data_dir, other_runs=False)
    verification = check(evidence, workflow.load_net(built, run, setting), workflow.test_samples(built))
    console().print(str(verification))
    if not verification.ok:
        raise typer.Exit(1)
