"""Ctrl-C and SIGTERM end training cleanly: the step in hand is finished, then `last` is saved."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar

from robustreg.training.handler import Handler

if TYPE_CHECKING:
    from robustreg.training.loop import Trainer


class Interrupt(Handler):
    """Turns the first SIGINT or SIGTERM into `trainer.stop()`; a second one acts as it did before training.

    Signals belong to the main thread; elsewhere this does nothing.

    Args:
        how_to_resume: a sentence for the person who stopped it.
    """

    order: ClassVar[int] = 60  # speaks when the checkpoint is written

    def __init__(self, how_to_resume: str = "") -> None:
        self.how_to_resume = how_to_resume
        self._before: dict[int, Any] = {}

    def start(self, trainer: Trainer) -> None:
        """Take the two signals over."""
        if threading.current_thread() is not threading.main_thread():
            return

        def first(number: int, frame: FrameType | None) -> None:
            self._give_back()
            trainer.stop()
            name = signal.Signals(number).name
            print(
                f"\n{name}: finishing the step in hand; once more to abort at once.",
                file=sys.stderr,
                flush=True,
            )

        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, first)

    def end(self, trainer: Trainer) -> None:
        """Give them back, and say how to go on."""
        self._give_back()
        if trainer.status == "interrupted" and trainer.fabric.is_global_zero:
            told = f"Stopped after step {trainer.step} of {trainer.total}. {self.how_to_resume}"
            print(told.rstrip(), file=sys.stderr, flush=True)

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            # A handler that C code installed reads as None and cannot be put back from Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}
