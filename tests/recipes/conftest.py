"""A few samples of each data set as a file, and the runs that recipes start from, so that a recipe's step is quick."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustreg.config import Recipe, load_recipe

BATCH = 2

# Networks cut down, so that a step of ten attack steps takes a second and not a minute. The networks of the recipes as
# they are get built in `test_every_network_can_be_built`.
NARROW = {
    "resnet18": ["model.width=0.125"],
    "preact_resnet18": ["model.width=0.125"],
    "wrn28_10": ["model.depth=10", "model.width=1"],
    "wrn34_10": ["model.depth=10", "model.width=1"],
    "wide_resnet": ["model.depth=10", "model.width=1"],
}


@pytest.fixture(scope="session")
def slice_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`slice_of("mnist")`: an `.npz` of 40 training and 10 test samples.

    MNIST's are from the real files (skipped where there are none); CIFAR-10's are random bytes in its shape, because
    its files are seldom at hand and the pixels do not matter to whether a step can be made.
    """
    made: dict[str, Path] = {}

    def write(name: str) -> Path:
        if name not in made:
            arrays = _random_images() if name == "cifar10" else _first_samples(name)
            path = tmp_path_factory.mktemp("slices") / f"{name}.npz"
            np.savez(path, **arrays)
            made[name] = path
        return made[name]

    return write


def _random_images() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    parts = {"train": 40, "test": 10}
    images = {
        f"x_{part}": random.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8) for part, n in parts.items()
    }
    return {**images, **{f"y_{part}": np.arange(n) % 10 for part, n in parts.items()}}


def _first_samples(name: str) -> dict[str, np.ndarray]:
    from robustreg.data import DataNotFound, load

    try:
        splits = load(name, validation=0, train_size=40, download=False)
    except DataNotFound as error:
        pytest.skip(f"the files of {name} are not here (ROBUSTREG_DATA_DIR says where to look): {error}")
    train, test = splits.train, splits.test.take(10)
    return {
        "x_train": train.x.numpy(),
        "y_train": train.y.numpy(),
        "x_test": test.x.numpy(),
        "y_test": test.y.numpy(),
    }


@pytest.fixture
def small(slice_of: Callable[[str], Path]) -> Callable[..., Recipe]:
    """`small("cifar10/arow")`: the recipe on a slice of its data, with a narrow network."""

    def load(name: str, *more: str) -> Recipe:
        whole = load_recipe(name)
        changes = [f"batch_size={BATCH}", *NARROW.get(whole.model.name, [])]
        if whole.data.name == "digits":
            changes += ["data.train_size=40"]
        else:
            path = slice_of(whole.data.name)
            changes += ["data=arrays", f"data.path={path}", "validation.size=10"]
        changes += ["data.labelled=20"] if "labelled" in whole.data.options else []
        changes += [f"{path}.{change}" for path, spec in others_in(whole) for change in quick(spec["recipe"])]
        return load_recipe(name, [*changes, *more])

    return load


def others_in(recipe: Recipe) -> list[tuple[str, dict[str, Any]]]:
    """The recipes that one names, by the key: where it starts from, and its helper networks."""
    places = {"start": recipe.start, **{f"objective.{k}": v for k, v in recipe.objective.options.items()}}
    return [(key, value) for key, value in places.items() if isinstance(value, dict) and "recipe" in value]


def quick(name: str) -> list[str]:
    """What makes another recipe's training a matter of a second."""
    recipe = load_recipe(name)
    size = [] if recipe.data.name == "digits" else ["validation.size=10"]
    return ["epochs=1", "validation.attack=null", *size, *NARROW.get(recipe.model.name, [])]
