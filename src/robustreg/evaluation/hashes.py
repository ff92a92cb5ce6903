"""Fingerprints of models and data that are the same on every machine and in every process."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

from robustreg.evaluation.samples import Samples


def model_sha256(model: nn.Module) -> str:
    """Hash the tensors of the model's `state_dict`: for each name in sorted order its dtype, shape and bytes.

    The architecture is not in it: two networks with equal tensors but other activations have the same hash.
    """
    state = model.state_dict()
    return _tensors_sha256({name: value for name, value in state.items() if isinstance(value, Tensor)})


def data_sha256(samples: Samples) -> str:
    """Hash inputs and labels in the dtype in which they are evaluated."""
    return _tensors_sha256({"x": samples.x, "y": samples.y})


def json_sha256(value: Any) -> str:
    """Hash JSON-able data in its canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _tensors_sha256(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        # `view` needs a dimension to split into bytes; big tensors go through a view, never a bytes copy.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
