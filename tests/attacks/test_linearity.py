"""Points between points, and the point where the loss is least linear."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustreg as rr
from robustreg import numerics
from robustreg.attacks import Between, LeastLinear
from robustreg.points import draw_per_sample
from robustreg.probe import Probe
from robustreg.streams import Stream

T = rr.Threat("linf", 0.1)


def gap(net: nn.Module, z: Tensor, x: Tensor, y: Tensor) -> Tensor:
    u = x.clone().requires_grad_()
    loss = numerics.cross_entropy(net(u), y)
    (g,) = torch.autograd.grad(loss.sum(), u)
    return (numerics.cross_entropy(net(z), y) - loss - ((z - x) * g).flatten(1).sum(1)).abs().detach()


def test_between_takes_a_share_of_its_own_for_every_sample(relu_net: nn.Module, batch: Any) -> None:
    point = Between(rr.Clean(), rr.FGSM(T))
    probe = Probe(relu_net, *batch, stream=Stream(0))
    t = probe.noise(point)
    assert t.shape == (6, 1, 1, 1)
    assert t.unique().numel() == 6
    assert ((t >= 0) & (t < 1)).all()
    expected = torch.lerp(batch[0], probe.at(rr.FGSM(T)), t)
    torch.testing.assert_close(probe.at(point), expected, rtol=0, atol=1e-7)
    draws = draw_per_sample(Between(rr.Uniform(T), rr.Uniform(T, 1)), batch[0], range(6))
    assert sorted(d.shape[1:].numel() for d in draws.values()) == [1, 16, 16]


def test_the_search_finds_more_than_noise_and_never_leaves_the_threat(
    smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    threat = rr.Threat("linf", 0.3)
    g = torch.Generator().manual_seed(0)
    start = rr.Uniform(threat)(smooth_net, x, generator=g)
    noise = {rr.Uniform(threat): start - x}
    found = LeastLinear(threat, steps=10)(smooth_net, x, y, noise=noise)
    assert threat.contains(found, x).all()
    assert (gap(smooth_net, found, x, y) > gap(smooth_net, start, x, y)).all()
    brute = torch.stack(
        [gap(smooth_net, rr.Uniform(threat)(smooth_net, x, generator=g), x, y) for _ in range(200)]
    )
    assert (gap(smooth_net, found, x, y) > brute.max(0).values).double().mean() > 0.8


def test_it_follows_a_loss_that_falls_below_its_tangent() -> None:
    # L = -u^2: below its tangent everywhere, and furthest at the ends of the interval
    def net(u: Tensor) -> Tensor:
        return u.square()

    x, y = torch.tensor([[0.5], [0.5]]).double(), torch.tensor([0, 0])
    start = {rr.Uniform(T): torch.tensor([[0.01], [-0.01]]).double()}
    found = LeastLinear(T, steps=5, loss=lambda z, y: -z[:, 0])(net, x, y, noise=start)
    assert found.flatten().tolist() == pytest.approx([0.6, 0.4], abs=1e-12)


def test_in_training_it_shares_the_clean_forward(restless_net: nn.Module, batch: Any) -> None:
    objective = rr.CrossEntropy() + rr.LossAt(LeastLinear(T, 3, mode="batch"))
    plan = objective.plan((1, 4, 4), 3)
    # clean, three steps, and the loss at the end; a gradient for each step and one at the sample
    assert (plan.forwards, plan.input_backwards) == (5, 4)
    assert objective(restless_net, *batch).isfinite()


def test_zero_gradients_do_no_harm(batch: Any) -> None:
    dead = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    nn.init.zeros_(dead[1].weight)
    found = LeastLinear(T)(dead, *batch)
    assert found.isfinite().all()
    assert T.contains(found, batch[0]).all()


def test_bad_rules_are_refused() -> None:
    with pytest.raises(ValueError, match="steps >= 1, got 0"):
        LeastLinear(T, steps=0)
    with pytest.raises(ValueError, match="step_size must be positive, got -1"):
        LeastLinear(T, step_size=-1)
