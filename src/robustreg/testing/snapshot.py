"""Everything that a step must leave as it found it, taken down to compare."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn

from robustreg.testing.check import require
from robustreg.testing.networks import Batch


def snapshot(net: nn.Module, batch: Batch, *, buffers: bool = True, gradients: bool = True) -> dict[str, Any]:
    """What is as it is now, by what it is called."""
    import numpy as np

    modules, parameters = list(net.modules()), list(net.parameters())
    seeds: Any = np.random.get_state()
    state: dict[str, Any] = {
        "the model's train and eval flags": [m.training for m in modules],
        "how the model's normalisation keeps statistics": [
            (getattr(m, "track_running_stats", None), getattr(m, "momentum", None)) for m in modules
        ],
        "the model's hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in modules
        ],
        "the model's parameters": [_bits(p) for p in parameters],
        "the parameters' requires_grad": [p.requires_grad for p in parameters],
        "the input x": [_bits(batch.x), batch.x.requires_grad, batch.x.grad is None],
        "the labels y": None if batch.y is None else _bits(batch.y),
        "torch's global random state": [_bits(s) for s in _torch_states()],
        "Python's global random state": random.getstate(),
        "NumPy's global random state": [str(seeds[0]), seeds[1].tobytes(), *seeds[2:]],
        "whether gradients are enabled": torch.is_grad_enabled(),
        "the default dtype": torch.get_default_dtype(),
    }
    if gradients:
        state["the parameters' .grad"] = [None if p.grad is None else _bits(p.grad) for p in parameters]
    if buffers:
        state["the model's buffers (BatchNorm's statistics)"] = [_bits(b) for b in net.buffers()]
    return state


def require_unchanged(before: dict[str, Any], after: dict[str, Any], when: str) -> None:
    """Raise with the names of all that differs."""
    changed = [name for name, value in before.items() if after[name] != value]
    require(not changed, f"{when} changed {' and '.join(changed)}")


def _torch_states() -> list[Tensor]:
    # asking CUDA for its states would start it
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if started else [])]


def _bits(tensor: Tensor) -> bytes:
    data: bytes = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return data
