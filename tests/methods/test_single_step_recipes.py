"""The digits recipes of the single-step papers build, and take a few steps lower the loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import robustreg as rr
from robustreg.attacks import RS_FGSM
from robustreg.config import RecipeError, build, find_recipe, load_recipe
from robustreg.methods import card_of
from robustreg.registry import lookup

RECIPES = ("sat_r1", "sat_r2", "sat_r3", "rs_fgsm", "n_fgsm", "grad_align", "elle")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_builds_and_trains(name: str) -> None:
    recipe = load_recipe(name)
    assert card_of(lookup("method", recipe.objective.method or "")).name == name
    built = build(recipe)
    x, y = torch.rand(16, *built.splits.train.shape), torch.arange(16) % built.splits.train.num_classes
    optimiser = torch.optim.SGD(built.net.parameters(), lr=0.05)
    losses = []
    for _ in range(6):
        loss = built.objective(built.net, x, y, progress=0.5, step=0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]  # also refuses NaN


def test_options_of_the_paper_are_keys_of_the_recipe() -> None:
    built = build(
        load_recipe(
            "sat_r2", ["objective.lam=2", "objective.joint=false", "objective.budget=eps_minus_alpha"]
        )
    )
    (_, loss), (lam, penalty) = built.objective.entries
    assert (lam, penalty.joint, penalty.budget) == (2, False, "eps_minus_alpha")
    assert loss.at == penalty.stack(built.threat).points[0]
    with pytest.raises(RecipeError, match="'budget'"):
        build(load_recipe("sat_r2", ["objective.budgett=full"]))


def test_terms_and_points_by_name(tmp_path: Path) -> None:
    text = (
        find_recipe("sat_r2")
        .read_text()
        .replace(
            "{method: sat_r2, lam: 5.0, alpha: 0.005}",
            """
  terms:
    - {term: joint_loss, stack: {point: stack, points: [{point: fgsm}, {point: rs_fgsm, step: 1.0}]}}
    - {term: sat_r2, weight: 5.0, alpha: 0.1}
    - {term: grad_align, weight: 0.2}
    - {term: adaptive_elle, weight: 100}
    - {term: linearity_gap, weight: 1, at: {point: least_linear, steps: 2}}
    - {term: cross_entropy, at: n_fgsm}
""",
        )
    )
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    built = build(load_recipe(path))
    assert built.objective.entries[0][1].stack.points == (rr.FGSM(built.threat), RS_FGSM(built.threat, 1.0))
    assert built.objective.names[3] == "elle_a"
    x, y = torch.rand(4, *built.splits.train.shape), torch.arange(4)
    assert built.objective(built.net, x, y, progress=0.5).isfinite()
