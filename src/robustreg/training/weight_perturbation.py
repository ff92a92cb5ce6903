"""Adversarial weight perturbation: the gradient of a step, taken at weights that were moved against it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from robustreg import numerics
from robustreg.training.handler import Handler

if TYPE_CHECKING:
    from robustreg.training.loop import Trainer


class AWP(Handler):
    """Adversarial weight perturbation (Wu, Xia & Wang, NeurIPS 2020), around any objective.

    After the step's points were found at the weights `w`, with them fixed: (1) `d`, the gradient of the whole objective
    at `w`; (2) `v_l = gamma * ||w_l||_2 * d_l / ||d_l||_2` for every layer `l`; (3) the step's gradient at `w + v`;
    (4) back to `w`, which the optimiser moves by that gradient. Layers are the parameters with "weight" in their name
    and two or more dimensions, as in the authors' code; a layer whose `d_l` is 0 stays. Attacks are not repeated: a
    step pays for its losses and penalties twice, and for its points once (`objective.plan(evaluations=2)`).

    The pass at `w` leaves no trace: BatchNorm's statistics and all other buffers change in the pass at `w + v` alone,
    also where an attack in mode `"train"` would have moved them, and states of terms change once, by what was seen at
    `w`. Both passes use the same random points and dropout masks. `trainer.loss` and `trainer.values` are those at
    `w + v`, the loss whose gradient is taken; `weight_perturbation` among them is by how much it is above the loss at
    `w`. Over several processes `d` is the mean of theirs, so `v` is the same in each.

    What differs from the authors' code: their optimiser steps at `w + v` and subtracts `v` afterwards, so their weight
    decay acts on `w + v`; here it acts on `w`. Theirs subtracts what was added, to rounding; here the weights come back
    bit for bit.

    Args:
        gamma: size of the perturbation relative to the layer. The authors take 0.005 for TRADES and 0.01 for PGD
            training.
        start: the fraction of the run after which it begins. The authors begin at epoch 10 of 200 with TRADES (0.05)
            and at once with PGD training.

    Raises:
        ValueError: gamma or start out of range; a network without such parameters.
        RuntimeError: when training starts with a compiled step.
    """

    order: ClassVar[int] = 10

    def __init__(self, gamma: float = 0.005, start: float = 0.0) -> None:
        if not 0 < gamma < float("inf"):
            raise ValueError(f"AWP's gamma must be above 0 and finite, got {gamma}.")
        if not 0 <= start < 1:
            raise ValueError(f"AWP's start is a fraction of the run in [0, 1), got {start}.")
        self.gamma, self.since = gamma, start

    def setup(self, trainer: Trainer) -> None:
        """Refuse a network that has nothing to perturb."""
        if not perturbed_weights(trainer.module.net):
            raise ValueError(
                'AWP perturbs parameters with "weight" in their name and two or more dimensions, but '
                f"{type(trainer.module.net).__name__} has none that is trained."
            )

    def start(self, trainer: Trainer) -> None:
        """Refuse a compiled step."""
        with trainer.module.holding_points():
            pass

    @contextmanager
    def around_gradients(self, trainer: Trainer) -> Iterator[None]:
        """Find the perturbation, and have the step's gradient taken under it."""
        if trainer.step / trainer.total < self.since:
            yield
            trainer.values["weight_perturbation"] = torch.zeros_like(trainer.loss)
            return
        net = trainer.module.net
        with trainer.module.holding_points():
            with same_buffers(net):
                trainer.find_gradients()
            before = trainer.loss
            with perturbed(perturbed_weights(net), self.gamma):
                yield
        trainer.values["weight_perturbation"] = trainer.loss - before


def perturbed_weights(net: nn.Module) -> list[nn.Parameter]:
    """The trained parameters that AWP moves: "weight" in the name, two or more dimensions."""
    return [p for name, p in net.named_parameters() if "weight" in name and p.ndim >= 2 and p.requires_grad]


@torch.no_grad()
def perturbation(weight: Tensor, gradient: Tensor, gamma: float) -> Tensor:
    """`gamma * ||w|| * d / ||d||`, norms over the whole tensor; 0 where the gradient is 0 or not finite."""
    w, d = numerics.upcast(weight), numerics.upcast(gradient)
    # Divided by its largest entry first, so that squares neither overflow nor vanish: then ||d|| >= 1, or d is 0.
    # Only sums over whole tensors, which are right for sharded ones as well.
    d = torch.nan_to_num(d / d.abs().max().clamp(min=torch.finfo(d.dtype).tiny), nan=0.0)
    size: Tensor = gamma * torch.linalg.vector_norm(w) / torch.linalg.vector_norm(d).clamp(min=1.0)
    return (size * d).to(weight.dtype)


@contextmanager
def perturbed(weights: Sequence[nn.Parameter], gamma: float) -> Iterator[None]:
    """The weights moved along their `.grad` for a while, and back bit for bit, whatever happens."""
    kept = [w.detach().clone() for w in weights]
    try:
        with torch.no_grad():
            for w in weights:
                if w.grad is not None:
                    w.add_(perturbation(w, w.grad, gamma))
        yield
    finally:
        with torch.no_grad():
            for w, old in zip(weights, kept, strict=True):
                w.copy_(old)


@contextmanager
def same_buffers(net: nn.Module) -> Iterator[None]:
    """Buffers as found afterwards, whatever happens."""
    kept = [(m, name, b, b.clone()) for m in net.modules() for name, b in m._buffers.items() if b is not None]
    try:
        yield
    finally:
        for (
            module,
            name,
            buffer,
            old,
        ) in kept:  # a forward may write into a buffer or put another in its place
            module._buffers[name] = buffer.copy_(old)
