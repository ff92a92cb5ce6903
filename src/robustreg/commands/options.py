"""Options that several commands share, described once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE", help="Overrides such as `data=mnist threat.eps=0.3`.", show_default=False
    ),
]
Imports = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        metavar="FILE_OR_MODULE",
        help="Your own Python file or module with registered components; it is run. Repeatable.",
        show_default=False,
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="Where data files are kept (or set ROBUSTREG_DATA_DIR).", show_default=False
    ),
]
Device = Annotated[
    str,
    typer.Option("--device", metavar="NAME", help="cpu, cuda, or auto: CUDA where there is any."),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="CPU threads; all cores by default.", show_default=False),
]
NoProgress = Annotated[bool, typer.Option("--no-progress", help="Print no progress.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)]
RunDir = Annotated[
    Path | None,
    typer.Option("--run-dir", help="The run's folder; runs/NAME by default.", show_default=False),
]
