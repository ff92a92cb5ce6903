"""SORA, AAER, LIET and FGSM-PGI as objectives: the papers' loops by hand, what a step costs, what is saved."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import robustreg as rr
from robustreg.attacks import N_FGSM, RS_FGSM, ClassStart, PriorStart, PriorStep, SoraStep
from robustreg.attacks.class_start import RandomTargets
from robustreg.attacks.single_step import Rademacher
from robustreg.config import build, load_recipe
from robustreg.discrepancies import between
from robustreg.losses import SmoothedCrossEntropy
from robustreg.methods import card_of, fgsm_pgi, liet, n_aaer, rs_aaer, sora
from robustreg.penalties import AbnormalExamples, Consistency, PertAlign, SoraLoss
from robustreg.registry import lookup
from robustreg.streams import Stream
from robustreg.training.tree import pack, unpack

T = rr.Threat("linf", 0.1)
EPS = 0.1
METHODS = [sora, rs_aaer, n_aaer, liet, fgsm_pgi]
INDEX = torch.arange(6)


def gradients(loss: Tensor, net: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(net.parameters())))


def descend(loss: Tensor, net: nn.Module, lr: float = 0.01) -> None:
    with torch.no_grad():
        for p, g in zip(net.parameters(), gradients(loss, net), strict=True):
            p.sub_(lr * g)


class Wave(nn.Module):
    """A sine."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sin()


@pytest.fixture
def wavy_net() -> nn.Module:
    """A network in float64 whose loss turns within the threat, so that a step may lower it."""
    g = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 24), Wave(), nn.Linear(24, 3)).double()
    with torch.no_grad():
        net[1].weight.copy_(8.0 * torch.randn(24, 16, generator=g))
        net[1].bias.copy_(3.0 * torch.randn(24, generator=g))
        net[3].weight.copy_(0.5 * torch.randn(3, 24, generator=g))
        net[3].bias.zero_()
    return net


# -- the papers' loops by hand, in float64 on a network without BatchNorm ----------------------------------------------


def drawn(point: rr.Point, x: Tensor, step: int) -> Tensor:
    return point.draw(x, Stream(0, step).generator("cpu", "draw", point.key))


def normals(shape: tuple[int, ...], step: int, *key: object) -> Tensor:
    g = Stream(0, step).generator("cpu", "normal", shape, *key)
    return torch.randn(shape, generator=g, dtype=torch.float64)


def slope(net: nn.Module, z: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    u = z.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(net(u)), u)[0]


class Sora:
    """Their trainer, with gradients of the mean loss."""

    def __init__(self) -> None:
        self.point, self.r = SoraStep(T, mode="train"), 0.99

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, step: int) -> Tensor:
        def ce(z: Tensor) -> Tensor:
            return F.cross_entropy(z, y)

        start = (x + drawn(rr.Uniform(T), x, step)).clamp(0, 1)
        g = slope(net, start, ce)
        alpha = 2 * EPS * (1.0 if self.r == 1 else min(1.0, 0.02 / (1 - self.r)))
        end = (start + alpha * drawn(self.point, x, step) * g.sign()).clamp(0, 1)
        after = slope(net, end, ce).flatten(1)
        linearity = ((g.sign().flatten(1) * after).sum(1) / g.flatten(1).abs().sum(1)).mean().item()
        self.r = 0.95 * self.r + 0.05 * max(-1, min(1, linearity))
        return ce(net(end))


class Aaer:
    """The authors' trainer with either start."""

    def __init__(self, k: float, alpha: float, clip: bool, lam2: float, lam3: float) -> None:
        self.k, self.alpha, self.clip, self.lam2, self.lam3 = k, alpha, clip, lam2, lam3

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, step: int) -> Tensor:
        start = (x + drawn(rr.Uniform(T, scale=self.k), x, step)).clamp(0, 1)
        g = slope(net, start, lambda z: F.cross_entropy(z, y))
        delta = start - x + self.alpha * EPS * g.sign()
        end = (x + (delta.clamp(-EPS, EPS) if self.clip else delta)).clamp(0, 1)
        z, z0 = net(end), net(start).detach()
        after, before = F.cross_entropy(z, y, reduction="none"), F.cross_entropy(z0, y, reduction="none")
        odd = before > after.detach()
        total = after.mean()
        if odd.any() and not odd.all():
            vary = (z0 - z).square().sum(1)
            excess = torch.relu(vary[odd].mean() - vary[~odd].mean().item())
            fall = (before - after.detach())[odd].mean()
            total = total + int(odd.sum()) / len(y) * (self.lam2 * fall + self.lam3 * excess)
        return total


class Liet:
    """The authors' trainer with their ramp by progress."""

    def __init__(self) -> None:
        self.start = ClassStart(T, loss=RandomTargets(0.6, 0))
        self.signs = torch.zeros(())

    def targets(self, step: int, y: Tensor, *key: object) -> Tensor:
        normal = normals((len(y), 3), step, *key)
        own = F.one_hot(y, 3).double()
        spread = torch.special.ndtr(normal) * (1 - own)
        return 0.4 * own + 0.6 * spread / spread.sum(1, keepdim=True)

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, step: int) -> Tensor:
        if step % 20 == 0:
            classes = torch.arange(3)
            t = self.targets(step, classes, "each class", 0)
            grey = torch.full((3, *x.shape[1:]), 0.5, dtype=x.dtype)
            self.signs = slope(net, grey, lambda z: -(t * z.log_softmax(1)).sum()).sign()
        share, side = normals((2,), step, "class start", 0)
        noisy = drawn(self.start, x, step) < 0.1 + 0.4 * torch.special.ndtr(share)
        delta = torch.where(noisy, drawn(rr.Uniform(T, clip="none"), x, step), EPS * self.signs[y])
        start = (x + (delta if side >= 0 else -delta)).clamp(0, 1)
        t = self.targets(step, y, "random targets", 0)
        g = slope(net, start, lambda z: -(t * z.log_softmax(1)).sum())
        end = (x + (start + EPS * g.sign() - x).clamp(-EPS, EPS)).clamp(0, 1)
        z0, z, t = net(start), net(end), self.targets(step, y, "random targets", 1)
        p, q = z0.softmax(1), z.softmax(1)
        m = ((p + q) / 2).log()
        js = (F.kl_div(m, p, reduction="batchmean") + F.kl_div(m, q, reduction="batchmean")) / 2
        return -(t * z.log_softmax(1)).sum(1).mean() + 100 * step / 30 * js


class Pgi:
    """The authors' trainer with label smoothing 0.4; the batch is always the whole data."""

    def __init__(self) -> None:
        self.eta: Tensor | None = None
        self.momentum = torch.zeros((), dtype=torch.float64)

    def loss(self, net: nn.Module, x: Tensor, y: Tensor, step: int) -> Tensor:
        def ce(z: Tensor) -> Tensor:
            return F.cross_entropy(z, y, label_smoothing=0.4)

        if self.eta is None:
            self.eta = EPS * drawn(Rademacher(T, 0, 1.0, "none"), x, step)
        start = x + self.eta
        g = slope(net, start, ce)
        self.momentum = g / g.abs().sum() + 0.3 * self.momentum
        end = (x + (self.eta + EPS * g.sign()).clamp(-EPS, EPS)).clamp(0, 1)
        self.eta = (x + (self.eta + EPS * self.momentum.sign()).clamp(-EPS, EPS)).clamp(0, 1) - x
        return ce(net(end)) + 10 * F.mse_loss(net(end), net(start))


@pytest.mark.parametrize(
    ("objective", "hand"),
    [
        (sora(T), Sora()),
        (rs_aaer(T, 2.5, 1.5), Aaer(1.0, 1.25, True, 2.5, 1.5)),
        (n_aaer(T, 8.5, 1.5), Aaer(2.0, 1.0, False, 8.5, 1.5)),
        (liet(T), Liet()),
        (fgsm_pgi(T), Pgi()),
    ],
    ids=["sora", "rs_aaer", "n_aaer", "liet", "fgsm_pgi"],
)
def test_a_short_training_is_that_of_the_loop_by_hand(
    objective: rr.Objective, hand: Any, wavy_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    x = (1.6 * x - 0.3).clamp(0, 1)  # some pixels at the box's ends
    ours, theirs = copy.deepcopy(wavy_net), wavy_net
    for step in range(25):  # LIET looks at the grey image twice
        one = objective(ours, x, y, stream=Stream(0, step), progress=step / 30, index=INDEX)
        other = hand.loss(theirs, x, y, step)
        assert one.item() == pytest.approx(other.item(), rel=1e-9), step
        descend(one, ours)
        descend(other, theirs)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-10)
    if isinstance(hand, Sora):
        memory = objective.entries[0][1].at.memory  # type: ignore[attr-defined]
        assert memory.mean == pytest.approx(hand.r, rel=1e-9)
        assert hand.r < 0.98  # the step has shrunk on the way


def test_abnormal_examples_do_occur_in_that_training(wavy_net: nn.Module, double_batch: Any) -> None:
    objective = n_aaer(T)
    seen = torch.zeros(6)
    for step in range(25):
        out = objective.detailed(wavy_net, *double_batch, step=step)
        seen += out.per_sample["abnormal_examples"] != 0
        descend(out.loss, wavy_net)
    assert 10 < seen.sum() < 100


# -- every one of them -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.__name__)
def test_each_trains_a_network_and_leaves_no_trace(
    method: Any, restless_net: nn.Module, batch: Any, snapshot: Any
) -> None:
    objective = method(T)
    before = snapshot(restless_net, buffers=False)
    for step in range(2):
        loss = objective(restless_net, *batch, progress=0.5, step=step, index=INDEX)
        assert loss.ndim == 0
        assert loss.isfinite()
        assert any(g.abs().max() > 0 for g in gradients(loss, restless_net))
    assert snapshot(restless_net, buffers=False) == before


def passes(objective: rr.Objective, net: nn.Module, batch: Any, step: int) -> tuple[int, int, int]:
    """Forwards, backwards within the step, and backwards of its loss, as they run."""
    counts = {"forward": 0, "backward": 0}

    def note(kind: str) -> None:
        counts[kind] += 1

    def watch(module: nn.Module, args: Any, out: Tensor) -> None:
        note("forward")
        if out.requires_grad:
            out.register_hook(lambda g: note("backward"))

    handle = net.register_forward_hook(watch)
    loss = objective(net, *batch, progress=0.5, step=step, index=INDEX)
    forwards, inner = counts["forward"], counts["backward"]
    loss.backward()
    handle.remove()
    return forwards, inner, counts["backward"] - inner


@pytest.mark.parametrize(
    ("objective", "first", "later"),
    [
        (sora(T), (2, 2, 0), (2, 2, 0)),  # PertAlign's gradient comes with that of the loss
        (rs_aaer(T), (2, 1, 1), (2, 1, 1)),
        (n_aaer(T), (2, 1, 1), (2, 1, 1)),
        (n_aaer(T, through_loss=True), (2, 1, 2), (2, 1, 2)),
        (liet(T), (4, 2, 2), (2, 1, 2)),  # the first step looks at a grey image, and at one for each class
        (fgsm_pgi(T), (2, 1, 2), (2, 1, 2)),
    ],
    ids=["sora", "rs_aaer", "n_aaer", "n_aaer_through", "liet", "fgsm_pgi"],
)
def test_the_passes_of_a_step_are_the_plans(
    objective: rr.Objective, first: Any, later: Any, relu_net: nn.Module, batch: Any
) -> None:
    plan = objective.plan((1, 4, 4), 3)
    before = plan.input_backwards + plan.joint_backwards
    assert (plan.forwards, before, plan.parameter_backwards - plan.joint_backwards) == first
    assert plan.double_backwards == 0
    found = [passes(objective, relu_net, batch, step) for step in range(3)]
    # a term whose samples are all normal has no gradient, and then no backward reaches the start
    assert found[0][:2] == first[:2]
    assert all(f[:2] == later[:2] for f in found[1:])
    assert all(f[2] <= first[2] for f in found)
    assert max(f[2] for f in found) == first[2]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.__name__)
def test_a_resumed_training_has_the_bits_of_an_uninterrupted_one(
    method: Any, restless_net: nn.Module, batch: Any
) -> None:
    def train(objective: rr.Objective, net: nn.Module, steps: range) -> None:
        for step in steps:
            descend(objective(net, *batch, step=step, progress=step / 8, index=INDEX.flip(0)), net, 0.05)

    whole, objective = copy.deepcopy(restless_net), method(T)
    train(objective, whole, range(4))
    middle = copy.deepcopy(whole)
    saved = unpack(*pack(objective.state_dict()))  # as a checkpoint has it
    train(objective, whole, range(4, 8))
    again = method(T)
    again.load_state_dict(saved)
    train(again, middle, range(4, 8))
    state = zip(whole.state_dict().values(), middle.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in state)
    has_memory = method in (sora, liet, fgsm_pgi)
    assert bool(saved["terms"]) == has_memory


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.__name__)
def test_a_rehearsal_leaves_the_memory_empty(method: Any) -> None:
    objective = method(T)
    objective.plan((1, 4, 4), 3)
    memories = [state for term in objective.state_dict()["terms"].values() for state in term.values()]
    assert all(state == {} for state in memories)
    assert bool(memories) == (method in (sora, liet, fgsm_pgi))


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.__name__)
def test_half_precision_and_unlabelled_samples(method: Any, restless_net: nn.Module, batch: Any) -> None:
    x, y = batch
    objective = method(T)
    y = torch.where(torch.arange(6) == 2, -1, y)
    for step in range(2):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = objective(restless_net, x, y, step=step, progress=0.5, index=INDEX)
        assert loss.dtype == torch.float32
        assert all(g.isfinite().all() for g in gradients(loss, restless_net))


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.__name__)
def test_each_has_a_card_that_says_where_it_is_from(method: Any) -> None:
    card = card_of(method)
    assert card.name == method.__name__
    assert "arXiv" in card.citation or "ICCV" in card.citation
    assert card.equations
    assert card.settings
    assert card.changes
    assert all(p.seen for p in card.published)
    assert method.__name__ in rr.registry.names("method")


# -- one by one --------------------------------------------------------------------------------------------------------


def test_what_the_methods_are_made_of() -> None:
    (_, loss), (weight, logged) = sora(
        T, 1.5, 0.05, absolute=True, rate=0.1, initial=0.9, mode="eval"
    ).entries
    at = loss.at  # type: ignore[attr-defined]
    assert (at.largest, at.tolerance, at.absolute, at.rate, at.initial, at.mode) == (
        1.5, 0.05, True, 0.1, 0.9, "eval",
    )  # fmt: skip
    assert (loss, weight, logged) == (SoraLoss(at), 0.0, PertAlign(at, find="eval"))
    smooth = sora(T, smoothing=0.1).entries[0][1].at  # type: ignore[attr-defined]
    assert smooth.loss == SmoothedCrossEntropy(0.1)

    ramp = rr.Ramp(0, 1)
    attack = RS_FGSM(T, 1.0, mode="train")
    assert rs_aaer(T, 7.0, 3.25, lam1=ramp, step=1.0).entries == (
        (1.0, rr.CrossEntropy(attack)),
        (ramp, AbnormalExamples(attack, 7.0, 3.25)),
    )
    attack = N_FGSM(T, 3.0, 0.5, mode="train")
    assert n_aaer(T, k=3.0, step=0.5, through_loss=True).entries == (
        (1.0, rr.CrossEntropy(attack)),
        (1.0, AbnormalExamples(attack, 1.5, 0.15, True)),
    )

    (_, loss), (weight, agree) = liet(T, 50.0, smoothing=0.8, every=5, least=0.2, most=0.3, grey=0.4).entries
    at = loss.at  # type: ignore[attr-defined]
    start = at.start
    assert (loss.loss, at.loss) == (RandomTargets(0.8, 1), RandomTargets(0.8, 0))  # type: ignore[attr-defined]
    assert (at.scale, at.clip, at.mode) == (1.0, "threat", "train")
    assert (start.every, start.least, start.most, start.noise, start.grey) == (5, 0.2, 0.3, 1.0, 0.4)
    assert (weight, agree) == (rr.Ramp(0.0, 50.0), Consistency(at, "js", start))
    at = liet(T, wide=True).entries[0][1].at  # type: ignore[attr-defined]
    assert (at.start.noise, at.clip) == (2.0, "box")

    (_, loss), (weight, agree) = fgsm_pgi(T, 5.0, prior="epoch", decay=0.5, reset=None, smoothing=0.2).entries
    at = loss.at  # type: ignore[attr-defined]
    assert isinstance(at, PriorStep)
    assert isinstance(at.start, PriorStart)
    assert (at.decay, at.loss, at.start.prior, at.start.reset) == (
        0.5, SmoothedCrossEntropy(0.2), "epoch", None,
    )  # fmt: skip
    assert (weight, agree) == (5.0, Consistency(at, "mean_squared_logits", at.start))
    assert fgsm_pgi(T).reads_index
    assert not fgsm_pgi(T, prior="batch").reads_index


def test_the_mean_squared_difference_is_that_of_whole_batches() -> None:
    a, b = torch.randn(5, 4), torch.randn(5, 4)
    torch.testing.assert_close(between("mean_squared_logits")(a, b).mean(), F.mse_loss(a, b))


def test_sora_steps_shorter_where_the_loss_curves(double_batch: Any) -> None:
    """A linear network keeps the longest step, a sharply curved one loses it within a few steps."""
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
    curved = nn.Sequential(nn.Flatten(), nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 3)).double()
    with torch.no_grad():
        linear[1].weight.mul_(0.01)
        curved[1].weight.mul_(30)
    lengths = []
    for net in (linear, curved):
        objective = sora(T)
        for step in range(20):
            objective(net, *double_batch, step=step)
        lengths.append(objective.entries[0][1].at.length())  # type: ignore[attr-defined]
    assert lengths[0] == 0.2
    assert lengths[1] < 0.05


def test_pgi_starts_where_the_sample_was_left(smooth_net: nn.Module, double_batch: Any) -> None:
    """Samples are found again by their index, in whatever order they come."""
    x, y = double_batch
    objective = fgsm_pgi(T)
    start = objective.entries[1][1].reference  # type: ignore[attr-defined]
    objective(smooth_net, x, y, step=0, index=INDEX)
    order = torch.tensor([3, 0, 5])
    probe = rr.Probe(smooth_net, x[order], y[order], stream=Stream(0, 1), index=order)
    moved = (probe.at(start) - x[order]).numpy()
    np.testing.assert_allclose(moved, start.memory.deltas[order].numpy(), atol=1e-15)
    with pytest.raises(ValueError, match="pass index"):
        fgsm_pgi(T)(smooth_net, x, y)


# -- recipes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sora", "rs_aaer", "liet", "fgsm_pgi"])
def test_a_recipe_builds_and_trains(name: str) -> None:
    recipe = load_recipe(name)
    assert card_of(lookup("method", recipe.objective.method or "")).name == name
    built = build(recipe)
    y = torch.arange(16) % 8
    x = (
        torch.eye(8)[y].reshape(16, 1, 8, 1).expand(16, *built.splits.train.shape)
    )  # a bright row for each class
    optimiser = torch.optim.Adam(built.net.parameters(), lr=2e-3)
    losses = []
    for _ in range(6):
        loss = built.objective(built.net, x, y, progress=0.0, step=0, index=torch.arange(16))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]  # also refuses NaN
