"""Several points in one forward: rows in order, one pass, BatchNorm statistics of all of them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import robustreg as rr
from robustreg.attacks import IFGSM, Rademacher, Stack, stacked_logits
from robustreg.probe import Probe
from robustreg.streams import Stream

T = rr.Threat("linf", 0.1)
POINTS = (rr.FGSM(T), rr.Uniform(T))


def probe(net: Any, batch: Any) -> Probe:
    return Probe(net, *batch, stream=Stream(0))


def statistics(net: nn.Module) -> list[torch.Tensor]:
    return [b.clone() for b in net.buffers()]


def test_the_points_stand_one_below_the_other(relu_net: nn.Module, batch: Any) -> None:
    p = probe(relu_net, batch)
    rows = p.at(Stack(POINTS))
    assert rows.shape == (12, 1, 4, 4)
    assert torch.equal(rows[:6], p.at(POINTS[0]))
    assert torch.equal(rows[6:], p.at(POINTS[1]))


def test_it_is_a_value_and_shares_its_random_points_with_everybody(relu_net: nn.Module, batch: Any) -> None:
    assert Stack(POINTS) == Stack(list(POINTS))
    assert hash(Stack(POINTS)) == hash(Stack(list(POINTS)))
    assert Stack(POINTS).key == Stack(list(POINTS)).key
    assert list(Stack(POINTS).sources()) == [POINTS[1]]
    assert Stack(POINTS).reads_labels
    assert not Stack(POINTS[1:]).reads_labels
    p = probe(relu_net, batch)
    before = p.at(POINTS[1])
    assert torch.equal(p.at(Stack(POINTS))[6:], before)


def test_another_threat_reaches_every_point() -> None:
    other = T.with_eps(0.3)
    assert Stack(POINTS).with_threat(other) == Stack((rr.FGSM(other), rr.Uniform(other)))
    assert set(Stack(POINTS).threats()) == {T}


def test_without_batch_norm_joint_and_separate_logits_are_the_same(
    smooth_net: nn.Module, double_batch: Any
) -> None:
    joint = stacked_logits(probe(smooth_net, double_batch), POINTS)
    separate = stacked_logits(probe(smooth_net, double_batch), POINTS, joint=False)
    assert [z.shape for z in joint] == [(6, 3), (6, 3)]
    for a, b in zip(joint, separate, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


def test_points_of_fewer_samples_give_fewer_rows(relu_net: nn.Module, batch: Any) -> None:
    p = probe(relu_net, batch)
    first, last = stacked_logits(p, (rr.FGSM(T), IFGSM(T, 2, last=1)))
    assert (first.shape, last.shape) == ((6, 3), (1, 3))


def test_joint_is_one_forward_and_shared(relu_net: nn.Module, batch: Any) -> None:
    p = probe(relu_net, batch)
    points = (rr.Uniform(T), Rademacher(T))
    stacked_logits(p, points)
    stacked_logits(p, points)
    assert [(x.kind, x.mode) for x in p.passes] == [("forward", "train")]
    stacked_logits(p, points, joint=False)
    assert len(p.passes) == 3


def test_batch_norm_sees_all_points_of_a_joint_forward_at_once(restless_net: nn.Module, batch: Any) -> None:
    joint, separate = restless_net, copy.deepcopy(restless_net)
    p = probe(joint, batch)
    stacked_logits(p, POINTS)
    by_hand = copy.deepcopy(separate)
    by_hand(torch.cat([p.at(point) for point in POINTS]))
    stacked_logits(probe(separate, batch), POINTS, joint=False)
    # the first layer's statistics do not depend on dropout
    for index in range(3):
        assert torch.equal(statistics(joint)[index], statistics(by_hand)[index])
    counts = [net[1].num_batches_tracked.item() for net in (joint, separate)]
    assert counts == [1, 2]
    assert not torch.equal(joint[1].running_var, separate[1].running_var)


def test_it_is_an_ordinary_attack_too(relu_net: nn.Module, batch: Any, snapshot: Any) -> None:
    before = snapshot(relu_net)
    found = Stack(POINTS)(relu_net, *batch, generator=torch.Generator().manual_seed(0))
    assert found.shape == (12, 1, 4, 4)
    assert snapshot(relu_net) == before


def test_what_is_no_point_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one point"):
        Stack(())
    with pytest.raises(TypeError, match="made of points, got 'clean'"):
        Stack(("clean",))  # type: ignore[arg-type]
