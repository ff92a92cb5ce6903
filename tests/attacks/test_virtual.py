"""Points that search without labels: VAT's, and the one where the loss is steepest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import robustreg as rr
from robustreg import numerics
from robustreg.attacks import LargestGradient, Virtual

L2 = rr.Threat("l2", 0.3, None)
NORMS = [1.0, 1.5, 2.0, 3.0, float("inf")]


def test_power_iteration_finds_the_direction_of_largest_divergence() -> None:
    g = torch.Generator().manual_seed(3)
    weight, x = (
        torch.randn(4, 5, generator=g, dtype=torch.float64),
        torch.rand(3, 5, generator=g, dtype=torch.float64),
    )

    def net(u: Tensor) -> Tensor:
        return u @ weight.T

    p = net(x).softmax(1)
    h = weight.T @ (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]) @ weight
    top = torch.linalg.eigh(h).eigenvectors[:, :, -1]
    small = rr.Threat("l2", 1e-3, None)
    virtual = Virtual(small, iterations=60)(net, x) - x
    point: rr.Point = rr.Uniform(small, clip="none")
    for _ in range(30):
        point = LargestGradient(small, point, loss="kl")
    largest = point(net, x) - x
    for r in (virtual, largest):
        torch.testing.assert_close((r * top).sum(1).abs(), torch.full((3,), 1e-3).double(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("p", NORMS)
def test_virtual_points_have_the_threats_length(p: float, relu_net: nn.Module, batch: Any) -> None:
    threat = rr.Threat(p, 0.3, None)
    for iterations in (0, 1, 3):
        r = Virtual(threat, iterations)(relu_net, batch[0]) - batch[0]
        torch.testing.assert_close(threat.length(r), torch.full((6,), 0.3), rtol=1e-4, atol=0)
    inside = Virtual(rr.Threat(p, 0.5), clip="threat")(relu_net, batch[0])
    assert rr.Threat(p, 0.5).contains(inside, batch[0]).all()


def test_single_precision_finds_the_same_virtual_point(relu_net: nn.Module, batch: Any) -> None:
    x = batch[0]
    start = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    point = Virtual(L2, iterations=2)
    found = point(relu_net, x, noise={point: start}) - x
    exact = point(relu_net.double(), x.double(), noise={point: start.double()}) - x
    assert (F.cosine_similarity(found.flatten(1), exact.flatten(1)).abs() > 0.9).all()


def test_a_virtual_point_is_further_in_divergence_than_a_random_one(
    smooth_net: nn.Module, double_batch: Any
) -> None:
    x = double_batch[0]
    clean = smooth_net(x)
    random, virtual = (
        numerics.kl(clean, smooth_net(Virtual(L2, iterations=i)(smooth_net, x))).mean().item() for i in (0, 2)
    )
    assert virtual > 2 * random


def test_a_prediction_that_never_moves_gives_a_random_direction(relu_net: nn.Module, batch: Any) -> None:
    with torch.no_grad():
        relu_net[-1].weight.zero_()
    r = Virtual(L2)(relu_net, batch[0]) - batch[0]
    torch.testing.assert_close(L2.length(r), torch.full((6,), 0.3), rtol=1e-5, atol=0)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_virtual_points_need_no_labels_and_draw_from_their_stream(relu_net: nn.Module, batch: Any) -> None:
    point, x = Virtual(L2), batch[0]
    assert not point.reads_labels
    assert torch.equal(point(relu_net, x, generator=seeded(1)), point(relu_net, x, generator=seeded(1)))
    assert not torch.equal(point(relu_net, x, generator=seeded(1)), point(relu_net, x, generator=seeded(2)))
    other = Virtual(L2, number=1)
    assert not torch.equal(point(relu_net, x, generator=seeded(1)), other(relu_net, x, generator=seeded(1)))


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Virtual(L2, -1), "iterations >= 0, got -1"),
        (lambda: Virtual(L2, xi=0.0), "xi is the length of the probing step and must be positive"),
        (lambda: Virtual(L2, mode="test"), "mode must be one of"),
        (lambda: LargestGradient(L2, step=-1.0), "must be positive, got -1.0"),
        (lambda: LargestGradient(L2, loss="js"), "loss must be one of"),
    ],
)
def test_bad_points_are_refused(build: Callable[[], rr.Point], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build()
