"""Stops training when numbers go bad, before they reach the weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from robustreg.training.handler import Handler
from robustreg.training.last_good import LastGood

if TYPE_CHECKING:
    from robustreg.training.loop import Trainer


class TrainingStopped(RuntimeError):
    """Training cannot go on.

    Attributes:
        step: the step, counted from 1, that failed.
        values: the loss and every term's value at that step.
        saved: the checkpoint of the last good state, or None where none was kept.
    """

    def __init__(self, message: str, step: int, values: dict[str, float], saved: Path | None) -> None:
        super().__init__(message)
        self.step, self.values, self.saved = step, values, saved


class NaNGuard(Handler):
    """Stops with `TrainingStopped` at the first loss, gradient or weight that is not finite.

    It looks after the backward pass and before the update, so a bad gradient never reaches the weights, and
    before every checkpoint, so bad weights never replace good ones. The price is one reading of the gradients
    a step.

    Args:
        last_good: the handler that keeps the state to save when it happens.
    """

    order: ClassVar[int] = 0

    def __init__(self, last_good: LastGood | None = None) -> None:
        self.last_good = last_good

    def gradients(self, trainer: Trainer) -> None:
        """Look at the loss and the gradients."""
        found = [p.grad for p in trainer.module.parameters() if p.grad is not None]
        if self._bad(trainer, [trainer.loss, *found]):
            if not trainer.loss.isfinite():
                self._stop(trainer, "the loss")
            name = next((n for n, p in _named(trainer) if p.grad is not None and _bad_tensor(p.grad)), None)
            self._stop(
                trainer, "a gradient on another process" if name is None else f"the gradient of {name!r}"
            )

    def saving(self, trainer: Trainer) -> None:
        """Look at the weights."""
        if self._bad(trainer, [p.detach() for _, p in _named(trainer)]):
            name = next((n for n, p in _named(trainer) if _bad_tensor(p)), "on another process")
            self._stop(trainer, f"the weight {name!r}")

    def _bad(self, trainer: Trainer, tensors: list[Tensor]) -> bool:
        """Whether any value is infinite or NaN, on any process: they must stop together."""
        norms = torch._foreach_norm(tensors, 2)  # on a CPU ten times as fast as looking for the largest value
        suspect = ~torch.stack([norm.float() for norm in norms]).isfinite().all()
        if not bool(trainer.all_sum(suspect.float()) > 0):
            return False
        # Squares of large, finite values overflow too: look at the values themselves.
        bad = torch.tensor(float(any(_bad_tensor(tensor) for tensor in tensors)))
        return bool(trainer.all_sum(bad) > 0)

    def _stop(self, trainer: Trainer, what: str) -> None:
        step = trainer.step + 1
        values = {
            "loss": float(trainer.loss),
            **{name: float(value) for name, value in trainer.values.items()},
        }
        kept = None if self.last_good is None else self.last_good.write(trainer)
        where = (
            "no copy of an earlier state was kept"
            if kept is None
            else f"the last good state, of step {kept[1]}, is saved in {kept[0]}"
        )
        told = ", ".join(f"{name} {value:.6g}" for name, value in values.items())
        raise TrainingStopped(
            f"{what} is not finite at step {step} ({told}); {where}.",
            step,
            values,
            None if kept is None else kept[0],
        )


def _named(trainer: Trainer) -> list[tuple[str, Tensor]]:
    return list(trainer.module.net.named_parameters())


def _bad_tensor(tensor: Tensor) -> bool:
    return not bool(tensor.isfinite().all())
