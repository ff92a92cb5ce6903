"""The recipe's `objective` section as an `Objective`: a method by name, or a sum of weighted terms."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from .components import Builder, Invalid
from .problems import KeyPath

if TYPE_CHECKING:
    from robustreg.objective import Objective
    from robustreg.terms import Term

Made = TypeVar("Made")


def build_objective(section: dict[str, Any], builder: Builder) -> Objective:
    """Raises `Invalid` after noting every problem of the section."""
    if section.get("terms") is None:
        options = {key: value for key, value in section.items() if key not in ("method", "terms")}
        made = builder.component("method", section["method"], options, ("objective",))
        return _as_objective(made)
    for key in section:
        if key not in ("terms", "method"):
            builder.problems.add(("objective", key), "is not a key beside `terms`: options belong to terms")
    built = [
        _noted(lambda: _weighted_term(item, builder, ("objective", "terms", index)))  # noqa: B023 (called at once)
        for index, item in enumerate(section["terms"])
    ]
    parts = [part for part in built if part is not None]
    if len(parts) < len(built) or any(key not in ("terms", "method") for key in section):
        raise Invalid
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _weighted_term(item: Any, builder: Builder, path: KeyPath) -> Objective:
    if isinstance(item, str):
        item = {"term": item}
    if not isinstance(item, dict):
        raise Invalid  # the schema says so
    if "term" not in item:
        builder.refuse(path, f"should be a term's name or `{{term: name, weight: ...}}`, but is {item!r}")
    keys = ("term", "weight", *(_BY if "by" in item else ()))
    options = {key: value for key, value in item.items() if key not in keys}
    weight = _noted(lambda: builder.weight(item.get("weight", 1.0), (*path, "weight")))
    term = _noted(lambda: builder.component("term", item["term"], options, path))
    if "by" in item:
        by = _noted(lambda: _sample_weight(item, builder, path))
        term = None if term is None or by is None else by(term)
    if weight is None or term is None:
        raise Invalid
    return _as_objective(term) if weight == 1.0 else weight * _as_objective(term)


_BY = ("by", "detach", "normalise")  # what `weighted()` takes, written beside the term


def _sample_weight(item: dict[str, Any], builder: Builder, path: KeyPath) -> Callable[[Term], Term]:
    """`{term: ..., by: {term: vulnerability, at: ...}}`: samples weighted by another term's values."""
    from robustreg.terms import weighted

    by = item["by"]
    by = {"term": by} if isinstance(by, str) else by
    if not isinstance(by, dict) or "term" not in by:
        builder.refuse((*path, "by"), f"should be a term's name or `{{term: name, ...}}`, but is {by!r}")
    options = {key: value for key, value in by.items() if key != "term"}
    weighing = builder.component("term", by["term"], options, (*path, "by"))
    flags = {key: item[key] for key in ("detach", "normalise") if key in item}
    for key, value in flags.items():
        if not isinstance(value, bool):
            builder.refuse((*path, key), f"should be true or false, but is {value!r}")
    return lambda term: weighted(term, weighing, **flags)


def _noted(build: Callable[[], Made]) -> Made | None:
    """What `build` makes, or None where it noted a problem: the other parts are still to be looked at."""
    try:
        return build()
    except Invalid:
        return None


def _as_objective(made: Any) -> Objective:
    from robustreg.objective import Objective
    from robustreg.terms import Term

    if isinstance(made, Term):
        return Objective.of(made)
    if not isinstance(made, Objective):
        raise TypeError(f"a method must return an Objective, got {type(made).__name__}")
    return made
