"""Which points a random search over corners has looked at, sample by sample: nobody need look twice.

The search goes up only, so what was looked at before cannot be above the best: it was the best once, or was below it.
Most of the late queries of the Square attack on a small image are such: a window that is at that corner already, or
that was tried and turned down.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

_MOST = 8192  # places in a sample's table: 64 KiB


class Seen:
    """The marks of the points that were looked at, one table a sample.

    A mark has its place by its lowest bits, and a later one there takes the place of an earlier one, which is then
    looked at again: that costs a run of the network and changes nothing.

    Args:
        marks: of the points where the samples start, ``[b]``, int64.
        points: how many will be looked at.
    """

    def __init__(self, marks: Tensor, points: int) -> None:
        self._places = min(1 << max(points - 1, 1).bit_length(), _MOST)
        self._table = torch.zeros(marks.shape[0], self._places, dtype=torch.int64, device=marks.device)
        self._rows = torch.arange(marks.shape[0], device=marks.device)
        self.new(marks)

    def new(self, marks: Tensor) -> Tensor:
        """Which of the points ``[b]`` are new; they are not any more."""
        place = marks & (self._places - 1)
        new = self._table[self._rows, place] != marks
        self._table[self._rows, place] = marks
        return new

    def keep(self, stay: Tensor) -> None:
        """Go on with the samples that ``stay [b]``."""
        self._rows = self._rows[stay]


def marks_of(choices: Tensor) -> Tensor:
    """A mark ``[b]`` (int64) for choices ``[b, ...]`` (bool), equal for equal ones and for others by chance only.

    Sums of random integers, two a sample, small enough that float64 holds every sum exactly and in whatever order it is
    added up: 64 bits in all for up to 2^20 choices. Two of the 5,000 points of a sample share a mark with a probability
    of a millionth of a millionth.
    """
    sums = (choices.flatten(1).double() @ _codes(choices[0].numel(), choices.device)).long()
    return sums[:, 0] * 0x9E3779B97F4A7C1 + sums[:, 1]


@lru_cache(maxsize=16)
def _codes(count: int, device: torch.device) -> Tensor:
    bits = 53 - count.bit_length()
    generator = torch.Generator().manual_seed(count)
    return torch.randint(1, 1 << bits, (count, 2), generator=generator).double().to(device)
