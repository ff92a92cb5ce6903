"""Euclidean projections onto l_p balls, vectorised over the rows of a batch `[B, D]`.

`Threat.project_ball` chooses among them; they expect rows in float32 or float64 and a radius > 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustreg import numerics

__all__ = ["project_l1", "project_l2", "project_lp"]


def project_l2(rows: Tensor, radius: float) -> Tensor:
    """Return the nearest points of the l2 ball: rows outside it are scaled onto its surface."""
    length = numerics.norm(rows, 2).unsqueeze(1)
    outside = length > radius
    return torch.where(outside, rows / torch.where(outside, length, 1.0) * radius, rows)


def project_l1(rows: Tensor, radius: float) -> Tensor:
    """Return the nearest points of the l1 ball (Duchi, Shalev-Shwartz, Singer and Chandra 2008, figure 1).

    Soft thresholding, `sign(v) * max(|v| - theta, 0)`, where theta follows from the sorted absolute values.
    """
    size = rows.abs()
    # Thresholding is unchanged by a shift of sizes and theta alike, and at most `radius` of the largest entry
    # survives. So we shift the largest to 0 and forget what lies far below -radius: all sums are then of the
    # order of the radius, however far outside the point is, and float32 is enough. (Cutting at -radius itself
    # would put every forgotten entry exactly on the condition below.)
    size = (size - size.amax(1, keepdim=True)).clamp(min=-2 * radius)
    ordered = size.sort(dim=1, descending=True).values
    excess = ordered.cumsum(1) - radius
    count = torch.arange(1, rows.shape[1] + 1, device=rows.device)
    kept = ((ordered * count > excess) * count).amax(1, keepdim=True).clamp(min=1)
    theta = excess.gather(1, kept - 1) / kept
    near = (size - theta).clamp(min=0)
    # What rounding left outside is scaled back.
    near = near / (near.sum(1, keepdim=True) / radius).clamp(min=1) * rows.sign()
    return torch.where(numerics.norm(rows, 1).unsqueeze(1) > radius, near, rows)


@torch.no_grad()
def project_lp(rows: Tensor, radius: float, p: float) -> Tensor:
    """Return the nearest points of the l_p ball, 1 < p < inf, numerically to 1e-6 of the radius; detached.

    With c = |v| / radius and t = |result| / radius the optimality conditions are
    `t_i + mu * t_i^(p-1) = c_i` and `||t||_p = 1`. Each t_i(mu) falls as mu grows, so mu is the root of one
    monotone function per row: Newton steps inside a shrinking bracket, in float64 where the device has it.
    """
    work = rows if rows.device.type == "mps" else rows.double()
    c, tiny = work.abs() / radius, torch.finfo(work.dtype).tiny
    # Hoelder and the triangle inequality in the dual norm, applied to the conditions, enclose mu.
    dual = numerics.dual_exponent(p)
    high = numerics.norm(c, dual).unsqueeze(1)
    low = (high - max(1.0, rows.shape[1] ** (1 / dual - 1 / p))).clamp(min=1e-30)
    high = torch.maximum(high, low)
    mu = low
    outer, inner = _newton_steps(p)
    for _ in range(outer):
        t, power = _coordinates(c, mu, p, inner)
        length = numerics.norm(t, p).unsqueeze(1)
        low, high = torch.where(length > 1, mu, low), torch.where(length > 1, high, mu)
        # ||t||^(1-p) is nearly linear in mu (exactly so for p = 2), which is why we find its root.
        falls = power.square() * t / (t + mu * (p - 1) * power).clamp(min=tiny)
        rate = (p - 1) * falls.sum(1, keepdim=True) / length.pow(p)
        step = mu + (length.pow(p - 1) - 1) / rate
        mu = torch.where((step >= low) & (step <= high), step, (low + high) / 2)
    t, _ = _coordinates(c, mu, p, inner)
    t = t / numerics.norm(t, p).unsqueeze(1).clamp(min=1)
    outside = numerics.norm(c, p).unsqueeze(1) > 1
    return torch.where(outside, (rows.sign() * t * radius).to(rows.dtype), rows)


def _newton_steps(p: float) -> tuple[int, int]:
    """How many steps the multiplier and, given it, the coordinates take: fixed, so that no branch reads data.

    Both converge quadratically. For p from 1.0001 to 1e6 the error is below 1e-6 of the radius (see the tests),
    for the first case close to rounding.
    """
    return (10, 6) if 1.1 <= p <= 10 else (16, 12)


def _coordinates(c: Tensor, mu: Tensor, p: float, steps: int) -> tuple[Tensor, Tensor]:
    """Solve t + mu * t^(p-1) = c for each entry; return t and t^(p-1).

    In s = t for p >= 2, in s = t^(p-1) for p < 2, this reads a * s^r + b * s = c with r >= 1: convex, so that
    Newton's method comes down to the root monotonically from the start below.
    """
    if p >= 2:
        r, a, b = p - 1, mu, torch.ones_like(mu)
    else:
        r, a, b = 1 / (p - 1), torch.ones_like(mu), mu
    if r == 2:  # p = 3/2 and p = 3: the root in closed form, without cancellation
        s = 2 * c / (b + (b.square() + 4 * a * c).sqrt())
        return (s, s.square()) if p >= 2 else (s.square(), s)
    s = torch.minimum((c / a).pow(1 / r), c / b)
    for _ in range(steps):
        slope = a * s.pow(r - 1)
        s = (c + (r - 1) * slope * s) / (r * slope + b)
    return (s, s.pow(p - 1)) if p >= 2 else (s.pow(r), s)
