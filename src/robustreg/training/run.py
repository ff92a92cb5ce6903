"""One training run as a folder: the loop with its usual handlers put together."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from robustreg.data import Loader, Splits
from robustreg.files import PathLike, read_json, settled_folder, write_json_atomic
from robustreg.module import ObjectiveModule
from robustreg.objective import Objective
from robustreg.terms import Term
from robustreg.threat import Threat
from robustreg.training import checkpoint, random_state
from robustreg.training.averaging import EMA, SWA
from robustreg.training.checkpoint import Checkpoint
from robustreg.training.clipping import ClipGradients
from robustreg.training.constraints import Constraints
from robustreg.training.guards import NaNGuard
from robustreg.training.handler import Handler
from robustreg.training.interrupt import Interrupt
from robustreg.training.last_good import LastGood
from robustreg.training.loggers import build_logger
from robustreg.training.logging import MetricsLog
from robustreg.training.loop import Trainer
from robustreg.training.optim import build_optimizer, build_schedule
from robustreg.training.overfitting import CatastrophicOverfittingGuard
from robustreg.training.processes import joined, of_many
from robustreg.training.progress import ProgressBar
from robustreg.training.record import RunRecord
from robustreg.training.timing import StepTimer
from robustreg.training.validation import Attack, Validation
from robustreg.training.weight_perturbation import AWP

PRECISIONS = {"32": "32-true", "64": "64-true", "bf16": "bf16-mixed"}

SAVE_PAUSE = 5.0  # seconds between saves where epochs are shorter than that


class RunExists(ValueError):
    """The folder holds a run already, and it was not asked to go on with it."""


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        run_dir: its folder.
        status: "finished" or "interrupted" (a failed run raises).
        step, total: how far it came.
        scores: the last validation: `epoch`, `step`, `clean`, `robust` (fractions); empty without one.
        last, best: checkpoint folders; `best` is None without validation.
        step_seconds: median seconds of a step and the count behind it.
    """

    run_dir: Path
    status: str
    step: int
    total: int
    scores: dict[str, float]
    last: Path
    best: Path | None
    step_seconds: dict[str, Any]


def train(
    net: nn.Module,
    objective: Objective | Term,
    splits: Splits,
    *,
    run_dir: PathLike,
    epochs: int,
    batch_size: int = 64,
    optimizer: Mapping[str, Any],
    schedule: Mapping[str, Any] | None = None,
    name: str | None = None,
    seed: int = 0,
    augment: Sequence[Any] = (),
    drop_last: bool | None = None,
    threat: Threat | None = None,
    attack: Attack | None = None,
    validate_every: int = 1,
    ema: float | None = None,
    swa: float | None = None,
    clip: float | None = None,
    awp: Mapping[str, float] | None = None,
    overfitting_guard: Mapping[str, Any] | None = None,
    precision: str = "32",
    device: str = "auto",
    threads: int | None = None,
    log_every: int = 1,
    loggers: Sequence[str] = (),
    save_every: int = 0,
    resume: bool = False,
    how_to_resume: str = "The same call with resume=True goes on from there.",
    progress: bool = True,
    model: Mapping[str, Any] | None = None,
    handlers: Sequence[Handler] = (),
    fabric: Fabric | None = None,
) -> RunResult:
    """Train `net` in place and leave everything worth keeping in `run_dir`.

    It writes run.json, plan.json, metrics.csv, validation.csv, checkpoints/last and checkpoints/best. The
    test split is never touched.

    Args:
        net: the network, `[B, ...]` in pixel scale to logits `[B, C]`.
        objective: what to minimise.
        splits: training and validation samples.
        run_dir: the run's folder.
        epochs, batch_size: how long, and samples in a batch over all processes.
        optimizer: its `name` and options, see `optim`.
        schedule: of the learning rate: `name` and options, see `schedules`; constant by default.
        name: of the run; the folder's by default.
        seed: of everything random.
        augment: names or functions that `robustreg.data.Loader` knows.
        drop_last: leave out the last batch where it is not full; by default only where it would be one
            sample, which BatchNorm cannot train on.
        threat: noted in run.json.
        attack: for robust accuracy on the validation split, `attack(model, x, y, generator=...)`.
        validate_every: epochs between validations; the end of training always has one.
        ema: decay of an exponential average of the weights.
        swa: fraction of the run after which weights are averaged at every epoch's end (not with `ema`).
        clip: largest l2 norm of the gradient.
        awp: adversarial weight perturbation: its `gamma` and `start`, see `AWP`.
        overfitting_guard: options of `CatastrophicOverfittingGuard`, which looks at the first `samples` (200) of the
            validation split; needs one, and a threat.
        precision: "32", "64" or "bf16" (mixed).
        device: "auto", "cpu" or "cuda".
        threads: CPU threads for torch; None leaves them.
        log_every: steps between rows of metrics.csv. loggers: of "tensorboard", "mlflow", "wandb".
        save_every: steps between saves of `last` inside an epoch; 0: only between epochs.
        resume: go on from `checkpoints/last` if there is one.
        how_to_resume: told after Ctrl-C.
        progress: show it.
        model: described in run.json.
        handlers: more listeners.
        fabric: instead of `device` and `precision`; launched already where it has several processes. Without it a
            process that torchrun started takes part in the training of all.

    Raises:
        RunExists: the folder has a checkpoint and `resume` is False.
        CheckpointError: `resume`, and the checkpoint is damaged or of another run.
        TrainingStopped: numbers went bad; the last good state is in `checkpoints/last_good`.
        ValueError, ModuleNotFoundError: a setting that cannot be, before anything starts.
    """
    folder = Path(run_dir)
    last = folder / "checkpoints" / "last"
    exists = settled_folder(last).exists()
    if exists and not resume:
        raise RunExists(f"{folder} holds a run already: resume it, or choose another folder.")
    if ema is not None and swa is not None:
        raise ValueError("ema and swa both average the weights: give one of them.")
    if overfitting_guard is not None and (splits.validation is None or threat is None):
        raise ValueError("overfitting_guard looks at validation samples under a threat: give both.")
    if threads is not None:
        torch.set_num_threads(threads)
    fabric = build_fabric(device, precision) if fabric is None else fabric

    module = ObjectiveModule(net, objective, seed=seed)
    loader = Loader(
        splits.train,
        batch_size,
        shuffle=True,
        seed=seed,
        device=fabric.device,
        augment=list(augment) or None,
        drop_last=leaves_one(len(splits.train), batch_size) if drop_last is None else drop_last,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        index=module.objective.reads_index,
    )
    schedule = {"name": "constant"} if schedule is None else schedule
    optimiser = build_optimizer(params=net.parameters(), **named("optimizer", optimizer))
    total = epochs * len(loader)
    scheduler = build_schedule(
        optimizer=optimiser, total_steps=total, epochs=epochs, **named("schedule", schedule)
    )
    timer = StepTimer()
    kept = LastGood(folder / "checkpoints" / "last_good")
    facts = {
        "name": name or folder.resolve().name,
        "seed": seed,
        "data": splits.describe(),
        "model": {"class": type(net).__name__} if model is None else dict(model),
        "threat": None if threat is None else threat.to_dict(),
        "objective": repr(module.objective),
        "optimizer": dict(optimizer),
        "schedule": dict(schedule),
        "epochs": epochs,
        "batch_size": batch_size,
    }
    listeners: list[Handler] = [
        NaNGuard(kept),
        kept,
        Constraints(),
        MetricsLog(folder / "metrics.csv", log_every, [build_logger(n, folder) for n in loggers]),
        Checkpoint(folder / "checkpoints", save_every, pause=SAVE_PAUSE),
        Interrupt(how_to_resume),
        RunRecord(folder / "run.json", facts, timer),
        timer,
        *handlers,
    ]
    if clip is not None:
        listeners.append(ClipGradients(clip))
    if awp is not None:
        listeners.append(AWP(**awp))
    if overfitting_guard is not None and threat is not None and splits.validation is not None:
        options = dict(overfitting_guard)
        held_out = splits.validation[: options.pop("samples", 200)]
        listeners.append(CatastrophicOverfittingGuard(*held_out, threat, **options))
    if ema is not None:
        listeners.append(EMA(ema))
    if swa is not None:
        listeners.append(SWA(first_swa_epoch(swa, epochs), lambda: (batch[0] for batch in plain(loader))))
    if splits.validation is not None:
        data = splits.validation.to(fabric.device)
        csv = folder / "validation.csv"
        listeners.append(Validation(data, attack, every=validate_every, seed=seed, path=csv))
    if progress:
        listeners.append(ProgressBar(label=name or ""))

    trainer = Trainer(
        module,
        optimiser,
        loader,
        epochs=epochs,
        scheduler=scheduler,
        fabric=fabric,
        handlers=listeners,
        run_dir=folder,
    )
    random_state.seed_all(seed + fabric.global_rank)
    if exists:
        checkpoint.resume(trainer, last)
    if fabric.is_global_zero:
        write_plan(folder / "plan.json", module.objective, splits, evaluations=1 if awp is None else 2)
    trainer.fit()
    fabric.barrier()  # files are written by the first process
    best = folder / "checkpoints" / "best"
    return RunResult(
        run_dir=folder,
        status=trainer.status,
        step=trainer.step,
        total=trainer.total,
        scores=trainer.scores,
        last=last,
        best=best if best.exists() else None,
        step_seconds=read_json(folder / "run.json")["step_seconds"],
    )


def write_plan(path: Path, objective: Objective, splits: Splits, evaluations: int = 1) -> None:
    """Count a step's passes into plan.json, if the terms can be rehearsed on a stand-in network."""
    try:
        plan = objective.plan(splits.train.shape, splits.train.num_classes, evaluations=evaluations)
    except Exception as error:  # a user's term may know only their own network; training goes without a plan
        warnings.warn(
            f"the objective's passes could not be counted, so there is no {path}: {error}", stacklevel=2
        )
    else:
        write_json_atomic(path, plan.to_dict())


def build_fabric(device: str = "auto", precision: str = "32") -> Fabric:
    """One device, or under DDP one for each of several processes, see `processes`.

    Args:
        device: "auto", "cpu" or "cuda".
        precision: "32", "64" or "bf16" (mixed).
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, but torch finds no CUDA device.")
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, got {device!r}.")
    if of_many():
        return joined(device, PRECISIONS[precision])
    return Fabric(accelerator=device, devices=1, precision=PRECISIONS[precision])  # type: ignore[arg-type]


def first_swa_epoch(fraction: float, epochs: int) -> int:
    """The first epoch (from 1) whose end counts when averaging begins after a fraction of the run."""
    if not 0 <= fraction < 1:
        raise ValueError(f"swa is a fraction of the run in [0, 1), got {fraction}.")
    return int(fraction * epochs) + 1


def named(what: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that must have a name."""
    if "name" not in settings:
        raise ValueError(f"the {what} needs a name, got {dict(settings)!r}.")
    return dict(settings)


def leaves_one(samples: int, batch_size: int) -> bool:
    """Whether the last batch of an epoch would be a single sample, and not the only batch."""
    return 1 < batch_size < samples and samples % batch_size == 1


def plain(loader: Loader) -> Loader:
    """A loader of the same samples without augmentation, which leaves the place of the other one alone."""
    return Loader(
        loader.data,
        loader.batch_size,
        shuffle=loader.shuffle,
        seed=loader.seed,
        drop_last=loader.drop_last,
    )
