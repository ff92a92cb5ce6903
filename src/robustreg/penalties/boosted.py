"""The boosted cross-entropy of MART: a classification loss that also pushes the strongest wrong class down."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from robustreg import numerics
from robustreg.modes import Mode, check_mode
from robustreg.points import CLEAN, Point
from robustreg.probe import Probe
from robustreg.terms import Term


@dataclass(frozen=True)
class Boosted:
    """``-log p_y - log(1 + slack - max_{k != y} p_k)``: the boosted cross-entropy as a loss (Wang et al. 2020, eq. 7).

    Args:
        slack: 1e-4 is the authors' code, where it bounds the second part by 9.2; 0 is the paper's formula, here exact
            and finite at any finite logits.
    """

    slack: float = 1e-4

    def __post_init__(self) -> None:
        if not self.slack >= 0:
            raise ValueError(f"slack must be >= 0, got {self.slack}")

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """Values ``[B]`` of logits ``[B, C]`` and labels ``[B]`` from 0 up."""
        logits = numerics.upcast(logits)
        if logits.ndim != 2 or logits.shape[1] < 2:
            raise ValueError(
                f"the boosted cross-entropy needs logits [B, C] with C >= 2, got {list(logits.shape)}"
            )
        classes = torch.arange(logits.shape[1], device=logits.device)
        strongest = logits.masked_fill(classes == y.unsqueeze(1), -math.inf).argmax(1, keepdim=True)
        # 1 - max p as the sum of all the others, in log space: nothing cancels where the network is sure
        others = functional.log_softmax(logits, dim=1).masked_fill(classes == strongest, -math.inf)
        rest = others.logsumexp(1)
        if self.slack > 0:
            rest = torch.logaddexp(rest, torch.full_like(rest, math.log(self.slack)))
        return numerics.cross_entropy(logits, y) - rest


@dataclass(frozen=True)
class BoostedCrossEntropy(Term):
    """The boosted cross-entropy at a point: MART's classification loss, at its attack.

    Args:
        at: where.
        slack: as in ``Boosted``.
        mode: the mode in which the network is run there.
    """

    at: Point = CLEAN
    slack: float = 1e-4
    mode: Mode = "train"

    needs = frozenset({"labels"})

    def __post_init__(self) -> None:
        Boosted(self.slack)
        check_mode(self.mode)

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]``; 0 for samples without a label."""
        return probe.loss(self.at, Boosted(self.slack), self.mode)
