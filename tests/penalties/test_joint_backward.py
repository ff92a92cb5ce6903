"""Compositions with one backward for input and parameters give the gradients that two backwards would give."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import robustreg as rr
from robustreg import penalties as P
from robustreg.attacks import N_FGSM, RS_FGSM
from robustreg.needs import Needs

LINF, L2 = rr.Threat("linf", 0.08), rr.Threat("l2", 0.4)

POINTS: list[rr.Point] = [
    rr.FGSM(LINF, mode="train"),
    rr.FGSM(L2, mode="train"),
    rr.Steepest(LINF, mode="batch"),
    RS_FGSM(LINF, mode="train"),
    N_FGSM(LINF, mode="train"),
]

TERMS: list[Callable[[rr.Point], rr.Objective]] = [
    lambda at: 0.3 * rr.CrossEntropy(),
    lambda at: 0.2 * rr.CrossEntropy(smoothing=0.1),
    lambda at: 0.5 * P.AbnormalExamples(at, through_loss=True),
    lambda at: 0.4 * P.BoostedCrossEntropy(at),
    lambda at: 0.4 * P.ClassWeightedGap(at),
    lambda at: 0.6 * P.Consistency(at),
    lambda at: 0.6 * P.Consistency(at, "nuclear", joint=True),
    lambda at: 0.3 * P.CrossLipschitz(2),
    lambda at: 0.3 * P.Curvature(mode="train"),
    lambda at: 0.7 * P.ELLE(LINF),
    lambda at: 0.2 * P.Energy(L2),
    lambda at: 0.5 * P.GradAlign(LINF),
    lambda at: 0.3 * P.GradientNorm(LINF),
    lambda at: 0.3 * P.GradientNorm(L2, estimator="forward"),
    lambda at: 0.3 * P.JacobianNorm(1),
    lambda at: 0.4 * P.LinearityGap(LINF, at),
    lambda at: 0.8 * P.Perturbed(L2, same_dropout=True),
    lambda at: 0.2 * P.SatR3(LINF),
    lambda at: 0.5 * rr.weighted(rr.CrossEntropy(at=at), by=rr.Vulnerability(), normalise=True),
    lambda at: 0.0 * rr.LossAt(rr.Clean(), "margin"),
]


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.GELU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(64, 3),
    ]
    return nn.Sequential(*layers).double()


def step(objective: rr.Objective) -> tuple[Tensor, Tensor]:
    """The parameters' gradient, and BatchNorm's statistics after it."""
    g = torch.Generator().manual_seed(1)
    x, y = torch.rand(6, 1, 6, 6, generator=g, dtype=torch.float64), torch.tensor([0, 1, 2, -1, 0, 1])
    net = network()
    found = torch.autograd.grad(objective(net, x, y, progress=0.5, step=1), list(net.parameters()))
    return torch.cat([v.flatten() for v in found]), torch.cat([b.flatten().double() for b in net.buffers()])


def composed(seed: int) -> rr.Objective:
    chosen = random.Random(seed)
    at = chosen.choice(POINTS)
    objective = rr.CrossEntropy() + 0.7 * rr.CrossEntropy(at=at)
    for term in chosen.sample(TERMS, chosen.choice([1, 2])):
        objective = objective + term(at)
    return objective


@pytest.mark.parametrize("seed", range(20))
def test_the_gradients_are_those_of_two_backwards(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found, statistics = step(composed(seed))
    monkeypatch.setattr(Needs, "one_backward", lambda self, key: False)
    expected, same = step(composed(seed))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11 * float(expected.abs().max()))
    torch.testing.assert_close(statistics, same, rtol=0, atol=1e-14)


def test_some_of_them_have_one() -> None:
    joint = [composed(seed).plan().joint_backwards for seed in range(20)]
    assert 4 <= sum(n > 0 for n in joint) < 20
