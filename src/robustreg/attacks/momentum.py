"""The iterative fast gradient method with momentum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.attacks.rows import Rows
from robustreg.attacks.search import Plain, Search, Searching, without_saturation
from robustreg.losses import Loss, check_loss
from robustreg.modes import Mode, check_mode
from robustreg.points import CLEAN, Point
from robustreg.probe import Probe
from robustreg.threat import Threat


@dataclass(frozen=True)
class MIFGSM(Searching):
    """MI-FGSM: steepest steps along ``m <- decay m + g / ||g||_1`` (Dong et al. 2018, "Boosting adversarial attacks
    with momentum", equations 6 and 7; in l2 equation 9).

    Called as an attack, fooled samples leave. Points that are to fool another network want to go on: then turn
    ``early_exit`` off. Who does not leave gets the point of highest loss. The cross-entropy is climbed as in ``APGD``.

    Args:
        threat: ball and box, of any norm.
        steps: number of steps.
        decay: of the momentum; 0 for the iterative fast gradient method.
        step_size: length of a step in the threat's norm; by default ``eps / steps``.
        start: where to start.
        loss: the loss that is climbed.
        mode: the mode in which the network is run while searching.
        early_exit: let fooled samples leave when called as an attack.
    """

    threat: Threat
    steps: int = 10
    decay: float = 1.0
    step_size: float | None = None
    start: Point = CLEAN
    loss: Loss = "ce"
    mode: Mode = "eval"
    early_exit: bool = True

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_mode(self.mode)
        if self.steps < 1:
            raise ValueError(f"MIFGSM needs steps >= 1, got {self.steps}")
        if not self.decay >= 0:
            raise ValueError(f"decay must be >= 0, got {self.decay}")
        if self.step_size is not None and not self.step_size > 0:
            raise ValueError(f"step_size must be positive, got {self.step_size}")

    def locate(self, probe: Probe) -> Tensor:
        """The end of the search, within ball and box."""
        search = Search(probe, self, self.threat, self.loss, self.mode, self.early_exit)
        index = search.standing()
        z = self.threat.project(probe.at(self.start)[index], probe.x[index])
        size = self.threat.eps / self.steps if self.step_size is None else self.step_size
        rule = Accumulated(self.threat, [size] * self.steps, self.decay)
        loss = probe.loss_function(without_saturation(self.loss), self.mode)
        search.climb(index, z, rule, self.steps, loss, self)
        return search.found()


class Accumulated(Plain):
    """Steepest steps along a decaying sum of the gradients, each divided by its l1 length."""

    def __init__(self, threat: Threat, sizes: Sequence[float], decay: float) -> None:
        super().__init__(threat, sizes)
        self._decay = decay
        self.sum: Tensor | None = None

    def step(self, i: int, rows: Rows, g: Tensor) -> Tensor:
        """A step along the sum."""
        g = torch.nan_to_num(numerics.upcast(g), nan=0.0)
        length = numerics.norm(g, 1.0)
        g = g / numerics.as_rows(torch.where(length > 0, length, 1.0), g)
        self.sum = g if self.sum is None else self._decay * self.sum + g
        return super().step(i, rows, self.sum.to(rows.z.dtype))
