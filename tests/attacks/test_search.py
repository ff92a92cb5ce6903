"""Portions of a batch, climbs towards several targets side by side, samples that wait until others leave: they change
the cost and nothing else.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import robustreg as rr
from robustreg.attacks import FAB, portions
from robustreg.attacks.apgd import APGD, APGDT
from robustreg.attacks.gama import GAMA
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
    monkeypatch.setattr(portions, "rows_at_once", lambda probe: 1)
    one_by_one, many = run(attack, net, x, y)
    torch.testing.assert_close(together, one_by_one, rtol=0, atol=1e-9)
    assert few < many
    assert 0 < int((net(together).argmax(1) != y).sum()) < len(y)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_minimal_norms_too(norm: str, classifier: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, y = classifier(5)
    attack = FAB(rr.Threat(norm, 0.1), steps=8)
    together = attack.minimal(net, x, y)[1]
    monkeypatch.setattr(portions, "rows_at_once", lambda probe: 1)
    torch.testing.assert_close(together, attack.minimal(net, x, y)[1])


@pytest.mark.parametrize("attack", [APGD(LINF, steps=9), APGDT(L2, steps=9), FAB(LINF, steps=6)])
def test_portions_of_a_batch_change_nothing(
    attack: rr.Point, classifier: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x, y = classifier(4)
    whole, few = run(attack, net, x, y)
    monkeypatch.setattr(portions, "_AT_ONCE", 200)
    in_portions, many = run(attack, net, x, y)
    torch.testing.assert_close(in_portions, whole, rtol=0, atol=1e-9)
    assert many > few


WAITING = [
    rr.PGD(LINF, steps=9, restarts=2),
    rr.PGD(rr.Threat("l3", 0.1), steps=9, decay="cosine"),
    APGD(LINF, steps=12),
    APGD(L2, steps=12, restarts=2, loss="margin"),
    APGD(L1, steps=20, rescale=8.0),
    APGDT(LINF, steps=12),
    APGDT(L1, steps=20, targets=2),
    rr.MultiTargeted(LINF, steps=6),
    rr.MIFGSM(L2, steps=7),
    GAMA(LINF, steps=12),
]


@pytest.mark.parametrize("attack", WAITING, ids=lambda a: f"{type(a).__name__}-{a.threat.name}")
def test_samples_that_wait_are_attacked_as_the_others(attack: rr.Point, classifier: Any) -> None:
    net, x, y = classifier(5)
    noise = draw_per_sample(attack, x, list(range(len(x))))
    whole = attack(net, x, y, noise=noise)
    told: dict[int, Tensor] = {}

    def keep(rows: Tensor, points: Tensor) -> None:
        told.update(zip(rows.tolist(), points.clone(), strict=True))

    rows: list[int] = []
    handle = net.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    try:
        waiting = attack(net, x, y, noise=noise, found=keep, at_once=10)
    finally:
        handle.remove()
    torch.testing.assert_close(waiting, whole, rtol=0, atol=1e-9)
    fooled = (net(x).argmax(1) == y) & (net(whole).argmax(1) != y)
    assert 0 < int(fooled.sum()) < len(y)
    assert {*told} >= {*fooled.nonzero().flatten().tolist()}
    assert all(torch.equal(point, waiting[row]) for row, point in told.items())
    assert max(rows) <= 10


def test_those_who_wait_take_the_places_of_those_who_leave(classifier: Any) -> None:
    """64 samples of whom few stand: one after another, portions of 10 would make seven climbs of 41 looks."""
    net, x, y = classifier(5)
    attack = APGD(LINF.with_eps(0.12), steps=40)
    noise = draw_per_sample(attack, x, list(range(len(x))))
    rows: list[int] = []
    handle = net.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    try:
        found = attack(net, x, y, noise=noise, at_once=10)
    finally:
        handle.remove()
    assert 5 < int((net(found).argmax(1) == y).sum()) <= 10, "some in every portion"
    assert len(rows) < 2 * 41


def test_portions_of_a_network_that_draws_numbers_do_not_draw_the_same(classifier: Any) -> None:
    net, x, y = classifier(5)
    drawn: list[float] = []
    handle = net.register_forward_hook(lambda module, inputs, out: drawn.append(float(torch.rand(()))))
    try:
        APGD(LINF, steps=3, eot_iter=2)(net, x, y, at_once=10)
        APGDT(LINF, steps=3)(net, x, y, at_once=10)
    finally:
        handle.remove()
    assert len({*drawn}) == len(drawn) > 50


@pytest.mark.parametrize(
    "attack",
    [
        FAB(LINF),
        rr.PGD(LINF, start=rr.FGSM(LINF)),
        rr.PGD(LINF, loss="kl"),
        rr.PGD(LINF, mode="train"),
        APGD(LINF, early_exit=False),
    ],
    ids=["FAB", "start", "kl", "train", "to the end"],
)
def test_who_takes_all_samples_together_says_so(attack: rr.Point, classifier: Any) -> None:
    net, x, y = classifier(5)
    assert not attack.refills
    with pytest.raises(
        ValueError, match="takes all samples together: give it at most 10, or leave at_once out"
    ):
        attack(net, x, y, at_once=10)
