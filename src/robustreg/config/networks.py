"""Networks of a recipe: its own with initial weights, and those that other runs have trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustreg.registry import publish

from . import imports as user_modules
from .checks import named_options
from .components import Builder
from .problems import KeyPath, RecipeError
from .schema import Recipe

if TYPE_CHECKING:
    from torch import nn

    from robustreg.data import Splits


def build_net(recipe: Recipe, shape: tuple[int, ...], classes: int, builder: Builder) -> nn.Module:
    """The recipe's network for samples of `shape`, with the initial weights of the recipe's seed."""
    from robustreg import models

    options = named_options("model", recipe.model.name, recipe.model.options, builder)
    publish("model")
    modules = [entry for entry in recipe.imports if not user_modules.is_file(entry)]
    files = {
        Path(e).name: user_modules.module_name(Path(e)) for e in recipe.imports if user_modules.is_file(e)
    }
    source, colon, function = recipe.model.name.partition(":")
    try:
        return models.build(
            f"{files.get(source, source)}{colon}{function}",
            shape=shape,
            seed=recipe.seed,
            allow_modules=[*modules, *files.values()],
            **{"num_classes": classes, **options},
        )
    except (ValueError, TypeError) as error:
        told = str(error)
        for file, module in files.items():  # under the name that the recipe has for it
            told = told.replace(module, file)
        return builder.refuse(("model",), f"cannot be built: {told}")


def start_from(net: nn.Module, run: str, path: KeyPath, builder: Builder) -> None:
    """Put the weights that another run has trained into `net`, which must be of the same shape."""
    from robustreg.training.checkpoint import CheckpointError, load_weights

    folder, recipe = _finished(run, path, builder)
    try:
        load_weights(net, folder / "checkpoints" / recipe.evaluation.checkpoint)
    except CheckpointError as error:
        builder.refuse(path, f"cannot start from {run}: {error}")


def trained_net(run: str, splits: Splits, path: KeyPath, builder: Builder) -> nn.Module:
    """The network that another run has trained, fixed and in evaluation mode, for the samples of `splits`."""
    folder, recipe = _finished(run, path, builder)
    data: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))["data"]
    theirs = (tuple(data["shape"]), len(data["classes"]))
    ours = (splits.train.shape, splits.train.num_classes)
    if theirs != ours:
        said = [f"samples {list(shape)} of {classes} classes" for shape, classes in (theirs, ours)]
        builder.refuse(path, f"names the run {run} for {said[0]}, but this recipe's are {said[1]}")
    user_modules.load(recipe.imports)
    net = build_net(recipe, *theirs, builder)
    start_from(net, run, path, builder)
    return net.eval().requires_grad_(False)


def _finished(run: str, path: KeyPath, builder: Builder) -> tuple[Path, Recipe]:
    """The folder of another run and its recipe, or a noted problem where nothing was trained in it."""
    from .loading import load_recipe

    folder = Path(run)
    needed = (folder / "recipe.yaml", folder / "run.json", folder / "checkpoints")
    if not all(part.exists() for part in needed):
        how = f"train one first, with `robustreg train RECIPE --run-dir {run}`"
        builder.refuse(path, f"names the run {run}, but there is no trained network in {folder}; {how}")
    try:
        return folder, load_recipe(folder / "recipe.yaml")
    except RecipeError as error:
        return builder.refuse(path, f"names the run {run}, whose recipe cannot be used: {error.problems[0]}")
