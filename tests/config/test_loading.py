"""Recipes that ship, recipes of the user's, and resolved recipes that make the same run again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import robustreg as rr
from robustreg.config import RecipeError, build, find_recipe, load_recipe, shipped_recipes
from robustreg.config.find import recipe_folder, summary

ROOT = Path(__file__).resolve().parents[2]
PENALTY = """
import robustreg as rr
from dataclasses import dataclass

@rr.register("term", "{name}")
@dataclass(frozen=True)
class MyTerm(rr.Term):
    factor: float = 1.0
    def __call__(self, probe):
        return self.factor * probe.logits(rr.Clean()).square().mean(1)
"""
SHORT = """
name: mine
threat: {norm: linf, eps: 0.1}
objective: {terms: [cross_entropy]}
model: {name: mlp, hidden: [8]}
optimizer: sgd
epochs: 1
"""


@pytest.fixture
def penalty(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, str]:
    """A file that registers a term of a name of its own (the registry outlives a test)."""
    name = f"my_term_{abs(hash(request.node.name)) % 10**8}"
    path = tmp_path / "my_penalty.py"
    path.write_text(PENALTY.format(name=name))
    return path, name


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_is_valid_and_says_what_it_is(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name.replace("/", "_")
    path = shipped_recipes()[name]
    assert len(summary(path)) > 20
    assert f"robustreg train {name}" in path.read_text()


def test_bases_are_no_recipes_of_their_own() -> None:
    assert (recipe_folder() / "cifar10" / "_fast.yaml").is_file()
    assert not [name for name in shipped_recipes() if name.rpartition("/")[2].startswith("_")]


def test_the_recipes_that_were_promised_are_there() -> None:
    promised = {"plain", "gradient_l2", "gradient_linf", "perturbed_linf", "perturbed_l2", "mixed", "pgd_at"}
    promised |= {"mnist_maxout", "mnist_maxout_gradient_l2", "mnist_maxout_gradient_linf"}
    assert promised <= set(shipped_recipes())


def test_a_recipe_by_name_by_path_and_by_run_folder(tmp_path: Path) -> None:
    by_name = load_recipe("plain")
    assert load_recipe(find_recipe("plain")) == by_name
    (tmp_path / "recipe.yaml").write_text(by_name.to_yaml())
    assert load_recipe(tmp_path) == by_name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gradient_l3", r"there is no recipe named 'gradient_l3'; did you mean 'gradient_l2'\?"),
        ("cifar10/trade", r"there is no recipe file cifar10/trade; did you mean 'cifar10/trades'\?"),
        ("cifar10/_fast", r"there is no recipe file cifar10/_fast"),
        ("recipes/plian.yaml", r"there is no recipe file recipes/plian.yaml"),
        ("none/at/all.yaml", "there is no recipe file none/at/all.yaml"),
    ],
)
def test_recipes_that_are_not_there(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(RecipeError, match=message):
        load_recipe(name)


@pytest.mark.parametrize("name", ["plain", "gradient_l2", "mixed", "pgd_at"])
def test_a_resolved_recipe_builds_the_same_objects(name: str, tmp_path: Path) -> None:
    overrides = ["objective.alpha=0.25"] if name == "mixed" else []
    recipe = load_recipe(name, [*overrides, "seed=3", "threat.eps=0.25", "model.width=4"])
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    again = load_recipe(tmp_path / "recipe.yaml")
    assert again == recipe
    one, two = build(recipe), build(again)
    assert one.objective.entries == two.objective.entries
    assert one.threat == two.threat == rr.Threat("linf", 0.25)
    assert one.attacks == two.attacks
    assert one.validation_attack == two.validation_attack
    for a, b in zip(one.net.parameters(), two.net.parameters(), strict=True):
        assert torch.equal(a, b)
    assert one.splits.describe() == two.splits.describe()


def test_build_gives_what_the_recipe_says() -> None:
    built = build(load_recipe("gradient_l2", ["validation.size=100", "data.train_size=200", "model.width=4"]))
    assert (
        built.objective.entries
        == rr.methods.gradient_family(
            built.threat, form="penalty", norm="l2", sigma=built.recipe.objective.options["sigma"]
        ).entries
    )
    assert len(built.splits.train) == 200
    assert built.splits.validation is not None
    assert len(built.splits.validation) == 100
    assert built.net(built.splits.test.floats().x[:2]).shape == (2, 10)
    assert built.attacks["pgd"] == rr.PGD(built.threat, steps=50, restarts=2)


def test_the_seed_is_the_network_s_and_not_the_split_s() -> None:
    one, two = (build(load_recipe("plain", [f"seed={seed}", "model.width=4"])) for seed in (0, 1))
    assert one.splits.describe() == two.splits.describe()
    assert not torch.equal(next(one.net.parameters()), next(two.net.parameters()))


def test_attacks_of_one_kind_are_told_apart() -> None:
    recipe = load_recipe(
        "plain", ["evaluation.attacks=[fgsm, {attack: gaussian, std: 0.1}, {attack: gaussian, std: 0.3}]"]
    )
    assert list(build(recipe).attacks) == ["fgsm", "gaussian std=0.1", "gaussian std=0.3"]
    twice = load_recipe("plain", ["evaluation.attacks=[fgsm, fgsm]"])
    with pytest.raises(RecipeError, match=r"`evaluation.attacks.1` repeats fgsm"):
        build(twice)


def test_attacks_that_measure_distances() -> None:
    specs = "evaluation.distances=[fab, {attack: deep_fool, steps: 9}, {attack: deep_fool, steps: 3}]"
    built = build(load_recipe("plain", [specs, "evaluation.distances.0.steps=7"]))
    assert built.distances == {
        "fab": rr.FAB(built.threat, steps=7),
        "deep_fool steps=9": rr.DeepFool(built.threat, steps=9),
        "deep_fool steps=3": rr.DeepFool(built.threat, steps=3),
    }
    assert build(load_recipe("plain")).distances == {}


def test_no_validation_split() -> None:
    assert build(load_recipe("plain", ["validation.size=0"])).splits.validation is None


def test_a_network_that_cannot_be_built() -> None:
    with pytest.raises(RecipeError, match="`model` cannot be built: unknown activation 'rleu'"):
        build(load_recipe("plain", ["model={name: mlp, activation: rleu}"]))


def test_an_import_brings_its_components(tmp_path: Path, penalty: tuple[Path, str]) -> None:
    file, name = penalty
    (tmp_path / "r.yaml").write_text(SHORT)
    item = "objective.terms=[cross_entropy, {term: " + name + ", factor: 2.0}]"
    recipe = load_recipe(tmp_path / "r.yaml", [item], imports=[str(file)])
    assert recipe.imports == [str(file)]
    assert build(recipe).objective.names == ("cross_entropy", "my_term")


def test_imports_in_a_recipe_are_meant_from_its_folder(tmp_path: Path, penalty: tuple[Path, str]) -> None:
    file, name = penalty
    text = SHORT.replace("[cross_entropy]", f"[cross_entropy, {name}]") + "imports: [my_penalty.py]\n"
    (tmp_path / "r.yaml").write_text(text)
    assert load_recipe(tmp_path / "r.yaml").imports == [str(file)]


def test_an_import_that_moved_is_named_anew(tmp_path: Path, penalty: tuple[Path, str]) -> None:
    file, name = penalty
    text = SHORT.replace("[cross_entropy]", f"[cross_entropy, {name}]") + "imports: [/gone/my_penalty.py]\n"
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(
        RecipeError, match=r"the import /gone/my_penalty.py is not there; say where it is with --import"
    ):
        load_recipe(tmp_path / "r.yaml")
    assert load_recipe(tmp_path / "r.yaml", imports=[str(file)]).imports == [str(file)]


def test_imports_that_fail(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(SHORT)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(RecipeError, match=r"the import .*broken.py failed: ZeroDivisionError"):
        load_recipe(tmp_path / "r.yaml", imports=[str(tmp_path / "broken.py")])
    with pytest.raises(RecipeError, match="the import no_such_module_here failed: ModuleNotFoundError"):
        load_recipe(tmp_path / "r.yaml", imports=["no_such_module_here"])


def test_two_files_of_one_name_do_not_shadow_each_other(tmp_path: Path) -> None:
    from robustreg.config import imports

    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.py").write_text(
            f"import robustreg as rr\n@rr.register('term', 'same_{folder}')\nclass T(rr.Term): pass\n"
        )
    imports.load([str(tmp_path / "a" / "same.py"), str(tmp_path / "b" / "same.py")])
    from robustreg.registry import names

    assert {"same_a", "same_b"} <= set(names("term"))


def test_a_model_of_the_user_s_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_nets_for_test.py").write_text(
        "from torch import nn\n"
        "def tiny(num_classes=10, in_features=64):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(in_features, num_classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "r.yaml").write_text(SHORT)
    built = build(
        load_recipe(tmp_path / "r.yaml", ["model=own_nets_for_test:tiny"], imports=["own_nets_for_test"])
    )
    assert built.net(built.splits.test.floats().x[:2]).shape == (2, 10)


def test_the_users_module_must_be_declared(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(SHORT)
    with pytest.raises(RecipeError, match=r"`model` cannot be built: .*'os' to be declared"):
        build(load_recipe(tmp_path / "r.yaml", ["model=os:getcwd"]))
