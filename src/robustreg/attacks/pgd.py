"""Projected gradient ascent in any norm."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from robustreg.losses import Loss, check_loss, needs_labels
from robustreg.modes import Mode, check_mode
from robustreg.points import Point, Uniform
from robustreg.probe import Probe
from robustreg.threat import Threat

Decay = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True)
class PGD(Point):
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
            z = self._step(z, g, probe.x, size)
        return z

    def _step(self, z: Tensor, g: Tensor, x: Tensor, size: float) -> Tensor:
        z = z + self.threat.with_eps(size).steepest(g)
        if self.threat.norm not in (1.0, 2.0, math.inf):
            # Steepest steps followed by the Euclidean projection settle beside the worst case for other norms, even on
            # a linear network; scaled back to the sphere they settle at it.
            delta = z - x
            length = self.threat.length(delta)
            factor = torch.where(length > self.threat.eps, self.threat.eps / length, 1.0)
            z = x + delta * _as(factor, delta).to(delta.dtype)
        return self.threat.project(z, x)

    def _best_of(self, probe: Probe, candidates: list[Tensor]) -> Tensor:
        function = probe.loss_function(self.loss, self.mode)
        best, highest = candidates[0], torch.full((probe.x.shape[0],), -math.inf, device=probe.x.device)
        for r, z in enumerate(candidates):
            losses = function(probe.run(z, self.mode, self, "final", r, point=self), None)
            better = losses > highest
            highest = torch.where(better, losses, highest)
            best = torch.where(_as(better, z), z, best)
        return best

    def _search(self, probe: Probe) -> Tensor:
        """Sample by sample: who is fooled leaves, who is not keeps the best point seen."""
        leave = self.early_exit and self.mode == "eval" and probe.y is not None and needs_labels(self.loss)
        found = self.threat.project(probe.x, probe.x)
        dtype = torch.promote_types(probe.x.dtype, torch.float32)
        highest = torch.full((probe.x.shape[0],), -math.inf, device=probe.x.device, dtype=dtype)
        standing = torch.arange(probe.x.shape[0], device=probe.x.device)
        for start in self.starts():
            rows, x = standing, probe.x[standing]
            z = self.threat.project(probe.at(start)[standing], x)
            for i, size in enumerate([*self.sizes(), None]):
                if rows.numel() == 0:
                    break
                logits, losses, g = probe.ascend(
                    z, rows, self.loss, self.mode, self, start, i, point=self, gradient=size is not None
                )
                fooled = logits.argmax(1) != probe.y[rows] if leave and probe.y is not None else None
                losses = losses.to(dtype)
                better = losses > highest[rows]
                if fooled is not None:
                    better = better | fooled
                highest[rows[better]] = losses[better]
                found[rows[better]] = z[better]
                if fooled is not None:
                    probe.tell(rows, z, fooled)
                    keep = ~fooled
                    rows, z, x = rows[keep], z[keep], x[keep]
                    g = g[keep] if g is not None else None
                if size is not None and g is not None:
                    z = self._step(z, g, x, size)
            standing = rows
        return found


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


def _as(mask: Tensor, like: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (like.ndim - 1))
