"""Projected gradient ascent in any norm."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.attacks.search import Plain, Search, Searching, steepest_step
from robustreg.losses import Loss, check_loss
from robustreg.modes import Mode, check_mode
from robustreg.points import Point, Uniform
from robustreg.probe import Probe
from robustreg.threat import Threat

Decay = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True)
class PGD(Searching):
    """Projected gradient ascent (Madry et al. 2018), its step the steepest one of the threat's norm.

    As a training point it takes all its steps on the whole batch and gives the last iterate. Called as an attack it
    works sample by sample: a sample that is fooled keeps the point which fooled it and leaves the batch, restarts go
    on with the samples still standing, and one that is never fooled gives the point of highest loss that was seen.

    Args:
        threat: ball and box.
        steps: number of steps.
        step_size: length of the first step in the threat's norm; by default such that all steps together are
            ``2.5 * eps`` long, which is ``2.5 * eps / steps`` for a constant step.
        start: where to start: by default uniform in the ball; ``Clean()`` for the iterative FGSM.
        loss: the loss that is climbed.
        restarts: number of starts; with more than one a training point is the one of highest loss.
        mode: the mode in which the network is run while searching.
        decay: of the step size over the steps: constant, or down to 0 linearly or as half a cosine.
        early_exit: let fooled samples leave when called as an attack.
        project_start: project the start before the first step. The authors of TRADES and MART project after each step
            only, so that their first gradient may be taken outside the box; as an attack PGD always projects.
    """

    threat: Threat
    steps: int = 10
    step_size: float | None = None
    start: Point | None = None
    loss: Loss = "ce"
    restarts: int = 1
    mode: Mode = "eval"
    decay: Decay = "constant"
    early_exit: bool = True
    project_start: bool = True

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_mode(self.mode)
        if self.steps < 1 or self.restarts < 1:
            raise ValueError(f"PGD needs steps >= 1 and restarts >= 1, got {self.steps} and {self.restarts}")
        if self.step_size is not None and not self.step_size > 0:
            raise ValueError(f"step_size must be positive, got {self.step_size}")
        if self.decay not in ("constant", "linear", "cosine"):
            raise ValueError(f"decay must be constant, linear or cosine, got {self.decay!r}")
        if len(set(self.starts())) < self.restarts:
            raise ValueError(f"restarts from {self.start} would all be the same: use a random start")

    def starts(self) -> list[Point]:
        """The start of each restart: the same rule, each with a draw of its own."""
        first = self.start if self.start is not None else Uniform(self.threat)
        return [_renumbered(first, r) for r in range(self.restarts)]

    def parts(self) -> Iterator[Point]:
        """The starts."""
        yield from self.starts()

    def sizes(self) -> list[float]:
        """The length of each step in the threat's norm."""
        done = [i / self.steps for i in range(self.steps)]
        shape = [1.0] * self.steps
        if self.decay == "linear":
            shape = [1 - t for t in done]
        if self.decay == "cosine":
            shape = [0.5 * (1 + math.cos(math.pi * t)) for t in done]
        # The whole path is 2.5 eps long whatever the decay: enough to cross the ball from a random start.
        first = 2.5 * self.threat.eps / sum(shape) if self.step_size is None else self.step_size
        return [first * factor for factor in shape]

    def locate(self, probe: Probe) -> Tensor:
        """The end of the search, within ball and box."""
        if probe.attacking and (self.restarts > 1 or self.early_exit):
            return self._search(probe)
        if self.restarts > 1:
            return self._best_of(probe, [self._climb(probe, s) for s in self.starts()])
        return self._climb(probe, self.starts()[0])

    def _climb(self, probe: Probe, start: Point) -> Tensor:
        z = probe.at(start)
        if self.project_start or probe.attacking:
            z = self.threat.project(z, probe.x)
        for i, size in enumerate(self.sizes()):
            _, _, g = probe.ascend(z, None, self.loss, self.mode, self, start, i, point=self)
            assert g is not None  # asked for by default
            z = steepest_step(self.threat, z, g, probe.x, size)
        return z

    def _best_of(self, probe: Probe, candidates: list[Tensor]) -> Tensor:
        function = probe.loss_function(self.loss, self.mode)
        best, highest = candidates[0], torch.full((probe.x.shape[0],), -math.inf, device=probe.x.device)
        for r, z in enumerate(candidates):
            losses = function(probe.run(z, self.mode, self, "final", r, point=self), None)
            better = losses > highest
            highest = torch.where(better, losses, highest)
            best = torch.where(numerics.as_rows(better, z), z, best)
        return best

    def _search(self, probe: Probe) -> Tensor:
        """Sample by sample: who is fooled leaves, who is not keeps the best point seen."""
        search = Search(probe, self, self.threat, self.loss, self.mode, self.early_exit)
        loss = probe.loss_function(self.loss, self.mode)
        for start in self.starts():
            index = search.standing()
            z = self.threat.project(probe.at(start)[index], probe.x[index])
            search.climb(index, z, Plain(self.threat, self.sizes()), self.steps, loss, self, start)
        return search.found()


def _renumbered(start: Point, r: int) -> Point:
    """The start with every random point in it at the draw of restart ``r``."""
    changes: dict[str, Any] = {}
    for f in dataclasses.fields(start):  # type: ignore[arg-type]
        value = getattr(start, f.name)
        if isinstance(value, Point):
            changes[f.name] = _renumbered(value, r)
        elif f.name == "number":
            changes[f.name] = value + r
    return dataclasses.replace(start, **changes) if r and changes else start  # type: ignore[type-var]
