"""One backward for input and parameters gives the gradients that two would give, and says where it cannot."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustreg as rr
from robustreg.needs import Needs

T, L2 = rr.Threat("linf", 0.1), rr.Threat("l2", 0.3)
CE = rr.CrossEntropy()

SHARING = {
    "mixed": rr.methods.gradient_family(L2, "mixed"),
    "weights": 2.0 * CE + rr.Perturbed(T) + 0.5 * CE,
    "difference": CE + 0.3 * rr.GradientNorm(T, estimator="forward"),
    "no other use": rr.Ramp(0, 1) * CE + rr.Perturbed(L2),
    "smoothed": rr.CrossEntropy(smoothing=0.1)
    + rr.CrossEntropy(at=rr.FGSM(T, loss=rr.losses.SmoothedCrossEntropy(0.1), mode="train")),
    "virtual": rr.methods.adversarial_training_l2(L2),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(144, 3),
    ]
    return nn.Sequential(*layers).double()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.rand(6, 1, 8, 8, generator=g, dtype=torch.float64), torch.tensor([0, 1, 2, -1, 0, 1])


def gradients(objective: rr.Objective, batch: Any, twice: bool = False) -> tuple[Tensor, Tensor]:
    """Loss and parameter gradient of a step; with ``twice`` the gradient of the gradient's squared norm."""
    net = network()
    loss = objective(net, *batch, progress=0.5, step=1)
    found = torch.autograd.grad(loss, list(net.parameters()), create_graph=twice)
    if twice:
        squares = sum(g.square().sum() for g in found)
        found = torch.autograd.grad(squares, list(net.parameters()))
    return loss.detach(), torch.cat([g.flatten() for g in found])


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("name", SHARING)
def test_the_gradients_are_those_of_two_backwards(
    name: str, twice: bool, batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = SHARING[name]
    assert objective.plan().joint_backwards == 1
    loss, found = gradients(copy.deepcopy(objective), batch, twice)
    monkeypatch.setattr(Needs, "one_backward", lambda self, key: False)
    assert objective.plan().joint_backwards == 0
    expected_loss, expected = gradients(copy.deepcopy(objective), batch, twice)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-14, atol=0)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11 * float(expected.abs().max()))


def test_parameters_outside_the_module_get_their_gradient(batch: Any) -> None:
    """The leaves are found in the graph, so a model may be any function."""
    net, scale = network(), torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    (CE + rr.Perturbed(T))(lambda x: scale * net(x), *batch).backward()
    alone, other = network(), scale.detach().clone().requires_grad_()
    net.load_state_dict(alone.state_dict())
    CE.__add__(rr.Perturbed(T))(lambda x: other * alone(x), *batch).backward()
    assert scale.grad is not None
    assert scale.grad == other.grad


def test_frozen_parameters_stay_without_a_gradient(batch: Any) -> None:
    net = network()
    net[0].requires_grad_(False)
    (CE + rr.Perturbed(T))(net, *batch).backward()
    assert net[0].weight.grad is None
    assert net[5].weight.grad is not None


class _Withholding(torch.autograd.Function):
    """``x + p`` whose backward gives ``p`` nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: Tensor) -> Tensor:
        return x + p

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g, None


def test_a_parameter_that_a_layer_gives_no_gradient_is_left_without(batch: Any) -> None:
    net, shift = network(), torch.zeros((), dtype=torch.float64, requires_grad=True)
    (CE + rr.Perturbed(T))(lambda x: net(_Withholding.apply(x, shift)), *batch).backward()
    assert shift.grad is None
    assert net[5].weight.grad is not None


def test_nothing_is_kept_for_parameters_where_gradients_are_off(batch: Any) -> None:
    objective = CE + rr.Perturbed(T)
    with torch.no_grad():
        assert not objective(network(), *batch, step=1).requires_grad
    assert objective(network(), *batch, step=1).requires_grad


def test_a_use_that_nobody_foresaw_is_still_right(batch: Any) -> None:
    """A term that changes its mind looks at the clean logits although the rehearsal did not see it do so."""

    class Moody(rr.Term):
        def __call__(self, probe: Any) -> Tensor:
            if getattr(probe.model, "stands_in", False):
                return probe.x.flatten(1).sum(1) * 0
            return probe.logits().square().sum(1)

    def step(objective: rr.Objective) -> Tensor:
        return gradients(objective, batch)[1]

    found = step(CE + rr.Perturbed(T) + 0.1 * Moody())
    parts = [step(rr.Objective.of(t)) for t in (CE, rr.Perturbed(T))]

    class Steady(rr.Term):
        def __call__(self, probe: Any) -> Tensor:
            return probe.logits().square().sum(1)

    net_alone = 0.1 * step(rr.Objective.of(Steady()))
    assert torch.isfinite(found).all()
    # dropout draws by point and step, so the parts see the masks of the whole
    torch.testing.assert_close(found, sum(parts) + net_alone, rtol=1e-9, atol=1e-10)


def test_a_combination_of_losses_is_their_sum(batch: Any) -> None:
    class Twice(rr.Term):
        needs = frozenset({"labels"})

        def __call__(self, probe: Any) -> Tensor:
            clean, far = probe.loss(), probe.loss(rr.FGSM(T, mode="train"))
            return probe.combined((2.0, clean), (-0.5, far))

    class Written(Twice):
        def __call__(self, probe: Any) -> Tensor:
            return 2.0 * probe.loss() - 0.5 * probe.loss(rr.FGSM(T, mode="train"))

    known, written = rr.Objective.of(Twice()), rr.Objective.of(Written())
    assert (known.plan().joint_backwards, written.plan().joint_backwards) == (1, 0)
    for a, b in zip(gradients(known, batch), gradients(written, batch), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)
