"""The consistency methods' recipes build, and their first steps learn something."""

from __future__ import annotations

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("pydantic")

import torch

import robustreg as rr
from robustreg.config import build, load_recipe

WRITTEN = {
    "trades": rr.methods.trades(rr.Threat("linf", 0.15), 6.0),
    "trades_ls": rr.methods.trades(rr.Threat("linf", 0.15), 6.0, 0.2),
    "mart": rr.methods.mart(rr.Threat("linf", 0.15), 5.0),
    "alp": rr.methods.alp(rr.Threat("linf", 0.15), 0.5),
    "arow": rr.methods.arow(rr.Threat("linf", 0.15), 7.0, 0.2),
    "cow": rr.methods.arow(rr.Threat("linf", 0.15), 7.0, 0.2, "cow"),
    "gat": rr.methods.gat(rr.Threat("linf", 0.15), 10.0),
    "nuat": rr.methods.nuat(rr.Threat("linf", 0.15), 4.5),
    "ikl": rr.methods.ikl(rr.Threat("linf", 0.15), 4.0, 20.0, refresh=19),
}


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_a_recipe_builds_what_one_would_write(name: str) -> None:
    built = build(load_recipe(name))
    assert repr(built.objective) == repr(WRITTEN[name])
    x, y = built.splits.train.x[:32].float(), built.splits.train.y[:32]
    x = x / 255 if x.max() > 1 else x
    module = rr.ObjectiveModule(built.net, built.objective, seed=0)
    optimizer = torch.optim.SGD(built.net.parameters(), lr=0.01)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = module(x, y, step=1, progress=0.5)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]


def test_the_terms_can_be_written_one_by_one() -> None:
    attack = {"point": "pgd", "steps": 10, "step_size": 0.0375, "loss": "kl"}
    terms = [
        {"term": "cross_entropy", "smoothing": 0.2},
        {
            "term": "consistency",
            "adversary": attack,
            "weight": 7.0,
            "by": {"term": "vulnerability", "at": attack},
        },
    ]
    from robustreg.config.components import Builder
    from robustreg.config.objective import build_objective
    from robustreg.config.problems import Problems

    written = build_objective({"terms": terms}, Builder(rr.Threat("linf", 0.15), Problems("test")))
    assert repr(written) == repr(WRITTEN["arow"])
