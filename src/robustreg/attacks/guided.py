"""What attacks climb that look at the clean prediction: a discrepancy from it, alone or beside a loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustreg.discrepancies import Discrepancy, between, check_discrepancy
from robustreg.losses import Loss, RowLoss, check_loss, needs_labels
from robustreg.modes import Mode, check_mode
from robustreg.points import CLEAN
from robustreg.probe import Probe
from robustreg.schedules import Weight


@dataclass(frozen=True)
class Guided:
    """``L(x') + weight * D(z(x), z(x'))`` as a loss to climb, the clean prediction held constant.

    ``PGD(threat, loss=Guided("js", loss=None))`` climbs the discrepancy alone. Beside the cross-entropy it guides the
    attack of GAT and NuAT: the discrepancy's gradient shows the way where the loss is flat, and one step is enough to
    train with. A discrepancy of the whole batch counts as a mean does, beside the mean of the losses.

    Args:
        discrepancy: as in ``Consistency``.
        weight: of the discrepancy, a number or its schedule over training.
        loss: what it is added to; None for nothing.
        odd: leave the discrepancy out in the training steps with even numbers, so that every other attack climbs the
            loss alone. Such a step cannot be compiled.
        reference_mode: the mode of the clean prediction. ``"batch"`` shares the forward that the training loss makes;
            TRADES, whose loss is ``"kl"``, takes it in the mode of the attack.
    """

    discrepancy: Discrepancy
    weight: Weight = 1.0
    loss: Loss | None = "ce"
    odd: bool = False
    reference_mode: Mode = "batch"

    def __post_init__(self) -> None:
        check_discrepancy(self.discrepancy)
        check_mode(self.reference_mode)
        if self.loss is not None:
            check_loss(self.loss)
        elif self.odd:
            raise ValueError(
                "a loss that leaves its discrepancy out in even steps needs another: give it a loss"
            )

    @property
    def reads_labels(self) -> bool:
        """Whether the loss beside the discrepancy reads labels."""
        return self.loss is not None and needs_labels(self.loss)

    def bind(self, probe: Probe, mode: Mode) -> RowLoss:
        """The loss for the probe's batch and step."""
        plain = None if self.loss is None else probe.loss_function(self.loss, mode)
        if plain is not None and self._rests(probe):
            return plain
        weight = probe.scheduled(self.weight)
        clean, apart = probe.logits(CLEAN, self.reference_mode).detach(), between(self.discrepancy)

        def guided(logits: Tensor, rows: Tensor | None) -> Tensor:
            distance = apart(clean if rows is None else clean[rows], logits).expand(logits.shape[0])
            return weight * distance if plain is None else plain(logits, rows) + weight * distance

        return guided

    def _rests(self, probe: Probe) -> bool:
        if self.odd and torch.compiler.is_compiling():
            raise RuntimeError("an attack that alternates with the step's number cannot be compiled")
        return self.odd and probe.stream.step % 2 == 0
