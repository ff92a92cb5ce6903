"""run.json: what a run is, with which versions it ran, and how it ended."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import lightning_fabric
import numpy
import torch

import robustreg
from robustreg.files import PathLike, read_json, write_json_atomic
from robustreg.training.handler import Handler
from robustreg.training.timing import StepTimer

if TYPE_CHECKING:
    from robustreg.training.loop import Trainer


class RunRecord(Handler):
    """Writes `run.json` at the start ("running") and at the end ("finished", "interrupted", "failed").

    A killed run is left "running". A resume keeps `started` and adds to `resumed`.

    Args:
        path: the file.
        facts: what the caller knows: name, seed, data, model, threat, ...
        timer: whose step times to add.
    """

    order: ClassVar[int] = 60  # the status is told when everything it speaks of is on the disk

    def __init__(self, path: PathLike, facts: Mapping[str, Any], timer: StepTimer | None = None) -> None:
        self.path, self.facts, self.timer = Path(path), dict(facts), timer
        self._record: dict[str, Any] = {}

    def start(self, trainer: Trainer) -> None:
        """Status "running"."""
        before = read_json(self.path) if trainer.step > 0 and self.path.exists() else {}
        self._record = {
            **self.facts,
            "status": "running",
            "started": before.get("started", _now()),
            "resumed": [*before.get("resumed", []), *([_now()] if before else [])],
            "finished": None,
            "versions": versions(),
            "device": str(trainer.fabric.device),
            "precision": trainer.fabric._precision.precision,
            "threads": torch.get_num_threads(),
            "processes": trainer.fabric.world_size,
            "parameters": sum(p.numel() for p in trainer.module.net.parameters()),
            "steps": trainer.total,
            "step_seconds": before.get("step_seconds", {"median": None, "count": 0}),
        }
        self._write(trainer)

    def end(self, trainer: Trainer) -> None:
        """How it ended, and how long a step took."""
        if not self._record:  # it failed before it started
            return
        self._record.update(status=trainer.status, finished=_now(), step=trainer.step)
        self._record["validation"] = trainer.scores or None
        if trainer.error is not None:
            self._record["error"] = str(trainer.error) or type(trainer.error).__name__
        if self.timer is not None and self.timer.summary()["count"]:
            self._record["step_seconds"] = self.timer.summary()
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        if trainer.fabric.is_global_zero:
            write_json_atomic(self.path, self._record)


def versions() -> dict[str, str]:
    """Versions of everything that the numbers may depend on."""
    return {
        "robustreg": robustreg.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "lightning_fabric": str(getattr(lightning_fabric, "__version__", "unknown")),
        "platform": platform.platform(),
    }


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
