"""A claim: a statement of theory with its source, its conditions, and what its two sides are on a network of yours.

    residual = CLAIM.residual(Case(model, x, y))
    residual.verdict          # "holds", "violated" or "does not apply"

A claim never assumes its conditions. Each is measured, sample by sample, and a claim speaks of the samples on which all
of them hold. There its two sides must agree to a tolerance; where they do not, the claim is violated, and so is the
theory, its implementation here, or the measurement of a condition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustreg.connections.case import Case

Relation = Literal["=", "<=", "~"]
Status = Literal["published", "derived"]
Verdict = Literal["holds", "violated", "does not apply"]
Sides = Callable[[Case], tuple[Tensor, Tensor]]
RADII = tuple(2.0**-k for k in range(12))


@dataclass(frozen=True)
class Condition:
    """Something that a claim needs of a network and a sample.

    Attributes:
        name: in words, as in "the claim needs ...".
        measure: whether it holds, ``[B]`` booleans.
    """

    name: str
    measure: Callable[[Case], Tensor]


@dataclass(frozen=True)
class Residual:
    """What became of a claim on a batch.

    Attributes:
        left, right: its sides ``[B]`` in float64 (one number each where the claim is about the whole batch, ``[1]``).
        slack: ``right - left`` ``[B]``.
        applies: where all conditions hold ``[B]``.
        holds: where the relation holds within the tolerance ``[B]``, whether or not the claim applies.
        conditions: where each condition holds, by its name.
        tolerance: relative to the larger side, with an absolute floor.
        radii, errors: of a claim that is true to an order: the largest error over the samples at each radius.
        order: the order observed, the slope of log error over log radius.
    """

    left: Tensor
    right: Tensor
    slack: Tensor
    applies: Tensor
    holds: Tensor
    conditions: Mapping[str, Tensor]
    tolerance: float
    relation: Relation = "="
    radii: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()
    order: float | None = None

    @property
    def verdict(self) -> Verdict:
        """In one word, over the samples to which the claim applies."""
        if not bool(self.applies.any()):
            return "does not apply"
        return "holds" if bool(self.holds[self.applies].all()) else "violated"

    @property
    def worst(self) -> float:
        """How far the relation is missed at worst, relative to the larger side; 0 for an inequality that holds."""
        if not bool(self.applies.any()):
            return math.nan
        return float(_excess(self.left, self.right, self.relation)[self.applies].max())


@dataclass(frozen=True)
class Claim:
    """A statement that can be checked on a network.

    Attributes:
        key: its short name, ``"I1"``.
        title: in words.
        latex: the statement.
        source: who says so, and where.
        status: a theorem that was published, or one derived for this library.
        relation: ``"="`` equal, ``"<="`` left at most right, ``"~"`` equal up to ``radius ** order``.
        sides: the left and the right side ``[B]`` in float64; of a claim to an order, at ``case.radius``.
        conditions: what it needs.
        order: of a ``"~"`` claim: the error's order in the radius, at least.
        tolerance: relative.
        of_the_batch: whether the sides are numbers of the whole batch, ``[1]`` each.
        meaning: what it tells a reader.
    """

    key: str
    title: str
    latex: str
    source: str
    status: Status
    relation: Relation
    sides: Sides
    conditions: tuple[Condition, ...] = ()
    order: float | None = None
    tolerance: float = 1e-8
    of_the_batch: bool = False
    meaning: str = ""

    def __post_init__(self) -> None:
        if (self.relation == "~") != (self.order is not None):
            raise ValueError(f"the claim {self.key} must have an order exactly if its relation is '~'")

    def residual(self, case: Case) -> Residual:
        """Both sides on a batch, where the claim applies, and whether it holds there."""
        conditions = {c.name: case.measured(c.measure).to(torch.bool) for c in self.conditions}
        left, right = (side.detach().double() for side in self.sides(case))
        if left.shape != right.shape or left.ndim != 1:
            raise ValueError(
                f"the sides of the claim {self.key} must be [B] both, got {list(left.shape)} and {list(right.shape)}"
            )
        applies = torch.ones(case.x.shape[0], dtype=torch.bool, device=left.device)
        for there in conditions.values():
            applies = applies & there
        if self.of_the_batch:
            applies = applies.all().expand(left.shape[0])
        if self.order is not None:
            return self._to_an_order(case, left, right, applies, conditions)
        holds = _excess(left, right, self.relation) <= self.tolerance
        return Residual(left, right, right - left, applies, holds, conditions, self.tolerance, self.relation)

    def _to_an_order(
        self, case: Case, left: Tensor, right: Tensor, applies: Tensor, conditions: Mapping[str, Tensor]
    ) -> Residual:
        """The error must fall at least as fast as the order says (less a quarter, for what higher orders add)."""
        assert self.order is not None
        radii = tuple(case.radius * r for r in RADII)
        rows = []
        for radius in radii:
            a, b = (side.detach().double() for side in self.sides(case.at_radius(radius)))
            rows.append((a - b).abs())
        errors = torch.stack(rows)  # [R, B]
        # what is left of sides that are small differences of logits and losses of ordinary size
        floor = 1e3 * torch.finfo(torch.float64).eps * (1 + case.logits.abs().amax(1))
        slope = torch.stack([_slope(radii, errors[:, i], float(floor[i])) for i in range(errors.shape[1])])
        holds = slope >= self.order - 0.25
        worst = [float(e[applies].max()) if bool(applies.any()) else math.nan for e in errors]
        order = float(slope[applies].min()) if bool(applies.any()) else None
        return Residual(
            left,
            right,
            right - left,
            applies,
            holds,
            conditions,
            self.tolerance,
            self.relation,
            radii,
            tuple(worst),
            order,
        )


def _excess(left: Tensor, right: Tensor, relation: Relation) -> Tensor:
    """How far a relation is missed, relative to the larger side (absolutely for sides below 1e-6)."""
    scale = torch.maximum(left.abs(), right.abs()).clamp(min=1e-6)
    gap = (left - right).clamp(min=0) if relation == "<=" else (left - right).abs()
    return torch.where(torch.isfinite(gap), gap / scale, math.inf)


def _slope(radii: tuple[float, ...], errors: Tensor, floor: float) -> Tensor:
    """The slope of log error over log radius where the error is above rounding; infinite where it never is."""
    known = [
        (math.log(r), math.log(float(e))) for r, e in zip(radii, errors, strict=True) if float(e) > floor
    ]
    known = known[-3:]  # the smallest radii: higher orders have died out there
    if len(known) < 2:
        return torch.tensor(math.inf, dtype=torch.float64)
    xs = torch.tensor([k[0] for k in known], dtype=torch.float64)
    ys = torch.tensor([k[1] for k in known], dtype=torch.float64)
    xs = xs - xs.mean()
    return (xs * (ys - ys.mean())).sum() / xs.square().sum()
