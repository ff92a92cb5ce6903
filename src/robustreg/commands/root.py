"""Options of `robustreg` itself."""

from __future__ import annotations

from typing import Annotated

import typer


def _print_version(wanted: bool) -> None:
    if wanted:
        from robustreg import __version__

        print(f"robustreg {__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Say which version this is.", callback=_print_version, is_eager=True),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; any command takes it.")
    ] = False,
) -> None:
    """Train, attack and compare adversarially robust classifiers."""
