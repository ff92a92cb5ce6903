"""The gradient penalty and the loss at the steepest point, against closed forms, autograd and finite differences."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call
from torch.nn import functional as F

import robustreg as rr
from robustreg import numerics

NORMS = [1.0, 1.5, 2.0, 3.0, float("inf")]


def threat(norm: float = 2.0, eps: float = 0.3) -> rr.Threat:
    return rr.Threat(norm, eps, None)


def value(term: rr.Term, net: Any, x: Tensor, y: Tensor | None, **options: Any) -> Tensor:
    return rr.Objective.of(term)(net, x, y, **options)


def gradients(loss: Tensor, net: nn.Module) -> Tensor:
    grads = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in grads])


# -- values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_the_penalty_is_eps_times_the_dual_norm_of_the_gradient(
    p: float, squared: bool, loss: str, smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    term = rr.GradientNorm(threat(p), squared=squared, loss=loss)
    u = x.clone().requires_grad_()
    of = numerics.cross_entropy if loss == "ce" else lambda z, y: -numerics.margin(z, y)
    (g,) = torch.autograd.grad(of(smooth_net(u), y).sum(), u)
    expected = 0.3 * torch.linalg.vector_norm(g.flatten(1), numerics.dual_exponent(p), dim=1)
    expected = expected.square() if squared else expected
    found = rr.Objective.of(term).detailed(smooth_net, x, y).per_sample["gradient_norm"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("p", NORMS)
def test_its_parameter_gradient_is_the_double_backward(
    p: float, smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    u = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(smooth_net(u), y, reduction="sum"), u, create_graph=True)
    by_hand = 0.3 * torch.linalg.vector_norm(g.flatten(1), numerics.dual_exponent(p), dim=1).mean()
    found = value(rr.GradientNorm(threat(p)), smooth_net, x, y)
    torch.testing.assert_close(
        gradients(found, smooth_net), gradients(by_hand, smooth_net), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("p", NORMS)
def test_the_perturbed_loss_is_the_loss_at_the_steepest_point(
    p: float, smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    found = value(rr.Perturbed(threat(p)), smooth_net, x, y)
    expected = F.cross_entropy(smooth_net(rr.Steepest(threat(p))(smooth_net, x, y)), y)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(
        gradients(found, smooth_net), gradients(expected, smooth_net), rtol=0, atol=1e-14
    )


def test_clipping_keeps_the_point_in_the_box(relu_net: nn.Module, batch: Any) -> None:
    seen: list[Tensor] = []
    relu_net.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0].detach()))
    wide = rr.Threat("linf", 0.5)
    value(rr.Perturbed(wide), relu_net, *batch)
    assert seen[-1].max() > 1
    value(rr.Perturbed(wide, clip="box"), relu_net, *batch)
    assert seen[-1].max() == 1
    assert seen[-1].min() == 0


@given(p=st.floats(1, 20), eps=st.floats(0, 1), scale=st.floats(0.1, 10))
@settings(max_examples=25, deadline=None)
def test_the_penalty_is_linear_in_eps_and_in_the_loss(p: float, eps: float, scale: float) -> None:
    g = torch.Generator().manual_seed(0)
    x, w = (
        torch.rand(3, 4, generator=g, dtype=torch.float64),
        torch.randn(4, 3, generator=g, dtype=torch.float64),
    )
    w.requires_grad_()
    y = torch.tensor([0, 1, 2])

    def penalty(eps: float, scale: float) -> float:
        loss = (lambda z, y: scale * numerics.cross_entropy(z, y)) if scale != 1 else "ce"
        return value(rr.GradientNorm(threat(p, eps), loss=loss), lambda u: u @ w, x, y).item()

    assert penalty(eps, scale) == pytest.approx(eps * scale * penalty(1.0, 1.0), rel=1e-12, abs=1e-15)


def test_it_may_be_taken_elsewhere(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    point = rr.FGSM(threat(eps=0.2))
    there = value(rr.GradientNorm(threat(), at=point), smooth_net, x, y)
    moved = value(rr.GradientNorm(threat()), smooth_net, point(smooth_net, x, y), y)
    torch.testing.assert_close(there, moved, rtol=0, atol=1e-14)


# -- derivatives ---------------------------------------------------------------------------------------------


def of_parameters(
    term: rr.Term, net: nn.Module, x: Tensor, y: Tensor
) -> tuple[Callable[..., Tensor], list[Tensor]]:
    names = [n for n, _ in net.named_parameters()]
    parameters = [p.detach().clone().requires_grad_() for p in net.parameters()]

    def loss(*values: Tensor) -> Tensor:
        state = dict(zip(names, values, strict=True))
        return value(term, lambda u: functional_call(net, state, (u,)), x, y, step=0)

    return loss, parameters


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("squared", [False, True])
def test_gradcheck_of_the_penalty(p: float, squared: bool, smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    loss, parameters = of_parameters(rr.GradientNorm(threat(p), squared=squared), smooth_net, x[:2], y[:2])
    assert gradcheck(loss, parameters, fast_mode=True)


@pytest.mark.parametrize("squared", [False, True])
def test_gradgradcheck_of_the_penalty(squared: bool, smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    loss, parameters = of_parameters(rr.GradientNorm(threat(), squared=squared), smooth_net, x[:2], y[:2])
    assert gradgradcheck(loss, parameters, fast_mode=True)


def test_gradcheck_of_the_loss_at_a_fixed_point(smooth_net: nn.Module, double_batch: Any) -> None:
    # the steepest point is a constant of the step, so its rule must not move with the parameters: random start only
    x, y = double_batch
    loss, parameters = of_parameters(
        rr.CrossEntropy(at=rr.Uniform(threat(eps=0.2))), smooth_net, x[:2], y[:2]
    )
    assert gradcheck(loss, parameters, fast_mode=True)


# -- finite differences --------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize(("estimator", "order"), [("forward", 1), ("central", 2)])
def test_estimators_tend_to_the_exact_value_and_gradient(
    p: float, estimator: str, order: int, smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    exact = value(rr.GradientNorm(threat(p)), smooth_net, x, y)
    exact_gradient = gradients(exact, smooth_net)
    errors = []
    for h in (0.1, 0.05, 0.025):
        estimate = value(rr.GradientNorm(threat(p), estimator=estimator, step=h), smooth_net, x, y)
        gradient = gradients(estimate, smooth_net)
        errors.append((abs((estimate - exact).item()), (gradient - exact_gradient).norm().item()))
    for coarse, fine in itertools.pairwise(errors):
        for a, b in zip(coarse, fine, strict=True):
            assert a / b == pytest.approx(2**order, rel=0.1)


@pytest.mark.parametrize("estimator", ["forward", "central"])
def test_estimators_are_close_in_single_precision(estimator: str, relu_net: nn.Module, batch: Any) -> None:
    exact, estimate = (
        value(rr.GradientNorm(threat(), estimator=e), relu_net, *batch) for e in ("double", estimator)
    )
    assert estimate.item() == pytest.approx(exact.item(), rel=0.01)
    a, b = gradients(exact, relu_net), gradients(estimate, relu_net)
    assert float((a - b).norm() / a.norm()) < 0.02


@pytest.mark.parametrize("estimator", ["forward", "central"])
def test_estimators_use_the_same_dropout_masks_at_both_ends(
    estimator: str, restless_net: nn.Module, batch: Any
) -> None:
    x, y = batch[0].double(), batch[1]
    net = restless_net.double()
    exact, estimate = (
        value(rr.GradientNorm(threat(), estimator=e, step=1e-5), net, x, y, step=0)
        for e in ("double", estimator)
    )
    # masks that differ would put their difference over h
    assert estimate.item() == pytest.approx(exact.item(), rel=1e-3)
    a, b = gradients(exact, net), gradients(estimate, net)
    assert float((a - b).norm() / a.norm()) < 1e-3


def test_the_perturbed_loss_has_masks_of_its_own_unless_told(restless_net: nn.Module, batch: Any) -> None:
    nothing = threat(eps=0.0)
    net = restless_net
    plain, own, same = (
        (rr.CrossEntropy() + rr.Perturbed(nothing, same_dropout=shared)).detailed(net, *batch, step=1).values
        for shared in (False, False, True)
    )
    assert same["perturbed"] == same["cross_entropy"]
    assert own["perturbed"] != own["cross_entropy"]
    assert plain == own


# -- where it could break ------------------------------------------------------------------------------------

TERMS = [
    *(rr.GradientNorm(threat(p), squared=squared) for p in NORMS for squared in (False, True)),
    *(rr.GradientNorm(threat(p), estimator=e) for p in NORMS for e in ("forward", "central")),
    *(rr.Perturbed(threat(p)) for p in NORMS),
]


def dead_relu() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3))
    nn.init.constant_(net[1].bias, -100.0)
    return net


def constant_logits() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    nn.init.zeros_(net[1].weight)
    return net


def huge_logits() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        net[1].weight.mul_(1e4 / net[1].weight.abs().max())
    return net


@pytest.mark.parametrize("build", [dead_relu, constant_logits, huge_logits], ids=lambda b: b.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_everything_is_finite_at_zero_gradients_and_huge_logits(
    build: Callable[[], nn.Module], dtype: torch.dtype, batch: Any
) -> None:
    net = build().to(dtype)
    for term in TERMS:
        loss = value(term, net, batch[0].to(dtype), batch[1])
        assert loss.isfinite(), term
        assert gradients(loss, net).isfinite().all(), term


def test_a_dead_network_has_no_penalty(batch: Any) -> None:
    for p in NORMS:
        assert value(rr.GradientNorm(threat(p)), dead_relu(), *batch) == 0


@pytest.mark.parametrize("term", [t for t in TERMS if t.threat == threat(2.0)], ids=str)
def test_autocast_gives_finite_gradients_near_those_of_float32(
    term: rr.Term, relu_net: nn.Module, batch: Any
) -> None:
    exact = gradients(value(term, relu_net, *batch), relu_net)
    with torch.autocast("cpu", torch.bfloat16):
        loss = value(term, relu_net, *batch)
    assert loss.dtype == torch.float32
    found = gradients(loss, relu_net)
    assert found.isfinite().all()
    if getattr(term, "estimator", "double") == "double":  # differences of bfloat16 losses are rounding
        assert float(F.cosine_similarity(found, exact, dim=0)) > 0.97


# -- bad rules -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (
            lambda: rr.GradientNorm(estimator="fd"),
            "estimator must be 'double', 'forward' or 'central', got 'fd'",
        ),
        (
            lambda: rr.GradientNorm(step=0.0),
            "step is the length of the finite difference and must be positive, got 0",
        ),
        (lambda: rr.GradientNorm(step=float("nan")), "must be positive"),
        (lambda: rr.GradientNorm(loss="hinge"), "loss must be one of"),
        (lambda: rr.GradientNorm(mode="test"), "mode must be one of"),
        (lambda: rr.Perturbed(loss="hinge"), "loss must be one of"),
        (lambda: rr.Perturbed(clip="ball"), "clip must be one of threat, box, none, got 'ball'"),
        (lambda: rr.Perturbed(find="test"), "mode must be one of"),
        (lambda: rr.Perturbed(mode="test"), "mode must be one of"),
    ],
)
def test_bad_rules_are_refused_when_they_are_made(build: Callable[[], rr.Term], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build()
