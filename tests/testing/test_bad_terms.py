"""Planted terms, each with one defect: the check that is meant for it finds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

import robustreg as rr
from robustreg import registry, testing
from robustreg.memory import Memory
from robustreg.testing import terms

T = rr.Threat("linf", 0.1)


class Bad(rr.Term):
    """A term that would be right but for what a subclass does: the size of the logits."""

    def __call__(self, probe: rr.Probe) -> Tensor:
        return probe.logits().square().sum(1)


@dataclass(frozen=True)
class RunsTheModelItself(Bad):
    def __call__(self, probe: rr.Probe) -> Tensor:
        probe.model(probe.x)
        return super().__call__(probe)


@dataclass(frozen=True)
class MovesTheGlobalRandomState(Bad):
    def __call__(self, probe: rr.Probe) -> Tensor:
        torch.rand(3)
        return super().__call__(probe)


@dataclass(frozen=True)
class DrawsOutsideTheStreams(Bad):
    def __call__(self, probe: rr.Probe) -> Tensor:
        with torch.random.fork_rng():  # leaves no trace, and yet depends on the global state
            return super().__call__(probe) * torch.rand(len(probe.x))


@dataclass(frozen=True)
class DividesByTheBatch(Bad):
    def __call__(self, probe: rr.Probe) -> Tensor:
        return super().__call__(probe) / len(probe.x)


@dataclass(frozen=True)
class RootOfZero(Bad):
    needs = frozenset({"labels"})

    def __call__(self, probe: rr.Probe) -> Tensor:
        return rr.numerics.flatten(probe.grad(differentiable=True)).square().sum(1).sqrt()


@dataclass(frozen=True)
class WritesIntoTheSamples(Bad):
    def __call__(self, probe: rr.Probe) -> Tensor:
        probe.x.clamp_(0.4, 0.6)
        return super().__call__(probe)


@dataclass(frozen=True)
class KeepsADimension(Bad):
    def __call__(self, probe: rr.Probe) -> Tensor:
        return super().__call__(probe).unsqueeze(1)


@dataclass(frozen=True)
class IsANumber(Bad):
    def __call__(self, probe: rr.Probe) -> Any:
        return 0.0


@dataclass(frozen=True)
class TrainsNothing(Bad):
    def __call__(self, probe: rr.Probe) -> Tensor:
        return super().__call__(probe).detach()


@dataclass(frozen=True)
class HidesThatItReadsLabels(Bad):
    def __call__(self, probe: rr.Probe) -> Tensor:
        return probe.loss(rr.Clean(), "ce")


@dataclass(frozen=True)
class UsesLabelsWhereThereAreSome(Bad):
    def __call__(self, probe: rr.Probe) -> Tensor:
        return super().__call__(probe) * (1.0 if probe.y is None else probe.y)


@dataclass(frozen=True)
class NeedsNoLabelsAfterAll(Bad):
    needs = frozenset({"labels"})


@dataclass(frozen=True)
class CountsTheUnlabelled(Bad):
    needs = frozenset({"labels"})

    def __call__(self, probe: rr.Probe) -> Tensor:
        losses = probe.loss(rr.Clean(), "ce")
        return losses / super().__call__(probe).mean()


class Doubled(torch.autograd.Function):
    """The square of a number, with twice its derivative."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z.square()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 4 * ctx.saved_tensors[0] * g


@dataclass(frozen=True)
class WrongBackward(Bad):
    def __call__(self, probe: rr.Probe) -> Tensor:
        return Doubled.apply(probe.logits()).sum(1)


@dataclass(frozen=True)
class HoldsHalfConstant(Bad):
    def __call__(self, probe: rr.Probe) -> Tensor:
        return (probe.logits().detach() * probe.logits()).sum(1)


@dataclass(frozen=True)
class CountsThePlaces(Bad):
    def __call__(self, probe: rr.Probe) -> Tensor:
        return super().__call__(probe) * torch.arange(len(probe.x))


@dataclass(frozen=True)
class ComparesNeighbours(Bad):
    def __call__(self, probe: rr.Probe) -> Tensor:
        return (probe.logits() - probe.logits().mean(0)).square().sum(1)


@dataclass(frozen=True)
class InHalfPrecision(Bad):
    def __call__(self, probe: rr.Probe) -> Tensor:
        return super().__call__(probe).bfloat16()


@dataclass(frozen=True)
class NarrowsDoubles(Bad):
    def __call__(self, probe: rr.Probe) -> Tensor:
        return super().__call__(probe).float()


@dataclass(frozen=True)
class Exponential(Bad):
    def __call__(self, probe: rr.Probe) -> Tensor:
        return probe.logits().exp().sum(1)


@dataclass(frozen=True)
class LogarithmOfPixels(Bad):
    def __call__(self, probe: rr.Probe) -> Tensor:
        return super().__call__(probe) * probe.x.log().flatten(1).sum(1)


@dataclass(frozen=True)
class SwitchesToEvaluation(Bad):
    def __call__(self, probe: rr.Probe) -> Tensor:
        training = probe.model.training
        probe.model.train(False)
        values = super().__call__(probe)  # nothing switches back where this raises
        probe.model.train(training)
        return values


@dataclass(frozen=True)
class LooksAtWhoElseAsked(Bad):
    def __call__(self, probe: rr.Probe) -> Tensor:
        return super().__call__(probe) * (1 + len(probe.passes))


@dataclass(frozen=True)
class ForgetsItsThreat(Bad):
    threat: rr.Threat | None = None
    needs = frozenset({"labels"})

    def __call__(self, probe: rr.Probe) -> Tensor:
        assert self.threat is not None
        return self.threat.eps * probe.loss(rr.Clean(), "ce")


@dataclass(frozen=True)
class HidesThatItReadsTheIndex(Bad):
    def __call__(self, probe: rr.Probe) -> Tensor:
        return super().__call__(probe) * probe.sample_index()


@dataclass(frozen=True)
class ImagesOfOneSize(Bad):
    def __call__(self, probe: rr.Probe) -> Tensor:
        return super().__call__(probe) * probe.x[:, 0, 0, 0]


@dataclass(frozen=True)
class HoldsAList(Bad):
    scales: list[float] = field(default_factory=lambda: [1.0])


@dataclass
class CanBeChanged(Bad):
    scale: float = 1.0


class NoDataclass(Bad):
    """Two of them are never equal."""


@dataclass(frozen=True)
class ChangesItsFields(Bad):
    scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", 2 * self.scale)


class Count(Memory):
    """A number of steps, saved or not, as a tensor that is updated in place or not."""

    def __init__(self, saved: bool = True) -> None:
        self.saved = saved
        self.n = torch.zeros(())

    def state_dict(self) -> dict[str, Any]:
        return {"n": self.n} if self.saved else {"n": torch.zeros(())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.n = state["n"].clone()


@dataclass(frozen=True)
class Remembers(Bad):
    """What is right: a weight that grows from step to step."""

    memory: Count = field(default_factory=Count, kw_only=True)

    def __call__(self, probe: rr.Probe) -> Tensor:
        probe.defer(self.learn)
        return super().__call__(probe) * (1 + self.memory.n)

    def learn(self) -> None:
        self.memory.n = self.memory.n + 1


@dataclass(frozen=True)
class LosesItsState(Remembers):
    memory: Count = field(default_factory=lambda: Count(saved=False), kw_only=True)


class Silent(Count):
    """A memory that saves nothing at all."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


@dataclass(frozen=True)
class SavesNothing(Remembers):
    memory: Count = field(default_factory=Silent, kw_only=True)


@dataclass(frozen=True)
class LearnsInRehearsals(Remembers):
    def __call__(self, probe: rr.Probe) -> Tensor:
        self.learn()
        return Bad.__call__(self, probe) * (1 + self.memory.n)


class Alias(Count):
    """A memory that goes on in the very tensors that it loaded."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.n = state["n"]


@dataclass(frozen=True)
class WritesIntoWhatItLoaded(Remembers):
    memory: Count = field(default_factory=Alias, kw_only=True)

    def learn(self) -> None:
        self.memory.n += 1  # in place


class Unsayable(Count):
    """A state that no file can hold."""

    def state_dict(self) -> dict[str, Any]:
        return {"n": self.n, "kind": {int}}


@dataclass(frozen=True)
class SavesASet(Remembers):
    memory: Count = field(default_factory=Unsayable, kw_only=True)


class Last(Count):
    """The last values, by row."""

    def __init__(self) -> None:
        super().__init__()
        self.values: Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        return {} if self.values is None else {"values": self.values.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.values = state.get("values")


@dataclass(frozen=True)
class RemembersRows(Bad):
    memory: Last = field(default_factory=Last, kw_only=True)

    def __call__(self, probe: rr.Probe) -> Tensor:
        values = super().__call__(probe)
        probe.defer(lambda: setattr(self.memory, "values", values.detach()))
        last = self.memory.values
        return values if last is None or len(last) != len(values) else values * last


PLANTED = [
    (RunsTheModelItself(), "plan", "2 forwards where it says 1"),
    (RunsTheModelItself(), "statistics", "updated 2 times, where the plan has 1"),
    (MovesTheGlobalRandomState(), "side_effects", "changed torch's global random state"),
    (
        DrawsOutsideTheStreams(),
        "randomness",
        "under another global random state: draw from the probe's streams",
    ),
    (DividesByTheBatch(), "batch_split", "a sample's value depends on the other samples"),
    (RootOfZero(), "constant_network", "parameter gradient for a constant network are NaN"),
    (WritesIntoTheSamples(), "side_effects", "changed the input x"),
    (KeepsADimension(), "values", r"but gave \[6, 1\]"),
    (IsANumber(), "values", "raised AttributeError"),
    (TrainsNothing(), "trains", "no gradient reaches the parameters"),
    (HidesThatItReadsLabels(), "labels", "does not say in `needs` that it needs labels, but without them"),
    (UsesLabelsWhereThereAreSome(), "labels", "but has other values with no labels"),
    (NeedsNoLabelsAfterAll(), "labels", "gives values without them"),
    (CountsTheUnlabelled(), "unlabelled", "unlabelled samples change the loss"),
    (WrongBackward(), "gradient", "its slope is"),
    (CountsThePlaces(), "permutation", "permuted samples have other values"),
    (ComparesNeighbours(), "batch_split", "a sample's value depends on the other samples"),
    (InHalfPrecision(), "dtypes", "values are bfloat16"),
    (NarrowsDoubles(), "dtypes", "float32 for samples in float64"),
    (Exponential(), "huge_logits", "NaN or infinite"),
    (LogarithmOfPixels(), "corners", "NaN or infinite"),
    (SwitchesToEvaluation(), "interrupted", "changed the model's train and eval flags"),
    (LooksAtWhoElseAsked(), "isolation", "after other terms are not those it has alone"),
    (ForgetsItsThreat(), "missing", "without a threat it does not say"),
    (HidesThatItReadsTheIndex(), "index", "does not say in `needs` that it needs an index"),
    (ImagesOfOneSize(), "shapes", "raised IndexError"),
    (HoldsAList(), "value", "hold tuples in place of lists"),
    (CanBeChanged(), "value", "not a frozen dataclass"),
    (NoDataclass(), "value", "not a frozen dataclass"),
    (LosesItsState(), "state", "the next step has other bits"),
    (SavesNothing(), "state", "the next step has other bits"),
    (LearnsInRehearsals(), "state", r"plan\(\) changed its state"),
    (LearnsInRehearsals(), "interrupted", "changed the term's state"),
    (WritesIntoWhatItLoaded(), "state", "later steps change the state that was loaded"),
    (SavesASet(), "state", "is a set, where tensors and JSON values"),
    (RemembersRows(), "permutation", "permuted samples have other values"),
    (ChangesItsFields(), "recipe", "builds another one"),
    (HoldsHalfConstant(), "exact_gradient", "its slope is"),
]


def check_of(name: str, term: rr.Term, **options: Any) -> testing.Check:
    return next(check for check in testing.term_checks(term, **options) if check.name == name)


@pytest.mark.parametrize(("term", "name", "sentence"), PLANTED, ids=lambda v: type(v).__name__ if v else "")
def test_a_planted_defect_is_found_by_its_check(
    term: rr.Term, name: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry._registered, "term", {"planted": type(term)})  # so that a recipe can say it
    with pytest.raises(testing.ContractError, match=sentence) as caught:
        check_of(name, term, exact_gradient=True)()
    message = str(caught.value)
    assert message.startswith(f"{term.name}-{name} is broken: ")
    assert "\n" not in message


def test_every_check_finds_a_planted_defect() -> None:
    assert {name for _, name, _ in PLANTED} == set(terms.NAMES) - {"devices"}


@pytest.mark.parametrize(
    ("term", "broken"),
    [
        (DrawsOutsideTheStreams(), {"randomness", "permutation", "batch_split"}),
        (DividesByTheBatch(), {"batch_split"}),
        (TrainsNothing(), {"trains"}),
        (WrongBackward(), {"gradient"}),
        (NeedsNoLabelsAfterAll(), {"labels"}),
        (Exponential(), {"huge_logits"}),
        (LosesItsState(), {"state"}),
        (HoldsHalfConstant(), set()),  # unless the gradient is to be exact
        (Remembers(), set()),
    ],
    ids=lambda v: type(v).__name__,
)
def test_only_what_is_broken_is_found(term: rr.Term, broken: set[str]) -> None:
    found = set()
    for check in testing.term_checks(term):
        try:
            check()
        except testing.ContractError:
            found.add(check.name)
    assert found == broken


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a device beside the CPU")
def test_a_tensor_on_the_wrong_device_is_found() -> None:
    with pytest.raises(testing.ContractError, match="device"):
        check_of("devices", CountsThePlaces())()
