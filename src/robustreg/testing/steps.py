"""One step of a term, with its values and its parameter gradient, and random numbers that belong to samples."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from robustreg.objective import Detailed, Objective
from robustreg.points import Point, Uniform
from robustreg.probe import Probe
from robustreg.streams import Stream
from robustreg.terms import CrossEntropy, Term
from robustreg.testing import networks
from robustreg.testing.check import require
from robustreg.testing.networks import Batch, Shape
from robustreg.threat import Threat

PROGRESS = 0.5
SEED = 3


@dataclass(frozen=True)
class Case:
    """What is checked, and with what.

    Attributes:
        subject: the term or point as it was handed over; checks work on copies.
        threat: for terms that have none of their own.
        shape: of a sample.
        classes: number of classes.
    """

    subject: Term | Point
    threat: Threat
    shape: Shape
    classes: int

    @property
    def threats(self) -> list[Threat]:
        """Every threat in play, to keep samples within their boxes."""
        return list(dict.fromkeys([*self.subject.threats(), self.threat]))

    def batch(self, n: int = 6, shape: Shape | None = None) -> Batch:
        """Samples in float32."""
        return networks.samples(shape or self.shape, self.classes, self.threats, n)

    def other_shapes(self) -> list[Shape]:
        """A sample's shape of another kind: rows beside images, images beside rows."""
        bounded = any(isinstance(b, Tensor) and b.ndim for t in self.threats for b in t.bounds or ())
        return [] if bounded else [networks.ROWS if len(self.shape) > 1 else networks.IMAGES]


@dataclass(frozen=True)
class TermCase(Case):
    """A term to check."""

    subject: Term

    def fresh(self) -> Term:
        """A copy with a memory of its own."""
        return copy.deepcopy(self.subject)

    def anew(self) -> Objective:
        """A copy of the term as an objective that has not seen a batch."""
        return Objective.of(self.fresh()).with_threat(self.threat)

    def alone(self) -> Objective:
        """The same, after it learnt from a batch what its steps ask for: the costlier half of a first step."""
        return copy.deepcopy(self._prepared)

    @cached_property
    def _prepared(self) -> Objective:
        objective, batch = self.anew(), self.batch()
        objective.prepare(batch.x, batch.y, batch.index)
        return objective

    def company(self) -> Objective:
        """Other terms: with a random point, with a training forward of its own."""
        return CrossEntropy(at=Uniform(self.threat, number=7)) + 0.5 * CrossEntropy()

    def trainable(self) -> Objective:
        """The term alone, or beside others where it is a constant: what can be planned."""
        return self.anew() if self.trains else self.anew() + self.company()

    @property
    def has_state(self) -> bool:
        """Whether the term keeps something from step to step."""
        return self._first_look[0]

    @property
    def trains(self) -> bool:
        """Whether a gradient reaches the parameters."""
        return self._first_look[1]

    @cached_property
    def _first_look(self) -> tuple[bool, bool]:
        objective = self.alone()
        out = step(objective, networks.smooth(self.shape, self.classes), self.batch())
        return bool(objective.state_dict()["terms"]), out.detailed.loss.requires_grad


@dataclass(frozen=True)
class Step:
    """What a step gave.

    Attributes:
        values: of the objective's first term, ``[B]`` or a scalar.
        gradient: of the loss by all parameters, flat; zeros where there is none.
    """

    values: Tensor
    gradient: Tensor
    detailed: Detailed

    @property
    def all_values(self) -> list[Tensor]:
        """Every term's values, in the objective's order."""
        return list(self.detailed.per_sample.values())


def step(objective: Objective, net: nn.Module, batch: Batch, number: int = 0, seed: int = SEED) -> Step:
    """One step of an objective, always of the same seed."""
    stream = Stream(seed, number)
    out = objective.detailed(net, batch.x, batch.y, stream=stream, progress=PROGRESS, index=batch.index)
    return Step(out.per_sample[objective.names[0]], gradient_of(out.loss, net), out)


def gradient_of(loss: Tensor, net: nn.Module) -> Tensor:
    """The gradient of a loss by all parameters that have one, flat ``[P]``."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    if not loss.requires_grad:
        return torch.cat([torch.zeros_like(p).flatten() for p in parameters])
    found = torch.autograd.grad(
        loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([g.flatten() for g in found])


class SampleBound(Probe):
    """A probe whose random numbers belong to the samples of a larger batch, wherever these stand in its own.

    Random points are drawn by place in the batch. To see whether a term treats samples alike when they are permuted or
    travel in parts, their draws must travel with them.
    """

    def __init__(
        self,
        objective: Objective,
        net: nn.Module,
        whole: Batch,
        places: Tensor,
        number: int = 0,
        attacking: bool = False,
    ) -> None:
        part = whole.rows(places)
        super().__init__(
            net,
            part.x,
            part.y,
            stream=Stream(SEED, number),
            needs=objective.needs,
            threat=objective.threat,
            progress=PROGRESS,
            index=part.index,
            attacking=attacking,
        )
        self._whole, self._places = whole, places

    def noise(self, point: Point) -> Tensor:
        """The draws of the samples that are here."""
        generator = self.stream.generator(self.x.device, "draw", point.key)
        return point.draw(self._whole.x, generator)[self._places]

    def normal(self, shape: torch.Size | tuple[int, ...], *key: object) -> Tensor:  # type: ignore[override]
        """Numbers per sample are those of the samples that are here; any others are drawn as always."""
        if not shape or shape[0] != len(self._places):
            return super().normal(shape, *key)
        return super().normal((len(self._whole), *shape[1:]), *key)[self._places]


def step_of_some(objective: Objective, net: nn.Module, whole: Batch, places: Tensor, number: int = 0) -> Step:
    """A step on the samples of a batch at ``places``, with the draws that they have in the whole batch."""
    objective.prepare(whole.x, whole.y, whole.index)
    probe = SampleBound(objective, net, whole, places, number)
    out = objective.evaluate(probe, objective.weights_at(PROGRESS))
    for action in probe.deferred:
        action()
    return Step(out.per_sample[objective.names[0]], gradient_of(out.loss, net), out)


def require_close(found: Tensor, expected: Tensor, sentence: str, tolerance: float = 1e-6) -> None:
    """Raise unless two tensors agree to ``tolerance`` of the larger one's largest entry."""
    scale = max(_largest(found), _largest(expected))
    worst = _largest(found - expected) if found.shape == expected.shape else float("inf")
    require(
        worst <= tolerance * scale + 1e-12,
        f"{sentence} (largest difference {worst:.1e} beside {scale:.1e})",
    )


def require_finite(tensor: Tensor, what: str) -> None:
    """Raise where something is NaN or infinite."""
    wrong = int((~tensor.isfinite()).sum())
    require(wrong == 0, f"{wrong} of {tensor.numel()} entries of {what} are NaN or infinite")


def _largest(tensor: Tensor) -> float:
    return float(tensor.abs().max()) if tensor.numel() else 0.0
