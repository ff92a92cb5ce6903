"""Training: a short loop on Lightning Fabric, and handlers for all that is not the loop.

    result = train(net, objective, splits, run_dir="runs/first", epochs=10, optimizer={"name": "adam"})

or, piece by piece, `Trainer(module, optimizer, loader, epochs=10, handlers=[...]).fit()`.

Names are imported when first used, so that reading a checkpoint does not load Lightning.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustreg.training.averaging import EMA, SWA
    from robustreg.training.checkpoint import Checkpoint, CheckpointError, load_weights, resume
    from robustreg.training.clipping import ClipGradients
    from robustreg.training.constraints import Constraints
    from robustreg.training.guards import NaNGuard, TrainingStopped
    from robustreg.training.handler import Handler
    from robustreg.training.interrupt import Interrupt
    from robustreg.training.last_good import LastGood
    from robustreg.training.loggers import build_logger
    from robustreg.training.logging import MetricsLog
    from robustreg.training.loop import Trainer
    from robustreg.training.optim import build_optimizer, build_schedule
    from robustreg.training.overfitting import CatastrophicOverfittingGuard
    from robustreg.training.progress import ProgressBar
    from robustreg.training.record import RunRecord
    from robustreg.training.run import RunExists, RunResult, train
    from robustreg.training.timing import StepTimer
    from robustreg.training.validation import Validation
    from robustreg.training.weight_perturbation import AWP

__all__ = [
    "AWP",
    "EMA",
    "SWA",
    "CatastrophicOverfittingGuard",
    "Checkpoint",
    "CheckpointError",
    "ClipGradients",
    "Constraints",
    "Handler",
    "Interrupt",
    "LastGood",
    "MetricsLog",
    "NaNGuard",
    "ProgressBar",
    "RunExists",
    "RunRecord",
    "RunResult",
    "StepTimer",
    "Trainer",
    "TrainingStopped",
    "Validation",
    "build_logger",
    "build_optimizer",
    "build_schedule",
    "load_weights",
    "resume",
    "train",
]

_HOMES = {
    "AWP": "weight_perturbation",
    "EMA": "averaging",
    "SWA": "averaging",
    "CatastrophicOverfittingGuard": "overfitting",
    "Checkpoint": "checkpoint",
    "CheckpointError": "checkpoint",
    "load_weights": "checkpoint",
    "resume": "checkpoint",
    "ClipGradients": "clipping",
    "Constraints": "constraints",
    "NaNGuard": "guards",
    "TrainingStopped": "guards",
    "Handler": "handler",
    "Interrupt": "interrupt",
    "LastGood": "last_good",
    "build_logger": "loggers",
    "MetricsLog": "logging",
    "Trainer": "loop",
    "build_optimizer": "optim",
    "build_schedule": "optim",
    "ProgressBar": "progress",
    "RunRecord": "record",
    "RunExists": "run",
    "RunResult": "run",
    "train": "run",
    "StepTimer": "timing",
    "Validation": "validation",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
