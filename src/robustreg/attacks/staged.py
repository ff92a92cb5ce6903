"""Attacks that change with the progress of training: which one, and how far it goes."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from robustreg.points import Point
from robustreg.probe import Probe
from robustreg.schedules import Weight, check_stages
from robustreg.threat import Threat


@dataclass(frozen=True)
class Staged(Point):
    """One point after another: ``points[i]`` before progress ``until[i]``, and the last one from there on.

    It needs the progress of training, so it is no attack to evaluate with and its step cannot be compiled. A plan
    counts the passes at half of training.

    Args:
        points: the stages' points.
        until: where each but the last ends, as fractions of training.
    """

    points: tuple[Point, ...]
    until: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", tuple(self.points))  # a recipe gives lists, which have no hash
        object.__setattr__(self, "until", tuple(self.until))
        if len(self.until) != len(self.points) - 1:
            raise ValueError(
                f"{len(self.points)} points change at {len(self.points) - 1} places, got {self.until}"
            )
        check_stages(self.until)

    def parts(self) -> Iterator[Point]:
        """The points."""
        yield from self.points

    def threats(self) -> Iterator[Threat]:
        """Every threat in the points."""
        for point in self.points:
            yield from point.threats()

    def with_threat(self, threat: Threat) -> Staged:
        """The same stages under another threat."""
        return Staged(tuple(point.with_threat(threat) for point in self.points), self.until)

    def locate(self, probe: Probe) -> Tensor:
        """The present stage's point."""
        return probe.at(self.points[int(probe.scheduled(self._stage))])

    def _stage(self, progress: float) -> float:
        return bisect.bisect_right(self.until, progress)


@dataclass(frozen=True)
class Grown(Point):
    """A point whose radii and steps are a share of what they say: ``Grown(PGD(threat), Ramp(0, 1))``.

    Every threat in the point, and every ``step_size``, is multiplied by the share; noise of a given size is not. It
    needs the progress of training, so it is no attack to evaluate with and its step cannot be compiled.

    Args:
        full: the point at its full size.
        share: in [0, 1], or its schedule.
    """

    full: Point
    share: Weight

    def __post_init__(self) -> None:
        if not callable(self.share) and not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share is a fraction of the full size and must lie in [0, 1], got {self.share}")

    def locate(self, probe: Probe) -> Tensor:
        """The point at its present size."""
        return probe.at(_scaled(self.full, probe.scheduled(self.share)))


def _scaled(value: Any, share: float) -> Any:
    """A point, or a tuple of points, with every threat and step size multiplied."""
    if isinstance(value, Threat):
        return value.with_eps(share * value.eps)
    if isinstance(value, tuple):
        return tuple(_scaled(part, share) for part in value)
    if not isinstance(value, Point):
        return value
    changes: dict[str, Any] = {
        f.name: _scaled(getattr(value, f.name), share)
        for f in dataclasses.fields(value)  # type: ignore[arg-type]
    }
    if changes.get("step_size") is not None:
        changes["step_size"] = share * changes["step_size"] or None  # a radius of 0 leaves no way to go
    return dataclasses.replace(value, **changes)  # type: ignore[type-var]
