"""Hold what a computation treats as constant, so that finite differences see the function that autograd sees.

Terms hold things constant on purpose: the coordinates of an attack, a target, a weight. Their parameter gradient is
then not the derivative of their value, but that of their value with the constants held. ``Constants`` writes down, in a
first run, the outputs of every operation that carries no graph, and gives the same outputs in later runs, at other
parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

IN_PLACE = {
    f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor")
}


class Constants:
    """The outputs of a run that carry no graph, in the order of the calls."""

    def __init__(self) -> None:
        self._calls: list[tuple[str, bool, Any]] = []

    def recording(self) -> TorchFunctionMode:
        """A context for the first run."""
        self._calls.clear()
        return _Recording(self._calls)

    def held(self) -> TorchFunctionMode:
        """A context for a later run of the same operations."""
        return _Replaying(self._calls)


class _Recording(TorchFunctionMode):
    def __init__(self, calls: list[tuple[str, bool, Any]]) -> None:
        super().__init__()
        self._calls = calls

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, out = _name(func), func(*args, **(kwargs or {}))
        held = not _changes_something(name) and _without_graph(out)
        self._calls.append((name, held, _copied(out) if held else None))
        return out


class _Replaying(TorchFunctionMode):
    def __init__(self, calls: list[tuple[str, bool, Any]]) -> None:
        super().__init__()
        self._calls = iter(calls)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, held, out = next(self._calls, ("nothing", False, None))
        if name != _name(func):
            raise RuntimeError(f"the same step took another path: {_name(func)} in place of {name}")
        return _copied(out) if held else func(*args, **(kwargs or {}))


def _name(func: Callable[..., Any]) -> str:
    return str(getattr(func, "__name__", func))


def _changes_something(name: str) -> bool:
    """Whether a function is called for what it does to its arguments."""
    return name in IN_PLACE or name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


def _without_graph(out: Any) -> bool:
    if isinstance(out, Tensor):
        return not out.requires_grad
    if isinstance(out, (tuple, list)):
        return len(out) > 0 and all(isinstance(part, Tensor) and not part.requires_grad for part in out)
    return isinstance(out, (bool, int, float))


def _copied(out: Any) -> Any:
    if isinstance(out, Tensor):
        return out.clone()
    return type(out)([part.clone() for part in out]) if isinstance(out, (tuple, list)) else out
