"""PGD towards every other class, and the losses towards a class."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn import functional as F

import robustreg as rr
from robustreg import numerics
from robustreg.attacks.multi_targeted import MultiTargeted
from robustreg.attacks.targets import others_by_rank, towards
from robustreg.points import draw_per_sample

THREATS = [rr.Threat("linf", 0.05), rr.Threat("l2", 0.16), rr.Threat("l1", 0.35), rr.Threat("l1.5", 0.2)]
EACH_THREAT = pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.name)
T = THREATS[0]
Z = torch.tensor([[3.0, 1.0, 2.0, 0.0, -1.0], [0.0, 3.0, 1.0, 1.0, 5.0]], dtype=torch.float64)
Y, TARGET = torch.tensor([0, 4]), torch.tensor([2, 1])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def right(net: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x).argmax(1) == y


# -- losses --------------------------------------------------------------------------------------------------


def test_the_targeted_losses_are_their_formulas() -> None:
    assert numerics.targeted_margin(Z, Y, TARGET).tolist() == [-1, -2]
    # z_(1) - (z_(3) + z_(4)) / 2 = 3 - 0.5 and 5 - 1
    assert numerics.targeted_dlr(Z, Y, TARGET).tolist() == [-1 / 2.5, -2 / 4]
    torch.testing.assert_close(
        numerics.targeted_cross_entropy(Z, Y, TARGET), -F.cross_entropy(Z, TARGET, reduction="none")
    )


@pytest.mark.parametrize("loss", ["dlr", "margin", "ce"])
@pytest.mark.parametrize("classes", [2, 3, 4, 6])
def test_derivatives_and_samples_without_a_label(loss: str, classes: int) -> None:
    z = torch.randn(5, classes, generator=seeded(), dtype=torch.float64).requires_grad_()
    y, target = torch.tensor([0, 1, -1, 0, 1]), torch.tensor([1, 0, 1, 1, 0])
    of = towards(loss, y, target)
    assert gradcheck(lambda v: of(v, None), (z,))
    value = of(z, None)
    (g,) = torch.autograd.grad(value.sum(), z)
    assert value[2] == 0
    assert not g[2].any()
    assert g[[0, 1, 3, 4]].any(1).all()
    rows = torch.tensor([3, 0])
    assert torch.equal(of(z[rows], rows), value[rows])


def test_the_targeted_dlr_knows_no_shift_and_no_scale_and_equal_logits() -> None:
    z = torch.randn(20, 5, generator=seeded(), dtype=torch.float64)
    y, target = torch.arange(20) % 5, (torch.arange(20) + 1) % 5
    value = numerics.targeted_dlr(z, y, target)
    torch.testing.assert_close(numerics.targeted_dlr(1e3 * z + 1e4, y, target), value)
    torch.testing.assert_close(numerics.targeted_dlr(1e-3 * z, y, target), value)
    assert numerics.targeted_dlr(torch.ones(1, 5), Y[:1], TARGET[:1]).tolist() == [0]
    few = z[:, :3]
    y, target = y.clamp(max=1), torch.full((20,), 2)
    assert torch.equal(numerics.targeted_dlr(few, y, target), numerics.targeted_margin(few, y, target))


def test_log_odds_are_the_cross_entropy_without_its_saturation() -> None:
    z = torch.randn(30, 4, generator=seeded(), dtype=torch.float64).mul(4).requires_grad_()
    y = torch.arange(30) % 4
    odds, ce = numerics.error_log_odds(z, y), numerics.cross_entropy(z, y)
    torch.testing.assert_close(F.softplus(odds), ce)
    slopes = [torch.autograd.grad(v.sum(), z)[0] for v in (odds, ce)]
    torch.testing.assert_close(slopes[0] * odds.sigmoid()[:, None], slopes[1])
    assert gradcheck(lambda v: numerics.error_log_odds(v, y), (z,))
    sure = torch.tensor([[1000.0, 3.0, 1.0], [10040.0, 10000.0, 10001.0]], requires_grad=True)
    (g,) = torch.autograd.grad(numerics.error_log_odds(sure, torch.tensor([0, 0])).sum(), sure)
    others = torch.tensor([[3.0, 1.0], [0.0, 1.0]]).softmax(1)
    torch.testing.assert_close(g, torch.cat([-torch.ones(2, 1), others], 1), rtol=1e-4, atol=0)
    assert numerics.error_log_odds(sure, torch.tensor([0, -1]))[1] == 0


def test_targets_are_ranked_without_the_label() -> None:
    assert others_by_rank(Z, Y, None).tolist() == [
        [2, 1, 3, 4],
        [1, *others_by_rank(Z, Y, None)[1, 1:].tolist()],
    ]
    assert others_by_rank(Z, Y, 2).shape == (2, 2)
    assert others_by_rank(Z, Y, 9).shape == (2, 4)
    assert others_by_rank(Z, torch.tensor([2, -1]), 1).tolist() == [[0], [4]]


# -- the attack ----------------------------------------------------------------------------------------------


@EACH_THREAT
@pytest.mark.parametrize("loss", ["margin", "dlr", "ce"])
def test_it_fools_within_the_threat_as_many_as_pgd_or_more(
    threat: rr.Threat, loss: str, classifier: Any
) -> None:
    net, x, y = classifier(5)
    found = MultiTargeted(threat, 20, loss=loss)(net, x, y, generator=seeded())
    assert threat.contains(found, x).all()
    pgd = right(net, rr.PGD(threat, 20, loss="margin")(net, x, y, generator=seeded()), y).sum()
    assert right(net, found, y).sum() <= pgd < 64


def test_on_a_linear_network_it_finds_the_worst_class(classifier: Any) -> None:
    w = torch.randn(12, 4, generator=seeded(), dtype=torch.float64)
    x, y = torch.rand(9, 12, generator=seeded(1), dtype=torch.float64), torch.arange(9) % 4
    # in l2 the last steps still turn towards the worst direction
    near = {"linf": 1e-3, "l2": 0.05, "l1": 1e-3}
    for threat in (rr.Threat("linf", 0.1, None), rr.Threat("l2", 0.3, None), rr.Threat("l1", 0.5, None)):
        found = MultiTargeted(threat, 60, early_exit=False)(lambda u: u @ w, x, y, generator=seeded())
        reach = torch.stack(
            [
                threat.eps * threat.dual_norm((w[:, k, None] - w[:, y]).T)
                + x @ w[:, k]
                - (x @ w).gather(1, y[:, None])[:, 0]
                for k in range(4)
            ]
        )
        reach[y, torch.arange(9)] = -torch.inf
        torch.testing.assert_close(
            -numerics.margin(found @ w, y), reach.amax(0), rtol=1e-3, atol=near[threat.name]
        )


def test_each_class_is_tried_and_who_is_fooled_costs_no_more(classifier: Any) -> None:
    net, x, y = classifier(5)
    sizes: list[int] = []
    handle = net.register_forward_hook(lambda m, inputs, z: sizes.append(len(z)))
    found = MultiTargeted(T, 6, restarts=2)(net, x, y, generator=seeded())
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == 1 + 4 * 2 * 7
    assert sizes[-1] <= right(net, found, y).sum() * 16 / 15 + 1
    sizes.clear()
    MultiTargeted(T, 6, targets=2, early_exit=False)(net, x, y, generator=seeded())
    handle.remove()
    assert sizes == [64] * (1 + 2 * 7)


def test_the_batch_does_not_matter_and_unlabelled_samples_stay(classifier: Any) -> None:
    net, x, y = classifier(4)
    attack = MultiTargeted(T, 8, restarts=2)
    noise = draw_per_sample(attack, x, list(range(64)))

    def attacked(rows: slice, y: Tensor = y) -> Tensor:
        return attack(net, x[rows], y[rows], noise={p: d[rows] for p, d in noise.items()})

    whole = attacked(slice(0, 64))
    torch.testing.assert_close(
        torch.cat([attacked(slice(i, i + 7)) for i in range(0, 64, 7)]), whole, rtol=0, atol=1e-12
    )
    half = attacked(slice(0, 64), torch.where(torch.arange(64) < 30, y, -1))
    torch.testing.assert_close(half[:30], whole[:30], rtol=0, atol=1e-12)
    assert torch.equal(half[30:], x[30:])


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_any_number_of_classes_and_a_dead_network(classes: int, classifier: Any) -> None:
    net, x, y = classifier(classes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the margin has no least number of classes
        assert right(net, MultiTargeted(T, 10)(net, x, y, generator=seeded()), y).sum() < 64
    found = MultiTargeted(T, 3)(lambda u: net(u) * 0, x, y, generator=seeded())
    assert found.isfinite().all()
    assert T.contains(found, x).all()


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: MultiTargeted(T, 0), "needs steps >= 1"),
        (lambda: MultiTargeted(T, targets=0), "targets is a number of classes from 1, got 0"),
        (lambda: MultiTargeted(T, loss="kl"), "a targeted loss is one of dlr, margin, ce, got 'kl'"),
        (lambda: MultiTargeted(T, decay="step"), "decay must be constant"),
        (lambda: MultiTargeted(T, start=rr.Clean(), restarts=2), "use a random start"),
    ],
)
def test_bad_rules_are_refused(build: Callable[[], rr.Point], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build()
