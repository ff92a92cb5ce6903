"""SAT-R1, R2, R3: the numbers of small networks worked out by hand, the losses as the authors compute them, limits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.func import functional_call
from torch.nn import functional as F

import robustreg as rr
from robustreg.attacks import IFGSM, Rademacher, Stack
from robustreg.methods import sat_r1, sat_r2, sat_r3
from robustreg.penalties import JointLoss, SatR1, SatR2, SatR3
from robustreg.probe import Probe
from robustreg.streams import Stream

FREE = rr.Threat("linf", 0.1, None)


def affine(weight: list[list[float]]) -> nn.Module:
    net = nn.Linear(len(weight[0]), len(weight), bias=False).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor(weight, dtype=torch.float64))
    return net


def binary() -> tuple[nn.Module, Tensor, Tensor]:
    return affine([[1.5, -2], [-1.5, 2]]), torch.tensor([[0.2, 0.1]]).double(), torch.tensor([0])


def run(
    objective: rr.Objective | rr.Term,
    net: Any,
    x: Tensor,
    y: Tensor,
    signs: Any = None,
    progress: float = 0.5,
) -> Any:
    """An objective's step with the random corner given."""
    objective = rr.Objective.of(objective) if isinstance(objective, rr.Term) else objective
    noise = {}
    if signs is not None:
        signs = torch.as_tensor(signs, dtype=x.dtype).reshape(-1, *x.shape[1:])
        noise = {p: signs for _, t in objective.entries for p in corners(t)}
    probe = Probe(net, x, y, stream=Stream(0), noise=noise, threat=objective.threat)
    return objective.evaluate(probe, objective.weights_at(progress))


def corners(term: Any) -> list[rr.Point]:
    if isinstance(term, JointLoss):
        return [p for p in term.stack.sources() if isinstance(p, Rademacher)]
    if isinstance(term, (SatR2, SatR3)):
        return [p for p in term.stack(term.threat).sources() if isinstance(p, Rademacher)]
    return [p for p in term.at.sources() if isinstance(p, Rademacher)] if hasattr(term, "at") else []


def gradients(loss: Tensor, net: nn.Module) -> Tensor:
    grads = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in grads])


def near(value: Any, expected: Any) -> None:
    torch.testing.assert_close(
        torch.as_tensor(value).detach(), torch.as_tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6
    )


# -- SAT-R1, worked out -------------------------------------------------


@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
def test_r1_is_nothing_on_a_binary_affine_network(bounds: Any) -> None:
    net, x, y = binary()
    out = run(sat_r1(rr.Threat("linf", 0.1, bounds)), net, x, y)
    assert out.values["sat_r1"] < 1e-28
    if bounds is None:
        near(out.loss, 0.97407698)


def kinked() -> tuple[nn.Module, Tensor, Tensor]:
    net = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 3, bias=False)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[-1.0, -1], [0, 1], [-2, 1]]))
        net[2].weight.copy_(torch.tensor([[-1.0, -2, 0], [-1, -2, -2], [1, 0, -1]]))
    return net, torch.tensor([[-0.25, -0.25]]).double(), torch.tensor([0])


def test_r1_where_the_single_step_is_the_weaker_one() -> None:
    net, x, y = kinked()
    threat = rr.Threat("linf", 0.4, None)
    probe = Probe(net, x, y, stream=Stream(0))
    near(probe.loss(), [1.31467232])
    near(probe.grad(), [[0.65156510, -2.03142179]])
    fgsm, ifgsm = rr.FGSM(threat, mode="train"), IFGSM(threat, 10, mode="train")
    near(probe.at(fgsm), [[0.15, -0.65]])
    near(probe.loss(fgsm), [1.55144471])
    near(probe.at(ifgsm), [[-0.33, -0.65]])
    near(probe.loss(ifgsm), [2.19821145])
    near(probe.logits(fgsm), [[-0.5, -0.5, 0.5]])
    near(probe.logits(ifgsm), [[-0.98, -1, 0.97]])
    out = run(sat_r1(threat, lam=0.2, steps=10), net, x, y)
    near(out.values["sat_r1"], 0.7013)
    near(out.values["joint_loss"], 1.55144471)
    near(out.loss, 1.69170471)
    out.loss.backward()
    near(net[0].weight.grad, [[-0.10556493, -0.74895195], [0, 0], [-0.06996, -0.1378]])
    near(net[2].weight.grad, [[-0.48618922, 0, -0.00192], [0.00997078, 0, -0.002], [0.37829844, 0, 0.00188]])


# -- SAT-R2, worked out -------------------------------------------------


def test_r2_on_a_binary_affine_network() -> None:
    net, x, y = binary()
    objective = sat_r2(FREE, lam=5.0, alpha=0.05)
    out = run(objective, net, x, y, [1, -1])
    near(out.per_sample["sat_r2"], [0.06125])
    near(out.loss, 1.28032698)
    near(torch.autograd.grad(out.loss, net.weight)[0], [[0.02525407, -0.21199187], [-0.02525407, 0.21199187]])
    values = [run(objective, net, x, y, s).values["sat_r2"] for s in itertools.product([1.0, -1.0], repeat=2)]
    near(torch.stack(values).mean(), 0.03125)


def test_the_mean_of_r2_is_the_jacobian_penalty_where_the_sign_is_constant() -> None:
    net, x, y = binary()
    x, y = x.expand(4000, 2), y.expand(4000)
    alpha = 0.05
    mean = rr.Objective.of(SatR2(FREE, alpha / FREE.eps))(net, x, y, step=0)
    expected = alpha**2 * net.weight.square().sum().item()
    assert mean.item() == pytest.approx(expected, rel=0.05)


def test_r2_on_three_classes_sees_the_sign_flips() -> None:
    net, x, y = affine([[1, 0], [0, 1], [-1, -1]]), torch.tensor([[0.3, -0.2]]).double(), torch.tensor([0])
    term = SatR2(FREE, alpha=0.5)
    draws = [(-1, -1), (-1, 1), (1, -1), (1, 1)]
    near(torch.stack([run(term, net, x, y, s).loss for s in draws]), [0.015, 0.005, 0.005, 0.155])
    near(torch.stack([run(term, net, x, y, s).loss for s in draws]).mean(), 0.045)


# -- SAT-R3, worked out -------------------------------------------------


@pytest.mark.parametrize(
    ("tau", "total", "hinge", "row"),
    [
        (0.4, 1.81644293, 0.07396646, (-0.05586706, -0.25384636)),
        (0.6, 1.74247647, 0.0, (0.04124569, -0.28871981)),
    ],
)
def test_r3_on_a_binary_affine_network(tau: float, total: float, hinge: float, row: Any) -> None:
    net, x, y = binary()
    objective = sat_r3(rr.Threat("linf", 0.3, None), 1.0, tau, eps_low=0.1, alpha=0.05)
    out = run(objective, net, x, y, [1, -1])
    near(out.values["joint_loss"], 1.74247647)
    near(out.values["sat_r3"], hinge)
    near(out.loss, total)
    near(torch.autograd.grad(out.loss, net.weight)[0], [row, [-v for v in row]])
    near(
        run(sat_r3(rr.Threat("linf", 0.3, None), 1.0, 0.0, 0.1, 0.05), net, x, y, [1, -1]).values["sat_r3"],
        0.77095705,
    )


@pytest.mark.parametrize(("tau", "total"), [(0.4, 1.74320749), (0.6, 1.62041741)])
def test_r3_with_the_box_of_the_code(tau: float, total: float) -> None:
    net, x, y = binary()
    objective = sat_r3(rr.Threat("linf", 0.3), 1.0, tau, eps_low=0.1, alpha=0.05)
    out = run(objective, net, x, y, [1, -1])
    near(out.values["joint_loss"], 1.62041741)
    near(out.loss, total)


def test_r3_is_of_batch_means_and_not_of_samples(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    term = SatR3(rr.Threat("linf", 0.3), tau=0.885, low=0.4)
    probe = Probe(smooth_net, x, y, stream=Stream(0))
    low, high = (probe.loss(p) for p in term.stack(term.threat).points)
    value = term(probe)
    assert value.ndim == 0
    assert value > 0
    near(value, (low.mean() - 0.885 * high.mean()).relu())
    assert (low - 0.885 * high).relu().mean().item() > value.item() + 1e-4


# -- as the authors compute them -------------------------------------------------


def restless() -> nn.Module:
    """BatchNorm everywhere, statistics that are not those of any batch, float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Softplus(), nn.Flatten(), nn.Linear(64, 8),
            nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3),
        ).double()  # fmt: skip
        with torch.no_grad():
            for m in net.modules():
                if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
                    m.running_mean.normal_(0, 0.3)
                    m.running_var.uniform_(0.5, 2)
    return net


def ascent(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The sign of the gradient of the mean loss in evaluation mode."""
    u = x.clone().requires_grad_()
    net.eval()
    (g,) = torch.autograd.grad(F.cross_entropy(net(u), y), u)
    net.train()
    return g.sign()


def authors_r1(net: nn.Module, x: Tensor, y: Tensor, _: Tensor) -> Tensor:
    single = (x + 0.3 * ascent(net, x, y)).clamp(0, 1)
    multi = x[-1:]
    for _ in range(4):
        multi = (multi + 0.3 / 4 * ascent(net, multi, y[-1:])).clamp(0, 1)
    out = net(torch.cat([single, multi]))
    gap = (out[-2:-1] - out[-1:]).square().sum(1).mean(0)
    return F.cross_entropy(out[:-1], y) + 0.2 * gap


def authors_r2(net: nn.Module, x: Tensor, y: Tensor, signs: Tensor) -> Tensor:
    both, labels = torch.cat([x, x + 0.04 * signs]), torch.cat([y, y])
    out = net((both + 0.3 * ascent(net, both, labels)).clamp(0, 1))
    first, second = out.chunk(2)
    return F.cross_entropy(first, y) + 5 * (first - second).square().sum(1).mean(0)


def authors_r3(net: nn.Module, x: Tensor, y: Tensor, signs: Tensor) -> Tensor:
    start = (x + 0.04 * signs).clamp(0, 1)
    s = ascent(net, start, y)
    out = net(torch.cat([(start + 0.12 * s).clamp(0, 1), (start + 0.3 * s).clamp(0, 1)]))
    low, high = (F.cross_entropy(z, y) for z in out.chunk(2))
    return high + 0.7 * F.relu(low - 0.6 * high)


THREAT = rr.Threat("linf", 0.3)
METHODS = {
    "r1": (authors_r1, sat_r1(THREAT, 0.2, steps=4)),
    "r2": (authors_r2, sat_r2(THREAT, 5.0, alpha=0.04)),
    "r3": (authors_r3, sat_r3(THREAT, 0.7, 0.6, eps_low=0.12, alpha=0.04)),
}


@pytest.mark.parametrize("name", METHODS)
def test_losses_gradients_and_statistics_are_those_of_the_authors_loop(name: str) -> None:
    by_hand, objective = METHODS[name]
    g = torch.Generator().manual_seed(7)
    x = torch.rand(9, 1, 4, 4, generator=g, dtype=torch.float64)
    y = torch.randint(0, 3, (9,), generator=g)
    signs = 2.0 * torch.randint(0, 2, x.shape, generator=g) - 1
    nets = restless(), restless()
    expected = by_hand(nets[0], x, y, signs.double())
    found = run(objective, nets[1], x, y, signs).loss
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients(found, nets[1]), gradients(expected, nets[0]), rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(nets[1].buffers(), nets[0].buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)


# -- limits and options -------------------------------------------------


def test_r1_with_one_step_and_r2_without_noise_are_nothing(smooth_net: nn.Module, double_batch: Any) -> None:
    for term in (SatR1(THREAT, steps=1), SatR1(THREAT, steps=1, samples=None), SatR2(THREAT, alpha=0.0)):
        assert run(term, smooth_net, *double_batch).loss.item() < 1e-28


def test_without_weight_they_are_fgsm_training(smooth_net: nn.Module, double_batch: Any) -> None:
    plain = run(rr.CrossEntropy(at=rr.FGSM(THREAT)), smooth_net, *double_batch).loss
    for objective in (sat_r1(THREAT, 0.0), sat_r2(THREAT, 0.0)):
        near(run(objective, smooth_net, *double_batch).loss, plain)
    objective = sat_r3(THREAT, 0.0, alpha=0.04)
    start = Rademacher(THREAT, scale=0.04 / 0.3)
    at = rr.Steepest(THREAT, start=start, clip="box")
    near(
        objective(smooth_net, *double_batch, step=1),
        rr.Objective.of(rr.CrossEntropy(at=at))(smooth_net, *double_batch, step=1),
    )


@pytest.mark.parametrize("tau", [0.5, 0.9, 1.0, 1.5])
def test_r3_with_equal_steps(tau: float, smooth_net: nn.Module, double_batch: Any) -> None:
    objective = sat_r3(THREAT, lam=0.8, tau=tau, eps_low=0.3)
    out = run(objective, smooth_net, *double_batch)
    factor = 1 + 0.8 * max(1 - tau, 0)
    near(out.loss, factor * out.values["joint_loss"])


def test_r3_of_a_monotone_loss_is_never_active_at_tau_1() -> None:
    net, x, y = binary()
    for signs in itertools.product([1.0, -1.0], repeat=2):
        assert run(SatR3(rr.Threat("linf", 0.3, None), tau=1.0), net, x, y, signs).loss == 0


def test_the_budget_says_how_far_a_point_may_be(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    for term in (SatR2, SatR3):
        for budget, farthest in (("full", 0.4), ("eps_minus_alpha", 0.3)):
            made = term(rr.Threat("linf", 0.3, None), alpha=1 / 3, budget=budget)
            probe = Probe(smooth_net, x, y, stream=Stream(0))
            second = made.stack(made.threat).points[1]
            assert float((probe.at(second) - x).abs().max()) == pytest.approx(farthest, abs=1e-12)


def test_the_start_is_clipped_where_the_code_clips_it(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = torch.zeros_like(double_batch[0]), double_batch[1]
    for term, clipped in (
        (SatR2(THREAT), False),
        (SatR3(THREAT), True),
        (SatR2(THREAT, clip_start=True), True),
    ):
        probe = Probe(smooth_net, x, y, stream=Stream(0))
        start = term.stack(THREAT).points[1].start
        assert bool(probe.at(start).min() >= 0) is clipped


def test_separate_forwards_give_the_same_numbers_without_batch_norm(
    smooth_net: nn.Module, double_batch: Any
) -> None:
    for make in (sat_r2, sat_r3):
        joint, separate = (make(THREAT, joint=j)(smooth_net, *double_batch, step=3) for j in (True, False))
        torch.testing.assert_close(joint, separate, rtol=0, atol=1e-13)
        torch.testing.assert_close(
            gradients(joint, smooth_net), gradients(separate, smooth_net), rtol=0, atol=1e-13
        )


def test_r1_of_more_samples_is_their_mean(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    every = run(SatR1(THREAT, samples=None), smooth_net, x, y).per_sample["sat_r1"]
    assert every.shape == (6,)
    for n in (1, 2, 6, 99):
        near(run(SatR1(THREAT, samples=n), smooth_net, x, y).loss, every[-n:].mean())


# -- what a step costs -------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "passes"),
    [
        # FGSM and T steps of one sample, then one joint forward
        (sat_r1(THREAT, steps=4), (1 + 4 + 1, 1 + 4, 1, 0)),
        (sat_r2(THREAT), (2 + 1, 2, 1, 0)),
        (sat_r3(THREAT), (1 + 1, 1, 1, 0)),
        (sat_r2(THREAT, joint=False), (2 + 2, 2, 2, 0)),
        (sat_r3(THREAT, joint=False), (1 + 2, 1, 2, 0)),
        # the attack's gradient is shared with the penalty on it, and the FGSM half with a loss there
        (sat_r2(THREAT) + rr.GradientNorm(THREAT, mode="eval"), (3, 2, 2, 1)),
        (sat_r2(THREAT, joint=False) + rr.CrossEntropy(at=rr.FGSM(THREAT)), (4, 2, 2, 0)),
    ],
)
def test_the_plan_counts_a_joint_forward_once(objective: rr.Objective, passes: tuple[int, ...]) -> None:
    plan = objective.plan((1, 4, 4), 3)
    assert (plan.forwards, plan.input_backwards, plan.parameter_backwards, plan.double_backwards) == passes


def test_training_updates_the_statistics_once(batch: Any) -> None:
    for make in (sat_r1, sat_r2, sat_r3):
        net = restless().float()
        make(THREAT)(net, *batch)
        assert net[1].num_batches_tracked == 1
    net = restless().float()
    sat_r2(THREAT, joint=False)(net, *batch)
    assert net[1].num_batches_tracked == 2


# -- contracts -------------------------------------------------

TERMS: list[rr.Term] = [
    SatR1(THREAT, steps=3),
    SatR1(THREAT, steps=3, samples=None),
    SatR2(THREAT, alpha=0.3),
    SatR3(THREAT, tau=0.4, alpha=0.3),
    JointLoss(Stack((rr.FGSM(THREAT), Rademacher(THREAT))), part=1),
]


@pytest.mark.parametrize("term", TERMS, ids=repr)
def test_gradcheck(term: rr.Term, smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    names = [n for n, _ in smooth_net.named_parameters()]

    def loss(*values: Tensor) -> Tensor:
        state = dict(zip(names, values, strict=True))
        return run(term, lambda u: functional_call(smooth_net, state, (u,)), x, y).loss

    # signs are constants almost everywhere, so the numerical derivative sees the same thing
    assert gradcheck(
        loss, [p.detach().clone().requires_grad_() for p in smooth_net.parameters()], fast_mode=True
    )


@pytest.mark.parametrize("norm", [1.0, 1.5, 2.0])
def test_they_know_every_norm(norm: float, smooth_net: nn.Module, double_batch: Any) -> None:
    threat = rr.Threat(norm, 0.5)
    for make in (sat_r1, sat_r2, sat_r3):
        loss = make(threat)(smooth_net, *double_batch)
        assert loss.isfinite()
        assert gradients(loss, smooth_net).isfinite().all()


@pytest.mark.parametrize("term", TERMS, ids=repr)
def test_side_effects(term: rr.Term, restless_net: nn.Module, batch: Any, snapshot: Any) -> None:
    before = snapshot(restless_net, buffers=False)
    rr.Objective.of(term)(restless_net, *batch)
    assert snapshot(restless_net, buffers=False) == before
    before = snapshot(restless_net)
    (rr.CrossEntropy(mode="eval") + 0 * rr.Objective.of(term))(restless_net, *batch)
    assert snapshot(restless_net) == before


@pytest.mark.parametrize("term", TERMS, ids=repr)
def test_unlabelled_samples_count_for_nothing(
    term: rr.Term, smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    some = torch.tensor([True, False, True, True, True, False])
    signs = 2.0 * torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(0)) - 1
    whole = run(term, smooth_net, x, torch.where(some, y, -1), signs)
    labelled = run(term, smooth_net, x[some], y[some], signs[some])
    near(whole.loss, labelled.loss)
    near(gradients(whole.loss, smooth_net), gradients(labelled.loss, smooth_net))
    nothing = run(term, smooth_net, x, torch.full_like(y, -1), signs)
    assert nothing.loss == 0
    assert gradients(nothing.loss, smooth_net).abs().max() == 0


def test_labels_and_a_threat_are_needed(smooth_net: nn.Module, double_batch: Any) -> None:
    for term in (SatR1(), SatR2(), SatR3()):
        assert term.needs == {"labels", "threat"}
        with pytest.raises(ValueError, match="needs labels"):
            (rr.Objective.of(term).with_threat(THREAT))(smooth_net, double_batch[0])
        with pytest.raises(ValueError, match="needs a threat"):
            rr.Objective.of(term)(smooth_net, *double_batch)
        near(
            rr.Objective.of(term).with_threat(THREAT)(smooth_net, *double_batch, step=0),
            rr.Objective.of(type(term)(THREAT))(smooth_net, *double_batch, step=0),
        )


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
def test_everything_is_finite(build: Callable[[], nn.Module], dtype: torch.dtype, batch: Any) -> None:
    net = build().to(dtype)
    for term in TERMS:
        loss = run(term, net, batch[0].to(dtype), batch[1]).loss
        assert loss.isfinite(), term
        assert gradients(loss, net).isfinite().all(), term
        if build is dead and not isinstance(term, (JointLoss, SatR3)):
            assert loss == 0


def test_autocast(relu_net: nn.Module, batch: Any) -> None:
    for make in (sat_r1, sat_r2, sat_r3):
        exact = make(THREAT)(relu_net, *batch, step=0)
        with torch.autocast("cpu", torch.bfloat16):
            found = make(THREAT)(relu_net, *batch, step=0)
        assert found.dtype == torch.float32
        assert found.item() == pytest.approx(exact.item(), rel=0.1)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: SatR1(steps=0), "steps >= 1, got 0"),
        (lambda: SatR1(samples=0), "a number from 1, or None for all, got 0"),
        (lambda: SatR2(alpha=-1), "must be >= 0, got -1"),
        (lambda: SatR2(alpha=math.nan), "must be >= 0, got nan"),
        (lambda: SatR2(budget="half"), "budget must be 'full' or 'eps_minus_alpha', got 'half'"),
        (
            lambda: SatR2(alpha=2, budget="eps_minus_alpha"),
            "leaves no step: alpha 2 is more than the step, 1",
        ),
        (
            lambda: SatR3(alpha=0.5, low=0.25, budget="eps_minus_alpha"),
            "alpha 0.5 is more than the step, 0.25",
        ),
        (lambda: SatR3(low=1.5), r"in \[0, 1\], got 1.5"),
        (lambda: SatR3(find="test"), "mode must be one of"),
        (lambda: JointLoss(Stack((rr.Clean(),)), part=1), "one of the 1 points, from 0, got 1"),
        (lambda: sat_r2(rr.Threat("linf", 0.0), alpha=0.1), "cannot be told as a multiple of eps = 0"),
    ],
)
def test_bad_options_are_refused(build: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build()


def test_no_radius_is_no_perturbation(smooth_net: nn.Module, double_batch: Any) -> None:
    nothing = rr.Threat("linf", 0.0)
    clean = rr.Objective.of(rr.CrossEntropy())(smooth_net, *double_batch)
    for make in (sat_r1, sat_r2):
        near(make(nothing)(smooth_net, *double_batch), clean)
    near(sat_r3(nothing)(smooth_net, *double_batch), 1.6 * clean)
