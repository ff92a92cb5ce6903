"""The geometry-aware weight: how many looks of its attack a sample withstood."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustreg as rr
from robustreg.penalties import Consistency, Geometry

T = rr.Threat("linf", 0.3)
ATTACK = rr.PGD(T, 6, 0.05, start=rr.Clean())


def values(term: rr.Term, net: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Tensor:
    return rr.Objective.of(term).detailed(net, x, y, step=0, **options).per_sample[term.name]


@pytest.fixture
def line() -> nn.Module:
    """Two classes, divided at 0.5; a step of 0.05 takes a sample 0.05 nearer."""
    net = nn.Linear(1, 2).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[-1.0], [1.0]]))
        net.bias.copy_(torch.tensor([0.5, -0.5]))
    return net


X = torch.tensor([[0.51], [0.56], [0.61], [0.74], [0.95], [0.4]], dtype=torch.float64)
Y = torch.tensor([1, 1, 1, 1, 1, 1])
KAPPA = [1, 2, 3, 5, 6, 0]  # looks at 0, 1, ..., 5 steps of 0.05 that see class 1


@pytest.mark.parametrize("lam", [-1.0, 0.0, 2.0])
def test_the_weight_by_the_steps_on_a_line(lam: float, line: nn.Module) -> None:
    a = [lam + 5 * (1 - 2 * k / 6) for k in KAPPA]
    forms = {
        "tanh": [(1 + math.tanh(v)) / 2 for v in a],
        "sigmoid": [1 / (1 + math.exp(-v)) for v in a],
        "discrete": [(7 - k) / 7 for k in KAPPA],
    }
    for form, expected in forms.items():
        found = values(Geometry(ATTACK, lam, form), line, X, Y)  # type: ignore[arg-type]
        assert found.tolist() == pytest.approx(expected, abs=1e-15), form


def test_infinity_makes_all_weights_one(line: nn.Module) -> None:
    for form in ("tanh", "sigmoid", "discrete"):
        assert values(Geometry(ATTACK, math.inf, form), line, X, Y).tolist() == [1.0] * 6  # type: ignore[arg-type]


def test_it_costs_no_pass_and_weights_any_term(line: nn.Module) -> None:
    for term in rr.CrossEntropy(at=ATTACK), Consistency(ATTACK):
        weighted = rr.weighted(term, by=Geometry(ATTACK), normalise=True)
        alone, both = rr.Objective.of(term).plan((1,), 2), rr.Objective.of(weighted).plan((1,), 2)
        assert both.relative_cost == alone.relative_cost
        found, weight = values(weighted, line, X, Y), values(Geometry(ATTACK), line, X, Y)
        plain = values(term, line, X, Y)
        torch.testing.assert_close(found, plain * weight / weight.mean(), rtol=0, atol=1e-14)


def test_unlabelled_samples_have_no_weight(line: nn.Module) -> None:
    some = torch.where(torch.arange(6) < 4, Y, -1)
    assert values(Geometry(ATTACK), line, X, some)[4:].tolist() == [0, 0]
    weighted = rr.weighted(rr.CrossEntropy(at=ATTACK), by=Geometry(ATTACK), normalise=True)
    whole = rr.Objective.of(weighted)(line, X, some, step=0)
    torch.testing.assert_close(whole, rr.Objective.of(weighted)(line, X[:4], some[:4], step=0))


def test_a_step_that_looks_twice_counts_once(line: nn.Module) -> None:
    """Points are found at the first weights, and so is how long they took."""
    term = rr.weighted(rr.CrossEntropy(at=ATTACK), by=Geometry(ATTACK))
    module = rr.ObjectiveModule(line, term)
    runs: list[int] = []
    line.register_forward_hook(lambda *_: runs.append(1))
    with module.holding_points():
        module(X, Y, step=0)
        first = len(runs)
        with torch.no_grad():
            line.bias.add_(torch.tensor([0.2, 0.0]))
        module(X, Y, step=0)
    assert (first, len(runs)) == (7, 8)
    plan = rr.Objective.of(term).plan((1,), 2, evaluations=2)
    assert plan.forwards == 8


def test_it_is_a_constant_and_can_be_compiled(smooth_net: nn.Module, double_batch: Any) -> None:
    attack = rr.PGD(rr.Threat("linf", 0.3), 1)
    weighted = rr.weighted(rr.CrossEntropy(at=attack), by=Geometry(attack), normalise=True)
    module = rr.ObjectiveModule(smooth_net, weighted, seed=0)
    plain = module(*double_batch, step=0)
    assert not values(Geometry(attack), smooth_net, *double_batch).requires_grad
    module.compile(backend="eager")
    torch.testing.assert_close(module(*double_batch, step=0), plain, rtol=0, atol=1e-14)
    scheduled = rr.weighted(rr.CrossEntropy(at=attack), by=Geometry(attack, rr.Ramp(1.0, -1.0)))
    module = rr.ObjectiveModule(smooth_net, scheduled)
    module.compile(backend="eager")
    with pytest.raises(RuntimeError, match="changes with the progress of training"):
        module(*double_batch, step=0, progress=0.5)


def test_what_it_cannot_count(line: nn.Module) -> None:
    with pytest.raises(ValueError, match="the term geometry needs an adversary"):
        values(Geometry(), line, X, Y)
    with pytest.raises(ValueError, match="restarts must be 1"):
        Geometry(rr.PGD(T, 2, restarts=2))
    with pytest.raises(ValueError, match="form must be one of tanh, sigmoid, discrete, got 'linear'"):
        Geometry(ATTACK, form="linear")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Uniform takes no steps that could be counted"):
        values(Geometry(rr.Uniform(T)), line, X, Y)
    with pytest.raises(ValueError, match="geometry needs labels"):
        rr.Objective.of(Geometry(rr.PGD(T, loss="kl")))(line, X)
