"""Gradient clipping by norm."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from robustreg.training.handler import Handler

if TYPE_CHECKING:
    from robustreg.training.loop import Trainer


class ClipGradients(Handler):
    """Scales the parameters' gradient to an l2 norm of at most `max_norm`.

    The norm that it had is logged as `parameter_gradient_norm`.
    """

    order: ClassVar[int] = 10

    def __init__(self, max_norm: float) -> None:
        if not max_norm > 0:
            raise ValueError(f"the largest gradient norm must be above 0, got {max_norm}.")
        self.max_norm = max_norm

    def gradients(self, trainer: Trainer) -> None:
        """Clip."""
        norm = trainer.fabric.clip_gradients(
            trainer.wrapped, trainer.wrapped_optimizer, max_norm=self.max_norm, error_if_nonfinite=False
        )
        if norm is not None:
            trainer.values["parameter_gradient_norm"] = norm.detach()
