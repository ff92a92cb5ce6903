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
SHORT = 0.25  # what an observed order may be short of
FURTHER = tuple(2.0**-k for k in range(12, 24))  # where an order does not show yet


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
        rounding: what float64 leaves of the sides, or sums leave of integrals ``[B]``.
        excess: how far the relation is missed ``[B]`` beyond that, relative to the larger side.
        applies: where all conditions hold ``[B]``.
        holds: where the relation holds within the tolerance ``[B]``, whether or not the claim applies.
        conditions: where each condition holds, by its name.
        tolerance: of the excess.
        radii, errors: of a claim that is true to an order: the largest error over the samples at each radius.
        order: the order observed, the slope of log error over log radius.
    """

    left: Tensor
    right: Tensor
    slack: Tensor
    rounding: Tensor
    excess: Tensor
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
        """The largest excess over the samples to which the claim applies."""
        return float(self.excess[self.applies].max()) if bool(self.applies.any()) else math.nan

    @property
    def empty(self) -> bool:
        """Whether both sides are 0, but for rounding, on all samples to which it applies: then it says little."""
        size = torch.maximum(self.left.abs(), self.right.abs())
        return bool(self.applies.any()) and not bool((size > self.rounding)[self.applies].any())


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
        rounding: how far the sides may be apart ``[B]`` by what float64 or a sum in place of an integral leaves; by
            default that of logits.
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
    rounding: Callable[[Case], Tensor] | None = None
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
        rounding = self._rounding(case, left)
        excess = _excess(left, right, self.relation, rounding)
        return Residual(
            left,
            right,
            right - left,
            rounding,
            excess,
            applies,
            excess <= self.tolerance,
            conditions,
            self.tolerance,
            self.relation,
        )

    def _to_an_order(
        self, case: Case, left: Tensor, right: Tensor, applies: Tensor, conditions: Mapping[str, Tensor]
    ) -> Residual:
        """The error must fall at least as fast as the order says (less a little, for what higher orders add).

        An order speaks of small radii. Where it does not show yet, the network may only be steep: then the radius is
        made smaller.
        """
        assert self.order is not None
        shares, errors = RADII, self._errors(case, RADII)  # [R, B]
        observed = _orders(shares, errors, case, self.order)
        if bool((applies & (observed < self.order - SHORT)).any()):
            shares, errors = (*RADII, *FURTHER), torch.cat([errors, self._errors(case, FURTHER)])
            observed = torch.maximum(observed, _orders(shares, errors, case, self.order))
        return Residual(
            left,
            right,
            right - left,
            self._rounding(case, left),
            _excess(left, right, self.relation, self._rounding(case, left)),
            applies,
            observed >= self.order - SHORT,
            conditions,
            self.tolerance,
            self.relation,
            tuple(case.radius * share for share in shares),
            tuple(float(e[applies].abs().max()) if bool(applies.any()) else math.nan for e in errors),
            float(observed[applies].min()) if bool(applies.any()) else None,
        )

    def _rounding(self, case: Case, like: Tensor) -> Tensor:
        found: Tensor = case.measured(logit_rounding if self.rounding is None else self.rounding)
        return found.amax().expand_as(like) if self.of_the_batch else found

    def _errors(self, case: Case, shares: tuple[float, ...]) -> Tensor:
        rows = []
        for share in shares:
            a, b = (side.detach().double() for side in self.sides(case.at_radius(case.radius * share)))
            rows.append(a - b)
        return torch.stack(rows)


def logit_rounding(case: Case) -> Tensor:
    """What float64 leaves of sums and differences of logits and losses, ``[B]``."""
    return 64 * torch.finfo(torch.float64).eps * (1 + case.logits.abs().amax(1))


def _excess(left: Tensor, right: Tensor, relation: Relation, rounding: Tensor) -> Tensor:
    """How far a relation is missed beyond rounding, relative to the larger side."""
    gap = left - right if relation == "<=" else (left - right).abs()
    gap = torch.where(
        gap.isnan(), math.inf, (gap - rounding).clamp(min=0)
    )  # sides that are not finite are not equal
    size = torch.maximum(left.abs(), right.abs())
    return torch.where(gap > 0, torch.where(gap.isfinite(), gap / size, math.inf), 0.0)


def _orders(radii: tuple[float, ...], errors: Tensor, case: Case, claimed: float) -> Tensor:
    """The order that each sample's errors ``[R, B]`` show, ``[B]``; infinite where there are none above rounding."""
    rounding = case.measured(logit_rounding) / 64
    found = [_order(radii, errors[:, i], float(rounding[i]), claimed) for i in range(errors.shape[1])]
    return torch.tensor(found, dtype=torch.float64, device=errors.device)


def _order(radii: tuple[float, ...], errors: Tensor, rounding: float, claimed: float) -> float:
    """The slope of log error over log radius at small radii; where that is too small, the largest of other looks.

    A next order of the other sign makes errors vanish at some radius, and rise from there more slowly than they should.
    So the next order is taken out (Richardson), and radii nearer to rounding are looked at. An error of a lower order
    than claimed survives all of this. One that falls from far above rounding to below it in one step has the order too.
    """
    if not bool(errors.isfinite().all()):
        return 0.0
    slope = _slope(radii, errors.abs(), 1e3 * rounding)
    found = math.inf if slope is None else slope
    if found >= claimed - SHORT:
        return found
    next_order = 2 ** (claimed + 1)
    without_next = (errors[:-1] - next_order * errors[1:]) / (1 + next_order)
    looks = [found]
    for floor in (1e3 * rounding, 64 * rounding):
        looks += [
            _slope(radii, errors.abs(), floor) or 0.0,
            _slope(radii[1:], without_next.abs(), floor) or 0.0,
            _fall(errors.abs(), floor),
        ]
    return max(looks)


def _slope(radii: tuple[float, ...], errors: Tensor, floor: float) -> float | None:
    """The slope over the three smallest radii whose error is above a floor; None where there is one at most."""
    known = [
        (math.log(r), math.log(float(e))) for r, e in zip(radii, errors, strict=True) if float(e) > floor
    ]
    known = known[-3:]  # the smallest radii: higher orders have died out there
    if len(known) < 2:
        return None
    xs = torch.tensor([k[0] for k in known], dtype=torch.float64)
    ys = torch.tensor([k[1] for k in known], dtype=torch.float64)
    xs = xs - xs.mean()
    return float((xs * (ys - ys.mean())).sum() / xs.square().sum())


def _fall(errors: Tensor, floor: float) -> float:
    """The least order with which the last error above a floor can have fallen below it within half of the radius."""
    above = [float(e) for e in errors if float(e) > floor]
    return math.log2(above[-1] / floor) if above and not bool(errors[-1] > floor) else 0.0
