"""`robustreg list`: what there is, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from . import options
from .terminal import UsageError, print_table

WHAT = ("recipes", "methods", "terms", "attacks", "models", "data", "optimizers", "schedules")
KIND_OF = {"methods": "method", "terms": "term", "attacks": "point", "models": "model", "data": "data"}
KIND_OF |= {"optimizers": "optimizer", "schedules": "schedule"}


def list_names(
    what: Annotated[
        str | None, typer.Argument(metavar=f"[{'|'.join(WHAT)}]", help="Of which kind.", show_default=False)
    ] = None,
    imports: options.Imports = None,
) -> None:
    """List recipes, methods, terms, attacks, models and data sets by name."""
    from robustreg.config import imports as user_modules
    from robustreg.registry import suggestion

    if what is not None and what not in WHAT:
        raise UsageError(f"there is no list of {what!r}{suggestion(what, WHAT)}")
    user_modules.load(imports or [])
    for kind in WHAT if what is None else [what]:
        rows = _recipes() if kind == "recipes" else _components(KIND_OF[kind])
        print_table(
            "" if what else kind, (kind.rstrip("s") if kind != "data" else "data", ""), rows, left=2, gap=3
        )


def _recipes() -> list[tuple[str, str]]:
    from robustreg.config.find import shipped_recipes, summary

    return [(name, summary(path)) for name, path in shipped_recipes().items()]


def _components(kind: str) -> list[tuple[str, str]]:
    from robustreg.registry import components

    return [(name, _summary(made)) for name, made in sorted(components(kind).items())]


def _summary(component: Callable[..., Any]) -> str:
    """The first paragraph of a component's docstring; for a preset, what it presets."""
    preset = getattr(component, "keywords", None)
    if preset:
        options = ", ".join(f"{key} {value}" for key, value in preset.items())
        return f"{getattr(component, 'func').__name__} of {options}"  # noqa: B009 (only a partial has keywords)
    if preset is not None:  # the data sets are one function under many names
        return ""
    paragraph = (inspect.getdoc(component) or "").partition("\n\n")[0]
    return " ".join(paragraph.split()).replace("``", "`")
