"""Recipes that need others: what is needed is trained first, once, on the same data and with the same seed."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("sklearn")

import torch

from robustreg.commands.workflow import Setting, evaluate_run, status_of, train_run
from robustreg.config import RecipeError, build, folder_of, load_recipe, needed
from robustreg.training.checkpoint import load_weights

TINY = ["data.train_size=32", "epochs=1", "model.width=2", "validation.attack=null", "evaluation.samples=20"]
HELPER = "helper: {recipe: plain, epochs: 1, model.width: 3, validation.attack: null}"
HAT = [*TINY, f"objective={{method: hat, {HELPER}}}"]
QUIET = Setting(progress=False)


def test_it_is_on_the_same_data_with_the_same_seed() -> None:
    (other,) = needed(load_recipe("plain", [*HAT, "data.labelled=0.5", "seed=7"]))
    assert (other.name, other.seed, other.epochs) == ("plain", 7, 1)
    assert other.data.options == {"train_size": 32, "labelled": 0.5}
    assert other.model.options["width"] == 3
    assert needed(load_recipe("plain", TINY)) == []


def test_one_that_is_needed_twice_is_one() -> None:
    teacher = "{recipe: plain, epochs: 1}"
    terms = ", ".join(f"{{term: {name}, teacher: {teacher}}}" for name in ["teacher_cross_entropy"] * 2)
    assert len(needed(load_recipe("plain", [*TINY, f"objective={{terms: [{terms}]}}"]))) == 1


def test_what_differs_has_a_folder_of_its_own() -> None:
    one, other = (needed(load_recipe("plain", [*HAT, f"objective.helper.epochs={n}"]))[0] for n in (1, 2))
    assert folder_of(one, Path("runs")) != folder_of(other, Path("runs"))
    assert folder_of(one, Path("runs")).parent == Path("runs/needed")


def test_it_is_trained_first_and_once(tmp_path: Path) -> None:
    recipe = load_recipe("plain", HAT)
    train_run(recipe, tmp_path / "one", QUIET)
    own = folder_of(needed(recipe)[0], tmp_path)
    assert status_of(own) == "finished"
    written = (own / "run.json").stat().st_mtime_ns
    train_run(recipe, tmp_path / "two", QUIET)
    assert (own / "run.json").stat().st_mtime_ns == written
    evaluate_run(recipe, tmp_path / "two", QUIET)

    built = build(recipe, beside=tmp_path)
    helper = next(term.teacher for _, term in built.objective.entries if hasattr(term, "teacher"))
    trained = build(needed(recipe)[0]).net
    load_weights(trained, own / "checkpoints" / "last")
    pairs = zip(helper.state_dict().values(), trained.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_run_is_evaluated_without_what_it_needed(tmp_path: Path) -> None:
    recipe = load_recipe("plain", HAT)
    train_run(recipe, tmp_path / "one", QUIET)
    (tmp_path / "one").rename(tmp_path / "alone")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (tmp_path / "alone").rename(moved / "alone")
    assert evaluate_run(recipe, moved / "alone", QUIET).clean.n == 20


@pytest.mark.parametrize(
    ("helper", "message"),
    [
        ("{recipe: plian}", r"`objective.helper`, the recipe plian: .*plian.*plain"),
        (
            "{recipe: plain, epochs: 0}",
            r"`objective.helper`, the recipe plain: .*`epochs` should be at least 1",
        ),
        ("{recipe: plain, epoch: 3}", r"`epoch` is not a key of a recipe; did you mean 'epochs'"),
    ],
)
def test_what_is_wrong_with_it_is_said_before_work_starts(helper: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("plain", [*TINY, f"objective={{method: hat, helper: {helper}}}"])


def test_a_circle_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "round.yaml"
    file.write_text(f"name: round\nextends: hat\nobjective: {{method: hat, helper: {{recipe: {file}}}}}\n")
    with pytest.raises(RecipeError, match="which needs itself"):
        load_recipe(file)


def test_it_must_have_been_trained_where_it_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no trained network in"):
        build(load_recipe("plain", HAT), beside=tmp_path)
