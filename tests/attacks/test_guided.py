"""Attacks that look at the clean prediction: what they climb, in which steps, and that they leave nothing behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustreg as rr
from robustreg import discrepancies, numerics
from robustreg.attacks import Guided
from robustreg.penalties import Consistency

T = rr.Threat("linf", 0.1)


def one_step(loss: Any) -> rr.PGD:
    return rr.PGD(T, 1, T.eps, start=rr.Uniform(T), loss=loss, early_exit=False)


def trained_at(net: nn.Module, attack: rr.Point, batch: Any, step: int) -> Tensor:
    """The point that a training step finds."""
    seen: list[Tensor] = []
    handle = net.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0].detach()))
    rr.Objective.of(Consistency(attack))(net, *batch, step=step)
    handle.remove()
    return seen[-1]


def start(net: nn.Module, batch: Any, step: int) -> Tensor:
    return trained_at(net, rr.Uniform(T), batch, step)


@pytest.mark.parametrize("name", ["squared_probabilities", "nuclear", "js"])
def test_it_climbs_the_mean_loss_plus_the_discrepancy(
    name: str, smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    u = start(smooth_net, double_batch, 1).requires_grad_()
    apart = discrepancies.between(name)(smooth_net(x), smooth_net(u)).mean()
    (g,) = torch.autograd.grad(numerics.cross_entropy(smooth_net(u), y).mean() + 1e4 * apart, u)
    expected = T.project(u.detach() + T.eps * g.sign(), x)
    found = trained_at(smooth_net, one_step(Guided(name, 1e4)), double_batch, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)
    plain = trained_at(smooth_net, one_step("ce"), double_batch, 1)
    assert (found != plain).float().mean() > 0.05  # where the discrepancy leads elsewhere


def test_only_odd_steps_are_guided(smooth_net: nn.Module, double_batch: Any) -> None:
    for step in (1, 2, 3, 4):
        found = trained_at(smooth_net, one_step(Guided("nuclear", 50.0, odd=True)), double_batch, step)
        same = trained_at(
            smooth_net, one_step(Guided("nuclear", 50.0) if step % 2 else "ce"), double_batch, step
        )
        torch.testing.assert_close(found, same, rtol=0, atol=0)


def test_kl_alone_is_the_attack_of_trades(restless_net: nn.Module, batch: Any) -> None:
    x, _ = batch
    guided = rr.PGD(T, 3, loss=Guided("kl", loss=None, reference_mode="eval"), early_exit=False)
    known = rr.PGD(T, 3, loss="kl", early_exit=False)
    torch.testing.assert_close(guided(restless_net, x), known(restless_net, x), rtol=0, atol=0)
    assert not guided.reads_labels
    assert rr.PGD(T, 3, loss=Guided("kl")).reads_labels


@pytest.mark.parametrize("loss", [Guided("js", loss=None), Guided("nuclear", 4.0), Guided("kl", loss="kl")])
@pytest.mark.parametrize("restarts", [1, 2])
def test_called_as_an_attack(
    loss: Guided, restarts: int, restless_net: nn.Module, batch: Any, snapshot: Any
) -> None:
    x, y = batch
    before = snapshot(restless_net)
    found = rr.PGD(T, 3, loss=loss, restarts=restarts)(restless_net, x, y if loss.reads_labels else None)
    assert snapshot(restless_net) == before
    assert T.contains(found, x).all()


@pytest.mark.slow
def test_compiled(smooth_net: nn.Module, double_batch: Any) -> None:
    def loss(guided: Guided, compiled: bool) -> float:
        module = rr.ObjectiveModule(smooth_net, rr.CrossEntropy() + Consistency(one_step(guided)), seed=0)
        if compiled:
            module.compile(backend="aot_eager")
        return float(module(*double_batch, step=1).detach())

    guided = Guided("nuclear", 4.0)
    assert loss(guided, True) == pytest.approx(loss(guided, False), abs=1e-14)
    with pytest.raises(Exception, match="alternates with the step's number cannot be compiled"):
        loss(Guided("nuclear", 4.0, odd=True), True)


def test_the_training_forward_is_shared() -> None:
    objective = rr.CrossEntropy() + Consistency(one_step(Guided("kl")))
    assert objective.plan().forwards == 3
    apart = rr.CrossEntropy() + Consistency(one_step(Guided("kl", reference_mode="eval")))
    assert apart.plan().forwards == 4


def test_it_is_a_value() -> None:
    assert Guided("kl", 2) == Guided("kl", 2.0)
    assert one_step(Guided("kl", 2)).key == one_step(Guided("kl", 2.0)).key
    assert one_step(Guided("kl", 2)).key != one_step(Guided("js", 2)).key


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="discrepancy must be one of"):
        Guided("klx")
    with pytest.raises(ValueError, match="loss must be one of"):
        Guided("kl", loss="cee")
    with pytest.raises(ValueError, match="leaves its discrepancy out in even steps needs another"):
        Guided("kl", loss=None, odd=True)
    with pytest.raises(ValueError, match="mode must be one of"):
        Guided("kl", reference_mode="training")  # type: ignore[arg-type]
