"""Carlini-Wagner: the distance of affine networks, boxes of every kind, confidence."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import robustreg as rr
from robustreg import numerics
from robustreg.attacks.in_box import to_hyperplane


def exact(net: Any, x: Tensor, y: Tensor, threat: rr.Threat) -> Tensor:
    best = torch.full((len(x),), math.inf, dtype=torch.float64)
    with torch.no_grad():
        z = net(x)
        for k in range(4):
            gap, normal = z[:, k] - z[torch.arange(len(x)), y], net.weight[k] - net.weight[y]
            d = to_hyperplane(x, gap, normal, threat)
            reached = (gap + (d * normal).sum(1)).abs() < 1e-9
            best = torch.where((k != y) & reached, torch.minimum(best, threat.length(d)), best)
    return best


@pytest.mark.parametrize(
    "box",
    [
        (0.0, 1.0),
        None,
        (0.0, math.inf),
        (torch.zeros(12), torch.cat([torch.full((6,), math.inf), torch.ones(6)])),
    ],
    ids=["box", "none", "half-open", "mixed"],
)
def test_it_comes_near_the_distance_of_an_affine_network(box: Any, affine: Any) -> None:
    net, x, y = affine
    threat = rr.Threat("l2", 0.1, box)
    distance = exact(net, x, y, threat)
    _, found = rr.CarliniWagner(threat, steps=80, lr=0.02, binary_search_steps=6).minimal(net, x, y)
    assert (found >= distance * (1 - 1e-9)).all()
    far = distance > 0.1  # nearer, the last steps of Adam are as long as the way
    assert far.sum() > 15
    ratio = (found / distance)[far]
    assert ratio.median() < 1.05
    assert (ratio < 1.3).all()
    assert float((found / distance)[far].median()) < 1.01


def test_a_feature_without_room_stays(affine: Any) -> None:
    net, x, y = affine
    high = torch.ones(12)
    high[3] = 0.5
    low = torch.zeros(12)
    low[3] = 0.5
    x = x.clone()
    x[:, 3] = 0.5
    with torch.no_grad():
        y = net(x).argmax(1)
    attack = rr.CarliniWagner(rr.Threat("l2", 0.1, (low, high)), steps=30, lr=0.05, binary_search_steps=2)
    points, distance = attack.minimal(net, x, y)
    assert (points[:, 3] == 0.5).all()
    assert points.isfinite().all()
    assert distance.isfinite().sum() > 20


def test_confidence_is_a_margin_that_is_kept(images: Any) -> None:
    net, x, y = images
    attack = rr.CarliniWagner(rr.Threat("l2", 1), steps=60, lr=0.05, binary_search_steps=4, confidence=1.0)
    points, distance = attack.minimal(net, x, y)
    searched = distance.isfinite() & (distance > 0)
    with torch.no_grad():
        margin = -numerics.margin(net(points), y)
    assert searched.sum() > 20
    assert (margin[searched] >= 1.0).all()
    assert float(margin[searched].median()) < 1.2


def test_one_sample_going_on_does_not_keep_the_others(images: Any) -> None:
    """Descents end sample by sample: the work that is done falls below that of everybody taking every step."""
    net, x, y = images
    sizes: list[int] = []

    def watched(u: Tensor) -> Tensor:
        sizes.append(len(u))
        return net(u)

    rr.CarliniWagner(rr.Threat("l2", 1), steps=100, lr=0.1, binary_search_steps=2).minimal(watched, x, y)
    assert len(set(sizes)) > 3
    assert sum(sizes) < 0.9 * 29 * 200


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"threat": rr.Threat("linf", 1)}, "an l2 attack, got a threat in linf: use FAB there"),
        ({"steps": 0}, "steps >= 1 and binary_search_steps >= 1, got 0 and 9"),
        ({"confidence": -1}, "confidence is a difference of logits and must be >= 0, got -1"),
        ({"lr": 0}, "lr and initial_const must be positive, got 0 and 0.1"),
    ],
)
def test_impossible_arguments_are_refused(options: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        rr.CarliniWagner(**{"threat": rr.Threat("l2", 1), **options})
