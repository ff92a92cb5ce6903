"""What a run is made of: training, evaluation, examples. `train`, `compare` and `demo` are built from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .terminal import UsageError, console

if TYPE_CHECKING:
    from torch import nn

    from robustreg.config import Built, Recipe
    from robustreg.data import ArrayData
    from robustreg.evaluation import Evaluation
    from robustreg.training.run import RunResult

RECIPE_FILE = "recipe.yaml"
EVIDENCE = Path("evaluation") / "evidence"
ELSEWHERE = "_elsewhere"  # the recipe that those of adopted networks extend
ADOPTED = """\
# A network that was trained elsewhere, of which `robustreg adopt` made this run: how to look at it, and nothing of its
# training.
"""
OF_A_NETWORK = ("name", "seed", "imports", "threat", "data", "model", "evaluation")


@dataclass(frozen=True)
class Setting:
    """Where and how commands run, which is no part of a recipe."""

    data_dir: Path | None = None
    device: str = "auto"
    threads: int | None = None
    progress: bool = True


def train_run(recipe: Recipe, folder: Path, setting: Setting, *, resume: bool = False) -> RunResult:
    """Train what the recipe says in `folder`, after writing the resolved recipe there."""
    from robustreg.config import build
    from robustreg.evaluation.crafting import warn_if_it_covers_the_box
    from robustreg.files import write_text_atomic
    from robustreg.training.processes import is_first
    from robustreg.training.run import train

    train_needed(recipe, folder, setting)
    built = build(recipe, data_dir=setting.data_dir, beside=folder.parent)
    warn_if_it_covers_the_box(built.threat, built.splits.test.x)
    if is_first() and not (folder / RECIPE_FILE).is_file():
        write_text_atomic(folder / RECIPE_FILE, recipe_text(recipe))
    return train(
        built.net,
        built.objective,
        built.splits,
        run_dir=folder,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        optimizer=_as_mapping(recipe.optimizer),
        schedule=_as_mapping(recipe.schedule),
        name=recipe.name,
        seed=recipe.seed,
        augment=recipe.augment,
        threat=built.threat,
        attack=built.validation_attack,
        validate_every=recipe.validation.every,
        ema=recipe.ema,
        swa=recipe.swa,
        clip=recipe.clip,
        awp=None if recipe.awp is None else recipe.awp.model_dump(),
        overfitting_guard=None if recipe.overfitting_guard is None else recipe.overfitting_guard.model_dump(),
        precision=recipe.precision,
        device=setting.device,
        threads=setting.threads,
        log_every=recipe.logging.every,
        loggers=recipe.logging.loggers,
        save_every=recipe.save_every,
        resume=resume,
        how_to_resume=f"`robustreg train {folder} --resume` goes on from there.",
        progress=setting.progress,
        model=_as_mapping(recipe.model),
    )


def train_needed(recipe: Recipe, folder: Path, setting: Setting) -> None:
    """Train the recipes that this one needs, beside its `folder`, unless they are there."""
    from robustreg.config import folder_of, needed
    from robustreg.training.processes import is_first

    for other in needed(recipe):
        own = folder_of(other, folder.parent)
        if status_of(own) == "finished":
            continue
        if is_first():
            console().print(f"first: training {other.name}, which {recipe.name} needs: {own}")
        result = train_run(other, own, setting, resume=(own / "checkpoints" / "last").is_dir())
        if result.status != "finished":
            raise UsageError(
                f"{own}, which {recipe.name} needs, stopped at step {result.step} of {result.total}; "
                "the same command goes on from there"
            )


def evaluate_run(recipe: Recipe, folder: Path, setting: Setting, *, built: Built | None = None) -> Evaluation:
    """Attack the run's trained network as the recipe says; leaves results, evidence and examples in `folder`."""
    from robustreg.config import build
    from robustreg.evaluation import evaluate
    from robustreg.files import write_text_atomic

    set_threads(setting)
    built = build(recipe, data_dir=setting.data_dir, other_runs=False) if built is None else built
    net = load_net(built, folder, setting)
    test = test_samples(built)
    evaluation = evaluate(
        net,
        test,
        built.attacks,
        built.threat,
        seed=recipe.evaluation.seed,
        batch_size=recipe.evaluation.batch_size,
        evidence_dir=folder / EVIDENCE,
        curve=recipe.evaluation.curve,
        curve_samples=recipe.evaluation.curve_samples,
        distances=built.distances,
        distance_samples=recipe.evaluation.distance_samples,
        precision=recipe.evaluation.precision,
        progress=setting.progress or None,
    )
    try:
        evaluation.save(folder / "evaluation")
        # The overrides of `evaluate` are not the run's, and `verify` must look at what was evaluated.
        write_text_atomic(folder / "evaluation" / RECIPE_FILE, recipe_text(recipe, is_adopted(folder)))
    except OSError as error:  # a full disk must not cost what hours have measured
        console().print(f"\n{evaluation.table()}\n", markup=False)
        raise OSError(f"the results above cannot be written: {error}") from error
    _save_examples(folder, net, test, built)
    return evaluation


def test_samples(built: Built) -> ArrayData:
    """The test samples that the recipe evaluates on."""
    test, wanted = built.splits.test.floats(), built.recipe.evaluation.samples
    return test if wanted is None else test.take(min(wanted, len(test)))


def load_net(built: Built, folder: Path, setting: Setting) -> nn.Module:
    """The run's trained network in eval mode, on the device that was asked for.

    Raises:
        UsageError: the run has no such checkpoint.
        CheckpointError: it is damaged or of another model.
    """
    from robustreg.files import settled_folder
    from robustreg.training.checkpoint import load_weights

    which = built.recipe.evaluation.checkpoint
    checkpoint = folder / "checkpoints" / which
    if which == "best" and built.splits.validation is None:
        raise UsageError("`evaluation.checkpoint: best` needs a validation split, but `validation.size` is 0")
    if not settled_folder(checkpoint).is_dir():
        raise UsageError(f"{folder} has no trained network yet: there is no {checkpoint}")
    load_weights(built.net, checkpoint)
    return built.net.eval().to(torch_device(setting.device))


def torch_device(name: str) -> str:
    """`auto` as training understands it: the accelerator if there is one."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda' was asked for, but torch finds no CUDA device")
    if name not in ("cpu", "cuda"):
        raise UsageError(f"--device should be auto, cpu or cuda, but is {name!r}")
    return name


def set_threads(setting: Setting) -> None:
    """CPU threads for torch, where the user said how many."""
    if setting.threads is not None:
        import torch

        torch.set_num_threads(setting.threads)


def recipe_of(folder: Path, overrides: list[str] | None = None, imports: list[str] | None = None) -> Recipe:
    """The recipe that a run folder, or its evaluation folder, was made with."""
    from robustreg.config import load_recipe

    if not (folder / RECIPE_FILE).is_file():
        raise UsageError(f"{folder} is no run folder: it has no {RECIPE_FILE}")
    return load_recipe(folder / RECIPE_FILE, overrides or (), imports=imports or ())


def recipe_text(recipe: Recipe, adopted: bool = False) -> str:
    """RUN/recipe.yaml: every key, defaults included; without those of training where that was done elsewhere."""
    if adopted:
        import yaml

        content = {"extends": ELSEWHERE} | {k: v for k, v in recipe.to_dict().items() if k in OF_A_NETWORK}
        return f"{ADOPTED}{yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}"
    said = "# The fully resolved recipe of this run; `robustreg train` with this file makes it again.\n"
    return f"{said}{recipe.to_yaml()}"


def is_evaluated(folder: Path) -> bool:
    """Whether the run was trained to its end and evaluated."""
    return status_of(folder) == "finished" and (folder / "evaluation" / "evaluation.json").is_file()


def status_of(folder: Path) -> str | None:
    """The run's status from run.json; None where there is none to be read."""
    content = _run_json(folder)
    return None if content is None else str(content.get("status"))


def is_adopted(folder: Path) -> bool:
    """Whether the folder is a run of a network that was trained elsewhere."""
    return (_run_json(folder) or {}).get("trained") == "elsewhere"


def refuse_adopted(recipe: str) -> None:
    """Raise UsageError where what should be trained is a run of a network that was trained elsewhere, or its recipe."""
    given = Path(recipe).parent if Path(recipe).is_file() else Path(recipe)
    if is_adopted(given):
        raise UsageError(
            f"{given} holds a network that was trained elsewhere, and no recipe of its training; "
            f"`robustreg train RECIPE start={given}` with its `model` starts another from its weights"
        )


def _run_json(folder: Path) -> dict[str, Any] | None:
    from robustreg.files import read_json

    try:
        content = read_json(folder / "run.json")
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _save_examples(folder: Path, net: nn.Module, test: ArrayData, built: Built) -> None:
    if len(built.splits.train.shape) != 3:
        return  # pictures are of images
    try:
        from robustreg.report import save_examples
    except ModuleNotFoundError:
        return  # the report's extra is not installed; the run is complete without
    save_examples(folder, net, test, built.threat)


def _as_mapping(section: Any) -> dict[str, Any]:
    return {"name": section.name, **section.options}
