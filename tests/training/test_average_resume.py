"""A run whose objective averages the weights goes on from its checkpoint bit for bit."""

from __future__ import annotations

import torch

import robustreg as rr
from robustreg.training import checkpoint, tree
from robustreg.training.checkpoint import Checkpoint
from robustreg.training.weight_perturbation import AWP


def test_an_interrupted_run_with_adr_equals_an_uninterrupted_one(tools, tmp_path):
    """Mid-epoch, with BatchNorm, dropout and weights that are perturbed meanwhile."""

    def build(folder, *more):
        objective = rr.methods.adr(tools.threat, decay=0.7, steps=2)
        return tools.trainer((Checkpoint(folder / "checkpoints"), AWP(), *more), objective=objective)

    torch.manual_seed(0)
    whole = build(tmp_path / "whole").fit()
    torch.manual_seed(0)
    build(tmp_path / "parts", tools.StopAt(7)).fit()
    tools.scramble()
    second = build(tmp_path / "parts")
    checkpoint.resume(second, tmp_path / "parts" / "checkpoints" / "last")
    second.fit()
    mine, theirs = whole.state_dict(), second.state_dict()
    assert all(tree.same(mine[key], theirs[key]) for key in mine)
    average = mine["objective"]["terms"]["loss_at"]["loss.memory"]
    assert not tree.same(average["0.weight"], mine["network"]["0.weight"])
