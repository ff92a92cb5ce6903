"""A composition from no paper: smoothed cross-entropy, energy without labels, ARoW's weighting and the Jacobian's norm
in one step, with adversarial weight perturbation and averaged weights around it, on data of which half has no label.
"""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import robustreg as rr
from robustreg.data import Loader, from_arrays
from robustreg.streams import Stream
from robustreg.training import AWP, EMA, Checkpoint, Handler, MetricsLog, checkpoint, tree

EPS, GAMMA = 0.1, 0.03
STEPS, SIZE = 3, 0.04
BOX = rr.Threat("linf", EPS)
NOISE = rr.Gaussian(0.001)
KL_PGD = rr.PGD(BOX, steps=STEPS, step_size=SIZE, start=NOISE, loss="kl")

PARTS = {
    "smoothed cross-entropy": rr.Objective.of(rr.CrossEntropy(smoothing=0.2)),
    "ARoW": 3.0 * rr.weighted(rr.Consistency(KL_PGD), by=rr.Vulnerability(KL_PGD)),
    "energy": 0.5 * rr.Energy(BOX, divergence="kl", end=KL_PGD),
    "Jacobian": 0.01 * rr.JacobianNorm(),
}


def composition() -> rr.Objective:
    return sum(PARTS.values(), start=rr.Objective(()))


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(144, 3)).double()


def half_labelled(n: int = 10) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    y = torch.arange(n) % 3
    y[n // 2 :] = -1
    return torch.rand(n, 1, 8, 8, generator=g, dtype=torch.float64), y


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(1)


def attack_by_hand(net: nn.Module, x: Tensor) -> Tensor:
    """The end of the search, with the random start of step 0 under seed 7."""
    noise = NOISE.draw(x, Stream(7, 0).generator("cpu", "draw", NOISE.key))
    with torch.no_grad():
        target = net(x).log_softmax(1)
    z = (x + 0.001 * noise).clamp(x - EPS, x + EPS).clamp(0, 1)
    for _ in range(STEPS):
        u = z.detach().requires_grad_()
        (g,) = torch.autograd.grad(kl(target, net(u).log_softmax(1)).sum(), u)
        z = (z + SIZE * g.sign()).clamp(x - EPS, x + EPS).clamp(0, 1)
    return z.detach()


def by_hand(net: nn.Module, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """The four parts in eager PyTorch, one after the other."""
    labelled = y >= 0
    u = x.clone().requires_grad_()
    logits = net(u)
    clean, other = logits.log_softmax(1), net(z).log_softmax(1)
    loss = F.cross_entropy(logits[labelled], y[labelled], label_smoothing=0.2)
    vulnerability = 1 - other[labelled].exp().gather(1, y[labelled].unsqueeze(1)).squeeze(1)
    loss = loss + 3.0 * (vulnerability * kl(clean, other)[labelled]).mean()

    middle = ((x + z) / 2).requires_grad_()
    (g,) = torch.autograd.grad(
        kl(clean.detach(), net(middle).log_softmax(1)).sum(), middle, create_graph=True
    )
    energy = (z - x).flatten(1).abs().amax(1) * g.flatten(1).abs().sum(1)
    loss = loss + 0.5 * energy.mean()

    rows = [torch.autograd.grad(logits[:, k].sum(), u, create_graph=True)[0] for k in range(3)]
    return loss + 0.01 * sum(0.5 * row.flatten(1).square().sum(1) for row in rows).mean()


def gradients(loss: Tensor, net: nn.Module) -> dict[str, Tensor]:
    names, parameters = zip(*net.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))


def test_the_composed_step_is_the_one_written_by_hand() -> None:
    net, (x, y) = network(), half_labelled()
    loss = composition()(net, x, y, stream=Stream(7, 0))
    expected = by_hand(net, x, y, attack_by_hand(net, x))
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    found, closed = gradients(loss, net), gradients(expected, net)
    for name, g in closed.items():
        assert (found[name] - g).norm() <= 1e-10 * g.norm(), name


def test_its_gradient_is_the_sum_of_its_parts() -> None:
    """What is shared changes nothing: each part alone draws the same random numbers and finds the same points."""
    net, (x, y) = network(), half_labelled()
    whole = gradients(composition()(net, x, y, stream=Stream(7, 0)), net)
    parts = [gradients(part(net, x, y, stream=Stream(7, 0)), net) for part in PARTS.values()]
    for name, g in whole.items():
        assert (g - sum(part[name] for part in parts)).norm() <= 1e-12 * g.norm(), name
        if name != "3.bias":  # which no Jacobian knows of
            assert all(part[name].norm() > 1e-4 * g.norm() for part in parts), name


class Passes:
    """Counts the runs of a network, and the backward passes that reach its logits."""

    def __init__(self, net: nn.Module) -> None:
        self.forwards = self.backwards = 0
        net.register_forward_hook(self._forward)

    def _forward(self, net: nn.Module, inputs: object, logits: Tensor) -> None:
        self.forwards += 1
        if logits.requires_grad:
            logits.register_hook(self._backward)

    def _backward(self, gradient: Tensor) -> None:
        self.backwards += 1


def test_its_plan_is_what_runs() -> None:
    """One attack for two terms, one clean forward for all four."""
    net, (x, y) = network(), half_labelled()
    objective, passes = composition(), Passes(net)
    objective(net, x, y, step=0).backward()
    plan = objective.plan((1, 8, 8), 3)
    assert plan.forwards == passes.forwards == 1 + STEPS + 3
    assert plan.input_backwards == STEPS + 1 + 3
    # the energy's and the Jacobian's four input gradients are run through again by the loss's backward
    assert (plan.parameter_backwards, plan.double_backwards) == (3, 4)
    assert passes.backwards == plan.input_backwards + plan.parameter_backwards
    alone = [part.plan((1, 8, 8), 3).forwards for part in PARTS.values()]
    assert alone == [1, 1 + STEPS + 2, 1 + STEPS + 2, 1]


# -- in training, with the weights perturbed and averaged --------------------------------------------------------------


class Gradients(Handler):
    order = 5

    def gradients(self, trainer):
        self.found = {n: p.grad.clone() for n, p in trainer.module.net.named_parameters()}


def test_under_perturbed_weights_it_is_the_step_written_by_hand(tools) -> None:
    x, y = half_labelled()
    net = network()
    z = attack_by_hand(net, x)
    moved = copy.deepcopy(net)
    for name, g in gradients(by_hand(net, x, y, z), net).items():
        w = moved.get_parameter(name).data
        if w.ndim >= 2:
            w.add_(GAMMA * w.norm() * g / g.norm())
    expected = gradients(by_hand(moved, x, y, z), moved)

    watch, passes, objective = Gradients(), Passes(net), composition()
    tools.trainer(
        (AWP(GAMMA), EMA(0.9), watch),
        objective=objective,
        net=net,
        loader=[(x, y)],
        steps=1,
        precision="64-true",
    ).fit()
    for name, g in expected.items():
        assert (watch.found[name] - g).norm() <= 1e-10 * g.norm(), name
    plan = objective.plan((1, 8, 8), 3, evaluations=2)
    assert plan.forwards == passes.forwards == 1 + STEPS + 2 * 3
    assert plan.input_backwards == STEPS + 2 * 4
    assert plan.input_backwards + plan.parameter_backwards == passes.backwards
    assert (plan.parameter_backwards, plan.double_backwards) == (6, 8)


def training(tools, folder, *more):
    """Twelve steps on 40 samples, half of them without a label; a network with BatchNorm and dropout."""
    x, y = tools.data(40)[:]
    data = from_arrays(x, torch.where(torch.arange(40) % 2 == 0, y, -1), classes=3)
    loader = Loader(data, 10, shuffle=True, seed=3, augment=["flip"])
    handlers = (AWP(GAMMA, start=0.25), EMA(0.9), MetricsLog(folder / "m.csv"), Checkpoint(folder), *more)
    adam = {"name": "adam", "lr": 0.01}
    return tools.trainer(handlers, objective=composition(), loader=loader, epochs=3, optimizer=adam)


@pytest.mark.parametrize("stop", [1, 6])
def test_it_trains_and_resumes_bit_for_bit(tools, tmp_path, stop) -> None:
    torch.manual_seed(2)
    whole = training(tools, tmp_path / "whole").fit()
    torch.manual_seed(2)
    training(tools, tmp_path / "parts", tools.StopAt(stop)).fit()
    tools.scramble()
    second = training(tools, tmp_path / "parts")
    checkpoint.resume(second, tmp_path / "parts" / "last")
    second.fit()
    mine, theirs = whole.state_dict(), second.state_dict()
    for key in mine:
        assert tree.same(mine[key], theirs[key]), key
    rows = tools.rows(tmp_path / "whole" / "m.csv")
    assert rows == tools.rows(tmp_path / "parts" / "m.csv")
    assert set(rows[0]) >= {
        "cross_entropy", "consistency_by_vulnerability", "energy", "jacobian_norm", "weight_perturbation",
    }  # fmt: skip


def test_it_learns_from_both_halves(tools) -> None:
    """The loss falls, and the energy of samples without a label is part of it."""
    x, y = tools.data(40)[:]
    y = torch.where(torch.arange(40) % 2 == 0, y, -1)
    net, objective = tools.net(dropout=0.0), composition()
    before = objective.detailed(net, x, y, step=0)
    assert before.per_sample["energy"][y < 0].gt(0).all()
    assert before.per_sample["consistency_by_vulnerability"][y < 0].eq(0).all()
    adam = {"name": "adam", "lr": 0.01}
    trainer = tools.trainer(
        (AWP(0.005), EMA(0.8)), objective=objective, net=net, loader=[(x, y)], steps=40, optimizer=adam
    ).fit()
    after = objective.detailed(trainer.eval_net, x, y, step=0)
    assert after.loss.item() < 0.8 * before.loss.item()
    right = trainer.eval_net(x).argmax(1) == tools.data(40)[:][1]
    assert right[y < 0].double().mean() > 0.8  # those whose labels it has never seen
