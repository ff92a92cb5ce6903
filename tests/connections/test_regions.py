"""Linear regions: codes of kinks, affine segments, the distance to a region's border; all against dense sampling."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustreg.connections import CLAIMS, Case, border_distance, fitting_radius, telling_residual
from robustreg.connections.kinks import Kinks
from robustreg.connections.regions import (
    AFFINE_HERE,
    BIAS_FREE,
    BINARY,
    LENGTHS,
    SAME_REGION,
    affine_between,
    codes,
    unread,
)

KINKED = ["relu_pool", "batch_norm", "by_hand", "two_classes"]


def case_of(network: Any, name: str, samples: Tensor, radius: float = 1e-2) -> Case:
    y = torch.arange(len(samples)) % (2 if name == "two_classes" else 3)
    return Case(network(name), samples, y, radius=radius)


@pytest.mark.parametrize("name", KINKED)
def test_a_segment_is_affine_exactly_where_codes_are_equal(name: str, network: Any, samples: Tensor) -> None:
    """Second differences of the logits at many places, for segments of many lengths."""
    seen = set()
    for radius in (1e-3, 1e-2, 0.05, 0.2, 1.0):
        case = case_of(network, name, samples, radius)
        t = torch.linspace(0, 1, 200, dtype=torch.float64)
        z = torch.stack([case.logits_at(case.x + s * (case.end - case.x)) for s in t])
        bend = (z[2:] - 2 * z[1:-1] + z[:-2]).abs().amax((0, 2))
        straight = bend < 1e-12
        claimed = SAME_REGION.measure(case)
        assert not (claimed & ~straight).any()  # never claimed where it is not
        same = (codes(case, case.x) == codes(case, case.end)).all(1)
        assert torch.equal(claimed, same)
        seen |= set(claimed.tolist())
    assert seen == {True, False}


@pytest.mark.parametrize("name", KINKED)
def test_the_radius_that_fits_is_the_largest_that_does(name: str, network: Any, samples: Tensor) -> None:
    case = case_of(network, name, samples)
    radius = fitting_radius(case)
    assert SAME_REGION.measure(case.at_radius(radius)).sum() >= 3
    larger = [r for r in LENGTHS if r > radius]
    assert all(SAME_REGION.measure(case.at_radius(r)).sum() < 3 for r in larger)


def test_a_radius_for_networks_with_few_or_no_regions(network: Any, samples: Tensor) -> None:
    assert fitting_radius(case_of(network, "gelu", samples, 0.7)) == 0.7
    assert fitting_radius(case_of(network, "affine", samples)) == LENGTHS[0]
    # a unit for each of many thresholds: a kink every 2e-4 of the first feature's way
    steps = nn.Sequential(nn.Flatten(), nn.Linear(16, 5000), nn.ReLU(), nn.Linear(5000, 3)).double()
    steps[1].weight.data.zero_()
    steps[1].weight.data[:, 0] = 1.0
    steps[1].bias.data = -torch.linspace(0, 1, 5000).double()
    assert fitting_radius(Case(steps, samples, torch.arange(6) % 3)) < 1e-3


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_the_border_is_where_the_codes_change(p: float, network: Any, samples: Tensor) -> None:
    case = case_of(network, "relu_pool", samples[:3])
    distance = border_distance(case, p)
    assert (distance > 0).all()
    generator = torch.Generator().manual_seed(0)
    start = codes(case, case.x)
    nearest = torch.full_like(distance, math.inf)
    for _ in range(300):
        v = torch.randn(case.x.shape, generator=generator, dtype=torch.float64)
        if p == math.inf:
            v = v.sign()
        if p == 1.0:  # the corners of the ball, where it first touches a border
            v = F.one_hot(v.flatten(1).abs().argmax(1), 16).double().reshape(v.shape) * v.sign()
        v = v / torch.linalg.vector_norm(v.flatten(1), ord=p, dim=1).reshape(-1, 1, 1, 1)
        inside = codes(case, case.x + 0.999 * distance.reshape(-1, 1, 1, 1) * v)
        assert torch.equal(inside, start)
        for factor in (1.05, 1.5, 3.0):
            out = (codes(case, case.x + factor * distance.reshape(-1, 1, 1, 1) * v) != start).any(1)
            nearest = torch.where(out, torch.minimum(nearest, factor * distance), nearest)
    assert (nearest <= 3.0 * distance).any()


def test_the_border_of_one_unit_is_its_distance_to_the_hyperplane() -> None:
    net = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 2)).double()
    net[0].weight.data, net[0].bias.data = torch.tensor([[3.0, 4.0]]).double(), torch.tensor([-1.0]).double()
    case = Case(net, torch.tensor([[1.0, 1.0]]), torch.tensor([0]))
    for p, dual in ((2.0, 5.0), (math.inf, 7.0), (1.0, 4.0)):
        assert border_distance(case, p).item() == pytest.approx(6 / dual)


def test_smooth_networks_have_no_regions_and_affine_ones_no_border(network: Any, samples: Tensor) -> None:
    for name, affine in (("gelu", False), ("attention", False), ("affine", True), ("relu_pool", True)):
        case = case_of(network, name, samples)
        assert AFFINE_HERE.measure(case).tolist() == [affine] * 6
    assert border_distance(case_of(network, "affine", samples), 2.0).isinf().all()
    assert not SAME_REGION.measure(case_of(network, "gelu", samples)).any()
    assert SAME_REGION.measure(case_of(network, "affine", samples, 10.0)).all()


def test_a_kink_that_is_not_known_shows_in_the_logits(samples: Tensor) -> None:
    class Hidden(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(1)[:, :3] - 0.5
            return torch.where(x > 0, x, 0.1 * x)  # by comparison: no operation that is watched

    case = Case(Hidden(), samples, torch.zeros(6, dtype=torch.long))
    assert codes(case, case.x).shape == (6, 0)
    across = case.x + (1 - 2 * case.x) * 0.9
    assert not affine_between(case, case.x, across).any()


def test_two_classes_and_biases_are_measured(network: Any, samples: Tensor) -> None:
    two, three = case_of(network, "two_classes", samples), case_of(network, "relu_pool", samples)
    assert BINARY.measure(two).all()
    assert not BINARY.measure(three).any()
    assert BIAS_FREE.measure(two).all()
    assert not BIAS_FREE.measure(three).any()


@pytest.mark.parametrize(
    ("operation", "at"),
    [
        (F.relu, 0.0), (torch.relu, 0.0), (lambda x: x.relu(), 0.0), (nn.ReLU(inplace=True), 0.0),
        (lambda x: x.clone().relu_(), 0.0), (nn.LeakyReLU(0.1), 0.0), (nn.PReLU(), 0.0), (torch.abs, 0.0),
        (nn.ReLU6(), 6.0), (nn.Hardtanh(-0.5, 0.25), 0.25), (lambda x: x.clamp(max=0.7), 0.7),
        (nn.Softshrink(0.3), -0.3), (nn.Hardshrink(0.3), 0.3), (nn.Hardswish(), 3.0), (nn.ELU(0.5), 0.0),
        (nn.SELU(), 0.0),
        (lambda x: x.clamp_min(0.3), 0.3), (lambda x: torch.clamp(x, -1, 1), -1.0), (nn.Threshold(0.2, 0.2), 0.2),
    ],
)  # fmt: skip
def test_operations_that_bend_at_a_place(operation: Any, at: float) -> None:
    x = torch.tensor([[at - 0.01], [at + 0.02]])
    with torch.no_grad(), Kinks() as kinks:
        operation(x.clone())
    assert len(kinks.codes) == 1
    assert kinks.codes[0][0] != kinks.codes[0][1]
    assert kinks.margins[0].flatten().tolist() == pytest.approx([0.01, 0.02], abs=1e-6)


@pytest.mark.parametrize(
    "operation",
    [
        nn.MaxPool2d(2), lambda x: F.max_pool2d(x, 2), nn.MaxPool2d(3, stride=1, padding=1),
        lambda x: x.reshape(2, 4, 4).amax(2), lambda x: x.reshape(2, 4, 4).max(dim=2).values,
        lambda x: torch.maximum(x, x.flip(3)), lambda x: torch.max(x, x.flip(2)), nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.AdaptiveMaxPool2d(1), lambda x: F.max_pool1d(x[:, 0], 2), lambda x: x.flatten(1).sort(1).values,
        lambda x: x.flatten(1).topk(3, 1).values, lambda x: x.reshape(2, 4, 4).amin(2),
        lambda x: x.reshape(2, 4, 4).median(2).values, lambda x: x.reshape(2, 4, 4).kthvalue(2, 2).values,
    ],
)  # fmt: skip
def test_maxima_change_winners(operation: Any) -> None:
    x = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), Kinks() as kinks:
        operation(x)
    codes, margins = torch.cat(kinks.codes, 1), torch.cat(kinks.margins, 1)
    smallest = margins[torch.isfinite(margins)].min().item()
    assert (margins >= 0).all()
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):  # less than half of the smallest margin cannot change a winner
        noise = 0.49 * smallest * (2 * torch.rand(x.shape, generator=generator) - 1)
        with torch.no_grad(), Kinks() as again:
            operation(x + noise)
        assert torch.equal(torch.cat(again.codes, 1), codes)
    with torch.no_grad(), Kinks() as other:
        operation(x.flip(0))
    assert not torch.equal(torch.cat(other.codes, 1), codes)


def test_an_order_is_looked_for_at_a_radius_where_it_shows(network: Any, samples: Tensor) -> None:
    by_key = {claim.key: claim for claim in CLAIMS}
    short = case_of(network, "relu_pool", samples, 1e-5)
    assert by_key["I9b"].residual(short).order == math.inf
    told = telling_residual(by_key["I9b"], short)
    assert told.order == pytest.approx(2, abs=0.25)
    assert told.radii[0] > 1e-5
    assert told.applies.any()
    assert telling_residual(by_key["I9d"], short).order == math.inf  # exact in a region, at every radius
    assert telling_residual(by_key["I1"], short).radii == ()


def test_what_cannot_be_read_is_named(samples: Tensor) -> None:
    class Compared(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(1)[:, :3].relu()
            return torch.where(x > 0.5, x, 0.5 * x)

    assert "where" in unread(Case(Compared(), samples, torch.arange(6) % 3))
    assert (
        unread(Case(nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(16, 3)), samples, torch.zeros(6).long()))
        == set()
    )
