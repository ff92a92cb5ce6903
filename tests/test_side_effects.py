"""What a step leaves as it found it: flags, gradients, statistics and every global random state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustreg as rr

T = rr.Threat("linf", 0.1)
L2 = rr.Threat("l2", 0.3)

EVERYTHING = (
    rr.CrossEntropy()
    + 0.3 * rr.GradientNorm(T)
    + rr.GradientNorm(L2, estimator="central")
    + rr.Perturbed(L2)
    + rr.CrossEntropy(at=rr.PGD(T, 2, restarts=2))
    + rr.CrossEntropy(at=rr.PGD(T, 2, mode="batch"))
    + 0 * rr.CrossEntropy(at=rr.Gaussian(0.1))
)


def number_of_updates(net: nn.Module) -> list[int]:
    return [
        int(m.num_batches_tracked) for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
    ]


def freeze(net: nn.Module, how: str) -> None:
    if how == "eval":
        net.eval()
    elif how == "mixed":
        net[1].eval()
        net[8].eval()
        net[5].weight.requires_grad_(False)


@pytest.mark.parametrize("how", ["train", "eval", "mixed"])
def test_a_step_changes_nothing_but_the_statistics(
    how: str, restless_net: nn.Module, batch: Any, snapshot: Callable[..., Any]
) -> None:
    freeze(restless_net, how)
    before = snapshot(restless_net, buffers=False)
    data = batch[0].clone()
    loss = EVERYTHING(restless_net, *batch)
    assert snapshot(restless_net, buffers=False) == before
    assert torch.equal(batch[0], data)
    loss.backward()
    after = snapshot(restless_net, buffers=False)
    assert {k: v for k, v in after.items() if k != "grad"} == {k: v for k, v in before.items() if k != "grad"}


@pytest.mark.parametrize(
    ("objective", "updates"),
    [
        (rr.CrossEntropy() + rr.GradientNorm(T), 1),
        (rr.GradientNorm(T) + rr.CrossEntropy(), 1),
        (rr.Objective.of(rr.GradientNorm(T)), 1),
        (rr.CrossEntropy() + rr.GradientNorm(T, estimator="central"), 1),
        (rr.Objective.of(rr.GradientNorm(T, estimator="central")), 0),
        (rr.Objective.of(rr.Perturbed(T)), 1),
        (rr.CrossEntropy() + rr.Perturbed(T), 2),
        (rr.Perturbed(T) + 0 * rr.CrossEntropy(), 1),
        (rr.Objective.of(rr.CrossEntropy(at=rr.PGD(T, 5))), 1),
        (rr.Objective.of(rr.CrossEntropy(at=rr.PGD(T, 5, mode="batch"))), 1),
        (rr.Objective.of(rr.CrossEntropy(at=rr.PGD(T, 5, mode="train"))), 6),
        (rr.Objective.of(rr.CrossEntropy(mode="batch")), 0),
        (rr.Objective.of(rr.CrossEntropy(mode="eval")), 0),
        (rr.CrossEntropy(mode="batch") + rr.CrossEntropy(), 1),
    ],
    ids=str,
)
def test_statistics_are_updated_once_for_each_training_forward(
    objective: rr.Objective, updates: int, restless_net: nn.Module, batch: Any
) -> None:
    for step in (1, 2):
        objective(restless_net, *batch)
        assert number_of_updates(restless_net) == [step * updates] * 2


def test_frozen_layers_are_never_updated(restless_net: nn.Module, batch: Any) -> None:
    restless_net[1].eval()
    EVERYTHING(restless_net, *batch)
    frozen, live = number_of_updates(restless_net)
    assert frozen == 0
    assert live > 0


def test_a_network_in_evaluation_keeps_its_statistics(
    restless_net: nn.Module, batch: Any, snapshot: Callable[..., Any]
) -> None:
    before = snapshot(restless_net.eval())
    EVERYTHING(restless_net, *batch)
    assert snapshot(restless_net) == before


def test_a_plan_touches_nothing(restless_net: nn.Module, snapshot: Callable[..., Any]) -> None:
    before, state = snapshot(restless_net), EVERYTHING.state_dict()
    EVERYTHING.plan()
    assert snapshot(restless_net) == before
    assert EVERYTHING.state_dict() == state


@pytest.mark.parametrize("at", [1, 2, 3, 5, 8, 10])
@pytest.mark.parametrize("how", ["train", "mixed"])
def test_nor_does_a_step_that_breaks_off(
    at: int, how: str, restless_net: nn.Module, batch: Any, snapshot: Callable[..., Any]
) -> None:
    freeze(restless_net, how)
    runs = 0

    def interrupt(module: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal runs
        runs += 1
        if runs == at:
            raise KeyboardInterrupt

    restless_net[7].register_forward_hook(interrupt)  # in the middle of a forward
    before = snapshot(restless_net, buffers=False)
    with pytest.raises(KeyboardInterrupt):
        EVERYTHING(restless_net, *batch)
    assert runs == at
    assert snapshot(restless_net, buffers=False) == before


def test_gradients_that_are_there_stay(restless_net: nn.Module, batch: Any) -> None:
    for p in restless_net.parameters():
        p.grad = torch.ones_like(p)
    EVERYTHING(restless_net, *batch)
    assert all((p.grad == 1).all() for p in restless_net.parameters())


def test_the_module_leaves_the_same_trace_as_the_objective(
    restless_net: nn.Module, batch: Any, snapshot: Callable[..., Any]
) -> None:
    module = rr.ObjectiveModule(restless_net, EVERYTHING, seed=0)
    before = snapshot(restless_net, buffers=False)
    module(*batch)
    assert snapshot(restless_net, buffers=False) == before
    assert all(not v.requires_grad for v in module.values.values())
