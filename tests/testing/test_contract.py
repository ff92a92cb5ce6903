"""Every term and every point that the library registers keeps the contract of ``robustreg.testing``.

A component is tried as its defaults make it, with what has no default filled in, and in the variants of the tables
here. A new one is covered without a line in this file, unless it needs something that ``example`` does not know.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustreg as rr
from robustreg import penalties, testing
from robustreg.attacks import Between, LargestGradient, LeastLinear, Stack
from robustreg.attacks.guided import Guided
from robustreg.registry import _registered, components

LINF, L2, L1 = rr.Threat("linf", 0.1), rr.Threat("l2", 0.3), rr.Threat("l1", 0.8)
PGD = rr.PGD(LINF, 2)


class Teacher(nn.Module):
    """A fixed network for samples of any shape."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 4), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).mean(1, keepdim=True) * self.weight + self.weight.flip(0)


FILLED: dict[str, Any] = {
    "adversary": PGD,
    "stack": Stack((rr.Clean(), rr.FGSM(LINF))),
    "teacher": Teacher(),
    "points": (rr.Clean(), rr.FGSM(LINF)),
    "start": rr.Clean(),
    "end": rr.FGSM(LINF),
    "std": 0.1,
    "share": rr.Ramp(0.0, 1.0),
    "until": (0.4,),
}
SHORT = {"steps": 3, "binary_search_steps": 2, "queries": 5, "iterations": 2, "restarts": 1, "targets": 2}
"""What a search is given in place of a longer default: the contract does not depend on how long it searches."""


def example(component: Callable[..., Any], threat: rr.Threat = LINF) -> Any:
    """The component with its defaults, what has none filled in, searches short; under l2 if it refuses l_inf."""
    try:
        return component(**options(component, threat))
    except ValueError:
        if threat == L2:
            raise
        return example(component, L2)


def options(component: Callable[..., Any], threat: rr.Threat) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    hints = typing.get_type_hints(component.__init__ if inspect.isclass(component) else component)
    for name, parameter in inspect.signature(component).parameters.items():
        default = parameter.default
        if default is inspect.Parameter.empty or (default is None and name in ("threat", "adversary")):
            chosen[name] = threat if name == "threat" else filled(name, hints.get(name))
        elif isinstance(default, int) and default > SHORT.get(name, default):
            chosen[name] = SHORT[name]
    return chosen


def filled(name: str, hint: Any) -> Any:
    """What the table has, or an example of the point that is asked for."""
    if inspect.isclass(hint) and issubclass(hint, rr.Point) and not isinstance(FILLED.get(name), hint):
        return PGD if hint is rr.Point else example(hint)
    return FILLED[name]


def registered(kind: str) -> dict[str, Callable[..., Any]]:
    """The library's own components of a kind."""
    return {name: made for name, made in components(kind).items() if name not in _registered[kind]}


TERMS: dict[str, list[rr.Term]] = {
    "anchored_cross_lipschitz": [
        rr.AnchoredCrossLipschitz("probability", floor=0.1),
        rr.AnchoredCrossLipschitz(projections=2),
    ],
    "class_weighted_gap": [penalties.ClassWeightedGap(PGD, refresh=2)],
    "consistency": [
        *(
            rr.Consistency(rr.PGD(LINF, 1, loss="kl"), name)
            for name in ("js", "squared_probabilities", "logit_variance", "nuclear")
        ),
        rr.Consistency(rr.Virtual(L2), detach_reference=True, reference_mode="eval"),
        rr.Consistency(rr.PGD(LINF, 1, loss=Guided("squared_probabilities", odd=True), mode="batch")),
        rr.Consistency(rr.Uniform(LINF), "mean_squared_logits", joint=True),
    ],
    "cross_entropy": [rr.CrossEntropy(at=PGD, smoothing=0.1), rr.CrossEntropy(mode="eval")],
    "cross_lipschitz": [rr.CrossLipschitz(projections=2)],
    "curvature": [
        rr.Curvature(direction="gradient", squared=False, mode="train"),
        rr.Curvature(end=rr.Uniform(L2)),
    ],
    "elle": [rr.ELLE(L2, joint=False, clip="box")],
    "energy": [
        rr.Energy(L2, "ball", power=2, samples=2),
        rr.Energy(L2, "worst", divergence="kl"),
        rr.Energy(L2, "segment", divergence="kl", estimator="central"),
    ],
    "fisher_trace": [rr.FisherTrace(samples=None)],
    "grad_align": [rr.GradAlign(LINF, detach="neither", through_clamp=True, mode="eval")],
    "gradient_norm": [
        rr.GradientNorm(L2, squared=True),
        rr.GradientNorm(L1, loss="margin", at=rr.Uniform(L1)),
        rr.GradientNorm(LINF, estimator="forward"),
        rr.GradientNorm(L2, estimator="central", mode="eval"),
    ],
    "jacobian_norm": [
        rr.JacobianNorm(projections=2, squared=False),
        rr.JacobianNorm(norm="spectral", iterations=2),
    ],
    "loss_at": [
        rr.LossAt(rr.Uniform(LINF), "kl"),
        rr.LossAt(PGD, "kl"),
        rr.LossAt(rr.FGSM(L2), "dlr", mode="batch"),
    ],
    "perturbed": [rr.Perturbed(L2, same_dropout=True), rr.Perturbed(L1, clip="threat", find="eval")],
    "sat_r1": [rr.SatR1(LINF, 2, samples=None)],
    "sat_r2": [rr.SatR2(LINF, joint=False, budget="eps_minus_alpha")],
    "weighted": [
        rr.weighted(rr.GradientNorm(L2), by=rr.Vulnerability(rr.FGSM(LINF))),
        rr.weighted(rr.Consistency(PGD), by=rr.Confidence(), detach=True),
    ],
}
"""Variants beside the defaults."""

EXACT = {
    "cross_entropy",
    "gradient_norm",
    "jacobian_norm",
    "cross_lipschitz",
    "boosted_cross_entropy",
    "confidence",
}
"""Terms whose defaults hold nothing constant, so that the gradient is the derivative of the value."""

POINTS: dict[str, list[rr.Point]] = {
    "pgd": [
        rr.PGD(L2, 2, restarts=2),
        rr.PGD(L1, 2, loss="margin", decay="cosine"),
        rr.PGD(LINF, 2, loss="kl"),
        rr.PGD(LINF, 2, mode="batch", early_exit=False),
        rr.PGD(rr.Threat("l3", 0.2), 2, start=rr.Steepest(L2, start=rr.Uniform(L2))),
    ],
    "steepest": [
        rr.Steepest(L1, start=rr.Uniform(L1), clip="threat"),
        rr.Steepest(L2, mode="batch", clip="box"),
    ],
    "uniform": [rr.Uniform(L2, scale=2.0), rr.Uniform(L1, clip="none")],
    "virtual": [rr.Virtual(L2, iterations=2, clip="threat")],
    "largest_gradient": [LargestGradient(L2, start=rr.Uniform(L2), clip="threat")],
    "least_linear": [LeastLinear(L2, 2, mode="batch")],
    "multi_grad": [rr.MultiGrad(L2, 3, agree=2)],
    "between": [Between(rr.Uniform(LINF), rr.Uniform(LINF, number=1))],
    "carlini_wagner": [rr.CarliniWagner(L2, 3, 2)],
    "deep_fool": [rr.DeepFool(L2, 2)],
    "fab": [rr.FAB(L1, 2, restarts=2, targets=1), rr.FAB(L2, 2, targets=None)],
    "square": [rr.Square(L2, 4), rr.Square(L1, 4, restarts=2)],
    "along": [rr.Along(rr.Clean(), PGD, 2.0)],
}

CLIMB = {"fgsm", "steepest", "pgd", "ifgsm", "multi_grad", "zero_grad"}
"""Points whose defaults end where the mean loss is not below that at the samples."""

# -- what a component does not keep, on purpose ------------------------------------------------------------------------

OF_THE_BATCH = "a quantity of the whole batch"
EXEMPT: dict[str, dict[str, str]] = {
    "edge_alignment": {
        "batch_split": "its root mean squares are those of the whole batch, as in the authors' code"
    },
    "geometry": {"trains": "a weight for other terms, and a constant"},
    "grown": dict.fromkeys(("noise", "permutation"), "the size of its random start is that of the moment"),
    "lp_noise": {"inside": "where a gradient is taken, in no box"},
    "class_start": {
        "noise": "one share of noise and one sign for the whole batch, which are no sample's draw"
    },
    "pert_align": {"trains": "made to be logged"},
    "sat_r1": {"permutation": "made for the last labelled sample, as in the authors' code"},
    "stack": dict.fromkeys(
        ("result", "shapes", "dtypes", "constant_network", "fooled", "permutation"),
        "k B rows: it is no attack, but several points for one forward",
    ),
}


def exempt(name: str) -> set[str]:
    return set(EXEMPT.get(name, {}))


def examples(kind: str, variants: dict[str, Any]) -> Iterator[tuple[str, Any, bool]]:
    """Name, instance, and whether it is the default one; None in place of an instance that cannot be made."""
    for name, component in registered(kind).items():
        try:
            made = example(component)
        except (TypeError, ValueError, KeyError):
            made = None
        yield name, made, True
    for name, others in variants.items():
        yield from ((name, other, False) for other in others)


ALL_TERMS = list(examples("term", TERMS))
ALL_POINTS = list(examples("point", POINTS))


def parameters(
    every: list[tuple[str, Any, bool]], checks: Callable[..., Iterator[testing.Check]]
) -> list[Any]:
    found, numbers = [], dict.fromkeys((name for name, _, _ in every), 0)
    for name, made, default in every:
        if made is not None:
            number = "" if default else f"#{numbers[name]}"
            found += [
                pytest.param(check, id=f"{name}{number}-{check.name}")
                for check in checks(name, made, default)
            ]
        numbers[name] += 1
    return found


def checks_of_term(name: str, term: rr.Term, default: bool) -> Iterator[testing.Check]:
    return testing.term_checks(term, exact_gradient=default and name in EXACT, skip=exempt(name))


def checks_of_point(name: str, point: rr.Point, default: bool) -> Iterator[testing.Check]:
    return testing.attack_checks(point, climbs=default and name in CLIMB, skip=exempt(name))


@pytest.mark.parametrize("check", parameters(ALL_TERMS, checks_of_term))
def test_terms_keep_the_contract(check: testing.Check) -> None:
    check()


@pytest.mark.parametrize("check", parameters(ALL_POINTS, checks_of_point))
def test_points_keep_the_contract(check: testing.Check) -> None:
    check()


@pytest.mark.parametrize(("kind", "every"), [("term", ALL_TERMS), ("point", ALL_POINTS)])
def test_every_registered_component_is_tried(kind: str, every: list[tuple[str, Any, bool]]) -> None:
    tried = {name for name, made, _ in every if made is not None}
    missing = sorted(set(registered(kind)) - tried)
    assert not missing, f"no instance of {', '.join(missing)}: say in FILLED what it needs"


@pytest.mark.parametrize(
    ("name", "check"), [(name, check) for name, some in EXEMPT.items() for check in some]
)
def test_an_exemption_is_needed(name: str, check: str) -> None:
    """What is exempt is really broken: an exemption that has become idle is to be deleted."""
    broken = 0
    for other, made, _ in ALL_TERMS + ALL_POINTS:
        if other == name:
            checks = testing.term_checks(made) if isinstance(made, rr.Term) else testing.attack_checks(made)
            try:
                next(c for c in checks if c.name == check)()
            except testing.ContractError:
                broken += 1
    assert broken, f"{name} keeps {check} after all"


def test_two_processes_agree_on_every_term() -> None:
    testing.check_distributed([made for _, made, _ in ALL_TERMS if made is not None])
