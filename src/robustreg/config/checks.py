"""The components that a recipe names, checked by name and signature before anything is built for good."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from .components import Builder, Invalid
from .objective import build_objective
from .problems import KeyPath, Problems


def check_components(content: dict[str, Any], problems: Problems) -> None:
    """Note every component that is unknown or called wrongly; what is no section is left to the schema."""
    from robustreg.threat import Threat

    builder = Builder(None, problems)
    if not problems.within("threat"):
        with suppress(Invalid):
            builder.threat = builder.make_threat(content["threat"], ("threat",))
    if builder.threat is None:  # told already; a stand-in keeps everything under it from repeating it
        builder.threat = Threat("linf", 0.1)
    _objective(content.get("objective"), builder)
    for kind in ("data", "model", "optimizer", "schedule"):
        _named(kind, content.get(kind), builder)
    _augmentations(content.get("augment"), builder)
    for path, spec in _attacks(content):
        with suppress(Invalid):
            builder.nearest(spec, path) if "distances" in path else builder.attack(spec, path)


def _objective(section: Any, builder: Builder) -> None:
    if not isinstance(section, dict) or ("method" in section) == ("terms" in section):
        return
    with suppress(Invalid):
        build_objective(section, builder)


def _augmentations(listed: Any, builder: Builder) -> None:
    from robustreg.data.augment import augmentation

    for index, name in enumerate(listed if isinstance(listed, list) else ()):
        if isinstance(name, str):
            try:
                augmentation(name)
            except ValueError as error:
                sentence = str(error).replace("unknown", "names an unknown", 1)
                builder.problems.add(("augment", index), sentence)


def _named(kind: str, section: Any, builder: Builder) -> None:
    if not isinstance(section, dict) or not isinstance(section.get("name"), str):
        return
    with suppress(Invalid):
        named_options(kind, section["name"], {k: v for k, v in section.items() if k != "name"}, builder)


def named_options(kind: str, name: str, options: dict[str, Any], builder: Builder) -> dict[str, Any]:
    """The checked options of a data set, model, optimizer or learning-rate schedule.

    Raises:
        Invalid: after noting every problem.
    """
    if kind == "model" and ":" in name:  # a function of the user's own module, which checks its own arguments
        return options
    factory = builder.factory(kind, name, (kind,))
    return builder.keywords(factory, name, options, (kind,), supplied=SUPPLIED[kind], also=ALSO.get(kind, ()))


# Parameters that the run supplies, so that a recipe neither needs nor may write them.
SUPPLIED: dict[str, dict[str, str]] = {
    "data": {
        "data_dir": "--data-dir says where the files are",
        "validation": "`validation.size` says how many samples are cut from the training set",
        "download": "files that are nowhere are downloaded",
    },
    "model": {"num_classes": "the data say how many", "seed": "the recipe's own `seed` is the model's"},
    "optimizer": {"params": "they are the model's"},
    "schedule": {
        "total_steps": "`epochs` and `batch_size` say how many steps",
        "epochs": "the recipe's own `epochs` says how many",
    },
}
# What `build_schedule` takes beside the options of the shape, and `models.build` beside those of the network.
ALSO = {"schedule": ("momentum", "momentum_until"), "model": ("channels_last",)}


def _attacks(content: dict[str, Any]) -> list[tuple[KeyPath, Any]]:
    validation, evaluation = content.get("validation"), content.get("evaluation")
    found: list[tuple[KeyPath, Any]] = []
    if isinstance(validation, dict) and validation.get("attack") is not None:
        found.append((("validation", "attack"), validation["attack"]))
    for key in ("attacks", "distances"):
        if isinstance(evaluation, dict) and isinstance(evaluation.get(key), list):
            found += [(("evaluation", key, i), spec) for i, spec in enumerate(evaluation[key])]
    return [(path, spec) for path, spec in found if isinstance(spec, (str, dict))]
