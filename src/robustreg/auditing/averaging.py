"""Models that draw random numbers, judged and attacked by the mean of several calls."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustreg.auditing.case import Case, climb

CALLS = 8
_STEPS = 20


class Averaged(nn.Module):
    """The mean of several calls."""

    def __init__(self, model: nn.Module, calls: int) -> None:
        super().__init__()
        self.model, self.calls = model, calls

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, C]``."""
        return torch.stack([self.model(x) for _ in range(self.calls)]).mean(0)


@dataclass(frozen=True, eq=False)
class Averages:
    """What gradients find on a random model; all by the mean of many calls.

    Attributes:
        judge: that mean.
        standing: the samples that it has right, `[n]`.
        by_plain: those that PGD on single calls fools, `[n]`.
        by_averaged: those that PGD on the mean of several calls fools, `[n]`.
    """

    judge: Averaged
    standing: Tensor
    by_plain: Tensor
    by_averaged: Tensor

    def fooled(self, case: Case, points: Tensor) -> Tensor:
        """Which samples points `[n, ...]` fool, `[n]`."""
        return self.standing & _wrong(case, self.judge, points)


def averages(case: Case) -> Averages:
    """Both attacks and their judgement; made once."""
    if case.averages is None:
        judge = Averaged(case.model, 2 * CALLS)
        attack = climb(case.threat, min(case.budget.steps, _STEPS))
        averaged = case.attack(
            attack,
            "averaged",
            model=Averaged(case.model, CALLS),
            rows=max(case.batch_size // CALLS, 1),  # one graph holds all calls
        )
        plain = case.attack(attack, "single")
        standing = ~_wrong(case, judge, case.x)
        by_plain, by_averaged = (standing & _wrong(case, judge, o.points) for o in (plain, averaged))
        case.averages = Averages(judge, standing, by_plain, by_averaged)
    return case.averages


def _wrong(case: Case, judge: Averaged, points: Tensor) -> Tensor:
    return case.logits(points, judge).argmax(1) != case.y
