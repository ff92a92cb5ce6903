"""Checks of what a term does beside giving values: to the model, random numbers, other terms, and at what cost."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from robustreg.objective import Objective
from robustreg.testing import networks
from robustreg.testing.check import require
from robustreg.testing.snapshot import require_unchanged, snapshot
from robustreg.testing.steps import Step, TermCase, require_close, step


class Stop(BaseException):
    """An interruption in the middle of a forward, which no term may catch."""


def side_effects(case: TermCase) -> None:
    """A step leaves flags, parameters, ``.grad``, inputs and every global random state as they were."""
    batch = case.batch()
    for how in ("training", "mixed", "evaluating", "logged"):
        net = _prepared(networks.restless(case.shape, case.classes), how)
        objective = case.anew() if how != "logged" else case.company() + 0 * case.anew()
        kept = how == "evaluating"
        before = snapshot(net, batch, buffers=kept)
        for number in range(2):  # the first step learns what will be asked for
            out = objective.detailed(net, batch.x, batch.y, progress=0.5, step=number, index=batch.index)
            require_unchanged(before, snapshot(net, batch, buffers=kept), f"a step ({how})")
        if out.loss.requires_grad:
            before = snapshot(net, batch, gradients=False)
            out.loss.backward()  # type: ignore[no-untyped-call]
            require_unchanged(
                before, snapshot(net, batch, gradients=False), f"the backward of a step ({how})"
            )


def interrupted(case: TermCase) -> None:
    """A step that breaks off in the middle of a forward leaves everything, the term's state included, as it was."""
    batch = case.batch()
    total = _forwards(case, None)
    for at in sorted({min(1, total), (total + 1) // 2, total} - {0}):
        _forwards(case, at, batch)


def statistics(case: TermCase) -> None:
    """BatchNorm's statistics are updated once for each training forward of the plan, and by no logged term."""
    net, batch = networks.restless(case.shape, case.classes), case.batch()
    objective = case.trainable()
    rows = objective.plan(case.shape, case.classes).rows
    expected = sum(row.kind == "forward" and row.mode == "train" for row in rows)
    step(objective, net, batch)
    for found in _updates(net):
        require(
            found == expected,
            f"BatchNorm's statistics were updated {found} times, where the plan has {expected}",
        )
    plain, logged = (networks.restless(case.shape, case.classes) for _ in range(2))
    step(case.company(), plain, batch)
    step(case.company() + 0 * case.alone(), logged, batch)
    same = all(torch.equal(a, b) for a, b in zip(plain.buffers(), logged.buffers(), strict=True))
    require(same, "with weight 0, only to be logged, it changed BatchNorm's statistics")


def randomness(case: TermCase) -> None:
    """A step's bits depend on the seed and the step alone, not on global random states or earlier calls."""
    batch = case.batch()
    objective, repeated = case.alone(), []
    for seed in range(2):
        with global_seeds(seed):
            out = step(case.alone(), networks.restless(case.shape, case.classes), batch)
            again = step(objective, networks.restless(case.shape, case.classes), batch)
        repeated.append((out, again))
    (first, kept), (second, later) = repeated
    sentence = "the same step of the same seed gave other bits"
    require(
        _equal(first, second), f"{sentence} under another global random state: draw from the probe's streams"
    )
    if not case.has_state:
        require(
            _equal(kept, later),
            f"{sentence} when it was repeated: something is remembered beside state_dict()",
        )


def isolation(case: TermCase) -> None:
    """The term's bits do not depend on other terms, nor theirs on it; logged, it changes nothing."""
    batch = case.batch().to(torch.float64)  # gradients are told apart to many digits

    def of(objective: Objective) -> Step:
        return step(objective, networks.restless(case.shape, case.classes).double(), batch)

    alone, others = of(case.alone()), of(case.company())
    after, before = of(case.company() + case.alone()), of(case.alone() + case.company())
    logged = of(case.company() + 0 * case.alone())
    n = len(others.all_values)
    for found, where in ((after.all_values[n], "after"), (before.all_values[0], "before")):
        require(
            torch.equal(found, alone.values), f"its values {where} other terms are not those it has alone"
        )
    # where nothing is differentiated torch may take another kernel, which rounds otherwise
    require_close(
        logged.all_values[n], alone.values, "its values with weight 0 are not those with weight 1", 1e-9
    )
    for other, what in ((after, "adding"), (logged, "logging")):
        same = all(torch.equal(a, b) for a, b in zip(other.all_values[:n], others.all_values, strict=True))
        require(same, f"{what} it changes the values of other terms")
    require(torch.equal(logged.gradient, others.gradient), "logging it changes the parameter gradient")
    added, sentence = (
        after.gradient - others.gradient,
        "its parameter gradient among others is not the one it has alone",
    )
    require_close(added, alone.gradient, sentence)


def plan(case: TermCase) -> None:
    """The plan's passes are those that run on a real network."""
    objective, batch = case.trainable(), case.batch()
    planned = objective.plan(case.shape, case.classes)
    joint = planned.joint_backwards  # they run while the loss is computed, and not when it is differentiated
    expected = {
        "forwards": planned.forwards,
        "input backwards": planned.input_backwards + joint,
        "parameter backwards": planned.parameter_backwards - joint,
        "double backwards": planned.double_backwards,
    }
    for when in ("the first step", "a later step")[: 1 if case.has_state else 2]:
        net = Counted(networks.restless(case.shape, case.classes))
        loss = objective.detailed(net, batch.x, batch.y, progress=0.5, step=0, index=batch.index).loss
        found = net.passes_of(loss)
        wrong = [f"{found[k]} {k} where it says {v}" for k, v in expected.items() if found[k] != v]
        require(not wrong, f"{when} runs not what the plan says: {', '.join(wrong)}")


class Counted(nn.Module):
    """A network that counts the passes through it, by hooks on its input and its logits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.forwards = self.to_input = self.through_gradients = self.to_logits = 0

    def forward(self, x: Tensor) -> Tensor:
        """The network's logits."""
        self.forwards += 1
        if x.requires_grad:
            x = x.view_as(x)
            x.register_hook(self._input_backward)  # type: ignore[no-untyped-call]
        logits: Tensor = self.net(x)
        if logits.requires_grad:
            logits.register_hook(self._logits_backward)  # type: ignore[no-untyped-call]
        return logits

    def passes_of(self, loss: Tensor) -> dict[str, int]:
        """The passes of a step, whose loss is differentiated here."""
        before = self.to_input + self.through_gradients  # a backward through a gradient is a product J d
        self.to_logits = self.through_gradients = 0
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        return {
            "forwards": self.forwards,
            "input backwards": before,
            "parameter backwards": self.to_logits,
            "double backwards": self.through_gradients,
        }

    def _input_backward(self, g: Tensor) -> None:
        self.to_input += 1
        if g.requires_grad:
            g.register_hook(self._gradient_backward)  # type: ignore[no-untyped-call]

    def _gradient_backward(self, _: Tensor) -> None:
        self.through_gradients += 1

    def _logits_backward(self, _: Tensor) -> None:
        self.to_logits += 1


def _prepared(net: nn.Module, how: str) -> nn.Module:
    parameters = list(net.parameters())
    for p in parameters[:2]:
        p.grad = torch.ones_like(p)
    if how == "mixed":
        norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        norms[0].eval()
        parameters[-1].requires_grad_(False)
    return net.eval() if how == "evaluating" else net


def _forwards(case: TermCase, stop_at: int | None, batch: networks.Batch | None = None) -> int:
    """Run a step that is stopped in a certain forward, and compare; the number of forwards."""
    batch = case.batch() if batch is None else batch
    net = networks.restless(case.shape, case.classes)
    objective, runs = case.alone(), 0

    def count(*_: Any) -> None:
        nonlocal runs
        runs += 1
        if runs == stop_at:
            raise Stop

    list(net.children())[2].register_forward_hook(count)
    before, state = snapshot(net, batch, buffers=False), _state_text(objective)
    try:
        step(objective, net, batch)
    except Stop:
        require_unchanged(
            before, snapshot(net, batch, buffers=False), f"a step that broke off in forward {stop_at}"
        )
        require(
            _state_text(objective) == state,
            f"a step that broke off in forward {stop_at} changed the term's state",
        )
    else:
        require(stop_at is None, f"an interruption of forward {stop_at} was swallowed")
    return runs


def _state_text(objective: Objective) -> str:
    return str(objective.state_dict()["terms"])


def _updates(net: nn.Module) -> Iterator[int]:
    for m in net.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.num_batches_tracked is not None:
            yield int(m.num_batches_tracked)


@contextmanager
def global_seeds(seed: int) -> Iterator[None]:
    """Other global random states for a while."""
    import numpy as np

    python, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)


def _equal(one: Step, other: Step) -> bool:
    return torch.equal(one.values, other.values) and torch.equal(one.gradient, other.gradient)
