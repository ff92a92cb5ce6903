"""The gradient norm whose exponent each sample's gradient chooses: identities, derivatives, estimators, cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call
from torch.nn import functional as F

import robustreg as rr
from robustreg import numerics
from robustreg.attacks.adaptive import LpFGSM
from robustreg.concentration import adaptive_exponent
from robustreg.penalties import FirstOrderChange
from robustreg.penalties.gradient import AdaptiveGradientNorm

T = rr.Threat("linf", 0.3, None)
RULES: list[dict[str, Any]] = [{}, {"beta": 0.3, "rescale": True}, {"p": "absolute"}, {"p": 8.0}]


def value(term: rr.Term, net: Any, x: Tensor, y: Tensor | None, **options: Any) -> Tensor:
    return rr.Objective.of(term)(net, x, y, **options)


def per_sample(term: rr.Term, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return next(iter(rr.Objective.of(term).detailed(net, x, y).per_sample.values()))


def gradients(loss: Tensor, net: nn.Module) -> Tensor:
    grads = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in grads])


def input_gradient(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    u = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(
        F.cross_entropy(net(u), y, reduction="sum", ignore_index=-1), u, create_graph=True
    )
    return g


# -- values and gradients --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize(("p", "beta"), [("relative", 0.01), ("relative", 0.3), ("absolute", 0.0)])
def test_it_is_eps_times_the_norm_of_the_dual_exponent_held_constant(
    p: Any, beta: float, rescale: bool, smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    term = AdaptiveGradientNorm(T, p=p, beta=beta, tau=0.9, rescale=rescale)
    g = input_gradient(smooth_net, x, y).flatten(1)
    exponents = adaptive_exponent(g, p, beta if p == "relative" else 0.9)
    q = exponents / (exponents - 1)
    radius = 0.3 * 16 ** (1 / exponents) if rescale else torch.full_like(q, 0.3)
    by_hand = radius * g.abs().pow(q.unsqueeze(1)).sum(1).pow(1 / q)
    torch.testing.assert_close(per_sample(term, smooth_net, x, y), by_hand.detach(), rtol=0, atol=1e-14)
    found = value(term, smooth_net, x, y)
    torch.testing.assert_close(
        gradients(found, smooth_net), gradients(by_hand.mean(), smooth_net), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 7.0, math.inf])
@pytest.mark.parametrize("estimator", ["double", "forward", "central"])
@pytest.mark.parametrize("squared", [False, True])
def test_with_one_exponent_it_is_the_gradient_norm(
    p: float, estimator: Any, squared: bool, smooth_net: nn.Module, double_batch: Any
) -> None:
    options = {"estimator": estimator, "squared": squared}
    found = value(AdaptiveGradientNorm(T, p=p, **options), smooth_net, *double_batch)
    expected = value(rr.GradientNorm(rr.Threat(p, 0.3, None), **options), smooth_net, *double_batch)
    tolerance = 1e-14 if estimator == "double" else 1e-11  # rounding over the length of the step
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(
        gradients(found, smooth_net), gradients(expected, smooth_net), rtol=0, atol=tolerance
    )


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_it_is_the_change_along_the_steepest_step(
    rule: dict[str, Any], smooth_net: nn.Module, double_batch: Any
) -> None:
    along = FirstOrderChange(T, at=LpFGSM(T, mode="train", **rule))
    found, expected = (value(t, smooth_net, *double_batch) for t in (AdaptiveGradientNorm(T, **rule), along))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    # the envelope theorem: of the norm's derivative only that along the maximiser is left
    torch.testing.assert_close(
        gradients(found, smooth_net), gradients(expected, smooth_net), rtol=0, atol=1e-13
    )


def test_it_lies_on_either_side_of_the_gradient_norm(smooth_net: nn.Module, double_batch: Any) -> None:
    sign = per_sample(rr.GradientNorm(T), smooth_net, *double_batch)
    for beta in (0.001, 0.01, 0.1, 1.0):
        small = per_sample(AdaptiveGradientNorm(T, beta=beta), smooth_net, *double_batch)
        large = per_sample(AdaptiveGradientNorm(T, beta=beta, rescale=True), smooth_net, *double_batch)
        assert (small < sign).all()
        assert (large > sign).all()


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("estimator", ["double", "forward"])
def test_a_sample_has_its_value_in_every_company(
    rule: dict[str, Any], estimator: Any, smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    term = AdaptiveGradientNorm(T, estimator=estimator, **rule)
    whole = per_sample(term, smooth_net, x, y)
    parts = [per_sample(term, smooth_net, x[rows], y[rows]) for rows in (slice(0, 1), slice(1, 6))]
    torch.testing.assert_close(whole, torch.cat(parts), rtol=0, atol=1e-12)
    y = torch.where(y == 1, -1, y)
    unlabelled = per_sample(term, smooth_net, x, y)
    torch.testing.assert_close(unlabelled, torch.where(y < 0, 0.0, whole), rtol=0, atol=1e-12)


# -- derivatives -----------------------------------------------------------------------------------------------


def of_parameters(term: rr.Term, net: nn.Module, x: Tensor, y: Tensor) -> tuple[Any, list[Tensor]]:
    names = [n for n, _ in net.named_parameters()]
    parameters = [p.detach().clone().requires_grad_() for p in net.parameters()]

    def loss(*values: Tensor) -> Tensor:
        state = dict(zip(names, values, strict=True))
        return value(term, lambda u: functional_call(net, state, (u,)), x, y, step=0)

    return loss, parameters


# where q is at an end of its range it is locally constant, so the numerical derivative is that at constant q
@pytest.mark.parametrize("rule", [{"p": 3.0}, {"beta": 0.0}, {"beta": 1e6}, {"beta": 1e6, "rescale": True}])
@pytest.mark.parametrize("squared", [False, True])
def test_gradcheck(rule: dict[str, Any], squared: bool, smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    term = AdaptiveGradientNorm(T, squared=squared, **rule)
    loss, parameters = of_parameters(term, smooth_net, x[:2], y[:2])
    assert gradcheck(loss, parameters, fast_mode=True)
    if rule != {
        "beta": 0.0
    }:  # there q is so near to 1 that the second derivative is too curved for differences
        assert gradgradcheck(loss, parameters, fast_mode=True)


def test_the_exponent_is_a_constant(smooth_net: nn.Module, double_batch: Any) -> None:
    # with q moving, the derivative would be another: that of the value itself
    x, y = double_batch
    loss, parameters = of_parameters(AdaptiveGradientNorm(T, beta=0.3), smooth_net, x[:2], y[:2])
    total = gradients(loss(*parameters), nn.ParameterList(parameters))
    h, along = 1e-6, torch.randn(total.shape, generator=torch.Generator().manual_seed(0), dtype=total.dtype)
    shifts = along.split([p.numel() for p in parameters])
    ends = [
        loss(*(p.detach() + t * s.reshape(p.shape) for p, s in zip(parameters, shifts, strict=True)))
        for t in (h, -h)
    ]
    slope = float((ends[0] - ends[1]).detach() / (2 * h))
    assert abs(slope - float(total @ along)) > 1e-4 * abs(slope)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize(("estimator", "order"), [("forward", 1), ("central", 2)])
def test_estimators_tend_to_the_exact_value_and_gradient(
    rule: dict[str, Any], estimator: Any, order: int, smooth_net: nn.Module, double_batch: Any
) -> None:
    exact = value(AdaptiveGradientNorm(T, **rule), smooth_net, *double_batch)
    exact_gradient, errors = gradients(exact, smooth_net), []
    for h in (0.1, 0.05, 0.025):
        term = AdaptiveGradientNorm(T, estimator=estimator, step=h, **rule)
        estimate = value(term, smooth_net, *double_batch)
        gradient = gradients(estimate, smooth_net)
        errors.append((abs((estimate - exact).item()), (gradient - exact_gradient).norm().item()))
    for coarse, fine in itertools.pairwise(errors):
        for a, b in zip(coarse, fine, strict=True):
            assert a / b == pytest.approx(2**order, rel=0.15)


@pytest.mark.parametrize("estimator", ["forward", "central"])
def test_estimators_use_the_same_dropout_masks_at_both_ends(
    estimator: Any, restless_net: nn.Module, batch: Any
) -> None:
    x, y = batch[0].double(), batch[1]
    net = restless_net.double()
    exact, estimate = (
        value(AdaptiveGradientNorm(T, estimator=e, step=1e-5), net, x, y, step=0)
        for e in ("double", estimator)
    )
    assert estimate.item() == pytest.approx(exact.item(), rel=1e-3)
    a, b = gradients(exact, net), gradients(estimate, net)
    assert float((a - b).norm() / a.norm()) < 1e-3


# -- where it could break --------------------------------------------------------------------------------------


def dead_relu() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3))
    nn.init.constant_(net[1].bias, -100.0)
    return net


def huge_logits() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        net[1].weight.mul_(1e4 / net[1].weight.abs().max())
    return net


@pytest.mark.parametrize("build", [dead_relu, huge_logits], ids=lambda b: b.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_everything_is_finite_at_zero_gradients_and_huge_logits(
    build: Callable[[], nn.Module], dtype: torch.dtype, batch: Any
) -> None:
    net = build().to(dtype)
    for rule in RULES:
        for estimator in ("double", "forward"):
            term = AdaptiveGradientNorm(T, estimator=estimator, **rule)
            loss = value(term, net, batch[0].to(dtype), batch[1])
            assert loss.isfinite()
            assert gradients(loss, net).isfinite().all()
            assert build is huge_logits or loss == 0


def test_one_feature_is_the_absolute_derivative() -> None:
    net = nn.Linear(1, 3).double()
    x, y = torch.rand(4, 1, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    expected = 0.3 * input_gradient(net, x, y).detach().abs().flatten()
    for rule in RULES:
        torch.testing.assert_close(per_sample(AdaptiveGradientNorm(T, **rule), net, x, y), expected)


def test_bad_rules_are_refused_when_they_are_made() -> None:
    with pytest.raises(ValueError, match="estimator must be"):
        AdaptiveGradientNorm(estimator="fd")
    with pytest.raises(ValueError, match="p must be 'relative', 'absolute' or a number from 1"):
        AdaptiveGradientNorm(p="sign")
    with pytest.raises(ValueError, match="the term adaptive_gradient_norm needs a threat"):
        rr.Objective.of(AdaptiveGradientNorm()).check_needs()


# -- cost and training -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("estimator", "passes"), [("double", (1, 1, 1, 1)), ("forward", (2, 0, 2, 0))])
def test_the_plan_is_what_runs_and_that_of_the_gradient_norm(
    estimator: Any, passes: tuple[int, ...], relu_net: nn.Module, batch: Any
) -> None:
    objective = rr.CrossEntropy() + AdaptiveGradientNorm(T, estimator=estimator)
    plan = objective.plan((1, 4, 4), 3)
    found = (plan.forwards, plan.input_backwards, plan.parameter_backwards, plan.double_backwards)
    assert found == passes
    usual = (rr.CrossEntropy() + rr.GradientNorm(T, estimator=estimator)).plan((1, 4, 4), 3)
    assert plan.relative_cost == usual.relative_cost
    runs: list[int] = []
    relu_net.register_forward_hook(lambda *_: runs.append(1))
    objective(relu_net, *batch)
    assert len(runs) == plan.forwards


@pytest.mark.parametrize("estimator", ["double", "forward"])
@pytest.mark.parametrize("rule", RULES[:3], ids=str)
def test_training_lowers_it(estimator: Any, rule: dict[str, Any]) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(128, 20, generator=g)
    y = (x[:, :10].sum(1) > x[:, 10:].sum(1)).long()
    measure = AdaptiveGradientNorm(T, **rule)
    after = []
    for weight in (0.0, 1.0):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = nn.Sequential(nn.Linear(20, 32), nn.SiLU(), nn.Linear(32, 2))
        objective = rr.CrossEntropy() + weight * AdaptiveGradientNorm(T, estimator=estimator, **rule)
        optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
        for step in range(60):
            rows = slice(32 * (step % 4), 32 * (step % 4) + 32)
            loss = objective(net, x[rows], y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        after.append((value(measure, net, x, y).item(), numerics.cross_entropy(net(x), y).mean().item()))
    (plain, _), (regularised, error) = after
    assert regularised < 0.6 * plain
    assert error < math.log(2)  # and it still learns


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective",
    [
        rr.CrossEntropy(at=LpFGSM(T)) + AdaptiveGradientNorm(T, beta=0.1, rescale=True),
        rr.CrossEntropy() + AdaptiveGradientNorm(T, estimator="central", p="absolute"),
    ],
    ids=["double", "central"],
)
def test_a_compiled_step_is_eagers(objective: Any, smooth_net: nn.Module, double_batch: Any) -> None:
    before = torch._dynamo.config.trace_autograd_ops
    torch._dynamo.reset()
    try:
        losses = []
        for compiled in (False, True):
            module = rr.ObjectiveModule(smooth_net, objective, seed=0)
            if compiled:
                module.compile(backend="aot_eager")
            losses.append(module(*double_batch, step=3))
        torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-12)
        torch.testing.assert_close(*(gradients(loss, smooth_net) for loss in losses), rtol=0, atol=1e-12)
    finally:
        torch._dynamo.config.trace_autograd_ops = before
