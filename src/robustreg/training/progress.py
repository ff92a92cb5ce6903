"""A progress bar with loss, validation accuracy and the time left; a line per epoch where nobody watches."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from robustreg.training.handler import Handler

if TYPE_CHECKING:
    from robustreg.training.loop import Trainer


class ProgressBar(Handler):
    """Shows progress with Rich on a terminal, and prints one line per epoch elsewhere.

    Args:
        console: where to; by default the process's standard output.
        label: what is trained, shown first.
        interval: seconds between updates, because reading the loss waits for the device.
    """

    order: ClassVar[int] = 40

    def __init__(self, console: Console | None = None, label: str = "", interval: float = 0.25) -> None:
        self.console = Console() if console is None else console
        self.label, self.interval = label, interval
        self._bar: Progress | None = None
        self._task: Any = None
        self._shown = self._began = 0.0

    def start(self, trainer: Trainer) -> None:
        """Begin."""
        self._began = time.monotonic()
        if not trainer.fabric.is_global_zero or not self.console.is_terminal:
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            expand=True,
        )
        self._task = self._bar.add_task(
            self.label or "training", total=trainer.total, completed=trainer.step, numbers=""
        )
        self._bar.start()

    def step_end(self, trainer: Trainer) -> None:
        """Move on, a few times a second."""
        now = time.monotonic()
        if self._bar is not None and now - self._shown >= self.interval:
            self._shown = now
            self._bar.update(self._task, completed=trainer.step, numbers=numbers(trainer))

    def epoch_end(self, trainer: Trainer) -> None:
        """Show the epoch's accuracy; the line, where there is no bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=trainer.step, numbers=numbers(trainer))
        elif trainer.fabric.is_global_zero:
            seconds = time.monotonic() - self._began
            label = f"{self.label} " if self.label else ""
            line = f"{label}epoch {trainer.epoch}, step {trainer.step}/{trainer.total}: {numbers(trainer)}"
            self.console.print(f"{line} ({seconds:.0f} s)", highlight=False, markup=False, soft_wrap=True)

    def end(self, trainer: Trainer) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.update(self._task, completed=trainer.step, numbers=numbers(trainer))
            self._bar.stop()
            self._bar = None


def numbers(trainer: Trainer) -> str:
    """`loss 0.123  clean 97.1 %  robust 80.2 %`, as far as they are known."""
    parts = [f"loss {float(trainer.loss):.4f}"]
    parts += [
        f"{name} {100 * trainer.scores[name]:.1f} %" for name in ("clean", "robust") if name in trainer.scores
    ]
    return "  ".join(parts)
