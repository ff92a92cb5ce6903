"""Curvature: the fixtures' numbers, the paper's form and the code's, and what the two ends share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import robustreg as rr
from robustreg.penalties import Curvature


def per_sample(term: rr.Term, net: Any, x: Tensor, y: Tensor) -> Tensor:
    return rr.Objective.of(term).detailed(net, x, y, step=0).per_sample[term.name]


def gradients(loss: Tensor, net: nn.Module) -> Tensor:
    grads = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in grads])


def linear(weight: list[list[float]]) -> Callable[[Tensor], Tensor]:
    return lambda u: u @ torch.tensor(weight, dtype=torch.float64).T


def hidden(u: Tensor) -> Tensor:
    first, second = (
        torch.tensor([[1, 2], [-1, 1], [2, -1]]).double(),
        torch.tensor([[1, 0, 1], [0, 1, -1], [-1, 1, 0.5]]),
    )
    return torch.relu(u @ first.T) @ second.double().T


FIXTURES = {
    "FA": (linear([[1.5, -2], [-1.5, 2]]), [[0.2, 0.1]], 0),
    "FB": (linear([[1, 0], [0, 1], [-1, -1]]), [[0.3, -0.2]], 0),
    "FC": (hidden, [[0.5, 0.25]], 1),
}


@pytest.mark.parametrize(
    ("which", "direction", "h", "expected"),
    [
        ("FA", "gradient", 0.5, 2.29355518),
        ("FA", "gradient", 1.5, 2.74579457),
        ("FA", "sign", 0.5, 2.28304300),
        ("FA", "sign", 1.5, 2.74553050),
        ("FA", "gradient", 0.001, 0.00618944),
        ("FB", "gradient", 0.5, 0.41692606),
        ("FB", "gradient", 1.5, 1.08314477),
        ("FB", "sign", 0.5, 0.53657316),
        ("FB", "sign", 1.5, 1.30921383),
        ("FC", "sign", 0.1, 0.08781718),
        ("FC", "sign", 0.01, 0.01017731),
    ],
)
def test_fixtures(which: str, direction: Any, h: float, expected: float) -> None:
    net, x, y = FIXTURES[which]
    x, labels = torch.tensor(x, dtype=torch.float64), torch.tensor([y])
    found = per_sample(Curvature(h, direction, squared=False), net, x, labels).item()
    assert found == pytest.approx(expected, abs=1e-8)
    assert per_sample(Curvature(h, direction), net, x, labels).item() == pytest.approx(found**2, abs=1e-13)


def test_the_squared_form_of_the_hidden_layer_fixture() -> None:
    net, x, y = FIXTURES["FC"]
    found = per_sample(Curvature(0.1), net, torch.tensor(x, dtype=torch.float64), torch.tensor([y])).item()
    assert found == pytest.approx(0.00771186, abs=1e-8)


@dataclass(frozen=True)
class Shifted(rr.Point):
    """The sample plus a given vector."""

    by: tuple[float, ...]

    def locate(self, probe: rr.Probe) -> Tensor:
        return probe.x + torch.tensor(self.by, dtype=probe.x.dtype)


def test_a_binary_linear_model_sees_a_step_only_through_its_margin() -> None:
    net, x, y = FIXTURES["FA"]
    x, labels = torch.tensor(x, dtype=torch.float64), torch.tensor([y])
    ends = [Shifted((0.3, 0.0)), Shifted((0.0, -0.225)), Shifted((0.7, 0.3))]  # w.v = 0.9 for w = (3, -4)
    found = [per_sample(Curvature(end=end, squared=False), net, x, labels).item() for end in ends]
    assert found == pytest.approx([found[0]] * 3, abs=1e-14)
    p = [torch.sigmoid(torch.tensor(m, dtype=torch.float64)).item() for m in (0.2, 0.2 + 0.9)]
    assert found[0] == pytest.approx((p[1] - p[0]) * 5, abs=1e-13)


def test_a_linear_loss_has_no_curvature(batch: Any) -> None:
    x, y = batch
    term = Curvature(0.5, loss=lambda z, _: z.sum(1))
    assert rr.Objective.of(term)(lambda u: u.flatten(1), x, y).item() == 0


def test_to_first_order_it_is_the_hessian_times_the_direction(
    smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    u = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(smooth_net(u), y, reduction="sum"), u, create_graph=True)
    v = g.detach().sign() / 4  # 16 features
    (product,) = torch.autograd.grad((g * v).sum(), u)
    found = per_sample(Curvature(1e-5, squared=False), smooth_net, x, y) / 1e-5
    torch.testing.assert_close(found, product.flatten(1).norm(dim=1), rtol=1e-4, atol=0)


@pytest.mark.parametrize("direction", ["sign", "gradient"])
@pytest.mark.parametrize("squared", [True, False])
def test_the_loss_and_its_gradient_are_what_one_would_write_by_hand(
    direction: Any, squared: bool, smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch

    def slope(at: Tensor) -> Tensor:
        u = at.detach().requires_grad_()
        loss = F.cross_entropy(smooth_net(u), y, reduction="sum")
        return torch.autograd.grad(loss, u, create_graph=True)[0]

    here = slope(x)
    v = here.detach().sign() if direction == "sign" else here.detach()
    v = v / v.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    size = (slope(x + 0.7 * v) - here).flatten(1).norm(dim=1)
    expected = (size.square() if squared else size).mean()
    loss = rr.Objective.of(Curvature(0.7, direction, squared))(smooth_net, x, y)
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(
        gradients(loss, smooth_net), gradients(expected, smooth_net), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("squared", [True, False])
def test_gradcheck_where_the_end_does_not_move(
    squared: bool, smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch[0][:2], double_batch[1][:2]
    end = rr.Uniform(rr.Threat("l2", 0.5), clip="none")
    objective = rr.Objective.of(Curvature(squared=squared, end=end))
    names = [n for n, _ in smooth_net.named_parameters()]

    def of(*values: Tensor) -> Tensor:
        state = dict(zip(names, values, strict=True))
        return objective(lambda u: functional_call(smooth_net, state, (u,)), x, y, step=0)

    assert torch.autograd.gradcheck(of, tuple(p.detach().requires_grad_() for p in smooth_net.parameters()))


def test_entries_without_a_gradient_do_not_shorten_the_step() -> None:
    """The sign's length is the root of the number of entries that have one, not of all features."""
    x, y = torch.tensor([[0.2, 0.1, 0.9]]).double(), torch.tensor([0])
    net, flat, _ = FIXTURES["FA"]
    blind = lambda u: net(u[:, :2])  # noqa: E731
    for direction in ("sign", "gradient"):
        found = per_sample(Curvature(0.5, direction), blind, x, y)
        torch.testing.assert_close(
            found, per_sample(Curvature(0.5, direction), net, torch.tensor(flat, dtype=torch.float64), y)
        )


def test_a_sample_does_not_depend_on_its_company(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    whole = per_sample(Curvature(), smooth_net, x, y)
    parts = torch.cat([per_sample(Curvature(), smooth_net, x[s], y[s]) for s in (slice(0, 1), slice(1, 6))])
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-14)


def test_unlabelled_samples_count_for_nothing(relu_net: nn.Module, batch: Any) -> None:
    x, y = batch
    some = torch.where(torch.arange(6) < 3, y, -1)
    loss = rr.Objective.of(Curvature())(relu_net, x, some)
    torch.testing.assert_close(loss, rr.Objective.of(Curvature())(relu_net, x[:3], y[:3]))
    free = rr.Objective.of(Curvature(end=rr.Uniform(rr.Threat("l2", 0.5)), loss="kl"))
    assert free.entries[0][1].needs == frozenset({"labels"}) - {"labels"}
    assert free(relu_net, x) > 0


@pytest.mark.parametrize("scale", [0.0, 1e4])
@pytest.mark.parametrize("squared", [True, False])
def test_it_stays_finite(squared: bool, scale: float, relu_net: nn.Module, batch: Any) -> None:
    with torch.no_grad():
        relu_net[-1].weight.mul_(scale)
    loss = rr.Objective.of(Curvature(squared=squared))(relu_net, *batch)
    assert loss.isfinite()
    assert gradients(loss, relu_net).isfinite().all()
    net = relu_net.bfloat16()
    low = rr.Objective.of(Curvature(squared=squared))(net, batch[0].bfloat16(), batch[1])
    assert low.isfinite()
    assert gradients(low, net).isfinite().all()


def test_both_ends_share_their_dropout_masks(restless_net: nn.Module, batch: Any) -> None:
    net, x = restless_net.double(), batch[0].double()
    found = [
        rr.Objective.of(Curvature(h, mode="batch", squared=False))(net, x, batch[1], step=0).item() / h
        for h in (1e-4, 1e-5)
    ]
    assert found[0] == pytest.approx(found[1], rel=0.05)  # with masks of their own it would grow tenfold


def test_by_default_the_penalty_is_taken_on_the_deployed_network(
    restless_net: nn.Module, batch: Any, snapshot: Callable[..., Any]
) -> None:
    before = snapshot(restless_net)
    rr.Objective.of(Curvature())(restless_net, *batch)
    assert snapshot(restless_net) == before
    objective = rr.CrossEntropy() + Curvature()
    plan = objective.plan()
    assert (plan.forwards, plan.input_backwards, plan.parameter_backwards, plan.double_backwards) == (
        3,
        2,
        3,
        2,
    )
    runs: list[int] = []
    restless_net.register_forward_hook(lambda *_: runs.append(1))
    objective(restless_net, *batch)
    assert len(runs) == 3
    assert (
        rr.CrossEntropy() + Curvature(mode="train") + rr.GradientNorm(rr.Threat("l2", 1))
    ).plan().forwards == 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"h": 0.0}, "h is the length of the step and must be positive, got 0.0"),
        ({"direction": "random"}, "direction must be 'sign' or 'gradient', got 'random'"),
        ({"loss": "hinge"}, "loss must be one of"),
        ({"mode": "test"}, "mode must be one of"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Curvature(**options)
