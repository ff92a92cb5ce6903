"""A copy of the last good state, kept in memory while training runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from robustreg.files import PathLike
from robustreg.training import checkpoint
from robustreg.training.handler import Handler

if TYPE_CHECKING:
    from robustreg.training.loop import Trainer


class LastGood(Handler):
    """Copies the whole state to memory every `every` steps, as long as all of it is finite.

    A guard that stops training calls `write`: the copy becomes a checkpoint like any other, and a resume from
    it repeats the steps up to the failing one exactly.

    Args:
        folder: the checkpoint to write, if it comes to that.
        every: steps between copies; one copy costs about as much as reading all weights once.
    """

    order: ClassVar[int] = 60  # after every other handler has done its part of the step

    def __init__(self, folder: PathLike, every: int = 25) -> None:
        if every < 1:
            raise ValueError(f"every must be a number of steps, 1 or more, got {every}.")
        self.folder, self.every = Path(folder), every
        self.copy: dict[str, Any] | None = None

    def start(self, trainer: Trainer) -> None:
        """The state before the first step."""
        self._take(trainer)

    def step_end(self, trainer: Trainer) -> None:
        """A new copy, every so many steps."""
        if trainer.step % self.every == 0:
            self._take(trainer)

    def _take(self, trainer: Trainer) -> None:
        content = checkpoint.snapshot(trainer)
        tensors = [*content["weights"].values(), *content["tensors"].values()]
        if all(bool(t.isfinite().all()) for t in tensors if t.is_floating_point()):
            self.copy = content

    def write(self, trainer: Trainer) -> tuple[Path, int] | None:
        """Write the copy; its folder and the step it was taken at, or None when there is none."""
        if self.copy is None:
            return None
        if trainer.fabric.is_global_zero:
            checkpoint.write(self.folder, self.copy)
        return self.folder, int(self.copy["meta"]["step"])
