"""What an objective keeps from step to step, and what a step knows of the run: its progress and its samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustreg as rr
from robustreg.memory import Memory, memories
from robustreg.probe import Probe
from robustreg.streams import Stream, content_key

T = rr.Threat("linf", 0.1)


class Count(Memory):
    """How often it was told something."""

    def __init__(self) -> None:
        self.n = 0

    def add(self) -> None:
        self.n += 1

    def state_dict(self) -> dict[str, Any]:
        return {"n": self.n}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.n = int(state["n"])


@dataclass(frozen=True)
class Growing(rr.Point):
    """Farther from the sample at every step."""

    threat: rr.Threat
    memory: Count = field(default_factory=Count, repr=False, kw_only=True)

    def locate(self, probe: Probe) -> Tensor:
        probe.defer(self.memory.add, memory=self.memory)
        return probe.x + 0.01 * self.memory.n


@dataclass(frozen=True)
class Remembering(rr.Term):
    """A value per sample of the data."""

    memory: Count = field(default_factory=Count, repr=False, kw_only=True)
    needs = frozenset({"index"})

    def __call__(self, probe: Probe) -> Tensor:
        return probe.sample_index().to(probe.logits()) + 0 * probe.logits().sum(1)


@dataclass(frozen=True)
class Fading(rr.Point):
    """A point that comes back to the sample with the progress of training."""

    weight: rr.Ramp

    def locate(self, probe: Probe) -> Tensor:
        return probe.x + probe.scheduled(self.weight)


def weighted_at(point: rr.Point) -> rr.Objective:
    half_way = rr.Along(rr.Clean(), point, 0.5)
    return rr.Objective.of(rr.weighted(rr.CrossEntropy(at=half_way), by=rr.Vulnerability()))


def test_parts_that_hold_the_same_memory_share_one_update(smooth_net: nn.Module, double_batch: Any) -> None:
    point = Growing(T)
    objective = rr.CrossEntropy(at=point) + 0.5 * rr.LossAt(rr.Along(rr.Clean(), point, 0.5))
    objective.plan((1, 4, 4), 3)
    assert point.memory.n == 0  # a rehearsal is no step
    for step in range(3):
        objective(smooth_net, *double_batch, step=step)
    assert point.memory.n == 3


def test_memories_are_saved_wherever_they_sit(smooth_net: nn.Module, double_batch: Any) -> None:
    first = rr.Objective.of(
        rr.weighted(rr.CrossEntropy(at=rr.Along(rr.Clean(), Growing(T), 0.5)), by=rr.Vulnerability())
    )
    for step in range(2):
        first(smooth_net, *double_batch, step=step)
    state = first.state_dict()
    assert state["terms"] == {"cross_entropy_by_vulnerability": {"term": {"at.end.memory": {"n": 2}}}}
    other = Growing(T)
    second = rr.Objective.of(
        rr.weighted(rr.CrossEntropy(at=rr.Along(rr.Clean(), other, 0.5)), by=rr.Vulnerability())
    )
    second.load_state_dict(state)
    assert other.memory.n == 2
    with pytest.raises(
        ValueError, match=r"the state of cross_entropy is at\.memory, but the checkpoint holds none"
    ):
        rr.CrossEntropy(at=Growing(T)).load_state_dict({})


def test_a_memory_is_itself_and_names_no_stream() -> None:
    point = Growing(T)
    assert point == point.with_threat(T)
    assert point != Growing(T)
    assert content_key(point) == content_key(Growing(T))
    assert [path for path, _ in memories(rr.Along(rr.Clean(), point))] == ["end.memory"]


def test_a_memory_is_no_option_of_a_recipe() -> None:
    from robustreg.registry import options_of

    assert list(options_of(Growing)) == ["threat"]


def test_the_index_reaches_the_term_by_every_way(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    index = torch.tensor([5, 3, 1, 0, 2, 4])
    objective = rr.CrossEntropy() + 1.0 * Remembering()
    assert objective.reads_index
    assert not rr.Objective.of(rr.CrossEntropy()).reads_index
    found = objective.detailed(smooth_net, x, y, step=0, index=index)
    assert found.per_sample["remembering"].tolist() == index.tolist()
    module = rr.ObjectiveModule(smooth_net, objective)
    assert module(x, y, index, step=0) == found.loss
    assert objective.plan((1, 4, 4), 3).forwards == 1
    fresh = rr.CrossEntropy() + 1.0 * Remembering()
    with pytest.raises(ValueError, match=r"remembering remembers something of every sample: pass index=... "):
        fresh(smooth_net, x, y)
    with pytest.raises(ValueError, match="needs to know which these are"):
        Probe(smooth_net, x, y, stream=Stream(0)).sample_index()


def test_a_point_may_follow_the_progress(smooth_net: nn.Module, double_batch: Any) -> None:
    x, y = double_batch
    objective = rr.Objective.of(rr.CrossEntropy(at=Fading(rr.Ramp(0.0, 0.2))))
    for progress in (0.0, 0.25, 1.0):
        found = objective(smooth_net, x, y, step=0, progress=progress)
        expected = rr.numerics.cross_entropy(smooth_net(x + 0.2 * progress), y).mean()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)
    with pytest.raises(ValueError, match="pass progress"):
        objective(smooth_net, x, y, step=0)
    module = rr.ObjectiveModule(smooth_net, objective)
    module.compile(backend="eager")
    with pytest.raises(RuntimeError, match="changes with the progress of training"):
        module(x, y, progress=0.5)
