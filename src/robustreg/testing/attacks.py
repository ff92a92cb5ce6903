"""The contract of an attack: every check by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial

from robustreg.points import Point
from robustreg.registry import snake_case
from robustreg.testing import identity, searches
from robustreg.testing.attack_case import AttackCase, claims
from robustreg.testing.check import Check, run, selected
from robustreg.testing.networks import LINF, Shape, shape_of
from robustreg.testing.values import accelerators
from robustreg.threat import Threat

CHECKS: dict[Callable[[AttackCase], None], Callable[[AttackCase], bool]] = {
    searches.result: lambda case: True,
    searches.inside: lambda case: case.claimed is not None,
    searches.shapes: lambda case: True,
    searches.dtypes: lambda case: True,
    searches.devices: lambda case: bool(accelerators()),
    searches.constant_network: lambda case: True,
    searches.fooled: lambda case: True,
    searches.side_effects: lambda case: True,
    searches.interrupted: lambda case: True,
    searches.randomness: lambda case: True,
    searches.noise: lambda case: True,
    searches.permutation: lambda case: True,
    searches.refills: lambda case: case.subject.refills,
    searches.labels: lambda case: True,
    searches.called: lambda case: case.for_training_only,
    searches.threat: lambda case: any(True for _ in case.subject.threats()),
    searches.climbs: lambda case: False,  # asked for, see attack_checks
    identity.value: lambda case: True,
    identity.recipe: identity.has_recipe,
}

NAMES = tuple(check.__name__ for check in CHECKS)


def attack_checks(
    attack: Point,
    *,
    inside: bool | None = None,
    climbs: bool = False,
    threat: Threat | None = None,
    shape: Shape | None = None,
    classes: int = 4,
    skip: Collection[str] = (),
) -> Iterator[Check]:
    """The checks of an attack or any other point, each a function without arguments that raises ``ContractError``.

    Args:
        attack: an instance; it is copied, and left as it is.
        inside: whether its points lie in ball and box. By default what its field ``clip`` says; without that field a
            point with a threat of its own is held to it, as an evaluation holds it.
        climbs: also require that the mean loss at its points is not below that at the samples.
        threat: for which samples are made; by default one that the attack holds, or l_inf of radius 0.1.
        shape: of a sample; small images ``(2, 5, 4)`` by default, or what the threat's bounds say.
        classes: number of classes.
        skip: names of checks that the attack breaks on purpose.

    Raises:
        TypeError: it is not a point.
        ValueError: a name in ``skip`` that no check has.
    """
    if not isinstance(attack, Point):
        raise TypeError(f"expected an instance of a Point, got {attack!r}")
    ball, box = claims(attack, inside)
    threat = threat or next(attack.threats(), LINF)
    case = AttackCase(attack, threat, shape or shape_of(attack.threats()), classes, ball, box)
    return selected(_checks(case, climbs), skip, NAMES)


def check_attack(
    attack: Point,
    *,
    inside: bool | None = None,
    climbs: bool = False,
    threat: Threat | None = None,
    shape: Shape | None = None,
    classes: int = 4,
    skip: Collection[str] = (),
) -> None:
    """Run every check of an attack; see ``attack_checks`` for the arguments.

    Raises:
        ContractError: with a sentence for each promise that is broken.
    """
    checks = attack_checks(
        attack, inside=inside, climbs=climbs, threat=threat, shape=shape, classes=classes, skip=skip
    )
    run(_name(attack), checks)


def _checks(case: AttackCase, climbs: bool) -> Iterator[Check]:
    for function, applies in CHECKS.items():
        if applies(case) or (climbs and function is searches.climbs):
            about = (function.__doc__ or "").strip()
            yield Check(function.__name__, _name(case.subject), about, partial(function, case))


def _name(attack: Point) -> str:
    return snake_case(type(attack).__name__)
