"""Single-step attacks: where they start, what they step along, how far they get."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import robustreg as rr
from robustreg.attacks import IFGSM, N_FGSM, R_FGSM, RS_FGSM, MultiGrad, Rademacher, ZeroGrad
from robustreg.attacks.single_step import last_labelled, quantile
from robustreg.points import draw_per_sample
from robustreg.probe import Probe
from robustreg.streams import Stream

T = rr.Threat("linf", 0.1)
WIDE = rr.Threat("linf", 0.1, None)
NORMS = [1.0, 1.5, 2.0, math.inf]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(features: int, classes: int = 2, seed: int = 0) -> nn.Module:
    net = nn.Linear(features, classes, bias=False).double()
    with torch.no_grad():
        weight = torch.randn(classes, features, generator=seeded(seed), dtype=torch.float64)
        net.weight.copy_(weight / math.sqrt(features))  # no saturated softmax, which has no gradient
    return net


def binary(features: int = 20_000) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A linear binary network, samples, labels and the sign of the loss's gradient, the same everywhere."""
    net = linear(features)
    x = torch.full((4, features), 0.5, dtype=torch.float64)
    y = torch.tensor([0, 1, 1, 0])
    w = (net.weight[1] - net.weight[0]).detach()
    sign = torch.where((y == 0).unsqueeze(1), w.sign(), -w.sign())
    return net, x, y, sign


# -- Rademacher -------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0])
def test_a_corner_has_the_length_it_should(norm: float, scale: float) -> None:
    threat = rr.Threat(norm, 0.3, None)
    x = torch.rand(5, 1, 4, 4, generator=seeded(), dtype=torch.float64)
    delta = Rademacher(threat, scale=scale)(lambda u: u.flatten(1), x, generator=seeded()) - x
    torch.testing.assert_close(
        threat.length(delta), torch.full((5,), 0.3 * scale, dtype=x.dtype), rtol=1e-12, atol=1e-12
    )
    assert (
        delta.abs().flatten(1) - delta.abs().flatten(1)[:, :1]
    ).abs().max() < 1e-12  # the same in every feature


def test_the_signs_are_fair_and_independent_and_named_by_number() -> None:
    point, x = Rademacher(WIDE), torch.zeros(4, 25_000)
    signs = point.draw(x, seeded())
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert signs.mean(1).abs().max() < 4 / math.sqrt(25_000)
    assert (signs[0] * signs[1]).mean().abs() < 4 / math.sqrt(25_000)
    net = linear(25_000).float()
    assert not torch.equal(point(net, x), Rademacher(WIDE, number=1)(net, x))


def test_the_box_is_kept_unless_told() -> None:
    x = torch.zeros(2, 6)
    assert Rademacher(T)(linear(6).float(), x).min() == 0
    assert Rademacher(T, clip="none")(linear(6).float(), x).min() < 0


# -- what is known of the perturbations -------------------------------------------------


def test_the_mean_perturbation_of_rs_fgsm() -> None:
    net, x, y, sign = binary()
    along = ((RS_FGSM(T)(net, x, y, generator=seeded()) - x) * sign) / T.eps
    # P(at the boundary) = 0.625 and the mean of delta * s is 0.625 + 0.375 * 0.625
    count = along.numel()
    assert float((along > 1 - 1e-9).double().mean()) == pytest.approx(0.625, abs=4 * 0.5 / math.sqrt(count))
    assert float(along.mean()) == pytest.approx(0.859375, abs=4 * 0.25 / math.sqrt(count))
    assert along.abs().max() <= 1 + 1e-9


def test_the_moments_of_n_fgsm() -> None:
    net, x, y, sign = binary()
    delta = (N_FGSM(WIDE)(net, x, y, generator=seeded()) - x) / T.eps
    spread = 4 / math.sqrt(delta.numel())
    assert float((delta * sign).mean()) == pytest.approx(1.0, abs=1.2 * spread)
    assert float(delta.square().mean()) == pytest.approx(1 + 4 / 3, abs=3 * spread)
    assert float(delta.abs().mean()) == pytest.approx(1.25, abs=spread)
    assert 2.9 < float(delta.abs().max()) <= 3 + 1e-9


def test_n_fgsm_keeps_the_box_and_leaves_the_ball() -> None:
    net, _, y, _ = binary(50)
    x = torch.rand(4, 50, generator=seeded(3), dtype=torch.float64)
    found = N_FGSM(T)(net, x, y, generator=seeded())
    assert found.min() >= 0
    assert found.max() <= 1
    assert not T.contains(found, x).any()


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_r_fgsm_spends_alpha_on_noise_and_the_rest_on_the_step(alpha: float) -> None:
    net, x, y, sign = binary(200)
    delta = (R_FGSM(T, alpha)(net, x, y, generator=seeded()) - x) * sign / T.eps
    # with or against the noise: alpha + (1 - alpha), or -alpha + (1 - alpha)
    expected = {1.0, round(1 - 2 * alpha, 6) + 0.0}
    assert {round(v, 6) + 0.0 for v in delta.flatten().tolist()} == expected
    assert R_FGSM(T, 0.0)(net, x, y).allclose(rr.FGSM(T)(net, x, y))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("make", [RS_FGSM, R_FGSM, ZeroGrad, MultiGrad, IFGSM], ids=lambda m: m.__name__)
def test_attacks_stay_within_the_threat(norm: float, make: Any, batch: Any, relu_net: nn.Module) -> None:
    threat = rr.Threat(norm, 0.4)
    found = make(threat)(relu_net, *batch, generator=seeded())
    assert threat.contains(found, batch[0]).all()
    assert found.dtype == batch[0].dtype


@pytest.mark.parametrize(
    "point", [RS_FGSM(T), R_FGSM(T), N_FGSM(T), ZeroGrad(T), MultiGrad(T), IFGSM(T)], ids=repr
)
def test_attacks_leave_no_trace_and_are_reproducible(
    point: rr.Point, restless_net: nn.Module, batch: Any, snapshot: Any
) -> None:
    before = snapshot(restless_net)
    first = point(restless_net, *batch, generator=seeded(1))
    assert snapshot(restless_net) == before
    assert torch.equal(first, point(restless_net, *batch, generator=seeded(1)))
    random = list(point.sources())
    if random:
        assert not torch.equal(first, point(restless_net, *batch, generator=seeded(2)))
        draws = draw_per_sample(point, batch[0], range(6))
        assert set(draws) == set(random)
        whole = point(restless_net, *batch, noise=draws)
        alone = point(restless_net, batch[0][2:3], batch[1][2:3], noise={p: d[2:3] for p, d in draws.items()})
        torch.testing.assert_close(whole[2:3], alone, rtol=0, atol=1e-6)


# -- ZeroGrad -------------------------------------------------


@given(q=st.floats(0, 1), n=st.integers(1, 40), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_quantile_is_torchs(q: float, n: int, seed: int) -> None:
    rows = torch.rand(3, n, generator=seeded(seed), dtype=torch.float64)
    torch.testing.assert_close(quantile(rows, q), torch.quantile(rows, q, dim=1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("q", [0.0, 0.35, 0.5, 0.9, 1.0])
def test_zero_grad_leaves_out_the_smallest_entries(q: float) -> None:
    net, x, y, sign = binary(101)
    start = rr.Uniform(T)
    draws = draw_per_sample(ZeroGrad(T), x, range(4))
    found = ZeroGrad(T, quantile=q)(net, x, y, noise=draws)
    w = (net.weight[1] - net.weight[0]).detach().abs()
    kept = w >= torch.quantile(w, q)
    z = start(net, x, noise=draws)
    expected = x + (z - x + 2 * T.eps * sign * kept).clamp(-T.eps, T.eps)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert int(kept.sum()) == 101 - math.ceil(q * 100)


def test_zero_grad_starts_where_it_is_told() -> None:
    net, x, y, _ = binary(30)
    assert torch.equal(
        ZeroGrad(T, quantile=0.0, scale=1.0, start=rr.Clean())(net, x, y), rr.FGSM(T)(net, x, y)
    )
    assert list(ZeroGrad(T, start=rr.Clean()).sources()) == []


# -- MultiGrad -------------------------------------------------


def votes(agree: int | None, mode: Any, net: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    point = MultiGrad(T, samples=3, agree=agree, mode=mode)
    probe = Probe(net, x, y, stream=Stream(5))
    signs = torch.stack([probe.grad(s, "ce", mode).sign() for s in point.starts()]).sum(0)
    return signs, probe.at(point)


@pytest.mark.parametrize(("agree", "needed"), [(None, 3), (3, 3), (2, 1)])
def test_multi_grad_steps_where_the_signs_agree(
    agree: int | None, needed: int, smooth_net: nn.Module, double_batch: Any
) -> None:
    with torch.no_grad():
        for p in smooth_net.parameters():
            p.mul_(6)  # curved enough for the signs to differ
    x, y = double_batch
    signs, found = votes(agree, "eval", smooth_net, x, y)
    expected = x + T.eps * torch.where(signs.abs() >= needed, signs.sign(), 0.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert 0 < int((signs.abs() < 3).sum()) < signs.numel()


def test_on_a_linear_loss_multi_grad_is_fgsm() -> None:
    net, x, y, _ = binary(30)
    torch.testing.assert_close(MultiGrad(T)(net, x, y), rr.FGSM(T)(net, x, y), rtol=0, atol=1e-15)


def test_multi_grad_costs_a_forward_for_each_point(relu_net: nn.Module, batch: Any) -> None:
    probe = Probe(relu_net, *batch, stream=Stream(0))
    probe.at(MultiGrad(T, samples=4))
    assert [p.kind for p in probe.passes].count("forward") == 4
    assert [p.kind for p in probe.passes].count("input backward") == 4


# -- IFGSM -------------------------------------------------


def test_ifgsm_is_pgd_from_the_sample(relu_net: nn.Module, batch: Any) -> None:
    pgd = rr.PGD(T, 5, step_size=T.eps / 5, start=rr.Clean(), early_exit=False)
    probe = Probe(relu_net, *batch, stream=Stream(0))
    torch.testing.assert_close(probe.at(IFGSM(T, 5)), probe.at(pgd), rtol=0, atol=1e-7)
    torch.testing.assert_close(probe.at(IFGSM(T, 1)), probe.at(rr.FGSM(T)), rtol=0, atol=1e-7)


def test_ifgsm_of_the_last_samples_runs_on_them_alone(relu_net: nn.Module, batch: Any) -> None:
    x, y = batch[0], torch.tensor([0, 1, 2, 0, 1, -1])
    seen: list[int] = []
    relu_net.register_forward_pre_hook(lambda m, inputs: seen.append(len(inputs[0])))
    found = IFGSM(T, 3, last=2)(relu_net, x, y)
    assert seen == [2, 2, 2]
    torch.testing.assert_close(found, IFGSM(T, 3)(relu_net, x, y)[[4, 3]], rtol=0, atol=1e-7)


def test_the_last_labelled_samples() -> None:
    y = torch.tensor([-1, 2, 0, -1, 1, -1])
    assert last_labelled(y, 1).tolist() == [4]
    assert last_labelled(y, 3).tolist() == [4, 2, 1]
    assert len(last_labelled(y, 9)) == 6
    assert last_labelled(torch.tensor([-1, -1]), 1).shape == (1,)


# -- where it could break -------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("make", [RS_FGSM, R_FGSM, N_FGSM, ZeroGrad, MultiGrad, IFGSM, Rademacher])
def test_zero_gradients_and_low_precision_do_no_harm(make: Any, dtype: torch.dtype, batch: Any) -> None:
    dead = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 3)).to(dtype)
    with torch.no_grad():
        dead[1].bias.fill_(-100)
    x = batch[0].to(dtype)
    found = make(T)(dead, x, batch[1])
    assert found.isfinite().all()
    assert found.dtype == dtype
    if make is not N_FGSM:
        assert T.contains(found, x).all()


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Rademacher(T, scale=-1), "must be >= 0, got -1"),
        (lambda: Rademacher(T, clip="ball"), "clip must be one of"),
        (
            lambda: R_FGSM(T, alpha=1.5),
            r"alpha is the part of eps that the random start takes, in \[0, 1\], got 1.5",
        ),
        (lambda: ZeroGrad(T, quantile=35), r"quantile must lie in \[0, 1\], got 35"),
        (lambda: ZeroGrad(T, loss="hinge"), "loss must be one of"),
        (lambda: MultiGrad(T, samples=0), "samples >= 1, got 0"),
        (lambda: MultiGrad(T, agree=1), "a majority of the 3 samples, got 1"),
        (lambda: MultiGrad(T, agree=4), "a majority of the 3 samples, got 4"),
        (lambda: IFGSM(T, steps=0), "steps >= 1, got 0"),
        (lambda: IFGSM(T, last=0), "a number of samples from 1"),
        (lambda: IFGSM(T, mode="test"), "mode must be one of"),
    ],
)
def test_bad_rules_are_refused_when_they_are_made(build: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build()
