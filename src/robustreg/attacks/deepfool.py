"""DeepFool: steps to the nearest boundary of the linearised network until the class changes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.attacks.minimal import Closest, MinimalNorm, nearest_boundary
from robustreg.attacks.targets import others_by_rank
from robustreg.modes import Mode, check_mode
from robustreg.probe import Probe
from robustreg.threat import Threat, steepest_direction

_MORE = 1e-4
"""What the authors' code adds to every step, so that it ends where steps are clipped and get shorter and shorter."""


@dataclass(frozen=True)
class DeepFool(MinimalNorm):
    """DeepFool (Moosavi-Dezfooli, Fawzi and Frossard 2016, algorithm 2; section 3.3 for other norms than l2).

    At each step the network is linearised at the iterate, and the shortest step to its nearest boundary is added up:
    ``z = x + (1 + overshoot) * sum of steps``. A sample leaves when it is misclassified, so this is quick, and its
    distances are upper bounds that ``FAB`` improves. The steps do not know of the box: what leaves it is clipped (as in
    the usual implementations), so that samples near its sides may need more steps, or find nothing.

    Args:
        threat: the norm in which near is meant, any above l1, the box, and the radius when it is called as a bounded
            attack.
        steps: at most so many, each a backward for every candidate and two forwards.
        overshoot: share by which the sum of steps is lengthened to cross the boundary.
        candidates: how many classes beside the label's are looked at, the most likely at the sample; None for all.
        mode: the mode in which the network is run.
    """

    threat: Threat
    steps: int = 50
    overshoot: float = 0.02
    candidates: int | None = 9
    mode: Mode = "eval"

    def __post_init__(self) -> None:
        check_mode(self.mode)
        if self.threat.norm == 1:
            raise ValueError(
                "DeepFool moves one feature at a time in l1 and stands still at the box: use FAB there"
            )
        if self.steps < 1:
            raise ValueError(f"DeepFool needs steps >= 1, got {self.steps}")
        if self.candidates is not None and self.candidates < 1:
            raise ValueError(
                f"candidates is a number of classes from 1, or None for all, got {self.candidates}"
            )
        if not self.overshoot >= 0:
            raise ValueError(f"overshoot is a share and must be >= 0, got {self.overshoot}")

    def search(self, probe: Probe, rows: Tensor, logits: Tensor, closest: Closest, bounded: bool) -> None:
        """Step until misclassified."""
        others = others_by_rank(logits, probe.labels()[rows], self.candidates)
        x = probe.x[rows]
        z, total = x, torch.zeros_like(numerics.upcast(x))
        for i in range(self.steps):
            _, slope, distance = nearest_boundary(self, probe, z, rows, others, i)
            length = torch.where(distance.isfinite(), distance + _MORE, 0.0).to(total.dtype)
            total = total + numerics.as_rows(length, x) * steepest_direction(
                slope.to(total.dtype), self.threat.norm
            )
            z = self.threat.clip((numerics.upcast(x) + (1 + self.overshoot) * total).to(x.dtype))
            _, wrong, _ = self.look(probe, z, rows, i, "after")
            closest.offer(rows, z, wrong)
            if wrong.any():
                rows, others, x, z, total = (v[~wrong] for v in (rows, others, x, z, total))
            if rows.numel() == 0:
                return
