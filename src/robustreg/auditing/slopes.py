"""The slope of the margin by small steps, and whether the gradient that the model reports is this slope."""

from __future__ import annotations

import copy
import math
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustreg import numerics
from robustreg.auditing.case import Case
from robustreg.threat import Threat

STEP = 1e-3  # of the finite differences and of the small perturbation, in units of the box's width
_TINY, _OFF = 1e-20, 0.5
_DIRECTIONS, _BESIDE, _EXACT, _STRAIGHT = 8, 20, 0.1, 0.01
_NEAR, _NEAR_DOUBLE = 0.1, 1e-3  # of that step: so small that an honest gradient is exact, but at kinks


def dishonest(case: Case, x: Tensor, double: nn.Module | None) -> tuple[Tensor, Slopes | None]:
    """Where at x `[n, ...]` the gradient is not the slope, `[n]`, and the slopes; None where there is no gradient."""
    step = STEP * width(case.threat, case.x)
    model, precision = case.model, precision_of(case)
    if double is not None:
        model, x, precision = double, x.double(), torch.finfo(torch.float64).eps
    # Beside the points: samples are made of equal values, where the kinks of a maximum or a median lie.
    beside = torch.rand(x.shape, generator=case.generator("beside")).to(x) * 2 - 1
    x = inside(x + _BESIDE * step * beside, case.threat, step)
    g = case.gradient(x, case.y, "margin", model)
    if g is None:
        return torch.ones_like(case.y, dtype=torch.bool), None
    # a flat place is no wrong gradient: where neither moves, beyond rounding, there is nothing to compare
    rounding = 100 * precision * case.logits(x, model).abs().amax(1).to(g)
    slopes = Slopes.around(case, model, x, g, step)
    near = Slopes.around(case, model, x, g, step * (_NEAR if double is None else _NEAR_DOUBLE))
    wrong = slopes.nowhere | slopes.off(_OFF, rounding) | (near.off(_EXACT, rounding) & near.straight)
    return wrong | (useless(g) & (_moved(case, x, model, step) > rounding)), slopes


@dataclass(frozen=True)
class Slopes:
    """How the margin changes over small steps: the steepest first, then random ones.

    Attributes:
        said: by the gradient, `[directions, n]`.
        real: by central differences.
        bend: by second differences: 0 where the margin is straight and its rounding does not show.
    """

    said: Tensor
    real: Tensor
    bend: Tensor

    @classmethod
    def around(cls, case: Case, model: nn.Module, x: Tensor, g: Tensor, step: float) -> Slopes:
        """At x `[n, ...]`, with the gradient g of the margin's loss there, every input value moved by `step`,
        or in random directions by half of it to all of it."""
        # Signs and sizes by chance: equal round sizes can leave a checksum of the input as it is.
        generator = case.generator("true gradient")
        signs = torch.randint(0, 2, (_DIRECTIONS, *x.shape), generator=generator).to(x) * 2 - 1
        sizes = 1 - torch.rand((_DIRECTIONS, *x.shape), generator=generator).to(x) / 2
        here, rows = case.losses(x, case.y, "margin", model), []
        for direction in (Threat("linf", step, None).steepest(g), *(step * signs * sizes)):
            up, down = (case.losses(x + sign * direction, case.y, "margin", model) for sign in (1, -1))
            said = (numerics.flatten(g) * numerics.flatten(direction)).sum(1)
            rows.append(torch.stack([said, ((up - down) / 2).to(g), (up - 2 * here + down).to(g)]))
        return cls(*torch.stack(rows, 1))

    @property
    def nowhere(self) -> Tensor:
        """Where one of them is no number, `[n]`."""
        return ~(self.said.isfinite() & self.real.isfinite()).all(0)

    @property
    def straight(self) -> Tensor:
        """Where there is no kink and no rounding to be seen, `[n]`."""
        straight: Tensor = self.bend.norm(dim=0) < _STRAIGHT * self.real.norm(dim=0)
        return straight

    def off(self, tolerance: float, rounding: Tensor) -> Tensor:
        """Where they differ by more than a share of the larger, `[n]`: in the steepest direction, or in all others.

        The others as one vector: in a single one the slope may be near 0 by chance, and along its own steepest
        direction even another network's gradient predicts about what happens.
        """
        found = torch.zeros_like(self.nowhere)
        for rows in (slice(0, 1), slice(1, None)):
            said, real = self.said[rows], self.real[rows]
            size = torch.maximum(said.norm(dim=0), real.norm(dim=0))
            found |= ((real - said).norm(dim=0) > tolerance * size) & (size > rounding)
        return found


def in_float64(case: Case) -> nn.Module | None:
    """A copy of the model in float64, None where it cannot be copied or run, or has no parameters to convert."""
    if not any(p.is_floating_point() for p in case.model.parameters()):
        return None
    with suppress(Exception):  # a stranger's module may refuse to be copied, or have a precision of its own
        double = copy.deepcopy(case.model).double()
        case.logits(case.x[:1].double(), double)
        return double
    return None


def width(threat: Threat, x: Tensor) -> float:
    """The width of the box of valid inputs; without a finite one the range of the samples."""
    if threat.bounds is not None:
        sides = [float(torch.as_tensor(side).double().max()) for side in threat.bounds]
        if math.isfinite(sides[1] - sides[0]) and sides[1] > sides[0]:
            return sides[1] - sides[0]
    return max(float(x.max() - x.min()), 1e-6)


def inside(x: Tensor, threat: Threat, step: float) -> Tensor:
    """The samples moved away from the sides of the box, where a model may clip."""
    inner = threat.clip(x + 2 * step) - 2 * step
    return threat.clip(inner - 2 * step) + 2 * step


def useless(g: Tensor) -> Tensor:
    """Rows that are zero, tiny or not finite, `[B]`."""
    rows = numerics.flatten(g)
    return ~rows.isfinite().all(1) | ~(rows.abs().amax(1) > _TINY)


def _moved(case: Case, x: Tensor, model: nn.Module, step: float) -> Tensor:
    """How far the logits move for a random change a hundred times the small step, at most the threat's."""
    far = min(100 * step, max(case.threat.eps, step))
    signs = torch.randint(0, 2, x.shape, generator=case.generator("moved")).to(x) * 2 - 1
    return (case.logits(case.threat.clip(x + far * signs), model) - case.logits(x, model)).abs().amax(1)


def rounding_of(case: Case, logits: Tensor) -> Tensor:
    """What may be rounding in differences of a sample's logits `[B, C]`, `[B]`."""
    return 100 * precision_of(case) * logits.abs().amax(1).double()


def precision_of(case: Case) -> float:
    """The rounding of the coarsest floating point that is seen of the model."""
    dtypes = {t.dtype for t in (case.x, case.all_logits, *case.model.parameters()) if t.is_floating_point()}
    return max(torch.finfo(dtype).eps for dtype in dtypes)
