"""The runs of a comparison: each trained and attacked once, one after the other or several at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from . import workflow
from .terminal import UsageError, console

if TYPE_CHECKING:
    from robustreg.config import Recipe

    from .workflow import Setting

STOPPED = 130


def default_jobs(setting: Setting) -> int:
    """Runs at a time: one for each core of the CPU that a run would use, and one on an accelerator."""
    if workflow.torch_device(setting.device) != "cpu":
        return 1
    return max(1, _cores() // (setting.threads or 1))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_comparison(recipes: list[Recipe], out: Path, setting: Setting, title: str, jobs: int = 1) -> None:
    """Train and evaluate what is not finished yet, then print the table and write the report.

    A run that fails is named at the end and does not keep the others from being made.
    """
    from robustreg.files import write_json_atomic

    from . import leaderboard

    print_line = console().print
    todo = [recipe for recipe in recipes if not is_done(recipe, out)]
    listing = [{"name": r.name, "path": folder_of(r), "seed": r.seed} for r in recipes]
    write_json_atomic(out / "compare.json", {"title": title, "runs": listing})
    if len(todo) < len(recipes):
        print_line(f"{len(recipes) - len(todo)} of {len(recipes)} runs are finished already")
    for recipe in todo:  # now, and not by two runs at a time
        workflow.train_needed(recipe, out / folder_of(recipe), setting)
    jobs = min(jobs, len(todo))
    failed = _at_once(todo, out, setting, jobs) if jobs > 1 else _in_turn(todo, out, setting)
    leaderboard.show(out)
    if few := _few_labels(recipes):
        print_line(f"trained with a label for a part of the samples only: {few}")
    print_line(f"\ncomparison: {out}")
    try:
        from robustreg.report import write_report

        print_line(f"report:     {write_report(out)}")
    except ModuleNotFoundError as error:
        print_line(f'no report, because {error.name} is not installed: pip install "robustreg[report]"')
    if failed:
        raise UsageError(
            f"{len(failed)} of {len(recipes)} runs failed: "
            + "; ".join(f"{name}: {why}" for name, why in failed)
        )


def _few_labels(recipes: list[Recipe]) -> str:
    """The recipes that hide labels from training, each with how many or which share it keeps."""
    from .compare import LABELLED

    kept = {r.name: r.data.options.get(LABELLED) for r in recipes}
    return ", ".join(f"{name} ({share})" for name, share in kept.items() if share is not None)


def _in_turn(todo: list[Recipe], out: Path, setting: Setting) -> list[tuple[str, str]]:
    failed = []
    for number, recipe in enumerate(todo, 1):
        console().print(f"[{number}/{len(todo)}] {recipe.name}, seed {recipe.seed}")
        try:
            _stop_unless_finished(_run(recipe, out, setting))
        except Exception as error:
            if isinstance(error, typer.Exit):
                raise
            failed.append(_failure(recipe, error))
    return failed


def _at_once(todo: list[Recipe], out: Path, setting: Setting, jobs: int) -> list[tuple[str, str]]:
    """Each run in one of `jobs` processes, which share the CPU's cores."""
    import multiprocessing

    quiet = replace(setting, progress=False, threads=setting.threads or max(1, _cores() // jobs))
    failed, finished = [], 0
    # Processes of their own, not forks: torch's threads do not survive a fork.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        runs = {pool.submit(_timed, recipe, out, quiet): recipe for recipe in todo}
        try:
            for run in _finished(runs):
                finished += 1
                recipe = runs[run]
                said = f"[{finished}/{len(todo)}] {recipe.name}, seed {recipe.seed}"
                try:
                    status, seconds = run.result()
                except Exception as error:
                    failed.append(_failure(recipe, error))
                    console().print(f"{said}: failed")
                else:
                    _stop_unless_finished(status)
                    console().print(f"{said}: {seconds:.0f} s")
        except (
            BaseException
        ):  # Ctrl-C reaches the processes too: they save and end, and no further ones start
            pool.shutdown(cancel_futures=True)
            raise
    return failed


def _finished(runs: dict[Future[tuple[str, float]], Recipe]) -> Iterator[Future[tuple[str, float]]]:
    try:
        yield from as_completed(runs)
    except KeyboardInterrupt:
        console().print("stopping: the runs in hand are saved; the same command goes on from there")
        raise typer.Exit(STOPPED) from None


def _timed(recipe: Recipe, out: Path, setting: Setting) -> tuple[str, float]:
    started = time.perf_counter()
    return _run(recipe, out, setting), time.perf_counter() - started


def _run(recipe: Recipe, out: Path, setting: Setting) -> str:
    """Train, if that is not done, and evaluate; the status of the training."""
    folder = out / folder_of(recipe)
    if workflow.status_of(folder) != "finished":
        resume = (folder / "checkpoints" / "last").is_dir()
        result = workflow.train_run(recipe, folder, setting, resume=resume)
        if result.status != "finished":
            return f"{result.status} at step {result.step} of {result.total}"
    workflow.evaluate_run(recipe, folder, setting)
    return "finished"


def _stop_unless_finished(status: str) -> None:
    if status != "finished":
        console().print(f"{status}; the same command goes on from there")
        raise typer.Exit(STOPPED)


def _failure(recipe: Recipe, error: Exception) -> tuple[str, str]:
    sentence = str(error).splitlines()
    return folder_of(recipe), sentence[0] if sentence else type(error).__name__


def folder_of(recipe: Recipe) -> str:
    """The run's folder within the comparison."""
    return f"{recipe.name}-s{recipe.seed}"


def is_done(recipe: Recipe, out: Path) -> bool:
    """Whether this very run is there, finished and evaluated.

    Raises:
        UsageError: the folder holds a run of another recipe, which must not pass for this one.
    """
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
