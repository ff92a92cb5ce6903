"""Terms and objectives: the algebra of robust training.

A :class:`Term` turns what a probe knows of a batch into per-sample values; an :class:`Objective` is a weighted sum of
terms: ``CrossEntropy() + 0.3 * GradientNorm(threat) + Ramp(0, 1) * Perturbed(threat)``. Calling it gives the scalar
loss for any training loop.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustreg.losses import Loss, SmoothedCrossEntropy, check_loss, needs_labels
from robustreg.modes import Mode, Model, check_mode
from robustreg.plan import Plan, StandIn, count, learn
from robustreg.points import CLEAN, Point
from robustreg.probe import Needs, Probe
from robustreg.schedules import Weight, times, weight_at
from robustreg.streams import Stream
from robustreg.threat import Threat


class Term:
    """One summand of an objective.

    A subclass implements :meth:`__call__`: per-sample values ``[B]`` from the probe, or a scalar where the maths is not
    per sample (and its docstring says so). Subclasses are usually frozen dataclasses; their fields are the term's
    hyperparameters, and a field ``threat`` left None is filled in by the objective's threat.
    """

    @property
    def name(self) -> str:
        """What the term is called in logs: its class in snake case."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__).lower()

    @property
    def needs(self) -> frozenset[str]:
        """What must be there before the first step: of ``"labels"``, ``"threat"``, ``"adversary"``.

        By default it is read off the fields: a loss or point that reads labels, an optional threat or adversary that
        is None. A term that needs labels is averaged over the labelled samples only.
        """
        needs: set[str] = set()
        for name in _field_names(self):
            value = getattr(self, name)
            if name in ("threat", "adversary") and value is None:
                needs.add(name)
            if name == "loss" and value is not None and needs_labels(value):
                needs.add("labels")
            if isinstance(value, Term):
                needs |= value.needs
        return frozenset(needs)

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]`` for the probe's batch."""
        raise NotImplementedError

    def with_threat(self, threat: Threat) -> Term:
        """This term with its missing threat filled in."""
        if "threat" in self.needs and getattr(self, "threat", ...) is None:
            return dataclasses.replace(self, threat=threat)  # type: ignore[type-var]
        return self

    def threats(self) -> Iterator[Threat]:
        """Every threat among the fields, to check inputs against."""
        yield from _threats(self)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and JSON-able values to save; empty for a term without state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""
        if state:
            raise ValueError(f"{self.name} has no state, but the checkpoint holds {', '.join(sorted(state))} for it")

    def __add__(self, other: Term | Objective) -> Objective:
        return Objective.of(self) + other

    def __rmul__(self, weight: Weight) -> Objective:
        return weight * Objective.of(self)

    def __mul__(self, weight: Weight) -> Objective:
        return weight * Objective.of(self)


@dataclass(frozen=True)
class CrossEntropy(Term):
    """Cross-entropy at a point: plain training at the clean sample, adversarial training at an attack.

    Args:
        at: where; ``CrossEntropy(at=PGD(threat))`` is the adversarial training of Madry et al. 2018.
        smoothing: label smoothing ``a``: target ``(1 - a) e_y + a / C``.
        mode: the mode in which the network is run there.
    """

    at: Point = CLEAN
    smoothing: float = 0.0
    mode: Mode = "train"

    needs = frozenset({"labels"})

    def __post_init__(self) -> None:
        check_mode(self.mode)
        if not 0.0 <= self.smoothing <= 1.0:
            raise ValueError(f"smoothing must lie in [0, 1], got {self.smoothing}")

    def __call__(self, probe: Probe) -> Tensor:
        """Cross-entropy ``[B]``."""
        loss: Loss = SmoothedCrossEntropy(self.smoothing) if self.smoothing else "ce"
        return probe.loss(self.at, loss, self.mode)


@dataclass(frozen=True)
class LossAt(Term):
    """Any per-sample loss at any point: ``LossAt(PGD(threat), loss="margin")``."""

    at: Point = CLEAN
    loss: Loss = "ce"
    mode: Mode = "train"

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_mode(self.mode)

    def __call__(self, probe: Probe) -> Tensor:
        """The loss ``[B]``."""
        return probe.loss(self.at, self.loss, self.mode)


WeightOf = Term | Callable[[Probe], Tensor]


@dataclass(frozen=True)
class Weighted(Term):
    """A term whose samples are weighted by another per-sample quantity (the idea of ARoW, for any term)."""

    term: Term
    by: WeightOf
    detach: bool = False
    normalise: bool = False

    @property
    def name(self) -> str:
        """The inner term's name and the weight's."""
        by = self.by.name if isinstance(self.by, Term) else getattr(self.by, "__name__", "weight")
        return f"{self.term.name}_by_{by}"

    @property
    def needs(self) -> frozenset[str]:
        """What the term needs and what its weight needs."""
        return self.term.needs | (self.by.needs if isinstance(self.by, Term) else frozenset())

    def with_threat(self, threat: Threat) -> Term:
        """Both parts with their missing threat filled in."""
        by = self.by.with_threat(threat) if isinstance(self.by, Term) else self.by
        return dataclasses.replace(self, term=self.term.with_threat(threat), by=by)

    def __call__(self, probe: Probe) -> Tensor:
        """``weight * value`` per sample ``[B]``."""
        values, weight = self.term(probe), self.by(probe)
        if values.ndim != 1 or weight.shape != values.shape:
            raise ValueError(
                f"weighted() needs values and weights per sample [B], but {self.term.name} gave "
                f"{list(values.shape)} and its weight {list(weight.shape)}"
            )
        weight = weight.detach() if self.detach else weight
        return values * (weight / weight.detach().mean() if self.normalise else weight)

    def state_dict(self) -> dict[str, Any]:
        """The states of both parts, where there are any."""
        states = {"term": self.term.state_dict(), "by": self.by.state_dict() if isinstance(self.by, Term) else {}}
        return {key: state for key, state in states.items() if state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""
        self.term.load_state_dict(state.get("term", {}))
        if isinstance(self.by, Term):
            self.by.load_state_dict(state.get("by", {}))


def weighted(term: Term, by: WeightOf, *, detach: bool = False, normalise: bool = False) -> Weighted:
    """Weight a term's samples by another per-sample quantity.

    Args:
        term: any term with per-sample values.
        by: a term, or a function of the probe, giving weights ``[B]``.
        detach: treat the weight as a constant (ARoW does not: its weight carries gradient).
        normalise: divide the weights by their batch mean, so that the term keeps its scale.
    """
    return Weighted(term, by, detach, normalise)


@dataclass(frozen=True)
class Vulnerability(Term):
    """``1 - p_y(x')`` per sample: how little the network believes the label at a point (ARoW's weight)."""

    at: Point = CLEAN
    mode: Mode = "train"

    needs = frozenset({"labels"})

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]`` in [0, 1]; 0 for samples without a label."""
        return -torch.expm1(-probe.loss(self.at, "ce", self.mode))


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
            if not callable(weight) and not isinstance(weight, (int, float)):
                raise TypeError(f"a weight is a number or a function of progress, got {weight!r}")
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
            raise ValueError(f"cannot add objectives under different threats, {self.threat} and {other.threat}")
        return Objective(self.entries + other.entries, self.threat or other.threat)

    def __radd__(self, other: object) -> Objective:
        return self if other == 0 else NotImplemented  # so that sum([...]) works

    def __rmul__(self, weight: Weight) -> Objective:
        if not callable(weight) and not isinstance(weight, (int, float)):
            return NotImplemented
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
    ) -> Tensor:
        """The scalar loss of a batch; see :meth:`detailed`."""
        return self.detailed(model, x, y, progress=progress, step=step, stream=stream).loss

    def detailed(
        self,
        model: Model,
        x: Tensor,
        y: Tensor | None = None,
        *,
        progress: float | None = None,
        step: int | None = None,
        stream: Stream | None = None,
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
        """
        first = self.prepare(x, y)
        if stream is None:
            stream = Stream(torch.initial_seed(), self._calls if step is None else step)
            self._calls += 1
        probe = Probe(model, x, y, stream=stream, needs=self.needs, threat=self.threat)
        detailed = self.evaluate(probe, self.weights_at(progress))
        for action in probe.deferred:
            action()
        if first:
            _warn_of_probabilities(probe)
        return detailed

    def prepare(self, x: Tensor, y: Tensor | None = None) -> bool:
        """Check the first batch and learn what a step asks for; True if this was the first."""
        if self._prepared:
            return False
        self.check(x, y)
        self.needs = self._learn(x, y)
        self._prepared = True
        return True

    def weights_at(self, progress: float | None) -> dict[str, float]:
        """Each term's weight at ``progress``, by name."""
        return {name: weight_at(weight, progress) for name, (weight, _) in zip(self.names, self.entries, strict=True)}

    def evaluate(self, probe: Probe, weights: Mapping[str, float | Tensor]) -> Detailed:
        """The terms' values on a probe and their weighted sum."""
        values: dict[str, Tensor] = {}
        total: Tensor | None = None
        entries = [(name, w, t) for name, (w, t) in zip(self.names, self.entries, strict=True)]
        for name, weight, term in entries:
            if _only_logged(weight):
                continue
            probe.asking = name
            values[name] = _shaped(term, term(probe), probe)
            summand = weights[name] * _mean(values[name], term, probe)
            total = summand if total is None else total + summand
        for name, weight, term in entries:  # last, so that what they run cannot touch what the loss is made of
            if _only_logged(weight):
                probe.asking = name
                with torch.no_grad(), probe.observing():
                    values[name] = _shaped(term, term(probe), probe)
        if total is None:
            raise ValueError("the objective has no term with a weight other than 0: there is nothing to minimise")
        per_sample = {name: values[name].detach() for name in self.names}
        means = {
            name: _mean(per_sample[name], term, probe) for name, (_, term) in zip(self.names, self.entries, strict=True)
        }
        return Detailed(total, means, dict(weights), per_sample)

    # -- before the first step -------------------------------------------------------------------------------------

    def check(self, x: Tensor, y: Tensor | None = None) -> None:
        """Say in one sentence what is missing or wrong, before anything runs.

        Raises:
            ValueError: a term needs labels, a threat or an adversary that is not there; inputs outside a threat's
                bounds or not finite; labels of the wrong shape or below -1.
            TypeError: inputs or labels of the wrong type.
        """
        self.check_needs(has_labels=y is not None)
        if not x.is_floating_point():
            raise TypeError(f"x must be floating point (pixels in 0-1), got {x.dtype}; divide 0-255 images by 255")
        if y is not None:
            _check_labels(x, y)
        for threat in dict.fromkeys(t for _, term in self.entries for t in term.threats()):
            threat.check_input(x)
        if not torch.isfinite(x).all():
            raise ValueError("x holds NaN or infinite values")

    def check_needs(self, has_labels: bool = True) -> None:
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

    def _learn(self, x: Tensor, y: Tensor | None) -> Needs | None:
        # On a stand-in of a few samples: the user's network must not be run for it. A term that only works on a real
        # network is not foreseen; the probe then finds out as it goes, which is right but dearer.
        classes = max(2, int(y.max()) + 1) if y is not None and y.numel() else 10
        try:
            few = x.detach()[:4]
            return learn(self, StandIn(few.shape[1:], classes).to(few.device, few.dtype), few, y if y is None else y[:4])
        except Exception:
            return None

    def plan(self, shape: tuple[int, ...] | None = None, classes: int = 10) -> Plan:
        """What one step costs, before it runs: forwards, input backwards, parameter backwards, double backwards.

        The step is run on a small stand-in network and its passes are counted.

        Args:
            shape: of one sample, ``(C, H, W)`` say; needed only where terms or bounds depend on it.
            classes: number of classes.
        """
        self.check_needs()
        return count(self, shape or _shape_from(self) or (3, 8, 8), classes)

    # -- state -----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The number of calls so far and the terms' states, by name."""
        states = {name: t.state_dict() for name, (_, t) in zip(self.names, self.entries, strict=True)}
        return {"calls": self._calls, "terms": {name: state for name, state in states.items() if state}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave; the terms must be the same."""
        unknown = set(state["terms"]) - set(self.names)
        if unknown:
            raise ValueError(f"the state is of another objective: it has no term {', '.join(sorted(unknown))}")
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


def _only_logged(weight: Weight) -> bool:
    return not callable(weight) and weight == 0


def _mean(values: Tensor, term: Term, probe: Probe) -> Tensor:
    """Mean over the samples that the term speaks of: the labelled ones if it needs labels, else all."""
    if values.ndim == 0:
        return values
    if "labels" not in term.needs:
        return values.mean()
    labelled = (probe.labels() >= 0).sum()
    return values.sum() / labelled.clamp(min=1)


def _threats(value: Any) -> Iterator[Threat]:
    if isinstance(value, Threat):
        yield value
    elif isinstance(value, (Term, Point)):
        for name in _field_names(value):
            yield from _threats(getattr(value, name))


def _field_names(value: object) -> list[str]:
    """The names of a dataclass's fields; none for any other object."""
    return [f.name for f in getattr(value, "__dataclass_fields__", {}).values()]


def _shape_from(objective: Objective) -> tuple[int, ...] | None:
    """The sample shape that per-feature bounds imply, if a threat has any."""
    for _, term in objective.entries:
        for threat in term.threats():
            for bound in threat.bounds or ():
                if isinstance(bound, Tensor) and bound.ndim:
                    return tuple(bound.shape)
    return None


def _check_labels(x: Tensor, y: Tensor) -> None:
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise TypeError(f"labels must be integers [B], got {y.dtype}")
    if y.shape != x.shape[:1]:
        raise ValueError(f"labels must be [B] = [{x.shape[0]}] like x {list(x.shape)}, got {list(y.shape)}")
    if y.numel() and int(y.min()) < -1:
        raise ValueError(f"labels must be class numbers from 0, or -1 for unlabelled, got {int(y.min())}")


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
