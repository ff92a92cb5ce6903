"""Averages of the weights: exponential (EMA) and stochastic weight averaging (SWA).

Both keep a copy of the network beside the live one and never touch the live one. The copy is what validation
measures and what checkpoints offer as the network to use.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robustreg.training.handler import Handler

if TYPE_CHECKING:
    from robustreg.training.loop import Trainer


class _Averaged(Handler):
    """Holds the averaged copy."""

    order: ClassVar[int] = 20
    net: nn.Module
    count: int = 0  # how many sets of weights are in the average

    def setup(self, trainer: Trainer) -> None:
        """Copy the network, and offer the copy for validation and as the result."""
        if trainer.eval_net is not trainer.module.net:
            raise ValueError("two handlers average the weights (EMA and SWA, or one twice): keep one.")
        self.net = copy.deepcopy(trainer.module.net).eval().requires_grad_(False)
        trainer.eval_net = self.net

    @torch.no_grad()
    def _move(self, live: nn.Module, share: float) -> None:
        """`average <- (1 - share) * average + share * live`, and the live buffers."""
        averages: list[Tensor] = list(self.net.parameters())
        torch._foreach_lerp_(averages, list(live.parameters()), share)
        for mine, theirs in zip(self.net.buffers(), live.buffers(), strict=True):
            mine.copy_(theirs)

    def state_dict(self) -> dict[str, Any]:
        """The averaged network and how many weights are in it."""
        return {"count": self.count, "network": self.net.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.count = state["count"]
        self.net.load_state_dict(state["network"])


class EMA(_Averaged):
    """Exponential moving average of the weights after every step: `a <- decay * a + (1 - decay) * w`.

    With `warmup`, the decay of the t-th update is `min(decay, (1 + t) / (10 + t))`, so that the average
    forgets the random start at once. Buffers, such as BatchNorm's statistics, are copied from the live
    network: they are averages over steps already.

    Args:
        decay: in [0, 1); the average reaches back about `1 / (1 - decay)` steps.
        warmup: see above.
    """

    def __init__(self, decay: float = 0.999, warmup: bool = True) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"the EMA's decay must be in [0, 1), got {decay}.")
        self.decay, self.warmup = decay, warmup

    @torch.no_grad()
    def updated(self, trainer: Trainer) -> None:
        """Move the average towards the new weights."""
        decay = min(self.decay, (1 + self.count) / (10 + self.count)) if self.warmup else self.decay
        live = trainer.module.net
        self._move(live, 1.0 - decay)
        self.count += 1


class SWA(_Averaged):
    """Equal average of the weights at the end of every epoch from `start` on (stochastic weight averaging).

    The averaged weights have never seen data, so BatchNorm statistics are measured anew for them, on the
    copy. Before `start` the copy follows the live network.

    Args:
        start: the first epoch whose end counts, from 1.
        inputs: gives the batches `[B, ...]` to measure BatchNorm statistics on, as in training but without
            drawing from training's random numbers; needed only where the network has BatchNorm.
    """

    def __init__(self, start: int, inputs: Callable[[], Iterable[Tensor]] | None = None) -> None:
        if start < 1:
            raise ValueError(f"SWA starts at an epoch from 1 on, got {start}.")
        self.first, self.inputs = start, inputs

    def setup(self, trainer: Trainer) -> None:
        """Copy the network; refuse BatchNorm without data to measure it on."""
        super().setup(trainer)
        if self.inputs is None and batch_norms(self.net):
            raise ValueError("SWA of a network with BatchNorm needs inputs to measure its statistics on.")

    @torch.no_grad()
    def epoch_end(self, trainer: Trainer) -> None:
        """Take the epoch's weights into the average."""
        live = trainer.module.net
        if trainer.epoch < self.first:
            self.net.load_state_dict(live.state_dict())
            return
        self.count += 1
        self._move(live, 1.0 / self.count)
        if self.inputs is not None:
            bn_update(self.net, map(trainer.to_net, self.inputs()))


@torch.no_grad()
def bn_update(net: nn.Module, inputs: Iterable[Tensor]) -> None:
    """Measure BatchNorm statistics of `net` anew, as equal averages over the batches `[B, ...]`.

    Other layers (dropout) stay in evaluation mode, and the global random state is not used.
    """
    layers = batch_norms(net)
    if not layers:
        return
    before = [(layer, layer.momentum, layer.training) for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # None is the cumulative average
        layer.train()
    try:
        for x in inputs:
            net(x)
    finally:
        for layer, momentum, training in before:
            layer.momentum = momentum
            layer.train(training)


def batch_norms(net: nn.Module) -> list[_BatchNorm]:
    """The BatchNorm layers that keep running statistics."""
    return [layer for layer in net.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
