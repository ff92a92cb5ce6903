from __future__ import annotations

import inspect
import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import robustreg as rr
from robustreg.data import Splits
from robustreg.penalties import ClassWeightedGap
from robustreg.streams import Stream
from robustreg.training import (
    AWP,
    EMA,
    Checkpoint,
    ClipGradients,
    Handler,
    MetricsLog,
    NaNGuard,
    TrainingStopped,
    checkpoint,
    train,
    tree,
)
from robustreg.training.weight_perturbation import perturbation, perturbed, perturbed_weights, same_buffers

THREAT = rr.Threat("linf", 0.1)
GAMMA = 0.03


def smooth_net(batch_norm=True):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        norm = nn.BatchNorm2d(4) if batch_norm else nn.Identity()
        return nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.GELU(), nn.Flatten(), nn.Linear(144, 3)).double()


def batch(n=9):
    g = torch.Generator().manual_seed(1)
    return torch.rand(n, 1, 8, 8, generator=g, dtype=torch.float64), torch.arange(n) % 3


class Gradients(Handler):
    """What the optimiser is going to use, and the weights that it will change."""

    order = 5

    def gradients(self, trainer):
        net = trainer.module.net
        self.found = {n: p.grad.clone() for n, p in net.named_parameters()}
        self.weights = {n: p.detach().clone() for n, p in net.named_parameters()}
        self.buffers = {n: b.clone() for n, b in net.named_buffers()}


def one_step(tools, objective, net, gamma=GAMMA, x_and_y=None):
    watch = Gradients()
    loader = [batch() if x_and_y is None else x_and_y]
    return watch, tools.trainer(
        (AWP(gamma), watch), objective=objective, net=net, loader=loader, steps=1, precision="64-true"
    ).fit()


# -- the same mathematics written by hand ------------------------------------------------------------------------------

STEPS, SIZE, BETA = 3, 0.04, 6.0


def start_of(point, x):
    """The random start of step 0 with the trainer's seed, 7."""
    return point.draw(x, Stream(7, 0).generator("cpu", "draw", point.key))


def attack_by_hand(net, x, z, loss):
    net.eval()
    for _ in range(STEPS):
        u = z.clamp(x - 0.1, x + 0.1).clamp(0, 1).requires_grad_()
        (g,) = torch.autograd.grad(loss(net(u)), u)
        z = (u + SIZE * g.sign()).detach().clamp(x - 0.1, x + 0.1).clamp(0, 1)
    net.train()
    return z


def trades_by_hand(net, x, y, z):
    clean, other = net(x).log_softmax(1), net(z).log_softmax(1)
    return F.nll_loss(clean, y) + BETA * (clean.exp() * (clean - other)).sum(1).mean()


def kl_attack(net, x, y):
    with torch.no_grad():
        clean = net.eval()(x).log_softmax(1)
    start = x + 0.001 * start_of(rr.Gaussian(0.001), x)
    return attack_by_hand(net, x, start, lambda z: (clean.exp() * (clean - z.log_softmax(1))).sum())


def ce_attack(net, x, y):
    start = x + start_of(rr.Uniform(THREAT), x)
    return attack_by_hand(net, x, start, lambda z: F.cross_entropy(z, y, reduction="sum"))


METHODS = {
    "trades": (
        rr.methods.trades(THREAT, BETA, steps=STEPS, step_size=SIZE),
        kl_attack,
        trades_by_hand,
        2,
    ),
    "pgd_at": (
        rr.methods.pgd_at(THREAT, steps=STEPS, step_size=SIZE, find="eval"),
        ce_attack,
        lambda net, x, y, z: F.cross_entropy(net(z), y),
        1,
    ),
}


def awp_by_hand(net, attack, loss):
    """The authors' step: the ascent on a copy, so that BatchNorm's statistics of the network are not touched."""
    import copy

    x, y = batch()
    z = attack(net, x, y)
    proxy = copy.deepcopy(net)
    loss(proxy, x, y, z).backward()
    for (name, w), p in zip(net.named_parameters(), proxy.parameters(), strict=True):
        if "weight" in name and w.ndim >= 2:
            w.data.add_(GAMMA * w.data.norm() * p.grad / p.grad.norm())
    value = loss(net, x, y, z)
    value.backward()
    return value.item(), {n: p.grad for n, p in net.named_parameters()}, dict(net.named_buffers())


@pytest.mark.parametrize("name", METHODS)
def test_the_step_is_the_one_written_by_hand(tools, name):
    objective, attack, loss, forwards = METHODS[name]
    value, gradients, buffers = awp_by_hand(smooth_net(), attack, loss)
    net = smooth_net()
    watch, trainer = one_step(tools, objective, net)
    assert float(trainer.loss) == pytest.approx(value, rel=1e-12)
    for key, g in gradients.items():
        # the bias before BatchNorm has no gradient but rounding
        assert (watch.found[key] - g).norm() <= 1e-10 * g.norm() + 1e-14, key
    for key, w in smooth_net().named_parameters():
        assert torch.equal(watch.weights[key], w), f"{key} did not come back"
    for key, b in buffers.items():
        torch.testing.assert_close(watch.buffers[key], b, rtol=1e-12, atol=1e-14)
    assert int(watch.buffers["1.num_batches_tracked"]) == forwards
    plain = Gradients()
    tools.trainer(
        (plain,), objective=objective, net=smooth_net(), loader=[batch()], steps=1, precision="64-true"
    ).fit()
    assert any((plain.found[k] - g).norm() > 1e-3 * g.norm() for k, g in gradients.items())


def test_a_perturbation_has_the_layers_length_times_gamma():
    g = torch.Generator().manual_seed(0)
    for scale in (1.0, 1e-30, 1e30):
        w, d = torch.randn(4, 3, 3, generator=g), scale * torch.randn(4, 3, 3, generator=g)
        v = perturbation(w, d, 0.01)
        assert float(v.norm()) == pytest.approx(0.01 * float(w.norm()), rel=1e-5)
        assert float(F.cosine_similarity(v.flatten(), d.flatten() / scale, dim=0)) == pytest.approx(
            1, abs=1e-5
        )
    assert torch.equal(perturbation(w, torch.zeros_like(w), 0.01), torch.zeros_like(w))
    assert torch.equal(perturbation(torch.zeros_like(w), d, 0.01), torch.zeros_like(w))


def test_biases_normalisation_and_frozen_layers_stay(tools):
    net = smooth_net()
    assert [w.shape for w in perturbed_weights(net)] == [net[0].weight.shape, net[4].weight.shape]
    net[0].weight.requires_grad_(False)
    assert [w.shape for w in perturbed_weights(net)] == [net[4].weight.shape]


# -- what it costs -----------------------------------------------------------------------------------------------------


class Passes:
    """Counts the network's forwards, and the backward passes that reach its output."""

    def __init__(self, net):
        self.forwards = self.backwards = 0
        net.register_forward_hook(self.count)

    def count(self, net, inputs, output):
        self.forwards += 1
        if output.requires_grad:
            output.register_hook(self.count_backward)

    def count_backward(self, gradient):
        self.backwards += 1


@pytest.mark.parametrize("name", METHODS)
def test_losses_are_paid_twice_and_the_attack_once(tools, monkeypatch, name):
    located = []
    locate = rr.PGD.locate
    monkeypatch.setattr(rr.PGD, "locate", lambda self, probe: located.append(probe) or locate(self, probe))
    net = smooth_net()
    passes = Passes(net)
    objective, _, _, losses = METHODS[name]
    objective.prepare(*batch())  # rehearsals look for points, too
    located.clear()
    one_step(tools, objective, net)
    clean = 1 if name == "trades" else 0  # the attack's own clean prediction
    assert len(located) == 1
    assert passes.forwards == STEPS + clean + 2 * losses
    assert passes.backwards == STEPS + 2 * losses
    plan, once = objective.plan((1, 8, 8), 3, evaluations=2), objective.plan((1, 8, 8), 3)
    assert (plan.forwards, plan.input_backwards) == (passes.forwards, STEPS)
    assert plan.input_backwards + plan.parameter_backwards == passes.backwards
    assert plan.forwards == once.forwards + losses
    assert (plan.parameter_backwards, plan.double_backwards) == (2 * once.parameter_backwards, 0)


def methods_on_their_own() -> dict[str, rr.Objective]:
    """Every method that needs a threat and no more."""
    found = {}
    for name in rr.methods.__all__:
        method = getattr(rr.methods, name)
        given = inspect.signature(method).parameters if hasattr(method, "card") else {}
        needed = {p.name for p in given.values() if p.default is p.empty and p.kind is not p.VAR_KEYWORD}
        if given and needed <= {"threat"}:
            found[name] = method(THREAT) if "threat" in given else method()
    return found


@pytest.mark.parametrize("name", methods_on_their_own())
def test_every_method_can_look_again_without_a_search(name):
    """At the same weights the second look gives the same bits, in the passes that the plan foresees."""
    objective, (x, y) = methods_on_their_own()[name], batch()
    net = smooth_net(batch_norm=False)
    module, index = rr.ObjectiveModule(net, objective, seed=0), torch.arange(len(x))
    try:
        module(x, y, index, step=0, progress=0.5)
    except ValueError as error:
        pytest.skip(str(error))
    passes = Passes(net)
    with module.holding_points():
        first, searched = module(x, y, index, step=1, progress=0.5), passes.forwards
        second = module(x, y, index, step=1, progress=0.5)
    assert torch.equal(first, second)
    assert searched == objective.plan((1, 8, 8), 3).forwards
    assert passes.forwards == objective.plan((1, 8, 8), 3, evaluations=2).forwards


def test_states_of_terms_change_once_and_by_what_the_weights_saw(tools):
    """The class means are those of predictions at the weights, not at the perturbed ones."""
    attack = rr.PGD(THREAT, 2)

    def trained(*handlers):
        gap = ClassWeightedGap(attack, refresh=100)
        loader = [batch()]
        tools.trainer(
            handlers,
            objective=rr.CrossEntropy() + gap,
            net=smooth_net(),
            loader=loader,
            steps=1,
            precision="64-true",
        ).fit()
        return gap.memory

    plain, moved = trained(), trained(AWP(0.1))
    assert (plain.steps, moved.steps) == (1, 1)
    assert torch.equal(plain.sums, moved.sums)


def test_an_update_is_lost_with_the_step_it_belongs_to():
    gap = ClassWeightedGap(rr.FGSM(THREAT), refresh=100)
    module = rr.ObjectiveModule(smooth_net(), rr.CrossEntropy() + gap, seed=0)

    def interrupted():
        with module.holding_points():
            module(*batch(), step=0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert gap.memory.steps == 0
    module(*batch(), step=0)  # and nothing is held any longer
    assert gap.memory.steps == 1


def test_what_is_logged_is_the_loss_of_the_gradient(tools, tmp_path):
    objective = rr.CrossEntropy() + 0.3 * rr.GradientNorm(THREAT)
    x, y = batch()
    net = smooth_net(batch_norm=False)
    log = MetricsLog(tmp_path / "m.csv")
    tools.trainer(
        (AWP(GAMMA, start=0.5), log), objective=objective, net=net, loader=[(x, y)] * 2, steps=2, precision="64-true",
        optimizer={"name": "sgd", "lr": 0.0},
    ).fit()  # fmt: skip
    before, under = tools.rows(tmp_path / "m.csv")
    at_w = objective(net, x, y, step=0)
    net.zero_grad()
    at_w.backward()
    assert float(before["loss"]) == pytest.approx(at_w.item(), rel=1e-12)
    assert float(before["weight_perturbation"]) == 0
    with perturbed(perturbed_weights(net), GAMMA):
        out = objective.detailed(net, x, y, step=1)
    assert float(under["loss"]) == pytest.approx(out.loss.item(), rel=1e-12)
    assert float(under["gradient_norm"]) == pytest.approx(float(out.values["gradient_norm"]), rel=1e-12)
    assert float(under["weight_perturbation"]) == pytest.approx((out.loss - at_w).item(), rel=1e-9)
    assert float(under["weight_perturbation"]) > 0


# -- with everything else ----------------------------------------------------------------------------------------------


def everything(tools, folder, *more):
    handlers = (AWP(GAMMA, start=0.2), EMA(0.9), ClipGradients(1.0), NaNGuard(), MetricsLog(folder / "m.csv"))
    return tools.trainer((*handlers, Checkpoint(folder), *more))


@pytest.mark.parametrize("stop", [2, 7])
def test_interrupted_equals_uninterrupted(tools, tmp_path, stop):
    """Before and after its start, with dropout, BatchNorm, augmentation, random points, EMA and clipping."""
    torch.manual_seed(5)
    whole = everything(tools, tmp_path / "whole").fit()
    torch.manual_seed(5)
    assert everything(tools, tmp_path / "parts", tools.StopAt(stop)).fit().status == "interrupted"
    tools.scramble()
    second = everything(tools, tmp_path / "parts")
    checkpoint.resume(second, tmp_path / "parts" / "last")
    second.fit()
    mine, theirs = whole.state_dict(), second.state_dict()
    for key in mine:
        assert tree.same(mine[key], theirs[key]), key
    assert tools.rows(tmp_path / "whole" / "m.csv") == tools.rows(tmp_path / "parts" / "m.csv")


def test_before_its_start_training_is_as_without(tools):
    torch.manual_seed(5)
    without = tools.trainer((EMA(0.9),), steps=8).fit()
    torch.manual_seed(5)
    late = tools.trainer((AWP(GAMMA, start=0.99), EMA(0.9)), steps=8).fit()
    assert tree.same(dict(without.module.net.state_dict()), dict(late.module.net.state_dict()))
    torch.manual_seed(5)
    early = tools.trainer((AWP(GAMMA, start=0.5), EMA(0.9)), steps=8).fit()
    assert not tree.same(dict(without.module.net.state_dict()), dict(early.module.net.state_dict()))


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_precisions(tools, precision):
    trainer = tools.trainer((AWP(GAMMA), ClipGradients(1.0)), steps=3, precision=precision).fit()
    assert trainer.status == "finished"
    assert float(trainer.values["weight_perturbation"]) > 0
    assert all(p.isfinite().all() for p in trainer.module.net.parameters())


class Failing(nn.Module):
    """Raises at the n-th forward."""

    def __init__(self, net, n):
        super().__init__()
        self.net, self.left = net, n

    def forward(self, x):
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("the network failed")
        return self.net(x)


@pytest.mark.parametrize("n", range(1, 8))
def test_an_error_anywhere_in_the_step_leaves_weights_and_statistics(tools, n):
    """Seven forwards: a clean one, three of the attack and one at its end; two under the perturbation."""
    objective = rr.CrossEntropy() + rr.CrossEntropy(at=rr.PGD(THREAT, 3))
    objective.prepare(*batch())
    net = Failing(smooth_net(), n)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    trainer = tools.trainer(
        (AWP(0.1),), objective=objective, net=net, loader=[batch()], steps=1, precision="64-true"
    )
    with pytest.raises(RuntimeError, match="the network failed"):
        trainer.fit()
    after = net.state_dict()
    parameters = [name for name, _ in net.named_parameters()]
    kept = (
        before if n <= 6 else parameters
    )  # the last one fails after a training forward at the moved weights
    assert all(torch.equal(after[name], before[name]) for name in kept)
    assert trainer.module._held is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_the_guard_sees_bad_numbers_and_the_weights_are_back(tools, bad):
    net = smooth_net(batch_norm=False)
    net[4].bias.data[0] = bad
    before = {k: v.clone() for k, v in net.state_dict().items()}
    trainer = tools.trainer(
        (NaNGuard(), AWP(0.1)),
        objective=rr.CrossEntropy(),
        net=net,
        loader=[batch()],
        steps=1,
        precision="64-true",
    )
    with pytest.raises(TrainingStopped, match="not finite at step 1"):
        trainer.fit()
    assert all(torch.equal(v, before[k]) or k == "4.bias" for k, v in net.state_dict().items())


class Replacing(nn.Module):
    """Puts a new tensor in its buffer's place at every training forward, where BatchNorm writes into its own."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen = self.seen + 1
        return self.layer(x)


def test_buffers_come_back_however_they_change():
    net = Replacing()
    with same_buffers(net):
        net(torch.rand(2, 4))
        assert float(net.seen) == 1
    assert float(net.seen) == 0


def test_a_run_folder_has_the_plan_of_both_passes(tools, tmp_path):
    splits = Splits(tools.data(16), None, tools.data(9))
    attacked = rr.CrossEntropy() + rr.CrossEntropy(at=rr.FGSM(THREAT))
    adam = {"name": "adam", "lr": 0.01}
    settings = {"epochs": 1, "batch_size": 8, "optimizer": adam, "device": "cpu", "progress": False}
    train(tools.net(), attacked, splits, run_dir=tmp_path, awp={"gamma": 0.01, "start": 0.5}, **settings)
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan == json.loads(json.dumps(attacked.plan((1, 8, 8), 3, evaluations=2).to_dict()))
    rises = [float(row["weight_perturbation"]) for row in tools.rows(tmp_path / "metrics.csv")]
    assert rises[0] == 0
    assert rises[1] > 0


def test_recipes_name_it():
    pytest.importorskip("pydantic")
    from robustreg.config import RecipeError, load_recipe

    assert load_recipe("trades_awp").to_dict()["awp"] == {"gamma": 0.005, "start": 0.05}
    assert load_recipe("trades_awp", ["awp=null"]).awp is None
    assert load_recipe("trades", ["awp.gamma=0.01"]).to_dict()["awp"] == {"gamma": 0.01, "start": 0.0}
    with pytest.raises(RecipeError, match=r"`awp.start` should be less than 1, but is 2"):
        load_recipe("trades", ["awp.start=2"])


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": 0.0}, "gamma must be above 0 and finite, got 0.0"),
        ({"gamma": math.inf}, "gamma must be above 0"),
        ({"gamma": math.nan}, "gamma must be above 0"),
        ({"start": 1.0}, r"start is a fraction of the run in \[0, 1\), got 1.0"),
        ({"start": -0.1}, "start is a fraction"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        AWP(**settings)


def test_a_network_without_weights_to_move_is_refused(tools):
    net = tools.net()
    for p in perturbed_weights(net):
        p.requires_grad_(False)
    with pytest.raises(ValueError, match="Sequential has none that is trained"):
        tools.trainer((AWP(),), net=net)


def test_a_compiled_step_is_refused_before_it_begins(tools):
    recorder = tools.Recorder()
    trainer = tools.trainer((AWP(), recorder))
    trainer.module.compile(backend="eager")
    with pytest.raises(RuntimeError, match="the step is compiled, and its points are inside the graph"):
        trainer.fit()
    assert ("step_start", 0) not in recorder.events


# -- what it is for ----------------------------------------------------------------------------------------------------


def test_the_loss_is_lower_under_other_weights(tools):
    """200 steps on 30 samples, every fifth with a wrong label: memorised without, and sharp in the weights."""
    x, y = tools.data(30)[:]
    y = torch.where(torch.arange(30) % 5 == 0, (y + 1) % 3, y)
    objective = rr.Objective.of(rr.CrossEntropy(at=rr.FGSM(rr.Threat("linf", 0.05))))
    found = {}
    for name, handlers in {"without": (), "with": (AWP(0.2),)}.items():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 3))
        adam = {"name": "adam", "lr": 0.01}
        tools.trainer(
            handlers, net=net, objective=objective, loader=[(x, y)], steps=200, optimizer=adam
        ).fit()
        net.zero_grad()
        objective(net, x, y, step=0).backward()
        with perturbed(perturbed_weights(net), 0.2):
            found[name] = objective(net, x, y, step=0).item()
    assert found["with"] < 0.7 * found["without"], found
