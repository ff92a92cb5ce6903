"""Planted attacks, each with one defect: the check that is meant for it finds it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

import robustreg as rr
from robustreg import registry, testing
from robustreg.testing import attacks

T = rr.Threat("linf", 0.1)


@dataclass(frozen=True)
class Step(rr.Point):
    """What is right: one steepest step, kept within the threat."""

    threat: rr.Threat = T
    loss: Any = "ce"

    def locate(self, probe: rr.Probe) -> Tensor:
        g = probe.grad(rr.Clean(), self.loss, "eval")
        return self.threat.project(probe.x + self.step(probe, g), probe.x)

    def step(self, probe: rr.Probe, g: Tensor) -> Tensor:
        return self.threat.steepest(g)


@dataclass(frozen=True)
class LeavesTheBall(Step):
    def locate(self, probe: rr.Probe) -> Tensor:
        return self.threat.clip(probe.x + 1.5 * self.threat.steepest(probe.grad(rr.Clean(), "ce", "eval")))


@dataclass(frozen=True)
class LeavesTheBox(Step):
    def locate(self, probe: rr.Probe) -> Tensor:
        return probe.x + self.threat.steepest(probe.grad(rr.Clean(), "ce", "eval"))


@dataclass(frozen=True)
class SaysItClips(LeavesTheBall):
    clip: str = "threat"


@dataclass(frozen=True)
class DividesByZero(Step):
    def step(self, probe: rr.Probe, g: Tensor) -> Tensor:
        length = g.flatten(1).norm(dim=1).reshape(-1, *[1] * (g.ndim - 1))
        return self.threat.eps * g / length


@dataclass(frozen=True)
class ClimbsWithParameterGradients(Step):
    def locate(self, probe: rr.Probe) -> Tensor:
        with torch.enable_grad():
            u = probe.x.clone().requires_grad_()
            torch.nn.functional.cross_entropy(probe.model(u), probe.labels().clamp(min=0)).backward()
        return self.threat.project(probe.x + self.threat.steepest(u.grad), probe.x)


@dataclass(frozen=True)
class LeavesTheModelInEvaluation(Step):
    def locate(self, probe: rr.Probe) -> Tensor:
        probe.model.eval()
        return super().locate(probe)


@dataclass(frozen=True)
class SwitchesBackAtTheEnd(Step):
    def locate(self, probe: rr.Probe) -> Tensor:
        training = probe.model.training
        probe.model.train(False)
        found = super().locate(probe)
        probe.model.train(training)
        return found


@dataclass(frozen=True)
class UpdatesStatistics(Step):
    def locate(self, probe: rr.Probe) -> Tensor:
        probe.run(probe.x, "train", "extra")
        return super().locate(probe)


@dataclass(frozen=True)
class DrawsOutsideTheStreams(Step):
    def step(self, probe: rr.Probe, g: Tensor) -> Tensor:
        with torch.random.fork_rng():
            return super().step(probe, g) * torch.rand(g.shape).to(g.dtype)


@dataclass(frozen=True)
class HidesItsStart(Step):
    def locate(self, probe: rr.Probe) -> Tensor:
        start = rr.Uniform(self.threat)  # in no field, and parts() does not name it
        z = probe.at(start) + self.threat.steepest(probe.grad(start, "ce", "eval"))
        return self.threat.project(z, probe.x)


@dataclass(frozen=True)
class WritesIntoTheSamples(Step):
    def locate(self, probe: rr.Probe) -> Tensor:
        return probe.x.add_(0.01)


@dataclass(frozen=True)
class DropsARow(Step):
    def locate(self, probe: rr.Probe) -> Tensor:
        return super().locate(probe)[1:]


@dataclass(frozen=True)
class GivesFloats(Step):
    def locate(self, probe: rr.Probe) -> Tensor:
        return super().locate(probe).float()


@dataclass(frozen=True)
class StepsByPlace(Step):
    def step(self, probe: rr.Probe, g: Tensor) -> Tensor:
        share = torch.linspace(0.5, 1.0, len(g)).to(g.dtype)
        return super().step(probe, g) * share.reshape(-1, *[1] * (g.ndim - 1))


@dataclass(frozen=True)
class StepsAsTheLargest(Step):
    def step(self, probe: rr.Probe, g: Tensor) -> Tensor:
        largest = g.abs().max() if len(g) else 1.0
        return self.threat.eps * g / (largest + 1e-6)


@dataclass(frozen=True)
class TakesAllAtOnce(Step):
    @property
    def refills(self) -> bool:
        return True


@dataclass(frozen=True)
class StepsAsTheWaitingAllow(Step):
    @property
    def refills(self) -> bool:
        return True

    def locate(self, probe: rr.Probe) -> Tensor:
        parts = torch.arange(len(probe.x)).split(probe.at_once or max(len(probe.x), 1))
        share = 1 / len(parts)
        found = [probe.x[rows] + share * self.threat.steepest(self._gradient(probe, rows)) for rows in parts]
        return self.threat.project(torch.cat(found), probe.x)

    def _gradient(self, probe: rr.Probe, rows: Tensor) -> Tensor:
        _, _, g = probe.ascend(probe.x[rows], rows, self.loss, "eval", point=self)
        assert g is not None
        return g


@dataclass(frozen=True)
class HidesThatItReadsLabels(Step):
    @property
    def reads_labels(self) -> bool:
        return False


@dataclass(frozen=True)
class ReadsNoLabelsAfterAll(Step):
    loss: Any = "ce"

    def locate(self, probe: rr.Probe) -> Tensor:
        return self.threat.project(probe.x + self.threat.eps, probe.x)


@dataclass(frozen=True)
class NeedsSomebodyStanding(Step):
    def locate(self, probe: rr.Probe) -> Tensor:
        found = super().locate(probe)
        standing = probe.logits(rr.Clean(), "eval").argmax(1) == probe.labels()
        found[standing] = found[standing].clamp(max=found[standing].max())
        return found


@dataclass(frozen=True)
class HoldsAList(Step):
    steps: Any = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", list(self.steps))


class Anything:
    """An object that is equal to its copy, but has no name of its own."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Anything)

    def __hash__(self) -> int:
        return 0


@dataclass(frozen=True)
class HoldsAnObject(Step):
    something: Any = field(default_factory=Anything)


@dataclass(frozen=True)
class HidesItsPoints(rr.Point):
    points: tuple[rr.Point, ...] = (rr.FGSM(T),)

    def locate(self, probe: rr.Probe) -> Tensor:
        return probe.at(self.points[0])

    def threats(self) -> Iterator[rr.Threat]:
        for point in self.points:
            yield from point.threats()


@dataclass(frozen=True)
class Descends(Step):
    def step(self, probe: rr.Probe, g: Tensor) -> Tensor:
        return -super().step(probe, g)


@dataclass(frozen=True)
class ImagesOfOneSize(Step):
    def step(self, probe: rr.Probe, g: Tensor) -> Tensor:
        return super().step(probe, g) * (g[:, :1, :1, :1] != 0)


@dataclass(frozen=True)
class AsksForAnIndexInVain(Step):
    @property
    def reads_index(self) -> bool:
        return True


@dataclass(frozen=True)
class ChangesItsFields(Step):
    scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", 2 * self.scale)


PLANTED = [
    (LeavesTheBall(), "inside", r"6 of 6 points are outside the threat .* up to 0.15 from"),
    (LeavesTheBox(), "inside", r"points are outside the box \(0.0, 1.0\), by up to 0.1"),
    (SaysItClips(), "inside", "points are outside the threat"),
    (DividesByZero(), "constant_network", "NaN or infinite"),
    (ClimbsWithParameterGradients(), "side_effects", "changed .*the parameters' .grad"),
    (LeavesTheModelInEvaluation(), "side_effects", "changed the model's train and eval flags"),
    (SwitchesBackAtTheEnd(), "interrupted", "changed the model's train and eval flags"),
    (UpdatesStatistics(), "side_effects", "BatchNorm's statistics"),
    (DrawsOutsideTheStreams(), "randomness", "under another global random state"),
    (HidesItsStart(), "noise", r"parts\(\) must name every random point"),
    (WritesIntoTheSamples(), "side_effects", "changed the input x"),
    (DropsARow(), "result", r"gave \[5, 2, 5, 4\] for samples \[6, 2, 5, 4\]"),
    (GivesFloats(), "dtypes", "gave torch.float32 for samples in torch.float64"),
    (StepsByPlace(), "permutation", "permuted samples have other points"),
    (StepsAsTheLargest(), "permutation", "depends on the other samples of its batch"),
    (TakesAllAtOnce(), "refills", "with at_once=1 it ran the network on 6 samples"),
    (StepsAsTheWaitingAllow(), "refills", "with at_once=1 it finds other points"),
    (HidesThatItReadsLabels(), "labels", "its reads_labels is False, but without labels"),
    (ReadsNoLabelsAfterAll(), "labels", "its reads_labels is True, but as a training point it needs none"),
    (NeedsSomebodyStanding(), "fooled", "raised RuntimeError"),
    (HoldsAList((1, 2)), "value", "hold tuples in place of lists"),
    (HoldsAnObject(), "value", "names a memory address"),
    (HidesItsPoints(), "threat", "it still holds"),
    (ImagesOfOneSize(), "shapes", "raised IndexError"),
    (AsksForAnIndexInVain(), "called", "found without the progress of training or the index"),
    (ChangesItsFields(), "recipe", "builds another one"),
    (Descends(), "climbs", "lowers the mean loss"),
]


def check_of(name: str, attack: rr.Point, **options: Any) -> testing.Check:
    return next(check for check in testing.attack_checks(attack, **options) if check.name == name)


@pytest.mark.parametrize(("attack", "name", "sentence"), PLANTED, ids=lambda v: type(v).__name__ if v else "")
def test_a_planted_defect_is_found_by_its_check(
    attack: rr.Point, name: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        registry._registered, "point", {"planted": type(attack)}
    )  # so that a recipe can say it
    with pytest.raises(testing.ContractError, match=sentence) as caught:
        check_of(name, attack, climbs=True)()
    assert f"-{name} is broken: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_check_finds_a_planted_defect() -> None:
    assert {name for _, name, _ in PLANTED} == set(attacks.NAMES) - {"devices"}


@pytest.mark.parametrize(
    ("attack", "broken"),
    [
        (Step(), set()),
        (LeavesTheBox(), {"inside"}),
        (DrawsOutsideTheStreams(), {"randomness", "permutation"}),
        (StepsByPlace(), {"permutation"}),
        (StepsAsTheWaitingAllow(), {"refills"}),
        (NeedsSomebodyStanding(), {"fooled", "shapes", "permutation"}),
        (HidesItsPoints(), {"threat", "labels"}),
    ],
    ids=lambda v: type(v).__name__,
)
def test_only_what_is_broken_is_found(attack: rr.Point, broken: set[str]) -> None:
    found = set()
    for check in testing.attack_checks(attack, climbs=True):
        try:
            check()
        except testing.ContractError:
            found.add(check.name)
    assert found == broken


def test_what_a_point_claims_is_read_off_its_fields() -> None:
    def claimed(point: rr.Point, **options: Any) -> set[str]:
        return {check.name for check in testing.attack_checks(point, **options)}

    assert "inside" in claimed(rr.PGD(T, 2))
    assert "inside" in claimed(rr.FGSM(T))
    assert "inside" not in claimed(rr.Steepest(T))  # clip="none"
    assert "inside" not in claimed(rr.Gaussian(0.1))
    assert "inside" in claimed(rr.Gaussian(0.1), inside=True)
    check_of("inside", rr.N_FGSM(T))()  # clip="box": the box alone
    with pytest.raises(testing.ContractError, match="outside the threat"):
        check_of("inside", rr.N_FGSM(T), inside=True)()
