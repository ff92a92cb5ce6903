"""Learning-rate schedules as plain functions of the step.

A shape maps a step (0 is the first) to a factor on the optimiser's own learning rate, so that `lr` in a
recipe is always the largest rate used. They are made by name with `robustreg.training.optim.build_schedule`.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence

import torch
from torch.optim.lr_scheduler import LambdaLR

Shape = Callable[[int], float]


def constant(total_steps: int, *, warmup: float = 0.0) -> Shape:
    """Factor 1, after a linear warm-up over the fraction `warmup` of the run."""
    return _warmed(total_steps, warmup, lambda t: 1.0)


def cosine(total_steps: int, *, warmup: float = 0.0, final: float = 0.0) -> Shape:
    """Half a cosine from 1 to `final` (a factor), after a linear warm-up over the fraction `warmup`."""
    return _warmed(total_steps, warmup, lambda t: final + (1 - final) * 0.5 * (1 + math.cos(math.pi * t)))


def onecycle(
    total_steps: int, *, warmup: float = 0.3, initial: float = 1 / 25, final: float = 1 / 25e4
) -> Shape:
    """Cosine up from `initial` to 1 over the fraction `warmup`, then cosine down to `final` (Smith 2018).

    The learning rates are those of `torch.optim.lr_scheduler.OneCycleLR` with its default factors.
    """
    _fraction("warmup", warmup)
    peak, last = warmup * total_steps - 1, total_steps - 1

    def factor(step: int) -> float:
        if step <= peak:
            return _cosine(initial, 1.0, step / peak if peak > 0 else 1.0)
        return _cosine(1.0, final, min(1.0, (step - peak) / (last - peak)))

    return factor


def multistep(
    total_steps: int,
    *,
    milestones: Sequence[float] = (0.5, 0.75),
    gamma: float = 0.1,
    epochs: int | None = None,
) -> Shape:
    """Times `gamma` at every milestone: a fraction of the run below 1, or an epoch (where they are known)."""
    steps = sorted(_milestone(m, total_steps, epochs) for m in milestones)
    return lambda step: gamma ** sum(step >= at for at in steps)


def triangular(total_steps: int, *, peak: float = 0.4, initial: float = 0.0, final: float = 0.0) -> Shape:
    """Linear from `initial` to 1 at the fraction `peak` of the run, then linear to `final`.

    The cyclic schedule of fast adversarial training (Wong et al. 2020, peak 0.4). The first step takes one
    step's share of the way up already, so that it is not wasted at rate 0.
    """
    _fraction("peak", peak)
    top = max(1.0, peak * total_steps)

    def factor(step: int) -> float:
        at = step + 1
        if at <= top:
            return initial + (1 - initial) * at / top
        return 1 + (final - 1) * (at - top) / max(1.0, total_steps - top)

    return factor


def piecewise(
    total_steps: int, *, points: Sequence[Sequence[float]] = ((0, 1.0),), epochs: int | None = None
) -> Shape:
    """Linear between `points` of `[when, factor]`, each `when` a fraction of the run below 1, or an epoch.

    Constant before the first point and after the last one; two points at the same place are a jump, of which the
    second counts from there on. As in `triangular`, a step has the factor of its own end.
    """
    if not points or any(len(point) != 2 for point in points):
        raise ValueError(f"the piecewise schedule's points are pairs [when, factor], got {points!r}.")
    places = [_milestone(when, total_steps, epochs) for when, _ in points]
    if places != sorted(places):
        raise ValueError(f"the piecewise schedule's points must follow one another, got {points!r}.")
    factors = [float(factor) for _, factor in points]

    def factor(step: int) -> float:
        after = bisect.bisect_right(places, step)
        if after == 0 or after == len(places):
            return factors[max(0, after - 1)]
        before = after - 1
        share = (step + 1 - places[before]) / (places[after] - places[before])
        return factors[before] + (factors[after] - factors[before]) * share

    return factor


def exponential(
    total_steps: int, *, divide: float | None = None, final: float | None = None, floor: float = 0.0
) -> Shape:
    """Divided by `divide` after every step, or so that the last step has the factor `final`; never below
    `floor`.

    The maxout networks of Goodfellow et al. 2013 divide by 1.000004 after every update.
    """
    if (divide is None) == (final is None):
        raise ValueError(
            "the exponential schedule needs either divide (per step) or final (factor at the end)."
        )
    if divide is None and final is not None:
        if not final > 0:
            raise ValueError(f"the exponential schedule's final factor must be above 0, got {final}.")
        divide = final ** (-1 / max(1, total_steps - 1))
    base = float(divide or 1.0)
    if not base >= 1:
        raise ValueError(f"the exponential schedule's divide must be at least 1, got {base}.")
    return lambda step: max(floor, base**-step)


SHAPES: dict[str, Callable[..., Shape]] = {
    "constant": constant,
    "cosine": cosine,
    "onecycle": onecycle,
    "multistep": multistep,
    "cyclic": triangular,
    "piecewise": piecewise,
    "exponential": exponential,
}


class ShapeLR(LambdaLR):
    """The optimiser's learning rates times a shape, and its momentum moved in a line, step by step.

    Args:
        momentum: `(first, last)` for a linear ramp of SGD's momentum (or Adam's first beta), as the maxout
            configurations have it (0.5 to 0.7); None leaves it alone.
        momentum_steps: steps from the first to the last value; it stays there afterwards.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        shape: Shape,
        momentum: tuple[float, float] | None = None,
        momentum_steps: int = 1,
    ) -> None:
        if momentum is not None and not any(key in optimizer.defaults for key in ("momentum", "betas")):
            raise ValueError(f"{type(optimizer).__name__} has no momentum to ramp.")
        self._ramp = None if momentum is None else [float(momentum[0]), float(momentum[1]), momentum_steps]
        super().__init__(optimizer, shape)

    def step(self, epoch: int | None = None) -> None:
        """Set the rates (and the momentum) of the next step."""
        super().step(epoch)
        if self._ramp is None:
            return
        first, last, steps = self._ramp
        value = first + (last - first) * min(1.0, self.last_epoch / max(1, steps))
        for group in self.optimizer.param_groups:
            if "momentum" in group:
                group["momentum"] = value
            else:
                group["betas"] = (value, group["betas"][1])


def _warmed(total_steps: int, warmup: float, rest: Callable[[float], float]) -> Shape:
    _fraction("warmup", warmup)
    rising = round(warmup * total_steps)
    falling = max(1, total_steps - rising)
    return lambda step: (
        (step + 1) / (rising + 1) if step < rising else rest(min(1.0, (step - rising) / falling))
    )


def _cosine(start: float, end: float, t: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * t))


def _milestone(value: float, total_steps: int, epochs: int | None) -> int:
    if 0 <= value < 1:
        return round(value * total_steps)
    if epochs is None:
        raise ValueError(
            f"milestone {value} is not a fraction of the run in [0, 1), and the epochs are not known."
        )
    return round(value / epochs * total_steps)


def _fraction(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} is a fraction of the run in [0, 1), got {value}.")
