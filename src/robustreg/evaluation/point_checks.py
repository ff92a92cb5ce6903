"""Checks of stored points, with no attack code."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustreg.evaluation.crafting import problem
from robustreg.evaluation.evidence import POINTS
from robustreg.evaluation.predict import correct
from robustreg.evaluation.samples import Samples
from robustreg.evaluation.verification import Verification
from robustreg.threat import Threat

# Another machine or batch size adds in another order, so logits move by some roundings of what is added up. Its size
# is read off the clean logits: those of a point on the boundary of two classes may cancel to nothing.
NOISE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 3e-2, torch.bfloat16: 3e-2}


@dataclass
class Predictor:
    """The model under test: `logits` of inputs `[K, ...]`, and the gap below which two of them are as good as equal."""

    logits: Callable[[Tensor], Tensor]
    noise: float | None
    gap: float = 0.0

    def learn_gap(self, clean: Tensor) -> None:
        """Set the gap from the clean logits `[N, C]`."""
        self.gap = gap_of(clean, self.noise)

    def too_close(self, logits: Tensor, y: Tensor) -> Tensor:
        """Tell where label and best other class are within the gap, `[B]` bool."""
        values = logits.double()
        label = values.gather(1, y[:, None]).squeeze(1)
        other = values.scatter(1, y[:, None], -math.inf).amax(dim=1)
        return (label - other).abs() <= self.gap


def gap_of(clean: Tensor, noise: float | None = None) -> float:
    """How far logits may move by rounding, for a model with the clean logits `[N, C]`."""
    relative = NOISE.get(clean.dtype, 1e-4) if noise is None else noise
    finite = torch.where(clean.isfinite(), clean.double().abs(), 0.0)
    return relative * float(finite.amax(dim=1).mean())


def stored_points(
    found: Verification, tensors: dict[str, Tensor], name: str, samples: Samples, parts: tuple[str, ...]
) -> list[Tensor] | None:
    """Return the attack's tensors, points first, then their samples; None when they are malformed."""
    kept = [tensors[f"{name}.{part}"] for part in parts if f"{name}.{part}" in tensors]
    if len(kept) != len(parts):
        missing = next(part for part in parts if f"{name}.{part}" not in tensors)
        found.fail("points", f"{POINTS} has no tensor {name}.{missing}", name)
        return None
    points, *numbers = kept
    shape = [len(points), *samples.x.shape[1:]] if points.ndim else []
    if list(points.shape) != shape or points.dtype != samples.x.dtype:
        got = f"{list(points.shape)} {points.dtype}"
        found.fail(
            "points", f"its points are {got}, the data {list(samples.x.shape)} {samples.x.dtype}", name
        )
        return None
    if any(list(t.shape) != [len(points)] or t.dtype != torch.int64 for t in numbers):
        found.fail("points", "its points, sample numbers and labels do not belong together", name)
        return None
    index = numbers[0]
    in_range = (index >= 0) & (index < len(samples))
    if not bool(in_range.all()) or len(torch.unique(index)) != len(index):
        found.fail("points", "its points are of samples that do not exist, or of one sample twice", name)
        return None
    return kept


def check_inside(
    found: Verification, name: str, threat: Threat | None, points: Tensor, index: Tensor, samples: Samples
) -> None:
    """Check that points `[K, ...]` of the samples `index` `[K]` are finite and in the threat."""
    x = samples.x.cpu()[index]
    # The first bad point only, with its distance; which others are bad is of no more use.
    if len(points) and (bad := problem(points, x, threat)) is not None:
        row, what = bad
        sample = int(index[row])
        found.fail("points", f"the point of sample {sample} {what}", name, sample)


def check_predictions(
    found: Verification,
    name: str,
    points: Tensor,
    index: Tensor,
    samples: Samples,
    model: Predictor,
    fooled: bool,
) -> None:
    """Check that the model gets all points `[K, ...]` wrong, or all right where they are not to fool it."""
    if not len(points):
        return
    logits, y = model.logits(points), samples.y.cpu()[index]
    against = correct(logits, y) == fooled
    undecided = against & model.too_close(logits, y)
    found.undecided += int(undecided.sum())
    what = (
        "has a point that the model classifies right" if fooled else "is right, but its point fools the model"
    )
    found.fail_where(against & ~undecided, "points", what, name, index)
