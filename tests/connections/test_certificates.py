"""Bounds of the distance to the decision boundary, against brute force in the plane and closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import robustreg as rr
from robustreg.connections import Case, distance_bounds
from robustreg.threat import Threat

NORMS = ["l1", "l2", "linf"]


def plane(threat: Threat, n: int = 12) -> Case:
    """A ReLU network on the plane, and samples labelled by it, one of them wrongly."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3)).double()
        net[2].weight.data *= 4  # steep enough for boundaries inside regions
    x = torch.rand(n, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    y = net(x).argmax(1)
    y[-1] = (y[-1] + 1) % 3
    return Case(net, x, y, threat=threat)


def circle(norm: float, n: int = 4000) -> Tensor:
    """Unit vectors of a norm in the plane, ``[n, 2]``."""
    angle = torch.arange(n, dtype=torch.float64) * (2 * math.pi / n)
    v = torch.stack([angle.cos(), angle.sin()], 1)
    return v / torch.linalg.vector_norm(v, ord=norm, dim=1, keepdim=True)


def share_wrong(case: Case, i: int, radius: float, norm: float) -> float:
    """How many of the points around a sample at a radius are of another class."""
    around = case.model(case.x[i] + radius * circle(norm)).argmax(1)
    return float((around != case.y[i]).double().mean())


@pytest.mark.parametrize("norm", NORMS)
def test_no_point_nearer_than_the_lower_bound_is_misclassified(norm: str) -> None:
    threat = Threat(norm, 0.3, bounds=None)
    case = plane(threat)
    bounds = distance_bounds(case, norm)
    assert bounds.certified.all()
    assert bounds.exact[:-1].any()
    for i in range(len(case.x) - 1):
        for part in (0.2, 0.5, 0.8, 0.99, 0.999):
            assert share_wrong(case, i, part * float(bounds.lower[i]), threat.norm) == 0
    assert (bounds.lower[:-1] > 0).all()
    assert (bounds.lower <= bounds.upper).all()
    assert not bounds.refuted.any()
    assert bounds.lower[-1] == bounds.upper[-1] == 0  # wrong as it is


@pytest.mark.parametrize("norm", NORMS)
def test_where_the_boundary_is_in_the_region_the_bound_is_the_distance(norm: str) -> None:
    """A little beyond the bound there are misclassified points: it could not be larger."""
    threat = Threat(norm, 0.3, bounds=None)
    case = plane(threat)
    bounds = distance_bounds(case, norm)
    exact = [i for i in range(len(case.x) - 1) if bounds.exact[i]]
    assert exact
    for i in exact:
        assert share_wrong(case, i, 1.02 * float(bounds.lower[i]), threat.norm) > 0


@pytest.mark.parametrize("norm", NORMS)
def test_an_affine_network_has_its_distance_in_closed_form(norm: str) -> None:
    weight = torch.tensor([[2.0, -1.0], [0.0, 0.0]], dtype=torch.float64)
    net = nn.Linear(2, 2).double()
    net.weight.data, net.bias.data = weight, torch.zeros(2, dtype=torch.float64)
    x = torch.tensor([[1.0, 0.5], [-0.4, 0.3]], dtype=torch.float64)
    threat = Threat(norm, 1.0, bounds=None)
    bounds = distance_bounds(Case(net, x, torch.tensor([0, 1]), threat=threat), norm)
    dual = {"l1": 2.0, "l2": 5.0**0.5, "linf": 3.0}[norm]
    expected = torch.tensor([1.5, 1.1], dtype=torch.float64) / dual
    torch.testing.assert_close(bounds.lower, expected)
    torch.testing.assert_close(bounds.upper, expected, rtol=1e-2, atol=0.0)
    assert bounds.exact.all()
    assert bounds.border.isinf().all()


@pytest.mark.parametrize("name", ["gelu", "attention"])
def test_a_smooth_network_gets_no_lower_bound(
    name: str, network: Callable[..., nn.Module], samples: Tensor
) -> None:
    y = torch.arange(len(samples)) % 3
    bounds = distance_bounds(Case(network(name), samples, y, threat=Threat("l2", 0.5)), "l2")
    assert not bounds.certified.any()
    assert (bounds.lower == 0).all()


@pytest.mark.parametrize("name", ["relu_pool", "batch_norm", "by_hand"])
def test_no_attack_gets_below_the_bound(
    name: str, network: Callable[..., nn.Module], samples: Tensor
) -> None:
    threat = Threat("linf", 0.5)
    case = Case(network(name), samples, network(name).eval()(samples).argmax(1), threat=threat)
    bounds = distance_bounds(case, "linf")
    assert bounds.certified.all()
    assert not bounds.refuted.any()
    for seed in range(3):
        for part in (0.9, 0.999):
            steps = torch.rand(
                samples.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
            )
            moved = case.x + part * bounds.lower[:, None, None, None] * (2 * (steps > 0.5).double() - 1)
            assert (case.logits_at(moved).argmax(1) == case.y).all()


def test_a_kink_that_nobody_sees_takes_the_certificate_away() -> None:
    """A network that bends by a comparison of its own, at x_1 = 0.6, before its boundary comes."""

    class Bent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            z = torch.where(x[:, :1] > 0.6, 40 * (x[:, :1] - 0.6), torch.zeros_like(x[:, :1]))
            return torch.cat([x[:, :1] - 1.5 + z, 0 * x[:, :1]], 1)

    case = Case(Bent(), torch.tensor([[0.5, 0.5]]), torch.tensor([1]), threat=Threat("l2", 1.0, bounds=None))
    bounds = distance_bounds(case, "l2")
    assert bounds.margin.item() == pytest.approx(1.0)
    assert not bounds.certified.any()
    assert bounds.lower.item() == 0.0


def test_the_attack_must_fit_and_the_norm_be_known() -> None:
    case = plane(Threat("l2", 0.3, bounds=None))
    with pytest.raises(ValueError, match="should have the norm l2"):
        distance_bounds(case, "l2", rr.attacks.FAB(Threat("linf", 0.3, bounds=None)))
    with pytest.raises(ValueError, match="l1, l2 and linf"):
        distance_bounds(case, "l3")
