"""The trained network's averaged weights as a teacher."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robustreg.memory import Memory
from robustreg.modes import Model
from robustreg.probe import Probe
from robustreg.schedules import Weight


class WeightAverage(Memory):
    """An exponential average of the trained network, to be asked as a teacher: ``a <- decay a + (1 - decay) w``.

    Buffers that are floating point, BatchNorm's statistics, are averaged like the weights, and others copied. The
    average has the weights of the steps before this one: a step's own weights join it when the step was computed. It
    begins as a copy of the first step's weights, and until then the network itself is asked.

    It is the network a second time, on its device, and part of the objective's state. Processes that train together
    keep one each, whole also where FSDP2 shards the network at its root; they are equal where the weights are.

    Args:
        decay: in [0, 1], or its schedule. While it is 0 the average is the weights of the step before.
    """

    def __init__(self, decay: Weight = 0.999) -> None:
        if not callable(decay) and not 0.0 <= decay <= 1.0:
            raise ValueError(f"decay is a factor per step and must lie in [0, 1], got {decay}")
        self.decay = decay
        self._average: nn.Module | None = None
        self._saved: Mapping[str, Tensor] | None = None  # loaded before there was a network to copy

    def __repr__(self) -> str:
        return f"WeightAverage({self.decay})"

    def network(self, probe: Probe) -> Model:
        """The average for the probe's step; what the step adds to it is deferred."""
        model, decay = probe.model, probe.scheduled(self.decay)
        probe.defer(lambda: self._follow(model, decay), memory=self)
        if self._saved is not None and not probe.stands_in:
            self._average, self._saved = _with_state(_copy(model), self._saved), None
        return model if self._average is None else self._average

    @torch.no_grad()
    def _follow(self, model: Model, decay: float) -> None:
        """Move the average towards the network."""
        if self._average is None:
            self._average = _copy(model)
            return
        assert isinstance(model, nn.Module)  # it was copied once
        new = dict(_tensors(model))
        for name, mine in _tensors(self._average):
            theirs = new[name].detach().to(mine.device)
            if mine.is_floating_point():
                mine.lerp_(theirs, 1.0 - decay)
            else:
                mine.copy_(theirs)

    def state_dict(self) -> dict[str, Any]:
        """The averaged parameters and buffers by name; empty before the first step."""
        if self._average is None:
            return dict(self._saved or {})
        return {name: tensor.detach().clone() for name, tensor in _tensors(self._average)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave; it is put into a copy of the network at the next step."""
        self._average, self._saved = None, dict(state) or None


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _copy(model: Model) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"an average of weights needs a network (torch.nn.Module), got {type(model).__name__}"
        )
    return copy.deepcopy(model).eval().requires_grad_(False)


@torch.no_grad()
def _with_state(average: nn.Module, saved: Mapping[str, Tensor]) -> nn.Module:
    own = dict(_tensors(average))
    different = sorted(
        name
        for name in {*own, *saved}
        if name not in own or name not in saved or own[name].shape != saved[name].shape
    )
    if different:
        raise ValueError(f"the saved average of the weights is of another network: {different[0]!r} differs")
    for name, tensor in own.items():
        tensor.copy_(saved[name])
    return average
