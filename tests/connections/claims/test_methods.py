"""ARoW, SAT-R3 and the consistency terms: identities of whole losses, and what they are not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustreg.connections import Case, Claim, Residual
from robustreg.connections.claims.arow import LAM, SMOOTHING, attack, regulariser
from robustreg.penalties import Confidence

Plant = Callable[[str, Case, Any], Residual]
Exact = Callable[[str, Case], None]


@pytest.fixture
def case(network: Callable[[str], nn.Module], samples: Tensor) -> Case:
    """A network whose predictions an attack moves."""
    net = network("relu_pool")
    net[-1].weight.data *= 10
    return Case(net, samples, torch.arange(6) % 3, radius=0.3)


@pytest.mark.parametrize("key", ["A8", "A8b", "A9b", "A9c", "A10", "A10b", "A10c", "A11", "S8"])
def test_exact(key: str, case: Case, ternary: Case, exact: Exact) -> None:
    for each in (case, ternary):
        exact(key, each)


@pytest.mark.parametrize("key", ["M1b", "M2b", "M3b", "M3c"])
def test_of_the_consistency_terms(key: str, case: Case, claims: dict[str, Claim]) -> None:
    residual = claims[key].residual(case)
    assert residual.verdict == "holds"
    assert residual.empty == (key == "M1b")  # no distance, no penalty: that is what it says


def test_the_losses_differ_where_they_should(case: Case, claims: dict[str, Claim]) -> None:
    """ARoW is less than TRADES-LS by what its weight leaves out, and CE less than the smoothed loss."""
    left_out = LAM * regulariser(case, Confidence(attack(case), mode="eval")).mean()
    assert left_out > 1e-3
    smoothed, plain = claims["A10"].sides(case)[1], claims["A10c"].sides(case)[1]
    assert (smoothed - plain).abs().item() > 1e-3


WRONG: dict[str, tuple[str, Any]] = {
    "the paper's weight for the code's": ("A11", lambda a, b, c: (a - 0.5 * (b - smoothed_loss(c)), b)),
    "nothing left out": (
        "A11",
        lambda a, b, c: (a - LAM * regulariser(c, Confidence(attack(c), mode="eval")).mean(), b),
    ),
    "smoothing over the other classes only": (
        "A8b",
        lambda a, b, c: (a, a * c.logits.shape[1] / (c.logits.shape[1] - 1)),
    ),
    "a gap for one class too few": ("A9c", lambda a, b, c: (a + math.log(2) * 1e-3, b)),
    "a hinge that is always active": ("S8", lambda a, b, c: (a, b - 1)),
    "Pinsker without its factor": ("M3b", lambda a, b, c: (a, b / 4)),
    "norms swapped": ("M3c", lambda a, b, c: (b, a)),
}


def smoothed_loss(case: Case) -> Tensor:
    return torch.nn.functional.cross_entropy(case.logits, case.y, label_smoothing=SMOOTHING)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_ones_show(name: str, case: Case, planted: Plant) -> None:
    key, wrong = WRONG[name]
    assert planted(key, case, wrong).verdict == "violated"


@pytest.mark.parametrize("key", ["A10", "A10b", "A10c", "A11"])
def test_dropout_plays_no_part_and_statistics_stay(
    key: str, samples: Tensor, claims: dict[str, Claim]
) -> None:
    """The methods' losses are made for training mode; here they are taken in evaluation mode."""
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
    )
    case = Case(net, samples, torch.arange(6) % 3)
    before = {name: value.clone() for name, value in case.model.state_dict().items()}
    assert claims[key].residual(case).verdict == "holds"
    assert all(torch.equal(before[name], value) for name, value in case.model.state_dict().items())
