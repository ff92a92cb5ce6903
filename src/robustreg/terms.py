"""Terms: per-sample values of a batch, the summands of an objective.

A ``Term`` turns what a probe knows of a batch into values ``[B]``. Terms are added and scaled into an
``robustreg.objective.Objective``, and weighted sample by sample with ``weighted``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from robustreg.losses import Loss, SmoothedCrossEntropy, check_loss, needs_labels
from robustreg.memory import Memory, memories
from robustreg.modes import Mode, check_mode
from robustreg.points import CLEAN, Point
from robustreg.probe import Probe
from robustreg.registry import snake_case
from robustreg.schedules import Weight
from robustreg.threat import Threat

if TYPE_CHECKING:
    from robustreg.objective import Objective


class Term:
    """One summand of an objective.

    A subclass implements ``__call__``: per-sample values ``[B]`` from the probe, or a scalar where the maths is not
    per sample (and its docstring says so). Subclasses are usually frozen dataclasses; their fields are the term's
    hyperparameters, and a field ``threat`` left None is filled in by the objective's threat.
    """

    @property
    def name(self) -> str:
        """What the term is called in logs: its class in snake case."""
        return snake_case(type(self).__name__)

    @property
    def needs(self) -> frozenset[str]:
        """What must be there before the first step: of ``"labels"``, ``"threat"``, ``"adversary"``,
        ``"index"`` (which samples of the data these are).

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
            if isinstance(value, Point) and value.reads_labels:
                needs.add("labels")
            if isinstance(value, Point) and value.reads_index:
                needs.add("index")
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
        """Tensors and JSON-able values to save: the memories of the term's parts, by their path; empty without any."""
        states = {path: (part, part.state_dict()) for path, part in _stateful(self)}
        return {path: state for path, (part, state) in states.items() if state or isinstance(part, Memory)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        parts = dict(_stateful(self))
        expected = {path for path, part in parts.items() if path in state or isinstance(part, Memory)}
        if expected != set(state):
            raise ValueError(
                f"the state of {self.name} is {', '.join(sorted(expected)) or 'empty'}, but the checkpoint holds "
                f"{', '.join(sorted(state)) or 'none'}: it is of another objective"
            )
        for path, part in parts.items():
            part.load_state_dict(state.get(path, {}))

    def __add__(self, other: Term | Objective) -> Objective:
        return self._alone() + other

    def __radd__(self, other: object) -> Objective:
        return other + self._alone()  # so that sum([...]) works

    def __rmul__(self, weight: Weight) -> Objective:
        return weight * self._alone()

    __mul__ = __rmul__

    def _alone(self) -> Objective:
        from robustreg.objective import (
            Objective,  # an objective is made of terms: only here the arrow points back
        )

        return Objective.of(self)


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
        if self.normalise:
            scale = mean_over_samples(weight.detach(), self, probe)
            weight = weight / torch.where(scale == 0, 1.0, scale)
        return values * weight


def weighted(term: Term, by: WeightOf, *, detach: bool = False, normalise: bool = False) -> Weighted:
    """Weight a term's samples by another per-sample quantity.

    Args:
        term: any term with per-sample values.
        by: a term, or a function of the probe, giving weights ``[B]``.
        detach: treat the weight as a constant (ARoW does not: its weight carries gradient).
        normalise: divide the weights by their mean over the samples that the term speaks of: it keeps its scale.
    """
    return Weighted(term, by, detach, normalise)


@dataclass(frozen=True)
class Vulnerability(Term):
    """``1 - p_y(x')`` per sample: how little the network believes the label at a point (ARoW's weight)."""

    at: Point = CLEAN
    mode: Mode = "train"

    needs = frozenset({"labels"})

    def __post_init__(self) -> None:
        check_mode(self.mode)

    def __call__(self, probe: Probe) -> Tensor:
        """Values ``[B]`` in [0, 1]; 0 for samples without a label."""
        return -torch.expm1(-probe.loss(self.at, "ce", self.mode))


def mean_over_samples(values: Tensor, term: Term, probe: Probe) -> Tensor:
    """Mean of values ``[B]`` over the samples that a term speaks of: the labelled ones if it needs labels, else all."""
    if values.ndim == 0:
        return values
    spoken = torch.where(probe.labels() >= 0, values, 0.0) if "labels" in term.needs else values
    return spoken.sum() / samples_of(term, probe)


def samples_of(term: Term, probe: Probe) -> Tensor | int:
    """How many samples a term speaks of: what the mean over them divides by."""
    return probe.labelled() if "labels" in term.needs else probe.x.shape[0]


def _threats(value: Any) -> Iterator[Threat]:
    if isinstance(value, Threat):
        yield value
    elif isinstance(value, Point):
        yield from value.threats()
    elif isinstance(value, Term):
        for name in _field_names(value):
            yield from _threats(getattr(value, name))


def _stateful(term: Term) -> Iterator[tuple[str, Term | Memory]]:
    """The terms in a term's fields, and the memories in all other fields, by path."""
    for name in _field_names(term):
        value = getattr(term, name)
        if isinstance(value, Term):
            yield name, value
        else:
            yield from memories(value, name)


def _field_names(value: object) -> list[str]:
    """The names of a dataclass's fields; none for any other object."""
    return [f.name for f in getattr(value, "__dataclass_fields__", {}).values()]
