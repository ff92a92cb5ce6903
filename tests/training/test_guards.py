from __future__ import annotations

import math

import pytest
import torch

from robustreg.objective import CrossEntropy, Term
from robustreg.training import checkpoint, tree
from robustreg.training.averaging import EMA
from robustreg.training.checkpoint import Checkpoint
from robustreg.training.guards import NaNGuard, TrainingStopped
from robustreg.training.last_good import LastGood


class Bad(Term):
    """Zero until `calls` reaches `at`, then a bad value or a bad gradient."""

    def __init__(self, at, value=math.nan, gradient=False):
        self.at, self.value, self.gradient, self.calls = at, value, gradient, 0

    name = "bad"

    def __call__(self, probe):
        z = probe.logits()
        self.calls += 1
        if self.calls < self.at or not torch.is_grad_enabled():
            return z.sum(1) * 0
        if self.gradient:  # sqrt has an infinite slope at 0: value fine, gradient not
            return (z.sum(1) * 0).sqrt()
        return z.sum(1) * 0 + self.value


def build(tools, folder, objective, every=4, **more):
    kept = LastGood(folder / "last_good", every)
    handlers = (NaNGuard(kept), kept, EMA(0.9), Checkpoint(folder))
    return tools.trainer(handlers, epochs=3, objective=objective, **more)


class BadAtStep(tools_base := object):
    pass


def poison(tools, step, where):
    """Breaks one thing at a step, through the front door of a handler."""

    class Poison(tools.StopAt):
        order = -1

        def gradients(self, trainer):
            if trainer.step == step and where == "loss":
                trainer.loss = trainer.loss * math.nan
            if trainer.step == step and where == "gradient":
                next(p for n, p in trainer.module.net.named_parameters() if n == "5.weight").grad[0, 0] = math.inf

        def updated(self, trainer):
            if trainer.step == step and where == "weight":
                with torch.no_grad():
                    trainer.module.net[5].bias[1] = math.nan

        def step_end(self, trainer):
            pass

    return Poison(0)
