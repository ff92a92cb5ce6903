"""Attacking a network in reduced precision, with every verdict made in full precision."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from robustreg import numerics
from robustreg.attacks import MinimalNorm

Precision = Literal["full", "bf16"]

_CLOSE = 4.0
"""So many rounding errors from the boundary an attack goes on in full precision. On four small networks most samples
that an attack missed in bfloat16 were within 2.5, and of those that rightly stand hardly one within 4."""


def check_precision(precision: str) -> None:
    """Raise ValueError for a precision that attacks cannot be run in."""
    if precision not in get_args(Precision):
        raise ValueError(
            f"precision must be one of {', '.join(map(repr, get_args(Precision)))}, got {precision!r}"
        )


class Reduced(nn.Module):
    """A network whose runs are autocast to bfloat16; inputs, logits and gradients keep the dtype of the inputs.

    What an attack finds on it is a point like any other, for which the network itself must be asked.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, C]` at x `[B, ...]`."""
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            logits: Tensor = self.model(x)
        return logits.to(x.dtype)


def as_attacked(model: nn.Module, precision: Precision) -> nn.Module:
    """The model that attacks are run on: itself, or in reduced precision."""
    return Reduced(model) if precision == "bf16" else model


def precision_of(attack: object, asked: Precision) -> Precision:
    """What an attack is run in: one of minimal norm always in full precision.

    It steps onto the boundary, where rounding is all that is left of the margin, and gives the sample itself back where
    it fails, which does not tell how close it was.
    """
    return "full" if isinstance(attack, MinimalNorm) else asked


def lost_in_rounding(points: Tensor, x: Tensor, logits: Tensor, reduced: Tensor, y: Tensor) -> Tensor:
    """Where an attack may have failed for its precision, `[B]` bool: its point is as close to the boundary as rounding
    lets it see, or beyond it in reduced precision only, or is the sample itself, which tells nothing.

    Args:
        points: of the attack `[B, ...]`.
        x: the samples `[B, ...]`.
        logits: of the points `[B, C]`, in full precision.
        reduced: the same in reduced precision.
        y: labels `[B]`.
    """
    error = (logits - reduced).abs().amax(1)
    given_back = (points == x).flatten(1).all(1)
    return given_back | (numerics.margin(logits, y) < _CLOSE * error)
