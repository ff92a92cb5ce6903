"""The distance to the decision boundary, from both sides: what no attack can beat, and what an attack has reached.

Inside its linear region a network is linear, and how far its nearest boundary is has a closed form (claim B7). That
distance, or the region's border where it comes first, is a lower bound: no smaller perturbation changes the class. It
needs no box, so it holds in every box too. A minimal-norm attack gives a misclassified point and with it an upper
bound.

The lower bound is a theorem in real numbers about networks whose kinks are all seen, and is computed in float64: it is
no proof about the rounding of any float32 network.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.attacks import FAB
from robustreg.attacks.minimal import MinimalNorm
from robustreg.connections.case import Case
from robustreg.connections.quantities import boundary_step, margin_distance
from robustreg.connections.regions import AFFINE_HERE, affine_between, border_distance, unread
from robustreg.threat import Threat

DUAL = {1.0: float("inf"), 2.0: 2.0, float("inf"): 1.0}
STEPS, TARGETS = 40, 3


@dataclass(frozen=True)
class Sandwich:
    """Bounds of each sample's distance to the nearest misclassified point, ``[B]`` each.

    Attributes:
        threat: the norm, and the box that the upper bound respects.
        margin: where the linear piece that the sample is on would change its class; 0 for a wrong sample.
        border: how far that piece reaches.
        certified: where the lower bound is one: all kinks can be read (the network does not compare or sort out by
            hand), the logits are affine at the sample, and were seen to be affine up to the bound, towards the nearest
            boundary and in a random direction.
        upper: distance of a misclassified point that an attack found; infinite where it found none.
    """

    threat: Threat
    margin: Tensor
    border: Tensor
    certified: Tensor
    upper: Tensor

    @property
    def lower(self) -> Tensor:
        """No perturbation shorter than this changes the class ``[B]``; 0 without a certificate."""
        return torch.where(self.certified, torch.minimum(self.margin, self.border), 0.0)

    @property
    def exact(self) -> Tensor:
        """Where the boundary is in the sample's own region ``[B]``: without a box, the distance *is* the bound."""
        return self.certified & (self.margin <= self.border)

    @property
    def refuted(self) -> Tensor:
        """Where an attack got nearer than the lower bound ``[B]``, which would show an error in the bound."""
        return self.upper < self.lower * (1 - 1e-9)


def distance_bounds(case: Case, norm: str = "l2", attack: MinimalNorm | None = None) -> Sandwich:
    """Both bounds for every sample of a case.

    Args:
        case: its samples must lie in its threat's bounds; its radius plays no part.
        norm: ``"l1"``, ``"l2"`` or ``"linf"``.
        attack: for the upper bound; by default a short ``FAB`` on the three most likely other classes.

    Raises:
        ValueError: another norm, or an attack in another norm or box.
    """
    threat = Threat(norm, case.threat.eps, bounds=case.threat.bounds)
    if threat.norm not in DUAL:
        raise ValueError(f"distances are bounded in l1, l2 and linf, not in {norm}")
    attack = attack or FAB(threat, steps=STEPS, targets=TARGETS)
    if (attack.threat.norm, attack.threat.bounds) != (threat.norm, threat.bounds):
        raise ValueError(
            f"the attack should have the norm {norm} and the case's box, but has {attack.threat}"
        )
    margin, border = margin_distance(case, DUAL[threat.norm]), border_distance(case, threat.norm)
    reach = torch.minimum(margin, border)
    certified = AFFINE_HERE.measure(case)
    if unread(case):
        certified = torch.zeros_like(certified)
    for direction in (boundary_step(case, norm), _anywhere(case, threat)):
        end = case.x + numerics.as_rows(torch.where(reach.isfinite(), reach, 1.0), case.x) * 0.999 * direction
        certified = certified & affine_between(case, case.x, end)
    _, upper = attack.minimal(
        case.model, case.x, case.y, generator=torch.Generator(case.x.device).manual_seed(case.seed)
    )
    return Sandwich(threat, margin, border, certified, upper.double())


def _anywhere(case: Case, threat: Threat) -> Tensor:
    """Random unit steps ``[B, ...]``, at the corners of an l1 or linf ball."""
    return _unit(case.direction.reshape(case.x.shape), threat)


def _unit(slope: Tensor, threat: Threat) -> Tensor:
    return Threat(threat.norm, 1.0, bounds=None).steepest(slope)
