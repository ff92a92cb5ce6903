"""The cost plan: what a step asks of the network, learnt and counted on a small stand-in."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from robustreg.needs import Needs, Pass
from robustreg.points import Point
from robustreg.probe import Probe
from robustreg.streams import Stream

if TYPE_CHECKING:
    from robustreg.objective import Objective


@dataclass(frozen=True)
class PlanRow:
    """One pass: its kind, the point and mode, and the terms that share it."""

    kind: str
    point: str
    mode: str
    asked_by: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """The passes of one training step over the batch.

    Attributes:
        forwards: runs of the network.
        input_backwards: backward passes from a loss to the input alone, of attacks and gradient penalties.
        parameter_backwards: forwards whose graph a backward traverses to the parameters.
        double_backwards: input gradients that the loss's backward traverses again.
        rows: the passes one by one.
        teacher_forwards: runs of other networks: of a teacher, or of an average of the weights.
        joint_backwards: those of the parameter backwards that give the input gradient as well, and so replace an input
            backward.
    """

    forwards: int
    input_backwards: int
    parameter_backwards: int
    double_backwards: int
    rows: tuple[PlanRow, ...] = ()
    teacher_forwards: int = 0
    joint_backwards: int = 0

    @property
    def relative_cost(self) -> float:
        """A rough cost in plain training steps (1 forward + 1 parameter backward).

        A forward counts 1, a backward to the input 1, a backward to the parameters 2, and a double backward 3 more:
        it goes through the backward's graph once more, both ways. A teacher is taken to be as large as the network.
        """
        forwards = self.forwards + self.teacher_forwards
        total = forwards + self.input_backwards + 2 * self.parameter_backwards + 3 * self.double_backwards
        return total / 3.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {**asdict(self), "relative_cost": self.relative_cost}

    def __str__(self) -> str:
        lines = [f"{'pass':<20} {'point':<12} {'mode':<6} asked by"]
        grouped: dict[PlanRow, int] = {}
        for row in self.rows:
            grouped[row] = grouped.get(row, 0) + 1
        for row, times in grouped.items():
            kind = row.kind if times == 1 else f"{times} x {row.kind}"
            lines.append(f"{kind:<20} {row.point:<12} {row.mode:<6} {', '.join(row.asked_by)}")
        joint = f" ({self.joint_backwards} to the input too)" if self.joint_backwards else ""
        teachers = f"{self.teacher_forwards} teacher forward, " if self.teacher_forwards else ""
        lines.append(
            f"per step: {self.forwards} forward, {teachers}{self.input_backwards} input backward, "
            f"{self.parameter_backwards} parameter backward{joint}, {self.double_backwards} double backward "
            f"(about {self.relative_cost:.1f} plain steps)"
        )
        return "\n".join(lines)


class StandIn(nn.Module):
    """A small smooth network of any input shape, on which a step is rehearsed."""

    stands_in = True  # for teachers too: their inputs need not have this shape

    def __init__(self, shape: tuple[int, ...] | torch.Size, classes: int) -> None:
        super().__init__()
        features = math.prod(shape)
        g = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(4, features, generator=g) / math.sqrt(max(features, 1)))
        self.second = nn.Parameter(torch.randn(classes, 4, generator=g))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, classes]``."""
        hidden: Tensor = torch.tanh(x.flatten(1) @ self.first.to(x.dtype).T)
        return hidden @ self.second.to(x.dtype).T


def learn(objective: Objective, model: nn.Module, x: Tensor, y: Tensor | None) -> Needs:
    """What the objective's terms ask for, found by asking them.

    Repeated until it settles: which forward serves a request depends on what else is asked.
    """
    needs = Needs()
    for _ in range(4):
        asked = _rehearse(objective, model, x, y, needs).asked
        if asked == needs:
            break
        needs = asked
    return needs


def count(objective: Objective, shape: tuple[int, ...], classes: int, evaluations: int = 1) -> Plan:
    """Run a step on a stand-in and count its passes; later evaluations look at the points that the first finds."""
    x, y = _samples(objective, shape, classes)
    model = StandIn(shape, classes)
    with torch.enable_grad():
        needs = learn(objective, model, x, y)
        passes: list[Pass] = []
        reached: list[Pass] = []
        points: dict[Point, Tensor] = {}
        for _ in range(evaluations):
            probe = _rehearsal(objective, model, x, y, needs, rehearsing=True, points=points)
            loss = objective.evaluate(probe, objective.weights_at(0.5)).loss
            passes += probe.passes
            reached += _reached(probe.passes, loss)
    joint = sum(p.kind == "joint backward" for p in passes)
    return Plan(
        forwards=sum(p.kind == "forward" for p in passes),
        input_backwards=sum(p.kind == "input backward" for p in passes),
        parameter_backwards=sum(p.kind == "forward" for p in reached) + joint,
        double_backwards=sum(p.kind == "input backward" for p in reached),
        rows=tuple(PlanRow(p.kind, p.point, p.mode, tuple(p.asked_by)) for p in passes),
        teacher_forwards=sum(p.kind == "teacher forward" for p in passes),
        joint_backwards=joint,
    )


def _rehearse(objective: Objective, model: nn.Module, x: Tensor, y: Tensor | None, needs: Needs) -> Probe:
    probe = _rehearsal(objective, model, x, y, needs)
    with torch.enable_grad():
        objective.evaluate(probe, objective.weights_at(0.5))
    return probe


def _rehearsal(
    objective: Objective,
    model: nn.Module,
    x: Tensor,
    y: Tensor | None,
    needs: Needs,
    rehearsing: bool = False,
    points: dict[Point, Tensor] | None = None,
) -> Probe:
    return Probe(
        model,
        x,
        y,
        stream=Stream(0),
        needs=needs,
        threat=objective.threat,
        progress=0.5,
        index=torch.arange(len(x), device=x.device),
        rehearsing=rehearsing,
        points=points,
    )


def _samples(objective: Objective, shape: tuple[int, ...], classes: int) -> tuple[Tensor, Tensor]:
    """A few samples inside every threat's box."""
    g = torch.Generator().manual_seed(0)
    x = 0.25 + 0.5 * torch.rand(4, *shape, generator=g)
    for _, term in objective.entries:
        for threat in term.threats():
            x = threat.clip(x)
    return x, torch.arange(4) % classes


def _reached(passes: list[Pass], loss: Tensor) -> list[Pass]:
    """The passes whose outputs get a gradient when the loss is differentiated."""
    reached: list[Pass] = []
    handles = []
    for p in passes:
        if p.outputs is not None and p.outputs.requires_grad:
            handles.append(p.outputs.register_hook(lambda _, p=p: reached.append(p)))  # type: ignore[no-untyped-call]
    loss.backward()  # type: ignore[no-untyped-call]
    for handle in handles:
        handle.remove()
    return reached
