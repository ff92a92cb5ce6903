"""What the training loop tells the world: events, and the base class of those who listen.

setup         the trainer is built, the network on its device, nothing resumed yet
start
  epoch_start
    step_start, around_gradients (a context), gradients (after backward, before the update), updated (right
    after it), step_end
  epoch_end
interrupt     a stop was asked for (Ctrl-C) and the step in hand is done
exception     something raised; `trainer.error` is it
end           always the last; `trainer.status` is "finished", "interrupted" or "failed"
saving        a checkpoint is about to be written: bring files and state up to `trainer.step`
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from robustreg.training.loop import Trainer


class Handler:
    """Listens to a `Trainer`. Override the methods of the events you want; all do nothing by default.

    `order` decides who hears an event first (ties: as listed), because some depend on others: guards look
    before anyone changes gradients (0), then those that change gradients or weights (10), those that follow
    the weights (20), those that measure (30) and report (40), and last the one that saves what all the others
    did (50).

    A handler with something to remember across a resume returns it from `state_dict` (tensors and JSON-able
    values), under its class's name.
    """

    order: ClassVar[int] = 40

    def setup(self, trainer: Trainer) -> None:
        """When the trainer is built: the network is on its device, and nothing is resumed yet."""

    def start(self, trainer: Trainer) -> None:
        """Before the first step of this run, or of its continuation."""

    def epoch_start(self, trainer: Trainer) -> None:
        """Before an epoch, or before the rest of one after a resume in its middle."""

    def step_start(self, trainer: Trainer) -> None:
        """Before the forward pass of step `trainer.step`."""

    def around_gradients(self, trainer: Trainer) -> AbstractContextManager[None]:
        """A context around the step's forward and backward pass, for handlers that change what its gradient is.

        `trainer.find_gradients()` is that pass, for those who need another one first. Whatever the context changes in
        the network it puts back.
        """
        return nullcontext()

    def gradients(self, trainer: Trainer) -> None:
        """After the backward pass, before the update."""

    def updated(self, trainer: Trainer) -> None:
        """After the optimiser changed the weights."""

    def step_end(self, trainer: Trainer) -> None:
        """After the step; `trainer.step` now counts it."""

    def epoch_end(self, trainer: Trainer) -> None:
        """After an epoch; `trainer.epoch` now counts it."""

    def interrupt(self, trainer: Trainer) -> None:
        """After the step during which a stop was asked for."""

    def exception(self, trainer: Trainer) -> None:
        """After anything raised."""

    def end(self, trainer: Trainer) -> None:
        """Always, at the very end, also where `start` was never reached."""

    def saving(self, trainer: Trainer) -> None:
        """Before a checkpoint is written."""

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs to go on; empty for most."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
