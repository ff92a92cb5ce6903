"""SORA's step: its length, the point itself, and what it remembers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import robustreg as rr
from robustreg.attacks import SoraStep
from robustreg.attacks.adaptive_step import StepLinearity
from robustreg.streams import Stream

T = rr.Threat("linf", 0.1)


def with_mean(mean: float | None, **options: Any) -> SoraStep:
    step = SoraStep(T, **options)
    step.memory.mean = mean
    return step


def drawn(point: rr.Point, x: Tensor, step: int = 0) -> Tensor:
    """The random numbers of a point in a probe of seed 0."""
    return point.draw(x, Stream(0, step).generator(x.device, "draw", point.key))


def located(point: rr.Point, net: nn.Module, x: Tensor, y: Tensor, step: int = 0) -> Tensor:
    return rr.Probe(net, x, y, stream=Stream(0, step)).at(point)


@pytest.mark.parametrize(
    ("mean", "options", "length"),
    [
        (None, {}, 0.2),  # r_0 = 0.99 is above 0.98: the whole 2 eps
        (0.98, {}, 0.2),
        (0.90, {}, 0.04),  # 0.4 eps
        (0.50, {}, 0.008),  # 0.08 eps
        (-1.0, {}, 0.002),
        (1.0, {}, 0.2),
        (0.90, {"absolute": True}, 0.2),  # 0.02 / 0.1, in pixels
        (0.50, {"absolute": True}, 0.04),
        (None, {"initial": 0.8}, 0.02),
        (0.90, {"largest": 1.0, "tolerance": 0.05}, 0.05),
        (0.90, {"tolerance": 0.0}, 0.0),
    ],
)
def test_the_length_follows_the_linearity(mean: float | None, options: Any, length: float) -> None:
    assert with_mean(mean, **options).length() == pytest.approx(length, rel=1e-12)


@pytest.mark.parametrize("mean", [None, 0.9])
def test_the_point_is_a_random_share_of_a_sign_step_from_uniform_noise(
    mean: float | None, smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    step = with_mean(mean)
    start = (x + drawn(rr.Uniform(T), x)).clamp(0, 1).requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(smooth_net(start), y), start)
    expected = (start.detach() + step.length() * drawn(step, x) * g.sign()).clamp(0, 1)
    torch.testing.assert_close(located(step, smooth_net, x, y), expected, rtol=0, atol=1e-15)
    assert 0 <= drawn(step, x).min() < drawn(step, x).max() < 1


def test_it_leaves_the_ball_and_stays_in_the_box(relu_net: nn.Module, batch: Any) -> None:
    x, y = (t.repeat(20, *[1] * (t.ndim - 1)) for t in batch)
    x = (x - 0.1).clamp(0, 1)
    far = located(SoraStep(T), relu_net, x, y)
    assert 0.2 < (far - x).abs().max() <= 0.3
    assert far.min() >= 0
    assert far.max() <= 1
    assert T.contains(located(SoraStep(T, clip="threat"), relu_net, x, y), x).all()


def test_in_l2_the_step_goes_along_the_normalised_gradient(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    threat = rr.Threat("l2", 0.3, None)
    step = SoraStep(threat)
    start = (x + drawn(rr.Uniform(threat), x)).requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(smooth_net(start), y), start)
    unit = g / g.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    expected = start.detach() + 0.6 * drawn(step, x) * unit
    torch.testing.assert_close(located(step, smooth_net, x, y), expected, rtol=0, atol=1e-15)


def test_another_number_is_another_draw_and_another_start_is_used(
    smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    one, other = SoraStep(T, start=rr.Clean()), SoraStep(T, start=rr.Clean(), number=1)
    assert not torch.equal(drawn(one, x), drawn(other, x))
    u = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(smooth_net(u), y), u)
    torch.testing.assert_close(
        located(one, smooth_net, x, y), (x + 0.2 * drawn(one, x) * g.sign()).clamp(0, 1), rtol=0, atol=1e-15
    )


def test_as_an_attack_it_changes_nothing_and_draws_in_float32(smooth_net: nn.Module, batch: Any) -> None:
    step = SoraStep(T)
    found = step(smooth_net.float(), *batch)
    assert found.dtype == torch.float32
    assert step.memory.mean is None
    assert drawn(step, batch[0].bfloat16()).dtype == torch.float32


def test_the_running_mean() -> None:
    memory = StepLinearity()
    memory.observe(0.5, 0.99, 0.05)
    assert memory.mean == pytest.approx(0.95 * 0.99 + 0.05 * 0.5)
    memory.observe(-7.0, 0.99, 0.05)  # clipped to -1
    assert memory.mean == pytest.approx(0.95 * (0.95 * 0.99 + 0.05 * 0.5) - 0.05)
    before = memory.mean
    for nonsense in (math.nan, math.inf, -math.inf):
        memory.observe(nonsense, 0.99, 0.05)
        assert memory.mean == before
    copy = StepLinearity()
    copy.load_state_dict(memory.state_dict())
    assert copy.mean == before
    copy.load_state_dict({})
    assert copy.mean is None
    assert copy.state_dict() == {}


def test_under_another_threat_it_remembers_the_same() -> None:
    step = SoraStep(T)
    other = step.with_threat(T.with_eps(0.2))
    assert other.threat.eps == 0.2
    assert other.memory is step.memory
    assert SoraStep(T) != SoraStep(T)  # another memory
    assert SoraStep(T).key == SoraStep(T).key


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"largest": -1.0}, "largest and tolerance must be >= 0"),
        ({"tolerance": math.nan}, "largest and tolerance must be >= 0"),
        ({"initial": 1.5}, "initial is a linearity"),
        ({"rate": 2.0}, "rate is the share of a new step"),
        ({"clip": "ball"}, "clip must be one of"),
        ({"loss": "cross"}, "loss must be one of"),
    ],
)
def test_bad_options_are_refused(options: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        SoraStep(T, **options)
