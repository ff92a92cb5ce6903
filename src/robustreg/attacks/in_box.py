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
    return Slopes(normal, threat).to_zero(x, gap)


class Slopes:
    """Affine functions of known gradient, made ready to be followed to 0 from several points: see ``to_hyperplane``.

    Args:
        normal: their gradients ``[B, ...]``, in float32 or float64.
        threat: gives the norm and the box.
    """

    def __init__(self, normal: Tensor, threat: Threat) -> None:
        self._threat = threat
        rows = numerics.flatten(normal)
        largest = rows.abs().amax(1, keepdim=True)  # NaN and infinity come through
        self._sound = largest.isfinite()
        self._rows = torch.where(self._sound, rows, 0.0)
        # In units of the largest weight, so that the scale of the logits plays no part.
        self._unit = torch.where(self._sound & (largest > 0), largest, 1.0)
        self._weight = self._rows.abs() / self._unit
        self._order: tuple[Tensor, Tensor] | None = None

    def to_zero(self, x: Tensor, gap: Tensor) -> Tensor:
        """The shortest way ``[B, ...]`` to where the function that is ``gap [B]`` at ``x [B, ...]`` is 0."""
        gap = gap.to(self._rows.dtype).unsqueeze(1)
        towards = -gap.sign()  # along the gradient or against it
        direction = self._rows * towards
        room = _room(x, direction, self._threat)
        need = torch.where(self._sound & gap.isfinite(), gap.abs(), 0.0) / self._unit
        if self._threat.norm == 1:
            room = torch.where(self._weight > 0, room, 0.0)
            far = _dearest_first(*self._sorted(), room, need)
        else:
            far = _shortest(self._weight, room, need, self._threat.norm)
        return torch.copysign(far, direction).reshape(x.shape)

    def _sorted(self) -> tuple[Tensor, Tensor]:
        if self._order is None:
            ordered, order = self._weight.sort(dim=1, descending=True)
            self._order = ordered, order
        return self._order


def project_l1_in_box(delta: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """The point ``x + d [B, ...]`` nearest to ``x + delta`` (Euclidean) with ``||d||_1 <= eps`` and in the box.

    ``d_i = sign(delta_i) * min(max(|delta_i| - theta, 0), room_i)`` with the smallest ``theta >= 0`` that makes it
    short enough (Croce and Hein 2021, "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers",
    proposition 2.1).
    """
    rows = numerics.upcast(numerics.flatten(delta))
    size = rows.abs()
    room = _room(x, rows, threat)
    far = size.minimum(room)
    length = far.sum(1, keepdim=True)
    # Where the box alone makes it short enough, but for rounding, theta is 0: all of Square's moves on grey images.
    rounding = 8 * torch.finfo(size.dtype).eps
    long = (length > threat.eps * (1 + rounding)).squeeze(1).nonzero().squeeze(1)
    if long.numel():
        theta = _threshold(size[long], room[long], threat.eps)
        far[long] = (size[long] - theta).clamp(min=0).minimum(room[long])
        length = far.sum(1, keepdim=True)
    far = far * torch.where(length > threat.eps, threat.eps / length, 1.0)  # what rounding left outside
    return threat.clip(x + (far * rows.sign()).reshape(x.shape).to(x.dtype))


def _threshold(size: Tensor, room: Tensor, eps: float) -> Tensor:
    """The ``theta [b, 1]`` at which ``sum min(max(size - theta, 0), room)`` is ``eps``, where it is more at 0."""
    # The sum of the sizes is piecewise linear in theta: it grows by one a unit, as theta falls, from |delta_i| on, and
    # no more from |delta_i| - room_i on.
    corners, order = torch.cat([size, (size - room).clamp(min=0)], 1).sort(dim=1, descending=True)
    change = torch.cat([torch.ones_like(size), -torch.ones_like(size)], 1).gather(1, order)
    slope = change.cumsum(1)
    width = -corners.diff(dim=1, append=torch.zeros_like(corners[:, :1]))
    reached = (slope * width).cumsum(1)  # the sum when theta is at the next corner
    short = (reached < eps).sum(1, keepdim=True).clamp(max=corners.shape[1] - 1)
    over = reached.gather(1, short) - eps
    following = corners.gather(1, short) - width.gather(1, short)
    return following + (over / slope.gather(1, short).clamp(min=1)).clamp(min=0)


def _room(x: Tensor, direction: Tensor, threat: Threat) -> Tensor:
    """How far each feature of ``x [B, ...]`` can move in the direction's sense, ``[B, D]``."""
    low, high = sides(threat, x)
    up, down = numerics.flatten((high - x).expand_as(x)), numerics.flatten((x - low).expand_as(x))
    return torch.where(direction > 0, up, down).clamp(min=0)


def _shortest(weight: Tensor, room: Tensor, need: Tensor, p: float) -> Tensor:
    """The ``m [B, D]`` of least p-norm with ``weight . m = need [B, 1]`` and ``0 <= m <= room``, or all the room.

    Where it is free, m is a multiple of ``weight^(1 / (p - 1))``: ``m = min(rate * t, room)`` for one t. What that buys
    is a concave function of t, so Newton's steps from the left never overshoot, and they end at the exact t once no
    feature comes to its end any more: after four or five steps, of a few passes each, where a sort would take many.
    """
    if p == 2:
        rate = weight
    else:
        rate = torch.where(
            weight > 0, torch.ones_like(weight) if p == math.inf else weight.pow(1 / (p - 1)), 0.0
        )
    gain = weight if p == math.inf else weight * rate
    most = torch.finfo(weight.dtype).max
    free, t = weight > 0, torch.zeros_like(need)
    bought = torch.zeros_like(need)
    while True:
        slope = (gain * free).sum(1, keepdim=True)
        more = (need - bought).clamp(min=0) / torch.where(slope > 0, slope, 1.0)
        t = (t + torch.where(slope > 0, more, 0.0)).clamp(max=most)
        reach = rate * t
        far = reach.minimum(room)
        still = free & (reach < room)
        if torch.equal(still, free):
            return far
        free, bought = still, (weight * far).sum(1, keepdim=True)


def _dearest_first(ordered: Tensor, order: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """``_shortest`` for p = 1, from the weights in falling order: the largest go as far as they can, one by one."""
    space = room.gather(1, order)
    bought = ordered * space
    before = torch.cat([torch.zeros_like(need), bought.cumsum(1)[:, :-1]], 1)
    share = (need - before).clamp(min=0) / torch.where(ordered > 0, ordered, 1.0)
    return torch.zeros_like(room).scatter(1, order, share.minimum(space))
