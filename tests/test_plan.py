"""The plan says what a step costs: here the passes of a real network are counted and compared."""

from __future__ import annotations

import copy
import json
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustreg as rr

T = rr.Threat("linf", 0.1)
L2 = rr.Threat("l2", 0.3)


class _Backward(torch.autograd.Function):
    """The identity on a gradient, counted when it is made and when it is differentiated."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, passes: Counter[str]) -> Tensor:
        ctx.passes = passes
        passes["backward"] += 1
        return g.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        ctx.passes["double"] += 1
        return g, None


class _Forward(torch.autograd.Function):
    """The identity on logits, whose backward is counted and can be differentiated."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, passes: Counter[str]) -> Tensor:
        ctx.passes = passes
        return z.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return _Backward.apply(g, ctx.passes), None


class Counted(nn.Module):
    """A real network that counts every time a forward or a backward goes through its input and its logits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.input: Counter[str] = Counter()
        self.logits: Counter[str] = Counter()

    def forward(self, x: Tensor) -> Tensor:
        self.logits["forward"] += 1
        return _Forward.apply(self.net(_Forward.apply(x, self.input)), self.logits)


def planned_counts(plan: rr.Plan) -> tuple[int, int, int, int]:
    """Forwards, backwards while the loss is computed and after it, and double backwards."""
    before = plan.input_backwards + plan.joint_backwards
    return plan.forwards, before, plan.parameter_backwards - plan.joint_backwards, plan.double_backwards


def passes_of_a_step(objective: rr.Objective, model: Counted, batch: Any) -> tuple[int, int, int, int]:
    model.input.clear()
    model.logits.clear()
    loss = objective(model, *batch, progress=0.5)
    forwards, before = model.logits["forward"], model.logits["backward"]
    assert model.input["backward"] == before  # whatever ran backwards so far went to the input
    loss.backward()
    return forwards, before, model.logits["backward"] - before, model.input["double"]


KINDS = ("forward", "input backward")
CE, GN = rr.CrossEntropy(), rr.GradientNorm(T)

# objective, forwards, input backwards, parameter backwards, double backwards, joint backwards where there are any
OBJECTIVES = [
    (rr.Objective.of(CE), 1, 0, 1, 0),
    (rr.methods.gradient_family(T, "penalty"), 1, 1, 1, 1),
    (rr.methods.gradient_family(L2, "perturbed"), 2, 1, 1, 0),
    (rr.methods.gradient_family(L2, "mixed"), 2, 0, 2, 0, 1),
    (rr.methods.gradient_family(T, "penalty", estimator="forward"), 2, 0, 2, 0, 1),
    (rr.methods.gradient_family(T, "penalty", estimator="central"), 3, 0, 3, 0, 1),
    (rr.Objective.of(rr.CrossEntropy(at=rr.PGD(T, 7))), 8, 7, 1, 0),
    (rr.Objective.of(rr.CrossEntropy(at=rr.PGD(T, 3, restarts=2))), 9, 6, 1, 0),
    (rr.Objective.of(rr.CrossEntropy(at=rr.FGSM(T, start=rr.Uniform(T)))), 2, 1, 1, 0),
    (CE + GN + rr.GradientNorm(L2) + rr.GradientNorm(T, squared=True), 1, 1, 1, 1),
    (CE + GN + rr.Perturbed(T), 2, 1, 2, 1),
    (rr.Perturbed(T) + GN + CE, 2, 1, 2, 1),
    (CE + rr.GradientNorm(T, loss="margin"), 1, 1, 1, 1),
    (CE + rr.GradientNorm(T, at=rr.Uniform(T)) + rr.GradientNorm(T, at=rr.Uniform(T, 1)), 3, 2, 3, 2),
    (rr.LossAt(rr.Uniform(T), "kl", mode="batch") + rr.Perturbed(T) + CE, 3, 1, 3, 0),
    (CE + 0.5 * CE + rr.Perturbed(T), 2, 0, 2, 0, 1),
    (CE + rr.Perturbed(T) + rr.Perturbed(L2), 3, 0, 3, 0, 1),
    (CE + rr.Perturbed(T, loss="margin"), 2, 1, 2, 0),
    (CE + rr.Perturbed(T) + rr.LossAt(loss="margin"), 2, 1, 2, 0),
    (rr.weighted(CE, by=rr.Vulnerability()) + rr.Perturbed(T), 2, 1, 2, 0),
    (CE + rr.CrossEntropy(at=rr.FGSM(T, mode="train")), 2, 0, 2, 0, 1),
    (CE + rr.Ramp(0, 1) * GN, 1, 1, 1, 1),
    (CE + 0 * GN, 2, 1, 1, 0),
    (CE + 0 * rr.CrossEntropy(at=rr.PGD(T, 2)), 4, 2, 1, 0),
    (CE + 0 * rr.CrossEntropy(smoothing=0.1), 1, 0, 1, 0),
    (CE + rr.weighted(GN, by=rr.Vulnerability()), 1, 1, 1, 1),
    (CE + 6 * rr.LossAt(rr.PGD(T, 2, loss="kl"), "kl"), 5, 2, 2, 0),
    (CE + rr.weighted(rr.LossAt(rr.PGD(T, 2), "kl"), by=rr.Vulnerability(rr.PGD(T, 2))), 4, 2, 2, 0),
    (rr.CrossEntropy(mode="eval") + rr.GradientNorm(T, mode="eval") + CE, 2, 1, 2, 1),
    (
        CE + rr.CrossEntropy(at=rr.Along(rr.Clean(), rr.FGSM(T), 0.5)) + rr.CrossEntropy(at=rr.FGSM(T)),
        4,
        1,
        3,
        0,
    ),
]


@pytest.mark.parametrize(("objective", "counts"), [(o, c) for o, *c in OBJECTIVES], ids=lambda v: None)
@pytest.mark.parametrize("which", ["relu_net", "restless_net"])
def test_a_real_network_runs_what_the_plan_says(
    objective: rr.Objective, counts: list[int], which: str, batch: Any, request: pytest.FixtureRequest
) -> None:
    objective = copy.copy(objective)
    model = Counted(request.getfixturevalue(which))
    plan = objective.plan()
    planned = (plan.forwards, plan.input_backwards, plan.parameter_backwards, plan.double_backwards)
    assert (*planned, plan.joint_backwards) == (*counts, 0)[:5]
    assert passes_of_a_step(objective, model, batch) == planned_counts(plan)  # the very first step
    assert passes_of_a_step(objective, model, batch) == planned_counts(plan)


def test_forward_hooks_see_the_same_number(restless_net: nn.Module, batch: Any) -> None:
    runs = []
    restless_net.register_forward_hook(lambda *_: runs.append(1))
    objective = CE + GN + rr.CrossEntropy(at=rr.PGD(T, 3))
    objective(restless_net, *batch)
    assert len(runs) == objective.plan().forwards


def test_full_backward_hooks_see_the_same_parameter_backwards(relu_net: nn.Module, batch: Any) -> None:
    objective = CE + rr.Perturbed(T) + rr.CrossEntropy(at=rr.PGD(T, 2))
    loss = objective(relu_net, *batch)
    seen = []
    parameter = relu_net[5].bias
    handle = parameter.register_hook(lambda _: seen.append("parameter"))
    loss.backward()
    handle.remove()
    assert seen == ["parameter"]  # accumulated over the paths of three parameter backwards
    assert parameter.grad is not None
    assert objective.plan().parameter_backwards == 3


def test_rows_name_every_pass_and_who_shares_it() -> None:
    plan = (CE + GN + rr.Perturbed(T)).plan()
    assert len(plan.rows) == plan.forwards + plan.input_backwards
    forward, backward = (next(r for r in plan.rows if (r.kind, r.point) == (kind, "clean")) for kind in KINDS)
    assert forward.asked_by == ("cross_entropy", "gradient_norm")
    assert backward.asked_by == ("gradient_norm", "perturbed")
    assert forward.mode == backward.mode == "train"
    assert any(r.point == "steepest" and r.asked_by == ("perturbed",) for r in plan.rows)


def test_the_table_is_readable() -> None:
    text = str((CE + rr.CrossEntropy(at=rr.PGD(T, 10))).plan())
    assert "10 x input backward" in text
    assert "per step: 12 forward, 10 input backward, 2 parameter backward, 0 double backward" in text
    assert "(about 8.7 plain steps)" in text


def test_it_goes_into_a_json_file() -> None:
    plan = (CE + GN).plan()
    values = json.loads(json.dumps(plan.to_dict()))
    assert values["forwards"] == 1
    assert values["double_backwards"] == 1
    assert values["rows"][0]["asked_by"] == ["cross_entropy", "gradient_norm"]
    assert values["relative_cost"] == pytest.approx(7 / 3)


def test_plain_training_costs_one_plain_step() -> None:
    assert rr.Objective.of(CE).plan().relative_cost == 1


def test_shapes_that_bounds_imply_are_found() -> None:
    lower = torch.zeros(5)
    tabular = rr.Threat("l2", 0.1, (lower, lower + 1))
    assert (CE + rr.GradientNorm(tabular) + rr.CrossEntropy(at=rr.PGD(tabular, 2))).plan().forwards == 4
    assert (CE + GN).plan(shape=(7,), classes=4).forwards == 1


def test_samples_of_any_box_will_do() -> None:
    assert (CE + rr.GradientNorm(rr.Threat("linf", 3, (-128.0, -100.0)))).plan().forwards == 1
    assert (CE + rr.GradientNorm(rr.Threat("linf", 3, None))).plan().forwards == 1


def test_planning_works_where_gradients_are_off() -> None:
    with torch.no_grad():
        assert (CE + GN).plan().double_backwards == 1
