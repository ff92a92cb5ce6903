"""From plain data to a `Recipe`, with every problem told in one sentence that names the key."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from robustreg.registry import suggestion

from .problems import KeyPath, Problems
from .schema import Recipe

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping of keys",
    "model_type": "a mapping of keys",
    "finite_number": "a finite number",
}


def validate(content: dict[str, Any], problems: Problems) -> Recipe | None:
    """The recipe, or None with the reasons in `problems`."""
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        _explain(error.errors(include_url=False), content, problems)
        return None


def _explain(details: list[ErrorDetails], content: dict[str, Any], problems: Problems) -> None:
    unions: dict[KeyPath, list[str]] = {}
    for detail in details:
        path = _own_path(detail["loc"], content)
        sentence = _sentence(detail, path)
        if path != tuple(detail["loc"]):  # one branch of "text or a mapping": tell the branches together
            unions.setdefault(path, []).append(sentence)
        else:
            problems.add(path, sentence)
    for path, sentences in unions.items():
        expected = [s.removeprefix("should be ").partition(", but ")[0] for s in sentences]
        either = " or ".join(dict.fromkeys(expected))
        problems.add(path, f"should be {either}, but is {_shown(_at(content, path))}")


def _sentence(detail: ErrorDetails, path: KeyPath) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return f"is not a key of {_owner(path[:-1])}{suggestion(str(path[-1]), _fields(path[:-1]))}"
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return str(context.get("error", detail["msg"]))
    if kind == "too_short":
        return "should not be empty"
    if kind == "literal_error":
        return f"should be {context['expected']}, but is {_shown(detail['input'])}"
    if kind == "string_pattern_mismatch":
        return f"should consist of letters, digits, '_', '-' and '.', but is {_shown(detail['input'])}"
    limits = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}
    if kind in limits:
        words = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}[limits[kind]]
        return f"should be {words} {context[limits[kind]]:g}, but is {_shown(detail['input'])}"
    expected = _EXPECTED.get(kind)
    if expected is None:
        return f"is not right: {detail['msg']}, but is {_shown(detail['input'])}"
    return f"should be {expected}, but is {_shown(detail['input'])}"


def _own_path(location: tuple[int | str, ...], content: Any) -> KeyPath:
    """The location without the branch names pydantic adds for unions (`str`, `dict[str,any]`)."""
    here, path = content, []
    for depth, part in enumerate(location):
        missing = depth == len(location) - 1 and isinstance(here, dict)
        if isinstance(here, dict) and (part in here or (missing and not _is_branch(part))):
            here = here.get(part)
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            here = here[part]
        else:
            break
        path.append(part)
    return tuple(path)


def _is_branch(part: int | str) -> bool:
    return str(part).startswith(("dict[", "list[")) or part in ("str", "float", "int", "bool")


def _fields(path: KeyPath) -> list[str]:
    model: type[BaseModel] = Recipe
    for part in path:
        annotation = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        inner = [a for a in _options(annotation) if isinstance(a, type) and issubclass(a, BaseModel)]
        if not inner:
            return []
        model = inner[0]
    return [*model.model_fields, *([] if path else ["extends"])]  # which is gone once it is resolved


def _options(annotation: Any) -> tuple[Any, ...]:
    return getattr(annotation, "__args__", ()) or (annotation,)


def _owner(path: KeyPath) -> str:
    return f"`{'.'.join(map(str, path))}`" if path else "a recipe"


def _at(content: Any, path: KeyPath) -> Any:
    for part in path:
        content = content[part]
    return content


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
