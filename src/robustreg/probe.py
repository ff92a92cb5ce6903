"""The probe: one batch under one network, where everything that is asked for is computed once and shared.

It is the only place that runs the network. Terms ask for logits, losses and input gradients at points; the probe
memoises each by what was asked (point, mode, loss) and keeps the list of passes, which is the cost plan.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from robustreg.losses import Loss, RowLoss, bound_loss, labelled
from robustreg.memory import Memory
from robustreg.modes import Mode, Model, Statistics, live_statistics, running
from robustreg.needs import ForwardKey, GradKey, Needs, Part, Pass
from robustreg.one_backward import NO_GRADIENT, ParameterGradient, parameter_gradient
from robustreg.points import CLEAN, Found, Point
from robustreg.schedules import Weight, weight_at
from robustreg.streams import Stream, global_seed
from robustreg.threat import Threat


class Teacher(Protocol):
    """Whoever has a network to ask: a memory that averages the trained one, say. Compared by identity."""

    def network(self, probe: Probe) -> Model:
        """The network for the probe's step."""


@dataclass
class _Forward:
    u: Tensor  # coordinates, requiring grad where asked
    logits: Tensor
    record: Pass


class Probe:
    """Shared quantities of one batch.

    Args:
        model: maps ``[B, ...]`` to logits ``[B, C]``.
        x: clean samples ``[B, ...]``, floating point.
        y: labels ``[B]``, -1 where there is none; None where no term reads labels.
        stream: source of every random number of this step.
        needs: what will be asked, if it is known.
        noise: draws of random points that were made beforehand.
        threat: the threat that terms without one of their own use.
        progress: of training, in [0, 1].
        index: the samples' places ``[B]`` in the data, for what is remembered sample by sample.
        points: where points are that need not be found again; those found now are added.
        attacking: points are wanted for themselves: searching attacks may stop early, sample by sample.
        found: told of samples that are fooled while a search still goes on, see ``tell``.
        at_once: how many of the samples a search takes through the network together; all by default.
        rehearsing: keep every graph and output, to learn needs and to count passes.

    Attributes:
        predicted: the classes ``[B]`` seen at each step of a search over the whole batch, its start first, by point.
    """

    def __init__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor | None,
        *,
        stream: Stream,
        needs: Needs | None = None,
        noise: Mapping[Point, Tensor] | None = None,
        threat: Threat | None = None,
        progress: float | None = None,
        index: Tensor | None = None,
        points: dict[Point, Tensor] | None = None,
        attacking: bool = False,
        found: Found | None = None,
        at_once: int | None = None,
        rehearsing: bool = False,
    ) -> None:
        check_samples(x)
        self.model = model
        self.x = x.detach()
        self.y = y
        self.stream = stream
        self.threat = threat
        self.progress = progress
        self.index = index
        self.attacking = attacking
        self.found = found
        self.at_once = at_once
        self.passes: list[Pass] = []
        self.asking = ""
        self.asked = Needs()
        self.deferred: list[Callable[[], None]] = []
        self.predicted: dict[Point, list[Tensor]] = {}
        self._remembering: set[object] = set()
        self._needs = needs
        self._noise: dict[Point, Tensor] = dict(noise or {})
        self._rehearsing = rehearsing
        self._observing = False
        self._range_checked = False
        self._labelled: Tensor | None = None
        self._statistics: Statistics | None = None
        self._at: dict[Point, Tensor] = {} if points is None else points
        self._forwards: dict[ForwardKey, _Forward] = {}
        self._grads: dict[GradKey, tuple[Tensor, Pass, bool]] = {}
        self._combined: dict[int, tuple[Tensor, tuple[Part, ...]]] = {}
        self._joint: dict[GradKey, ParameterGradient] = {}
        self._answers: dict[tuple[object, Point], tuple[Tensor, Pass]] = {}

    # -- what terms and points ask for ---------------------------------------------------------------------------

    def at(self, point: Point = CLEAN) -> Tensor:
        """Coordinates ``[B, ...]`` of a point, without a graph."""
        if point not in self._at:
            self._at[point] = point.locate(self).detach()
        return self._at[point]

    def logits(
        self, point: Point = CLEAN, mode: Mode = "train", *, dropout_of: Point | None = None
    ) -> Tensor:
        """Logits ``[B, C]`` at a point, in at least float32, with the graph to the parameters.

        ``dropout_of`` makes the forward use the dropout masks of another point's (a finite difference needs the same
        masks on both ends); by default every point has its own.
        """
        return self._forward(point, mode, dropout_of, input_graph=False).logits

    def clean_prediction(self, mode: Mode) -> Tensor:
        """Logits ``[B, C]`` at the clean sample as a constant: what divergences are measured from."""
        return self.logits(CLEAN, mode).detach()

    def loss(
        self,
        point: Point = CLEAN,
        loss: Loss = "ce",
        mode: Mode = "train",
        *,
        dropout_of: Point | None = None,
    ) -> Tensor:
        """The loss ``[B]`` at a point; 0 for samples without a label where the loss reads labels."""
        forward = self._forward(point, mode, dropout_of, input_graph=False)
        losses = self.loss_function(loss, mode)(forward.logits, None)
        key = (point, loss, self._serving(point, mode, dropout_of or point), dropout_of or point)
        return self._said(losses, ((1.0, losses, key),))

    def combined(self, *summands: tuple[float, Tensor]) -> Tensor:
        """A linear combination ``[B]`` of losses of this probe: pairs (factor, loss).

        It says more than the same sum written out: the objective then knows how the result depends on each loss.
        """
        values = sum(factor * losses for factor, losses in summands)
        assert isinstance(values, Tensor)
        parts = [
            (factor * inner, losses, key)
            for factor, summand in summands
            for inner, losses, key in self._parts_of(summand)
        ]
        return (
            self._said(values, tuple(parts)) if all(self._parts_of(loss) for _, loss in summands) else values
        )

    def total(self, values: Tensor, mean: Callable[[Tensor], Tensor], count: Tensor | int) -> Tensor:
        """A term's mean to be differentiated: that of ``values [B]``, whose sum ``mean`` divides by ``count``.

        Where the values are losses of this probe and nothing else, the gradient of one by the parameters may be known
        from the backward that found its input gradient: then its forward is not traversed again.
        """
        parts = self._parts_of(values)
        if not self._observing:
            self.asked.alone.extend(key for _, _, key in parts)
        if not any(key in self._joint for _, _, key in parts):
            return mean(values)
        rest = [factor * (losses.detach() if key in self._joint else losses) for factor, losses, key in parts]
        value = mean(torch.stack(rest).sum(0))
        for factor, losses, key in parts:
            if key in self._joint:
                value = self._joint[key].added(value, factor * mean(losses), factor, count)
        return value

    def grad(
        self,
        point: Point = CLEAN,
        loss: Loss = "ce",
        mode: Mode = "train",
        *,
        differentiable: bool = False,
        dropout_of: Point | None = None,
    ) -> Tensor:
        """The gradient ``[B, ...]`` of each sample's loss with respect to its own input at a point.

        It is the gradient of the *sum* of the losses, so nothing is divided by the batch size. Without
        ``differentiable`` the result is a constant; with it the gradient can be differentiated again (double backward).
        """
        mode = self._serving(point, mode, dropout_of or point)
        key: GradKey = (point, loss, mode, dropout_of or point)
        if not self._observing:
            self.asked.gradients.add(key)
        if differentiable and not self._observing:
            self.asked.differentiable.add(key)
        known = self._grads.get(key)
        if known is None or (differentiable and not known[2] and not self._observing):
            known = self._grads[key] = self._input_gradient(key, differentiable)
        g, record, _ = known
        self._share(record)
        return g if differentiable and not self._observing else g.detach()

    def noise(self, point: Point) -> Tensor:
        """The random numbers ``[B, ...]`` of a random point: its own stream, drawn once."""
        if point not in self._noise:
            if torch.compiler.is_compiling():
                raise RuntimeError(
                    "random points are drawn outside a compiled step: use ObjectiveModule.compile()"
                )
            self.asked.random.add(point)
            generator = self.stream.generator(self.x.device, "draw", point.key)
            self._noise[point] = point.draw(self.x, generator)
        return self._noise[point]

    def jvp(self, direction: Tensor, point: Point = CLEAN, mode: Mode = "train") -> Tensor:
        """``J d``, ``[B, C]``: the logits' derivative along directions ``d [B, ...]`` at a point, as a constant.

        ``w -> J^T w`` is linear, so its derivative in ``w`` along ``d`` is ``J d``: two backward passes.
        """
        forward = self._forward(point, mode, None, input_graph=True)
        with torch.enable_grad():
            w = torch.zeros_like(forward.logits, requires_grad=True)
            (back,) = torch.autograd.grad(forward.logits, forward.u, w, create_graph=True)
            (product,) = torch.autograd.grad(back, w, direction.to(back.dtype))
        for _ in range(2):
            self._record("input backward", _name(point), forward.record.mode)
        return product.detach()

    def ask(self, teacher: nn.Module | Teacher, point: Point = CLEAN) -> Tensor:
        """Logits ``[B, C]`` of another network at a point: in evaluation mode, a constant, once for all who ask.

        The network is moved to the batch's device and is otherwise left as it is. In a rehearsal the stand-in answers.
        """
        if (teacher, point) not in self._answers:
            network = teacher if isinstance(teacher, nn.Module) else teacher.network(self)
            network = self.model if self.stands_in else network
            with torch.no_grad():
                logits = self._apply(
                    _beside(network, self.at(point)), "eval", "teacher", point, model=network
                )
            self._answers[teacher, point] = logits, self._record("teacher forward", _name(point), "eval")
        logits, record = self._answers[teacher, point]
        self._share(record)
        return logits

    @property
    def stands_in(self) -> bool:
        """Whether this is a rehearsal, on a network that stands in for every other."""
        return bool(getattr(self.model, "stands_in", False))

    def normal(self, shape: Sequence[int], *key: object) -> Tensor:
        """Standard normal numbers of any shape from a stream of their own, named by ``key``; equal keys share."""
        if torch.compiler.is_compiling():
            raise RuntimeError("random numbers cannot be drawn inside a compiled step")
        generator = self.stream.generator(self.x.device, "normal", tuple(shape), *key)
        dtype = torch.promote_types(self.x.dtype, torch.float32)  # normals in bfloat16 are coarse
        return torch.randn(tuple(shape), generator=generator, device=self.x.device, dtype=dtype)

    def loss_function(self, loss: Loss, mode: Mode) -> RowLoss:
        """``(logits [b, C], rows) -> [b]`` for the whole batch (rows None) or the rows of it that are still in play."""
        bound = bound_loss(loss)
        if bound is not None:
            return bound.bind(self, mode)
        function = labelled(loss)
        y = self.labels()

        def of(logits: Tensor, rows: Tensor | None) -> Tensor:
            self._check_range(logits)
            return function(logits, y if rows is None else y[rows])

        return of

    def labels(self) -> Tensor:
        """The labels ``[B]``, or a sentence where there are none."""
        if self.y is None:
            raise ValueError(f"{self.asking or 'this point'} needs labels, but y is None")
        return self.y

    def labelled(self) -> Tensor:
        """The number of labelled samples, at least 1: what a mean over them divides by."""
        if self._labelled is None:
            self._labelled = (self.labels() >= 0).sum().clamp(min=1)
        return self._labelled

    def scheduled(self, weight: Weight) -> float:
        """The number behind a weight that changes with the progress of training, for what is no term's weight."""
        if callable(weight):
            self.asked.progress = True
        return weight_at(weight, self.progress)

    def sample_index(self) -> Tensor:
        """The samples' places ``[B]`` in the data, or a sentence where they are not known."""
        if self.index is None:
            raise ValueError(
                f"{self.asking or 'this term'} remembers something of every sample and needs to know which these are: "
                "pass index=... (integers [B]), or let the loader give it, Loader(..., index=True)"
            )
        return self.index

    def required_threat(self) -> Threat:
        """The objective's threat, or a sentence where there is none."""
        if self.threat is None:
            raise ValueError(f"{self.asking or 'this term'} needs a threat, but none was given")
        return self.threat

    # -- for points that search: runs at coordinates which nobody will ask for again ------------------------------

    def run(
        self, u: Tensor, mode: Mode, *key: object, point: Point | None = None, graph: bool = False
    ) -> Tensor:
        """Logits ``[b, C]`` at coordinates ``u [b, ...]``; ``key`` names the run's random stream."""
        mode = "batch" if mode == "train" and self._observing else mode
        with contextlib.nullcontext() if graph else torch.no_grad():
            logits = self._apply(u, mode, "run", *key)
        self._record("forward", _name(point) if point else "search", mode)
        return logits

    def ascend(
        self,
        z: Tensor,
        rows: Tensor | None,
        loss: Loss,
        mode: Mode,
        *key: object,
        point: Point,
        gradient: bool = True,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """One step of a search at ``z [b, ...]``: logits ``[b, C]``, losses ``[b]`` and input gradient ``[b, ...]``.

        ``rows`` are the batch's samples that are still in play (None for all); without ``gradient`` it only looks.
        """
        (logits,), losses, g = self.average(z, rows, loss, mode, 1, *key, point=point, gradient=gradient)
        if rows is None:
            self.predicted.setdefault(point, []).append(logits.argmax(1))
        return logits, losses, g

    def average(
        self,
        z: Tensor,
        rows: Tensor | None,
        loss: Loss,
        mode: Mode,
        draws: int,
        *key: object,
        point: Point,
        gradient: bool = True,
    ) -> tuple[list[Tensor], Tensor, Tensor | None]:
        """``ascend`` over several runs of a network that draws random numbers, which draw one after the other.

        The logits ``[b, C]`` of each run, and the means of losses ``[b]`` and input gradients ``[b, ...]``.
        """
        function = self.loss_function(loss, mode)
        mode = "batch" if mode == "train" and self._observing else mode
        with torch.set_grad_enabled(gradient), self._ready(z.device, mode, "run", *key) as run:
            u = self._leaf(z) if gradient else z

            def look() -> tuple[Tensor, Tensor, Tensor | None]:
                logits = run(u)
                self._record("forward", _name(point), mode)
                losses, g = function(logits, rows), None
                if gradient:
                    g = _gradient(losses, u)
                    self._record("input backward", _name(point), mode)
                return logits.detach(), losses.detach(), g

            first, losses, g = look()
            seen = [first]
            for _ in range(draws - 1):
                logits, more, slope = look()
                seen.append(logits)
                losses, g = losses + more, None if g is None or slope is None else g + slope
        if draws > 1:
            losses, g = losses / draws, None if g is None else g / draws
        return seen, losses, g

    def boundaries(
        self, z: Tensor, own: Tensor, others: Tensor, mode: Mode, *key: object, point: Point
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Where the network, linearised at ``z [b, ...]``, changes from class ``own [b]`` to each of ``others [b, K]``.

        For one class ``k`` of the others after the other: the gap ``z_k - z_own``, ``[b]``, and its input gradient
        ``[b, ...]``. One forward, and a backward for each.
        """
        with torch.enable_grad():
            u = self._leaf(z)
            logits = self.run(u, mode, *key, point=point, graph=True)
            gaps = (logits.gather(1, others) - logits.gather(1, own.unsqueeze(1))).unbind(1)
        for k, gap in enumerate(gaps):
            with torch.enable_grad():
                g = _gradient(gap, u, retain_graph=k + 1 < len(gaps))
            self._record("input backward", _name(point), mode)
            yield gap.detach(), g

    def first_logits(self) -> Tensor | None:
        """The logits of the first forward that was made at a point, if any."""
        return next((f.logits for f in self._forwards.values()), None)

    def among(self, rows: Tensor) -> Probe:
        """A probe of some of the samples, for an attack that goes on with those: ``rows [b]`` of this batch.

        Random draws that were handed over go with their samples; passes are counted here.
        """
        noise = {point: draw[rows] for point, draw in self._noise.items()}
        y = None if self.y is None else self.y[rows]
        other = Probe(
            self.model,
            self.x[rows],
            y,
            stream=self.stream,
            noise=noise,
            threat=self.threat,
            attacking=self.attacking,
        )
        other.asking, other.passes = self.asking, self.passes
        if self.found is not None:
            found = self.found
            other.found = lambda chosen, points: found(rows[chosen], points)
        return other

    def tell(self, rows: Tensor, points: Tensor, fooled: Tensor) -> None:
        """Say that a search is done with samples before its end: those of ``rows [b]`` that are ``fooled [b]``, at
        ``points [b, ...]``. Who waits for the search then has them, however it ends; nobody does in training.
        """
        if self.found is not None and fooled.any():
            self.found(rows[fooled], points[fooled])

    # -- states of a step ------------------------------------------------------------------------------------------

    def defer(self, action: Callable[[], None], memory: Memory | None = None) -> None:
        """Have a memory's update run after the step was computed, and not at all in a rehearsal.

        With ``memory`` only the first update of that memory in this step counts: several terms may share one.
        """
        self.asked.deferred = True
        if memory is not None:
            if memory in self._remembering:
                return
            self._remembering.add(memory)
        self.deferred.append(action)

    @contextlib.contextmanager
    def observing(self) -> Iterator[None]:
        """For terms that are only logged: no statistics are updated and nothing is differentiated twice."""
        self._observing = True
        try:
            yield
        finally:
            self._observing = False

    # -- inside ------------------------------------------------------------------------------------------------------

    def _serving(self, point: Point, mode: Mode, dropout: Point) -> Mode:
        """The mode of the forward that serves a request: ``"train"`` serves ``"batch"`` too, if it runs anyway."""
        if mode == "train" and self._observing and (point, "train", dropout) not in self._forwards:
            return "batch"
        if mode == "batch":
            planned = self._needs is not None and (point, dropout) in self._needs.train
            if planned or (point, "train", dropout) in self._forwards:
                return "train"
        return mode

    def _forward(self, point: Point, mode: Mode, dropout_of: Point | None, *, input_graph: bool) -> _Forward:
        dropout = dropout_of or point
        mode = self._serving(point, mode, dropout)
        key: ForwardKey = (point, mode, dropout)
        if mode == "train":
            self.asked.train.add((point, dropout))
        if dropout != point:
            self.asked.shared_dropout = True
        if input_graph and not self._observing:
            self.asked.input_graph.add(key)
        if not input_graph and not self._observing:
            self.asked.uses.append(key)
        known = self._forwards.get(key)
        if known is None:
            wanted = input_graph or (self._needs is not None and key in self._needs.input_graph)
            known = self._forwards[key] = self._make(key, wanted)
        elif input_graph and not known.u.requires_grad:
            # Nobody foresaw this request. Running once more is right, if dearer; statistics are not updated twice.
            rerun: Mode = "batch" if mode == "train" else mode
            known = self._make((point, rerun, dropout), True)
            if not self._observing:
                self._forwards[key] = known
        self._share(known.record)
        return known

    def _said(self, values: Tensor, parts: tuple[Part, ...]) -> Tensor:
        """Values, of which it is known from now on what they are made of."""
        if not torch.compiler.is_compiling():  # a compiled graph sees for itself
            self._combined[id(values)] = values, parts
        return values

    def _parts_of(self, values: Tensor) -> tuple[Part, ...]:
        """The losses of this probe that values are a linear combination of; none where that is not known."""
        known = None if torch.compiler.is_compiling() else self._combined.get(id(values))
        return known[1] if known is not None and known[0] is values else ()

    def _make(self, key: ForwardKey, input_graph: bool) -> _Forward:
        point, mode, dropout = key
        z = self.at(point)
        with torch.enable_grad() if input_graph else contextlib.nullcontext():
            u = self._leaf(z) if input_graph else z
            logits = self._apply(u, mode, "point", dropout)
        record = self._record("forward", _name(point), mode)
        if self._rehearsing:
            record.outputs = logits
        return _Forward(u, logits, record)

    def _input_gradient(self, key: GradKey, differentiable: bool) -> tuple[Tensor, Pass, bool]:
        point, loss, mode, dropout = key
        forward = self._forward(point, mode, dropout, input_graph=True)
        create = differentiable or (self._needs is not None and key in self._needs.differentiable)
        create = create and not self._observing
        joint = not create and self._goes_to_both(key)
        with torch.enable_grad():
            losses = self.loss_function(loss, mode)(forward.logits, None)
            if joint:
                g, self._joint[key] = parameter_gradient(losses, forward.u)
            else:
                g = _gradient(losses, forward.u, retain_graph=True, create_graph=create)
        record = self._record("joint backward" if joint else "input backward", _name(point), mode)
        if self._rehearsing and create:
            record.outputs = g
        return g, record, create

    def _goes_to_both(self, key: GradKey) -> bool:
        """Whether the backward to the input is to go to the parameters too, which is all that they need of it."""
        if self._needs is None or self._observing or torch.compiler.is_compiling():
            return False
        half = torch.is_autocast_enabled(self.x.device.type) and (
            torch.get_autocast_dtype(self.x.device.type) == torch.float16
        )  # there the loss is scaled against underflow before its backward
        return torch.is_grad_enabled() and not half and self._needs.one_backward(key)

    def _leaf(self, z: Tensor) -> Tensor:
        """Coordinates that carry a gradient."""
        if not torch.compiler.is_compiling():
            return z.detach().requires_grad_()
        # A compiled graph may not make leaves. A zero times a parameter carries the gradient instead and adds exactly
        # nothing to the parameter's own.
        anchor: Tensor = next(p for p in self.model.parameters() if p.requires_grad)  # type: ignore[attr-defined]
        return z + (0 * anchor.flatten()[0]).to(z.dtype)

    def _apply(self, u: Tensor, mode: Mode, *key: object, model: Model | None = None) -> Tensor:
        with self._ready(u.device, mode, *key, model=model) as run:
            return run(u)

    @contextlib.contextmanager
    def _ready(
        self, device: torch.device, mode: Mode, *key: object, model: Model | None = None
    ) -> Iterator[Model]:
        """The network in a mode and with the random numbers that ``key`` names, put back afterwards."""
        own = model is None or model is self.model
        model = self.model if model is None else model
        with running(model, mode, self._statistics_of_the_start(mode) if own else None):
            if torch.compiler.is_compiling():
                yield partial(_logits, model)
            else:
                with global_seed(device, self._seed_of(key)):
                    yield partial(_logits, model)

    def _statistics_of_the_start(self, mode: Mode) -> Statistics | None:
        """BatchNorm's statistics from before this step's training forwards, for its forwards in ``"eval"``.

        Those would otherwise depend on which terms came before, and their backward would read statistics that a later
        training forward has overwritten in place (torch keeps them by reference and does not notice).
        """
        if mode == "eval":
            self.asked.evaluation = True
        if self._statistics is None and mode != "batch" and (self._needs is None or self._needs.evaluation):
            self._statistics = live_statistics(self.model)
        return self._statistics

    def _seed_of(self, key: tuple[object, ...]) -> int:
        return self.stream.derive("forward", *(part.key if isinstance(part, Point) else part for part in key))

    def _check_range(self, logits: Tensor) -> None:
        # Once per batch and on the CPU only: elsewhere it would wait for the device, and the loss itself refuses.
        if (
            self._range_checked
            or self.y is None
            or self.y.device.type != "cpu"
            or torch.compiler.is_compiling()
        ):
            return
        self._range_checked = True
        if self.y.numel() and int(self.y.max()) >= logits.shape[1]:
            raise ValueError(
                f"labels run up to {int(self.y.max())}, but the model has {logits.shape[1]} classes: labels must lie "
                f"in 0..{logits.shape[1] - 1}, or be -1 for unlabelled"
            )

    def _record(self, kind: str, point: str, mode: Mode) -> Pass:
        record = Pass(kind, point, mode, [self.asking])
        self.passes.append(record)
        return record

    def _share(self, record: Pass) -> None:
        if self.asking not in record.asked_by:
            record.asked_by.append(self.asking)


def check_samples(x: Tensor) -> None:
    """Refuse samples that are not a floating point tensor ``[B, ...]``."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a floating point tensor [B, ...], got a {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(
            f"x must be floating point (pixels in 0-1), got {x.dtype}; divide 0-255 images by 255"
        )


def _gradient(losses: Tensor, u: Tensor, *, retain_graph: bool = False, create_graph: bool = False) -> Tensor:
    total, g = losses.sum(), None
    if total.requires_grad:
        (g,) = torch.autograd.grad(
            total, u, retain_graph=retain_graph, create_graph=create_graph, allow_unused=True
        )
    if g is None:
        raise ValueError(NO_GRADIENT)
    return g


def _logits(model: Model, u: Tensor) -> Tensor:
    """Logits ``[B, C]`` in at least float32, or a sentence on what the model returned instead."""
    logits: object = model(u)
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"the model must return logits [B, C] as one tensor, but returned a {type(logits).__name__}"
        )
    if logits.ndim != 2 or logits.shape[0] != u.shape[0]:
        raise ValueError(
            f"the model must return logits [B, C] with B = {u.shape[0]}, but returned {list(logits.shape)}"
        )
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _beside(network: Model, z: Tensor) -> Tensor:
    """The coordinates in a network's own precision, and the network on their device."""
    weight = next(network.parameters(), z) if isinstance(network, nn.Module) else z
    if weight.device != z.device:
        network.to(z.device)  # type: ignore[attr-defined]
    return z.to(weight.dtype)


def _name(point: Point) -> str:
    """A short name of a point for the plan's table."""
    return type(point).__name__.lower()
