"""The contract of a term: every check by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial

from robustreg.terms import Term
from robustreg.testing import conduct, identity, samples, values
from robustreg.testing.check import Check, run, selected
from robustreg.testing.networks import LINF, Shape, shape_of
from robustreg.testing.steps import TermCase
from robustreg.threat import Threat

Applies = Callable[[TermCase], bool]

CHECKS: dict[Callable[[TermCase], None], Applies] = {
    values.values: lambda case: True,
    values.trains: lambda case: True,
    values.dtypes: lambda case: True,
    values.devices: lambda case: bool(values.accelerators()),
    values.shapes: lambda case: True,
    values.constant_network: lambda case: True,
    values.huge_logits: lambda case: True,
    values.corners: lambda case: True,
    values.gradient: lambda case: True,
    values.exact_gradient: lambda case: False,  # asked for, see term_checks
    samples.permutation: lambda case: True,
    samples.batch_split: lambda case: True,
    samples.labels: lambda case: True,
    samples.unlabelled: lambda case: "labels" in case.subject.needs,
    samples.index: lambda case: True,
    samples.missing: lambda case: True,
    conduct.side_effects: lambda case: True,
    conduct.interrupted: lambda case: True,
    conduct.statistics: lambda case: True,
    conduct.randomness: lambda case: True,
    conduct.isolation: lambda case: True,
    conduct.plan: lambda case: True,
    identity.value: lambda case: True,
    identity.recipe: identity.has_recipe,
    identity.state: lambda case: True,
}

NAMES = tuple(check.__name__ for check in CHECKS)


def term_checks(
    term: Term,
    *,
    threat: Threat | None = None,
    shape: Shape | None = None,
    classes: int = 4,
    exact_gradient: bool = False,
    skip: Collection[str] = (),
) -> Iterator[Check]:
    """The checks of a term, each a function without arguments that raises ``ContractError``.

    ``pytest.mark.parametrize("check", term_checks(MyPenalty(threat)), ids=str)`` makes each a test. A check that does
    not concern the term is left out: of labels for a term that reads none, of recipes for one that no recipe can name.

    Args:
        term: an instance; it is copied, and left as it is.
        threat: filled in where the term has none; by default one that it holds, or l_inf of radius 0.1.
        shape: of a sample; small images ``(2, 5, 4)`` by default, or what the term's bounds say.
        classes: number of classes.
        exact_gradient: also hold the parameter gradient to the derivative of the value with nothing held constant. It
            is for terms that detach nothing and look at no attack's points.
        skip: names of checks that the term breaks on purpose, as one of the whole batch breaks ``"batch_split"``.

    Raises:
        TypeError: it is not a term.
        ValueError: it lacks an adversary, or ``skip`` has a name that no check has.
    """
    if not isinstance(term, Term):
        raise TypeError(f"expected an instance of a Term, got {term!r}")
    case = TermCase(term, threat or next(term.threats(), LINF), shape or shape_of(term.threats()), classes)
    case.anew().check_needs()
    return selected(_checks(case, exact_gradient), skip, NAMES)


def check_term(
    term: Term,
    *,
    threat: Threat | None = None,
    shape: Shape | None = None,
    classes: int = 4,
    exact_gradient: bool = False,
    skip: Collection[str] = (),
) -> None:
    """Run every check of a term; see ``term_checks`` for the arguments.

    Raises:
        ContractError: with a sentence for each promise that is broken.
    """
    checks = term_checks(
        term, threat=threat, shape=shape, classes=classes, exact_gradient=exact_gradient, skip=skip
    )
    run(term.name, checks)


def _checks(case: TermCase, exact_gradient: bool) -> Iterator[Check]:
    for function, applies in CHECKS.items():
        if applies(case) or (exact_gradient and function is values.exact_gradient):
            about = (function.__doc__ or "").strip()
            yield Check(function.__name__, case.subject.name, about, partial(function, case))
