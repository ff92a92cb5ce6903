"""How long a step takes."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, ClassVar

from robustreg.training.handler import Handler

if TYPE_CHECKING:
    from robustreg.training.loop import Trainer


class StepTimer(Handler):
    """Collects the seconds of every step but the first `skip`, which pay for warming up."""

    order: ClassVar[int] = 30

    def __init__(self, skip: int = 5) -> None:
        self.skip = skip
        self.seconds: list[float] = []

    def step_end(self, trainer: Trainer) -> None:
        """Note the step's duration."""
        self.seconds.append(trainer.seconds)

    def summary(self) -> dict[str, float | int | None]:
        """Median seconds of a step and how many steps it is taken over; None when there were too few."""
        counted = self.seconds[self.skip :]
        return {"median": statistics.median(counted) if counted else None, "count": len(counted)}
