"""Portions of a batch, and climbs towards several targets side by side: they change the cost and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import robustreg as rr
from robustreg.attacks import FAB, search
from robustreg.attacks.apgd import APGD, APGDT
from robustreg.points import draw_per_sample

LINF, L2, L1 = rr.Threat("linf", 0.05), rr.Threat("l2", 0.16), rr.Threat("l1", 0.35)
TARGETED = [
    APGDT(LINF, steps=12),
    APGDT(L2, steps=12, restarts=2),
    APGDT(L1, steps=20, targets=3),
    APGDT(LINF, steps=12, loss="ce", rescale=8.0),
    FAB(LINF, steps=8),
    FAB(L2, steps=8),
    FAB(L1, steps=8),
]


def run(attack: rr.Point, net: Any, x: Tensor, y: Tensor) -> tuple[Tensor, int]:
    """What it finds, and in how many runs of the network."""
    runs = []
    handle = net.register_forward_pre_hook(lambda module, inputs: runs.append(len(inputs[0])))
    try:
        found = attack(net, x, y, noise=draw_per_sample(attack, x, list(range(len(x)))))
    finally:
        handle.remove()
    return found, len(runs)


@pytest.mark.parametrize("attack", TARGETED, ids=lambda a: f"{type(a).__name__}-{a.threat.name}")
def test_what_is_told_on_the_way_is_what_is_returned(attack: rr.Point, classifier: Any) -> None:
    """An interrupted evaluation keeps what it was told: the same points as one that runs to its end."""
    net, x, y = classifier(5)
    told: dict[int, Tensor] = {}

    def keep(rows: Tensor, points: Tensor) -> None:
        for row, point in zip(rows.tolist(), points, strict=True):
            told.setdefault(row, point.clone())

    noise = draw_per_sample(attack, x, list(range(len(x))))
    returned = attack(net, x, y, noise=noise, found=keep)
    right, fooled = net(x).argmax(1) == y, net(returned).argmax(1) != y
    assert {*told} >= {*(right & fooled).nonzero().flatten().tolist()}
    for row, point in told.items():
        assert torch.equal(point, returned[row]), f"another point of sample {row} was told first"


@pytest.mark.parametrize("attack", TARGETED, ids=lambda a: f"{type(a).__name__}-{a.threat.name}")
def test_targets_side_by_side_are_targets_one_after_the_other(
    attack: rr.Point, classifier: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x, y = classifier(5)
    together, few = run(attack, net, x, y)
    monkeypatch.setattr(search, "rows_at_once", lambda features: 1)
    one_by_one, many = run(attack, net, x, y)
    torch.testing.assert_close(together, one_by_one, rtol=0, atol=1e-9)
    assert few < many
    assert 0 < int((net(together).argmax(1) != y).sum()) < len(y)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_minimal_norms_too(norm: str, classifier: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, y = classifier(5)
    attack = FAB(rr.Threat(norm, 0.1), steps=8)
    together = attack.minimal(net, x, y)[1]
    monkeypatch.setattr(search, "rows_at_once", lambda features: 1)
    torch.testing.assert_close(together, attack.minimal(net, x, y)[1])


@pytest.mark.parametrize("attack", [APGD(LINF, steps=9), APGDT(L2, steps=9), FAB(LINF, steps=6)])
def test_portions_of_a_batch_change_nothing(
    attack: rr.Point, classifier: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x, y = classifier(4)
    whole, few = run(attack, net, x, y)
    monkeypatch.setattr(search, "_AT_ONCE", 200)
    in_portions, many = run(attack, net, x, y)
    torch.testing.assert_close(in_portions, whole, rtol=0, atol=1e-9)
    assert many > few


def test_portions_are_of_one_size_and_lose_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_AT_ONCE", 20 * 7)
    z = torch.zeros(50, 7)
    parts = search.slices(z, "eval")
    assert [part.stop - part.start for part in parts] == [17, 17, 16]
    assert torch.equal(torch.cat([torch.arange(50)[part] for part in parts]), torch.arange(50))
    assert search.slices(z, "train") == search.slices(z, "batch") == [slice(0, 50)]
    assert search.slices(z[:0], "eval") == [slice(0, 0)]
