"""`robustreg adopt`: a run folder for a network that was trained elsewhere, on which all other commands work."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .terminal import UsageError, console

if TYPE_CHECKING:
    from torch import nn

    from robustreg.config import Built, Recipe

RUNS = Path("runs")
ATTACKS = ["fgsm", {"attack": "pgd", "steps": 50, "restarts": 2}]


def adopt(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="What makes the network: FILE.py:FUNCTION, MODULE:FUNCTION, the name of a network that is in, or a "
            "folder that `export` wrote.",
            show_default=False,
        ),
    ],
    overrides: options.Overrides = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            help="Its state dict, of torch.save or in safetensors; not needed where MODEL brings its own.",
            show_default=False,
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            help="Where in the file they are, as state_dict.ema; needed where they are there several times.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="A data set by name, or an .npz file of arrays; digits by default.",
            show_default=False,
        ),
    ] = None,
    threat: Annotated[
        str | None,
        typer.Option(
            "--threat",
            metavar="NORM:EPS",
            help="What it should withstand, as linf:8/255.",
            show_default=False,
        ),
    ] = None,
    normalize: Annotated[
        str | None,
        typer.Option(
            "--normalize",
            metavar="NAME",
            help="Standardise its inputs first, by the statistics of this data set.",
            show_default=False,
        ),
    ] = None,
    run_dir: options.RunDir = None,
    data_dir: options.DataDir = None,
    imports: options.Imports = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
) -> None:
    """Make a run of a network that was trained elsewhere, so that all other commands work on it.

    The weights are put into the network and it is run on the test samples at once: what does not fit is told now, and
    the clean accuracy is printed. Overrides set everything else of a recipe, such as `model.width=64
    evaluation.samples=1000 threat.bounds=[-1,1]`.
    """
    from robustreg.config import build
    from robustreg.config.loading import recipe_from

    from . import workflow

    setting = workflow.Setting(data_dir, device, threads)
    workflow.set_threads(setting)
    where = workflow.torch_device(device)
    source = _source(model, weights)
    content = _content(_as_name(source, run_dir), source, data, threat, normalize)
    listed = [*source.imports, *(imports or [])]
    recipe = recipe_from(content, {}, f"the run of {model}", Path.cwd(), overrides or (), listed)
    folder = _folder(run_dir, recipe)
    built = build(recipe, data_dir=data_dir, other_runs=False)
    taken = _load(built.net, source, key)
    found = _try_out(built.net.eval().to(where), built)
    _write(folder, recipe, built, taken)
    out = console()
    out.print(f"{found}\n\nrun:      {folder}", markup=False)
    out.print(f"evaluate: robustreg evaluate {folder}", markup=False)
    out.print(f"audit:    robustreg audit {folder}", markup=False)


@dataclass(frozen=True)
class _Source:
    """Where the network is from: the recipe's `model`, what that imports, its weights, and its inputs' range."""

    model: dict[str, Any]
    imports: tuple[str, ...] = ()
    weights: Path | None = None
    bounds: tuple[float, float] = (0.0, 1.0)


def _source(model: str, weights: Path | None) -> _Source:
    from robustreg.integrations.exporting import read_exported
    from robustreg.registry import names, suggestion

    if Path(model).is_dir():
        if weights is not None:
            raise UsageError(f"{model} is a folder that holds its weights: leave --weights out")
        network, file = read_exported(model)
        return _Source({"name": network.name, **network.options}, network.modules, file, network.bounds)
    home, colon, function = model.rpartition(":")
    code = home if colon else model
    if code.endswith(".py") and not Path(code).is_file():
        raise UsageError(f"there is no file {code}")
    if code.endswith(".py") and not colon:
        raise UsageError(f"say which function of {code} makes the network: {code}:FUNCTION")
    if not colon:
        if model not in names("model"):
            raise UsageError(
                f"MODEL should be FILE.py:FUNCTION, MODULE:FUNCTION, a network that is in or a folder of `export`, "
                f"but is {model!r}{suggestion(model, names('model'))}"
            )
        if weights is None:
            raise UsageError(f"the network {model} has no weights yet: say where they are with --weights")
        return _Source({"name": model}, weights=weights)
    # A recipe names a file as --import does: where it lies is said in one place only.
    name = Path(home).name if home.endswith(".py") else home
    return _Source({"name": f"{name}:{function}"}, (home,), weights)


def _content(
    name: str, source: _Source, data: str | None, threat: str | None, normalize: str | None
) -> dict[str, Any]:
    from . import workflow

    content: dict[str, Any] = {
        "name": name,
        "extends": workflow.ELSEWHERE,
        "model": {**source.model, **({} if normalize is None else {"normalize": normalize})},
        "threat": {**_threat(threat), "bounds": list(source.bounds)},
        "evaluation": {"attacks": ATTACKS},
    }
    if data is not None:
        is_file = data.endswith(".npz")
        content["data"] = {"name": "arrays", "path": str(Path(data).resolve())} if is_file else {"name": data}
    return content


def _as_name(source: _Source, run_dir: Path | None) -> str:
    """The folder's name, the weights' or the function's: letters, digits, `_`, `-` and `.`, as names of runs are."""
    name = source.model["name"].rpartition(":")[2] if source.weights is None else source.weights.stem
    name = name if run_dir is None else run_dir.resolve().name
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name).lstrip("_.-") or "adopted"


def _threat(text: str | None) -> dict[str, Any]:
    from fractions import Fraction

    if text is None:
        raise UsageError("say what the network should withstand with --threat, such as --threat linf:8/255")
    norm, colon, eps = text.partition(":")
    try:
        radius = float(Fraction(eps.strip()))
    except (ValueError, ArithmeticError):
        colon = ""
    if not colon:
        raise UsageError(f"--threat should be NORM:EPS, such as linf:8/255 or l2:0.5, but is {text!r}")
    return {"norm": norm.strip(), "eps": radius}


def _folder(run_dir: Path | None, recipe: Recipe) -> Path:
    folder = RUNS / recipe.name if run_dir is None else run_dir
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already; name another folder with --run-dir")
    return folder


def _load(net: nn.Module, source: _Source, key: str | None) -> dict[str, Any] | None:
    """Put the weights into the network; what run.json tells of them."""
    from robustreg.files import sha256_file
    from robustreg.integrations.state_files import load_state, read_state

    if source.weights is None:
        if key is not None:
            raise UsageError("--key is of a file of weights: say which with --weights")
        return None
    if any(parameter.is_meta for parameter in net.parameters()):
        raise UsageError(
            "the network is on the device 'meta', where tensors have no values: let it be made on the CPU"
        )
    place = load_state(net, read_state(source.weights), f"the weights in {source.weights}", key)
    return {"file": source.weights.name, "sha256": sha256_file(source.weights), "key": place or None}


def _try_out(net: nn.Module, built: Built) -> str:
    """The network on the test samples: refused where its logits make no sense, else its clean accuracy in words."""
    import warnings

    import torch

    from robustreg.evaluation import wilson
    from robustreg.evaluation.crafting import warn_if_it_covers_the_box
    from robustreg.evaluation.predict import (
        check_clean_logits,
        correct,
        logits_by_batch,
        model_device,
        warn_if_probabilities,
    )

    from . import workflow

    test = workflow.test_samples(built)
    built.threat.check_input(test.x)
    warn_if_it_covers_the_box(built.threat, test.x)
    x = test.x.to(model_device(net))
    logits = logits_by_batch(net, x, built.recipe.evaluation.batch_size).cpu()
    classes = built.splits.test.num_classes
    if logits.shape[1] < classes:
        raise UsageError(f"the network has {logits.shape[1]} classes, but the data have {classes}")
    if logits.shape[1] > classes:
        warnings.warn(f"the network has {logits.shape[1]} classes, the data only {classes}", stacklevel=2)
    check_clean_logits(logits)
    warn_if_probabilities(logits)
    right, n = int(correct(logits, test.y).sum()), len(test)
    low, high = wilson(right, n)
    if low <= float(torch.bincount(test.y).max()) / n:
        warnings.warn(
            f"the clean accuracy of {right / n:.1%} is no better than guessing: are the inputs scaled and standardised "
            "as in training (--normalize), are the channels and classes in the same order, and are these its weights?",
            stacklevel=2,
        )
    return (
        f"clean accuracy {100 * right / n:.2f} % [{100 * low:.2f}, {100 * high:.2f}] on {n} test samples; it should be "
        "what was measured where the network was trained"
    )


def _write(folder: Path, recipe: Recipe, built: Built, taken: dict[str, Any] | None) -> None:
    """The run folder as training leaves it; the two files that make it one come last."""
    from datetime import datetime, timezone

    from robustreg.files import write_json_atomic, write_text_atomic
    from robustreg.training.checkpoint import write_weights
    from robustreg.training.record import versions

    from . import workflow

    write_weights(folder / "checkpoints" / "last", built.net)
    write_json_atomic(
        folder / "run.json",
        {
            "name": recipe.name,
            "seed": recipe.seed,
            "status": "finished",
            "trained": "elsewhere",
            "adopted": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "weights": taken,
            "data": built.splits.describe(),
            "model": {"name": recipe.model.name, **recipe.model.options},
            "threat": built.threat.to_dict(),
            "parameters": sum(p.numel() for p in built.net.parameters()),
            "versions": versions(),
        },
    )
    write_text_atomic(folder / workflow.RECIPE_FILE, workflow.recipe_text(recipe, adopted=True))
