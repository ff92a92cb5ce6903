"""How to run it again: the command and the resolved recipe."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from robustreg.report.aggregate import Group
from robustreg.report.reading import Run


def reproduce(groups: Sequence[Group], compared: bool) -> dict[str, Any]:
    """The commands and recipe of each group's first run that kept one, and whether there is evidence."""
    return {
        "blocks": [_block(group, compared) for group in groups],
        "evidence": any(run.has_evidence for group in groups for run in group.runs),
    }


def _block(group: Group, compared: bool) -> dict[str, Any]:
    run = next((run for run in group.runs if run.recipe is not None), group.runs[0])
    again = "evaluate" if run.elsewhere else "train"
    commands = [f"robustreg {again} {_path(run, '' if run.elsewhere else 'recipe.yaml', compared)}"]
    if run.has_evidence:
        commands.append(f"robustreg verify {_path(run, '', compared)}")
    others = [str(r.seed) for r in group.runs if r is not run and r.seed is not None]
    return {"name": group.name, "commands": commands, "recipe": run.recipe, "other_seeds": ", ".join(others)}


def _path(run: Run, file: str, compared: bool) -> str:
    folder = run.place if compared else "."
    return shlex.quote(f"{folder}/{file}" if file and folder != "." else file or folder)
