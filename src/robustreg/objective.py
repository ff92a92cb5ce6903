"""Objectives: the algebra of robust training.

An ``Objective`` is a weighted sum of terms: ``CrossEntropy() + 0.3 * GradientNorm(threat) + Ramp(0, 1) *
Perturbed(threat)``. Calling it gives the scalar loss for any training loop.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustreg.losses import check_labels
from robustreg.modes import Model, out_of_inference
from robustreg.needs import Held, Needs
from robustreg.plan import Plan, StandIn, count, learn
from robustreg.points import Point
from robustreg.probe import Probe, check_samples
from robustreg.schedules import Weight, times, weight_at
from robustreg.streams import Stream
from robustreg.terms import Term, mean_over_samples, samples_of
from robustreg.threat import Threat


@dataclass(frozen=True)
class Detailed:
    """What a step computed.

    Attributes:
        loss: the scalar to call ``backward`` on.
        values: each term's unweighted value, detached scalars by name.
        weights: each term's weight at this step.
        per_sample: each term's values ``[B]`` (or its scalar), detached.
    """

    loss: Tensor
    values: dict[str, Tensor]
    weights: dict[str, float | Tensor]
    per_sample: dict[str, Tensor]


class Objective:
    """A weighted sum of terms. Build it with ``+`` and ``*``; call it for the loss.

    Attributes:
        entries: pairs (weight, term). A weight that is the number 0 means: log this term and leave it out of the loss.
        names: the terms' names in order; a name that occurs again gets ``#2``, ``#3``, ...
        threat: the threat for terms that were given none.
        needs: what a step asks of the probe, once it was learnt.
    """

    def __init__(self, entries: tuple[tuple[Weight, Term], ...], threat: Threat | None = None) -> None:
        self.threat = threat
        self.entries = tuple((w, t.with_threat(threat) if threat is not None else t) for w, t in entries)
        for weight, _ in self.entries:
            _check_weight(weight)
        self.names = _unique_names([term for _, term in self.entries])
        self.needs: Needs | None = None
        self._prepared = False
        self._calls = 0

    @classmethod
    def of(cls, term: Term) -> Objective:
        """The objective of one term with weight 1."""
        return cls(((1.0, term),))

    def with_threat(self, threat: Threat) -> Objective:
        """This objective with a threat for the terms that were given none."""
        return Objective(self.entries, threat)

    def __add__(self, other: Term | Objective) -> Objective:
        if isinstance(other, Term):
            other = Objective.of(other)
        if not isinstance(other, Objective):
            return NotImplemented
        if self.threat and other.threat and self.threat != other.threat:
            raise ValueError(
                f"cannot add objectives under different threats, {self.threat} and {other.threat}"
            )
        return Objective(self.entries + other.entries, self.threat or other.threat)

    def __radd__(self, other: object) -> Objective:
        return self if other == 0 else NotImplemented  # so that sum([...]) works

    def __rmul__(self, weight: Weight) -> Objective:
        _check_weight(weight)
        return Objective(tuple((times(weight, w), t) for w, t in self.entries), self.threat)

    __mul__ = __rmul__

    def __repr__(self) -> str:
        return " + ".join(f"{w} * {t}" if w != 1.0 else f"{t}" for w, t in self.entries) or "Objective()"

    # -- the loss --------------------------------------------------------------------------------------------------

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor | None = None,
        *,
        progress: float | None = None,
        step: int | None = None,
        stream: Stream | None = None,
        index: Tensor | None = None,
    ) -> Tensor:
        """The scalar loss of a batch; see ``detailed``."""
        return self.detailed(model, x, y, progress=progress, step=step, stream=stream, index=index).loss

    def detailed(
        self,
        model: Model,
        x: Tensor,
        y: Tensor | None = None,
        *,
        progress: float | None = None,
        step: int | None = None,
        stream: Stream | None = None,
        index: Tensor | None = None,
        held: Held | None = None,
    ) -> Detailed:
        """The loss of a batch with each term's value beside it.

        Args:
            model: the bare network: maps ``[B, ...]`` to logits ``[B, C]``.
            x: samples ``[B, ...]``, floating point, pixel scale as the threat's bounds say.
            y: integer labels ``[B]``, -1 for a sample without one; None where no term needs labels.
            progress: of training, in [0, 1]; needed where a weight is a schedule.
            step: number of the step, which names its random stream together with ``torch.initial_seed()``; without it
                the objective counts its own calls.
            stream: the random stream itself, in place of ``step``.
            index: the samples' places ``[B]`` in the data, for terms that remember something of every sample.
            held: what this evaluation shares with others of the same batch and step.
        """
        first = self.prepare(x, y, index)
        if stream is None:
            stream = Stream(torch.initial_seed(), self._calls if step is None else step)
            self._calls += 1
        with out_of_inference(x, y) as (x, y):
            probe = Probe(
                model,
                x,
                y,
                stream=stream,
                needs=self.needs,
                threat=self.threat,
                progress=progress,
                index=index,
                points=None if held is None else held.points,
            )
            detailed = self.evaluate(probe, self.weights_at(progress))
        if held is None:
            for action in probe.deferred:
                action()
        elif held.deferred is None:
            held.deferred = probe.deferred
        if first:
            _warn_of_probabilities(probe)
        return detailed

    def prepare(self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> bool:
        """Check the first batch and learn what a step asks for; True if this was the first."""
        if self._prepared:
            return False
        self.check(x, y, index)
        self.needs = self._learn(x, y)
        self._prepared = True
        return True

    def weights_at(self, progress: float | None) -> dict[str, float]:
        """Each term's weight at ``progress``, by name."""
        return {
            name: weight_at(weight, progress)
            for name, (weight, _) in zip(self.names, self.entries, strict=True)
        }

    def evaluate(self, probe: Probe, weights: Mapping[str, float | Tensor]) -> Detailed:
        """The terms' values on a probe and their weighted sum."""
        values: dict[str, Tensor] = {}
        means: dict[str, Tensor] = {}
        entries = [(name, w, t) for name, (w, t) in zip(self.names, self.entries, strict=True)]
        for name, weight, term in entries:
            if _only_logged(weight):
                continue
            probe.asking = name
            values[name] = _shaped(term, term(probe), probe)
            means[name] = mean_over_samples(values[name], term, probe)
        total: Tensor | None = None
        for (
            name,
            _,
            term,
        ) in entries:  # only now it is known which gradients the terms have found on their way
            if name in means:
                summand = weights[name] * _total(values[name], term, probe)
                total = summand if total is None else total + summand
        for (
            name,
            weight,
            term,
        ) in entries:  # last, so that what they run cannot touch what the loss is made of
            if _only_logged(weight):
                probe.asking = name
                with torch.no_grad(), probe.observing():
                    values[name] = _shaped(term, term(probe), probe)
                    means[name] = mean_over_samples(values[name], term, probe)
        if total is None:
            raise ValueError(
                "the objective has no term with a weight other than 0: there is nothing to minimise"
            )
        return Detailed(
            total,
            {name: means[name].detach() for name in self.names},
            dict(weights),
            {name: values[name].detach() for name in self.names},
        )

    # -- before the first step -------------------------------------------------------------------------------------

    @property
    def reads_index(self) -> bool:
        """Whether a term needs to know which samples of the data a batch holds."""
        return any("index" in term.needs for _, term in self.entries)

    def check(self, x: Tensor, y: Tensor | None = None, index: Tensor | None = None) -> None:
        """Say in one sentence what is missing or wrong, before anything runs.

        Raises:
            ValueError: a term needs labels, a threat, an adversary or an index that is not there; inputs outside a
                threat's bounds or not finite; labels of the wrong shape or below -1.
            TypeError: inputs or labels of the wrong type.
        """
        self.check_needs(has_labels=y is not None, has_index=index is not None)
        check_samples(x)
        if y is not None:
            check_labels(x, y)
        for threat in dict.fromkeys(t for _, term in self.entries for t in term.threats()):
            threat.check_input(x)
        if not torch.isfinite(x).all():
            raise ValueError("x holds NaN or infinite values")

    def check_needs(self, has_labels: bool = True, has_index: bool = True) -> None:
        """Raise if a term needs something that is not there."""
        for name, (_, term) in zip(self.names, self.entries, strict=True):
            for need in sorted(term.needs):
                if need == "threat" and self.threat is None:
                    raise ValueError(
                        f"the term {name} needs a threat: pass {type(term).__name__}(threat) or "
                        "objective.with_threat(threat)"
                    )
                if need == "adversary":
                    raise ValueError(f"the term {name} needs an adversary: pass a point such as PGD(threat)")
                if need == "labels" and not has_labels:
                    raise ValueError(f"the term {name} needs labels, but y is None")
                if need == "index" and not has_index:
                    raise ValueError(
                        f"the term {name} remembers something of every sample: pass index=... (integers [B]), or let "
                        "the loader give it, Loader(..., index=True)"
                    )

    def _learn(self, x: Tensor, y: Tensor | None) -> Needs | None:
        # On a stand-in of a few samples: the user's network must not be run for it. A term that only works on a real
        # network is not foreseen; the probe then finds out as it goes, which is right but dearer.
        classes = max(2, int(y.max()) + 1) if y is not None and y.numel() else 10
        try:
            few, labels = x.detach()[:4], None if y is None else y[:4]
            return learn(self, StandIn(few.shape[1:], classes).to(few.device, few.dtype), few, labels)
        except Exception:
            return None

    def plan(self, shape: tuple[int, ...] | None = None, classes: int = 10, *, evaluations: int = 1) -> Plan:
        """What one step costs, before it runs: forwards, input backwards, parameter backwards, double backwards.

        The step is run on a small stand-in network and its passes are counted.

        Args:
            shape: of one sample, ``(C, H, W)`` say; needed only where terms or bounds depend on it.
            classes: number of classes.
            evaluations: of the loss and its gradient in a step, at points that the first one finds; 2 where the
                weights are perturbed.
        """
        self.check_needs()
        return count(self, shape or _shape_from(self) or (3, 8, 8), classes, evaluations)

    # -- state -----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The number of calls so far and the terms' states, by name."""
        states = {name: t.state_dict() for name, (_, t) in zip(self.names, self.entries, strict=True)}
        return {"calls": self._calls, "terms": {name: state for name, state in states.items() if state}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave; the terms must be the same."""
        unknown = set(state["terms"]) - set(self.names)
        if unknown:
            raise ValueError(
                f"the state is of another objective: it has no term {', '.join(sorted(unknown))}"
            )
        self._calls = int(state["calls"])
        for name, (_, term) in zip(self.names, self.entries, strict=True):
            term.load_state_dict(state["terms"].get(name, {}))


def _unique_names(terms: list[Term]) -> tuple[str, ...]:
    seen: dict[str, int] = {}
    names = []
    for term in terms:
        seen[term.name] = seen.get(term.name, 0) + 1
        names.append(term.name if seen[term.name] == 1 else f"{term.name}#{seen[term.name]}")
    return tuple(names)


def _shaped(term: Term, value: Tensor, probe: Probe) -> Tensor:
    if value.ndim == 0 or value.shape == (probe.x.shape[0],):
        return value
    raise ValueError(
        f"the term {term.name} must give values per sample [B] = [{probe.x.shape[0]}] or a scalar, "
        f"but gave {list(value.shape)}"
    )


def _total(values: Tensor, term: Term, probe: Probe) -> Tensor:
    """The mean of a term's values, to be differentiated."""
    if values.ndim == 0:
        return values
    return probe.total(values, lambda v: mean_over_samples(v, term, probe), samples_of(term, probe))


def _only_logged(weight: Weight) -> bool:
    return not callable(weight) and weight == 0


def _shape_from(objective: Objective) -> tuple[int, ...] | None:
    """The sample shape that per-feature bounds imply, if a threat has any."""
    for _, term in objective.entries:
        for threat in term.threats():
            for bound in threat.bounds or ():
                if isinstance(bound, Tensor) and bound.ndim:
                    return tuple(bound.shape)
    return None


def _check_weight(weight: object) -> None:
    # terms, objectives, points and classes can be called too, but none of them is a schedule
    if isinstance(weight, (Term, Objective)):
        raise TypeError(
            "terms cannot be multiplied with each other: weighted(term, by=...) weights a term's samples"
        )
    if isinstance(weight, (Point, type)) or not (callable(weight) or isinstance(weight, (int, float))):
        raise TypeError(f"a weight is a number or a function of progress, got {weight!r}")
    if isinstance(weight, (int, float)) and not math.isfinite(weight):
        raise ValueError(f"a weight must be finite, got {weight!r}")


def _warn_of_probabilities(probe: Probe) -> None:
    logits = probe.first_logits()
    if logits is not None and looks_like_probabilities(logits):
        warnings.warn(
            "the model's outputs look like probabilities (within [0, 1], rows summing to 1); logits are expected: "
            "remove the final softmax",
            stacklevel=4,
        )


def looks_like_probabilities(logits: Tensor) -> bool:
    """Whether every row lies in [0, 1] and sums to 1."""
    z = logits.detach().float()
    return bool(((z >= 0).all() & ((z.sum(1) - 1).abs() < 1e-4).all()).item())
