"""A check is a name and a function that raises ``ContractError`` with one sentence."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field


class ContractError(AssertionError):
    """A term or an attack breaks a promise that the rest of the library relies on."""


@dataclass(frozen=True)
class Check:
    """One promise, to be checked by calling it.

    Attributes:
        name: of the promise, ``"side_effects"`` say.
        subject: the name of the term or attack.
        about: what is promised, in one sentence.
    """

    name: str
    subject: str
    about: str
    function: Callable[[], None] = field(repr=False, compare=False)

    def __call__(self) -> None:
        """Check it.

        Raises:
            ContractError: the promise is broken; one sentence says how.
        """
        try:
            self.function()
        except ContractError as error:
            raise ContractError(f"{self} is broken: {error}") from error.__cause__
        except Exception as error:
            raise ContractError(f"{self} is broken: it raised {type(error).__name__}: {error}") from error

    def __str__(self) -> str:
        return f"{self.subject}-{self.name}"


def require(holds: object, sentence: str) -> None:
    """Raise ``ContractError`` unless the promise holds."""
    if not holds:
        raise ContractError(sentence)


def selected(checks: Iterable[Check], skip: Collection[str], known: Collection[str]) -> Iterator[Check]:
    """The checks without those that are skipped by name.

    Raises:
        ValueError: a name that no check has.
    """
    unknown = sorted(set(skip) - set(known))
    if unknown:
        raise ValueError(f"there is no check {', '.join(unknown)}; the checks are {', '.join(known)}")
    return (check for check in checks if check.name not in skip)


def run(subject: str, checks: Iterable[Check]) -> None:
    """Run all checks and raise one ``ContractError`` with every broken promise."""
    broken = []
    for check in checks:
        try:
            check()
        except ContractError as error:
            broken.append(error)
    if len(broken) == 1:
        raise broken[0]
    if broken:
        lines = "\n".join(f"  - {error}" for error in broken)
        raise ContractError(f"{subject} breaks {len(broken)} promises:\n{lines}") from broken[0]
