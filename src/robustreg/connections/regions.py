"""Conditions of claims, measured: linear regions, piecewise linearity, two classes, homogeneity.

Nothing is read off a network's class. Whether logits are affine between two points is seen in the codes of all kinks
(equal codes mean one convex linear region) *and* in the logits themselves, so that a kink or a smooth operation that
nobody knows of shows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustreg.connections.case import Case
from robustreg.connections.claim import Claim, Condition, Residual
from robustreg.connections.kinks import Kinks

TINY = 1e-9  # relative; float64 leaves some 1e-13 after a network of ordinary depth
PROBES = 4
LENGTHS = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)  # below, too little is left above rounding


def codes(case: Case, x: Tensor) -> Tensor:
    """Which piece every piecewise linear unit is on at ``x``: ``[B, K]``, with K = 0 for a smooth network."""
    with torch.no_grad(), Kinks() as kinks:
        case.logits_at(x)
    return torch.cat(kinks.codes, 1) if kinks.codes else x.new_zeros(x.shape[0], 0, dtype=torch.long)


def unread(case: Case) -> set[str]:
    """Operations of the network by which it may bend without its showing in the codes, by name."""
    with torch.no_grad(), Kinks() as kinks:
        case.logits_at(case.x)
    names: set[str] = kinks.unread
    return names


def affine_between(case: Case, x: Tensor, u: Tensor) -> Tensor:
    """Whether the logits are affine on the segment from ``x`` to ``u``, ``[B]``."""
    same = (codes(case, x) == codes(case, u)).all(1)
    start, end = case.logits_at(x), case.logits_at(u)
    scale = torch.maximum(start.abs().amax(1), end.abs().amax(1)).clamp(min=1e-6)
    for t in (0.25, 0.5, 0.8):
        off = (case.logits_at(x + t * (u - x)) - (start + t * (end - start))).abs().amax(1)
        same = same & (off <= TINY * scale * _small(end - start, scale))
    # along a short segment a curved function is straight to rounding as well: the slope must be the same at both ends
    change = end - start
    v = (u - x).flatten(1)
    slope = torch.einsum("bkd,bd->bk", case.jacobian_at(x), v)
    return same & ((change - slope).abs().amax(1) <= TINY * change.abs().amax(1) + 1e-13 * scale)


def _smooth(case: Case) -> Tensor:
    """Whether the logits bend smoothly, or not at all, on the segment from ``x`` to ``x + d``.

    Their slope along it is looked at in five places: a kink is a jump of it, between two of them.
    """
    same = (codes(case, case.x) == codes(case, case.end)).all(1)
    slopes = torch.stack(
        [
            torch.einsum("bkd,bd->bk", case.jacobian_at(case.x + t * (case.end - case.x)), case.displacement)
            for t in (0.0, 0.25, 0.5, 0.75, 1.0)
        ]
    )
    whole = (slopes[-1] - slopes[0]).abs().amax(1)
    jump = (slopes[2:] - 2 * slopes[1:-1] + slopes[:-2]).abs().amax((0, 2))
    rounding = 1e-10 * slopes.abs().amax((0, 2)) + 1e-13 * case.radius * case.logits.abs().amax(1)
    return same & (jump <= 0.25 * whole + rounding)


def _small(change: Tensor, scale: Tensor) -> Tensor:
    """What of the scale a segment's error is measured by: rounding of the logits, or their change."""
    return (change.abs().amax(1) / scale).clamp(min=1e-4)


def _same_region(case: Case) -> Tensor:
    return affine_between(case, case.x, case.end)


def _same_region_at_every_radius(case: Case) -> Tensor:
    return affine_between(case, case.x, case.end)  # a segment contains the shorter ones


def _affine_here(case: Case) -> Tensor:
    """Whether the logits' second derivatives vanish at the sample, along random directions for random classes."""
    generator = torch.Generator().manual_seed(case.seed + 1)
    flat = torch.ones(case.x.shape[0], dtype=torch.bool, device=case.x.device)
    size = case.jacobian.square().sum((1, 2)).sqrt().clamp(min=1e-12)
    for _ in range(PROBES):
        v, w = (
            torch.randn(shape, generator=generator, dtype=torch.float64).to(case.x.device)
            for shape in (case.flat.shape, case.logits.shape)
        )
        u = case.x.detach().requires_grad_()
        with torch.enable_grad():
            (g,) = torch.autograd.grad((w * case.logits_at(u)).sum(), u, create_graph=True)
            along = (g.flatten(1) * v).sum()
            bent = None
            if along.requires_grad:
                (bent,) = torch.autograd.grad(along, u, allow_unused=True)
        if bent is not None:
            flat = flat & (bent.flatten(1).norm(dim=1) <= TINY * size)
    return flat


def _two_classes(case: Case) -> Tensor:
    return torch.full((case.x.shape[0],), case.logits.shape[1] == 2, device=case.x.device)


def _homogeneous(case: Case) -> Tensor:
    """``z(t x) = t z(x)`` for two t within one region of rays: no biases that matter."""
    scale = case.logits.abs().amax(1).clamp(min=1e-12)
    off = [(case.logits_at(t * case.x) - t * case.logits).abs().amax(1) for t in (0.5, 1.5)]
    return torch.stack(off).amax(0) <= TINY * scale


def _right(case: Case) -> Tensor:
    return case.logits.argmax(1) == case.y


AFFINE_HERE = Condition("the logits are affine around the sample", _affine_here)
SAME_REGION = Condition("one linear region from x to x + d", _same_region)
SMOOTH = Condition("no kink from x to x + d", _smooth)
BINARY = Condition("two classes", _two_classes)
BIAS_FREE = Condition("a network without biases: z(t x) = t z(x)", _homogeneous)
CORRECT = Condition("the sample is classified correctly", _right)


def fitting_radius(case: Case, share: float = 0.5) -> float:
    """The largest of some radii at which a share of the samples stay in their linear region along their direction.

    The smallest one where none is small enough; for a network without regions ``case.radius``.
    """
    affine = case.measured(AFFINE_HERE.measure)
    if not bool(affine.any()):
        return case.radius
    for radius in LENGTHS:
        stays = SAME_REGION.measure(case.at_radius(radius)) & affine
        if float(stays.double().sum()) >= share * float(affine.double().sum()):
            return radius
    return LENGTHS[-1]


def telling_residual(claim: Claim, case: Case) -> Residual:
    """A claim's residual; of a claim to an order at a longer radius where there is no error above rounding.

    A short displacement leaves many samples in their region, and may leave nothing to see on any. Then it is the
    longest of some radii at which the claim applies to a sample and has an error.
    """
    found = claim.residual(case)
    if found.order != math.inf:
        return found
    for radius in [length for length in LENGTHS if length > case.radius]:
        longer = claim.residual(case.at_radius(radius))
        if longer.verdict != "does not apply" and longer.order != math.inf:
            return longer
    return found


def border_distance(case: Case, p: float, chunk: int = 256) -> Tensor:
    """How far, in the norm ``p``, each sample is from the border of its linear region, ``[B]``.

    Inside the region every kink's margin is affine in the input, so its distance is exactly its margin over the dual
    norm of the margin's gradient. Infinite for a network that is affine everywhere; meaningless for a smooth one.
    """
    dual = {1.0: float("inf"), 2.0: 2.0, float("inf"): 1.0}[p]
    found = []
    for i in range(case.x.shape[0]):
        u = case.x[i : i + 1].detach().requires_grad_()
        with torch.enable_grad(), Kinks() as kinks:
            case.logits_at(u)
        margins = torch.cat(kinks.margins, 1)[0] if kinks.margins else u.new_zeros(0)
        margins = margins[torch.isfinite(margins.detach())]
        nearest = torch.tensor(float("inf"), dtype=torch.float64, device=u.device)
        for start in range(0, len(margins) if margins.requires_grad else 0, chunk):
            part = margins[start : start + chunk]
            eye = torch.eye(len(part), dtype=part.dtype, device=part.device)
            (rows,) = torch.autograd.grad(part, u, eye, retain_graph=True, is_grads_batched=True)
            slope = torch.linalg.vector_norm(rows.flatten(1), ord=dual, dim=1)
            reach = torch.where(slope > 0, part.detach() / torch.where(slope > 0, slope, 1.0), float("inf"))
            nearest = torch.minimum(nearest, reach.min())
        found.append(nearest)
    return torch.stack(found)
