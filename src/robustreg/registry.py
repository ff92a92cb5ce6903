"""Which names a recipe may use: the library's own components, and those a user registers.

A recipe never names a Python path. It names a component by kind and name, and this module is the allow-list
behind that name: `gradient_norm` is `robustreg.penalties.GradientNorm` because that `Term` is exported there.

    @rr.register("term")
    class LogitSqueezing(rr.Term): ...          # usable in a recipe as `term: logit_squeezing`

Only the standard library is imported here; the components' homes are imported when a name is looked up.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

Component = TypeVar("Component", bound=Callable[..., Any])


class UnknownName(LookupError):
    """A name that is not registered; the message names the closest one that is."""


@dataclass(frozen=True)
class Kind:
    """One kind of component, and where the library's own are found.

    Attributes:
        title: the kind in words, for messages.
        homes: modules whose public names are looked through, or single `"module:Name"` entries.
        base: `"module:Class"`; its subclasses count, and functions that say they return one. Without it every
            function of the homes counts.
        left_out: names that are no components of their own (for `weighted`, recipes write `by:` beside a term).
        catalogue: `"module:TABLE"`, a dictionary of functions, in place of homes.
        maker: `"module:function"`, where the catalogue is only a list of names that one function makes.
    """

    title: str
    homes: tuple[str, ...] = ()
    base: str | None = None
    left_out: tuple[str, ...] = ()
    catalogue: str | None = None
    maker: str | None = None


KINDS: dict[str, Kind] = {
    "term": Kind(
        "term",
        ("robustreg.terms", "robustreg.penalties"),
        "robustreg.terms:Term",
        left_out=("weighted",),
    ),
    "point": Kind("point", ("robustreg.points", "robustreg.attacks"), "robustreg.points:Point"),
    "method": Kind("method", ("robustreg.methods",), "robustreg.objective:Objective"),
    "weight": Kind(
        "weight schedule", tuple(f"robustreg.schedules:{name}" for name in ("Ramp", "Cosine", "Steps"))
    ),
    "model": Kind("model", catalogue="robustreg.models.catalogue:BUILDERS"),
    "data": Kind("data set", catalogue="robustreg.data:NAMES", maker="robustreg.data:load"),
    "optimizer": Kind("optimizer", catalogue="robustreg.training.optim:OPTIMIZERS"),
    "schedule": Kind("learning-rate schedule", catalogue="robustreg.training.schedules:SHAPES"),
}

_registered: dict[str, dict[str, Callable[..., Any]]] = {kind: {} for kind in KINDS}
_found: dict[str, dict[str, Callable[..., Any]]] = {}


def snake_case(name: str) -> str:
    """`GradientNorm` -> `gradient_norm`, `PGD` -> `pgd`, `MLPNet` -> `mlp_net`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def register(kind: str, name: str | None = None) -> Callable[[Component], Component]:
    """Decorator which makes a class or function usable in recipes, by default under its name in snake_case.

    Raises:
        ValueError: unknown kind, a name that is no name, or a name that something else already has.
    """
    if kind not in KINDS:
        raise ValueError(f"register(): unknown kind {kind!r}{suggestion(kind, KINDS)}")

    def decorate(component: Component) -> Component:
        chosen = snake_case(component.__name__) if name is None else name
        if not re.fullmatch(r"[a-z][a-z0-9_]*", chosen):
            raise ValueError(
                f"register({kind!r}): a name consists of lower-case letters, digits and _, not {chosen!r}"
            )
        taken = components(kind).get(chosen)
        # The same definition met again is a module imported twice, such as a notebook cell that is rerun.
        if taken is not None and not _same_definition(taken, component):
            raise ValueError(
                f"register({kind!r}): the name {chosen!r} is taken by {taken.__module__}.{taken.__qualname__}"
            )
        _registered[kind][chosen] = component
        return component

    return decorate


def components(kind: str) -> dict[str, Callable[..., Any]]:
    """Every component of a kind by name: the library's own first, then the registered ones."""
    if kind not in _found:
        _found[kind] = dict(_collect(KINDS[kind]))
    return {**_found[kind], **_registered[kind]}


def names(kind: str) -> list[str]:
    """The names of a kind, sorted."""
    return sorted(components(kind))


def publish(kind: str) -> None:
    """Make the registered components known to the catalogue that builds their kind by name."""
    catalogue = KINDS[kind].catalogue
    if catalogue is not None and KINDS[kind].maker is None:
        _resolve(catalogue).update(_registered[kind])


def lookup(kind: str, name: str) -> Callable[..., Any]:
    """The component of that kind and name.

    Raises:
        UnknownName: in one sentence, with the closest name.
    """
    found = components(kind)
    if name not in found:
        raise UnknownName(f"unknown {KINDS[kind].title} {name!r}{suggestion(name, found)}")
    return found[name]


def options_of(component: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The options of a component: its parameters, but for the ``memory`` that it makes itself."""
    parameters = inspect.signature(component).parameters
    return {name: parameter for name, parameter in parameters.items() if name != "memory"}


def name_of(kind: str, component: object) -> str | None:
    """The name under which a component is registered, or None."""
    return next((name for name, known in components(kind).items() if known is component), None)


def closest(word: str, candidates: Iterable[object]) -> str | None:
    """The candidate most like `word`, or None when nothing is near it."""
    known = {str(c).lower(): str(c) for c in candidates}
    near = difflib.get_close_matches(str(word).lower(), list(known), n=1, cutoff=0.6)
    return known[near[0]] if near else None


def suggestion(word: str, candidates: Iterable[object]) -> str:
    """`"; did you mean 'x'?"`, or the whole list when it is short, or nothing."""
    options = [str(c) for c in candidates]
    near = closest(word, options)
    if near is not None:
        return f"; did you mean {near!r}?"
    return f"; known: {', '.join(sorted(options))}" if 0 < len(options) <= 12 else ""


def _collect(kind: Kind) -> Iterator[tuple[str, Callable[..., Any]]]:
    if kind.catalogue is not None:
        known = _resolve(kind.catalogue)
        for name in known:
            yield name, functools.partial(_resolve(kind.maker), name) if kind.maker else known[name]
    base = _resolve(kind.base) if kind.base else None
    for home in kind.homes:
        if ":" in home:
            component = _resolve(home)
            yield snake_case(component.__name__), component
            continue
        for exported, value in _public(importlib.import_module(home)):
            if _makes(value, base) and snake_case(exported) not in kind.left_out:
                yield snake_case(exported), value


def _public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """What a module offers: its `__all__`, else the public names that it or its submodules define."""
    for name in getattr(module, "__all__", None) or vars(module):
        value = getattr(module, name)
        own = getattr(value, "__module__", None) or ""
        if not name.startswith("_") and (own + ".").startswith(module.__name__ + "."):
            yield name, value


def _makes(value: Any, base: type | None) -> bool:
    """Whether calling `value` makes a `base` (any function will do where there is no base)."""
    if base is None:
        return inspect.isfunction(value)
    if inspect.isclass(value):
        return issubclass(value, base) and value is not base and not inspect.isabstract(value)
    if not inspect.isfunction(value):
        return False
    try:
        made = typing.get_type_hints(value).get("return")
    except NameError:  # annotated with names that only type checkers import
        return False
    return inspect.isclass(made) and issubclass(made, base)


def _resolve(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _same_definition(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    if one is other:
        return True
    return _definition(one) == _definition(other)


def _definition(component: Callable[..., Any]) -> tuple[str | None, str]:
    try:
        place = inspect.getsourcefile(component)
    except TypeError:  # built-ins, partials, and classes typed at a prompt have no source file
        place = getattr(component, "__module__", None)
    return place, getattr(component, "__qualname__", repr(component))
