"""The mode in which a network is run, made explicit and always put back.

Three modes, always relative to the flags that the network's owner has set:

``"train"``
    As the owner set it: an ordinary forward. In a training loop dropout is active, BatchNorm uses the batch's
    statistics and updates its running ones. Layers that the owner froze with ``.eval()`` stay frozen.
``"batch"``
    The same numbers, but BatchNorm's running statistics are not updated.
``"eval"``
    Everything in evaluation mode: running statistics, no dropout.

Papers mix these on purpose (find the adversarial point in eval, train on it in train), so the mode is an argument of
every request to the network and never a global.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

Mode = Literal["train", "batch", "eval"]
Model = Callable[[Tensor], Tensor]


def check_mode(mode: str) -> None:
    """Refuse a mode that does not exist."""
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")


@contextmanager
def running(model: Model, mode: Mode) -> Iterator[None]:
    """Run ``model`` in ``mode`` for a while; every flag is as it was afterwards, also after an exception."""
    if mode == "train" or not isinstance(model, nn.Module):
        yield
    elif mode == "eval":
        with _evaluating(model):
            yield
    else:
        with _statistics_frozen(model):
            yield


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    # Flags are set one by one, not by model.eval(): a network may override train() to keep parts frozen.
    training = [m for m in model.modules() if m.training]
    try:
        for m in training:
            m.__dict__["training"] = False  # Module.__setattr__ is slow, and this runs at every step of an attack
        yield
    finally:
        for m in training:
            m.__dict__["training"] = True


@contextmanager
def _statistics_frozen(model: nn.Module) -> Iterator[None]:
    # With track_running_stats off and training on, torch's normalisation layers use the batch's statistics and leave
    # their buffers alone; the layers compute the same numbers as in training.
    tracking = [m for m in model.modules() if isinstance(m, _NormBase) and m.training and m.track_running_stats]
    try:
        for m in tracking:
            m.track_running_stats = False
        yield
    finally:
        for m in tracking:
            m.track_running_stats = True
