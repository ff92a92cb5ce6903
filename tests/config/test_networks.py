"""Recipes that name what other runs have trained: weights to start from, and helper networks."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("sklearn")

import torch

from robustreg.commands.workflow import Setting, train_run
from robustreg.config import Built, RecipeError, build, load_recipe
from robustreg.training.checkpoint import load_weights

TINY = ["data.train_size=32", "epochs=1", "model.width=2", "validation.attack=null"]
HAT = "objective={method: hat, helper: {run: runs/plain}}"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained run in the working folder's runs/plain."""
    monkeypatch.chdir(tmp_path)
    train_run(load_recipe("plain", TINY), Path("runs/plain"), Setting(progress=False))
    return Path("runs/plain")


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def helper(built: Built) -> torch.nn.Module:
    return next(term.teacher for _, term in built.objective.entries if hasattr(term, "teacher"))


def test_a_run_starts_from_the_weights_of_another(run: Path) -> None:
    built = build(load_recipe("plain", [*TINY, "start=runs/plain"]))
    fresh = build(load_recipe("plain", TINY)).net
    trained = build(load_recipe("plain", TINY)).net
    load_weights(trained, run / "checkpoints" / "last")
    assert same(built.net, trained)
    assert not same(built.net, fresh)
    untouched = build(load_recipe("plain", [*TINY, "start=runs/plain"]), other_runs=False)
    assert same(untouched.net, fresh)


def test_a_helper_is_the_network_of_its_run_held_fixed(run: Path) -> None:
    built = build(load_recipe("plain", [*TINY, HAT, "model.width=3"]))
    trained = build(load_recipe("plain", TINY)).net
    load_weights(trained, run / "checkpoints" / "last")
    net = helper(built)
    assert same(net, trained)
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())
    x, y = built.splits.train[:8]
    assert built.objective(built.net, x, y, progress=0.5).isfinite()


def test_a_term_may_name_a_helper_too(run: Path) -> None:
    terms = "objective={terms: [{term: teacher_cross_entropy, teacher: {run: runs/plain}}]}"
    assert helper(build(load_recipe("plain", [*TINY, terms]))).state_dict().keys()


def test_a_recipe_is_checked_without_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("plain", [*TINY, HAT, "start=runs/plain"])
    assert load_recipe_again(recipe.to_yaml(), tmp_path) == recipe
    assert build(recipe, other_runs=False).objective.entries


def load_recipe_again(text: str, folder: Path) -> object:
    (folder / "recipe.yaml").write_text(text)
    return load_recipe(folder / "recipe.yaml")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            [HAT],
            r"`objective.helper.run` names the run runs/plain, but there is no trained network in runs/plain",
        ),
        (
            ["start=runs/x"],
            r"`start` names the run runs/x, but .* train one first, with `robustreg train RECIPE",
        ),
    ],
)
def test_a_run_that_is_not_there(
    overrides: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=message):
        build(load_recipe("plain", [*TINY, *overrides]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["start=runs/plain", "model.width=3"],
            r"`start` cannot start from runs/plain: .* is from another model",
        ),
        (
            [HAT, "data=arrays", "data.path=other.npz"],
            r"`objective.helper.run` names the run runs/plain for samples \[1, 8, 8\] of 10 classes, "
            r"but this recipe's are samples \[1, 8, 8\] of 4 classes",
        ),
    ],
)
def test_a_run_of_something_else(run: Path, overrides: list[str], message: str) -> None:
    import numpy as np

    np.savez("other.npz", x=np.zeros((40, 1, 8, 8), np.uint8), y=np.arange(40) % 4)
    with pytest.raises(RecipeError, match=message):
        build(load_recipe("plain", [change for change in TINY if "train_size" not in change] + overrides))


def test_what_is_no_network() -> None:
    for value in ("runs/plain", "{folder: runs/plain}", "{run: 3}", "{run: runs/plain, recipe: plain}"):
        with pytest.raises(
            RecipeError,
            match=r"`objective.helper` should be a trained network, `\{recipe: NAME\}` to train it",
        ):
            load_recipe("plain", [f"objective={{method: hat, helper: {value}}}"])
