"""Training on single steps collapses, and a regulariser or the guard prevents it, on the same data and network.

Digits in black and white, so that a network can withstand 0.4 of 1 by telling black from white. Everything is seeded;
the bounds also hold, with a margin, for other seeds of the weights.
"""

from __future__ import annotations

import warnings

import pytest
import torch

import robustreg as rr
from robustreg.data import ArrayData, load
from robustreg.methods import sat_r2
from robustreg.models import strided_conv
from robustreg.training import CatastrophicOverfittingGuard, Trainer
from robustreg.training.optim import build_schedule
from robustreg.training.overfitting import Symptoms, symptoms

THREAT = rr.Threat("linf", 0.4)


def _black_and_white(data: ArrayData) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = data[:]
    return (x > 0.5).float(), y


def _trained(objective, *, guarded: bool = False) -> tuple[Symptoms, CatastrophicOverfittingGuard]:
    """What 240 test digits show after 800 steps; the guard looks at 100 others."""
    splits = load("digits")
    (x, y), (x_test, y_test) = _black_and_white(splits.train), _black_and_white(splits.test)
    action, every = ("roll_back", 25) if guarded else ("warn", 800)
    guard = CatastrophicOverfittingGuard(
        x_test[:100], y_test[:100], THREAT, action, every=every, rescue=50, steps=7, gap=0.15
    )
    net = strided_conv(image_size=8, seed=0)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    schedule = build_schedule("cyclic", optimizer=optimizer, total_steps=800, epochs=1, peak=0.4)
    generator = torch.Generator().manual_seed(0)
    batches = [
        (x[chosen], y[chosen])
        for chosen in (torch.randint(len(x), (64,), generator=generator) for _ in range(800))
    ]
    module = rr.ObjectiveModule(net, objective, seed=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "catastrophic overfitting")
        Trainer(module, optimizer, batches, steps=800, scheduler=schedule, handlers=[guard]).fit()
    return symptoms(net, x_test[100:340], y_test[100:340], THREAT, steps=20), guard


@pytest.fixture(scope="module")
def collapsed() -> Symptoms:
    return _trained(rr.CrossEntropy(at=rr.FGSM(THREAT)))[0]


def test_training_on_single_steps_collapses(collapsed):
    assert collapsed.fgsm > 0.5
    assert collapsed.fgsm - collapsed.pgd > 0.2


def test_a_single_step_regulariser_prevents_it(collapsed):
    found, _ = _trained(sat_r2(THREAT))
    assert found.pgd > collapsed.pgd + 0.15
    assert found.fgsm - found.pgd < 0.15


def test_the_guard_prevents_it(collapsed):
    found, guard = _trained(rr.CrossEntropy(at=rr.FGSM(THREAT)), guarded=True)
    assert guard.acted
    assert found.pgd > collapsed.pgd + 0.1
    assert found.fgsm - found.pgd < 0.2
