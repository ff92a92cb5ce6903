"""Time several functions against each other in one process, turn by turn, so that a noisy machine hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds of one function, turn by turn."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def ratio_to(self, other: Timing) -> tuple[float, float, float]:
        """Median and quartiles of the turn-by-turn ratios to another function."""
        ratios = sorted(a / b for a, b in zip(self.seconds, other.seconds, strict=True))
        low, middle, high = statistics.quantiles(ratios, n=4)
        return middle, low, high


def interleaved(
    functions: Mapping[str, Callable[[], object]], turns: int, warm_up: int = 3
) -> dict[str, Timing]:
    """Run every function once a turn, in an order that alternates, and time each run."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    names = list(functions)
    for turn in range(warm_up + turns):
        for name in names if turn % 2 == 0 else reversed(names):
            start = time.perf_counter()
            functions[name]()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return {name: Timing(s) for name, s in seconds.items()}
