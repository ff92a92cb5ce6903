"""Masked models: a network behind something that misleads gradient attacks and makes it no harder to fool.

For tests of audits, one's own included: each function takes a network `[B, ...]` (pixel scale 0-1) to logits and gives
one that an audit must not call sound. Those that read images say so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["PLANTED", "planted"]


class Before(nn.Module):
    """A function of the input before the network, as a layer without parameters."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """The function's value."""
        return self.function(x)


class _Backward(torch.autograd.Function):
    """The identity, whose gradient is changed on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.change(grads[0]), None


def input_quantisation(x: Tensor) -> Tensor:
    """Five grey levels."""
    return (4 * x).round() / 4


def jpeg_rounding(x: Tensor) -> Tensor:
    """Rounded coefficients of the cosine transform of the image `[B, C, H, W]`."""
    rows, columns = (_cosine(n).to(x) for n in x.shape[-2:])
    coefficients = (8 * (rows @ x @ columns.T)).round() / 8
    return rows.T @ coefficients @ columns


def thermometer(x: Tensor) -> Tensor:
    """How many of eight thresholds each value exceeds, as a code of zeros and ones that is added up again."""
    thresholds = (torch.arange(8).to(x) + 0.5) / 8
    return (x.unsqueeze(-1) > thresholds).to(x.dtype).mean(-1)


def random_dropout(x: Tensor) -> Tensor:
    """Dropout of the input, also in evaluation mode."""
    return F.dropout(x, 0.2, training=True)


def random_noise(x: Tensor) -> Tensor:
    """Noise on the input at every call."""
    return x + 0.1 * torch.randn_like(x)


def random_resizing(x: Tensor) -> Tensor:
    """The image `[B, C, H, W]` made a little smaller by a random amount and padded at random."""
    size = x.shape[-1]
    small = int(torch.randint(size - 1, size + 1, ()))
    left = int(torch.randint(0, size - small + 1, ()))
    shrunk = F.interpolate(x, size=(small, small), mode="bilinear", align_corners=False)
    return F.pad(shrunk, (left, size - small - left, left, size - small - left))


def vanishing(x: Tensor) -> Tensor:
    """Three steep sigmoids one after another."""
    for _ in range(3):
        x = torch.sigmoid(40 * (x - 0.5))
    return x


def exploding(x: Tensor) -> Tensor:
    """A ripple too fine to matter, whose slope is a hundred times that of everything else."""
    return x + 0.01 * torch.sin(1e4 * x)


def nan_gradients(x: Tensor) -> Tensor:
    """The square root of 0, whose slope is infinite, times 0."""
    return x + (0 * x).sqrt()


def tiny_gradients(x: Tensor) -> Tensor:
    """A gradient that is 1e-30 of what it should be."""
    return _Backward.apply(x, lambda g: 1e-30 * g)  # type: ignore[no-any-return, no-untyped-call]


def flipped_gradients(x: Tensor) -> Tensor:
    """A gradient of the wrong sign."""
    return _Backward.apply(x, torch.neg)  # type: ignore[no-any-return, no-untyped-call]


def detached(z: Tensor) -> Tensor:
    """Logits without a graph."""
    return z.detach()


def saturated(z: Tensor) -> Tensor:
    """Logits so large that the softmax is a decision: what defensive distillation does."""
    return 1e4 * z


def hard_decision(z: Tensor) -> Tensor:
    """The decision in place of the scores."""
    return 10 * F.one_hot(z.argmax(1), z.shape[1]).to(z.dtype)


def batch_dependent(z: Tensor) -> Tensor:
    """Logits less half the batch's mean."""
    return z - 0.5 * z.mean(0, keepdim=True)


def clipped(z: Tensor) -> Tensor:
    """Logits around the middle of the two largest, clipped at a margin of one half."""
    middle = z.topk(2).values.mean(1, keepdim=True)
    return (z - middle).clamp(-0.25, 0.25)


def probabilities(z: Tensor) -> Tensor:
    """Probabilities in place of logits."""
    return z.softmax(1)


def sharp_probabilities(z: Tensor) -> Tensor:
    """Probabilities of a softmax at a temperature of 1/20, most of which round to 0 and 1."""
    return (20 * z).softmax(1)


BEFORE: tuple[Callable[[Tensor], Tensor], ...] = (
    input_quantisation, jpeg_rounding, thermometer, random_dropout, random_noise, random_resizing, vanishing,
    exploding, nan_gradients, tiny_gradients, flipped_gradients,
)  # fmt: skip
AFTER: tuple[Callable[[Tensor], Tensor], ...] = (
    detached, saturated, hard_decision, batch_dependent, clipped, probabilities, sharp_probabilities,
)  # fmt: skip
PLANTED: tuple[str, ...] = tuple(function.__name__ for function in (*BEFORE, *AFTER))


def planted(name: str, net: nn.Module) -> nn.Module:
    """The network behind the defence of that name.

    Raises:
        ValueError: there is none of that name.
    """
    for function in BEFORE:
        if function.__name__ == name:
            return nn.Sequential(Before(function), net)
    for function in AFTER:
        if function.__name__ == name:
            return nn.Sequential(net, Before(function))
    raise ValueError(f"there is no planted defence {name!r}; there are: {', '.join(PLANTED)}")


def _cosine(n: int) -> Tensor:
    """The orthonormal cosine transform `[n, n]`."""
    k, i = torch.arange(n).unsqueeze(1), torch.arange(n).unsqueeze(0)
    basis = torch.cos(math.pi * (2 * i + 1) * k / (2 * n)) * math.sqrt(2 / n)
    basis[0] /= math.sqrt(2)
    return basis
