"""A start that knows the label: what the network takes for a class, added to the sample or taken from it (LIET)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from robustreg import numerics
from robustreg.losses import Loss, RowLoss, check_loss, labelled
from robustreg.memory import Memory
from robustreg.modes import Mode
from robustreg.points import Clip, Point, Uniform, check_clip, clipped
from robustreg.probe import Probe
from robustreg.threat import Threat, steepest_direction


@dataclass(frozen=True)
class RandomTargets:
    """Cross-entropy with target ``1 - a`` for the label and ``a`` spread at random over the other classes.

    The shares of the other classes are uniform numbers divided by their sum, drawn anew for every sample and step.

    Args:
        smoothing: ``a``.
        number: of the draw: equal losses share theirs, another number makes another.
    """

    smoothing: float = 0.6
    number: int = 0
    reads_labels = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.smoothing <= 1.0:
            raise ValueError(f"smoothing must lie in [0, 1], got {self.smoothing}")

    def bind(self, probe: Probe, mode: Mode) -> RowLoss:
        """The loss for this probe's batch."""
        y = probe.labels()

        def of(logits: Tensor, rows: Tensor | None) -> Tensor:
            normal = probe.normal((y.shape[0], logits.shape[1]), "random targets", self.number)
            return (
                self.values(logits, y, normal) if rows is None else self.values(logits, y[rows], normal[rows])
            )

        return of

    def values(self, logits: Tensor, y: Tensor, normal: Tensor) -> Tensor:
        """Values ``[B]`` for labels ``[B]`` and standard normal numbers ``[B, C]``; 0 where there is no label."""
        logits = numerics.upcast(logits)
        own = functional.one_hot(y.clamp(min=0), logits.shape[1]).bool()
        others = torch.where(own, 0.0, torch.special.ndtr(normal.to(logits.dtype)))  # uniform in [0, 1]
        shares = others / others.sum(1, keepdim=True).clamp(min=torch.finfo(others.dtype).tiny)
        target = torch.where(own, 1.0 - self.smoothing, self.smoothing * shares)
        values = -(target * functional.log_softmax(logits, dim=1)).sum(1)
        return torch.where(y >= 0, values, 0.0)


class ClassDirections(Memory):
    """The steepest direction towards each class's loss, ``[C, ...]``, and how many steps it was used for."""

    def __init__(self) -> None:
        self.directions: Tensor | None = None
        self.steps = 0

    def keep(self, directions: Tensor) -> None:
        """Take note of a step with these directions."""
        self.steps = self.steps + 1 if directions is self.directions else 1
        self.directions = directions

    def state_dict(self) -> dict[str, Any]:
        """The directions and their age."""
        return {} if self.directions is None else {"directions": self.directions, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        self.directions, self.steps = state.get("directions"), int(state.get("steps", 0))


@dataclass(frozen=True)
class ClassStart(Point):
    """The sample plus or minus what a plain grey image would need to lose its label, partly replaced by noise.

    ``x + s d`` with ``s`` one random sign for the batch and ``d`` the step of length ``eps`` along the steepest
    direction of ``L(f(grey), y)``, found in evaluation mode for every class and kept for ``every`` steps. A random
    share of the features, drawn for the batch between ``least`` and ``most``, has uniform noise instead. A sample
    without a label has only the noise. The plan counts a step that finds the directions: the others have two forwards,
    of one sample and of one for each class, and one backward to the input less.

    C. Pan et al., "Mitigating Catastrophic Overfitting in Fast Adversarial Training via Label Information Elimination",
    ICCV 2025. It has a state, so it belongs to one objective, and each process of a distributed run has its own.

    Args:
        threat: norm, radius and box.
        every: steps for which the directions are kept.
        least: smallest share of noise.
        most: largest share of noise.
        noise: radius of the noise as a multiple of ``eps``.
        grey: value of the plain image, in the units of the input.
        loss: ``L``, a function of logits and labels or ``RandomTargets``.
        number: of the draw: equal points share theirs, another number makes another.
        clip: ``"box"`` keeps the point within the threat's bounds.
    """

    threat: Threat
    every: int = 20
    least: float = 0.1
    most: float = 0.5
    noise: float = 1.0
    grey: float = 0.5
    loss: Loss = "ce"
    number: int = 0
    clip: Clip = "box"
    memory: ClassDirections = field(default_factory=ClassDirections, repr=False, kw_only=True)

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_clip(self.clip)
        if not isinstance(self.loss, RandomTargets):
            labelled(self.loss)
        if self.every < 1:
            raise ValueError(f"every is a number of steps and must be >= 1, got {self.every}")
        if not 0.0 <= self.least <= self.most <= 1.0:
            raise ValueError(
                f"shares of noise must be 0 <= least <= most <= 1, got {self.least} and {self.most}"
            )

    @property
    def reads_labels(self) -> bool:
        """Yes: the directions are those of the labels."""
        return True

    def parts(self) -> Iterator[Point]:
        """The noise."""
        yield self._noise()

    def draw(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Numbers ``[B, ...]`` in [0, 1): a feature has noise where its number is below the batch's share."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        return torch.rand(x.shape, generator=generator, device=x.device, dtype=dtype)

    def locate(self, probe: Probe) -> Tensor:
        """The sample plus or minus its class's step and the noise."""
        y = probe.labels()
        known = numerics.as_rows(y >= 0, probe.x)
        step = self.threat.eps * self._directions(probe)[y.clamp(min=0)]
        share, side = probe.normal((2,), "class start", self.number)
        level = self.least + (self.most - self.least) * torch.special.ndtr(share)
        noisy = (probe.noise(self) < level) | ~known
        delta = torch.where(side < 0, -1.0, 1.0) * torch.where(noisy, probe.noise(self._noise()), step)
        return clipped(probe.x + delta.to(probe.x.dtype), probe.x, self.threat, self.clip)

    def _noise(self) -> Point:
        return Uniform(self.threat, self.number, self.noise, "none")

    def _directions(self, probe: Probe) -> Tensor:
        """The directions in use, ``[C, ...]``; found anew when they are old, and noted after the step."""
        found = self.memory.directions
        fits = found is not None and found.shape[1:] == probe.x.shape[1:]
        if found is None or not fits or self.memory.steps >= self.every:
            found = self._find(probe)
        elif found.device != probe.x.device:  # after a checkpoint was loaded
            found = self.memory.directions = found.to(probe.x.device)
        kept = found
        probe.defer(lambda: self.memory.keep(kept), memory=self.memory)
        return found

    def _find(self, probe: Probe) -> Tensor:
        """One forward of a grey image for each class, in evaluation mode; one of a single image tells how many."""
        one = probe.x.new_full((1, *probe.x.shape[1:]), self.grey)
        classes = probe.run(one, "eval", self, "classes", point=self).shape[1]
        images = one.expand(classes, *one.shape[1:])
        _, _, g = probe.ascend(images, None, EachClass(self.loss), "eval", self, point=self)
        assert g is not None  # asked for by default
        return steepest_direction(g, self.threat.norm)


@dataclass(frozen=True)
class EachClass:
    """A loss of ``C`` rows of logits, each with its own number as the label."""

    loss: Loss
    reads_labels = False

    def bind(self, probe: Probe, mode: Mode) -> RowLoss:
        """The loss; it looks at no label of the batch."""

        def of(logits: Tensor, rows: Tensor | None) -> Tensor:
            classes = torch.arange(logits.shape[0], device=logits.device)
            if isinstance(self.loss, RandomTargets):
                normal = probe.normal(logits.shape, "each class", self.loss.number)
                return self.loss.values(logits, classes, normal)
            return labelled(self.loss)(logits, classes)

        return of
