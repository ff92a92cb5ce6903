"""Memories: what an objective keeps from step to step.

Terms, points and losses are frozen values, and most of them forget a step when it is over. One that does not (a weight
that adapts, a perturbation per sample, an averaged network) holds a ``Memory`` in a field. Whoever holds the same
memory shares it, an objective saves the memories of all its parts, and they change only after a step was computed:
through ``probe.defer``, never in a rehearsal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any


class Memory:
    """Something remembered from step to step. Compared by identity; saved and loaded with the objective."""

    def content_key(self) -> str:
        """The name of its kind: what is remembered does not name random streams."""
        return type(self).__qualname__

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def state_dict(self) -> dict[str, Any]:
        """Tensors and JSON-able values."""
        raise NotImplementedError

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        raise NotImplementedError


def memories(part: object, path: str = "") -> Iterator[tuple[str, Memory]]:
    """Every memory in a point or a loss, with the path of the fields that leads to it."""
    if isinstance(part, Memory):
        yield path, part
    elif dataclasses.is_dataclass(part) and not isinstance(part, type):
        for f in dataclasses.fields(part):
            yield from memories(getattr(part, f.name), f"{path}.{f.name}" if path else f.name)
    elif isinstance(part, tuple):
        for i, value in enumerate(part):
            yield from memories(value, f"{path}.{i}")
