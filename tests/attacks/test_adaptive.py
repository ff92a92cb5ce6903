"""Steps in a norm that each sample's gradient chooses: lp-FGSM's formula, its length, its limits, its older form."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustreg as rr
from robustreg import numerics
from robustreg.attacks.adaptive import LpFGSM, LpNoise, LpNorm
from robustreg.attacks.pgd import PGD
from robustreg.points import draw_per_sample
from robustreg.threat import steepest_direction

T = rr.Threat("linf", 0.1)
WIDE = rr.Threat("linf", 0.1, None)
RULES: list[dict[str, Any]] = [
    {},
    {"beta": 0.1},
    {"p": "absolute"},
    {"p": "absolute", "tau": 1.0, "rescale": True},
    {"p": 32.0},
    {"p": 1.5, "rescale": True},
]
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gradients(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64).pow(3)


def loss_gradient(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    u = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(numerics.cross_entropy(net(u), y).sum(), u)
    return g


# -- the formula -----------------------------------------------------------------------------------------------


def reference_step(g: np.ndarray[Any, Any], eps: float, alpha: float) -> np.ndarray[Any, Any]:
    """The authors' adaptive step, written down again from its formulas in numpy, with their constants."""
    size = np.abs(g.reshape(len(g), -1)) + 1e-12
    pi = size / size.sum(1, keepdims=True)
    gap = -np.log(pi).mean(1) + (pi * np.log(pi)).sum(1)
    q = np.clip(1 + alpha / gap, 1.00098, 2.0)[:, None]
    norm = (size**q).sum(1, keepdims=True) ** (1 / q)
    step: np.ndarray[Any, Any] = eps * np.sign(g) * ((size / norm) ** (q - 1)).reshape(g.shape)
    return step


@pytest.mark.parametrize("beta", [0.01, 0.1, 0.9])
def test_it_is_the_authors_step(beta: float, smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    g = 1e6 * loss_gradient(smooth_net, x, y)  # so large that their 1e-12 is nothing beside it
    found = LpFGSM(WIDE, beta=beta)(smooth_net, x, y) - x
    np.testing.assert_allclose(found.numpy(), reference_step(g.numpy(), 0.1, beta), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("shape", [(5, 3072), (4, 3, 5, 5), (3, 1), (3,)], ids=str)
def test_its_length_is_eps_and_it_gains_eps_times_the_dual_norm(
    rule: dict[str, Any], shape: tuple[int, ...]
) -> None:
    norm, g = LpNorm(**rule), gradients(*shape)
    step, p = norm.steepest(g, 0.3), norm.exponent(g)
    p = p if isinstance(p, Tensor) else torch.full(shape[:1], p, dtype=g.dtype)
    radius = 0.3 * numerics.flatten(g).shape[1] ** (1 / p) if norm.rescale else torch.full_like(p, 0.3)
    torch.testing.assert_close(numerics.norm(step, p), radius, rtol=1e-12, atol=0)
    gained = numerics.flatten(g * step).sum(1)
    torch.testing.assert_close(gained, radius * numerics.norm(g, p / (p - 1)), rtol=1e-12, atol=0)
    torch.testing.assert_close(gained, norm.rise(g, 0.3), rtol=1e-12, atol=0)
    if not norm.rescale:
        assert step.abs().max() <= 0.3 * (1 + 1e-12)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_and_zero_gradients(rule: dict[str, Any], dtype: torch.dtype) -> None:
    norm, g = LpNorm(**rule), gradients(4, 2, 5, 5)
    exact = norm.steepest(g, 0.3)
    found = norm.steepest(g.to(dtype), 0.3)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    rounding = 4 * float(exact.abs().max()) * torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=max(rounding, 1e-12))
    for scale in (1e-30, 1e30):
        torch.testing.assert_close(norm.steepest(scale * g, 0.3), exact, rtol=0, atol=1e-12)
    g = torch.tensor([[0.0, 0.0], [0.0, 2.0], [math.nan, 1.0], [-math.inf, 1.0]], dtype=dtype)
    step = norm.steepest(g, 0.3)
    assert step.isfinite().all()
    assert not step[0].any()
    assert step[1:3, 0].tolist() == [0, 0]
    assert (step[1:3, 1] > 0).all()
    assert step[3, 0] < 0


def test_its_limits_are_fgsm_and_the_l2_step(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    fgsm = rr.Steepest(WIDE)(smooth_net, x, y)
    assert torch.equal(LpFGSM(WIDE, p=math.inf)(smooth_net, x, y), fgsm)
    torch.testing.assert_close(LpFGSM(WIDE, p=1e9)(smooth_net, x, y), fgsm, rtol=0, atol=1e-8)
    for q, limit in ((1.00098, LpFGSM(WIDE, beta=0.0)), (2.0, LpFGSM(WIDE, beta=1e9))):
        torch.testing.assert_close(
            limit(smooth_net, x, y), LpFGSM(WIDE, p=q / (q - 1))(smooth_net, x, y), rtol=0, atol=1e-12
        )
    for p in (1.0, 1.5, 2.0, 7.0):
        found = LpFGSM(WIDE, p=p)(smooth_net, x, y)
        expected = rr.Steepest(rr.Threat(p, 0.1, None))(smooth_net, x, y)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("rule", RULES[:5], ids=str)
def test_a_flat_gradient_moves_every_feature_by_less_unless_rescaled(rule: dict[str, Any]) -> None:
    g = gradients(2, 3072).sign()
    p = LpNorm(**rule).exponent(g)
    share = 3072 ** (-1 / (p if isinstance(p, Tensor) else torch.full((2,), p, dtype=g.dtype)))
    for rescale, size in ((False, 0.1 * share), (True, torch.full_like(share, 0.1))):
        step = LpNorm(**{**rule, "rescale": rescale}).steepest(g, 0.1)
        torch.testing.assert_close(step, g * size.unsqueeze(1), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("p", "share"), [(32.0, 0.78), (16.0, 0.61), (8.0, 0.37)])
def test_how_far_a_flat_gradient_moves_a_small_colour_image(p: float, share: float) -> None:
    step = LpNorm(p=p).steepest(torch.ones(1, 3, 32, 32), 1.0)
    torch.testing.assert_close(step, torch.full_like(step, share), rtol=0, atol=0.005)


# -- the point -------------------------------------------------------------------------------------------------


def test_start_base_scale_and_clip(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    start, base = rr.Uniform(WIDE, 1), rr.Uniform(WIDE, 2)
    u, v = (point(smooth_net, x, y, generator=seeded()) for point in (start, base))
    step = LpNorm(p="absolute").steepest(loss_gradient(smooth_net, u, y), 0.1)
    point = LpFGSM(WIDE, start, p="absolute", scale=-0.5)
    torch.testing.assert_close(
        point(smooth_net, x, y, generator=seeded()), u - 0.5 * step, rtol=0, atol=1e-14
    )
    point = LpFGSM(WIDE, start, base, p="absolute")
    torch.testing.assert_close(point(smooth_net, x, y, generator=seeded()), v + step, rtol=0, atol=1e-14)
    wide = rr.Threat("linf", 0.5)
    free, boxed, kept = (
        LpFGSM(wide, start, p=2.0, rescale=True, clip=clip)(smooth_net, x, y, generator=seeded())
        for clip in ("none", "box", "threat")
    )
    assert free.max() > 1
    assert torch.equal(boxed, free.clamp(0, 1))
    assert (free - x).abs().max() > 0.5
    assert wide.contains(kept, x).all()
    torch.testing.assert_close(kept, free.clamp(x - 0.5, x + 0.5).clamp(0, 1), rtol=0, atol=1e-14)


def test_another_threat_reaches_every_part() -> None:
    other = rr.Threat("linf", 0.3)
    moved = LpFGSM(T, LpNoise(T, 16.0), rr.Uniform(T), p=16.0).with_threat(other)
    assert moved == LpFGSM(other, LpNoise(other, 16.0), rr.Uniform(other), p=16.0)
    assert len({moved, LpFGSM(T), LpFGSM(T, p=16.0), LpFGSM(T, p=16)}) == 3
    assert LpFGSM(T).key != LpFGSM(T, beta=0.1).key


@pytest.mark.parametrize(
    "point",
    [LpFGSM(T), LpFGSM(T, p="absolute"), LpFGSM(T, LpNoise(T), rr.Uniform(T, 0, 1.0, "none"), p=32.0)],
    ids=["relative", "absolute", "noise"],
)
def test_it_leaves_no_trace_and_is_reproducible(
    point: rr.Point, restless_net: nn.Module, batch: Any, snapshot: Any
) -> None:
    before = snapshot(restless_net)
    first = point(restless_net, *batch, generator=seeded(1))
    assert snapshot(restless_net) == before
    assert (first.dtype, first.requires_grad) == (torch.float32, False)
    assert torch.equal(first, point(restless_net, *batch, generator=seeded(1)))
    draws = draw_per_sample(point, batch[0], range(6))
    whole = point(restless_net, *batch, noise=draws)
    for rows in (slice(0, 1), slice(1, 6)):  # whatever the company
        part = {source: draw[rows] for source, draw in draws.items()}
        alone = point(restless_net, batch[0][rows], batch[1][rows], noise=part)
        torch.testing.assert_close(whole[rows], alone, rtol=0, atol=1e-6)


def test_unlabelled_samples_stay(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    found = LpFGSM(WIDE)(smooth_net, x, torch.where(y == 1, -1, y))
    assert ((found == x).flatten(1).all(1) == (y == 1)).all()


def test_it_attacks_weaker_than_fgsm_and_rescaled_as_well(relu_net: nn.Module, batch: Any) -> None:
    x, y = batch

    def rise(point: rr.Point) -> float:
        return float(numerics.cross_entropy(relu_net(point(relu_net, x, y)), y).mean().detach())

    clean, fgsm = rise(rr.Clean()), rise(rr.Steepest(WIDE))
    short, long = rise(LpFGSM(WIDE, p=8.0)), rise(LpFGSM(WIDE, p=8.0, rescale=True, clip="threat"))
    assert clean < short < long <= fgsm * (1 + 1e-6)
    assert rise(PGD(WIDE, start=LpFGSM(WIDE, clip="threat"))) > short


# -- the older code --------------------------------------------------------------------------------------------


def test_the_older_codes_noise(smooth_net: nn.Module, double_batch: Any) -> None:
    """Gradient at ``x + eps u'``, ``u'`` the noise of l_p length 1; the step is added to ``x + eps u``."""
    x, y = double_batch
    eps, p = 0.1, 8.0
    q = p / (p - 1)
    noise = rr.Uniform(WIDE, 0, 1.0, "none")
    u = noise.draw(x, seeded(5)) / eps

    def direction(v: Tensor) -> Tensor:
        length = v.abs().pow(q).flatten(1).sum(1).pow(1 / q).reshape(-1, 1, 1, 1)
        return v.sign() * (v.abs() / length).pow(q - 1)

    g = loss_gradient(smooth_net, x + eps * direction(u), y)
    expected = x + eps * u + eps * direction(g)
    point = LpFGSM(WIDE, LpNoise(WIDE, p), noise, p=p)
    assert set(point.sources()) == {noise}
    found = point(smooth_net, x, y, noise={noise: eps * u})
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("p", [1.0, 2.0, 32.0, math.inf])
def test_noise_of_one_length(p: float) -> None:
    x = torch.full((3, 2, 4, 4), 0.5, dtype=torch.float64)
    found = LpNoise(WIDE, p)(lambda u: u.flatten(1), x, generator=seeded()) - x
    torch.testing.assert_close(numerics.norm(found, p), torch.full((3,), 0.1, dtype=x.dtype))
    uniform = rr.Uniform(WIDE, 0, 1.0, "none")(lambda u: u.flatten(1), x, generator=seeded()) - x
    torch.testing.assert_close(found, 0.1 * steepest_direction(uniform, p), rtol=0, atol=1e-12)
    other = LpNoise(WIDE, p, number=1)(lambda u: u.flatten(1), x, generator=seeded()) - x
    assert not torch.equal(found, other)


# -- bad rules -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: LpFGSM(T, p="l2"), "p must be 'relative', 'absolute' or a number from 1, got 'l2'"),
        (lambda: LpFGSM(T, p=0.5), "a number from 1, got 0.5"),
        (lambda: LpFGSM(T, p=math.nan), "a number from 1, got nan"),
        (lambda: LpFGSM(T, p=None), "a number from 1, got None"),
        (lambda: LpFGSM(T, beta=-0.1), "beta is a share by which a cosine grows and must be >= 0, got -0.1"),
        (lambda: LpFGSM(T, tau=0), r"tau is a cosine and must lie in \(0, 1\], got 0"),
        (lambda: LpFGSM(T, tau=1.1), "tau is a cosine"),
        (lambda: LpFGSM(T, loss="hinge"), "loss must be one of"),
        (lambda: LpFGSM(T, mode="test"), "mode must be one of"),
        (lambda: LpFGSM(T, clip="ball"), "clip must be one of"),
        (lambda: LpNoise(T, p=0.5), "p must be a number from 1, got 0.5"),
    ],
)
def test_bad_rules_are_refused_when_they_are_made(build: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build()
