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

Two limits. A model that is a plain function has no flags to set: it runs as it is in every mode, so hand over the
module itself. And only torch's normalisation layers are held still in ``"batch"``: other layers that write to buffers
in a training forward, spectral normalisation's power iteration say, do so there too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

Mode = Literal["train", "batch", "eval"]
Model = Callable[[Tensor], Tensor]


def check_mode(mode: str) -> None:
    """Refuse a mode that does not exist."""
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")


Statistics = dict[nn.Module, dict[str, Tensor]]


def live_statistics(model: Model) -> Statistics:
    """Copies of the running statistics that a training forward would update."""
    if not isinstance(model, nn.Module):
        return {}
    return {
        m: {name: b.clone() for name, b in m._buffers.items() if b is not None}
        for m in model.modules()
        if isinstance(m, _NormBase) and m.training and m.track_running_stats
    }


@contextmanager
def running(model: Model, mode: Mode, statistics: Statistics | None = None) -> Iterator[None]:
    """Run ``model`` in ``mode`` for a while; every flag is as it was afterwards, also after an exception.

    In ``"eval"`` the network uses the given running statistics instead of its own.
    """
    if mode == "train" or not isinstance(model, nn.Module):
        yield
    elif mode == "eval":
        with _evaluating(model), _using(statistics or {}):
            yield
    else:
        with _statistics_frozen(model):
            yield


@contextmanager
def out_of_inference(x: Tensor, y: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Leave ``torch.inference_mode`` for a while, where input gradients are impossible: the batch as normal tensors."""
    if not (torch.is_inference_mode_enabled() or x.is_inference() or (y is not None and y.is_inference())):
        yield x, y
        return
    grad = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(grad):
        yield x.clone(), None if y is None else y.clone()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    # Flags are set one by one, not by model.eval(): a network may override train() to keep parts frozen.
    # Directly in __dict__, because Module.__setattr__ is slow and this runs at every step of an attack.
    training = [m for m in model.modules() if m.training]
    try:
        for m in training:
            m.__dict__["training"] = False
        yield
    finally:
        for m in training:
            m.__dict__["training"] = True


@contextmanager
def _using(statistics: Statistics) -> Iterator[None]:
    own = {m: {name: m._buffers[name] for name in copies} for m, copies in statistics.items()}
    try:
        for m, copies in statistics.items():
            m._buffers.update(copies)
        yield
    finally:
        for m, buffers in own.items():
            m._buffers.update(buffers)


@contextmanager
def _statistics_frozen(model: nn.Module) -> Iterator[None]:
    # With track_running_stats off and training on, torch's BatchNorm uses the batch's statistics and leaves its buffers
    # alone; it computes the same numbers as in training. InstanceNorm updates its buffers even so, but not with a
    # momentum of 0.
    norms = [m for m in model.modules() if isinstance(m, _NormBase) and m.training and m.track_running_stats]
    attribute = {m: "momentum" if isinstance(m, _InstanceNorm) else "track_running_stats" for m in norms}
    values = {m: getattr(m, name) for m, name in attribute.items()}
    try:
        for m, name in attribute.items():
            setattr(m, name, 0.0 if name == "momentum" else False)
        yield
    finally:
        for m, name in attribute.items():
            setattr(m, name, values[m])
