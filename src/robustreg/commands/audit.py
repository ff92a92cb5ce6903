"""`robustreg audit`: whether a run's robustness is real or gradient masking."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .terminal import console

EXIT = {"sound": 0, "suspicious": 3, "masked": 4}  # 1 and 2 say that the command itself failed


def audit(
    run: options.RunFolder,
    overrides: options.Overrides = None,
    data_dir: options.DataDir = None,
    imports: options.Imports = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    no_progress: options.NoProgress = False,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="More samples, steps, restarts and queries.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of everything random.")] = 0,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=2, help="Samples per call of the network, at most.")
    ] = 256,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder for audit.json and audit.html; RUN/audit by default.", show_default=False
        ),
    ] = None,
) -> None:
    """Say whether a run's robustness is real: sound (exit code 0), suspicious (3) or masked (4), with reasons.

    It attacks the trained network in many ways and compares what they find. The reasons, and what to do, are printed
    and written as a page.
    """
    from robustreg.auditing import audit as look
    from robustreg.config import build

    from . import workflow

    setting = workflow.Setting(data_dir, device, threads, not no_progress)
    workflow.set_threads(setting)
    built = build(workflow.recipe_of(run, overrides, imports), data_dir=data_dir, other_runs=False)
    net, samples = workflow.load_net(built, run, setting), workflow.test_samples(built)
    screen = console()

    def tell(title: str, number: int, count: int) -> None:
        if setting.progress:
            typer.echo(f"[{number + 1}/{count}] {title}", err=True)

    found = look(
        net, samples, built.threat, thorough=thorough, seed=seed, batch_size=batch_size, progress=tell
    )
    folder = run / "audit" if out is None else out
    result = found.save(folder)
    screen.print(f"\n{found.table()}\n", markup=False)
    screen.print(f"results: {result}", markup=False)
    _write_page(folder)
    if EXIT[found.verdict]:
        raise typer.Exit(EXIT[found.verdict])


def _write_page(folder: Path) -> None:
    """The page, where the report's extra is installed."""
    from robustreg.report import write_audit_page

    try:
        page = write_audit_page(folder)
    except ModuleNotFoundError as error:
        console().print(f"no page: {error}", markup=False)
    else:
        console().print(f"page:    {page}", markup=False)
