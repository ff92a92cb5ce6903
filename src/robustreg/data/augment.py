"""Augmentation of whole batches on their device: random crops and flips, drawn from a given generator."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Generator, Tensor
from torch.nn import functional

from ..registry import closest

Augmentation: TypeAlias = Callable[[Tensor, Generator], Tensor]


def random_crop(x: Tensor, padding: int, generator: Generator) -> Tensor:
    """Each image of `x` [B, C, H, W] padded by zeros and cropped back to [H, W] at its own uniform place.

    Args:
        x: uint8 or floating images.
        padding: zeros on each side, in pixels.
        generator: on the CPU, whatever the device of `x`, so that a seed means the same crops everywhere.
    """
    batch, channels, height, width = x.shape
    padded = functional.pad(x, (padding,) * 4)
    corner = torch.randint(2 * padding + 1, (2, batch), generator=generator).to(x.device)
    rows = corner[0, :, None] + torch.arange(height, device=x.device)
    columns = corner[1, :, None] + torch.arange(width, device=x.device)
    sample = torch.arange(batch, device=x.device)[:, None, None, None]
    channel = torch.arange(channels, device=x.device)[None, :, None, None]
    return padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


def horizontal_flip(x: Tensor, generator: Generator) -> Tensor:
    """Each image of `x` [B, C, H, W] mirrored left to right with probability 1/2, drawn on the CPU."""
    flipped = torch.rand(len(x), generator=generator).lt(0.5).to(x.device)
    return torch.where(flipped.view(-1, 1, 1, 1), x.flip(-1), x)


def augmentation(name: str) -> Augmentation:
    """An augmentation by name: `"flip"`, or `"crop4"` for random crops with 4 pixels of padding.

    Raises:
        ValueError: an unknown name.
    """
    if name == "flip":
        return horizontal_flip
    match = re.fullmatch(r"crop([1-9]\d*)", name) if isinstance(name, str) else None
    if match:
        padding = int(match.group(1))
        return lambda x, generator: random_crop(x, padding, generator)
    near = closest(str(name), ("flip", "crop4"))
    hint = f"did you mean {near!r}? " if near else ""
    raise ValueError(f"unknown augmentation {name!r}; {hint}there are 'flip' and 'cropN', such as 'crop4'")


def compose(names: Sequence[str | Augmentation]) -> Augmentation:
    """One augmentation from several, in the order given: names, or functions `(x, generator) -> x`."""
    if isinstance(names, str):
        raise ValueError(f"augmentations are a list of names, got the text {names!r}")
    steps = [step if callable(step) else augmentation(step) for step in names]

    def apply(x: Tensor, generator: Generator) -> Tensor:
        for step in steps:
            x = step(x, generator)
        return x

    return apply
