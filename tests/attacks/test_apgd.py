"""Auto-PGD: the papers' algorithms step by step, worst cases in closed form, and nothing that depends on the batch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import robustreg as rr
from robustreg import numerics
from robustreg.attacks import portions, search
from robustreg.attacks.apgd import APGD, APGDT, checkpoints, moved, sparse_direction
from robustreg.points import draw_per_sample

NORMS = {"linf": 0.05, "l2": 0.16, "l1": 0.35}
THREATS = [rr.Threat(norm, eps) for norm, eps in NORMS.items()]
T = THREATS[0]
EACH_THREAT = pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.name)
EACH_ATTACK = pytest.mark.parametrize("attack", [APGD, APGDT])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def right(net: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x).argmax(1) == y


def draws(attack: rr.Point, x: Tensor) -> dict[rr.Point, Tensor]:
    return draw_per_sample(attack, x, list(range(len(x))))


# -- within the threat ---------------------------------------------------------------------------------------


@given(
    norm=st.sampled_from([1.0, 2.0, math.inf]),
    eps=st.floats(0, 2),
    steps=st.integers(1, 9),
    shape=st.sampled_from([(1, 4), (3, 2, 3), (2, 1, 3, 3)]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    box=st.sampled_from([(0.0, 1.0), (-1.0, 2.0), (0.0, math.inf), None]),
    make=st.sampled_from(
        [
            APGD,
            lambda *a: APGD(*a, loss="kl", restarts=2),
            lambda *a: APGD(*a, loss="dlr", multi_eps=True, rescale=1.0),
            lambda *a: APGD(*a, start=rr.Clean(), multi_eps=False),
            lambda *a: APGD(*a, start=rr.Gaussian(3.0), early_exit=False, alpha=1.0),
            lambda *a: APGDT(*a, targets=2),
        ]
    ),
)
@settings(max_examples=60, deadline=None)
def test_always_within_the_threat(
    norm: float, eps: float, steps: int, shape: Any, dtype: torch.dtype, box: Any, make: Any
) -> None:
    threat = rr.Threat(norm, eps, box)
    x = torch.rand(shape, generator=seeded()).to(dtype)
    weight = torch.randn(x[0].numel(), 4, generator=seeded(1)).to(dtype)
    found = make(threat, steps)(
        lambda u: u.flatten(1) @ weight, x, torch.arange(shape[0]), generator=seeded(2)
    )
    assert threat.contains(found, x).all()
    assert found.dtype == dtype


@EACH_THREAT
@EACH_ATTACK
def test_no_budget_gives_the_sample_back(attack: Any, threat: rr.Threat, classifier: Any) -> None:
    net, x, y = classifier(3)
    assert torch.equal(attack(threat.with_eps(0), 3)(net, x, y), x)


@EACH_THREAT
@pytest.mark.parametrize("bias", [0.0, math.inf, math.nan])
def test_a_network_that_says_the_same_everywhere_does_no_harm(
    threat: rr.Threat, bias: float, classifier: Any
) -> None:
    _, x, y = classifier(4)

    def constant(u: Tensor) -> Tensor:
        return u.flatten(1)[:, :4] * 0 + torch.tensor([0.0, 0.0, 0.0, bias])

    for attack in (APGD(threat, 10), APGD(threat, 10, loss="dlr", rescale=8.0), APGDT(threat, 10, targets=2)):
        found = attack(constant, x, y, generator=seeded())
        assert found.isfinite().all()
        assert threat.contains(found, x).all()


def test_huge_logits_do_no_harm(batch: Any) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        net[1].weight.mul_(1e38)
    for threat in THREATS:
        assert APGD(threat, 10)(net, *batch).isfinite().all()


# -- the papers' algorithms ----------------------------------------------------------------------------------


def test_the_checkpoints_are_those_of_the_paper() -> None:
    # p = 0, 0.22, 0.22 + 0.19, + 0.16, + 0.13, + 0.10, + 0.07, + 0.06
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1000) == [220, 410, 570, 700, 800, 870, 930, 990]
    assert checkpoints(10) == [3, 5, 6, 7, 8, 9, 10]  # ceil(2.2), ceil(4.1), ...
    assert checkpoints(1) == [1]


def loss_and_gradient(net: nn.Module, z: Tensor, y: Tensor) -> tuple[float, Tensor]:
    u = z.clone().requires_grad_()
    value = numerics.cross_entropy(net(u[None]), y[None])[0]
    (g,) = torch.autograd.grad(value, u)
    return float(value.detach()), g


def algorithm_1(net: nn.Module, x: Tensor, y: Tensor, start: Tensor, threat: rr.Threat, steps: int) -> Tensor:
    """Algorithm 1 of Croce and Hein 2020 as it stands there, for one sample."""

    def onto(z: Tensor) -> Tensor:
        delta = z - x
        if threat.norm == 2:
            return (x + delta * min(1.0, threat.eps / float(delta.norm()))).clamp(0, 1)
        return (x + delta.clamp(-threat.eps, threat.eps)).clamp(0, 1)

    def ahead(z: Tensor, g: Tensor) -> Tensor:
        return onto(z + size * (g / g.norm() if threat.norm == 2 else g.sign()))

    size, f, g, best, highest, points = 2 * threat.eps, [], [], start, -math.inf, [start]
    check, halved_before, highest_before, rises = 0, True, 0.0, 0

    def look(z: Tensor) -> None:
        nonlocal best, highest, best_g
        value, gradient = loss_and_gradient(net, z, y)
        f.append(value)
        g.append(gradient)
        if value > highest:
            best, highest, best_g = z, value, gradient

    best_g = torch.zeros_like(x)
    look(start)
    highest_before = highest
    for k in range(steps):
        z = ahead(points[k], g[k])
        if k:
            z = onto(points[k] + 0.75 * (z - points[k]) + 0.25 * (points[k] - points[k - 1]))
        points.append(z)
        look(z)
        rises += f[k + 1] > f[k]
        if k + 1 in checkpoints(steps):
            halve = rises < 0.75 * (k + 1 - check) or (not halved_before and highest == highest_before)
            if halve:
                size /= 2
                points[k + 1], f[k + 1], g[k + 1] = best, highest, best_g
            check, halved_before, highest_before, rises = k + 1, halve, highest, 0
    return best


@pytest.mark.parametrize("threat", THREATS[:2], ids=lambda t: t.name)
@pytest.mark.parametrize("early_exit", [True, False])
def test_it_is_algorithm_1_sample_by_sample(threat: rr.Threat, early_exit: bool, classifier: Any) -> None:
    net, x, y = classifier(4)
    # In l2 the loss soon stands still, and then it is rounding that says whether it rose.
    steps = 12 if threat.norm == 2 else 40
    attack = APGD(threat, steps, early_exit=early_exit)
    noise = draws(attack, x)
    start = threat.project(threat.clip(x + noise[rr.Uniform(threat)]), x)
    expected = torch.stack([algorithm_1(net, *row, threat, steps) for row in zip(x, y, start, strict=True)])
    found = attack(net, x, y, noise=noise)
    standing = right(net, found, y) if early_exit else torch.ones(len(x), dtype=torch.bool)
    assert standing.sum() > 10
    # the gradient of the cross-entropy itself, by which `expected` was made, has no more digits in l2
    torch.testing.assert_close(found[standing], expected[standing], rtol=0, atol=1e-8)


def nearest_in_l1(delta: Tensor, x: Tensor, eps: float) -> Tensor:
    """The projection onto l1 ball and box, its threshold by bisection."""

    def at(theta: float) -> Tensor:
        shrunk = delta.sign() * (delta.abs() - theta).clamp(min=0)
        return (x + shrunk).clamp(0, 1) - x

    low, high = 0.0, float(delta.abs().max())
    if float(at(0).abs().sum()) <= eps:
        return at(0)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if float(at(middle).abs().sum()) > eps else (low, middle)
    return at(high)


def sparse_by_hand(net: nn.Module, x: Tensor, y: Tensor, start: Tensor, eps: float, steps: int) -> Tensor:
    """The adaptive l1 attack of Croce and Hein 2021 within one radius, for one sample."""
    n = x.numel()
    size, count, moved_before, every = eps, 0.2 * n, n, max(int(0.04 * steps), 1)
    z, best, highest = start, start, -math.inf
    best_g = torch.zeros_like(x)
    for i in range(steps + 1):
        value, g = loss_and_gradient(net, z, y)
        if value > highest:
            best, highest, best_g = z, value, g
        if i and i % every == 0:
            now = int((best != x).sum())
            if now / moved_before < 0.95:
                z, g, size = best, best_g, eps
            else:
                size = max(size / 1.5, eps / 10)
            count, moved_before = now / 1.5, now
        largest = g.abs().flatten().topk(max(int(count), 1)).indices
        sign = torch.zeros(n, dtype=x.dtype).index_fill(0, largest, 1.0).reshape(x.shape) * g.sign()
        z = x + nearest_in_l1(z + size * sign / sign.abs().sum() - x, x, eps)
    return best


def test_in_l1_it_is_the_sparse_algorithm_sample_by_sample(classifier: Any) -> None:
    net, x, y = classifier(4)
    x, y, threat = x[:12], y[:12], THREATS[2]
    attack = APGD(threat, 30, early_exit=False, multi_eps=False)
    noise = draws(attack, x)
    (draw,) = noise.values()
    start = torch.stack(
        [row + nearest_in_l1(d, row, threat.eps) for row, d in zip(x, draw * threat.eps / 12, strict=True)]
    )
    expected = torch.stack(
        [sparse_by_hand(net, *row, threat.eps, 30) for row in zip(x, y, start, strict=True)]
    )
    found = attack(net, x, y, noise=noise)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_the_sparse_direction_takes_the_largest_entries_equally() -> None:
    g = torch.tensor(
        [[3.0, -2.0, 1.0, 0.5], [0.0, 0.0, -4.0, 0.0], [0.0, 0.0, 0.0, 0.0], [math.nan, 1.0, 1.0, 0.0]]
    )
    d = sparse_direction(g, torch.tensor([2.9, 2.0, 1.0, 1.0]))
    assert d.tolist() == [[0.5, -0.5, 0, 0], [0, 0, -1, 0], [0, 0, 0, 0], [0, 0.5, 0.5, 0]]
    assert sparse_direction(g, torch.tensor([0.0, 9.0, 0.0, 0.0]))[0].tolist() == [1, 0, 0, 0]
    assert moved(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])).tolist() == [
        1,
        0,
    ]


def test_in_l1_it_comes_from_wider_balls() -> None:
    l1 = THREATS[2]
    assert APGD(l1).radii() == [(3.0, 30), (2.0, 30), (1.0, 40)]
    assert APGD(l1, 25).radii() == [(3.0, 8), (2.0, 8), (1.0, 9)]
    assert APGD(l1, 2).radii() == [(1.0, 2)]  # too few to share
    assert APGD(T).radii() == APGD(l1, multi_eps=False).radii() == [(1.0, 100)]
    assert APGD(T, multi_eps=True).radii() == APGD(l1).radii()


@EACH_THREAT
def test_on_the_way_it_looks_outside_the_ball_and_returns_nothing_from_there(
    threat: rr.Threat, classifier: Any
) -> None:
    net, x, y = classifier(3)
    far: list[float] = []
    handle = net.register_forward_hook(
        lambda m, inputs, z: far.append(float(threat.length(inputs[0].detach() - x).max()) / threat.eps)
    )
    found = APGD(threat, 20, multi_eps=True, early_exit=False)(net, x, y, generator=seeded())
    handle.remove()
    assert len(far) == 7 + 7 + 9
    assert 2 < max(far[:7]) <= 3 + 1e-9
    assert 1 < max(far[7:14]) <= 2 + 1e-9
    assert max(far[14:]) <= 1 + 1e-9
    assert threat.contains(found, x).all()


# -- worst cases in closed form ------------------------------------------------------------------------------


def worst_case(x: Tensor, w: Tensor, threat: rr.Threat) -> Tensor:
    """The largest ``w . d`` over ball and box for each sample, by greed or in closed form."""
    if threat.bounds is None:
        return threat.eps * threat.dual_norm(w.expand_as(x))
    room = torch.where(w > 0, 1 - x, x)
    if threat.norm == math.inf:
        return (w.abs() * room.clamp(max=threat.eps)).sum(1)
    order = w.abs().argsort(descending=True)
    room = room[:, order]
    spent = (room.cumsum(1) - room).clamp(max=threat.eps)
    return (w.abs()[order] * torch.minimum(room, threat.eps - spent)).sum(1)


@pytest.mark.parametrize(
    "threat",
    [rr.Threat(norm, eps, None) for norm, eps in [("linf", 0.1), ("l2", 0.5), ("l1", 0.5)]]
    + [rr.Threat("linf", 0.3), rr.Threat("l1", 2.5)],
    ids=lambda t: f"{t.name} {t.bounds}",
)
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
def test_on_a_linear_network_it_finds_the_worst_case(threat: rr.Threat, loss: str) -> None:
    w = torch.randn(20, 2, generator=seeded(), dtype=torch.float64)
    x, y = torch.rand(6, 20, generator=seeded(1), dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1, 0])

    def model(u: Tensor) -> Tensor:
        return u @ w

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of DLR, of which there is none here
        found = APGD(threat, loss=loss, early_exit=False)(model, x, y, generator=seeded())
    fall = numerics.margin(model(x), y) - numerics.margin(model(found), y)
    signs = torch.where(y == 0, -1.0, 1.0).double()
    expected = torch.stack(
        [worst_case(x[i : i + 1], signs[i] * (w[:, 0] - w[:, 1]), threat)[0] for i in range(6)]
    )
    # Within ball and box the sparse steps end near the worst case: places that are at the box's end count among the
    # largest gradients.
    tolerance = 0.05 if threat.norm == 1 and threat.bounds else 1e-3
    torch.testing.assert_close(fall, expected, rtol=tolerance, atol=0)


def test_each_target_is_attacked_and_the_nearest_is_not_the_only_one() -> None:
    # class 1 is the runner-up and constant; class 2 is far behind and can be reached
    def model(u: Tensor) -> Tensor:
        return torch.cat([torch.ones_like(u), torch.full_like(u, 0.9), 10 * u - 4.5, 0 * u - 9], dim=1)

    x, y = torch.full((5, 1), 0.45), torch.zeros(5, dtype=torch.long)
    first, second = (
        APGDT(rr.Threat("linf", 0.15), 10, loss="margin", start=rr.Clean(), targets=targets)
        for targets in (1, 2)
    )
    assert right(model, first(model, x, y), y).all()
    assert not right(model, second(model, x, y), y).any()


# -- strength ------------------------------------------------------------------------------------------------


@EACH_THREAT
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
def test_it_fools_at_least_as_many_as_pgd_of_as_many_steps(
    threat: rr.Threat, loss: str, classifier: Any
) -> None:
    net, x, y = classifier(5)
    pgd = right(net, rr.PGD(threat, 50, loss=loss)(net, x, y, generator=seeded()), y).sum()
    apgd = right(net, APGD(threat, 50, loss=loss)(net, x, y, generator=seeded()), y).sum()
    targeted = right(net, APGDT(threat, 50)(net, x, y, generator=seeded()), y).sum()
    assert apgd <= pgd < right(net, x, y).sum()
    assert targeted <= pgd


@EACH_THREAT
def test_the_best_point_that_was_seen_is_returned(threat: rr.Threat, classifier: Any) -> None:
    net, x, y = classifier(3)
    seen: list[Tensor] = []
    handle = net.register_forward_hook(
        lambda m, inputs, z: seen.append(numerics.error_log_odds(z.detach(), y))
    )
    attack = APGD(threat, 30, restarts=2, early_exit=False, multi_eps=False)
    found = attack(net, x, y, generator=seeded())
    handle.remove()
    assert len(seen) == 2 * 31
    best = torch.stack(seen).max(0).values
    with torch.no_grad():
        torch.testing.assert_close(numerics.error_log_odds(net(found), y), best, rtol=0, atol=1e-12)


@EACH_THREAT
def test_more_restarts_are_never_worse(threat: rr.Threat, classifier: Any) -> None:
    net, x, y = classifier(3)
    standing = torch.ones(len(x), dtype=torch.bool)
    for restarts in (1, 2, 4):
        now = right(net, APGD(threat, 6, restarts=restarts)(net, x, y, generator=seeded()), y)
        assert not (now & ~standing).any()
        standing = now


# -- fooled samples leave, and nobody notices ----------------------------------------------------------------


# In l2 the loss soon stands still, and rounding, which the size of a batch changes, says whether it rose. The points
# then differ by what is left to gain.
NEAR = {"linf": 1e-12, "l2": 1e-5, "l1": 1e-12}


@EACH_THREAT
@pytest.mark.parametrize("attack", [APGD, lambda *a: APGDT(*a, targets=2)], ids=["APGD", "APGDT"])
def test_the_batch_does_not_matter(attack: Any, threat: rr.Threat, classifier: Any) -> None:
    net, x, y = classifier(5)
    point = attack(threat, 15)
    noise = draws(point, x)

    def attacked(rows: slice) -> Tensor:
        return point(net, x[rows], y[rows], noise={source: d[rows] for source, d in noise.items()})

    whole = attacked(slice(0, 64))
    apart = torch.cat([attacked(slice(i, i + 7)) for i in range(0, 64, 7)])
    torch.testing.assert_close(apart, whole, rtol=0, atol=NEAR[threat.name])
    assert torch.equal(right(net, apart, y), right(net, whole, y))
    assert 0 < right(net, whole, y).sum() < 64


@EACH_THREAT
@EACH_ATTACK
def test_when_the_fooled_are_taken_out_does_not_matter(
    attack: Any, threat: rr.Threat, classifier: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x, y = classifier(5)
    found = []
    for share in (1, 4, 10**6):  # at the end, now and then, at once
        monkeypatch.setattr(search, "_WORTH_IT", share)
        found.append(attack(threat, 15)(net, x, y, generator=seeded()))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=NEAR[threat.name])
        assert torch.equal(right(net, other, y), right(net, found[0], y))


@EACH_THREAT
def test_leaving_early_gives_the_same_verdict_for_every_sample(threat: rr.Threat, classifier: Any) -> None:
    net, x, y = classifier(3)
    # the best margin that was seen is above 0 exactly where some point on the way was misclassified
    attack = APGD(threat, 20, restarts=2, loss="margin")
    early = right(net, attack(net, x, y, generator=seeded()), y)
    late = right(net, replace(attack, early_exit=False)(net, x, y, generator=seeded()), y)
    assert torch.equal(early, late)
    assert 0 < early.sum() < 64


@EACH_ATTACK
def test_the_work_shrinks(attack: Any, classifier: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portions, "rows_at_once", lambda probe: 1)  # one target after the other
    net, x, y = classifier(5)
    sizes: list[int] = []
    handle = net.register_forward_hook(lambda m, inputs, z: sizes.append(len(z)))
    found = attack(T, 50)(net, x, y, generator=seeded())
    handle.remove()
    assert sizes == sorted(sizes, reverse=True)
    left = int(right(net, found, y).sum())
    assert left <= sizes[-1] <= left * 16 / 15 + 1


def test_who_is_wrong_without_an_attack_is_left_out_by_the_targeted_one(classifier: Any) -> None:
    net, x, _ = classifier(4)
    wrong = (net(x).argmax(1) + 1) % 4
    sizes: list[int] = []
    handle = net.register_forward_hook(lambda m, inputs, z: sizes.append(len(z)))
    assert torch.equal(APGDT(T, 5)(net, x, wrong), x)
    handle.remove()
    assert sizes == [64]


def test_an_evaluation_gives_the_same_outcomes_for_every_batch_size(classifier: Any) -> None:
    net, x, y = classifier(4)
    attacks = {"apgd": APGD(T, 15), "apgdt": APGDT(T, 15, targets=2)}
    large, small = (
        rr.evaluate(net, (x, y), attacks, T, batch_size=size, sequential=True) for size in (64, 7)
    )
    for a, b in zip(large.attacks, small.attacks, strict=True):
        assert a.status == "counted"
        assert torch.equal(a.score.outcomes, b.score.outcomes)


# -- logits at will ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "shift"), [(1e-3, 0.0), (1e3, 0.0), (1.0, 1e4), (1e3, -1e4)])
@pytest.mark.parametrize(
    "attack",
    [APGD(T, 30, loss="dlr"), APGD(T, 30, loss="margin"), APGDT(T, 30), APGD(T, 30, rescale=8.0)],
    ids=["dlr", "margin", "targeted", "ce rescaled"],
)
def test_the_scale_and_level_of_the_logits_play_no_part(
    attack: rr.Point, scale: float, shift: float, classifier: Any
) -> None:
    net, x, y = classifier(4)

    def other(u: Tensor) -> Tensor:
        return scale * net(u) + shift

    for threat in THREATS:
        at = attack.with_threat(threat)
        expected = right(net, at(net, x, y, generator=seeded()), y)
        assert torch.equal(right(other, at(other, x, y, generator=seeded()), y), expected)
        assert 0 < expected.sum() < 64


@EACH_THREAT
def test_a_confident_network_in_float32_does_not_hide_from_the_cross_entropy(
    threat: rr.Threat, classifier: Any
) -> None:
    net, x, y = classifier(4)
    x = x.float()

    def confident(u: Tensor) -> Tensor:
        return 1e3 * net(u.double()).float()

    plain = right(confident, rr.PGD(threat, 30)(confident, x, y, generator=seeded()), y).sum()
    exact = right(confident, APGD(threat, 30, loss="margin")(confident, x, y, generator=seeded()), y).sum()
    found = right(confident, APGD(threat, 30)(confident, x, y, generator=seeded()), y).sum()
    assert plain > exact + 10  # the cross-entropy's gradient is 0 in rounding
    assert found <= exact + 2


# -- numbers of classes, shapes, labels ----------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
@EACH_THREAT
def test_any_number_of_classes(threat: rr.Threat, classes: int, classifier: Any) -> None:
    net, x, y = classifier(classes)
    attacks = [APGD(threat, 20), APGD(threat, 20, loss="dlr"), APGDT(threat, 20)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = [attack(net, x, y, generator=seeded()) for attack in attacks]
    for points in found:
        assert points.isfinite().all()
        assert right(net, points, y).sum() < right(net, x, y).sum()


@pytest.mark.parametrize("attack", [APGD(T, 3, loss="dlr"), APGDT(T, 3)], ids=["dlr", "targeted"])
@pytest.mark.parametrize("classes", [2, 3])
def test_it_says_once_that_there_is_no_dlr_of_few_classes(
    attack: rr.Point, classes: int, classifier: Any
) -> None:
    net, x, y = classifier(classes)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        found = attack(net, x, y, generator=seeded())
    sentence = (
        f"the DLR loss needs at least 4 classes, the model has {classes}: the margin is climbed instead"
    )
    assert [str(w.message) for w in said] == [sentence]
    margin = replace(attack, loss="margin")  # type: ignore[type-var]
    noise = {b: draws(attack, x)[a] for a, b in zip(attack.sources(), margin.sources(), strict=True)}
    assert torch.equal(attack(net, x, y, noise=draws(attack, x)), margin(net, x, y, noise=noise))
    assert found.isfinite().all()


def test_with_four_classes_it_says_nothing(classifier: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        APGDT(T, 2)(*classifier(4))
        APGD(T, 2, loss="dlr")(*classifier(4))


@pytest.mark.parametrize("shape", [(6, 1), (6, 12), (6, 3, 2, 2), (1, 5), (0, 5)])
@EACH_ATTACK
def test_any_shape(attack: Any, shape: tuple[int, ...]) -> None:
    x = torch.rand(shape, generator=seeded())
    weight = torch.randn(x[0:1].numel() or 5, 4, generator=seeded(1))
    for threat in THREATS:
        found = attack(threat, 4)(lambda u: u.flatten(1) @ weight, x, torch.zeros(shape[0], dtype=torch.long))
        assert found.shape == x.shape


@EACH_THREAT
@EACH_ATTACK
def test_samples_without_a_label_stay_as_they_are(attack: Any, threat: rr.Threat, classifier: Any) -> None:
    net, x, y = classifier(4)
    point = attack(threat, 8)
    noise = draws(point, x)
    some = torch.where(torch.arange(64) < 32, y, -1)
    found, whole = point(net, x, some, noise=noise), point(net, x, y, noise=noise)
    torch.testing.assert_close(found[:32], whole[:32], rtol=0, atol=1e-12)
    assert torch.equal(found[32:], x[32:])


def test_climbing_the_divergence_needs_no_labels(classifier: Any) -> None:
    net, x, _ = classifier(4)
    found = APGD(T, 10, loss="kl")(net, x, generator=seeded())
    with torch.no_grad():
        noise = numerics.kl(net(x), net(rr.Uniform(T)(net, x, generator=seeded())))
        assert (numerics.kl(net(x), net(found)) >= noise).all()
    with pytest.raises(ValueError, match="APGD needs labels"):
        APGD(T)(net, x)


# -- networks that draw random numbers -----------------------------------------------------------------------


class Noisy(nn.Module):
    """Adds noise to its input in every mode."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.sizes = net, list[int]()

    def forward(self, u: Tensor) -> Tensor:
        self.sizes.append(len(u))
        return self.net(u + 0.2 * torch.randn_like(u))


@EACH_ATTACK
def test_averaging_over_the_noise_makes_it_stronger(attack: Any, classifier: Any) -> None:
    net, x, y = classifier(4)
    noisy = Noisy(net)

    def accuracy(point: rr.Point) -> float:
        found = point(noisy, x, y, generator=seeded())
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            return float(torch.stack([noisy(found).argmax(1) == y for _ in range(100)]).double().mean())

    assert accuracy(attack(T, 20, eot_iter=10)) < accuracy(attack(T, 20)) - 0.02
    assert torch.equal(*(attack(T, 3, eot_iter=2)(noisy, x, y, generator=seeded(1)) for _ in range(2)))


def test_the_gradient_is_the_mean_over_the_draws_and_each_draw_is_another(classifier: Any) -> None:
    net, x, y = classifier(4)
    noisy, seen = Noisy(net), list[Tensor]()
    handle = net.register_forward_hook(lambda m, inputs, z: seen.append(inputs[0].detach()))
    l2 = rr.Threat("l2", 0.2, None)
    found = APGD(l2, 1, eot_iter=3, start=rr.Clean(), early_exit=False)(noisy, x, y, generator=seeded())
    handle.remove()
    assert noisy.sizes == [64] * 6
    assert len({float(u.sum()) for u in seen}) == 6
    u = torch.stack(seen[:3]).requires_grad_()
    odds = sum(numerics.error_log_odds(net(v), y) for v in u)
    (g,) = torch.autograd.grad(odds.sum(), u)  # type: ignore[union-attr]
    expected = l2.project(x + 0.4 * rr.threat.steepest_direction(g.sum(0), 2.0), x)
    before, after = (
        torch.stack([numerics.error_log_odds(net(v), y) for v in seen[i : i + 3]]).mean(0).detach()
        for i in (0, 3)
    )
    rose = after > before
    assert rose.sum() > 50
    torch.testing.assert_close(found[rose], expected[rose], rtol=0, atol=1e-12)
    assert torch.equal(found[~rose], x[~rose])


# -- in training, and side effects ---------------------------------------------------------------------------


@pytest.mark.parametrize("attack", [APGD(T, 4), APGDT(T, 2, targets=2), APGD(THREATS[2], 4)], ids=str)
def test_as_a_point_of_training_every_sample_makes_every_step(
    attack: rr.Point, relu_net: nn.Module, batch: Any
) -> None:
    sizes: list[int] = []
    handle = relu_net.register_forward_hook(lambda m, inputs, z: sizes.append(len(z)))
    objective = rr.Objective.of(rr.CrossEntropy(at=attack))
    objective(relu_net, *batch).backward()
    handle.remove()
    assert set(sizes) == {6}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in relu_net.parameters())
    assert objective.plan().forwards == len(sizes)


def test_it_leaves_no_trace(restless_net: nn.Module, batch: Any, snapshot: Callable[..., Any]) -> None:
    before = snapshot(restless_net)
    for mode in ("eval", "batch"):
        for attack in (APGD(T, 4, restarts=2, mode=mode), APGDT(T, 2, mode=mode)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                attack(restless_net, *batch, generator=seeded())
    assert snapshot(restless_net) == before


def test_every_climb_has_a_draw_of_its_own() -> None:
    assert len(set(APGD(T, restarts=3).sources())) == 3
    assert len(set(APGDT(T, restarts=2, targets=4).sources())) == 8
    assert list(APGDT(T, start=rr.Clean()).sources()) == []
    assert APGD(T).with_threat(THREATS[2]) == APGD(THREATS[2])
    assert APGD(T).key != APGD(T, eot_iter=2).key


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: APGD(rr.Threat("l1.5", 1.0)), "made for linf, l2 and l1, got l1.5: use PGD"),
        (lambda: APGD(T, 0), "needs steps >= 1, restarts >= 1 and eot_iter >= 1, got 0, 1 and 1"),
        (lambda: APGD(T, restarts=0), "got 100, 0 and 1"),
        (lambda: APGD(T, eot_iter=0), "got 100, 1 and 0"),
        (lambda: APGD(T, rho=1.5), r"rho must lie in \[0, 1\] and alpha in \(0, 1\], got 1.5 and 0.75"),
        (lambda: APGD(T, alpha=0.0), "got 0.75 and 0.0"),
        (lambda: APGD(T, rescale=0.0), "must be positive, got 0.0"),
        (lambda: APGD(T, loss="hinge"), "loss must be one of"),
        (lambda: APGD(T, mode="test"), "mode must be one of"),
        (lambda: APGD(T, restarts=2, start=rr.Clean()), "would all be the same: use a random start"),
        (lambda: APGDT(T, loss="kl"), "a targeted loss is one of dlr, margin, ce, got 'kl'"),
        (lambda: APGDT(T, targets=0), "targets is a number of classes from 1, got 0"),
    ],
)
def test_bad_rules_are_refused_when_they_are_made(build: Callable[[], rr.Point], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build()
