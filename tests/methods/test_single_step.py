"""The single-step and linearity papers as objectives: their terms, what a step costs, what their cards say."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import robustreg as rr
from robustreg.attacks import N_FGSM, R_FGSM, RS_FGSM, LeastLinear, MultiGrad, ZeroGrad
from robustreg.losses import SmoothedCrossEntropy
from robustreg.methods import (
    card_of,
    elle,
    elle_a,
    grad_align,
    grad_norm,
    llr,
    multi_grad,
    n_fgsm,
    r_fgsm,
    rs_fgsm,
    sat_r1,
    sat_r2,
    sat_r3,
    warn_if_relu,
    zero_grad,
)
from robustreg.penalties import ELLE, FirstOrderChange, GradAlign, LinearityGap, SatR1, SatR2, SatR3

T = rr.Threat("linf", 0.1)
METHODS = [
    sat_r1, sat_r2, sat_r3, rs_fgsm, r_fgsm, n_fgsm, grad_align, llr, elle, elle_a, zero_grad, multi_grad, grad_norm,
]  # fmt: skip


def gradients(loss: Tensor, net: nn.Module) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


# -- every one of them -------------------------------------------------


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.__name__)
def test_each_trains_a_network_and_leaves_no_trace(
    method: Any, restless_net: nn.Module, batch: Any, snapshot: Any
) -> None:
    before = snapshot(restless_net, buffers=False)
    loss = method(T)(restless_net, *batch, progress=0.5, step=0)
    assert loss.ndim == 0
    assert loss.isfinite()
    assert snapshot(restless_net, buffers=False) == before
    assert gradients(loss, restless_net).abs().max() > 0
    assert method(T)(restless_net, *batch, progress=0.5, step=0).isfinite()


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.__name__)
def test_the_same_step_gives_the_same_bits_in_any_company(
    method: Any, smooth_net: nn.Module, double_batch: Any
) -> None:
    alone = method(T).detailed(smooth_net, *double_batch, progress=1.0, step=5)
    company = rr.CrossEntropy() + 0 * rr.GradientNorm(T) + method(T)
    together = company.detailed(smooth_net, *double_batch, progress=1.0, step=5)
    assert torch.equal(alone.loss, method(T)(smooth_net, *double_batch, progress=1.0, step=5))
    last = list(together.values.values())[-len(alone.values) :]
    assert torch.equal(torch.stack(last), torch.stack(list(alone.values.values())))


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.__name__)
def test_each_has_a_card_that_says_where_it_is_from(method: Any) -> None:
    card = card_of(method)
    assert card.name == method.__name__
    assert "arXiv" in card.citation
    assert card.equations
    assert card.settings
    assert method.__name__ in rr.registry.names("method")


@pytest.mark.parametrize(
    ("method", "passes"),
    [
        (sat_r1, (12, 11, 1, 0)),
        (sat_r2, (3, 2, 1, 0)),
        (sat_r3, (2, 1, 1, 0)),
        (rs_fgsm, (2, 1, 1, 0)),
        (r_fgsm, (2, 1, 1, 0)),
        (n_fgsm, (2, 1, 1, 0)),
        # the gradient that the attack steps along is the first one of the cosine
        (grad_align, (3, 2, 2, 1)),
        # clean, ten steps, the end; the clean gradient is that of the search, the gap and the change
        (llr, (12, 11, 2, 1)),
        # the three points of the chord in one forward
        (elle, (3, 1, 2, 0)),
        (elle_a, (3, 1, 2, 0)),
        (zero_grad, (2, 1, 1, 0)),
        (multi_grad, (4, 3, 1, 0)),
        # one forward for the loss and the gradient
        (grad_norm, (1, 1, 1, 1)),
    ],
)
def test_the_passes_of_a_step(method: Any, passes: tuple[int, ...]) -> None:
    plan = method(T).plan((1, 4, 4), 3)
    assert (plan.forwards, plan.input_backwards, plan.parameter_backwards, plan.double_backwards) == passes


# -- one by one -------------------------------------------------


def test_sat_speaks_of_pixels_and_its_terms_of_eps() -> None:
    threat = rr.Threat("linf", 0.3)
    (_, loss), (lam, penalty) = sat_r2(threat, 25.0, alpha=0.06, budget="eps_minus_alpha").entries
    assert (lam, penalty) == (25.0, SatR2(threat, alpha=0.06 / 0.3, budget="eps_minus_alpha"))
    assert loss.stack == penalty.stack(threat)
    (_, loss), (_, penalty) = sat_r3(threat, tau=0.6, eps_low=0.1, alpha=0.01, clip_start=False).entries
    assert penalty == SatR3(threat, 0.6, 0.1 / 0.3, 0.01 / 0.3, clip_start=False)
    assert loss.part == 1
    assert sat_r3(threat).entries[1][1].low * threat.eps == pytest.approx(0.1)
    assert sat_r2(threat).entries[1][1].alpha * threat.eps == pytest.approx(0.01)
    assert sat_r1(threat, 0.4, 7, samples=3).entries[1] == (0.4, SatR1(threat, 7, 3))


@pytest.mark.parametrize(
    ("objective", "point"),
    [
        (rs_fgsm(T, 1.1), RS_FGSM(T, 1.1, mode="train")),
        (rs_fgsm(T, mode="eval"), rr.FGSM(T, start=rr.Uniform(T), step=1.25)),
        (r_fgsm(T), R_FGSM(T, 0.5)),
        (n_fgsm(T, k=3.0), N_FGSM(T, 3.0, mode="train")),
        (zero_grad(T, q=0.45), ZeroGrad(T, 0.45, mode="train")),
        (multi_grad(T, 5, agree=4), MultiGrad(T, 5, 4, mode="train")),
    ],
    ids=lambda v: "" if isinstance(v, rr.Objective) else type(v).__name__,
)
def test_attacks_that_are_trained_on(objective: rr.Objective, point: rr.Point) -> None:
    assert objective.entries == ((1.0, rr.CrossEntropy(at=point)),)


def test_grad_align_is_fgsm_training_with_a_penalty(smooth_net: nn.Module, double_batch: Any) -> None:
    (_, loss), (lam, penalty) = grad_align(T, 0.5, detach="neither", through_clamp=True).entries
    assert loss == rr.CrossEntropy(at=rr.FGSM(T, mode="train"))
    assert (lam, penalty) == (0.5, GradAlign(T, detach="neither", through_clamp=True))
    (_, loss), (_, penalty) = grad_align(T, start="uniform").entries
    assert loss.at == RS_FGSM(T, mode="train")
    assert penalty.first == rr.Uniform(T)
    assert grad_align(T, start="uniform").plan((4,)).forwards == 3  # the start's gradient is shared as well
    same(
        grad_align(T, 0.0)(smooth_net, *double_batch),
        rr.Objective.of(rr.Perturbed(T, clip="box"))(smooth_net, *double_batch),
    )


def test_grad_align_through_the_clamp_leaves_pixels_that_were_pushed_out() -> None:
    """A linear loss: what the start pushed beyond the box stays at the bound, the others step as ever."""
    threat, net = rr.Threat("linf", 0.1), nn.Linear(3, 2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        net.weight.copy_(
            torch.tensor([[-1.0, 1.0, 1.0], [1.0, -1.0, -1.0]])
        )  # the loss rises along (1, -1, -1)
    x, y = torch.tensor([[0.0, 0.98, 0.5]], dtype=torch.float64), torch.tensor([0])
    noise = torch.tensor([[-0.05, 0.06, 0.02]], dtype=torch.float64)
    for clamp, expected in ((True, [0.0, 1.0, 0.4]), (False, [0.1, 0.88, 0.4])):
        (_, loss), (_, penalty) = grad_align(threat, start="uniform", through_clamp=clamp).entries
        z = loss.at(net, x, y, noise={penalty.first: noise})
        same(z, torch.tensor([expected], dtype=torch.float64))
    assert grad_align(threat, start="uniform", through_clamp=True).plan((4,)).forwards == 3


def test_llr_weights_the_gap_and_the_change() -> None:
    point = LeastLinear(T, 7, 0.03, mode="batch")
    assert llr(T, 4.0, 0.3, 2.0, steps=7, step_size=0.03).entries == (
        (2.0, rr.CrossEntropy()),
        (4.0, LinearityGap(T, point)),
        (pytest.approx(1.2), FirstOrderChange(T, point)),
    )


def test_elle_attacks_as_the_code_does(smooth_net: nn.Module, double_batch: Any) -> None:
    (_, loss), (lam, penalty) = elle(T).entries
    assert (lam, penalty) == (1000.0, ELLE(T))
    assert loss.at == rr.Steepest(T, mode="train")
    assert elle(T, clip="box").entries[0][1].at == rr.Steepest(T, mode="train", clip="box")
    assert elle(T, start="noise", clip="box").entries[0][1].at == N_FGSM(T, mode="train")
    noisy = elle(T, start="noise").entries[0][1].at
    assert noisy == rr.Steepest(T, start=rr.Uniform(T, scale=2.0, clip="none"), mode="train")
    assert elle_a(T).entries[0] == elle(T).entries[0]
    first = elle_a(T)(smooth_net, *double_batch, step=0)
    same(first, rr.Objective.of(loss)(smooth_net, *double_batch, step=0))  # its weight is 0 at first


def test_grad_norm_is_the_linearised_loss_with_a_ramp(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    u = x.clone().requires_grad_()
    loss = F.cross_entropy(smooth_net(u), y, reduction="none", label_smoothing=0.1)
    (g,) = torch.autograd.grad(loss.sum(), u, create_graph=True)
    norm = T.eps * g.abs().flatten(1).sum(1).mean()
    objective = grad_norm(T, smoothing=0.1)
    for progress, share in ((0.0, 0.0), (0.025, 0.5), (0.05, 1.0), (1.0, 1.0)):
        found = objective(smooth_net, x, y, progress=progress)
        expected = 0.8 * loss.mean() + 1.2 * share * norm
        same(found, expected)
    same(gradients(found, smooth_net), gradients(expected, smooth_net))
    assert grad_norm(T, warmup=0.0).entries[1] == (1.2, rr.GradientNorm(T))
    moved = grad_norm(T, noise=0.5, smoothing=0.2, estimator="forward", mode="eval").entries
    assert moved[0][1] == rr.CrossEntropy(rr.Uniform(T, scale=0.5), 0.2, "eval")
    assert moved[1][1].at == moved[0][1].at
    assert moved[1][1].loss == SmoothedCrossEntropy(0.2)


def test_a_network_with_kinks_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"piecewise linear activations \(LeakyReLU, ReLU\)"):
        assert warn_if_relu(nn.Sequential(nn.ReLU(), nn.Linear(2, 2), nn.Sequential(nn.LeakyReLU())))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not warn_if_relu(nn.Sequential(nn.GELU(), nn.SiLU(), nn.Softplus()))


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: grad_align(T, start="noise"), "start must be 'zero' or 'uniform', got 'noise'"),
        (lambda: elle(T, start="uniform"), "start must be 'zero' or 'noise', got 'uniform'"),
        (lambda: elle_a(T, decay=-1), "decay is a factor"),
        (lambda: r_fgsm(T, alpha=0.2), "the part of eps that the random start takes"),
        (lambda: zero_grad(T, q=2), "quantile must lie in"),
        (lambda: grad_norm(T, warmup=2.0), "until is the progress at which the ramp ends"),
    ],
)
def test_bad_options_are_refused(build: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build()


# -- compiled -------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective", [sat_r1(T, steps=2), grad_align(T), elle(T)], ids=["sat_r1", "grad_align", "elle"]
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
        same(*losses)
        same(*[gradients(loss, smooth_net) for loss in losses])
    finally:
        torch._dynamo.config.trace_autograd_ops = before
