"""One YAML file and its dotted overrides as plain data, each key with the place it came from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .problems import KeyPath, RecipeError

# `${threat.eps}`, `${objective.terms[1].weight}`: references to the recipe's own keys and nothing else.
_OWN_KEY = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+|\[[0-9]+\])*\}")
_OVERRIDE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*")

# Sections which may be written as a bare name, and the key which that name then stands for.
SHORTHANDS = {"objective": "method", "data": "name", "model": "name", "optimizer": "name", "schedule": "name"}


def read(path: Path) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """The file's content and `key path -> "file, line n"`.

    Raises:
        RecipeError: no such file, not UTF-8, not YAML, or not a mapping of keys.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise RecipeError([f"cannot read the recipe {path}: {reason}"]) from error
    return parse(text, str(path))


def parse(text: str, title: str) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """As `read`, from the text itself; `title` names it in messages."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise RecipeError([f"{title}: YAML aliases (*name) are not read; write ${{own.key}} instead"])
        # Positions come from the node tree, which builds no object.
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None and not isinstance(node, yaml.MappingNode):
            raise RecipeError([f"{title}: a recipe is a YAML mapping such as `name: ...`, this file is not"])
        places = _positions(node, title)
        # OmegaConf's reader refuses duplicate keys and reads 1e-3 as a number, which plain YAML 1.1 does not.
        content = {} if node is None else OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except yaml.YAMLError as error:
        raise RecipeError([f"{title}{_line_of(error)}: not valid YAML: {_reason(error)}"]) from error
    except OmegaConfBaseException as error:
        raise RecipeError([f"{title}: {_first_line(error)}"]) from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise RecipeError([f"{title}: a recipe's keys are names, but one of them is not"])
    for key, known_as in SHORTHANDS.items():
        if isinstance(content.get(key), str) and "${" not in content[key]:
            content[key] = {known_as: content[key]}
    return {str(key): value for key, value in content.items()}, places


def override(content: dict[str, Any], places: dict[KeyPath, str], assignments: Iterable[str]) -> None:
    """Apply `key.path=value` assignments in place. Values are read as YAML, never evaluated.

    Raises:
        RecipeError: an assignment without `=`, a path through a scalar, or a list index that is not there.
    """
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not _OVERRIDE.fullmatch(name):
            raise RecipeError([f"an override is written key.path=value, not {assignment!r}"])
        place = f"override {assignment}"
        value = _yaml_value(text, place)
        path: KeyPath = tuple(int(part) if part.isdigit() else part for part in name.split("."))
        if len(path) == 1 and isinstance(value, str) and path[0] in SHORTHANDS and "${" not in value:
            value = {SHORTHANDS[str(path[0])]: value}
        _assign(content, path, value, place)
        for stale in [known for known in places if known[: len(path)] == path]:
            del places[stale]
        places[path] = place


def resolve(content: dict[str, Any], places: dict[KeyPath, str], title: str) -> dict[str, Any]:
    """Replace `${own.key}` references; anything else in `${...}` could read or run something and is refused.

    Raises:
        RecipeError: a reference which is not to the recipe's own keys, to a missing key, or to itself.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    found = [
        f"{places.get(path, title)}: {value!r} refers to more than a key of this recipe; "
        "only references such as ${threat.eps} are allowed"
        for path, value in _strings(content)
        if "${" in _OWN_KEY.sub("", value)
    ]
    if found:
        raise RecipeError(found, title)
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(content), resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, RecursionError) as error:
        looped = isinstance(error, RecursionError)
        reason = "a reference leads back to itself" if looped else _first_line(error)
        raise RecipeError([f"{title}: {reason}"]) from error
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def _yaml_value(text: str, place: str) -> Any:
    import yaml
    from omegaconf import OmegaConf

    try:
        read_value = OmegaConf.from_dotlist([f"value={text}"])
    except (yaml.YAMLError, ValueError) as error:
        raise RecipeError([f"{place}: the value is not valid YAML: {_reason(error)}"]) from error
    container = OmegaConf.to_container(read_value, resolve=False)
    assert isinstance(container, dict)
    return container["value"]


def _assign(content: dict[str, Any], path: KeyPath, value: Any, place: str) -> None:
    here: Any = content
    part: Any
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        above = ".".join(map(str, path[:depth]))
        if isinstance(here, list):
            if not isinstance(part, int) or part >= len(here):
                known = f"0 to {len(here) - 1}"
                raise RecipeError([f"{place}: `{above}` is a list, so {part!r} should be one of {known}"])
        elif isinstance(here, dict):
            part = str(part)
        else:
            raise RecipeError([f"{place}: `{above}` is {here!r}, which has no key {part!r}"])
        if last:
            here[part] = value
        else:
            below = here[part] if isinstance(here, list) else here.get(part)
            here[part] = _opened(above, part, below)
            here = here[part]


def _opened(above: str, part: str | int, value: Any) -> Any:
    """A section to put a key into: one that is not there yet, or a component that was only named.

    `objective.terms.1.weight=0.1` works where the recipe says `terms: [cross_entropy, gradient_norm]`.
    """
    if value is None:
        return {}
    if above == "objective.terms" and isinstance(value, str):
        return {"term": value}
    if isinstance(value, str) and (above.split(".")[-1] in ("attacks", "distances") or part == "attack"):
        return {"attack": value}
    return value


def _strings(value: Any, path: KeyPath = ()) -> Iterable[tuple[KeyPath, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _strings(item, (*path, index))


def _positions(node: Any, title: str, path: KeyPath = ()) -> dict[KeyPath, str]:
    import yaml

    places: dict[KeyPath, str] = {path: title} if not path else {}
    if isinstance(node, yaml.MappingNode):
        children = [((*path, str(key.value)), key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = [((*path, index), item, item) for index, item in enumerate(node.value)]
    else:
        children = []
    for below, marked, child in children:
        places[below] = f"{title}, line {marked.start_mark.line + 1}"
        places.update(_positions(child, title, below))
    return places


def _line_of(error: BaseException) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}" if mark is not None else ""


def _reason(error: BaseException) -> str:
    return str(getattr(error, "problem", None) or _first_line(error))


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
