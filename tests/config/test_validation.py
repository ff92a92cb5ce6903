"""What is wrong with a recipe is told by key, place and closest name, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustreg.config import Recipe, RecipeError, load_recipe
from robustreg.config.validation import _fields

GOOD = """\
name: good
threat: {norm: linf, eps: 0.1}
objective: {method: gradient_family}
model: mlp
optimizer: sgd
epochs: 1
"""


def problems_of(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return caught.value.problems


def test_a_short_recipe_is_filled_with_defaults(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(GOOD)
    recipe = load_recipe(path)
    assert isinstance(recipe, Recipe)
    assert (recipe.seed, recipe.data.name, recipe.batch_size, recipe.schedule.name) == (
        0,
        "digits",
        64,
        "constant",
    )


# override, what its one sentence says
CASES = [
    ("epoch=3", "override epoch=3: `epoch` is not a key of a recipe; did you mean 'epochs'?"),
    ("epochs=0", "override epochs=0: `epochs` should be at least 1, but is 0"),
    ("epochs=1.5", "override epochs=1.5: `epochs` should be a whole number, but is 1.5"),
    ("epochs='3'", "override epochs='3': `epochs` should be a whole number, but is '3'"),
    ("epochs=true", "override epochs=true: `epochs` should be a whole number, but is True"),
    ("seed=-1", "override seed=-1: `seed` should be at least 0, but is -1"),
    ("clip=0", "override clip=0: `clip` should be more than 0, but is 0"),
    ("ema=1", "override ema=1: `ema` should be less than 1, but is 1"),
    ("precision=16", "override precision=16: `precision` should be '32', '64' or 'bf16', but is '16'"),
    (
        "threat.epsilon=3",
        "override threat.epsilon=3: `threat.epsilon` is not a key of `threat`; did you mean 'eps'?",
    ),
    ("threat.eps=big", "override threat.eps=big: `threat.eps` should be a number, but is 'big'"),
    ("threat.eps=-0.1", "override threat.eps=-0.1: `threat.eps` should be at least 0, but is -0.1"),
    ("threat.norm=l0.5", "`threat` is not a threat: a norm is"),
    (
        "validation.evry=2",
        "override validation.evry=2: `validation.evry` is not a key of `validation`; did you mean 'every'?",
    ),
    ("evaluation.attacks=[]", "override evaluation.attacks=[]: `evaluation.attacks` should not be empty"),
    (
        "logging.loggers=[wandbb]",
        "`logging.loggers.0` should be 'tensorboard', 'mlflow' or 'wandb', but is 'wandbb'",
    ),
    ("name='a b'", "`name` should consist of letters, digits, '_', '-' and '.', but is 'a b'"),
    ("data.train_sze=3", "`data.train_sze` is not an option of digits; did you mean 'train_size'?"),
    ("data=3", "override data=3: `data` should be a mapping of keys, but is 3"),
    ("objective={}", "`objective` takes either `method: name` or `terms: [...]`, one of the two"),
    (
        "objective.terms=[cross_entropy]",
        "`objective` takes either `method: name` or `terms: [...]`, one of the two",
    ),
    ("swa=0.5 ema=0.5", "`ema` and `swa` both average the weights: give one of them"),
    ("augment=[crop]", "`augment.0` names an unknown augmentation 'crop'"),
    ("model=mlpp", "override model=mlpp: `model` names an unknown model 'mlpp'; did you mean 'mlp'?"),
    (
        "model.hiden=3",
        "override model.hiden=3: `model.hiden` is not an option of mlp; did you mean 'hidden'?",
    ),
    ("model.seed=3", "`model.seed` is not set here: the recipe's own `seed` is the model's"),
    ("data=mnits", "`data` names an unknown data set 'mnits'; did you mean 'mnist'?"),
    ("data.data_dir=x", "`data.data_dir` is not set here: --data-dir says where the files are"),
    ("optimizer.lr=fast", "`optimizer.lr` should be a number, but is 'fast'"),
    ("optimizer.momentun=0.9", "`optimizer.momentun` is not an option of sgd; did you mean 'momentum'?"),
    ("schedule=cosin", "`schedule` names an unknown learning-rate schedule 'cosin'; did you mean 'cosine'?"),
    ("schedule.total_steps=3", "`schedule.total_steps` is not set here: "),
    ("objective.sigam=1", "`objective.sigam` is not an option of gradient_family; did you mean 'sigma'?"),
    ("objective.sigma=x", "`objective.sigma` should be a number or null, but is 'x'"),
    (
        "objective.form=penalti",
        "`objective.form` should be 'perturbed' or 'penalty' or 'mixed', but is 'penalti'; did you mean 'penalty'?",
    ),
    ("objective=gradientfamily", "names an unknown method 'gradientfamily'; did you mean 'gradient_family'?"),
    ("validation.attack=pdg", "`validation.attack` names an unknown point 'pdg'; did you mean 'pgd'?"),
    ("validation.attack=3", "`validation.attack` should be text or a mapping of keys, but is 3"),
    (
        "validation.attack={attack: pgd, stepz: 3}",
        "`validation.attack.stepz` is not an option of pgd; did you mean 'steps'?",
    ),
    ("validation.attack={attack: pgd, steps: 0}", "`validation.attack` (pgd): PGD needs steps >= 1"),
    (
        "validation.attack={steps: 3}",
        "`validation.attack` should be an attack's name or `{attack: name, ...}`",
    ),
    ("evaluation.attacks=[gaussian]", "`evaluation.attacks.0` (gaussian) needs `std`"),
    (
        "evaluation.distances=[pgd]",
        "`evaluation.distances.0` should be an attack of minimal norm (carlini_wagner, deep_fool, fab), but is 'pgd'",
    ),
    ("imports=[none.py]", "the import "),
]


@pytest.mark.parametrize(("override", "sentence"), CASES)
def test_each_problem_is_one_sentence(tmp_path: Path, override: str, sentence: str) -> None:
    assignments = override.split() if override.count("=") == 2 else [override]
    found = problems_of(tmp_path, GOOD, *assignments)
    assert len(found) == 1, found
    assert sentence in found[0]
    assert "\n" not in found[0]


@pytest.mark.parametrize("key", ["name", "threat", "objective", "model", "optimizer", "epochs"])
def test_missing_keys(tmp_path: Path, key: str) -> None:
    lines = [line for line in GOOD.splitlines() if not line.startswith(key)]
    assert problems_of(tmp_path, "\n".join(lines)) == [f"{tmp_path / 'r.yaml'}: `{key}` is missing"]


def test_all_problems_at_once_with_file_and_line(tmp_path: Path) -> None:
    text = GOOD.replace("epochs: 1", "epochs: none\nbatchsize: 3").replace(
        "model: mlp", "model: {name: mlp, widht: 3}"
    )
    found = problems_of(tmp_path, text, "objective.terms=3")
    assert len(found) == 4
    assert any("r.yaml, line 4: `model.widht`" in problem for problem in found)
    assert any("r.yaml, line 6: `epochs` should be a whole number" in problem for problem in found)
    assert any(
        "r.yaml, line 7: `batchsize` is not a key of a recipe; did you mean 'batch_size'?" in p for p in found
    )


def test_the_message_lists_every_problem(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(GOOD)
    with pytest.raises(RecipeError, match=r"r.yaml has 2 problems:\n  - .*seed.*\n  - .*epochs"):
        load_recipe(path, ["epochs=x", "seed=y"])


def test_the_fields_that_suggestions_come_from() -> None:
    assert "attacks" in _fields(("evaluation",))
    assert _fields(("nonsense",)) == []
