from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from robustreg import CrossEntropy
from robustreg.training import checkpoint, tree
from robustreg.training.averaging import EMA
from robustreg.training.checkpoint import Checkpoint
from robustreg.training.guards import NaNGuard, TrainingStopped
from robustreg.training.handler import Handler
from robustreg.training.last_good import LastGood


class Bomb(nn.Module):
    """A network that can be told to give a bad loss or a bad gradient."""

    def __init__(self, net):
        super().__init__()
        self.net, self.fault = net, ""

    def forward(self, x):
        z = self.net(x)
        if self.fault == "loss":
            return z * math.nan
        if self.fault == "gradient":  # the root has value 0 and an infinite slope there
            return z + (z * 0).sqrt()
        return z


class Light(Handler):
    """Sets the bomb off at a step (counted from 0)."""

    def __init__(self, step, fault):
        self.step, self.fault = step, fault

    def step_start(self, trainer):
        trainer.module.net.fault = self.fault if trainer.step == self.step else ""

    def updated(self, trainer):
        if trainer.step == self.step and self.fault == "weight":
            with torch.no_grad():
                trainer.module.net.net[5].bias[1] = math.nan


def build(tools, folder, step, fault, every=4, objective=None):
    kept = LastGood(folder / "last_good", every)
    handlers = (NaNGuard(kept), kept, EMA(0.9), Checkpoint(folder), Light(step, fault))
    return tools.trainer(handlers, epochs=3, net=Bomb(tools.net()), objective=objective)


@pytest.mark.parametrize(
    ("fault", "what"), [("loss", "the loss is not finite"), ("gradient", "the gradient of .* is not finite")]
)
def test_it_stops_before_the_update_and_says_where_and_what(tools, tmp_path, fault, what):
    trainer = build(tools, tmp_path, 10, fault, objective=CrossEntropy() + 0.5 * CrossEntropy(smoothing=0.1))
    with pytest.raises(TrainingStopped, match=what) as caught:
        trainer.fit()
    stopped = caught.value
    assert stopped.step == 11
    assert set(stopped.values) == {"loss", "cross_entropy", "cross_entropy#2"}
    assert math.isnan(stopped.values["loss"]) == (fault == "loss")
    assert stopped.saved == tmp_path / "last_good"
    for part in ("at step 11", "cross_entropy ", "of step 8", str(tmp_path / "last_good")):
        assert part in str(stopped)
    assert all(p.isfinite().all() for p in trainer.module.net.parameters())
    assert trainer.status == "failed"


def test_the_last_good_state_is_exact(tools, tmp_path):
    """Resumed from it, the steps up to the failure and beyond are those of a run that never failed."""
    whole = build(tools, tmp_path / "whole", 99, "").fit()
    with pytest.raises(TrainingStopped):
        build(tools, tmp_path, 10, "loss").fit()
    assert checkpoint.read(tmp_path / "last_good")["step"] == 8
    assert checkpoint.read(tmp_path / "last")["step"] == 10
    tools.scramble()
    second = build(tools, tmp_path, 99, "")
    checkpoint.resume(second, tmp_path / "last_good")
    second.fit()
    for key in ("network", "optimizer", "handlers", "schedule", "batches"):
        assert tree.same(whole.state_dict()[key], second.state_dict()[key]), key


def test_a_failure_in_the_first_step_leaves_the_start(tools, tmp_path):
    with pytest.raises(TrainingStopped, match="of step 0"):
        build(tools, tmp_path, 0, "loss").fit()
    assert checkpoint.read(tmp_path / "last_good")["step"] == 0


@pytest.mark.parametrize("step", [4, 6, 7])
def test_bad_weights_never_replace_a_good_checkpoint(tools, tmp_path, step):
    """An update that overflows: at an epoch's end (5 steps) the save is refused, when a copy is due (4 steps) it is
    not taken, else the next loss tells."""
    with pytest.raises(TrainingStopped, match=r"(weight 'net\.5\.bias'|the loss) is not finite"):
        build(tools, tmp_path, step, "weight").fit()
    for name in ("last_good",) if step == 4 else ("last", "last_good"):
        content = checkpoint.read(tmp_path / name)
        assert all(t.isfinite().all() for t in content["weights"].values())
        assert content["step"] <= step
    assert (tmp_path / "last").exists() == (step != 4)


def test_nothing_is_written_while_all_is_well(tools, tmp_path):
    build(tools, tmp_path, 99, "").fit()
    assert not (tmp_path / "last_good").exists()


def test_without_a_copy_it_says_so(tools):
    trainer = tools.trainer((NaNGuard(), Light(2, "loss")), net=Bomb(tools.net()))
    with pytest.raises(TrainingStopped, match="no copy of an earlier state was kept") as caught:
        trainer.fit()
    assert caught.value.saved is None


def test_guards_change_no_bits(tools, tmp_path):
    plain = tools.trainer(epochs=2).fit()
    kept = LastGood(tmp_path, 1)
    guarded = tools.trainer((NaNGuard(kept), kept), epochs=2).fit()
    for key in ("network", "optimizer", "batches", "objective"):
        assert tree.same(plain.state_dict()[key], guarded.state_dict()[key]), key
    json.dumps(kept.copy["meta"], allow_nan=False)


def test_bad_settings(tmp_path):
    with pytest.raises(ValueError, match="every must be"):
        LastGood(tmp_path, 0)


def test_large_finite_values_are_no_alarm(tools):
    """Their squares overflow in float32; the values do not."""
    guard, trainer = NaNGuard(), tools.trainer(steps=1)
    assert guard._bad(trainer, [torch.tensor([3e38, -3e38])]) is False
    assert guard._bad(trainer, [torch.tensor([3e38]), torch.tensor([math.inf])]) is True
    assert guard._bad(trainer, [torch.tensor([]), torch.tensor([1.0, math.nan])]) is True
