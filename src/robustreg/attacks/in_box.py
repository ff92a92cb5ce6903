"""Shortest perturbations that stay in the box, exact, for every row of a batch at once.

``x`` lies in the box, and ``room`` says how far each feature can go in the direction in which it is to move. What is
sought is how far it does go. Every condition is piecewise linear in one number, which a sort of its corners finds.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustreg import bounds as box
from robustreg import numerics
from robustreg.threat import Threat


def sides(threat: Threat, x: Tensor) -> tuple[Tensor, Tensor]:
    """The threat's box in the dtype of ``x [B, ...]``: two tensors that broadcast to it, infinite where it is open."""
    low, high = threat.bounds or (-math.inf, math.inf)
    fitted = (torch.as_tensor(box.fit(side, x), dtype=x.dtype, device=x.device) for side in (low, high))
    return next(fitted), next(fitted)


def to_hyperplane(x: Tensor, gap: Tensor, normal: Tensor, threat: Threat) -> Tensor:
    """The shortest ``d [B, ...]`` in the threat's norm with ``gap + normal . d = 0`` and ``x + d`` in the box.

    Where the box does not reach the hyperplane, ``d`` goes as near to it as it can: every feature that counts to its
    end of the box. Where gap or normal are not finite, or the normal is 0, ``d = 0``. This is the projection of FAB
    (Croce and Hein 2020, "Minimally distorted adversarial examples with a fast adaptive boundary attack", section 3),
    for every norm from 1 to infinity.

    Args:
        x: points ``[B, ...]`` in the box, in float32 or float64.
        gap: values ``[B]`` of an affine function there.
        normal: its gradients ``[B, ...]``.
        threat: gives the norm and the box.
    """
    rows, gap = numerics.flatten(normal), gap.to(normal.dtype)
    sound = rows.isfinite().all(1) & gap.isfinite()
    rows = torch.where(sound.unsqueeze(1), -gap.sign().unsqueeze(1) * rows, 0.0)  # this way the gap closes
    weight = rows.abs()
    largest = weight.amax(1, keepdim=True)
    largest = torch.where(largest > 0, largest, 1.0)
    room = torch.where(weight > 0, _room(x, rows, threat), 0.0)
    need = torch.where(sound, gap.abs(), 0.0).unsqueeze(1)
    # in units of the largest weight, so that the scale of the logits plays no part
    far = _shortest(weight / largest, room, need / largest, threat.norm)
    return (far * rows.sign()).reshape(x.shape)


def project_l1_in_box(delta: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """The point ``x + d [B, ...]`` nearest to ``x + delta`` (Euclidean) with ``||d||_1 <= eps`` and in the box.

    ``d_i = sign(delta_i) * min(max(|delta_i| - theta, 0), room_i)`` with the smallest ``theta >= 0`` that makes it
    short enough (Croce and Hein 2021, "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers",
    proposition 2.1).
    """
    rows = numerics.upcast(numerics.flatten(delta))
    size = rows.abs()
    room = _room(x, rows, threat)
    # The sum of the sizes is piecewise linear in theta: it grows by one a unit, as theta falls, from |delta_i| on, and
    # no more from |delta_i| - room_i on.
    corners, order = torch.cat([size, (size - room).clamp(min=0)], 1).sort(dim=1, descending=True)
    change = torch.cat([torch.ones_like(size), -torch.ones_like(size)], 1).gather(1, order)
    slope = change.cumsum(1)
    width = -corners.diff(dim=1, append=torch.zeros_like(corners[:, :1]))
    reached = (slope * width).cumsum(1)  # the sum when theta is at the next corner
    short = (reached < threat.eps).sum(1, keepdim=True).clamp(max=corners.shape[1] - 1)
    over = reached.gather(1, short) - threat.eps
    following = corners.gather(1, short) - width.gather(1, short)
    theta = following + (over / slope.gather(1, short).clamp(min=1)).clamp(min=0)
    far = (size - theta).clamp(min=0).minimum(room)
    length = far.sum(1, keepdim=True)
    far = far * torch.where(length > threat.eps, threat.eps / length, 1.0)  # what rounding left outside
    return threat.clip(x + (far * rows.sign()).reshape(x.shape).to(x.dtype))


def _room(x: Tensor, direction: Tensor, threat: Threat) -> Tensor:
    """How far each feature of ``x [B, ...]`` can move in the direction's sense, ``[B, D]``."""
    low, high = sides(threat, x)
    up, down = numerics.flatten((high - x).expand_as(x)), numerics.flatten((x - low).expand_as(x))
    return torch.where(direction > 0, up, down).clamp(min=0)


def _shortest(weight: Tensor, room: Tensor, need: Tensor, p: float) -> Tensor:
    """The ``m [B, D]`` of least p-norm with ``weight . m = need [B, 1]`` and ``0 <= m <= room``, or all the room."""
    if p == 1:
        return _dearest_first(weight, room, need)
    # Where it is free, m is a multiple of weight^(1 / (p - 1)): m = min(rate * t, room) for one t.
    rate = torch.where(weight > 0, weight.pow(1 / (p - 1)), 0.0)
    corner, order = torch.where(rate > 0, room / torch.where(rate > 0, rate, 1.0), 0.0).sort(dim=1)
    gain = (weight * rate).gather(1, order)
    free = (
        gain.flip(1).cumsum(1).flip(1)
    )  # what t buys from a corner's left, the corner's own feature included
    bought = torch.where(corner.isinf(), 0.0, gain * corner)
    before = bought.cumsum(1) - bought
    last = corner.shape[1] - 1
    passed = (before + corner * free < need).sum(1, keepdim=True)
    here = passed.clamp(max=last)
    slope = free.gather(1, here)
    t = (need - before.gather(1, here)) / torch.where(slope > 0, slope, 1.0)
    t = torch.where(passed > last, corner[:, -1:], t)
    return (rate * t).minimum(room)


def _dearest_first(weight: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """``_shortest`` for p = 1: the features of largest weight go as far as they can, one after the other."""
    ordered, order = weight.sort(dim=1, descending=True)
    space = room.gather(1, order)
    bought = ordered * space
    before = torch.cat([torch.zeros_like(need), bought.cumsum(1)[:, :-1]], 1)
    share = (need - before).clamp(min=0) / torch.where(ordered > 0, ordered, 1.0)
    return torch.zeros_like(room).scatter(1, order, share.minimum(space))
