"""GradAlign, LLR and ELLE: zero where the loss is linear, closed forms on affine networks, the authors' numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.func import functional_call
from torch.nn import functional as F

import robustreg as rr
from robustreg import numerics
from robustreg.attacks import Between, LeastLinear
from robustreg.penalties import ELLE, AdaptiveELLE, FirstOrderChange, GradAlign, LinearityGap
from robustreg.probe import Probe
from robustreg.streams import Stream

T = rr.Threat("linf", 0.1)
FREE = rr.Threat("linf", 0.1, None)


def affine(weight: list[list[float]]) -> nn.Module:
    net = nn.Linear(len(weight[0]), len(weight), bias=False).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor(weight, dtype=torch.float64))
    return net


def binary(y: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    return affine([[1.5, -2], [-1.5, 2]]), torch.tensor([[0.2, 0.1]]).double(), torch.tensor([y])


def run(
    term: rr.Term, net: Any, x: Tensor, y: Tensor | None, noise: dict[rr.Point, Tensor] | None = None
) -> Any:
    objective = rr.Objective.of(term)
    probe = Probe(net, x, y, stream=Stream(0), noise=noise, threat=objective.threat)
    return objective.evaluate(probe, objective.weights_at(0.5))


def gradients(loss: Tensor, net: nn.Module) -> Tensor:
    grads = torch.autograd.grad(
        loss, list(net.parameters()), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([g.flatten() for g in grads])


def near(value: Any, expected: Any, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(
        torch.as_tensor(value).detach(),
        torch.as_tensor(expected, dtype=torch.float64).detach(),
        rtol=0,
        atol=tolerance,
    )


def curved(net: nn.Module) -> nn.Module:
    """A network that turns within the threat."""
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(4)
    return net


def with_batch_norm() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Softplus(), nn.Flatten(), nn.Linear(64, 3)
        ).double()


# -- GradAlign -------------------------------------------------


@pytest.mark.parametrize("detach", ["first", "second", "neither"])
def test_grad_align_of_a_binary_affine_network_is_0_and_flat(detach: Any) -> None:
    net = affine([[1.5, -2, 0.3], [-1.5, 2, 1]])
    x, y = (
        torch.rand(5, 3, generator=torch.Generator().manual_seed(0)).double(),
        torch.tensor([0, 1, 0, 1, 1]),
    )
    loss = run(GradAlign(T, detach=detach), net, x, y).loss
    assert abs(loss.item()) < 1e-15
    assert gradients(loss, net).abs().max() < 1e-14


def authors_grad_align(net: nn.Module, x: Tensor, y: Tensor, delta: Tensor, clamp: bool) -> Tensor:
    """Gradients of the batch's mean loss, cosines over the samples that have both."""
    zero = torch.zeros_like(x, requires_grad=True)
    shown = (
        torch.max(torch.min(x + zero, torch.ones(1).double()), torch.zeros(1).double()) if clamp else x + zero
    )
    (g1,) = torch.autograd.grad(F.cross_entropy(net(shown), y), zero)
    delta = delta.clone().requires_grad_()
    (g2,) = torch.autograd.grad(F.cross_entropy(net(x + delta), y), delta, create_graph=True)
    n1, n2 = (g.square().sum([1, 2, 3]).sqrt() for g in (g1, g2))
    some = (n1 != 0) & (n2 != 0)
    cosines = (g1[some] * g2[some]).sum([1, 2, 3]) / (n1[some] * n2[some])
    return 1 - cosines.mean()


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("blind", [0, 2])
def test_grad_align_is_the_authors(clamp: bool, blind: int) -> None:
    nets = [Blind(with_batch_norm(), blind) for _ in range(2)]
    g = torch.Generator().manual_seed(0)
    x = torch.rand(7, 1, 4, 4, generator=g, dtype=torch.float64)
    x[:, :, 0] = 0.0
    x[:, :, 1, 0] = 1.0
    y = torch.randint(0, 3, (7,), generator=g)
    point = rr.Uniform(T, clip="none")
    delta = point.draw(x, g)
    expected = authors_grad_align(nets[0], x, y, delta, clamp)
    out = run(GradAlign(T, through_clamp=clamp), nets[1], x, y, {point: delta})
    torch.testing.assert_close(out.loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        gradients(out.loss, nets[1]), gradients(expected, nets[0]), rtol=1e-8, atol=1e-12
    )
    assert (out.per_sample["grad_align"] == 0).sum() == blind
    for ours, theirs in zip(nets[1].buffers(), nets[0].buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


class Blind(nn.Module):
    """A network that does not look at its first few rows: they have no gradient."""

    def __init__(self, net: nn.Module, rows: int) -> None:
        super().__init__()
        self.net, self.rows = net, rows

    def forward(self, x: Tensor) -> Tensor:
        seen = (torch.arange(len(x)) >= self.rows).reshape(-1, 1, 1, 1)
        return self.net(torch.where(seen, x, 0.0))


def test_through_the_clamp_a_bound_counts_half() -> None:
    net, y = affine([[1.0, 1], [-1, -1]]), torch.tensor([0])
    x = torch.tensor([[0.0, 0.5]]).double()
    near(run(GradAlign(T), net, x, y).loss, 0.0, 1e-15)
    # (1/2, 1) against (1, 1)
    near(run(GradAlign(T, through_clamp=True), net, x, y).loss, 1 - 1.5 / math.sqrt(1.25 * 2), 1e-12)
    assert run(GradAlign(rr.Threat("linf", 0.1, None), through_clamp=True), net, x, y).loss < 1e-15
    # a start that the box cut off counts nothing
    start = rr.Uniform(T)
    term = GradAlign(T, first=start, through_clamp=True)
    noise = {start: torch.tensor([[-0.05, 0.05]]).double()}
    near(run(term, net, x, y, noise).loss, 1 - 1 / math.sqrt(2), 1e-12)


def test_either_side_may_be_the_constant(smooth_net: nn.Module, double_batch: Any) -> None:
    net = curved(smooth_net)
    outs = {d: run(GradAlign(T, detach=d), net, *double_batch).loss for d in ("first", "second", "neither")}
    assert outs["first"] == outs["second"] == outs["neither"] > 0
    first, second, neither = (gradients(loss, net) for loss in outs.values())
    torch.testing.assert_close(neither, first + second, rtol=1e-9, atol=1e-12)
    assert (first - second).norm() > 0.1 * first.norm()


def test_grad_align_lies_between_0_and_2(smooth_net: nn.Module, double_batch: Any) -> None:
    values = run(GradAlign(T.with_eps(0.5)), curved(smooth_net), *double_batch).per_sample["grad_align"]
    assert (values >= 0).all()
    assert (values <= 2).all()
    assert values.max() > 1e-3


def test_samples_without_an_angle_leave_the_mean(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    point = rr.Uniform(T, clip="none")
    delta = point.draw(x, torch.Generator().manual_seed(0))
    some = torch.tensor([True, True, False, True, False, True])
    whole = run(GradAlign(T), smooth_net, x, torch.where(some, y, -1), {point: delta})
    part = run(GradAlign(T), smooth_net, x[some], y[some], {point: delta[some]})
    near(whole.loss, part.loss, 1e-14)
    near(gradients(whole.loss, smooth_net), gradients(part.loss, smooth_net), 1e-12)
    net = with_batch_norm()  # where an unlabelled sample has a gradient, that of the others
    out = run(GradAlign(T), net, x, torch.where(some, y, -1), {point: delta})
    assert (out.per_sample["grad_align"][~some] == 0).all()


# -- LLR -------------------------------------------------


@pytest.mark.parametrize(("y", "expected"), [(0, 0.06082191), (1, 0.05813121)])
def test_the_gap_of_an_affine_network_is_the_divergence(y: int, expected: float) -> None:
    # the margin moves by -0.7 for y = 0; for y = 1 FGSM moves the margin of class 0 by +0.7
    net, x, label = binary(y)
    point = rr.FGSM(FREE)
    near(run(LinearityGap(FREE, at=point), net, x, label).per_sample["linearity_gap"], [expected])
    probe = Probe(net, x, label, stream=Stream(0))
    near(numerics.kl(probe.logits(), probe.logits(point)), [expected])


def test_the_search_finds_the_largest_gap_of_an_affine_network() -> None:
    net, x, y = binary()
    start = rr.Uniform(FREE)
    ends = []
    for sign in (1.0, -1.0):
        noise = {start: sign * torch.tensor([[-0.01, 0.01]]).double()}
        ends.append(run(LinearityGap(FREE), net, x, y, noise).loss.item())
    assert ends == pytest.approx([0.06082191, 0.05813121], abs=1e-6)


def test_the_change_along_the_tangent() -> None:
    net, x, y = binary()
    near(run(FirstOrderChange(FREE, at=rr.FGSM(FREE)), net, x, y).loss, 0.31511620)


def test_the_gap_in_a_linear_region_is_the_divergence_for_every_label(
    relu_net: nn.Module, double_batch: Any
) -> None:
    net, (x, y) = relu_net.double(), double_batch
    point = rr.Uniform(T.with_eps(1e-4))
    probe = Probe(net, x, y, stream=Stream(0))
    kl = numerics.kl(probe.logits(), probe.logits(point))
    for label in (y, (y + 1) % 3):
        found = LinearityGap(T, at=point)(Probe(net, x, label, stream=Stream(0)))
        torch.testing.assert_close(found, kl, rtol=1e-4, atol=1e-15)
    assert kl.min() > 0


def test_an_affine_loss_has_no_gap_no_chord_and_no_turn(double_batch: Any) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()

    def loss(z: Tensor, y: Tensor) -> Tensor:
        return -z.gather(1, y.unsqueeze(1)).squeeze(1)

    for term in (LinearityGap(T, loss=loss), ELLE(T, loss=loss), GradAlign(T, loss=loss)):
        value = run(term, net, *double_batch).loss
        assert abs(value.item()) < 1e-14


def test_llr_differentiates_the_gradient_at_the_sample_and_not_the_point(
    smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    net, point = curved(smooth_net), rr.Uniform(T)
    delta = point.draw(x, torch.Generator().manual_seed(1))
    u = x.clone().requires_grad_()
    clean = F.cross_entropy(net(u), y, reduction="none")
    (g,) = torch.autograd.grad(clean.sum(), u, create_graph=True)
    change = (delta * g).flatten(1).sum(1)
    gap = (F.cross_entropy(net(x + delta), y, reduction="none") - clean - change).abs()
    for term, expected in ((LinearityGap(T, at=point), gap), (FirstOrderChange(T, at=point), change.abs())):
        found = run(term, net, x, y, {point: delta}).loss
        near(found, expected.mean(), 1e-13)
        near(gradients(found, net), gradients(expected.mean(), net), 1e-12)


def test_the_two_parts_of_llr_share_everything(restless_net: nn.Module, batch: Any) -> None:
    point = LeastLinear(T, 3, mode="batch")
    objective = 2 * rr.CrossEntropy() + 4 * LinearityGap(T, point) + 1.2 * FirstOrderChange(T, point)
    plan = objective.plan((1, 4, 4), 3)
    # clean, three steps of the search, the end of it; one clean gradient for the search and for both parts
    assert (plan.forwards, plan.input_backwards, plan.parameter_backwards, plan.double_backwards) == (
        5,
        4,
        2,
        1,
    )
    before = restless_net[1].num_batches_tracked.item()
    objective(restless_net, *batch)
    assert restless_net[1].num_batches_tracked == before + 1  # the clean forward alone


def test_the_gap_uses_the_same_dropout_masks_at_both_ends(restless_net: nn.Module, batch: Any) -> None:
    nothing = T.with_eps(0.0)
    assert run(LinearityGap(nothing, at=rr.Uniform(nothing)), restless_net, *batch).loss < 1e-6


# -- ELLE -------------------------------------------------


def elle_by_hand(net: nn.Module, x: Tensor, y: Tensor, a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    xa, xb = x + a, x + b
    losses = F.cross_entropy(
        net(torch.cat([xa, xb, (1 - t) * xa + t * xb])), torch.cat([y, y, y]), reduction="none"
    )
    at_a, at_b, at_c = losses.chunk(3)
    t = t.flatten()
    return F.mse_loss(at_c, (1 - t) * at_a + t * at_b)


def test_elle_is_the_authors_on_one_joint_forward() -> None:
    nets = with_batch_norm(), with_batch_norm()
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(7, 1, 4, 4, generator=g, dtype=torch.float64), torch.randint(0, 3, (7,), generator=g)
    points = [rr.Uniform(T, n, clip="none") for n in (0, 1)]
    between = Between(*points)
    noise: dict[rr.Point, Tensor] = {p: p.draw(x, g) for p in (*points, between)}
    expected = elle_by_hand(nets[0], x, y, *noise.values())
    found = run(ELLE(T), nets[1], x, y, noise).loss
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients(found, nets[1]), gradients(expected, nets[0]), rtol=1e-9, atol=1e-15)
    for ours, theirs in zip(nets[1].buffers(), nets[0].buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)


def test_elle_of_a_quadratic_loss_is_known() -> None:
    # on L = u^2 the chord is t (1 - t) (a - b)^2 above
    x, y = torch.full((4000, 1), 0.5).double(), torch.zeros(4000, dtype=torch.int64)
    term = ELLE(T, loss=lambda z, y: z[:, 0])
    out = run(term, lambda u: u.square(), x, y)
    points = [rr.Uniform(T, n, clip="none") for n in (0, 1)]
    probe = Probe(lambda u: u.square(), x, y, stream=Stream(0))
    a, b, t = (probe.noise(p).flatten() for p in (*points, Between(*points)))
    near(out.per_sample["elle"], (t * (1 - t) * (a - b).square()).square(), 1e-14)
    # E t^2 (1-t)^2 = 1/30 and E (a-b)^4 = 16 eps^4 / 15 for two uniform draws
    assert out.loss.item() == pytest.approx(16 / 15 / 30 * 1e-4, rel=0.1)


def test_elle_costs_one_forward_or_three(restless_net: nn.Module, batch: Any) -> None:
    for joint, forwards in ((True, 1), (False, 3)):
        plan = rr.Objective.of(ELLE(T, joint)).plan((1, 4, 4), 3)
        assert (plan.forwards, plan.input_backwards, plan.parameter_backwards) == (forwards, 0, forwards)
        net = copy.deepcopy(restless_net)
        rr.Objective.of(ELLE(T, joint))(net, *batch)
        assert net[1].num_batches_tracked == forwards


def test_elle_stays_in_the_box_if_told() -> None:
    seen: list[Tensor] = []
    net = nn.Linear(5, 2)
    net.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    run(ELLE(T, clip="box"), net, torch.zeros(3, 5), torch.tensor([0, 1, 0]))
    run(ELLE(T), net, torch.zeros(3, 5), torch.tensor([0, 1, 0]))
    assert seen[0].min() == 0
    assert seen[1].min() < 0


def test_with_labels_on_some_elle_is_of_those(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    some = torch.tensor([True, False, True, True, False, True])
    points = [rr.Uniform(T, n, clip="none") for n in (0, 1)]
    noise: dict[rr.Point, Tensor] = {
        p: p.draw(x, torch.Generator().manual_seed(i)) for i, p in enumerate((*points, Between(*points)))
    }
    whole = run(ELLE(T), smooth_net, x, torch.where(some, y, -1), noise).loss
    part = run(ELLE(T), smooth_net, x[some], y[some], {p: n[some] for p, n in noise.items()}).loss
    near(whole, part, 1e-16)


# -- ELLE-A -------------------------------------------------


def test_the_weight_follows_the_authors_rule() -> None:
    errors = np.random.default_rng(0).gamma(1.0, 1.0, 400).tolist()
    term, history, weight, on = AdaptiveELLE(T), [], 0.0, 0
    for error in errors:
        if len(history) > 2 and error > np.mean(history) + 2 * np.std(history):
            weight, on = 1.0, on + 1
        else:
            weight *= 0.99
        history.append(error)
        term.memory.observe(error, term.sensitivity, term.decay)
        assert term.memory.weight == pytest.approx(weight, abs=1e-12)
        assert term.memory.mean == pytest.approx(np.mean(history))
    assert 5 < on < 60


def test_the_weight_acts_from_the_next_step_on(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    objective = 4000.0 * AdaptiveELLE(T)
    (_, term), *_ = objective.entries
    objective.plan((1, 4, 4), 3)
    assert term.memory.seen == 0  # a rehearsal is no step
    assert objective(smooth_net, x, y, step=0) == 0
    assert term.memory.seen == 1
    plain = rr.Objective.of(ELLE(T))
    assert term.memory.mean == pytest.approx(plain(smooth_net, x, y, step=0).item(), rel=1e-12)
    term.memory.weight = 0.5
    found = objective(smooth_net, x, y, step=1)
    near(found, 2000 * plain(smooth_net, x, y, step=1), 1e-12)
    near(gradients(found, smooth_net), 2000 * gradients(plain(smooth_net, x, y, step=1), smooth_net), 1e-10)


def test_its_state_can_be_saved(smooth_net: nn.Module, double_batch: Any) -> None:
    first, second = (rr.CrossEntropy() + 10.0 * AdaptiveELLE(T) for _ in range(2))
    for step in range(4):
        first(smooth_net, *double_batch, step=step)
    second.load_state_dict(first.state_dict())
    a, b = (o.entries[1][1] for o in (first, second))
    for step in range(4, 8):
        assert first(smooth_net, *double_batch, step=step) == second(smooth_net, *double_batch, step=step)
    assert a.state_dict() == b.state_dict()
    assert a.memory.seen == 8
    with pytest.raises(ValueError, match="the state of elle_a is weight, seen, mean, spread"):
        a.load_state_dict({"memory": {"weight": 1.0}})


def test_a_threat_given_later_keeps_the_state() -> None:
    term = AdaptiveELLE()
    term.memory.observe(0.5, 2.0, 0.99)
    assert term.needs == {"labels", "threat"}
    made = term.with_threat(T)
    assert (made.threat, made.memory.seen, made.memory.mean) == (T, 1, 0.5)
    assert made.with_threat(FREE) is made


# -- contracts -------------------------------------------------

TERMS: list[rr.Term] = [
    GradAlign(T),
    GradAlign(T, detach="neither", through_clamp=True),
    LinearityGap(T),
    FirstOrderChange(T),
    ELLE(T),
    ELLE(T, joint=False),
]


@pytest.mark.parametrize("term", [GradAlign(T, detach="neither"), *TERMS[2:5]], ids=repr)
def test_gradcheck(term: rr.Term, smooth_net: nn.Module, double_batch: Any) -> None:
    net, (x, y) = curved(smooth_net), double_batch
    if isinstance(term, (LinearityGap, FirstOrderChange)):  # the end of a search is a constant of the step
        term = type(term)(T, at=rr.Uniform(T))
    names = [n for n, _ in net.named_parameters()]

    def loss(*values: Tensor) -> Tensor:
        state = dict(zip(names, values, strict=True))
        return 100 * run(term, lambda u: functional_call(net, state, (u,)), x[:3], y[:3]).loss

    assert gradcheck(loss, [p.detach().clone().requires_grad_() for p in net.parameters()], fast_mode=True)


@pytest.mark.parametrize("norm", [1.0, 1.5, 2.0, math.inf])
@pytest.mark.parametrize("make", [GradAlign, LinearityGap, FirstOrderChange, ELLE])
def test_they_know_every_norm(norm: float, make: Any, smooth_net: nn.Module, double_batch: Any) -> None:
    loss = run(make(rr.Threat(norm, 0.5)), smooth_net, *double_batch).loss
    assert loss > 0
    assert gradients(loss, smooth_net).isfinite().all()


@pytest.mark.parametrize("term", TERMS, ids=repr)
def test_side_effects(term: rr.Term, restless_net: nn.Module, batch: Any, snapshot: Any) -> None:
    before = snapshot(restless_net, buffers=False)
    rr.Objective.of(term)(restless_net, *batch)
    assert snapshot(restless_net, buffers=False) == before
    before = snapshot(restless_net)
    (rr.CrossEntropy(mode="eval") + 0 * rr.Objective.of(term))(restless_net, *batch)
    assert snapshot(restless_net) == before


def dead() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3))
    nn.init.constant_(net[1].bias, -100.0)
    return net


def huge() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        net[1].weight.mul_(1e4 / net[1].weight.abs().max())
    return net


@pytest.mark.parametrize("build", [dead, huge], ids=lambda b: b.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("labelled", [True, False])
def test_everything_is_finite(
    build: Callable[[], nn.Module], dtype: torch.dtype, labelled: bool, batch: Any
) -> None:
    net = build().to(dtype)
    y = batch[1] if labelled else torch.full_like(batch[1], -1)
    for term in TERMS:
        loss = run(term, net, batch[0].to(dtype), y).loss
        assert loss.isfinite(), term
        assert gradients(loss, net).isfinite().all(), term
        if build is dead or not labelled:
            assert loss == 0, term


def test_a_gradient_at_the_edge_of_the_number_format_still_has_a_direction() -> None:
    for scale in (1e-35, 1e30):
        net = nn.Linear(3, 2, bias=False)
        with torch.no_grad():
            net.weight.copy_(scale * torch.tensor([[1.0, 2, 3], [-1, -2, -3]]))
        x, y = torch.rand(2, 3), torch.tensor([0, 0] if scale < 1 else [1, 1])
        loss = run(GradAlign(T), net, x, y).loss
        assert loss.abs() < 1e-6
        assert gradients(loss, net).isfinite().all()


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: GradAlign(detach="both"), "detach must be 'first', 'second' or 'neither', got 'both'"),
        (lambda: GradAlign(loss="hinge"), "loss must be one of"),
        (lambda: LinearityGap(mode="test"), "mode must be one of"),
        (lambda: FirstOrderChange(loss="hinge"), "loss must be one of"),
        (lambda: ELLE(clip="ball"), "clip must be one of"),
        (lambda: AdaptiveELLE(decay=2.0), r"decay is a factor per step and must lie in \[0, 1\], got 2"),
    ],
)
def test_bad_options_are_refused(build: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build()
