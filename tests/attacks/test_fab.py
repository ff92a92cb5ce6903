"""FAB: the distance to the boundary where it is known, and what its options do."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

import robustreg as rr
from robustreg.attacks.in_box import to_hyperplane

NORMS = ["linf", "l2", "l1", "l1.5", "l4"]


def gaps_and_normals(net: Any, x: Tensor, y: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Of the boundary between the label and class ``k`` of an affine network."""
    with torch.no_grad():
        z = net(x)
        rows = torch.arange(len(x))
        return z[rows, k] - z[rows, y], net.weight[k] - net.weight[y]


def exact(net: Any, x: Tensor, y: Tensor, threat: rr.Threat) -> Tensor:
    """The distance to the nearest boundary of an affine network within the box, ``[B]``."""
    best = torch.full((len(x),), math.inf, dtype=torch.float64)
    for k in range(4):
        gap, normal = gaps_and_normals(net, x, y, k)
        d = to_hyperplane(x, gap, normal, threat)
        reached = (gap + (d * normal).sum(1)).abs() < 1e-9
        best = torch.where((k != y) & reached, torch.minimum(best, threat.length(d)), best)
    return best


@pytest.mark.parametrize("targets", [9, None])
@pytest.mark.parametrize("norm", NORMS)
def test_without_a_box_it_finds_the_distance_of_an_affine_network(
    norm: str, targets: int | None, affine: Any
) -> None:
    net, x, y = affine
    threat = rr.Threat(norm, 0.1, None)
    distance = torch.full((30,), math.inf, dtype=torch.float64)
    for k in range(4):
        gap, normal = gaps_and_normals(net, x, y, k)
        distance = torch.where(k == y, distance, distance.minimum(gap.abs() / threat.dual_norm(normal)))
    _, found = rr.FAB(threat, steps=3, targets=targets, final_search=6).minimal(net, x, y)
    torch.testing.assert_close(found, distance, rtol=1e-5, atol=0)
    assert (found >= distance * (1 - 1e-12)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_in_the_box_it_finds_the_distance_of_an_affine_network(norm: str, affine: Any) -> None:
    net, x, y = affine
    x = x.round(decimals=0) * 0.98 + 0.01  # near the corners, where the box matters
    with torch.no_grad():
        y = net(x).argmax(1)
    threat = rr.Threat(norm, 0.1)
    distance = exact(net, x, y, threat)
    free = exact(net, x, y, rr.Threat(norm, 0.1, None))
    assert (distance > 1.01 * free).sum() > 10
    _, found = rr.FAB(threat, steps=15, final_search=6).minimal(net, x, y)
    assert torch.equal(found.isfinite(), distance.isfinite())
    # what a step beyond the boundary puts outside the box is clipped, so the end is not quite the nearest point
    torch.testing.assert_close(found, distance, rtol=5e-3, atol=0)
    assert (found >= distance * (1 - 1e-12)).all()


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_the_nearest_mistake_in_the_box_by_linear_programming(norm: str, affine: Any) -> None:
    net, x, y = affine
    x, y, n = x[:6], y[:6], 12
    _, found = rr.FAB(rr.Threat(norm, 0.1), steps=15, final_search=6).minimal(net, x, y)
    for i in range(6):
        best, sides = math.inf, list(zip((-x[i]).tolist(), (1 - x[i]).tolist(), strict=True))
        for k in {0, 1, 2, 3} - {int(y[i])}:
            gap, normal = (v[i].numpy() for v in gaps_and_normals(net, x, y, k))
            if norm == "l1":
                bounds = [(0, u) for _, u in sides] + [(0, -d) for d, _ in sides]
                result = linprog(np.ones(2 * n), -np.r_[normal, -normal][None], [gap], bounds=bounds)
            else:
                rows = np.block([[np.eye(n), -np.ones((n, 1))], [-np.eye(n), -np.ones((n, 1))]])
                rows = np.vstack([rows, -np.r_[normal, 0]])
                result = linprog(
                    np.r_[np.zeros(n), 1], rows, np.r_[np.zeros(2 * n), gap], bounds=[*sides, (0, None)]
                )
            best = min(best, result.fun if result.status == 0 else math.inf)
        assert float(found[i]) == pytest.approx(best, rel=5e-3)


def test_more_targets_steps_and_restarts_are_never_further(images: Any) -> None:
    net, x, y = images
    threat = rr.Threat("l2", 0.8)
    keys = torch.randint(0, 2**32, (30, 2), generator=torch.Generator().manual_seed(0))

    def distance(**options: Any) -> Tensor:
        attack = rr.FAB(threat, final_search=0, **options)
        return attack.minimal(net, x, y, noise={attack: keys})[1]

    few = distance(steps=5, targets=1)
    for more in (
        {"steps": 9, "targets": 1},
        {"steps": 5, "targets": 3},
        {"steps": 5, "targets": 1, "restarts": 3},
    ):
        other = distance(**more)
        assert (other <= few).all()
        assert (other < few).any()


def test_the_final_search_only_comes_nearer(images: Any) -> None:
    net, x, y = images
    for norm in ("linf", "l2", "l1"):
        distances = [
            rr.FAB(rr.Threat(norm, 0.5), steps=6, final_search=n).minimal(net, x, y)[1] for n in (0, 1, 3)
        ]
        assert (distances[1] <= distances[0]).all()
        assert (distances[2] <= distances[1]).all()
        searched = distances[0] > 0
        assert (distances[2] < distances[0])[searched].sum() > 20


def test_the_random_start_is_of_the_sample_and_the_restart(images: Any) -> None:
    net, x, y = images
    for norm in ("linf", "l2", "l1"):
        threat = rr.Threat(norm, 0.2)
        attack = rr.FAB(threat, steps=1, restarts=3, targets=1)
        seen: list[Tensor] = []

        def watched(u: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(u.detach())
            return net(u) * 0 + torch.nn.functional.one_hot(y[:2], 4)

        attack(watched, x[:2], y[:2], generator=torch.Generator().manual_seed(0))
        starts = seen[1:7:2]  # the samples; then the gradient and the look of each restart
        assert torch.equal(starts[0], x[:2])
        for start in starts[1:]:
            length = threat.length(start - x[:2])
            assert (length <= 0.1 * (1 + 1e-12)).all()
            assert (length > 0.05).all()
        assert not torch.equal(starts[1], starts[2])


def test_what_a_step_costs(images: Any) -> None:
    net, x, y = images
    runs: list[bool] = []

    def watched(u: Tensor) -> Tensor:
        runs.append(u.requires_grad)
        return net(u) * 0 + torch.nn.functional.one_hot(y[: len(u)], 4)

    rr.FAB(rr.Threat("l2", 0.5), steps=4, targets=2, restarts=2)(watched, x, y)
    assert len(runs) == 1 + 2 * 2 * 2 * 4
    assert sum(runs) == 2 * 2 * 4


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"steps": 0}, "steps >= 1 and restarts >= 1, got 0 and 1"),
        ({"targets": 0}, "targets is a number of classes from 1, or None for all at once, got 0"),
        ({"beta": 1.0}, r"beta in \(0, 1\), got 0.1 and 1.0"),
        ({"eta": 0.9}, "eta is 1 for a step onto the boundary and more beyond it, got 0.9"),
        ({"final_search": -1}, "final_search is a number of forwards from 0, got -1"),
    ],
)
def test_impossible_arguments_are_refused(options: Any, sentence: str) -> None:
    build: Callable[..., rr.FAB] = rr.FAB
    with pytest.raises(ValueError, match=sentence):
        build(rr.Threat("l2", 1), **options)
