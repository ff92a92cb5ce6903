"""Every claim on networks of many kinds, the numbers of the notes, and claims that are wrong on purpose."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustreg import connections
from robustreg.connections import CLAIMS, Case, Claim, Condition, quantities
from robustreg.connections.regions import AFFINE_HERE, BINARY, SAME_REGION

SMOOTH_NETWORKS = ["gelu", "attention", "encoder"]
NETWORKS = ["relu_pool", "batch_norm", "by_hand", "leaky", *SMOOTH_NETWORKS, "affine", "two_classes"]
PIECEWISE_LINEAR = set(NETWORKS) - set(SMOOTH_NETWORKS)
BY_KEY = {claim.key: claim for claim in CLAIMS}
TWO = {
    *(
        "T1",
        "T1b",
        "T2",
        "T3",
        "T4",
        "T4b",
        "T5",
        "T6",
        "T7",
        "T7b",
        "T7c",
        "T8",
        "T9",
        "T10",
        "T10b",
        "T10c",
    ),
    *("T11", "T12", "E6", "E6b", "S3", "S4", "M7", "M8"),
}
REGION = {"I5", "I5b", "I5c", "I9", "I9b", "I10", "I10b", "I11", "B6", "B6b", "B7", "E15", "M10", "S1"}
SOMETIMES = {"B7b", "B7c", "B7d", "E4b"}  # of boundaries within a region, and of losses near 0


def case_of(network: Any, name: str, samples: Tensor, **options: Any) -> Case:
    net = network(name)
    y = torch.arange(len(samples)) % (2 if name == "two_classes" else 3)
    return Case(net, samples, y, **{"radius": 1e-2, **options})


@pytest.mark.parametrize("name", NETWORKS)
def test_no_claim_is_violated(name: str, network: Any, samples: Tensor) -> None:
    """And equalities are exact inside linear regions."""
    case = case_of(network, name, samples)
    found = {claim.key: claim.residual(case) for claim in CLAIMS}
    assert [key for key, residual in found.items() if residual.verdict == "violated"] == []
    silent = {key for key, residual in found.items() if residual.verdict == "does not apply"}
    expected = set() if name == "two_classes" else TWO | {"I10", "I10b"}
    if name not in PIECEWISE_LINEAR:
        expected |= REGION
    assert silent - SOMETIMES == expected
    for claim in CLAIMS:
        residual = found[claim.key]
        if claim.relation == "=" and residual.verdict == "holds" and claim.tolerance <= 1e-8:
            assert residual.worst < 1e-8, (claim.key, residual.worst)


@pytest.mark.parametrize(
    ("net", "x", "y", "numbers"),
    [
        (
            [([[1.5, -2.0], [-1.5, 2.0]],)], (0.2, 0.1), 0,
            {"loss": 0.59813887, "p_y": 0.54983400, "g1": 3.15116202, "g2": 2.25083001, "jr": 6.25, "cl": 12.5,
             "trace": 6.18791432, "largest": 6.18791432, "anchored": 11.25415007},
        ),
        (
            [([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]],)], (0.3, -0.2), 0,
            {"loss": 0.82279322, "p_y": 0.43920315, "g1": 0.88322003, "g2": 0.85566231, "jr": 2.0, "cl": 8 / 3,
             "trace": 1.27265573, "largest": 0.94439361, "anchored": 2.00481373},
        ),
        (
            [([[1.0, 2.0], [-1.0, 1.0], [2.0, -1.0]],), ([[1.0, 0.0, 1.0], [0.0, 1.0, -1.0], [-1.0, 1.0, 0.5]],)],
            (0.5, 0.25), 1,
            {"loss": 2.66135281, "p_y": 0.06985366, "g1": 4.69030899, "g2": 4.42195502, "jr": 10.625, "cl": 13.88888889,
             "trace": 3.00736985, "largest": 2.40925641, "anchored": 22.56105608},
        ),
    ],
)  # fmt: skip
def test_the_fixtures_of_the_notes(net: Any, x: Any, y: int, numbers: dict[str, float]) -> None:
    layers: list[nn.Module] = []
    for (weight,) in net:
        linear = nn.Linear(len(weight[0]), len(weight), bias=False).double()
        linear.weight.data = torch.tensor(weight, dtype=torch.float64)
        layers += [linear, nn.ReLU()]
    case = Case(
        nn.Sequential(*layers[:-1]), torch.tensor([x], dtype=torch.float64), torch.tensor([y]), radius=1e-3
    )
    found = {
        "loss": case.loss,
        "p_y": case.p_y,
        "g1": case.gradient.abs().sum(1),
        "g2": quantities.igr(case),
        "jr": quantities.jacobian_term(case),
        "cl": quantities.cross_lipschitz_term(case),
        "trace": quantities.fisher_term(case),
        "largest": quantities.largest(case.hessian),
        "anchored": BY_KEY["I7"].sides(case)[1],
    }
    for key, value in numbers.items():
        assert found[key].item() == pytest.approx(value, abs=6e-9), key
    assert not [c.key for c in CLAIMS if c.residual(case).verdict == "violated"]
    assert BY_KEY["I10"].residual(case).verdict == "holds"


def test_the_ray_through_a_sample_without_biases() -> None:
    """x . g of the notes' third fixture."""
    first, second = nn.Linear(2, 3, bias=False).double(), nn.Linear(3, 3, bias=False).double()
    first.weight.data = torch.tensor([[1, 2], [-1, 1], [2, -1]]).double()
    second.weight.data = torch.tensor([[1, 0, 1], [0, 1, -1], [-1, 1, 0.5]]).double()
    case = Case(
        nn.Sequential(first, nn.ReLU(), second), torch.tensor([[0.5, 0.25]]).double(), torch.tensor([1])
    )
    left, right = BY_KEY["I10"].sides(case)
    assert left.item() == pytest.approx(2.13737376, abs=6e-9)
    assert right.item() == pytest.approx(2.13737376, abs=6e-9)


def with_sides(key: str, wrong: Any) -> Claim:
    claim = BY_KEY[key]
    return dataclasses.replace(claim, sides=lambda case: wrong(*claim.sides(case), case))


PLANTED = {
    "a wrong factor": with_sides("I2", lambda a, b, c: (a, 1.01 * b)),
    "no centring": with_sides("I2", lambda a, b, c: (a, 2 / 3 * quantities.squared(c.jacobian))),
    "a wrong norm": with_sides("I1", lambda a, b, c: (a, c.gradient.abs().sum(1))),
    "the label left out": with_sides("I7", lambda a, b, c: (quantities.trace(c), b)),
    "a bound turned round": with_sides("B2b", lambda a, b, c: (b, a)),
    "a bound too tight": with_sides("B5", lambda a, b, c: (a, 0.25 * b)),
    "a linear term forgotten": with_sides(
        "I11b", lambda a, b, c: (a, b + 0.1 * c.radius * c.gradient.norm(dim=1))
    ),
    "a factor in an order": with_sides("I9b", lambda a, b, c: (a, 1.05 * b)),
    "a bound without its condition": dataclasses.replace(BY_KEY["T1"], conditions=()),
}


@pytest.mark.parametrize("plant", PLANTED)
def test_a_wrong_claim_shows(plant: str, network: Any, samples: Tensor) -> None:
    residual = PLANTED[plant].residual(case_of(network, "relu_pool", samples))
    assert residual.verdict == "violated"
    assert residual.applies.any()


NEARLY_ZERO = {"S3", "S4", "S5", "S6", "M1", "M1b", "M8", "E5b", "I9d"}
"""Whose statement is that something is 0, here or on all networks: they have no right side to be doubled."""


def test_no_claim_holds_whatever_its_sides_are(network: Any, samples: Tensor) -> None:
    """With a right side twice as large, or below the left one, every claim that says something is violated."""
    case = case_of(network, "two_classes", samples, radius=0.02)
    unnoticed = set()
    for claim in CLAIMS:
        found = claim.residual(case)
        if found.verdict != "holds" or claim.key in NEARLY_ZERO:
            continue

        def wrong(c: Case, claim: Claim = claim) -> tuple[Tensor, Tensor]:
            left, right = claim.sides(c)
            return left, (left - 0.5 * left.abs() - 1e-3 if claim.relation == "<=" else 2 * right)

        if dataclasses.replace(claim, sides=wrong).residual(case).verdict != "violated":
            unnoticed.add(claim.key)
    assert unnoticed <= {"I11d"}  # second order with any multiple of the divergence


@pytest.mark.parametrize("name", SMOOTH_NETWORKS)
def test_orders_on_smooth_networks(name: str, network: Any, samples: Tensor) -> None:
    """What is of which order in the radius, where the logits bend."""
    case = case_of(network, name, samples)
    found = {key: BY_KEY[key].residual(case) for key in ("I9c", "I9d", "I11b", "I11c", "I11d", "E7", "E12")}
    assert all(residual.applies.all() for residual in found.values())
    at_least = {"I9c": 2, "I9d": 1, "I11b": 3, "I11c": 3, "I11d": 2, "E7": 3, "E12": 2}
    for key, order in at_least.items():
        observed = found[key].order
        assert observed is not None
        assert order - 0.05 < observed < order + 1.5, (key, observed)
    # the terms that part LLR from TRADES and CURE from the Jacobian's are there, not only bounded
    assert found["I11d"].order == pytest.approx(2.0, abs=0.2)
    assert found["I9d"].order == pytest.approx(1.0, abs=0.2)


def test_a_claim_of_regions_is_wrong_on_smooth_networks(network: Any, samples: Tensor) -> None:
    """The Hessian is the Fisher matrix only where logits are affine: planted without that, it shows."""
    planted = dataclasses.replace(
        BY_KEY["I11c"], sides=lambda c: (BY_KEY["I11c"].sides(c)[0], BY_KEY["I11b"].sides(c)[1])
    )
    assert planted.residual(case_of(network, "relu_pool", samples)).verdict == "holds"
    for name in SMOOTH_NETWORKS:
        assert planted.residual(case_of(network, name, samples)).verdict == "violated"


def test_no_order_is_claimed_across_a_kink(network: Any, samples: Tensor) -> None:
    """Also across one that is met by a comparison, which no operation announces."""

    class Hidden(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(1)[:, :3] - 0.5
            return torch.where(x > 0, x, 0.1 * x) + 0.1 * x.sin()

    seen = set()
    for net in (Hidden(), network("relu_pool")):
        for radius in (1e-2, 0.3, 3.0):
            case = Case(net, samples, torch.arange(6) % 3, radius=radius)
            residual = BY_KEY["I11b"].residual(case)
            seen |= set(residual.applies.tolist())
            assert residual.verdict != "violated", (type(net).__name__, radius)
    assert seen == {True, False}


def test_a_claim_beyond_its_conditions_does_not_apply(network: Any, samples: Tensor) -> None:
    near, far = (case_of(network, "relu_pool", samples, radius=r) for r in (1e-3, 3.0))
    assert BY_KEY["I11"].residual(near).applies.all()
    residual = BY_KEY["I11"].residual(far)
    assert residual.verdict == "does not apply"
    assert math.isnan(residual.worst)
    assert not residual.holds.all()  # it is indeed false there
    assert set(residual.conditions) == {AFFINE_HERE.name, SAME_REGION.name}


def test_orders_are_observed(network: Any, samples: Tensor) -> None:
    case = case_of(network, "affine", samples, radius=0.1)
    for key, order in (("I9b", 2), ("I11b", 3), ("E7", 3), ("M6", 2)):
        residual = BY_KEY[key].residual(case)
        assert residual.order == pytest.approx(order, abs=0.25), key
        assert len(residual.radii) == len(residual.errors) >= 8
    smooth = BY_KEY["M6"].residual(case_of(network, "gelu", samples, radius=0.1))
    assert (smooth.verdict, smooth.order) == ("holds", pytest.approx(2, abs=0.25))


def test_what_a_case_refuses(network: Any, samples: Tensor) -> None:
    with pytest.raises(ValueError, match="some labels are -1"):
        Case(network("gelu"), samples, torch.tensor([0, 1, -1, 0, 1, 2]))
    wrong = Claim("X", "", "", "", "derived", "=", lambda c: (c.loss, c.loss[:2]))
    with pytest.raises(ValueError, match=r"the sides of the claim X must be \[B\] both"):
        wrong.residual(case_of(network, "gelu", samples))
    with pytest.raises(ValueError, match="must have an order exactly if"):
        dataclasses.replace(wrong, relation="~")


def test_the_network_is_left_as_it_was(network: Any, samples: Tensor) -> None:
    net = network("batch_norm").train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    case = Case(net, samples, torch.arange(6) % 3)
    BY_KEY["I5"].residual(case)
    assert net.training
    assert all(p.requires_grad and p.grad is None and p.dtype == torch.float32 for p in net.parameters())
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_every_claim_says_what_it_is() -> None:
    assert len({claim.key for claim in CLAIMS}) == len(CLAIMS) > 50
    for claim in CLAIMS:
        assert claim.latex
        assert claim.title
        assert claim.source
    assert connections.CLAIMS is CLAIMS
    assert isinstance(BINARY, Condition)
