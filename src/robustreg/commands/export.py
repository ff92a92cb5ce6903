"""`robustreg export`: a trained run as weights, network description and a model card for RobustBench."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .terminal import UsageError, console

if TYPE_CHECKING:
    from robustreg.config import Built
    from robustreg.evaluation import Evaluation, Score
    from robustreg.integrations import ModelCard, Network

ARCHITECTURES = {
    "resnet18": "ResNet-18",
    "preact_resnet18": "PreActResNet-18",
    "wrn28_10": "WideResNet-28-10",
    "wrn34_10": "WideResNet-34-10",
}


def export(
    run: options.RunFolder,
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Where to write.", show_default=False)],
    name: Annotated[
        str | None,
        typer.Option("--name", help="The model's name, as Carmon2019Unlabeled; by default the recipe's."),
    ] = None,
    title: Annotated[str, typer.Option("--title", help="The paper's title.")] = "",
    authors: Annotated[str, typer.Option("--authors", help="The paper's authors.")] = "",
    link: Annotated[str, typer.Option("--link", help="The paper's address.")] = "",
    venue: Annotated[str, typer.Option("--venue", help="Where and when it appeared.")] = "",
    additional_data: Annotated[
        bool, typer.Option("--additional-data", help="It was trained on data beyond the data set.")
    ] = False,
    data_dir: options.DataDir = None,
    imports: options.Imports = None,
) -> None:
    """Export a run's network for inputs in [0, 1], and what it reached, in RobustBench's layout.

    `robustreg.integrations.load_exported(FOLDER)` gives the network back.
    """
    from robustreg.config import build
    from robustreg.evaluation import Evaluation
    from robustreg.integrations import export_model

    from . import workflow

    recipe = workflow.recipe_of(run, imports=imports)
    if not workflow.is_evaluated(run):
        raise UsageError(f"{run} is not trained and evaluated yet, so there is nothing to put on a card")
    if (run / "evaluation" / workflow.RECIPE_FILE).is_file():  # what was evaluated, with its overrides
        recipe = workflow.recipe_of(run / "evaluation", imports=imports)
    built = build(recipe, data_dir=data_dir, other_runs=False)
    net = workflow.load_net(built, run, workflow.Setting(data_dir, "cpu"))
    about = {
        "name": title,
        "authors": authors,
        "link": link,
        "venue": venue,
        "additional_data": additional_data,
    }
    evaluation = Evaluation.load(run / "evaluation")
    card = _card(name or recipe.name, built, evaluation, about)
    weights = export_model(net, _network(built), card, to)
    out = console()
    out.print(f"weights: {weights}", markup=False)
    out.print(
        f"card:    {to / 'model_info' / card.dataset / card.norm / f'{card.identifier}.json'}", markup=False
    )
    for note in _notes(card):
        out.print(note, markup=False)


def _network(built: Built) -> Network:
    from robustreg.config import imports as user_modules
    from robustreg.integrations import Network

    recipe = built.recipe
    home, colon, function = recipe.model.name.partition(":")
    if colon and user_modules.is_file(home):
        module = home.removesuffix(".py")
        raise UsageError(
            f"{recipe.model.name} is built by a file, which others cannot import: make the run again with "
            f"{module}:{function}, in the folder of {home}"
        )
    return Network(
        name=recipe.model.name,
        shape=tuple(built.splits.train.shape),
        num_classes=built.splits.train.num_classes,
        options=recipe.model.options,
        modules=tuple(entry for entry in recipe.imports if not user_modules.is_file(entry)),
        bounds=_box(built),
    )


def _box(built: Built) -> tuple[float, float]:
    bounds = built.threat.bounds
    if bounds is None or not all(isinstance(side, (int, float)) for side in bounds):
        raise UsageError(f"RobustBench's networks take inputs in [0, 1], but this run's box is {bounds}")
    return float(bounds[0]), float(bounds[1])


def _card(identifier: str, built: Built, evaluation: Evaluation, about: dict[str, Any]) -> ModelCard:
    from robustreg.integrations import ModelCard
    from robustreg.integrations.robustbench import norm_folder

    low, high = _box(built)
    worst, ensemble = evaluation.worst_case, _standard_ensemble(built, evaluation)
    return ModelCard(
        identifier=identifier,
        norm=norm_folder(evaluation.threat),
        dataset=built.recipe.data.name,
        architecture=ARCHITECTURES.get(built.recipe.model.name, built.recipe.model.name),
        eps=evaluation.threat.eps / (high - low),
        clean_acc=evaluation.clean.accuracy,
        reported=None if worst is None else worst.accuracy,
        autoattack_acc=None if ensemble is None else ensemble.accuracy,
        footnote=_footnote(evaluation),
        **about,
    )


def _standard_ensemble(built: Built, evaluation: Evaluation) -> Score | None:
    """The accuracy under the standard ensemble at the evaluation's own radius, where it was measured."""
    from robustreg.attacks import StandardEnsemble

    for result in evaluation.counted:
        attack = built.attacks.get(result.name)
        if isinstance(attack, StandardEnsemble) and attack == StandardEnsemble(evaluation.threat):
            return result.score
    return None


def _footnote(evaluation: Evaluation) -> str:
    """What the accuracies are: of this library's attacks, on so many samples."""
    from robustreg import __version__

    attacks = ", ".join(result.name for result in evaluation.counted) or "no attack"
    return f"Robust accuracy under {attacks} of robustreg {__version__} on {evaluation.n} test samples."


def _notes(card: ModelCard) -> list[str]:
    """What is left to do before the card can be submitted."""
    from robustreg.integrations.robustbench import NORMS

    notes = []
    empty = [key for key in ("name", "authors", "link", "venue") if not getattr(card, key)]
    if empty:
        options = ", ".join("--title" if key == "name" else f"--{key}" for key in empty)
        notes.append(f"still empty on the card: {', '.join(empty)} (see {options})")
    if card.autoattack_acc is None:
        notes.append(
            "no autoattack_acc: the standard ensemble was not run; "
            "`robustreg evaluate RUN 'evaluation.attacks=[standard_ensemble]'` does that"
        )
    if card.norm not in NORMS:
        notes.append(f"RobustBench has the threats {' and '.join(NORMS)}; this run's is {card.norm}")
    return notes
