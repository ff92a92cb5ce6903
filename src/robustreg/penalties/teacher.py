"""Labels from another network, which is held fixed."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from robustreg import numerics
from robustreg.modes import Mode, check_mode, running
from robustreg.plan import StandIn
from robustreg.points import CLEAN, Point
from robustreg.probe import Probe
from robustreg.terms import Term


@dataclass(frozen=True)
class TeacherCrossEntropy(Term):
    """Cross-entropy at one point to the class that a fixed network predicts at another.

    HAT's helper term: at the point twice as far as the attack, to the class that a standardly trained network sees at
    the attack. The network is run in evaluation mode without a graph; it is moved to the batch's device at its first
    use and otherwise left as it is. Its weights are not part of the objective's state, and its forward is not among
    the passes of the plan. It reads no labels.

    Args:
        teacher: the network, ``[B, ...]`` to logits ``[B, C]``.
        at: where the cross-entropy is taken.
        teacher_at: where the teacher is asked.
        mode: the mode in which the trained network is run.
    """

    teacher: nn.Module | None = field(repr=False)
    at: Point = CLEAN
    teacher_at: Point = CLEAN
    mode: Mode = "train"

    def __post_init__(self) -> None:
        check_mode(self.mode)
        if self.teacher is not None and not isinstance(self.teacher, nn.Module):
            raise ValueError(
                f"the teacher must be a network (torch.nn.Module), got {self.teacher!r}: build it and load its weights "
                "first"
            )

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]``."""
        logits = probe.logits(self.at, self.mode)
        return numerics.cross_entropy(logits, self._labels(probe, logits.shape[1]))

    def _labels(self, probe: Probe, classes: int) -> Tensor:
        z = probe.at(self.teacher_at)
        if isinstance(probe.model, StandIn):  # a rehearsal: its samples need not have the teacher's shape
            return torch.zeros(z.shape[0], dtype=torch.long, device=z.device)
        if self.teacher is None:
            raise ValueError(
                f"the term {self.name} needs its teacher: pass a trained network (torch.nn.Module)"
            )
        weight = next(self.teacher.parameters(), z)
        if weight.device != z.device:
            self.teacher.to(z.device)
        with torch.no_grad(), running(self.teacher, "eval"):
            seen: Tensor = self.teacher(z.to(weight.dtype))
        if seen.ndim != 2 or seen.shape[1] != classes:
            raise ValueError(
                f"the teacher must have the network's {classes} classes, but returned {list(seen.shape)}"
            )
        return seen.argmax(1)
