"""Cards: what a method is, where it comes from and what to expect, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Method = TypeVar("Method", bound=Callable[..., object])


@dataclass(frozen=True)
class Setting:
    """Hyperparameters for one data set. ``source`` says who chose them: the paper, its code, or us."""

    data: str
    values: dict[str, object]
    source: str


@dataclass(frozen=True)
class Published:
    """A number somebody published. ``seen`` is True only if it was read in the source, not recalled."""

    what: str
    value: str
    seen: bool
    source: str


@dataclass(frozen=True)
class Compared:
    """A run of the authors' code beside this method: the same networks, batches and random numbers, in float64.

    Attributes:
        code: the repository, and the file where it is not obvious.
        loss: the largest relative difference of the loss.
        gradient: the largest difference of a parameter's gradient, relative to that gradient's largest entry.
        given: what this method was told so that both compute the same.
    """

    code: str
    loss: float
    gradient: float
    given: str = ""

    def __str__(self) -> str:
        given = f" ({self.given})" if self.given else ""
        return f"{self.code}: loss {self.loss:.0e}, gradient {self.gradient:.0e}{given}"


@dataclass(frozen=True)
class Card:
    """One method on one page."""

    name: str
    title: str
    citation: str
    equations: tuple[str, ...]
    settings: tuple[Setting, ...] = ()
    published: tuple[Published, ...] = ()
    changes: tuple[str, ...] = ()
    compared: tuple[Compared, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.title}", "", self.citation, "", "Equations"]
        lines += [f"  {equation}" for equation in self.equations]
        if self.settings:
            lines += ["", "Hyperparameters"]
            for s in self.settings:
                values = ", ".join(f"{k} {v}" for k, v in s.values.items())
                lines.append(f"  {s.data}: {values} ({s.source})")
        if self.published:
            lines += ["", "Published numbers"]
            for p in self.published:
                lines.append(f"  {p.what}: {p.value} ({'seen' if p.seen else 'recalled'}: {p.source})")
        if self.changes:
            lines += ["", "What is ours, and why"]
            lines += [f"  - {change}" for change in self.changes]
        if self.compared:
            lines += ["", "Compared with the authors' code: largest relative difference"]
            lines += [f"  {compared}" for compared in self.compared]
        return "\n".join(lines)


def described_by(card: Card) -> Callable[[Method], Method]:
    """Attach a card to a method; ``card_of(method)`` reads it."""

    def attach(method: Method) -> Method:
        method.card = card  # type: ignore[attr-defined]
        return method

    return attach


def card_of(method: Callable[..., object]) -> Card:
    """The card of a method."""
    card = getattr(method, "card", None)
    if not isinstance(card, Card):
        raise ValueError(f"{getattr(method, '__name__', method)} has no card")
    return card
