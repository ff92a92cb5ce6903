"""`build`: from a recipe to the objects that training and evaluation take."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustreg.registry import components

from . import imports as user_modules
from .checks import named_options
from .components import Builder, Invalid
from .needed import folder_of, needed_recipe
from .networks import build_net, start_from, trained_net
from .objective import build_objective
from .problems import KeyPath, Problems
from .schema import Recipe, Spec

if TYPE_CHECKING:
    from torch import nn

    from robustreg.attacks import MinimalNorm
    from robustreg.data import Splits
    from robustreg.objective import Objective
    from robustreg.points import Point
    from robustreg.threat import Threat


@dataclass(frozen=True)
class Built:
    """The objects behind a recipe.

    Attributes:
        recipe: what they were built from.
        splits: training, validation and test samples.
        net: the network with its initial weights, `[B, ...]` to logits `[B, C]`.
        objective: what is minimised.
        threat: which perturbations count.
        validation_attack: for robust accuracy on the validation split; None for clean accuracy only.
        attacks: what is measured on the test set, by name.
        distances: attacks that look there for the nearest misclassified points, by name.
    """

    recipe: Recipe
    splits: Splits
    net: nn.Module
    objective: Objective
    threat: Threat
    validation_attack: Point | None
    attacks: dict[str, Point]
    distances: dict[str, MinimalNorm]


def build(
    recipe: Recipe,
    *,
    data_dir: str | PathLike[str] | None = None,
    other_runs: bool = True,
    beside: str | PathLike[str] = "runs",
) -> Built:
    """Build everything a recipe names, data included.

    Args:
        recipe: a checked recipe.
        data_dir: folder to look for data files in first.
        other_runs: also load what other runs have trained, the weights that training starts from and helper
            networks. Without them the objective can be looked at and the network evaluated, not trained.
        beside: the folder of the runs, where the recipes that this one needs have been trained.

    Raises:
        RecipeError: something that only building could tell.
        DataError, DataNotFound: files that are missing or are not what they claim to be.
    """
    user_modules.load(recipe.imports)
    problems = Problems(f"the recipe {recipe.name}")
    builder = Builder(None, problems)
    built: Any = None
    try:
        builder.threat = builder.make_threat(recipe.threat.model_dump(), ("threat",))
        splits = _splits(recipe, builder, data_dir)
        if other_runs:
            builder.network = lambda spec, path: trained_net(
                _run_of(spec, path, recipe, Path(beside)), splits, path, builder
            )
        objective = build_objective(recipe.objective.model_dump(), builder)
        validation = recipe.validation.attack
        attack = None if validation is None else builder.attack(validation, ("validation", "attack"))
        attacks = build_attacks(recipe, builder)
        nearest = _by_name(recipe.evaluation.distances, "distances", builder.nearest, builder)
        net = build_net(recipe, splits.train.shape, splits.train.num_classes, builder)
        if recipe.start is not None and other_runs:
            spec = {"run": recipe.start} if isinstance(recipe.start, str) else recipe.start
            run = _run_of(spec, ("start", "recipe"), recipe, Path(beside))
            start_from(net, run, ("start",), builder)
        built = Built(recipe, splits, net, objective, builder.threat, attack, attacks, nearest)
    except Invalid:
        problems.raise_if_any()
        raise
    assert isinstance(built, Built)
    return built


def _run_of(spec: dict[str, Any], path: KeyPath, recipe: Recipe, beside: Path) -> str:
    """The folder of the run that trained a network, which was written as `{run: FOLDER}` or `{recipe: NAME}`."""
    if "run" in spec:
        return str(spec["run"])
    return str(folder_of(needed_recipe(spec, path[:-1], recipe), beside))


def build_attacks(recipe: Recipe, builder: Builder) -> dict[str, Point]:
    """The evaluation's attacks by name."""
    return _by_name(recipe.evaluation.attacks, "attacks", builder.attack, builder)


def _by_name(
    listed: list[Spec], key: str, make: Callable[[Spec, KeyPath], Any], builder: Builder
) -> dict[str, Any]:
    """The attacks under a key of the evaluation by name; those of one kind are told apart by their options."""
    specs = [
        {"attack": spec}
        if isinstance(spec, str)
        else {("attack" if k == "point" else k): v for k, v in spec.items()}
        for spec in listed
    ]
    often = Counter(spec.get("attack") for spec in specs)
    found: dict[str, Any] = {}
    for index, spec in enumerate(specs):
        point = make(spec, ("evaluation", key, index))
        name = str(spec["attack"])
        if often[name] > 1:
            options = ", ".join(f"{key}={value}" for key, value in spec.items() if key != "attack")
            name = f"{name} {options}".rstrip()
        if name in found:
            builder.refuse(("evaluation", key, index), f"repeats {name}")
        found[name] = point
    return found


def _splits(recipe: Recipe, builder: Builder, data_dir: str | PathLike[str] | None) -> Splits:
    load = components("data")[recipe.data.name]
    supplied = {"data_dir": data_dir, "validation": recipe.validation.size}
    takes = inspect.signature(load).parameters
    given = {key: value for key, value in supplied.items() if key in takes}
    splits: Splits = load(**given, **named_options("data", recipe.data.name, recipe.data.options, builder))
    return splits
