"""The guided adversarial margin attack: the margin of the probabilities, first with a push away from the clean ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.attacks.pgd import PGD
from robustreg.attacks.search import Plain, Search, Searching
from robustreg.attacks.single_step import Rademacher
from robustreg.attacks.targets import clean_logits
from robustreg.losses import RowLoss, negative_margin
from robustreg.modes import Mode, check_mode
from robustreg.points import Point
from robustreg.probe import Probe
from robustreg.threat import Threat

_FLOOR = 1e-20


@dataclass(frozen=True)
class GAMA(Searching):
    """GAMA-PGD (Sriramanan et al. 2020, "Guided adversarial attack for evaluating and enhancing adversarial defenses").

    PGD on ``max_{k != y} p_k(x') - p_y(x') + lambda_i ||p(x') - p(x)||^2``. ``lambda`` falls linearly to 0 over the
    first quarter of the steps. The step is ``2 eps``, a tenth of it from 60 % of the steps on, a hundredth from 85 %.
    ``p(x)`` is the prediction at the sample as in the paper (the authors' code takes it at the random start). Where all
    of this vanishes in rounding, because the network is certain, the log-odds of an error show the way.

    Called as an attack it works sample by sample, see ``PGD``; who is not fooled gets the point of smallest margin.

    Args:
        threat: ball and box, of any norm.
        steps: number of steps.
        restarts: number of random starts.
        weight: ``lambda`` of the first step.
        start: where to start; by default a random corner of the ball.
        mode: the mode in which the network is run while searching.
        early_exit: let fooled samples leave when called as an attack.
    """

    threat: Threat
    steps: int = 100
    restarts: int = 1
    weight: float = 50.0
    start: Point | None = None
    mode: Mode = "eval"
    early_exit: bool = True

    def __post_init__(self) -> None:
        check_mode(self.mode)
        if self.steps < 1 or self.restarts < 1:
            raise ValueError(f"GAMA needs steps >= 1 and restarts >= 1, got {self.steps} and {self.restarts}")
        if not self.weight >= 0:
            raise ValueError(f"weight must be >= 0, got {self.weight}")
        self.starts()

    @property
    def reads_labels(self) -> bool:
        """Always."""
        return True

    def starts(self) -> list[Point]:
        """The start of each climb: the same rule, each with a draw of its own."""
        start = Rademacher(self.threat) if self.start is None else self.start
        return PGD(self.threat, start=start, restarts=self.restarts).starts()

    def parts(self) -> Iterator[Point]:
        """The starts."""
        yield from self.starts()

    def sizes(self) -> list[float]:
        """The length of each step in the threat's norm."""
        drops = [math.ceil(0.6 * self.steps), math.ceil(0.85 * self.steps)]
        return [2 * self.threat.eps / 10 ** sum(i >= drop for drop in drops) for i in range(self.steps)]

    def weights(self) -> list[float]:
        """``lambda`` of each step."""
        until = max(self.steps // 4, 1)
        return [self.weight * max(1 - i / until, 0.0) for i in range(self.steps)]

    def locate(self, probe: Probe) -> Tensor:
        """The end of the search, within ball and box."""
        y, logits = probe.labels(), clean_logits(probe, self, self.mode)
        search = Search(probe, self, self.threat, "margin", self.mode, self.early_exit)
        search.dismiss(logits)
        clean = logits.softmax(1)
        for start in self.starts():
            index = search.standing()
            z = self.threat.project(probe.at(start)[index], probe.x[index])
            losses = [GuidedMargin(y, clean, weight) for weight in [*self.weights(), 0.0]]
            rule = Plain(self.threat, self.sizes())
            search.climb(index, z, rule, self.steps, losses, self, start, score=_margin_of(y))
        return search.found()


class GuidedMargin:
    """The loss of GAMA for a batch, at one step.

    Args:
        y: labels ``[B]``.
        clean: probabilities ``[B, C]`` at the samples.
        weight: ``lambda``.
    """

    def __init__(self, y: Tensor, clean: Tensor, weight: float) -> None:
        self._y, self._clean, self._weight = y, clean, weight

    def __call__(self, logits: Tensor, rows: Tensor | None) -> Tensor:
        """Values ``[b]`` at logits ``[b, C]``."""
        y, clean = (self._y, self._clean) if rows is None else (self._y[rows], self._clean[rows])
        p, odds = logits.softmax(1), numerics.error_log_odds(logits, y)
        own = torch.arange(p.shape[1], device=p.device) == y.unsqueeze(1)
        # 1 - p_y as the sigmoid of the log-odds: it and its slope stay exact where p_y is 1 to rounding
        margin = p.masked_fill(own, 0.0).amax(1) - 1 + odds.sigmoid()
        away = (p - clean.to(p.dtype)).square().sum(1)
        return torch.where(y >= 0, margin + self._weight * away + _FLOOR * odds, 0.0)


def _margin_of(y: Tensor) -> RowLoss:
    return lambda logits, rows: negative_margin(logits, y if rows is None else y[rows])
