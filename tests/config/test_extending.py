"""`extends`: what a recipe takes over from its base, what it replaces, and bases that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustreg.config import RecipeError, load_recipe
from robustreg.config.extending import extended
from robustreg.config.yaml_file import parse, read

BASE = """\
seed: 3
threat: {norm: linf, eps: 0.1}
objective: {method: gradient_family, sigma: 0.2}
model: {name: mlp, hidden: [8]}
optimizer: {name: sgd, lr: 0.1, momentum: 0.9}
schedule: {name: multistep, milestones: [0.5], gamma: 0.2}
epochs: 2
augment: [flip]
validation: {size: 0.2, attack: {attack: pgd, steps: 3}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    return tmp_path


def content(folder: Path, text: str) -> dict:
    made, places = parse(text, "own.yaml")
    return extended(made, places, folder)[0]


def test_sections_are_merged_and_everything_else_is_replaced(folder: Path) -> None:
    own = "extends: base.yaml\nname: own\nthreat: {eps: 0.3}\noptimizer: {lr: 0.5}\naugment: []\nepochs: 7\n"
    found = content(folder, own)
    assert "extends" not in found
    assert found["threat"] == {"norm": "linf", "eps": 0.3}
    assert found["optimizer"] == {"name": "sgd", "lr": 0.5, "momentum": 0.9}
    assert (found["augment"], found["epochs"], found["seed"]) == ([], 7, 3)


@pytest.mark.parametrize(
    ("line", "section"),
    [
        ("optimizer: {name: adam, lr: 0.5}", {"name": "adam", "lr": 0.5}),
        ("optimizer: adam", {"name": "adam"}),
        ("schedule: {name: multistep}", {"name": "multistep"}),
        ("model: {hidden: []}", {"name": "mlp", "hidden": []}),
        ("objective: {terms: [cross_entropy]}", {"terms": ["cross_entropy"]}),
        ("objective: {method: vat}", {"method": "vat"}),
        ("objective: {form: penalty}", {"method": "gradient_family", "sigma": 0.2, "form": "penalty"}),
        ("validation: {attack: {attack: fgsm}}", {"size": 0.2, "attack": {"attack": "fgsm"}}),
        ("validation: {attack: null}", {"size": 0.2, "attack": None}),
        ("schedule: null", None),
    ],
)
def test_a_section_that_names_its_component_anew_is_replaced(
    folder: Path, line: str, section: object
) -> None:
    assert content(folder, f"extends: base.yaml\n{line}\n")[line.partition(":")[0]] == section


def test_the_base_file_is_looked_for_from_the_file_that_names_it(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "middle.yaml").write_text("extends: ../base.yaml\nepochs: 5\n")
    (folder / "own.yaml").write_text("extends: deep/middle.yaml\nname: own\nseed: 4\n")
    recipe = load_recipe(folder / "own.yaml")
    assert (recipe.name, recipe.seed, recipe.epochs, recipe.threat.eps) == ("own", 4, 5, 0.1)


def test_a_base_that_ships_is_known_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "extends: cifar10/_fast\nname: mine\nobjective: {method: gradient_family}\nepochs: 3\n"
    )
    mine, theirs = load_recipe(tmp_path / "mine.yaml"), load_recipe("cifar10/n_fgsm")
    assert (mine.name, mine.epochs, mine.objective.method) == ("mine", 3, "gradient_family")
    assert (mine.model, mine.optimizer, mine.schedule) == (theirs.model, theirs.optimizer, theirs.schedule)


def test_the_resolved_recipe_stands_alone(folder: Path) -> None:
    (folder / "own.yaml").write_text("extends: base.yaml\nname: own\n")
    recipe = load_recipe(folder / "own.yaml", ["optimizer.lr=0.3"])
    (folder / "alone").mkdir()
    (folder / "alone" / "recipe.yaml").write_text(recipe.to_yaml())
    (folder / "base.yaml").unlink()
    assert "extends" not in recipe.to_yaml()
    assert load_recipe(folder / "alone") == recipe
    assert recipe.optimizer.options == {"lr": 0.3, "momentum": 0.9}


def test_references_are_to_the_whole_recipe(folder: Path) -> None:
    (folder / "own.yaml").write_text("extends: base.yaml\nname: own\nobjective: {sigma: '${threat.eps}'}\n")
    assert load_recipe(folder / "own.yaml").objective.options["sigma"] == 0.1


def test_problems_are_told_with_the_file_that_has_them(folder: Path) -> None:
    (folder / "base.yaml").write_text(BASE.replace("momentum", "momentun"))
    (folder / "own.yaml").write_text("extends: base.yaml\nname: own\nmodel: {hiden: [3]}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(folder / "own.yaml")
    told = "\n".join(caught.value.problems)
    assert "base.yaml, line 5: `optimizer.momentun` is not an option of sgd; did you mean 'momentum'?" in told
    assert "own.yaml, line 3: `model.hiden` is not an option of mlp; did you mean 'hidden'?" in told


def test_places_of_what_was_replaced_are_gone(folder: Path) -> None:
    _, places = read(folder / "base.yaml")
    text = "extends: base.yaml\nschedule: {name: cosine}\noptimizer: {lr: 1}\n"
    _, found = extended(*parse(text, "own.yaml"), folder)
    assert ("schedule", "milestones") in places
    assert ("schedule", "milestones") not in found
    assert found[("schedule", "name")] == "own.yaml, line 2"
    assert found[("optimizer", "lr")] == "own.yaml, line 3"
    assert found[("optimizer", "momentum")].endswith("base.yaml, line 5")


def test_imports_of_a_base_are_its_own_files(folder: Path) -> None:
    (folder / "base").mkdir()
    (folder / "base" / "penalty.py").write_text("")
    (folder / "base" / "base.yaml").write_text(BASE + "imports: [penalty.py]\n")
    (folder / "own.yaml").write_text("extends: base/base.yaml\nname: own\n")
    assert load_recipe(folder / "own.yaml").imports == [str((folder / "base" / "penalty.py").resolve())]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "extends: bose.yaml",
            r"own.yaml, line 1: `extends` finds no file .*bose.yaml; did you mean '.*base.yaml'\?",
        ),
        (
            "extends: cifar10/fast",
            r"`extends` finds no recipe named 'cifar10/fast' among those that ship; did you mean",
        ),
        ("extends: [base.yaml]", r"`extends` should name one recipe, but is \['base.yaml'\]"),
        ("extends: own.yaml", r"own.yaml, line 1: `extends` leads back to .*own.yaml: own.yaml -> own.yaml"),
        ("extends: loop.yaml", r"`extends` leads back to .*loop.yaml: loop.yaml -> own.yaml -> loop.yaml"),
        ("extends: broken.yaml", r"broken.yaml.*not valid YAML"),
    ],
)
def test_bases_that_cannot_be(folder: Path, text: str, message: str) -> None:
    (folder / "own.yaml").write_text(text + "\n")
    (folder / "loop.yaml").write_text("extends: own.yaml\n")
    (folder / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(folder / "own.yaml")
    assert len(caught.value.problems) == 1


def test_the_word_itself_may_be_mistyped(folder: Path) -> None:
    (folder / "own.yaml").write_text("extend: base.yaml\nname: own\n")
    with pytest.raises(
        RecipeError, match=r"line 1: `extend` is not a key of a recipe; did you mean 'extends'\?"
    ):
        load_recipe(folder / "own.yaml")


def test_a_base_is_no_override(folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"override extends=plain: `extends` is said in a recipe's file"):
        load_recipe("plain", ["extends=plain"])
