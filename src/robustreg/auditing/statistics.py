"""Values with their 95 % intervals: Wilson's for shares of samples, the bootstrap's for means and medians."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from robustreg.evaluation import wilson

RESAMPLES = 1000
_MANY = 10_000


class Estimate(NamedTuple):
    """A value and the ends of its 95 % interval; NaN where nothing could be counted."""

    value: float
    low: float
    high: float

    def percent(self) -> str:
        """As `12.5 % (8.0 to 18.9)`."""
        return f"{100 * self.value:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f})"

    def number(self) -> str:
        """As `0.93 (0.91 to 0.95)`; beyond ten thousand nobody wants to know."""
        if self.low > _MANY:
            return f"over {_MANY:,}"
        value, low, high = (f"over {_MANY:,}" if v > _MANY else f"{v:.3g}" for v in self)
        return f"{value} ({low} to {high})"


def share(mask: Tensor) -> Estimate:
    """The share of True in a mask `[N]` with its Wilson interval; 0 without samples, with nothing known."""
    if len(mask) == 0:
        return Estimate(0.0, 0.0, 1.0)
    count = int(mask.sum())
    return Estimate(count / len(mask), *wilson(count, len(mask)))


def mean(values: Tensor, seed: int = 0) -> Estimate:
    """The mean of the finite values `[N]` with its percentile bootstrap interval."""
    return _bootstrapped(np.mean, values, seed)


def median(values: Tensor, seed: int = 0) -> Estimate:
    """The median of the finite values `[N]` with its percentile bootstrap interval."""
    return _bootstrapped(np.median, values, seed)


def _bootstrapped(statistic: Callable[..., Any], values: Tensor, seed: int) -> Estimate:
    numbers = values.detach().double().cpu().numpy()
    numbers = numbers[np.isfinite(numbers)]
    if len(numbers) == 0:
        return Estimate(math.nan, math.nan, math.nan)
    chosen = np.random.default_rng(seed).integers(0, len(numbers), (RESAMPLES, len(numbers)))
    low, high = np.quantile(statistic(numbers[chosen], axis=1), [0.025, 0.975])
    return Estimate(float(statistic(numbers)), float(low), float(high))
