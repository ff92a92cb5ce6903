"""`robustreg report`: one HTML file from a run or a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal import console


def report(
    folder: Annotated[
        Path,
        typer.Argument(metavar="RUN_OR_COMPARISON", help="A run or comparison folder.", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="File to write; FOLDER/report.html by default.", show_default=False),
    ] = None,
) -> None:
    """Write the report of a run or a comparison: one HTML file that needs nothing else."""
    from robustreg.report import write_report

    console().print(f"report: {write_report(folder, out)}")
