"""`robustreg show`: one method on one page."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from . import options
from .terminal import UsageError, console


def show(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="A method's name.", show_default=False)],
    overrides: options.Overrides = None,
    imports: options.Imports = None,
) -> None:
    """Show a method: its paper, equations and hyperparameters, and what a step of it costs.

    Overrides set the method's options and the threat, such as `form=penalty threat.norm=l2`.
    """
    from robustreg.config import imports as user_modules
    from robustreg.config.components import Builder, Invalid
    from robustreg.config.objective import build_objective
    from robustreg.config.problems import Problems
    from robustreg.config.yaml_file import override, resolve
    from robustreg.methods import card_of
    from robustreg.registry import UnknownName, lookup

    user_modules.load(imports or [])
    try:
        function = lookup("method", method)
    except UnknownName as error:
        raise UsageError(str(error)) from error
    content: dict[str, Any] = {"threat": {"norm": "linf", "eps": 8 / 255}, "objective": {"method": method}}
    places: dict[Any, str] = {}
    override(content, places, [_of_method(word) for word in overrides or []])
    content = resolve(content, places, method)
    problems = Problems(method, places)
    builder = Builder(None, problems)
    try:
        builder.threat = builder.make_threat(content["threat"], ("threat",))
        objective = build_objective(content["objective"], builder)
    except Invalid:
        problems.raise_if_any()
        raise
    out = console()
    try:
        out.print(str(card_of(function)), markup=False)
    except ValueError:  # a user's method need not have a card
        out.print(f"{method}: {(function.__doc__ or '').strip().partition(chr(10))[0]}", markup=False)
    out.print(f"\nObjective\n  {objective}\n\nOne step\n{objective.plan()}", markup=False)


def _of_method(word: str) -> str:
    return word if word.startswith("threat") else f"objective.{word}"
