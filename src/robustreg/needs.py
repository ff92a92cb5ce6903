"""What a step asks of the network: what it will ask, learnt in a rehearsal, and the passes that it has made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from robustreg.losses import Loss, bound_loss
from robustreg.modes import Mode
from robustreg.points import Point

ForwardKey = tuple[Point, Mode, Point]
GradKey = tuple[Point, Loss, Mode, Point]
Part = tuple[float, Tensor, GradKey]  # a factor, a loss [B], and what it is the loss of


@dataclass
class Needs:
    """What a step of an objective will ask for, learnt in a rehearsal, so that each graph is built once and right.

    Attributes:
        input_graph: forwards whose input must carry a gradient.
        differentiable: input gradients through which the loss will be differentiated again.
        train: forwards asked for in ``"train"`` mode; ``"batch"`` requests for the same point are served by them.
        random: random points, whose draws a compiled step must be handed.
        shared_dropout: whether a forward uses the dropout masks of another point's.
        deferred: whether a stateful term's update is to run after the step.
        evaluation: whether a forward runs in ``"eval"`` mode.
        progress: whether something but a term's weight changes with the progress of training.
        gradients: input gradients that were asked for.
        uses: the forwards whose logits were asked for with their graph, once for each time.
        alone: the losses of the probe that a term was and nothing else, once for each time.
    """

    input_graph: set[ForwardKey] = field(default_factory=set)
    differentiable: set[GradKey] = field(default_factory=set)
    train: set[tuple[Point, Point]] = field(default_factory=set)
    random: set[Point] = field(default_factory=set)
    shared_dropout: bool = False
    deferred: bool = False
    evaluation: bool = False
    progress: bool = False
    gradients: set[GradKey] = field(default_factory=set)
    uses: list[ForwardKey] = field(default_factory=list)
    alone: list[GradKey] = field(default_factory=list)

    def one_backward(self, key: GradKey) -> bool:
        """Whether one backward of this loss gives its input gradient and all that parameters will ask of the forward.

        It does where a term is that loss and nothing else, and nobody else looks at the forward's graph.
        """
        forward = (key[0], key[2], key[3])
        others = {k for k in self.gradients if (k[0], k[2], k[3]) == forward}
        if bound_loss(key[1]) is not None:
            return False  # it may look at other forwards, too
        return 0 < self.alone.count(key) == self.uses.count(forward) and others == {key} - self.differentiable


@dataclass
class Held:
    """What evaluations of one batch at different weights share within a step.

    Attributes:
        points: their coordinates: found by the first evaluation, looked at again by the others.
        deferred: the updates of states that the first asked for; None before it.
    """

    points: dict[Point, Tensor] = field(default_factory=dict)
    deferred: list[Callable[[], None]] | None = None


@dataclass
class Pass:
    """One run of the network, or one backward to its input, and who asked for it."""

    kind: str  # "forward", "input backward", "joint backward" (to input and parameters) or "teacher forward"
    point: str
    mode: Mode
    asked_by: list[str]
    outputs: Tensor | None = None  # kept in rehearsals only, to see which passes the loss's backward reaches
