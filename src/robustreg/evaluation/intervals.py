"""Confidence intervals for accuracies."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple


class Interval(NamedTuple):
    """Both ends of a confidence interval of a fraction, in [0, 1]."""

    low: float
    high: float


def wilson(k: int, n: int, level: float = 0.95) -> Interval:
    """Return the Wilson score interval of k successes in n trials.

    Unlike the usual `p +- z sqrt(p (1 - p) / n)` it stays inside [0, 1] and does not shrink to a point when
    k is 0 or n (E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927).
    At k = 0 the lower end is exactly 0, at k = n the upper end is exactly 1.

    Args:
        k: number of successes, 0 <= k <= n.
        n: number of trials, at least 1.
        level: confidence level in (0, 1).

    Raises:
        ValueError: for k, n or level out of range.
    """
    if n < 1:
        raise ValueError(f"an interval needs at least one sample, got n = {n}")
    if not 0 <= k <= n:
        raise ValueError(f"the number of successes must lie in 0..{n}, got {k}")
    if not 0.0 < level < 1.0:
        raise ValueError(f"the confidence level must lie strictly between 0 and 1, got {level}")
    z2 = NormalDist().inv_cdf(0.5 + level / 2.0) ** 2
    # The ends are the roots of (p - k/n)^2 = z^2 p (1 - p) / n. Each is taken in the form that subtracts
    # nothing where it matters, so that the ends at k = 0 and k = n come out exact.
    half = math.sqrt(z2) * math.sqrt(k * (n - k) / n + z2 / 4.0)
    low = 0.0 if k == 0 else (k + z2 / 2.0 - half) / (n + z2)
    high = 1.0 if k == n else (k + z2 / 2.0 + half) / (n + z2)
    return Interval(max(0.0, low), min(1.0, high))


def order_ranks(n: int, q: float = 0.5, level: float = 0.95) -> tuple[int, int]:
    """Return the ranks (l, u) of the order statistics between which the q-quantile of a distribution lies.

    Of n draws, sorted, the l-th and the u-th smallest are an interval that holds the quantile with at least the
    given probability, whatever the distribution (W. R. Thompson, "On confidence ranges for the median and other
    expectation distributions", 1936). Rank 0 stands for the smallest possible value and n + 1 for the largest: there
    are too few draws for an end.

    Raises:
        ValueError: for n, q or level out of range.
    """
    if n < 1:
        raise ValueError(f"an interval needs at least one sample, got n = {n}")
    if not (0.0 < q < 1.0 and 0.0 < level < 1.0):
        raise ValueError(f"quantile and level must lie strictly between 0 and 1, got {q} and {level}")
    # How many draws lie below the quantile is binomial; what may lie outside on either side is half of 1 - level.
    terms = [
        math.exp(
            math.lgamma(n + 1)
            - math.lgamma(k + 1)
            - math.lgamma(n - k + 1)
            + k * math.log(q)
            + (n - k) * math.log1p(-q)
        )
        for k in range(n + 1)
    ]
    outside = (1.0 - level) / 2.0
    lower, below = 0, 0.0
    while lower < n and below + terms[lower] <= outside:
        below += terms[lower]
        lower += 1
    upper, above = n + 1, 0.0
    while upper > lower + 1 and above + terms[upper - 1] <= outside:
        above += terms[upper - 1]
        upper -= 1
    return lower, upper
