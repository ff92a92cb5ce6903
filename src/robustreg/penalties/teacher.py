"""Terms that look at the predictions of a teacher: another network, which is held fixed, or an average of this one."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustreg import numerics
from robustreg.modes import Mode, check_mode
from robustreg.penalties.weight_average import WeightAverage
from robustreg.points import CLEAN, Point
from robustreg.probe import Probe
from robustreg.terms import Term

Teacher = nn.Module | WeightAverage

_MISSING = nn.Identity()  # stands for a teacher that is still to be given: in a rehearsal nobody asks it


def check_teacher(teacher: object) -> None:
    """Refuse what is no teacher; None is one that is still to be given."""
    if teacher is not None and not isinstance(teacher, (nn.Module, WeightAverage)):
        raise ValueError(
            f"the teacher must be a network (torch.nn.Module), got {teacher!r}: build it and load its weights first"
        )


def teacher_logits(teacher: Teacher | None, probe: Probe, point: Point, classes: int) -> Tensor:
    """The teacher's logits ``[B, classes]`` at a point, a constant, or a sentence where there is no such teacher."""
    if teacher is None:
        if not probe.stands_in:
            raise ValueError(f"{probe.asking} needs its teacher: pass a trained network (torch.nn.Module)")
        teacher = _MISSING
    logits = probe.ask(teacher, point)
    if logits.shape[1] != classes:
        raise ValueError(
            f"the teacher must have the network's {classes} classes, but returned {list(logits.shape)}"
        )
    return logits


@dataclass(frozen=True)
class TeacherCrossEntropy(Term):
    """Cross-entropy at one point to the class that a teacher predicts at another.

    HAT's helper term: at the point twice as far as the attack, to the class that a standardly trained network sees at
    the attack. A network as teacher is run in evaluation mode without a graph; it is moved to the batch's device at its
    first use and otherwise left as it is. Its weights are not part of the objective's state. It reads no labels.

    Args:
        teacher: the network, ``[B, ...]`` to logits ``[B, C]``, or a ``WeightAverage``.
        at: where the cross-entropy is taken.
        teacher_at: where the teacher is asked.
        mode: the mode in which the trained network is run.
    """

    teacher: Teacher | None = field(repr=False)
    at: Point = CLEAN
    teacher_at: Point = CLEAN
    mode: Mode = "train"

    def __post_init__(self) -> None:
        check_mode(self.mode)
        check_teacher(self.teacher)

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]``."""
        logits = probe.logits(self.at, self.mode)
        seen = teacher_logits(self.teacher, probe, self.teacher_at, logits.shape[1])
        return numerics.cross_entropy(logits, seen.argmax(1))


@dataclass(frozen=True)
class Distillation(Term):
    """``KL(softmax(t / T) || softmax(z / T))`` from a teacher's logits ``t`` to the network's ``z``.

    The teacher's prediction is a constant. There is no factor ``T^2``. SRST-AWR distils at the sample; with a
    ``WeightAverage`` as teacher and both at the attack it is the regulariser of ReBAT. It reads no labels.

    Args:
        teacher: the network, ``[B, ...]`` to logits ``[B, C]``, or a ``WeightAverage``.
        at: where the network's prediction is taken.
        teacher_at: where the teacher is asked.
        temperature: that both logits are divided by.
        mode: the mode in which the trained network is run.
    """

    teacher: Teacher | None = field(repr=False)
    at: Point = CLEAN
    teacher_at: Point = CLEAN
    temperature: float = 1.0
    mode: Mode = "train"

    def __post_init__(self) -> None:
        check_mode(self.mode)
        check_teacher(self.teacher)
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]``."""
        logits = probe.logits(self.at, self.mode)
        seen = teacher_logits(self.teacher, probe, self.teacher_at, logits.shape[1])
        return numerics.kl(seen / self.temperature, numerics.upcast(logits) / self.temperature)


@dataclass(frozen=True)
class AdaptiveWeight(Term):
    """``beta <T(x), p(x)> + (1 - beta) (1 - <T(x), p(x')>)``: a weight per sample from a teacher's probabilities ``T``.

    The weight of SRST-AWR (Yang, Kong & Kim 2023), for ``weighted(Consistency(adversary), by=...)``. With the label's
    one-hot vector for ``T`` it is ``beta`` times CoW's weight plus ``1 - beta`` times ARoW's: ``Confidence()`` and
    ``Vulnerability(adversary)``. Gradient flows through both of the network's predictions. It reads no labels.

    Args:
        teacher: the network, ``[B, ...]`` to logits ``[B, C]``, or a ``WeightAverage``.
        adversary: the point ``x'``.
        beta: in [0, 1].
        follow: ask the teacher at ``x'`` in the second part, as the pseudo-label variant AWR does.
        mode: the mode in which the trained network is run.
    """

    teacher: Teacher | None = field(repr=False)
    adversary: Point | None = None
    beta: float = 0.5
    follow: bool = False
    mode: Mode = "train"

    def __post_init__(self) -> None:
        check_mode(self.mode)
        check_teacher(self.teacher)
        if not 0.0 <= self.beta <= 1.0:
            raise ValueError(f"beta must lie in [0, 1], got {self.beta}")

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]`` in [0, 1]."""
        if self.adversary is None:
            raise ValueError(f"the term {self.name} needs an adversary: pass a point such as PGD(threat)")
        confident = self._agreement(probe, CLEAN, CLEAN)
        fooled = 1.0 - self._agreement(probe, self.adversary, self.adversary if self.follow else CLEAN)
        return self.beta * confident + (1.0 - self.beta) * fooled

    def _agreement(self, probe: Probe, at: Point, teacher_at: Point) -> Tensor:
        logits = numerics.upcast(probe.logits(at, self.mode))
        seen = teacher_logits(self.teacher, probe, teacher_at, logits.shape[1])
        believed = functional.softmax(numerics.upcast(seen), dim=1)
        return torch.sum(believed * functional.softmax(logits, dim=1), dim=1)
