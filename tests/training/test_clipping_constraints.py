from __future__ import annotations

import pytest
import torch
from torch import nn

from robustreg.training.clipping import ClipGradients
from robustreg.training.constraints import Constraints
from robustreg.training.logging import MetricsLog


class Norms:
    order = 11

    @staticmethod
    def of(trainer):
        grads = [p.grad for p in trainer.module.parameters() if p.grad is not None]
        return torch.stack([g.norm() for g in grads]).norm().item()


def watcher(tools):
    class Watch(tools.StopAt):
        order = 11

        def __init__(self):
            self.norms, self.told = [], []

        def gradients(self, trainer):
            self.norms.append(Norms.of(trainer))
            self.told.append(float(trainer.values.get("parameter_gradient_norm", 0)))

        def step_end(self, trainer):
            pass

    return Watch()


def test_gradients_are_clipped_and_their_norm_is_logged(tools, tmp_path):
    free, clipped = watcher(tools), watcher(tools)
    tools.trainer((free,), steps=1).fit()
    tools.trainer((clipped, ClipGradients(0.01), MetricsLog(tmp_path / "m.csv")), steps=1).fit()
    assert free.norms[0] > 0.01
    assert clipped.norms[0] == pytest.approx(0.01, rel=1e-3)
    assert clipped.told[0] == pytest.approx(free.norms[0], rel=1e-5)
    assert float(tools.rows(tmp_path / "m.csv")[0]["parameter_gradient_norm"]) > 0


def test_small_gradients_stay(tools):
    free, clipped = watcher(tools), watcher(tools)
    tools.trainer((free,), steps=1).fit()
    tools.trainer((clipped, ClipGradients(1e6)), steps=1).fit()
    assert clipped.norms == free.norms


@pytest.mark.parametrize("norm", [0, -1.0, float("nan")])
def test_a_norm_that_cannot_be(norm):
    with pytest.raises(ValueError, match="must be above 0"):
        ClipGradients(norm)


class MaxNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.flat, self.layer = nn.Flatten(), nn.Linear(64, 3)

    def forward(self, x):
        return self.layer(self.flat(x))

    def constrain_(self):
        self.layer.weight.copy_(torch.renorm(self.layer.weight, 2, 0, 0.25))


def test_the_networks_own_constraint_holds_after_every_step(tools):
    largest = []

    class Watch(tools.StopAt):
        def step_end(self, trainer):
            largest.append(trainer.module.net.layer.weight.norm(dim=1).max().item())

    tools.trainer((Constraints(), Watch(0)), net=MaxNorm(), steps=4).fit()
    assert len(largest) == 4
    assert max(largest) <= 0.25 + 1e-6


def test_a_network_without_constraints_is_left_alone(tools):
    from robustreg.training import tree

    one = tools.trainer(steps=3).fit()
    two = tools.trainer((Constraints(),), steps=3).fit()
    assert tree.same(dict(one.module.net.state_dict()), dict(two.module.net.state_dict()))
