"""Points: frozen rules for where to look, and ordinary attacks when they are called."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import robustreg as rr
from robustreg.points import draw_per_sample
from robustreg.probe import Probe
from robustreg.streams import Stream

T = rr.Threat("linf", 0.1)
L2 = rr.Threat("l2", 0.5)

POINTS = [
    rr.Clean(),
    rr.Uniform(T),
    rr.Uniform(L2, number=2, scale=2, clip="none"),
    rr.Gaussian(0.1),
    rr.Steepest(T),
    rr.Steepest(L2, mode="batch", loss="margin"),
    rr.Steepest(T, start=rr.Uniform(T), loss="kl", clip="threat"),
    rr.FGSM(L2),
    rr.Along(rr.Clean(), rr.Uniform(T), 0.3),
    rr.PGD(T, steps=3),
    rr.PGD(L2, steps=2, restarts=2, mode="batch"),
    rr.PGD(T, steps=2, start=rr.Clean(), early_exit=False),
]


def name(point: rr.Point) -> str:
    return f"{type(point).__name__}-{POINTS.index(point)}"


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("point", POINTS, ids=name)
def test_called_as_an_attack_it_leaves_no_trace(
    point: rr.Point, restless_net: nn.Module, batch: Any, snapshot: Callable[..., Any]
) -> None:
    restless_net[1].eval()  # a mixture of flags
    restless_net[5].weight.requires_grad_(False)
    x, y = batch
    before, data = snapshot(restless_net), x.clone()
    found = point(restless_net, x, y, generator=seeded())
    assert snapshot(restless_net) == before
    assert torch.equal(x, data)
    assert found.shape == x.shape
    assert found.dtype == x.dtype
    assert not found.requires_grad


class Failing(nn.Module):
    """A network that raises at its k-th forward."""

    def __init__(self, net: nn.Module, at: int) -> None:
        super().__init__()
        self.net, self.at, self.runs = net, at, 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        if self.runs == self.at:
            raise KeyError("out of memory, say")
        return self.net(x)


@pytest.mark.parametrize("at", [1, 2, 4])
@pytest.mark.parametrize("mode", ["eval", "batch"])
def test_nor_does_an_attack_that_breaks_off(
    at: int, mode: Any, restless_net: nn.Module, batch: Any, snapshot: Callable[..., Any]
) -> None:
    model = Failing(restless_net, at)
    restless_net[1].eval()
    before = snapshot(model)
    with pytest.raises(KeyError):
        rr.PGD(T, steps=5, restarts=2, mode=mode, early_exit=False)(model, *batch)
    assert model.runs == at
    assert snapshot(model) == before


@pytest.mark.parametrize("point", POINTS, ids=name)
@pytest.mark.parametrize("shape", [(3, 5), (3, 2, 5), (1, 5), (3, 2, 2, 2)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_any_shape_and_dtype(point: rr.Point, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = (0.2 + 0.6 * torch.rand(shape, generator=seeded())).to(dtype)
    weight = torch.randn(math.prod(shape[1:]), 4, generator=seeded(1)).to(dtype)
    found = point(lambda u: u.flatten(1) @ weight, x, torch.arange(shape[0]))
    assert found.shape == x.shape
    assert found.dtype == dtype
    assert found.isfinite().all()


@pytest.mark.parametrize("point", POINTS, ids=name)
def test_memory_layout_does_not_matter(point: rr.Point, relu_net: nn.Module, batch: Any) -> None:
    x, y = batch
    strided = torch.stack([x, -x], dim=-1)[..., 0]
    labels = torch.stack([y, y], dim=1)[:, 0]
    assert not strided.is_contiguous()
    assert torch.equal(point(relu_net, strided, labels), point(relu_net, x.contiguous(), y))


@pytest.mark.parametrize("point", [p for p in POINTS if list(p.sources())], ids=name)
def test_a_generator_decides_the_draws(point: rr.Point, relu_net: nn.Module, batch: Any) -> None:
    g, h = seeded(3), seeded(3)
    assert torch.equal(point(relu_net, *batch, generator=g), point(relu_net, *batch, generator=h))
    assert not torch.equal(point(relu_net, *batch, generator=g), point(relu_net, *batch, generator=seeded(3)))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("point", POINTS, ids=name)
def test_attacks_work_where_gradients_are_switched_off(
    point: rr.Point, context: Callable[[], Any], relu_net: nn.Module, batch: Any
) -> None:
    expected = point(relu_net, *batch)
    with context():
        x, y = (t.clone() for t in batch)
        assert torch.equal(point(relu_net, x, y), expected)


# -- what they are -------------------------------------------------------------------------------------------


def test_uniform_is_the_threats_draw_within_the_box(batch: Any) -> None:
    x, _ = batch
    far = rr.Uniform(rr.Threat("linf", 0.7))(lambda u: u, x)
    assert (far - x).abs().max() <= 0.7
    assert far.min() == 0
    assert far.max() == 1
    assert rr.Uniform(rr.Threat("linf", 0.7), clip="none")(lambda u: u, x).max() > 1
    assert (rr.Uniform(T, scale=3, clip="none")(lambda u: u, x) - x).abs().max() > 0.2
    assert torch.equal(rr.Uniform(T, scale=0)(lambda u: u, x), x)


def test_gaussian_has_its_standard_deviation() -> None:
    x = torch.full((4, 5000), 0.5)
    noise = rr.Gaussian(0.3)(lambda u: u, x) - x
    assert float(noise.std()) == pytest.approx(0.3, rel=0.02)
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    clamped = rr.Gaussian(1.0, bounds=(0.4, 0.6))(lambda u: u, x)
    assert clamped.min() == pytest.approx(0.4)
    assert clamped.max() == pytest.approx(0.6)


def test_along_is_the_line_through_two_points(relu_net: nn.Module, batch: Any) -> None:
    x, y = batch
    end = rr.FGSM(T)
    at_end = end(relu_net, x, y)
    for t in (0.0, 0.25, 1.0, -0.5):
        found = rr.Along(rr.Clean(), end, t)(relu_net, x, y)
        torch.testing.assert_close(found, x + t * (at_end - x))


@pytest.mark.parametrize("p", ["linf", "l2", "l1", "l1.5"])
def test_steepest_adds_the_threats_direction_times_the_scale(
    p: str, smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    threat = rr.Threat(p, 0.2)
    u = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(smooth_net(u), y, reduction="sum"), u)
    for scale in (1.0, 0.5, -1.0):
        found = rr.Steepest(threat, scale=scale)(smooth_net, x, y)
        torch.testing.assert_close(found, x + scale * threat.steepest(g), rtol=0, atol=1e-12)
        assert torch.allclose(threat.length(found - x), torch.tensor(abs(scale) * 0.2, dtype=torch.float64))


def test_fgsm_stays_within_the_threat_and_steepest_need_not(relu_net: nn.Module, batch: Any) -> None:
    x, y = batch
    wide = rr.Threat("linf", 0.5)
    assert rr.Steepest(wide)(relu_net, x, y).max() > 1
    assert wide.contains(rr.FGSM(wide)(relu_net, x, y), x).all()
    assert wide.contains(rr.FGSM(wide, start=rr.Uniform(wide), step=1.25)(relu_net, x, y), x).all()


def test_unlabelled_samples_stay_where_no_label_says_where_to_go(relu_net: nn.Module, batch: Any) -> None:
    x, y = batch
    labels = torch.where(torch.arange(6) < 3, y, -1)
    found = rr.Steepest(T)(relu_net, x, labels)
    assert torch.equal(found[3:], x[3:])
    assert (found[:3] != x[:3]).any()


# -- as values -----------------------------------------------------------------------------------------------


def test_equal_points_are_the_same_point() -> None:
    points = [rr.Clean(), rr.Uniform(T), rr.Uniform(T, 1), rr.Steepest(T), rr.FGSM(T), rr.PGD(T), rr.PGD(L2)]
    copies = [replace(p) for p in points]  # type: ignore[type-var]
    assert points == copies
    assert len(set(points + copies)) == len(points)
    assert [p.key for p in points] == [p.key for p in copies]
    assert len({p.key for p in points}) == len(points)


def test_points_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        rr.Uniform(T).number = 3  # type: ignore[misc]


def test_another_threat_reaches_every_part() -> None:
    point = rr.Along(rr.FGSM(T, start=rr.Uniform(T)), rr.PGD(T, start=rr.Gaussian(0.1)), 0.5)
    other = point.with_threat(L2)
    assert set(point.threats()) == {T}
    assert set(other.threats()) == {L2}
    assert rr.Clean().with_threat(L2) == rr.Clean()


@pytest.mark.parametrize(
    ("point", "reads"),
    [
        (rr.Clean(), False),
        (rr.Uniform(T), False),
        (rr.Steepest(T), True),
        (rr.Steepest(T, loss="kl"), False),
        (rr.Steepest(T, loss="kl", start=rr.FGSM(T)), True),
        (rr.Along(rr.Clean(), rr.PGD(T)), True),
        (rr.PGD(T, loss="kl"), False),
    ],
    ids=str,
)
def test_a_point_knows_whether_it_reads_labels(
    point: rr.Point, reads: bool, relu_net: nn.Module, batch: Any
) -> None:
    assert point.reads_labels == reads
    if reads:
        with pytest.raises(ValueError, match="needs labels y"):
            point(relu_net, batch[0])
    else:
        assert point(relu_net, batch[0]).shape == batch[0].shape


def test_sources_are_the_random_points_inside() -> None:
    point = rr.Along(rr.Uniform(T), rr.PGD(T, restarts=2, start=rr.FGSM(T, start=rr.Gaussian(0.1, number=4))))
    assert set(point.sources()) == {rr.Uniform(T), rr.Gaussian(0.1, number=4), rr.Gaussian(0.1, number=5)}
    with pytest.raises(NotImplementedError, match="Clean is not a random point"):
        rr.Clean().draw(torch.zeros(1, 2), None)


# -- draws ---------------------------------------------------------------------------------------------------


def test_equal_points_share_a_draw_and_another_number_is_another_draw() -> None:
    x = torch.full((3, 4), 0.5)
    probe = Probe(lambda u: u, x, None, stream=Stream(0))
    assert probe.at(rr.Uniform(T)) is probe.at(rr.Uniform(T))
    draws = [rr.Uniform(T), rr.Uniform(T, number=1), rr.Uniform(T, number=2), rr.Uniform(T, clip="none")]
    assert len({tuple(probe.at(p).flatten().tolist()) for p in draws}) == len(draws)


def test_a_draw_does_not_depend_on_what_was_drawn_before() -> None:
    x = torch.full((3, 4), 0.5)
    alone = Probe(lambda u: u, x, None, stream=Stream(0, 5)).at(rr.Uniform(T))
    probe = Probe(lambda u: u, x, None, stream=Stream(0, 5))
    probe.at(rr.Uniform(T, number=9))
    probe.at(rr.Gaussian(0.1))
    assert torch.equal(probe.at(rr.Uniform(T)), alone)


@given(
    cut=st.integers(1, 5),
    point=st.sampled_from(
        [
            rr.Uniform(L2),
            rr.FGSM(T, start=rr.Uniform(T)),
            rr.PGD(L2, 2, restarts=2),
            rr.PGD(T, 2, early_exit=False),
        ]
    ),
)
@settings(max_examples=12, deadline=None)
def test_with_draws_per_sample_it_does_not_matter_in_which_batch_a_sample_travels(
    cut: int, point: rr.Point
) -> None:
    x = 0.2 + 0.6 * torch.rand(6, 8, generator=seeded(), dtype=torch.float64)
    y = torch.arange(6) % 3
    weight = torch.randn(8, 3, generator=seeded(1), dtype=torch.float64)

    def model(u: Tensor) -> Tensor:
        return torch.tanh(u @ weight)

    def attack(rows: slice) -> Tensor:
        seeds = list(range(6))[rows]
        return point(model, x[rows], y[rows], noise=draw_per_sample(point, x[rows], seeds))

    together = attack(slice(0, 6))
    apart = torch.cat([attack(slice(0, cut)), attack(slice(cut, 6))])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-12)


# -- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (lambda x, y: (255 * x, y), ValueError, "but the threat's bounds are .* divide by 255"),
        (lambda x, y: ((255 * x).to(torch.uint8), y), TypeError, "divide 0-255 images by 255"),
        (lambda x, y: (torch.where(x > 0.5, torch.nan, x), y), ValueError, "NaN or infinite"),
        (lambda x, y: (x.numpy(), y), TypeError, "x must be a floating point tensor .* got a ndarray"),
        (lambda x, y: (x, y.float()), TypeError, r"labels must be integers \[B\], got torch.float32"),
        (lambda x, y: (x, y[:-1]), ValueError, r"labels must be \[B\] = \[6\]"),
        (lambda x, y: (x, y + 5), ValueError, "labels run up to 7, but the model has 3 classes"),
        (lambda x, y: (x, y - 3), ValueError, "or -1 for unlabelled, got -3"),
    ],
)
def test_bad_batches_are_refused_in_one_sentence(
    change: Callable[..., Any], error: type[Exception], sentence: str, relu_net: nn.Module, batch: Any
) -> None:
    with pytest.raises(error, match=sentence):
        rr.PGD(T, steps=2)(relu_net, *change(*batch))


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: rr.Steepest(T, clip="ball"), "clip must be one of threat, box, none, got 'ball'"),
        (lambda: rr.Uniform(T, clip="ball"), "clip must be one of"),
        (lambda: rr.Uniform(T, scale=-1), "scale is the ball's radius .* got -1"),
        (lambda: rr.Steepest(T, mode="test"), "mode must be one of"),
        (lambda: rr.Steepest(T, loss="hinge"), "loss must be one of"),
        (lambda: rr.Gaussian(-0.1), "std must be >= 0"),
        (lambda: rr.Gaussian(float("nan")), "std must be >= 0"),
    ],
)
def test_bad_rules_are_refused_when_they_are_made(build: Callable[[], rr.Point], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build()


def test_a_network_that_does_not_pass_gradients_is_refused() -> None:
    bias = nn.Parameter(torch.zeros(3))
    x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
    for model in (
        lambda u: bias.expand(len(u), 3),
        lambda u: u.detach()[:, :3] + bias,
        lambda u: u.detach()[:, :3],
    ):
        with pytest.raises(ValueError, match=r"no gradient from the loss to the model's input"):
            rr.FGSM(T)(model, x, y)


# -- a user's own --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Corner(rr.Point):
    """A random corner of the l_inf ball: everything a user needs to write."""

    threat: rr.Threat
    number: int = 0

    def draw(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return torch.randint(0, 2, x.shape, generator=generator, device=x.device).to(x.dtype) * 2 - 1

    def locate(self, probe: Probe) -> Tensor:
        return self.threat.clip(probe.x + self.threat.eps * probe.noise(self))


def test_a_users_point_is_an_attack_a_start_and_a_place_for_a_term(relu_net: nn.Module, batch: Any) -> None:
    x, y = batch
    corner = Corner(T)
    assert torch.allclose((corner(relu_net, x) - x).abs(), torch.tensor(0.1))
    attack = rr.PGD(T, 2, start=corner, restarts=3)
    assert list(attack.sources()) == [Corner(T), Corner(T, 1), Corner(T, 2)]
    assert T.contains(attack(relu_net, x, y), x).all()
    assert rr.CrossEntropy(at=corner).with_threat(T)
    out = (rr.CrossEntropy() + 0.5 * rr.CrossEntropy(at=corner)).detailed(relu_net, x, y)
    assert out.values["cross_entropy#2"] != out.values["cross_entropy"]
