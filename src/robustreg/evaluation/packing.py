"""Outcomes and accuracies as evaluation.json and manifests have them."""

from __future__ import annotations

import base64
import binascii

import numpy as np
import torch
from torch import Tensor

from robustreg.evaluation.intervals import wilson


def fractions(correct: int, n: int) -> dict[str, float]:
    """Return accuracy and its 95 % Wilson interval as evaluation.json has them."""
    interval = wilson(correct, n)
    return {"accuracy": correct / n, "low": interval.low, "high": interval.high}


def pack(mask: Tensor) -> str:
    """Write a bool mask `[N]` as base64, eight samples a byte, the first sample in the highest bit."""
    return base64.b64encode(np.packbits(mask.cpu().numpy()).tobytes()).decode("ascii")


def unpack(text: str, n: int) -> Tensor:
    """Read a bool mask `[n]` that `pack` wrote.

    Raises:
        ValueError: when the text is not base64 of exactly n bits.
    """
    if not isinstance(text, str):
        raise ValueError(f"a mask must be base64 text, got {type(text).__name__}")
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"a mask is not base64: {error}") from error
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
    if len(data) != (n + 7) // 8 or bits[n:].any():
        raise ValueError(f"a mask holds {len(data)} bytes, which is not one bit for each of {n} samples")
    return torch.tensor(bits[:n].astype(bool))
