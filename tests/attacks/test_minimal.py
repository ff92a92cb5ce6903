"""What FAB, DeepFool and Carlini-Wagner share: nearest points, and the bounded attacks made of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import robustreg as rr
from robustreg.points import draw_per_sample

LINF, L2, L1 = rr.Threat("linf", 0.1), rr.Threat("l2", 0.5), rr.Threat("l1", 3.0)
ATTACKS: dict[str, rr.MinimalNorm] = {
    "fab-linf": rr.FAB(LINF, steps=8),
    "fab-l2": rr.FAB(L2, steps=8, restarts=2, targets=2),
    "fab-l1": rr.FAB(L1, steps=8),
    "fab-untargeted": rr.FAB(L2, steps=8, targets=None),
    "deepfool-linf": rr.DeepFool(LINF, steps=10),
    "deepfool-l2": rr.DeepFool(L2, steps=10),
    "cw": rr.CarliniWagner(L2, steps=40, binary_search_steps=3, lr=0.1),
}
EACH = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())


def wrong(net: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x).argmax(1) != y


@EACH
def test_points_are_misclassified_in_the_box_and_as_far_as_it_says(
    attack: rr.MinimalNorm, images: Any
) -> None:
    net, x, y = images
    points, distance = attack.minimal(net, x, y)
    found = distance.isfinite()
    assert found.sum() >= 28
    assert torch.equal(wrong(net, points, y), found)
    assert torch.equal(distance[found], attack.threat.length(points - x)[found])
    assert torch.equal(points[~found], x[~found])
    assert ((points >= 0) & (points <= 1)).all()
    assert not points.requires_grad
    assert float(distance[3]) == 0  # wrong as it is
    assert torch.equal(points[3], x[3])


@EACH
def test_the_radius_plays_no_part_in_the_nearest_points(attack: rr.MinimalNorm, images: Any) -> None:
    if getattr(attack, "restarts", 1) > 1:
        attack = replace(attack, restarts=1)  # random starts lie within half of eps
    net, x, y = images
    near = replace(attack, threat=attack.threat.with_eps(0.01)).minimal(net, x, y)
    far = replace(attack, threat=attack.threat.with_eps(50.0)).minimal(net, x, y)
    torch.testing.assert_close(near, far)


@EACH
def test_as_a_bounded_attack_it_fools_exactly_where_the_nearest_point_is_near(
    attack: rr.MinimalNorm, images: Any
) -> None:
    net, x, y = images
    noise = draw_per_sample(attack, x, list(range(30)))
    _, distance = attack.minimal(net, x, y, noise=noise)
    found = attack(net, x, y, noise=noise)
    fooled = wrong(net, found, y)
    assert torch.equal(fooled, distance <= attack.threat.eps)
    assert 3 < fooled.sum() < 27
    assert torch.equal(found[~fooled], x[~fooled])
    assert attack.threat.contains(found, x).all()


@EACH
def test_the_verdict_turns_at_the_distance(attack: rr.MinimalNorm, images: Any) -> None:
    if getattr(attack, "restarts", 1) > 1:
        attack = replace(attack, restarts=1)
    net, x, y = images
    _, distance = attack.minimal(net, x[:1], y[:1])
    for factor, fooled in ((0.999, False), (1.001, True)):
        bounded = replace(attack, threat=attack.threat.with_eps(factor * float(distance)))
        assert bool(wrong(net, bounded(net, x[:1], y[:1]), y[:1])) is fooled


@EACH
def test_the_batch_plays_no_part(attack: rr.MinimalNorm, images: Any) -> None:
    net, x, y = images
    noise = draw_per_sample(attack, x, list(range(30)))
    together = attack.minimal(net, x, y, noise=noise)
    bounded = attack(net, x, y, noise=noise)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    for rows in (order, order[:5], torch.tensor([4])):
        part = {point: draw[rows] for point, draw in noise.items()}
        torch.testing.assert_close(
            attack.minimal(net, x[rows], y[rows], noise=part), tuple(v[rows] for v in together)
        )
        torch.testing.assert_close(attack(net, x[rows], y[rows], noise=part), bounded[rows])


@EACH
@pytest.mark.parametrize(("scale", "shift"), [(1e-3, 0.0), (1e3, 0.0), (1.0, 1e4)])
def test_the_scale_of_the_logits_plays_no_part(
    attack: rr.MinimalNorm, images: Any, scale: float, shift: float
) -> None:
    net, x, y = images
    noise = draw_per_sample(attack, x, list(range(30)))
    _, plain = attack.minimal(net, x, y, noise=noise)
    _, other = attack.minimal(lambda u: scale * net(u) + shift, x, y, noise=noise)
    torch.testing.assert_close(plain, other, rtol=1e-4, atol=0)


@EACH
def test_all_fooled_none_fooled_no_label_no_sample(attack: rr.MinimalNorm, images: Any) -> None:
    net, x, y = images
    bad = (net(x).argmax(1) + 1) % 4
    points, distance = attack.minimal(net, x, bad)
    assert torch.equal(points, x)
    assert (distance == 0).all()
    assert torch.equal(attack(net, x, bad), x)
    some = y.clone()
    some[::2] = -1
    points, distance = attack.minimal(net, x, some)
    assert torch.equal(points[::2], x[::2])
    assert distance[::2].isnan().all()
    assert distance[1::2].isfinite().all()
    assert torch.equal(attack(net, x, torch.full_like(y, -1)), x)
    points, distance = attack.minimal(net, x[:0], y[:0])
    assert points.shape == (0, 2, 6, 6)
    assert distance.shape == (0,)


@EACH
def test_a_constant_network_has_no_nearest_mistake(attack: rr.MinimalNorm) -> None:
    def constant(u: Tensor) -> Tensor:
        return u.flatten(1)[:, :3] * 0 + torch.tensor([0.0, 0.0, -1.0])

    x, y = torch.rand(4, 6), torch.tensor([0, 1, 0, 2])
    points, distance = attack.minimal(constant, x, y)
    assert torch.equal(points, x)
    assert distance.tolist() == [math.inf, 0.0, math.inf, 0.0]  # of equal logits the first is the prediction
    assert torch.equal(attack(constant, x, y), x)


@EACH
def test_two_classes(attack: rr.MinimalNorm) -> None:
    g = torch.Generator().manual_seed(0)
    x, weight = torch.rand(20, 6, generator=g), torch.randn(6, 2, generator=g)
    y = (x @ weight).argmax(1)
    points, distance = attack.minimal(lambda u: u @ weight, x, y, generator=g)
    found = distance.isfinite()
    assert found.sum() > 10
    assert wrong(lambda u: u @ weight, points, y)[found].all()


@EACH
def test_logits_that_overflow_do_no_harm(attack: rr.MinimalNorm) -> None:
    g = torch.Generator().manual_seed(0)
    x, weight = torch.rand(6, 5, generator=g), 1e38 * torch.randn(5, 3, generator=g)
    for y in (torch.zeros(6, dtype=torch.long), torch.tensor([0, 1, 2, 0, 1, 2])):
        points, _ = attack.minimal(lambda u: u @ weight, x, y, generator=g)
        assert points.isfinite().all()
        assert ((points >= 0) & (points <= 1)).all()


@EACH
def test_who_is_fooled_leaves_the_bounded_attack(attack: rr.MinimalNorm, images: Any) -> None:
    net, x, y = images
    cost: list[int] = []

    def watched(u: Tensor) -> Tensor:
        cost.append(len(u))
        return net(u)

    attack(watched, x, y)
    bounded = sum(cost)
    assert cost[0] == 30
    cost.clear()
    attack.minimal(watched, x, y)
    assert bounded < sum(cost) or isinstance(attack, rr.DeepFool)  # there everybody leaves in both
    assert min(cost) < 30


@EACH
def test_no_labels_wrong_labels(attack: rr.MinimalNorm, images: Any) -> None:
    net, x, y = images
    with pytest.raises(ValueError, match="needs labels"):
        attack(net, x)
    for call in (attack, attack.minimal):
        with pytest.raises(ValueError, match="labels run up to 4, but the model has 4 classes"):
            call(net, x, torch.full_like(y, 4))
    with pytest.raises(ValueError, match="inputs run from"):
        attack.minimal(net, x + 3, y)


def test_the_model_is_left_as_it_is(restless_net: Any, batch: Any, snapshot: Any) -> None:
    before = snapshot(restless_net)
    for attack in (rr.FAB(LINF, steps=2), rr.DeepFool(LINF, steps=2), rr.CarliniWagner(L2, 3, 2)):
        attack.minimal(restless_net, *batch)
    assert snapshot(restless_net) == before


def test_the_order_of_strength(images: Any) -> None:
    """DeepFool only wants to arrive; FAB and Carlini-Wagner, given time, agree on how far it is."""
    net, x, y = images
    fab = rr.FAB(L2, steps=30).minimal(net, x, y)[1]
    deepfool = rr.DeepFool(L2).minimal(net, x, y)[1]
    cw = rr.CarliniWagner(L2, steps=100, lr=0.05).minimal(net, x, y)[1]
    assert (fab <= deepfool * 1.001).all()
    assert float((cw / fab)[fab > 0].median()) == pytest.approx(1, abs=0.01)
