"""Weights that change over training: functions of progress in [0, 1].

Any callable of progress is a schedule; these are values with a readable form that recipes can name.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from dataclasses import dataclass

Schedule = Callable[[float], float]
Weight = float | Schedule


@dataclass(frozen=True)
class Ramp:
    """Linear from ``start`` to ``end`` while progress runs from 0 to ``until``, then constant."""

    start: float
    end: float
    until: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.until <= 1.0:
            raise ValueError(
                f"until is the progress at which the ramp ends and must lie in (0, 1], got {self.until}"
            )

    def __call__(self, progress: float) -> float:
        """The weight at ``progress``."""
        return self.start + (self.end - self.start) * min(max(progress, 0.0) / self.until, 1.0)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from ``start`` to ``end`` while progress runs from 0 to ``until``, then constant."""

    start: float
    end: float
    until: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.until <= 1.0:
            raise ValueError(
                f"until is the progress at which the curve ends and must lie in (0, 1], got {self.until}"
            )

    def __call__(self, progress: float) -> float:
        """The weight at ``progress``."""
        done = min(max(progress, 0.0) / self.until, 1.0)
        return self.end + (self.start - self.end) * 0.5 * (1.0 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Steps:
    """One value after another: ``values[i]`` before progress ``until[i]``, and the last one from there on.

    ``Steps((0, 1), (0.5,))`` is 0 in the first half of training and 1 in the second.
    """

    values: tuple[float, ...]
    until: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        object.__setattr__(self, "until", tuple(self.until))
        if len(self.until) != len(self.values) - 1:
            raise ValueError(
                f"{len(self.values)} values change at {len(self.values) - 1} places, got {self.until}"
            )
        check_stages(self.until)

    def __call__(self, progress: float) -> float:
        """The value at ``progress``."""
        return self.values[bisect.bisect_right(self.until, progress)]


def check_stages(until: tuple[float, ...]) -> None:
    """Refuse ends of stages that are no increasing places within training."""
    if list(until) != sorted(set(until)) or not all(0.0 <= place <= 1.0 for place in until):
        raise ValueError(f"stages end at increasing places of the progress, in [0, 1], got {until}")


@dataclass(frozen=True)
class Product:
    """The product of two weights, each a number or a schedule: what scaling a scheduled term means."""

    first: Weight
    second: Weight

    def __call__(self, progress: float) -> float:
        """The weight at ``progress``."""
        return weight_at(self.first, progress) * weight_at(self.second, progress)


def times(first: Weight, second: Weight) -> Weight:
    """The product of two weights, kept a number where both are, or where one is 0."""
    if first == 0.0 or second == 0.0:
        return 0.0
    if callable(first) or callable(second):
        if first == 1.0 or second == 1.0:
            return second if first == 1.0 else first
        return Product(first, second)
    return first * second


def weight_at(weight: Weight, progress: float | None) -> float:
    """The number behind a weight; a schedule needs the progress."""
    if not callable(weight):
        return weight
    if progress is None:
        raise ValueError(
            f"the objective has a scheduled weight, {weight}: "
            "pass progress=... (0 at the start of training, 1 at its end)"
        )
    return float(weight(progress))
