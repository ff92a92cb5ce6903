"""metrics.csv, and the same numbers to any Fabric logger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from lightning_fabric.loggers.logger import Logger

from robustreg.files import PathLike
from robustreg.training.handler import Handler
from robustreg.training.table import Cell, Table

if TYPE_CHECKING:
    from robustreg.training.loop import Trainer


class MetricsLog(Handler):
    """Writes a row `step, epoch, lr, loss, <every term's value>, seconds` every `every` steps.

    `epoch` counts from 1 and is the one the step belongs to. After a resume, rows of later steps are dropped
    first: every step has at most one row. Over several processes the values are means.

    Args:
        path: metrics.csv, or None for loggers only.
        every: steps between rows; the first and the last step always have one.
        loggers: Fabric loggers that get the same numbers, and the validation's.
    """

    order: ClassVar[int] = 40

    def __init__(self, path: PathLike | None, every: int = 1, loggers: Sequence[Logger] = ()) -> None:
        if every < 1:
            raise ValueError(f"every must be a number of steps, 1 or more, got {every}.")
        self.table = None if path is None else Table(path)
        self.every, self.loggers = every, list(loggers)

    def start(self, trainer: Trainer) -> None:
        """Open the file, cut back to the step that training goes on from."""
        if self.table is not None and trainer.fabric.is_global_zero:
            self.table.begin(trainer.step)

    def step_end(self, trainer: Trainer) -> None:
        """The row of the step."""
        if trainer.step % self.every and trainer.step not in (1, trainer.total):
            return
        names = ["loss", *trainer.values]
        tensors = [trainer.loss, *trainer.values.values()]
        values = torch.stack([tensor.detach().double() for tensor in tensors])  # one transfer for all
        values = trainer.all_sum(values) / trainer.fabric.world_size
        if not trainer.fabric.is_global_zero:
            return
        measured = {"lr": trainer.lr, **dict(zip(names, values.tolist(), strict=True))}
        if self.table is not None:
            epoch = trainer.epoch + 1
            row: dict[str, Cell] = {
                "step": trainer.step,
                "epoch": epoch,
                **measured,
                "seconds": trainer.seconds,
            }
            self.table.append(row)
        for logger in self.loggers:
            logger.log_metrics(
                {f"train/{name}": value for name, value in measured.items()}, step=trainer.step
            )

    def epoch_end(self, trainer: Trainer) -> None:
        """Pass the validation's results on, where there are new ones."""
        if trainer.scores.get("step") == trainer.step and trainer.fabric.is_global_zero:
            scores = {
                f"validation/{name}": trainer.scores[name]
                for name in ("clean", "robust")
                if name in trainer.scores
            }
            for logger in self.loggers:
                logger.log_metrics(scores, step=trainer.step)

    def saving(self, trainer: Trainer) -> None:
        """Rows before a checkpoint must be as safe as the checkpoint."""
        if self.table is not None:
            self.table.flush()

    def end(self, trainer: Trainer) -> None:
        """Close everything."""
        if self.table is not None:
            self.table.close()
        for logger in self.loggers:
            logger.finalize(trainer.status)
