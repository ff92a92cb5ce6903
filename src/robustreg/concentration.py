"""How concentrated a gradient is, sample by sample, and the norm of the steepest step that this asks for.

F. B. Mehouachi and S. E. Jabari, "Adaptive Norm Selection Prevents Catastrophic Overfitting in Fast Adversarial
Training", 2025, arXiv 2505.02360. With `rho = |g| / ||g||_1` over the `d` entries of a sample's gradient, and `q` the
dual exponent of `p`, the cosine between the steepest steps of the l2 and the l_p ball is, to first order in `q - 1`,

    cos(theta_{2,p}) = sqrt(PR1 / d) (1 + (q - 1) dH),    PR1 = (||g||_1 / ||g||_2)^2,    dH = H_m - H.

Every function takes gradients `[B, ...]`, returns `[B]` in at least float32, and is a constant: nothing flows back.
An entry that is exactly 0 takes no part, because no steepest step moves it: `d` counts the others. The measures do not
depend on the gradient's scale; they are 0 for a zero gradient and NaN for one that is not finite.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.threat import steepest_direction

__all__ = [
    "adaptive_exponent",
    "cosine",
    "entropy",
    "entropy_gap",
    "log_mean_entropy",
    "participation_ratio",
]

LEAST_EXCESS = 0.00098
"""The smallest `q - 1` of the authors' code, whose p is then about 1021."""


def participation_ratio(g: Tensor) -> Tensor:
    """`PR1 = (||g||_1 / ||g||_2)^2`: over how many entries the gradient is spread, from 1 to all of them."""
    sizes = _sizes(g)
    return _or_zero(sizes, sizes.sum(1).square(), sizes.square().sum(1))


def entropy(g: Tensor) -> Tensor:
    """`H = -sum rho log rho` in nats, from 0 (one entry) to `log d` (all entries equal)."""
    sizes = _sizes(g)
    total = sizes.sum(1)
    return _or_zero(sizes, total * _log(total) - (sizes * _log(sizes)).sum(1), total)


def log_mean_entropy(g: Tensor) -> Tensor:
    """`H_m = -(1/d) sum log rho` in nats, at least `log d`: minus the logarithm of rho's geometric mean."""
    sizes = _sizes(g)
    entries = (sizes > 0).sum(1)
    return _or_zero(sizes, entries * _log(sizes.sum(1)) - _log(sizes).sum(1), entries)


def entropy_gap(g: Tensor) -> Tensor:
    """`dH = H_m - H` in nats: 0 where all entries are equal, `log 2` for many normal ones.

    It is the slope of `log cos(theta_{2,p})` in `q` at `q = 1`, and driven by the smallest entries as much as by the
    largest.
    """
    sizes = _sizes(g)
    logs = _log(sizes)
    own = _or_zero(sizes, (sizes * logs).sum(1), sizes.sum(1))
    return (own - _or_zero(sizes, logs.sum(1), (sizes > 0).sum(1))).clamp(min=0)


def cosine(g: Tensor, p: float | Tensor = float("inf")) -> Tensor:
    """The cosine between the steepest steps of the l2 and the l_p ball, `sqrt(PR1 / d)` for `p = inf`.

    Args:
        g: gradients `[B, ...]`.
        p: the exponent, or one for each sample `[B]`, in [1, inf].
    """
    sizes = _sizes(g)
    step = steepest_direction(sizes, p)
    lengths = numerics.norm(sizes, 2.0) * numerics.norm(step, 2.0)
    return _or_zero(sizes, (sizes * step).sum(1), lengths)


def adaptive_exponent(g: Tensor, rule: Literal["relative", "absolute"], amount: float) -> Tensor:
    """The exponent `p` of each sample's steepest step, `p = q / (q - 1)` with `q` kept in [1.00098, 2].

    `"relative"` is the authors' code: `q = 1 + amount / dH`, which makes the cosine `1 + amount` times that of the
    sign, to first order. A gradient of larger `dH` gets a larger `p`, nearer to the sign.
    `"absolute"` asks for a cosine of `amount`, to first order, where the sign's is less:
    `q = 1 + max(0, amount sqrt(d / PR1) - 1) / dH`. A gradient whose sign is further from it gets a smaller `p`.

    Args:
        g: gradients `[B, ...]`.
        rule: which of them.
        amount: the paper's `beta` for `"relative"`, its `tau` for `"absolute"`.
    """
    gap = entropy_gap(g)
    wanted = torch.full_like(gap, amount) if rule == "relative" else (amount / cosine(g) - 1).clamp(min=0)
    # entries that are all equal have no gap: whatever the exponent, they keep their cosine of 1
    excess = torch.where(wanted > 0, wanted / gap, 0.0)
    return 1 + 1 / torch.nan_to_num(excess, nan=0.0).clamp(LEAST_EXCESS, 1.0)


def _sizes(g: Tensor) -> Tensor:
    """`|g|` of each sample as rows `[B, D]` whose largest entry is 1, so that nothing under- or overflows."""
    rows = numerics.flatten(numerics.upcast(g.detach())).abs()
    largest = numerics.norm(rows, float("inf")).unsqueeze(1)
    return rows / torch.where(largest > 0, largest, 1.0)


def _log(sizes: Tensor) -> Tensor:
    """The logarithm, 0 at 0."""
    return torch.where(sizes == 0, 1.0, sizes).log()


def _or_zero(sizes: Tensor, value: Tensor, divisor: Tensor) -> Tensor:
    """`value / divisor`, and 0 for samples whose sizes are all 0, where the divisor is too."""
    nothing = (sizes == 0).all(1)
    return torch.where(nothing, 0.0, value / torch.where(nothing, 1.0, divisor))
