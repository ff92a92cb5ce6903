"""From items such as `{term: gradient_norm, squared: true}` to objects, by name and checked arguments."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, UnionType
from typing import Any, NoReturn

from robustreg.registry import KINDS, UnknownName, closest, components, lookup, names, options_of, suggestion

from .problems import KeyPath, Problems

# The key that says what an item is, and the kind it names. `attack` and `point` are two words for one thing.
KEYS = {"term": "term", "point": "point", "attack": "point"}


NOTHING: Mapping[str, str] = MappingProxyType({})


class Invalid(Exception):
    """Something inside this item is wrong; the reason is already noted."""


class Builder:
    """Builds components; notes every problem with its key and goes on, so that all are told at once."""

    def __init__(self, threat: Any, problems: Problems) -> None:
        self.threat = threat
        self.problems = problems
        self.network: Callable[[dict[str, Any], KeyPath], Any] = _stand_in  # what another run has trained

    def component(self, kind: str, name: Any, options: dict[str, Any], path: KeyPath) -> Any:
        """The component `name(**options)`."""
        factory = self.factory(kind, name, path)
        keywords = self.keywords(factory, name, options, path)
        try:
            return factory(**keywords)
        except (ValueError, TypeError) as error:
            self.problems.add(path, f"({name}): {_sentence(error)}")
            raise Invalid from error

    def factory(self, kind: str, name: Any, path: KeyPath) -> Callable[..., Any]:
        """The registered class or function, or a noted problem."""
        if not isinstance(name, str):
            self.refuse(path, f"should name a {KINDS[kind].title}, but is {name!r}")
        try:
            return lookup(kind, name)
        except UnknownName as error:
            self.problems.add(path, str(error).replace("unknown", "names an unknown", 1))
            raise Invalid from error

    def keywords(
        self,
        factory: Callable[..., Any],
        name: str,
        options: dict[str, Any],
        path: KeyPath,
        supplied: Mapping[str, str] = NOTHING,
        also: Sequence[str] = (),
    ) -> dict[str, Any]:
        """The options, checked against the signature of `factory` and built, as keyword arguments.

        Args:
            factory: the component's class or function.
            name: its name, for messages.
            options: as the recipe writes them.
            path: of the section they stand in.
            supplied: parameters that the run supplies, each with the sentence that says from where.
            also: options that are taken beside those of the signature.
        """
        parameters = options_of(factory)
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        takes = [n for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        allowed = [key for key in (*takes, *also) if key not in supplied]
        hints = _hints(factory)
        built: dict[str, Any] = {}
        failed = False
        for key, value in options.items():
            try:
                if key in supplied:
                    self.refuse((*path, key), f"is not set here: {supplied[key]}")
                if key not in allowed and not open_ended:
                    self.refuse((*path, key), f"is not an option of {name}{suggestion(key, allowed)}")
                built[key] = self.value(key, value, hints.get(key, Any), (*path, key))
            except Invalid:
                failed = True
        if "threat" in allowed and "threat" not in options and self.threat is not None:
            built["threat"] = self.threat
        missing = [k for k in allowed if k in parameters and parameters[k].default is inspect.Parameter.empty]
        for key in missing:
            if key not in built and key not in options:
                self.problems.add(path, f"({name}) {_needs(key)}")
                failed = True
        if failed:
            raise Invalid
        return built

    def refuse(self, path: KeyPath, sentence: str) -> NoReturn:
        """Note a problem and give the item up."""
        self.problems.add(path, sentence)
        raise Invalid

    def value(self, key: str, value: Any, hint: Any, path: KeyPath) -> Any:
        """One argument: a threat, a nested component, a list of them, or a plain value of the right type."""
        if key == "threat" and isinstance(value, dict):
            return self.make_threat(value, path)
        if isinstance(value, dict):
            for word, kind in KEYS.items():
                if word in value:
                    options = {k: v for k, v in value.items() if k != word}
                    return self.component(kind, value[word], options, path)
            if set(value) == {"threat"} and isinstance(value["threat"], dict):
                return self.make_threat(value["threat"], (*path, "threat"))
        if _takes_weight(hint):
            return self.weight(value, path)
        if _takes_network(hint) and value is not None:
            return self.network_of(value, path)
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            return [self.value(key, item, Any, (*path, index)) for index, item in enumerate(value)]
        wanted = _kind_of(hint)
        if wanted is not None and isinstance(value, str):  # `adversary: pgd` is short for `{point: pgd}`
            return self.component(wanted, value, {}, path)
        reason = _mismatch(value, hint)
        if reason is not None:
            self.refuse(path, reason)
        if type(value) is int and float in _options(hint) and int not in _options(hint):
            return float(value)  # `scale: 1` and `scale: 1.0` are the same point
        return tuple(value) if isinstance(value, list) else value

    def weight(self, value: Any, path: KeyPath) -> Any:
        """A number, or a schedule such as `{ramp: [0, 1, 0.5]}` or `{cosine: {start: 0, end: 1}}`."""
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, dict) and len(value) == 1:
            (name, arguments), *_ = value.items()
            factory = self.factory("weight", name, path)
            if isinstance(arguments, list):
                arguments = self.by_position(factory, name, arguments, (*path, name))
            if isinstance(arguments, dict):
                return self.component("weight", name, arguments, (*path, name))
        known = ", ".join(f"{{{name}: [...]}}" for name in names("weight"))
        return self.refuse(path, f"should be a number or a schedule ({known}), but is {value!r}")

    def network_of(self, value: Any, path: KeyPath) -> Any:
        """A network written as `{run: FOLDER}`, that of a run, or `{recipe: NAME}`, which is trained first."""
        given = value if isinstance(value, dict) else {}
        word = next((word for word in ("run", "recipe") if isinstance(given.get(word), str)), None)
        if word is None or (word == "run" and len(given) > 1):
            said = "`{recipe: NAME}` to train it first or `{run: FOLDER}` of its run"
            self.refuse(path, f"should be a trained network, {said}, but is {value!r}")
        return self.network(given, (*path, word))

    def attack(self, spec: str | dict[str, Any], path: KeyPath) -> Any:
        """A point written as `pgd` or `{attack: pgd, steps: 20}`."""
        if isinstance(spec, str):
            return self.component("point", spec, {}, path)
        word = next((word for word in ("attack", "point") if word in spec), None)
        if word is None:
            self.refuse(path, f"should be an attack's name or `{{attack: name, ...}}`, but is {spec!r}")
        return self.component("point", spec[word], {k: v for k, v in spec.items() if k != word}, path)

    def nearest(self, spec: str | dict[str, Any], path: KeyPath) -> Any:
        """An attack of minimal norm, written as any attack."""
        from robustreg.attacks import MinimalNorm

        attack = self.attack(spec, path)
        if not isinstance(attack, MinimalNorm):
            known = sorted(name for name, made in components("point").items() if _is_a(made, MinimalNorm))
            self.refuse(path, f"should be an attack of minimal norm ({', '.join(known)}), but is {spec!r}")
        return attack

    def by_position(
        self, factory: Callable[..., Any], name: str, values: list[Any], path: KeyPath
    ) -> dict[str, Any]:
        """`[0, 1, 0.5]` as keyword arguments of `factory`, in the order of its parameters."""
        order = list(options_of(factory))
        if len(values) > len(order):
            known = ", ".join(order)
            self.refuse(path, f"takes at most {len(order)} values ({known}), but has {len(values)}")
        return dict(zip(order, values, strict=False))

    def make_threat(self, value: dict[str, Any], path: KeyPath) -> Any:
        """A `Threat`; what is left out is taken from the recipe's own."""
        from robustreg.threat import Threat

        known = ("norm", "eps", "bounds")
        wrong = [key for key in value if key not in known]
        for key in wrong:
            self.problems.add((*path, key), f"is not a key of a threat{suggestion(str(key), known)}")
        own = {} if self.threat is None else {k: getattr(self.threat, k) for k in known}
        arguments = {**own, **{k: v for k, v in value.items() if k in known}}
        for key in ("norm", "eps"):
            if key not in arguments:
                self.problems.add(path, f"lacks `{key}`")
                wrong.append(key)
        if wrong:
            raise Invalid
        if isinstance(arguments.get("bounds"), list):
            arguments["bounds"] = tuple(arguments["bounds"])
        try:
            return Threat(**arguments)
        except (ValueError, TypeError) as error:
            self.problems.add(path, f"is not a threat: {_sentence(error)}")
            raise Invalid from error


def _is_a(made: Callable[..., Any], base: type) -> bool:
    return inspect.isclass(made) and issubclass(made, base)


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    target: Any = getattr(factory, "func", factory)  # what a partial calls
    target = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(target)
    except (NameError, TypeError, AttributeError):  # names imported for type checkers only
        return {}


def _takes_network(hint: Any) -> bool:
    """Whether a parameter is annotated as an `nn.Module` (or `nn.Module | None`)."""
    from torch import nn

    return any(inspect.isclass(option) and issubclass(option, nn.Module) for option in _options(hint))


def _takes_weight(hint: Any) -> bool:
    """Whether a parameter is annotated as a `Weight`: a number or a function of progress."""
    options = _options(hint)
    return float in options and any(typing.get_origin(option) is Callable for option in options)


def _stand_in(spec: dict[str, Any], path: KeyPath) -> Any:
    """Where a recipe is only checked, nothing is loaded."""
    from torch import nn

    return nn.Identity()


def _kind_of(hint: Any) -> str | None:
    """`"point"` where a parameter is annotated as a `Point` (or `Point | None`), likewise for terms."""
    for option in typing.get_args(hint) or (hint,):
        if inspect.isclass(option):
            for ancestor in option.__mro__:
                if ancestor.__module__.startswith("robustreg.") and ancestor.__name__ in ("Point", "Term"):
                    return ancestor.__name__.lower()
    return None


_PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}


def _mismatch(value: Any, hint: Any) -> str | None:
    """Why a value does not fit an annotation of plain types; None when it fits or cannot be judged here."""
    options = _options(hint)
    choices = [option for option in options if typing.get_origin(option) is typing.Literal]
    literals = [value for choice in choices for value in typing.get_args(choice)]
    plain = [option for option in options if option in _PLAIN]
    if len(plain) + len(choices) != len(options):
        return None
    if value in literals and not isinstance(value, bool):
        return None
    if any(_fits(value, option) for option in plain):
        return None
    if literals and isinstance(value, str):
        near = closest(value, literals)
        known = " or ".join(repr(v) for v in literals)
        return f"should be {known}, but is {value!r}" + (f"; did you mean {near!r}?" if near else "")
    expected = [_PLAIN[o] for o in plain] + [repr(v) for v in literals]
    return f"should be {' or '.join(expected)}, but is {value!r}"


def _fits(value: Any, plain: Any) -> bool:
    if plain is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if plain is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, plain)


def _options(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation itself."""
    is_union = typing.get_origin(hint) in (typing.Union, UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def _needs(key: str) -> str:
    if key == "threat":
        return "needs a threat; give the recipe one, such as `threat: {norm: linf, eps: 0.1}`"
    return f"needs `{key}`"


def _sentence(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
