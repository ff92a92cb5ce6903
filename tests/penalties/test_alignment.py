"""PertAlign and SORA's measure of linearity: closed forms, gradients, cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import robustreg as rr
from robustreg.attacks import IFGSM, N_FGSM, RS_FGSM, SoraStep, ZeroGrad
from robustreg.penalties import GradAlign, PertAlign, SoraLoss
from robustreg.penalties.alignment import start_of
from robustreg.streams import Stream

T = rr.Threat("linf", 0.1)


def value(term: rr.Term, net: nn.Module, x: Tensor, y: Tensor | None) -> Tensor:
    return term(rr.Probe(net, x, y, stream=Stream(0)))


@dataclass(frozen=True)
class Bowl:
    """``g . x + h/2 ||x||^2`` of the network's outputs, for a network that is the identity."""

    slopes: tuple[float, ...]
    h: float

    def __call__(self, z: Tensor, y: Tensor) -> Tensor:
        return z @ torch.tensor(self.slopes, dtype=z.dtype) + 0.5 * self.h * z.square().sum(1)


def test_it_is_the_cosine_of_the_two_gradients(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    attack = RS_FGSM(T)
    probe = rr.Probe(smooth_net, x, y, stream=Stream(0))
    gradients = []
    for point in (rr.Uniform(T), attack):
        u = probe.at(point).clone().requires_grad_()
        gradients.append(torch.autograd.grad(F.cross_entropy(smooth_net(u), y), u)[0].flatten(1))
    expected = F.cosine_similarity(*gradients)
    found = value(PertAlign(attack), smooth_net, x, y)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert not found.requires_grad
    assert found.min() < found.max() < 1
    # one minus the penalty on the same angle
    pair = GradAlign(T, first=rr.Uniform(T), second=attack, mode="train")
    torch.testing.assert_close(found, 1 - value(pair, smooth_net, x, y).detach(), rtol=1e-12, atol=1e-14)


def test_where_the_loss_is_linear_it_is_one_and_so_is_the_linearity() -> None:
    x, y = torch.rand(5, 4, dtype=torch.float64), torch.zeros(5, dtype=torch.long)
    loss, net = Bowl((0.5, -1.0, 2.0, 0.1), 0.0), nn.Flatten()
    step = SoraStep(T, loss=loss)
    torch.testing.assert_close(value(PertAlign(step, loss=loss), net, x, y), torch.ones(5, dtype=x.dtype))
    total, counted = SoraLoss(step)._linearity(rr.Probe(net, x, y, stream=Stream(0)))
    assert (total / counted).item() == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_linearity_of_a_bowl(norm: str) -> None:
    """``r = 1 + h <e, step> / ||g||`` with the steepest direction ``e``: the curvature along the step."""
    threat = rr.Threat(norm, 0.1, None)
    loss, net = Bowl((0.5, -1.0, 2.0, 0.1), -0.7), nn.Flatten()
    x, y = torch.rand(5, 4, dtype=torch.float64), torch.zeros(5, dtype=torch.long)
    step = SoraStep(threat, loss=loss)
    probe = rr.Probe(net, x, y, stream=Stream(0))
    start, end = probe.at(step.first()), probe.at(step)
    g = torch.tensor(loss.slopes, dtype=x.dtype) + loss.h * start
    e = g.sign() if norm == "linf" else g / g.norm(dim=1, keepdim=True)
    size = g.abs().sum(1) if norm == "linf" else g.norm(dim=1)
    expected = (1 + loss.h * (e * (end - start)).sum(1) / size).mean()
    total, counted = SoraLoss(step)._linearity(probe)
    assert (total / counted).item() == pytest.approx(expected.item(), rel=1e-12)
    assert expected < 0.999


def test_the_loss_is_the_plain_one_and_the_measure_goes_to_the_memory() -> None:
    x, y = torch.rand(5, 4, dtype=torch.float64), torch.zeros(5, dtype=torch.long)
    step = SoraStep(rr.Threat("linf", 0.1, None), loss=Bowl((0.5, -1.0, 2.0, 0.1), -0.7), mode="train")
    loss = SoraLoss(step)
    probe = rr.Probe(nn.Flatten(), x, y, stream=Stream(0))
    values = loss(probe)
    torch.testing.assert_close(values, Bowl((0.5, -1.0, 2.0, 0.1), -0.7)(probe.at(step), y))
    assert step.memory.mean is None  # not before the step is over
    (update,) = probe.deferred
    update()
    total, counted = loss._linearity(probe)
    linearity = (total / counted).item()
    assert -1 < linearity < 1
    assert step.memory.mean == pytest.approx(0.95 * 0.99 + 0.05 * linearity, rel=1e-12)


def test_samples_without_a_label_or_a_gradient_are_left_out(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    y = torch.where(torch.arange(6) < 2, -1, y)
    step = SoraStep(T)
    total, counted = SoraLoss(step)._linearity(rr.Probe(smooth_net, x, y, stream=Stream(0)))
    assert counted == 4
    assert total.isfinite()
    objective = rr.Objective.of(SoraLoss(step))
    objective(smooth_net, x, torch.full_like(y, -1), step=0)  # nothing to measure: nothing is noted
    assert step.memory.mean is None
    flat = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
    nn.init.zeros_(flat[1].weight)
    objective(flat, x, y, step=0)
    assert step.memory.mean is None


def test_a_zero_gradient_counts_zero(double_batch: Any) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
    nn.init.zeros_(flat[1].weight)
    assert torch.equal(value(PertAlign(RS_FGSM(T)), flat, *double_batch), torch.zeros(6, dtype=torch.float64))


def test_logging_it_changes_no_bit_of_the_rest(restless_net: nn.Module, batch: Any) -> None:
    attack = RS_FGSM(T, mode="train")
    states = []
    initial = {k: v.clone() for k, v in restless_net.state_dict().items()}
    for objective in (
        rr.Objective.of(rr.CrossEntropy(at=attack)),
        rr.CrossEntropy(at=attack) + 0 * PertAlign(attack),
    ):
        restless_net.load_state_dict(initial)
        loss = objective(restless_net, *batch, step=3)
        gradients = torch.autograd.grad(loss, list(restless_net.parameters()))
        states.append([loss.detach(), *gradients, *(b.clone() for b in restless_net.buffers())])
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_where_an_attack_starts() -> None:
    assert start_of(N_FGSM(T)) == rr.Uniform(T, scale=2.0)
    assert start_of(rr.FGSM(T)) == rr.Clean()
    assert start_of(ZeroGrad(T)) == rr.Uniform(T)
    assert start_of(SoraStep(T)) == rr.Uniform(T)
    assert start_of(IFGSM(T)) == rr.Clean()


def test_what_is_missing_is_said(smooth_net: nn.Module, double_batch: Any) -> None:
    with pytest.raises(ValueError, match="pert_align needs an adversary"):
        (rr.CrossEntropy() + 0 * PertAlign())(smooth_net, *double_batch)
    assert "labels" in PertAlign(RS_FGSM(T)).needs
    assert "labels" in SoraLoss(SoraStep(T)).needs
    with pytest.raises(ValueError, match="mode must be one of"):
        PertAlign(RS_FGSM(T), mode="test")  # type: ignore[arg-type]
