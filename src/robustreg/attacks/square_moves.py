"""What a query of the Square attack tries: the start, and a change inside a random window, for each norm.

Everything is a batch of images ``[b, C, H, W]``, each with random words of its own, so that every sample has its own
walk (the authors' code places the window of a query once for the whole batch).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.attacks.in_box import project_l1_in_box
from robustreg.attacks.row_numbers import below, bits, words_for_bits
from robustreg.threat import Threat

Window = tuple[int, int]  # height and width


class Moves(Protocol):
    """The random moves in one norm."""

    least: int

    def start_words(self, image: torch.Size) -> int:
        """How many random words ``start`` takes."""

    def frame(self, x: Tensor) -> tuple[Tensor, ...]:
        """What all queries of the samples ``x [b, C, H, W]`` share, each tensor with the samples first."""

    def start(self, x: Tensor, words: Tensor) -> Tensor:
        """Where the search begins, near ``x [b, C, H, W]``."""

    def step_words(self, channels: int) -> int:
        """How many random words ``step`` takes."""

    def step(self, z: Tensor, frame: tuple[Tensor, ...], window: Window, words: Tensor) -> Tensor:
        """What to try next, from the best point ``z`` so far."""


def window(share: float, image: torch.Size, least: int) -> Window:
    """A window of about ``share`` of the pixels of an image ``[C, H, W]``: a square, longer where it is cut off.

    With ``least`` > 1 the square's side is odd and not shorter, as the bumps of the l2 and l1 moves need it. On a row
    of features (H = 1) it is an interval.
    """
    height, width = image[1:]
    side = max(round((share * height * width) ** 0.5), least)
    if least > 1:
        side += 1 - side % 2
    tall, wide = min(side, height), min(side, width)
    if side > height:
        wide = min(width, max(side, round(share * width)))
    if side > width:
        tall = min(height, max(side, round(share * height)))
    return tall, wide


@dataclass(frozen=True)
class Corners:
    """linf: every pixel at a corner of the ball; a window is set to one corner in each channel.

    (The authors add ``+-2 eps`` to the window and clip, which is the same.) The start is vertical stripes.
    """

    threat: Threat
    least = 1

    def start_words(self, image: torch.Size) -> int:
        """One bit for every column and channel."""
        return words_for_bits(image[0] * image[2])

    def frame(self, x: Tensor) -> tuple[Tensor, ...]:
        """The lowest and the highest corner."""
        eps = torch.full_like(x, self.threat.eps)
        return self.threat.project(x - eps, x), self.threat.project(x + eps, x)

    def start(self, x: Tensor, words: Tensor) -> Tensor:
        """Vertical stripes, each up or down at random."""
        rows, channels, _, width = x.shape
        low, high = self.frame(x)
        return torch.where(bits(words, channels * width).reshape(rows, channels, 1, width), high, low)

    def step_words(self, channels: int) -> int:
        """The window's place, and one bit for every channel."""
        return 2 + words_for_bits(channels)

    def step(self, z: Tensor, frame: tuple[Tensor, ...], window: Window, words: Tensor) -> Tensor:
        """A window at a random place set to a random corner."""
        low, high = frame
        up = bits(words[:, 2:], z.shape[1])[:, :, None, None]
        return torch.where(_mask(z, window, _place(z, window, words[:, :2])), torch.where(up, high, low), z)


@dataclass(frozen=True)
class Bumps:
    """l2 and l1: the perturbation's length is carried from one window into another, whose shape has two peaks.

    The start is a grid of such shapes. In l2 the result is stretched to the ball's surface and then clipped; in l1 it
    is projected onto ball and box together (Croce and Hein 2021, "Mind the box").
    """

    threat: Threat
    least = 3

    def frame(self, x: Tensor) -> tuple[Tensor, ...]:
        """The samples."""
        return (x,)

    def start_words(self, image: torch.Size) -> int:
        """A bit for the direction of each tile's peaks and one for its sign in each channel."""
        _, (down, across) = _tiles(image)
        return words_for_bits(down * across * (1 + image[0]))

    def start(self, x: Tensor, words: Tensor) -> Tensor:
        """A grid of five by five shapes (fewer on a small image), each with a random sign in every channel."""
        rows, (channels, height, width) = x.shape[0], x.shape[1:]
        (tall, wide), (down, across) = _tiles(x.shape[1:])
        coins = bits(words, down * across * (1 + channels)).reshape(rows, 1 + channels, down, across)
        shape = self._shape(x, (tall, wide), coins[:, 0, :, :, None, None])
        tiles = shape[:, None] * _sign(coins[:, 1:], x)[..., None, None]  # [b, C, down, across, tall, wide]
        grid = tiles.transpose(3, 4).reshape(rows, channels, down * tall, across * wide)
        top, left = (height - down * tall) // 2, (width - across * wide) // 2
        delta = torch.zeros_like(x)
        delta[:, :, top : top + down * tall, left : left + across * wide] = grid
        return self._within(x, delta)

    def step_words(self, channels: int) -> int:
        """Two places, a bit for the direction of the peaks and one for the sign in each channel."""
        return 4 + words_for_bits(1 + channels)

    def step(self, z: Tensor, frame: tuple[Tensor, ...], window: Window, words: Tensor) -> Tensor:
        """What a second window holds, and what is left of eps, goes into a first one; the second becomes empty."""
        p, channels, x = self.threat.norm, z.shape[1], frame[0]
        delta = z - x
        to, of = _place(z, window, words[:, :2]), _place(z, window, words[:, 2:4])
        emptied, at = _mask(z, window, of), _pixels(z, window, to)
        coins = bits(words[:, 4:], 1 + channels)
        shape = (
            self._shape(z, window, coins[:, 0, None, None])[:, None] * _sign(coins[:, 1:], z)[..., None, None]
        )
        new = _unit(shape + _unit(delta[at], p), p)
        power = _power(delta, p)
        held = torch.where(emptied | _mask(z, window, to), power, 0.0).sum((2, 3))
        unused = (self.threat.eps**p - power.sum((1, 2, 3))).clamp(min=0) / channels
        length = (held + unused.unsqueeze(1)).pow(1 / p)
        if (
            p == 1
        ):  # the authors give an l1 window the length of all channels; the projection takes the surplus off
            length = length * channels
        delta = torch.where(emptied, 0.0, delta)
        delta[at] = new * length.to(z.dtype)[:, :, None, None]
        return self._within(x, delta)

    def _within(self, x: Tensor, delta: Tensor) -> Tensor:
        if self.threat.norm == 1:
            return project_l1_in_box(delta, x, self.threat)
        length = _power(delta, 2).sum((1, 2, 3)).sqrt()
        stretch = torch.where(length > 0, self.threat.eps / torch.where(length > 0, length, 1.0), 0.0)
        return self.threat.clip(x + delta * stretch.to(x.dtype)[:, None, None, None])

    def _shape(self, like: Tensor, window: Window, turned: Tensor) -> Tensor:
        """Two peaks of opposite sign, one above the other, or beside each other where ``turned``."""
        p = self.threat.norm
        power = 2 if p == 2 else 4
        upright = _peaks(window, power, p).to(like)
        lying = _peaks((window[1], window[0]), power, p).T.to(like)
        return torch.where(turned, lying, upright)


@lru_cache(maxsize=256)
def _peaks(window: Window, power: int, p: float) -> Tensor:
    """Two peaks of opposite sign one above the other, of p-norm 1, ``[height, width]``.

    At (Chebyshev) distance ``r`` from a peak's middle its height is ``sum_{k > r} k^-power``; both have the same norm.
    """
    tall, wide = window
    peaks = torch.cat([_peak((tall // 2, wide), power, p), -_peak((tall - tall // 2, wide), power, p)])
    return peaks / numerics.norm(peaks.reshape(1, -1), p)


def _peak(window: Window, power: int, p: float) -> Tensor:
    tall, wide = window
    down = (torch.arange(tall) - tall // 2).abs().reshape(-1, 1)
    across = (torch.arange(wide) - wide // 2).abs().reshape(1, -1)
    falling = torch.arange(max(tall, wide) // 2 + 1, 0, -1, dtype=torch.float64).pow(-power).cumsum(0).flip(0)
    peak = falling[torch.maximum(down, across)]
    return peak / numerics.norm(peak.reshape(1, -1), p) if tall else peak


def _tiles(image: torch.Size) -> tuple[Window, tuple[int, int]]:
    """The size of the start's tiles, and how many there are down and across."""
    height, width = image[1:]
    tall, wide = max(height // 5, 1), max(width // 5, 1)
    return (tall, wide), (height // tall, width // wide)


def _place(z: Tensor, window: Window, words: Tensor) -> tuple[Tensor, Tensor]:
    """The top and left ``[b]`` of a window somewhere in the image."""
    (height, width), (tall, wide) = z.shape[2:], window
    return below(words[:, 0], height - tall + 1), below(words[:, 1], width - wide + 1)


def _mask(z: Tensor, window: Window, place: tuple[Tensor, Tensor]) -> Tensor:
    """Where the windows are, ``[b, 1, H, W]``."""
    inside = []
    for length, size, first in zip(z.shape[2:], window, place, strict=True):
        offset = torch.arange(length, device=z.device) - first.unsqueeze(1)
        inside.append((offset >= 0) & (offset < size))
    return (inside[0].unsqueeze(2) & inside[1].unsqueeze(1)).unsqueeze(1)


def _pixels(z: Tensor, window: Window, place: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """The windows as indices, which give ``[b, C, height, width]``."""
    rows, channels = (torch.arange(n, device=z.device) for n in z.shape[:2])
    down, across = (
        first.unsqueeze(1) + torch.arange(size, device=z.device)
        for first, size in zip(place, window, strict=True)
    )
    return (
        rows[:, None, None, None],
        channels[:, None, None],
        down[:, None, :, None],
        across[:, None, None, :],
    )


def _power(v: Tensor, p: float) -> Tensor:
    """``|v|^p`` for p = 1 or 2: what adds up where lengths are put together."""
    wide = numerics.upcast(v)
    return wide.square() if p == 2 else wide.abs()


def _unit(v: Tensor, p: float) -> Tensor:
    """Each channel's pixels ``[b, C, H, W]`` scaled to length 1; zeros stay."""
    length = _power(v, p).sum((2, 3), keepdim=True).pow(1 / p)
    return v / torch.where(length > 0, length, 1.0).to(v.dtype)


def _sign(coins: Tensor, like: Tensor) -> Tensor:
    return coins.to(like.dtype) * 2 - 1
