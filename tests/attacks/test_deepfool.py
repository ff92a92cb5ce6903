"""DeepFool: exact on affine networks, the class it turns to, the box."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import robustreg as rr


@pytest.mark.parametrize("norm", ["linf", "l2", "l1.5", "l4"])
def test_on_an_affine_network_one_step_is_the_shortest_and_a_little_more(norm: str, affine: Any) -> None:
    net, x, y = affine
    threat = rr.Threat(norm, 0.1, None)
    with torch.no_grad():
        z = net(x)
        distance = torch.full((30,), math.inf, dtype=torch.float64)
        for k in range(4):
            gap, normal = z[:, k] - z[torch.arange(30), y], net.weight[k] - net.weight[y]
            distance = torch.where(k == y, distance, distance.minimum(gap.abs() / threat.dual_norm(normal)))
    points, found = rr.DeepFool(threat, steps=1).minimal(net, x, y)
    torch.testing.assert_close(found, 1.02 * (distance + 1e-4))
    with torch.no_grad():
        top = net(points).topk(2, dim=1).values  # it crosses one boundary only, and hardly
    assert ((top[:, 0] - top[:, 1]).abs() < 0.1 * (z.amax(1) - z.amin(1))).all()


def test_candidates_limit_the_classes_that_are_looked_at(images: Any) -> None:
    net, x, y = images
    backwards: list[Tensor] = []

    def watched(u: Tensor) -> Tensor:
        if u.requires_grad:
            u.register_hook(backwards.append)
        return net(u)

    for candidates, classes in ((1, 1), (2, 2), (None, 3), (9, 3)):
        backwards.clear()
        rr.DeepFool(rr.Threat("l2", 1), steps=1, candidates=candidates).minimal(watched, x, y)
        assert len(backwards) == classes


def test_the_box_clips_and_the_steps_go_on(affine: Any) -> None:
    net, _, _ = affine
    x = torch.rand(30, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64).round()
    with torch.no_grad():
        y = net(x).argmax(1)
    for norm in ("linf", "l2"):
        threat = rr.Threat(norm, 0.1)
        _, once = rr.DeepFool(threat, steps=1).minimal(net, x, y)
        points, found = rr.DeepFool(threat, steps=50).minimal(net, x, y)
        assert once.isfinite().sum() < found.isfinite().sum()
        assert ((points >= 0) & (points <= 1)).all()
        nearest = rr.FAB(threat, steps=15).minimal(net, x, y)[1]
        both = found.isfinite() & nearest.isfinite()
        assert (found[both] >= nearest[both] * 0.999).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"threat": rr.Threat("l1", 1)}, "stands still at the box: use FAB there"),
        ({"steps": 0}, "steps >= 1, got 0"),
        ({"candidates": 0}, "candidates is a number of classes from 1, or None for all, got 0"),
        ({"overshoot": -0.1}, "overshoot is a share and must be >= 0, got -0.1"),
    ],
)
def test_impossible_arguments_are_refused(options: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        rr.DeepFool(**{"threat": rr.Threat("l2", 1), **options})
