"""Teachers: networks that are held fixed, averages of the weights, and the losses and weights that look at them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.func import functional_call

import robustreg as rr
from robustreg import numerics
from robustreg.penalties import (
    AdaptiveWeight,
    Confidence,
    Consistency,
    Distillation,
    PseudoLabelled,
    Rectified,
    TeacherCrossEntropy,
    WeightAverage,
)
from robustreg.probe import Probe
from robustreg.streams import Stream

T = rr.Threat("linf", 0.1)
AWAY = rr.Along(rr.Clean(), rr.FGSM(T), 0.5)  # where there is something to see, and no chance


class Told(nn.Module):
    """A teacher that has been told its logits, sample by sample of the batch."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.register_buffer("logits", logits)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.logits  # type: ignore[assignment]
        return logits


def knowing(y: Tensor) -> Told:
    """One whose probabilities are exactly the labels' one-hot vectors."""
    return Told(-1e4 * (1 - nn.functional.one_hot(y, 3).double()))


@pytest.fixture
def teacher() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()


def values(term: rr.Term, net: Any, x: Tensor, y: Tensor | None = None, **options: Any) -> Tensor:
    return rr.Objective.of(term).detailed(net, x, y, step=0, **options).per_sample[term.name]


def gradient(
    objective: rr.Objective, net: nn.Module, x: Tensor, y: Tensor | None = None, **options: Any
) -> Tensor:
    loss = objective(net, x, y, step=0, **options)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])


def close(one: Tensor, other: Tensor, atol: float = 1e-14) -> None:
    torch.testing.assert_close(one, other.detach(), rtol=0, atol=atol)


def points(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Where AWAY is."""
    return AWAY(net, x, y)


# -- what the terms are ------------------------------------------------------------------------------------------------


def test_distillation(smooth_net: nn.Module, teacher: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    away = points(smooth_net, x, y)
    p = (teacher(x) / 1.2).softmax(1)
    q = (smooth_net(away) / 1.2).softmax(1)
    term = Distillation(teacher, at=AWAY, teacher_at=rr.Clean(), temperature=1.2)
    close(values(term, smooth_net, x, y), (p * (p / q).log()).sum(1))
    close(values(Distillation(smooth_net), smooth_net, x), torch.zeros(6).double())


def test_the_adaptive_weight(smooth_net: nn.Module, teacher: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    away = points(smooth_net, x, y)
    p, q = smooth_net(x).softmax(1), smooth_net(away).softmax(1)
    t, t_away = teacher(x).softmax(1), teacher(away).softmax(1)
    for follow, there in ((False, t), (True, t_away)):
        expected = 0.3 * (t * p).sum(1) + 0.7 * (1 - (there * q).sum(1))
        close(values(AdaptiveWeight(teacher, AWAY, 0.3, follow), smooth_net, x, y), expected)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_with_the_label_for_a_teacher_it_is_between_arow_and_cow(
    beta: float, smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    both = beta * rr.Objective.of(Confidence()) + (1 - beta) * rr.Objective.of(rr.Vulnerability(AWAY))
    ours = rr.Objective.of(AdaptiveWeight(knowing(y), AWAY, beta))
    assert ours(smooth_net, x, y, step=0).item() == pytest.approx(
        both(smooth_net, x, y, step=0).item(), abs=1e-15
    )
    if 0 < beta < 1:
        close(gradient(ours, smooth_net, x, y), gradient(both, smooth_net, x, y), 1e-15)


def test_gradient_flows_into_the_students_half_only(
    smooth_net: nn.Module, teacher: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    names = [n for n, _ in smooth_net.named_parameters()]
    parameters = [p.detach().clone().requires_grad_() for p in smooth_net.parameters()]
    away = rr.Uniform(T)
    objective = (
        0.5 * rr.Objective.of(rr.weighted(Consistency(away), by=AdaptiveWeight(teacher, away)))
        + Distillation(teacher, temperature=2.0)
        + TeacherCrossEntropy(teacher, at=away)
    )

    def loss(*given: Tensor) -> Tensor:
        state = dict(zip(names, given, strict=True))
        return objective(lambda u: functional_call(smooth_net, state, (u,)), x, y, step=0)

    assert gradcheck(loss, parameters, fast_mode=True)
    objective(smooth_net, x, y, step=0).backward()
    assert all(p.grad is None for p in teacher.parameters())


def test_options_that_cannot_be(teacher: nn.Module) -> None:
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        Distillation(teacher, temperature=0.0)
    with pytest.raises(ValueError, match=r"beta must lie in \[0, 1\], got 1.5"):
        AdaptiveWeight(teacher, AWAY, 1.5)
    with pytest.raises(ValueError, match=r"must be a network \(torch.nn.Module\), got 'a path'"):
        Distillation("a path")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pseudo-labels are for losses of logits and labels, got 'kl'"):
        PseudoLabelled(teacher, "kl")
    with pytest.raises(ValueError, match="temperature must be positive, got -1"):
        Rectified(-1.0)
    with pytest.raises(ValueError, match=r"mix must lie in \[0, 1\], got 2"):
        Rectified(mix=2.0)
    with pytest.raises(ValueError, match=r"decay is a factor per step and must lie in \[0, 1\], got 1.5"):
        WeightAverage(1.5)


def test_a_teacher_that_is_missing_or_of_other_classes(smooth_net: nn.Module, double_batch: Any) -> None:
    for term in Distillation(None), rr.LossAt(loss=PseudoLabelled(None)):
        assert rr.Objective.of(term).plan().forwards == 1  # it can be looked at
        with pytest.raises(ValueError, match="needs its teacher: pass a trained network"):
            values(term, smooth_net, *double_batch)
    with pytest.raises(ValueError, match="the teacher must have the network's 3 classes, but returned"):
        values(
            Distillation(nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).double()), smooth_net, *double_batch
        )
    assert rr.methods.srst_awr(T).plan() == rr.methods.srst_awr(T, smooth_net).plan()
    with pytest.raises(ValueError, match="adaptive_weight needs an adversary"):
        values(AdaptiveWeight(smooth_net), smooth_net, *double_batch)


# -- asking ------------------------------------------------------------------------------------------------------------


def test_a_teacher_is_asked_once_for_each_point(
    smooth_net: nn.Module, teacher: nn.Module, double_batch: Any
) -> None:
    """By attack, loss and weight together; the plan says so."""
    x, y = double_batch
    attack = rr.PGD(T, 3, loss=PseudoLabelled(teacher))
    objective = (
        rr.LossAt(attack, PseudoLabelled(teacher))
        + Distillation(teacher)
        + rr.weighted(Consistency(attack), by=AdaptiveWeight(teacher, attack))
    )
    asked: list[int] = []
    teacher.register_forward_hook(lambda *_: asked.append(1))
    objective(smooth_net, x, y, step=0)
    plan = objective.plan()
    assert len(asked) == plan.teacher_forwards == 1
    assert plan.forwards == 5
    assert "1 teacher forward" in str(plan)
    assert objective.plan(evaluations=2).teacher_forwards == 2
    without = rr.CrossEntropy(at=rr.PGD(T, 3)) + rr.CrossEntropy()
    assert "teacher" not in str(without.plan())
    assert plan.relative_cost == without.plan().relative_cost + 1 / 3


def test_a_teacher_stays_as_it_is(restless_net: nn.Module, batch: Any, snapshot: Callable[..., Any]) -> None:
    x, y = batch
    teacher = copy.deepcopy(restless_net).double()
    before = snapshot(teacher), snapshot(restless_net, buffers=False)
    found = values(Distillation(teacher, mode="eval"), restless_net, x, y)
    assert (snapshot(teacher), snapshot(restless_net, buffers=False)) == before
    expected = numerics.kl(teacher.eval()(x.double()), restless_net.eval()(x))
    torch.testing.assert_close(found, expected.detach().to(found), rtol=1e-5, atol=1e-9)


def test_asking_ones_own_average_at_first_moves_no_statistics(restless_net: nn.Module, batch: Any) -> None:
    """It is the network in evaluation mode, whatever training forwards came before it in the step."""
    x, y = batch
    expected = copy.deepcopy(restless_net).eval()(x)
    for objective in (
        rr.CrossEntropy() + Distillation(WeightAverage()),
        Distillation(WeightAverage()) + rr.CrossEntropy(),
    ):
        net = copy.deepcopy(restless_net)
        probe = Probe(net, x, y, stream=Stream(0))
        average = next(t.teacher for _, t in objective.entries if isinstance(t, Distillation))
        probe.logits()
        torch.testing.assert_close(probe.ask(average), expected)  # type: ignore[arg-type]
        objective(net, x, y, step=0)
        assert [int(m.num_batches_tracked) for m in net.modules() if isinstance(m, nn.BatchNorm2d)] == [2]  # type: ignore[arg-type]


# -- the average of the weights ----------------------------------------------------------------------------------------


def one_step(objective: rr.Objective, net: nn.Module, x: Tensor, y: Tensor, step: int) -> None:
    """A step whose update does not depend on the objective."""
    objective(net, x, y, step=step, progress=step / 5)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * (step + 1))


def test_the_average_against_its_sum(smooth_net: nn.Module, double_batch: Any) -> None:
    average = WeightAverage(0.75)
    objective = rr.CrossEntropy() + Distillation(average) + TeacherCrossEntropy(average)
    history = []
    for step in range(4):
        history.append([p.detach().clone() for p in smooth_net.parameters()])
        one_step(objective, smooth_net, *double_batch, step)
    weights = [0.75**3, 0.25 * 0.75**2, 0.25 * 0.75, 0.25]
    expected = [sum(w * p for w, p in zip(weights, ps, strict=True)) for ps in zip(*history, strict=True)]
    for found, wanted in zip(average.state_dict().values(), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-14)


def test_what_is_asked_has_the_weights_of_the_steps_before(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    objective = rr.Objective.of(Distillation(WeightAverage(0.5)))
    nets = []
    for step in range(3):
        nets.append(copy.deepcopy(smooth_net))
        found = objective.detailed(smooth_net, x, y, step=step).per_sample["distillation"]
        mean = copy.deepcopy(smooth_net)
        past = nets[:-1] or nets
        shares = [1.0] if len(past) == 1 else [0.5, 0.5]
        for p, *others in zip(mean.parameters(), *[n.parameters() for n in past], strict=True):
            p.data = sum(s * o.detach() for s, o in zip(shares, others, strict=True))  # type: ignore[assignment]
        close(found, numerics.kl(mean(x), smooth_net(x)))
        with torch.no_grad():
            for p in smooth_net.parameters():
                p.mul_(1.1)


def test_statistics_are_averaged_and_counters_copied(restless_net: nn.Module, batch: Any) -> None:
    average = WeightAverage(0.5)
    objective = rr.CrossEntropy() + Distillation(average)
    objective(restless_net, *batch, step=0)
    first = copy.deepcopy(restless_net.state_dict())
    objective(restless_net, *batch, step=1)
    second, found = restless_net.state_dict(), average.state_dict()
    assert not torch.equal(first["1.running_mean"], second["1.running_mean"])
    torch.testing.assert_close(
        found["1.running_mean"], (first["1.running_mean"] + second["1.running_mean"]) / 2
    )
    assert found["1.num_batches_tracked"] == second["1.num_batches_tracked"] == 2


def test_a_decay_may_be_scheduled(smooth_net: nn.Module, double_batch: Any) -> None:
    """While it is 0, the average is the network of the step before."""
    average = WeightAverage(rr.schedules.Steps((0.0, 1.0), (0.5,)))
    objective = rr.Objective.of(Distillation(average))
    for step in range(5):
        before = next(smooth_net.parameters()).detach().clone()
        one_step(objective, smooth_net, *double_batch, step)
        found = next(iter(average.state_dict().values()))
        if step < 3:
            kept = before
        close(found, kept)


def test_rehearsals_and_looking_on_leave_the_average_alone(smooth_net: nn.Module, double_batch: Any) -> None:
    average = WeightAverage()
    objective = rr.CrossEntropy() + Distillation(average)
    objective.plan((1, 4, 4), 3)
    assert average.state_dict() == {}
    rr.PGD(T, 2, loss=Rectified(2.0, 0.5, memory=average))(smooth_net, *double_batch)
    assert average.state_dict() == {}


def test_weights_that_are_perturbed_meanwhile_do_not_join(smooth_net: nn.Module, double_batch: Any) -> None:
    average = WeightAverage()
    module = rr.ObjectiveModule(smooth_net, rr.CrossEntropy() + Distillation(average))
    own = [p.detach().clone() for p in smooth_net.parameters()]
    with module.holding_points():
        module(*double_batch, step=0)
        with torch.no_grad():
            for p in smooth_net.parameters():
                p.add_(1.0)
        module(*double_batch, step=0)
        with torch.no_grad():
            for p, old in zip(smooth_net.parameters(), own, strict=True):
                p.copy_(old)
    assert all(torch.equal(a, b) for a, b in zip(average.state_dict().values(), own, strict=True))


def test_its_state_survives(smooth_net: nn.Module, double_batch: Any) -> None:
    """A run that was saved and loaded goes on with the same bits, and may be saved again before its next step."""

    def fresh() -> rr.Objective:
        label = Rectified(memory=WeightAverage(0.5))
        return rr.Objective.of(rr.LossAt(rr.PGD(T, 2, loss=label), label))

    net, objective = copy.deepcopy(smooth_net), fresh()
    assert objective.state_dict()["terms"] == {"loss_at": {"at.loss.memory": {}, "loss.memory": {}}}
    for step in range(3):
        one_step(objective, net, *double_batch, step)
    state = copy.deepcopy(objective.state_dict())
    resumed = fresh()
    resumed.load_state_dict(state)
    again = resumed.state_dict()["terms"]["loss_at"]["loss.memory"]
    assert all(torch.equal(again[k], v) for k, v in state["terms"]["loss_at"]["loss.memory"].items())
    assert resumed.plan((1, 4, 4), 3).teacher_forwards == 1
    assert torch.equal(
        gradient(objective, net, *double_batch, progress=0.5),
        gradient(resumed, net, *double_batch, progress=0.5),
    )
    assert not torch.equal(
        gradient(fresh(), net, *double_batch, progress=0.5),
        gradient(resumed, net, *double_batch, progress=0.5),
    )
    state["terms"]["loss_at"]["loss.memory"]["3.bias"] = torch.zeros(4)
    resumed.load_state_dict(state)
    with pytest.raises(
        ValueError, match=r"the saved average of the weights is of another network: '3\.bias' differs"
    ):
        resumed(net, *double_batch, step=0, progress=0.5)


def test_what_was_saved_does_not_move(smooth_net: nn.Module, double_batch: Any) -> None:
    average = WeightAverage(0.5)
    objective = rr.Objective.of(Distillation(average))
    one_step(objective, smooth_net, *double_batch, 0)
    saved = average.state_dict()
    before = {name: tensor.clone() for name, tensor in saved.items()}
    one_step(objective, smooth_net, *double_batch, 1)
    assert all(torch.equal(saved[name], before[name]) for name in before)


def test_a_copied_module_has_an_average_of_its_own(smooth_net: nn.Module, double_batch: Any) -> None:
    module = rr.ObjectiveModule(smooth_net, rr.CrossEntropy() + Distillation(WeightAverage(0.5)))
    module(*double_batch, step=0)
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for p in module.net.parameters():
            p.add_(1.0)
    module(*double_batch, step=1)
    twin(*double_batch, step=1)
    mine, theirs = (m.objective.state_dict()["terms"]["distillation"]["teacher"] for m in (module, twin))
    assert not any(torch.equal(mine[name], theirs[name]) for name in mine)


def test_only_networks_can_be_averaged(smooth_net: nn.Module, double_batch: Any) -> None:
    objective = rr.Objective.of(Distillation(WeightAverage()))
    with pytest.raises(TypeError, match=r"needs a network \(torch.nn.Module\), got function"):
        objective(lambda x: smooth_net(x), *double_batch)


def test_a_step_that_averages_is_not_compiled(smooth_net: nn.Module, double_batch: Any) -> None:
    module = rr.ObjectiveModule(smooth_net, rr.CrossEntropy() + Distillation(WeightAverage()))
    module.compile(backend="eager")
    with pytest.raises(RuntimeError, match="a term updates a state of its own after each step"):
        module(*double_batch)


def test_a_step_with_a_teacher_is_compiled(
    smooth_net: nn.Module, teacher: nn.Module, double_batch: Any
) -> None:
    objective = rr.CrossEntropy() + rr.weighted(Consistency(AWAY), by=AdaptiveWeight(teacher, AWAY))
    plain = rr.ObjectiveModule(smooth_net, objective)(*double_batch, step=0)
    module = rr.ObjectiveModule(smooth_net, objective)
    module.compile(backend="eager")
    torch.testing.assert_close(module(*double_batch, step=0), plain, rtol=0, atol=1e-14)


# -- targets -----------------------------------------------------------------------------------------------------------


def test_rectified_labels(smooth_net: nn.Module, double_batch: Any) -> None:
    """Against the formula sample by sample; where the average is wrong by more than ``mix``, the label is left."""
    x, y = double_batch
    with torch.no_grad():
        smooth_net[-1].weight.mul_(20)  # type: ignore[index,operator,union-attr]
    p = (smooth_net(x) / 2.25).softmax(1).detach()
    clipped = 0
    for mix in (0.2, 0.825):
        found = values(rr.LossAt(AWAY, Rectified(mix=mix)), smooth_net, x, y, progress=0.5)
        q = smooth_net(points(smooth_net, x, y)).log_softmax(1).detach()
        for i in range(6):
            m = min(max(mix - float(p[i].max() - p[i, y[i]]), 0.0), 1.0)
            clipped += m == 0.0
            target = m * p[i] + (1 - m) * nn.functional.one_hot(y[i], 3).double()
            assert target.sum().item() == pytest.approx(1)
            assert found[i].item() == pytest.approx(-(target * q[i]).sum().item(), abs=1e-13)
    assert 0 < clipped < 12


def test_without_a_share_of_the_average_it_is_the_cross_entropy(
    smooth_net: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    some = torch.where(torch.arange(6) < 4, y, -1)
    label = Rectified(1.0, 0.0)
    close(
        values(rr.LossAt(AWAY, label), smooth_net, x, some),
        values(rr.LossAt(AWAY, "ce"), smooth_net, x, some),
        1e-15,
    )
    found = rr.PGD(T, 4, start=rr.Clean(), loss=label)(smooth_net, x, y)
    close(found, rr.PGD(T, 4, start=rr.Clean())(smooth_net, x, y), 0.0)


def test_rectified_labels_follow_the_progress(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    term = rr.LossAt(loss=Rectified())
    for progress, temperature, mix in ((0.0, 2.5, 0.7), (0.5, 2.25, 0.825), (1.0, 2.0, 0.95)):
        fixed = rr.LossAt(loss=Rectified(temperature, mix))
        close(values(term, smooth_net, x, y, progress=progress), values(fixed, smooth_net, x, y))
    with pytest.raises(ValueError, match="pass progress="):
        values(term, smooth_net, x, y)


def test_pseudo_labels_stand_where_there_is_no_label(
    smooth_net: nn.Module, teacher: nn.Module, double_batch: Any
) -> None:
    x, y = double_batch
    some = torch.where(torch.arange(6) < 4, y, -1)
    seen = teacher(x).argmax(1)
    assert not torch.equal(seen, y)
    mixed = torch.where(some >= 0, some, seen)
    z = smooth_net(x)
    for given, labels, keep in ((some, mixed, True), (some, seen, False), (y, y, True), (None, seen, True)):
        for loss in ("ce", "margin", rr.SmoothedCrossEntropy(0.2)):
            found = values(rr.LossAt(loss=PseudoLabelled(teacher, loss, keep)), smooth_net, x, given)
            close(found, values(rr.LossAt(loss=loss), smooth_net, x, labels), 0.0)
    close(z, smooth_net(x), 0.0)
    objective = rr.Objective.of(
        rr.LossAt(rr.PGD(T, 2, loss=PseudoLabelled(teacher)), PseudoLabelled(teacher))
    )
    assert "labels" not in objective.entries[0][1].needs  # so that the mean is over all samples
    assert objective(smooth_net, x, some, step=0) != objective(smooth_net, x[:4], some[:4], step=0)


def test_pseudo_labels_lead_the_attack(smooth_net: nn.Module, teacher: nn.Module, double_batch: Any) -> None:
    x, _ = double_batch
    attack = rr.PGD(T, 5, start=rr.Clean(), loss=PseudoLabelled(teacher), early_exit=False)
    found = attack(smooth_net, x)
    seen = teacher(x).argmax(1)
    assert (
        numerics.cross_entropy(smooth_net(found), seen) > numerics.cross_entropy(smooth_net(x), seen)
    ).all()


def test_finite_where_teacher_and_network_are_certain(smooth_net: nn.Module, batch: Any) -> None:
    x, y = batch
    net = smooth_net.float()
    with torch.no_grad():
        net[-1].weight.mul_(1e5)  # type: ignore[index,operator,union-attr]
    teacher = Told(1e4 * nn.functional.one_hot((y + 1) % 3, 3).float())
    objective = (
        rr.LossAt(AWAY, Rectified(1e-3, 0.9))
        + Distillation(teacher, temperature=0.01)
        + rr.weighted(Consistency(AWAY), by=AdaptiveWeight(teacher, AWAY))
    )
    loss = objective(net, x, y, step=0)
    assert math.isfinite(loss.item())
    assert (
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))]).isfinite().all()
    )
