"""Labels that a teacher has a say in, as losses: what attacks climb and ``LossAt`` minimises in the label's place."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from robustreg import numerics
from robustreg.losses import Loss, RowLoss, bound_loss, check_loss, labelled
from robustreg.modes import Mode
from robustreg.penalties.teacher import Teacher, check_teacher, teacher_logits
from robustreg.penalties.weight_average import WeightAverage
from robustreg.points import CLEAN
from robustreg.probe import Probe
from robustreg.schedules import Cosine, Weight

COOLING, TRUSTING = Cosine(2.5, 2.0), Cosine(0.7, 0.95)  # of ADR on CIFAR-10


@dataclass(frozen=True)
class Rectified:
    """Cross-entropy to the label, rectified by an average of the network itself (ADR: Wu, Wang & Chen 2024).

    The target is ``m P + (1 - m) e_y`` with ``P = softmax(a(x) / T)``, ``a`` the averaged network's logits at the
    sample, and ``m = clip(mix - (max_c P_c - P_y), 0, 1)``: where the average is wrong, it counts for less. The target
    is a constant. ``PGD(threat, loss=Rectified())`` climbs it and ``LossAt(point, Rectified())`` minimises it; the same
    value in both shares the average.

    Args:
        temperature: ``T``, or its schedule over training.
        mix: the largest share of the average's prediction, or its schedule.
    """

    temperature: Weight = COOLING
    mix: Weight = TRUSTING
    memory: WeightAverage = field(default_factory=lambda: WeightAverage(0.995), repr=False, kw_only=True)

    reads_labels = True

    def __post_init__(self) -> None:
        if not callable(self.temperature) and not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        if not callable(self.mix) and not 0.0 <= self.mix <= 1.0:
            raise ValueError(f"mix must lie in [0, 1], got {self.mix}")

    def bind(self, probe: Probe, mode: Mode) -> RowLoss:
        """The loss for the probe's batch and step; 0 for samples without a label."""
        y = probe.labels()
        target = self._target(numerics.upcast(probe.ask(self.memory, CLEAN)), y, probe)

        def rectified(logits: Tensor, rows: Tensor | None) -> Tensor:
            chosen = target if rows is None else target[rows]
            log_p = functional.log_softmax(numerics.upcast(logits), dim=1)
            return -(chosen * log_p).sum(1)

        return rectified

    def _target(self, logits: Tensor, y: Tensor, probe: Probe) -> Tensor:
        believed = functional.softmax(logits / probe.scheduled(self.temperature), dim=1)
        label = functional.one_hot(y.clamp(min=0), logits.shape[1]).to(believed)
        error = believed.amax(1) - (believed * label).sum(1)
        m = (probe.scheduled(self.mix) - error).clamp(0.0, 1.0).unsqueeze(1)
        return torch.where((y >= 0).unsqueeze(1), m * believed + (1 - m) * label, 0.0)


@dataclass(frozen=True)
class PseudoLabelled:
    """A loss of logits and labels, with the class that a teacher predicts at the sample where there is no label.

    It needs no labels, so its mean is over all samples.

    Args:
        teacher: the network, ``[B, ...]`` to logits ``[B, C]``, or a ``WeightAverage``.
        loss: of logits and labels: ``"ce"``, ``"margin"``, ``"dlr"``, ``SmoothedCrossEntropy(a)`` or a function.
        keep: keep the labels that there are; otherwise the teacher decides for every sample.
    """

    teacher: Teacher | None = field(repr=False)
    loss: Loss = "ce"
    keep: bool = True

    reads_labels = False

    def __post_init__(self) -> None:
        check_teacher(self.teacher)
        check_loss(self.loss)
        if bound_loss(self.loss) is not None:
            raise ValueError(f"pseudo-labels are for losses of logits and labels, got {self.loss!r}")

    def bind(self, probe: Probe, mode: Mode) -> RowLoss:
        """The loss for the probe's batch."""
        function = labelled(self.loss)

        def pseudo(logits: Tensor, rows: Tensor | None) -> Tensor:
            y = self._labels(probe, logits.shape[1])
            return function(logits, y if rows is None else y[rows])

        return pseudo

    def _labels(self, probe: Probe, classes: int) -> Tensor:
        seen = teacher_logits(self.teacher, probe, CLEAN, classes).argmax(1)
        if probe.y is None or not self.keep:
            return seen
        return torch.where(probe.y >= 0, probe.y, seen)
