"""What is wrong with a recipe: every problem with its key, its place and the closest valid name, at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

KeyPath = tuple["str | int", ...]


class RecipeError(ValueError):
    """A recipe which cannot be used. `problems` holds one sentence for each thing to mend."""

    def __init__(self, problems: list[str], title: str = "the recipe") -> None:
        self.problems = problems
        if len(problems) == 1:
            super().__init__(problems[0])
        else:
            lines = "\n".join(f"  - {problem}" for problem in problems)
            super().__init__(f"{title} has {len(problems)} problems:\n{lines}")


def dotted(path: KeyPath) -> str:
    """`("objective", "terms", 1)` -> `objective.terms.1`."""
    return ".".join(str(part) for part in path)


@dataclass
class Problems:
    """Collects problems; knows from which line or override each key of the recipe came."""

    title: str
    places: Mapping[KeyPath, str] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)
    paths: set[KeyPath] = field(default_factory=set)

    def add(self, path: KeyPath, sentence: str) -> None:
        """Note one problem with the key at `path`."""
        self.paths.add(path)
        place = self.place(path)
        where = f"{place}: " if place else ""
        key = f"`{dotted(path)}` " if path else ""
        line = f"{where}{key}{sentence}"
        if line not in self.sentences:
            self.sentences.append(line)

    def within(self, section: str) -> bool:
        """Whether a problem was noted in that section of the recipe."""
        return any(path[:1] == (section,) for path in self.paths)

    def place(self, path: KeyPath) -> str:
        """`file, line 7` or `override a.b=1` for the key, or for the nearest key above it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return self.places.get((), self.title)

    def raise_if_any(self) -> None:
        """Raises `RecipeError` with everything collected so far."""
        if self.sentences:
            raise RecipeError(self.sentences, self.title)
