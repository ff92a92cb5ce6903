"""Several points in one forward.

With BatchNorm in training mode it matters which samples travel together: the authors of some methods concatenate the
points of a loss into one batch, and the statistics are then those of all of them. ``Stack`` says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustreg.modes import Mode
from robustreg.points import Point
from robustreg.probe import Probe
from robustreg.threat import Threat


@dataclass(frozen=True)
class Stack(Point):
    """The coordinates of several points, one below the other: ``[k B, ...]`` for ``k`` points.

    Its logits are those of one forward, which ``stacked_logits`` takes apart again. Losses with one label per sample do
    not fit it, so terms ask for its logits only. Points that look at fewer samples give fewer rows.

    Args:
        points: in the order of the rows.
    """

    points: tuple[Point, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", tuple(self.points))  # a recipe gives a list, which has no hash
        if not self.points:
            raise ValueError("a Stack needs at least one point")
        for point in self.points:
            if not isinstance(point, Point):
                raise TypeError(f"a Stack is made of points, got {point!r}")

    def parts(self) -> Iterator[Point]:
        """The points."""
        yield from self.points

    def threats(self) -> Iterator[Threat]:
        """Every threat in the points."""
        for point in self.points:
            yield from point.threats()

    def with_threat(self, threat: Threat) -> Stack:
        """The same points under another threat."""
        return Stack(tuple(point.with_threat(threat) for point in self.points))

    def locate(self, probe: Probe) -> Tensor:
        """Coordinates ``[k B, ...]``."""
        return torch.cat([probe.at(point) for point in self.points])


def stacked_logits(
    probe: Probe, points: Sequence[Point], mode: Mode = "train", joint: bool = True
) -> list[Tensor]:
    """The logits ``[B, C]`` at each point.

    Args:
        probe: the batch.
        points: where.
        mode: in which the network is run.
        joint: all points in one forward; otherwise each has one of its own, which other terms can share.
    """
    if not joint:
        return [probe.logits(point, mode) for point in points]
    logits = probe.logits(Stack(tuple(points)), mode)
    return list(torch.split(logits, [probe.at(point).shape[0] for point in points]))
