"""A term or a point as the mapping that a recipe would hold, and back."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from robustreg.points import Point
from robustreg.registry import name_of, options_of
from robustreg.terms import Term
from robustreg.threat import Threat


class NotExpressible(Exception):
    """Something that no recipe can say: a function, a network, a class that is not registered."""


def as_mapping(value: Any) -> Any:
    """The plain values that a recipe would hold, every option spelt out.

    Raises:
        NotExpressible: it holds something that a recipe cannot say.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [as_mapping(part) for part in value]
    if isinstance(value, Threat):
        if any(isinstance(bound, Tensor) for bound in value.bounds or ()):
            raise NotExpressible("bounds that are tensors")
        bounds = None if value.bounds is None else list(value.bounds)
        return {"norm": value.name, "eps": value.eps, "bounds": bounds}
    kind = "term" if isinstance(value, Term) else "point" if isinstance(value, Point) else None
    name = None if kind is None else name_of(kind, type(value))
    if kind is None or name is None or not dataclasses.is_dataclass(value):
        raise NotExpressible(f"a {type(value).__name__}")
    options = {option: as_mapping(getattr(value, option)) for option in options_of(type(value))}
    return {kind: name, **options}


def built(mapping: dict[str, Any]) -> Any:
    """What a recipe builds from such a mapping.

    Raises:
        ValueError: the recipe is refused.
    """
    from robustreg.config.components import KEYS, Builder, Invalid
    from robustreg.config.problems import Problems

    word = next(word for word in KEYS if word in mapping)
    problems = Problems("the recipe")
    options = {key: value for key, value in mapping.items() if key != word}
    try:
        return Builder(None, problems).component(KEYS[word], mapping[word], options, ())
    except Invalid as error:
        raise ValueError("; ".join(problems.sentences)) from error
