"""Projected gradient ascent of any norm: in the threat, never worse for trying more, the same for every batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import robustreg as rr
from robustreg import numerics
from robustreg.points import draw_per_sample
from robustreg.probe import Probe
from robustreg.streams import Stream

NORMS = {"linf": 0.1, "l2": 0.4, "l1": 1.0, "l1.5": 0.6}
THREATS = [rr.Threat(norm, eps) for norm, eps in NORMS.items()]
T = THREATS[0]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """A network in float64 that is right on most of 40 samples, and fooled on some of them within the threats."""
    g = seeded(4)
    x = torch.rand(40, 2, 5, generator=g, dtype=torch.float64)
    y = (x.flatten(1) @ torch.randn(10, 3, generator=g, dtype=torch.float64)).argmax(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(10, 12), nn.Tanh(), nn.Linear(12, 3)).double()
    optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimiser.step()
    optimiser.zero_grad()
    return net, x, y


def survivors(net: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x).argmax(1) == y


def losses(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return numerics.cross_entropy(net(x), y)


# -- within the threat ---------------------------------------------------------------------------------------


@given(
    norm=st.sampled_from([1.0, 1.5, 2.0, 3.0, math.inf]),
    eps=st.floats(0, 2),
    steps=st.integers(1, 4),
    restarts=st.integers(1, 2),
    shape=st.sampled_from([(1, 4), (3, 2, 3), (2, 1, 3, 3)]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    box=st.sampled_from([(0.0, 1.0), (-1.0, 2.0), None]),
    options=st.sampled_from(
        [
            {},
            {"loss": "kl"},
            {"loss": "margin", "decay": "linear"},
            {"early_exit": False},
            {"start": rr.Gaussian(1.0)},
        ]
    ),
)
@settings(max_examples=60, deadline=None)
def test_always_within_the_threat(
    norm: float, eps: float, steps: int, restarts: int, shape: Any, dtype: torch.dtype, box: Any, options: Any
) -> None:
    threat = rr.Threat(norm, eps, box)
    x = torch.rand(shape, generator=seeded()).to(dtype)
    weight = torch.randn(x[0].numel(), 4, generator=seeded(1)).to(dtype)
    attack = rr.PGD(threat, steps, restarts=restarts, **options)
    found = attack(lambda u: u.flatten(1) @ weight, x, torch.arange(shape[0]), generator=seeded(2))
    assert threat.contains(found, x).all()
    assert found.dtype == dtype


@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.name)
def test_no_budget_gives_the_sample_back(threat: rr.Threat, trained: Any) -> None:
    net, x, y = trained
    for early_exit in (True, False):
        assert torch.equal(rr.PGD(threat.with_eps(0), 2, early_exit=early_exit)(net, x, y), x)


def test_zero_gradients_do_no_harm(batch: Any) -> None:
    dead = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        dead[1].bias.fill_(-100)
    for threat in THREATS:
        found = rr.PGD(threat, 3)(dead, *batch)
        assert found.isfinite().all()
        assert threat.contains(found, batch[0]).all()


def test_infinite_logits_do_no_harm(batch: Any) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        net[1].weight.mul_(1e38)
    assert rr.PGD(T, 3)(net, *batch).isfinite().all()


# -- strength ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.name)
def test_it_fools_where_noise_does_not(threat: rr.Threat, trained: Any) -> None:
    net, x, y = trained
    noise = survivors(net, rr.Uniform(threat)(net, x), y)
    attacked = survivors(net, rr.PGD(threat, 20)(net, x, y), y)
    assert attacked.sum() < noise.sum()


@pytest.mark.parametrize("norm", [1.0, 1.1, 1.5, 2.0, 3.0, 8.0, math.inf])
def test_on_a_linear_network_it_finds_the_worst_case(norm: float) -> None:
    w = torch.randn(20, 2, generator=seeded(), dtype=torch.float64)
    threat = rr.Threat(norm, 0.5, None)
    x, y = torch.rand(5, 20, generator=seeded(1), dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1])

    def model(u: Tensor) -> Tensor:
        return u @ w

    attack = rr.PGD(threat, 40, step_size=0.3, decay="cosine", early_exit=False)
    fall = numerics.margin(model(x), y) - numerics.margin(model(attack(model, x, y)), y)
    largest = threat.eps * threat.dual_norm((w[:, 0] - w[:, 1]).expand(5, 20))
    torch.testing.assert_close(fall, largest, rtol=1e-3, atol=0)


@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.name)
def test_leaving_early_gives_the_same_verdict_for_every_sample(threat: rr.Threat, trained: Any) -> None:
    net, x, y = trained
    # the highest margin loss that was seen is above 0 exactly where some point on the way was misclassified
    attack = rr.PGD(threat, 8, restarts=3, loss="margin")
    draws = draw_noise(attack, x)
    early = survivors(net, attack(net, x, y, noise=draws), y)
    late = survivors(net, replace(attack, early_exit=False)(net, x, y, noise=draws), y)
    assert torch.equal(early, late)
    assert 0 < early.sum() < 40


@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.name)
def test_leaving_early_loses_nobody_whom_the_end_of_the_search_fools(threat: rr.Threat, trained: Any) -> None:
    net, x, y = trained
    attack = rr.PGD(threat, 8, restarts=3)
    draws = draw_noise(attack, x)
    early = survivors(net, attack(net, x, y, noise=draws), y)
    for start in attack.starts():
        alone = replace(attack, start=start, restarts=1, early_exit=False)
        assert not (early & ~survivors(net, alone(net, x, y, noise=draws), y)).any()


def draw_noise(attack: rr.PGD, x: Tensor) -> dict[rr.Point, Tensor]:
    return draw_per_sample(attack, x, list(range(len(x))))


@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.name)
def test_more_restarts_are_never_worse(threat: rr.Threat, trained: Any) -> None:
    net, x, y = trained
    standing, loss = torch.ones(40, dtype=torch.bool), torch.full((40,), -math.inf, dtype=torch.float64)
    for restarts in (1, 2, 4):
        found = rr.PGD(threat, 4, restarts=restarts)(net, x, y, generator=seeded())
        now = survivors(net, found, y)
        assert not (now & ~standing).any()  # who was fooled stays fooled
        higher = losses(net, found, y)
        assert (higher[now] >= loss[now] - 1e-12).all()
        standing, loss = now, higher


def test_who_is_never_fooled_gets_the_point_of_highest_loss_seen(trained: Any) -> None:
    net, x, y = trained
    attack = rr.PGD(T, 6, step_size=0.3 * T.eps)
    seen: list[Tensor] = []
    handle = net.register_forward_hook(lambda m, inputs, z: seen.append(inputs[0].detach()))
    right = survivors(net, x, y)
    seen.clear()
    found = attack(net, x[right], y[right], generator=seeded())
    handle.remove()
    standing = survivors(net, found, y[right])
    assert standing.any()
    first = seen[0]
    assert (losses(net, found, y[right])[standing] >= losses(net, first, y[right])[standing]).all()
    last = replace(attack, early_exit=False)(net, x[right], y[right], generator=seeded())
    assert (losses(net, found, y[right])[standing] >= losses(net, last, y[right])[standing]).all()


def test_from_the_sample_itself_it_is_never_worse_than_the_sample(trained: Any) -> None:
    net, x, y = trained
    for threat in THREATS:
        found = rr.PGD(threat, 5, step_size=3 * threat.eps, start=rr.Clean())(net, x, y)
        standing = survivors(net, found, y)
        assert (losses(net, found, y)[standing] >= losses(net, x, y)[standing]).all()
        assert not (standing & ~survivors(net, x, y)).any()


def test_who_is_fooled_leaves(trained: Any) -> None:
    net, x, y = trained
    sizes: list[int] = []
    handle = net.register_forward_hook(lambda m, inputs, z: sizes.append(len(z)))
    rr.PGD(T, 10, restarts=2)(net, x, y, generator=seeded())
    handle.remove()
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 40


def test_a_point_that_fools_is_kept_also_where_another_has_a_higher_loss() -> None:
    def model(u: Tensor) -> Tensor:
        return torch.cat([u - 0.45, torch.zeros_like(u)], dim=1)

    def misleading(logits: Tensor, y: Tensor) -> Tensor:
        return logits[:, 0]  # climbs away from the mistake, which only a lucky start can find

    x, y = torch.full((5, 1), 0.5), torch.zeros(5, dtype=torch.long)
    found = rr.PGD(T, 3, loss=misleading, restarts=20)(model, x, y, generator=seeded())
    assert not survivors(model, found, y).any()


def test_who_needs_no_search_costs_one_look(batch: Any) -> None:
    runs = []

    def model(u: Tensor) -> Tensor:
        runs.append(len(u))
        return u.flatten(1)[:, :3] * 0 + torch.tensor([0.0, 1.0, 2.0])

    y = torch.zeros(6, dtype=torch.long)  # always wrong
    rr.PGD(T, 10, restarts=3)(model, batch[0], y)
    assert runs == [6]


# -- as the point of a training step -------------------------------------------------------------------------


def by_hand(
    net: nn.Module, x: Tensor, y: Tensor, threat: rr.Threat, sizes: list[float], start: Tensor
) -> Tensor:
    z = threat.project(start, x)
    for size in sizes:
        u = z.clone().requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(net(u), y, reduction="sum"), u)
        delta = z + threat.with_eps(size).steepest(g) - x
        if threat.norm == 1.5:  # no Euclidean projection there, see PGD
            delta = delta * (threat.eps / threat.length(delta)).clamp(max=1)[:, None, None]
        z = threat.project(x + delta, x)
    return z


@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.name)
def test_a_training_point_is_the_last_iterate(threat: rr.Threat, trained: Any) -> None:
    net, x, y = trained
    attack = rr.PGD(threat, 4, step_size=0.4 * threat.eps, early_exit=False)
    draw = draw_noise(attack, x)[rr.Uniform(threat)]
    expected = by_hand(net, x, y, threat, [0.4 * threat.eps] * 4, threat.clip(x + draw))
    torch.testing.assert_close(
        attack(net, x, y, noise={rr.Uniform(threat): draw}), expected, rtol=0, atol=1e-12
    )

    loss = rr.Objective.of(rr.CrossEntropy(at=replace(attack, start=rr.Clean())))(net, x, y)
    at = by_hand(net, x, y, threat, [0.4 * threat.eps] * 4, x)
    torch.testing.assert_close(loss, F.cross_entropy(net(at), y), rtol=0, atol=1e-12)


def test_linf_pgd_is_the_usual_few_lines(trained: Any) -> None:
    net, x, y = trained
    delta = torch.zeros_like(x)
    for _ in range(5):
        delta.requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(net(x + delta), y), delta)
        delta = (delta.detach() + 0.03 * g.sign()).clamp(-0.1, 0.1)
        delta = (x + delta).clamp(0, 1) - x
    found = rr.PGD(T, 5, step_size=0.03, start=rr.Clean(), early_exit=False)(net, x, y)
    torch.testing.assert_close(found, x + delta, rtol=0, atol=1e-14)


def test_a_training_point_with_restarts_is_the_one_of_highest_loss(trained: Any) -> None:
    net, x, y = trained
    attack = rr.PGD(T, 3, restarts=3)
    draws = draw_noise(attack, x)
    candidates = [by_hand(net, x, y, T, attack.sizes(), T.clip(x + draws[s])) for s in attack.starts()]
    best = torch.stack([losses(net, z, y) for z in candidates]).max(0).values
    # in a step all samples take all steps: early_exit is for attacks
    found = Probe(net, x, y, stream=Stream(0), noise=draws).at(replace(attack, early_exit=True))
    torch.testing.assert_close(losses(net, found, y), best, rtol=0, atol=1e-12)


# -- step sizes ----------------------------------------------------------------------------------------------


def test_rules_of_the_step_size() -> None:
    assert rr.PGD(T, 5).sizes() == pytest.approx([0.05] * 5)  # 2.5 eps / steps
    assert rr.PGD(T, 2, step_size=0.3).sizes() == [0.3, 0.3]
    assert rr.PGD(T, 4, step_size=1.0, decay="linear").sizes() == [1.0, 0.75, 0.5, 0.25]
    assert rr.PGD(T, 2, step_size=1.0, decay="cosine").sizes() == pytest.approx([1.0, 0.5])


@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.name)
def test_a_step_has_its_size_in_the_threats_norm(threat: rr.Threat, trained: Any) -> None:
    net, x, y = trained
    wide = rr.Threat(threat.norm, 10.0, None)
    found = rr.PGD(wide, 1, step_size=0.2, start=rr.Clean(), early_exit=False)(net, x, y)
    torch.testing.assert_close(wide.length(found - x), torch.full((40,), 0.2, dtype=torch.float64))


# -- randomness ----------------------------------------------------------------------------------------------


@given(cut=st.integers(1, 39), norm=st.sampled_from(list(NORMS)))
@settings(max_examples=10, deadline=None)
def test_with_draws_per_sample_the_batch_does_not_matter(cut: int, norm: str) -> None:
    g = seeded(4)
    x = torch.rand(40, 10, generator=g, dtype=torch.float64)
    weight = torch.randn(10, 3, generator=g, dtype=torch.float64)
    y = (x @ weight).argmax(1)
    attack = rr.PGD(rr.Threat(norm, NORMS[norm] / 4), 4, restarts=2)

    def model(u: Tensor) -> Tensor:
        return torch.tanh(u @ weight)

    def attacked(rows: slice) -> Tensor:
        draws = draw_per_sample(attack, x[rows], list(range(40))[rows])
        return attack(model, x[rows], y[rows], noise=draws)

    apart = torch.cat([attacked(slice(0, cut)), attacked(slice(cut, 40))])
    torch.testing.assert_close(apart, attacked(slice(0, 40)), rtol=0, atol=1e-12)


def test_restarts_have_draws_of_their_own_wherever_the_random_part_is() -> None:
    starts = [None, rr.Gaussian(0.1), rr.FGSM(T, start=rr.Uniform(T)), rr.Along(rr.Clean(), rr.Uniform(T, 7))]
    for start in starts:
        attack = rr.PGD(T, 2, start=start, restarts=3)
        assert len(set(attack.starts())) == 3
        assert len(set(attack.sources())) == 3
        assert attack.starts()[0] == (start or rr.Uniform(T))


@pytest.mark.parametrize("start", [rr.Clean(), rr.FGSM(T), rr.Along(rr.Clean(), rr.FGSM(T))], ids=str)
def test_restarts_that_would_all_be_the_same_are_refused(start: rr.Point) -> None:
    with pytest.raises(ValueError, match="would all be the same: use a random start"):
        rr.PGD(T, 2, start=start, restarts=2)


def test_a_network_with_dropout_is_attacked_the_same_way_for_the_same_seed(
    restless_net: nn.Module, batch: Any
) -> None:
    attack = rr.PGD(T, 3, mode="batch")
    first, second, third = (attack(restless_net, *batch, generator=seeded(s)) for s in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


# -- labels --------------------------------------------------------------------------------------------------


def test_samples_without_a_label_stay_at_their_start(trained: Any) -> None:
    net, x, y = trained
    labels = torch.where(torch.arange(40) < 20, y, -1)
    found = rr.PGD(T, 4)(net, x, labels, generator=seeded())
    whole = rr.PGD(T, 4)(net, x, y, generator=seeded())
    torch.testing.assert_close(found[:20], whole[:20], rtol=0, atol=1e-12)
    assert torch.equal(
        found[20:], rr.PGD(T, 4, start=rr.Uniform(T))(net, x, labels * 0 - 1, generator=seeded())[20:]
    )


def test_climbing_the_divergence_needs_no_labels(trained: Any) -> None:
    net, x, _ = trained
    attack = rr.PGD(T, 5, loss="kl")
    found = attack(net, x)
    with torch.no_grad():
        divergence = numerics.kl(net(x), net(found))
        noise = numerics.kl(net(x), net(rr.Uniform(T)(net, x)))
    assert (divergence >= noise - 1e-9).all()


# -- bad rules -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: rr.PGD(T, 0), "needs steps >= 1 and restarts >= 1, got 0 and 1"),
        (lambda: rr.PGD(T, 1, restarts=0), "got 1 and 0"),
        (lambda: rr.PGD(T, 1, step_size=0.0), "step_size must be positive, got 0.0"),
        (lambda: rr.PGD(T, 1, step_size=float("nan")), "step_size must be positive"),
        (lambda: rr.PGD(T, 1, decay="step"), "decay must be constant, linear or cosine, got 'step'"),
        (lambda: rr.PGD(T, 1, loss="hinge"), "loss must be one of"),
        (lambda: rr.PGD(T, 1, mode="test"), "mode must be one of"),
    ],
)
def test_bad_rules_are_refused_when_they_are_made(build: Callable[[], rr.Point], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build()
