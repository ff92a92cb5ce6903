"""The linf walk of the Square attack, without the queries whose answer is known.

The search goes up only: a point that was looked at before was the best then or was below it, so it cannot become the
best again. On a small image most of the queries lead to such points: a window that is at that corner already, or that
was tried and turned down. Each sample goes straight to its next query that leads to a new point, and the network
answers these for all samples together. Queries, their order and what they find are those of a walk that asks them all;
for a network that draws random numbers it means that a point is not asked again until a draw is kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from robustreg.attacks.portions import Ahead
from robustreg.attacks.row_numbers import below, bits

_NOTHING_UP = 0x3C6EF372FE94F82B  # the mark where no pixel is up: not 0, which is what an empty table has
_MOST = 8192  # places in a sample's table of what was looked at: 64 KiB


class CornerWalk:
    """Samples at corners of their boxes ``[b, C, H, W]``, and which corners they have been at.

    A corner has a mark: a constant and the sum of random integers over its pixels that are up, modulo 2^64. Sums over
    windows come from summed-area tables, so the mark of what a query leads to is known before it is made. A mark has
    its place in a sample's table by its lowest bits, and a later one there takes the place of an earlier one, which
    would then be looked at again: that costs a run of the network and changes nothing. That two of the 5,000 points of
    a sample share a mark has a probability of a millionth of a millionth.

    Args:
        box: the lowest corners ``[b, C, H, W]`` and the highest ones.
        z: where the samples start: each pixel at the one or the other.
        queries: how many there will be.
    """

    def __init__(self, box: tuple[Tensor, ...], z: Tensor, queries: int) -> None:
        (self.low, self.high), self.z = box, z
        self._places = min(1 << (4 * queries).bit_length(), _MOST)
        self._table = torch.zeros(z.shape[0], self._places, dtype=torch.int64, device=z.device)
        self._codes = _codes(z.shape[1:], z.device)
        self._all = _summed_area(self._codes.unsqueeze(0))
        self._up = torch.empty(z.shape[0], *self._all.shape[1:], dtype=torch.int64, device=z.device)
        self._mark = torch.empty_like(self._table[:, 0])
        every = torch.arange(z.shape[0], device=z.device)
        self._measure(every)
        self._table.scatter_(1, self._place(self._mark.unsqueeze(1)), self._mark.unsqueeze(1))

    def keep(self, stay: Tensor) -> None:
        """Go on with the samples that ``stay [b]``."""
        for name in ("low", "high", "z", "_table", "_up", "_mark"):
            setattr(self, name, getattr(self, name)[stay])

    def plan(self, windows: Sequence[tuple[int, int]], words: Tensor) -> None:
        """Get the next queries ready: their windows' heights and widths, and random words ``[b, K, count]``."""
        channels, height, width = self.z.shape[1:]
        self._tall, self._wide = torch.tensor(windows, device=words.device).unbind(1)
        self._top = below(words[..., 0], height - self._tall + 1)
        self._left = below(words[..., 1], width - self._wide + 1)
        self._coin = bits(words[..., 2:], channels)
        every = torch.arange(self.z.shape[0], device=words.device)
        self._marks = self._marks_of(every)
        self._done = torch.zeros_like(every)

    def next(self, walking: Tensor, ahead: Ahead) -> tuple[Tensor, Tensor, Tensor]:
        """What to ask now: the samples ``[m]``, which of their queries ``[m]``, and the new points ``[m, C, H, W]``.

        Each sample that is ``walking [b]`` has its next queries asked that lead to new points, as many as ``ahead``
        says.
        """
        later = torch.arange(self._marks.shape[1], device=self._marks.device) >= self._done.unsqueeze(1)
        known = self._table.gather(1, self._place(self._marks)) == self._marks
        fresh = ~known & later & walking.unsqueeze(1)
        most = ahead.of(max(int(walking.sum()), 1))
        if most > 1:
            fresh &= fresh.cumsum(1) <= most
            rows, query = fresh.nonzero().unbind(1)
        else:
            first = fresh.to(torch.uint8).argmax(1)
            rows = fresh.gather(1, first.unsqueeze(1)).squeeze(1).nonzero().squeeze(1)
            query = first[rows]
        return rows, query, self._trial(rows, query)

    def move(self, rows: Tensor, query: Tensor, trial: Tensor, better: Tensor, ahead: Ahead) -> Tensor:
        """Take the answers to what ``next`` gave: each sample goes to its first point that is ``better [m]``.

        Returns:
            The places among the ``m`` of those points.
        """
        count = rows.shape[0]
        order = torch.arange(count, device=rows.device)
        first = torch.full_like(self._done, count).scatter_reduce(
            0, rows, torch.where(better, order, count), "amin"
        )
        asked = order <= first[rows]  # what comes after a move is asked again, from there
        rows_asked, query_asked = rows[asked], query[asked]
        marks = self._marks[rows_asked, query_asked]
        self._table[rows_asked, self._place(marks)] = marks
        self._done.scatter_reduce_(0, rows_asked, query_asked + 1, "amax")
        taken = first[first < count]
        ahead.note(rows_asked.numel(), taken.numel())
        if taken.numel():
            moved = rows[taken]
            self.z[moved] = trial[taken]
            self._measure(moved)
            self._marks[moved] = self._marks_of(moved)
        return taken

    def _trial(self, rows: Tensor, query: Tensor) -> Tensor:
        inside = []
        for length, first, size in (
            (self.z.shape[2], self._top, self._tall),
            (self.z.shape[3], self._left, self._wide),
        ):
            offset = torch.arange(length, device=rows.device) - first[rows, query].unsqueeze(1)
            inside.append((offset >= 0) & (offset < size[query].unsqueeze(1)))
        window = (inside[0].unsqueeze(2) & inside[1].unsqueeze(1)).unsqueeze(1)
        corner = torch.where(self._coin[rows, query][:, :, None, None], self.high[rows], self.low[rows])
        return torch.where(window, corner, self.z[rows])

    def _measure(self, rows: Tensor) -> None:
        up = self._codes * (self.z[rows] > self.low[rows])
        self._up[rows] = _summed_area(up)
        self._mark[rows] = self._up[rows, :, -1, -1].sum(1) + _NOTHING_UP

    def _marks_of(self, rows: Tensor) -> Tensor:
        """The marks ``[m, K]`` of what every query would lead to from where the samples are."""
        up = self._in_windows(self._up[rows], rows)
        every = self._in_windows(self._all.expand(rows.shape[0], *self._all.shape[1:]), rows)
        return self._mark[rows].unsqueeze(1) + (torch.where(self._coin[rows], every, 0) - up).sum(2)

    def _in_windows(self, table: Tensor, rows: Tensor) -> Tensor:
        """Sums ``[m, K, C]`` over the queries' windows, from summed-area tables ``[m, C, H + 1, W + 1]``."""
        width, flat = table.shape[3], table.flatten(2)
        top, left = self._top[rows], self._left[rows]
        bottom, right = top + self._tall, left + self._wide

        def at(down: Tensor, across: Tensor) -> Tensor:
            place = (down * width + across).unsqueeze(1).expand(-1, flat.shape[1], -1)
            return flat.gather(2, place)

        return (at(bottom, right) - at(top, right) - at(bottom, left) + at(top, left)).transpose(1, 2)

    def _place(self, marks: Tensor) -> Tensor:
        return marks & (self._places - 1)


@lru_cache(maxsize=16)
def _codes(image: torch.Size, device: torch.device) -> Tensor:
    """A random integer for every pixel, ``[C, H, W]``."""
    generator = torch.Generator().manual_seed(image.numel())
    return torch.randint(-(2**63), 2**63 - 1, tuple(image), generator=generator).to(device)


def _summed_area(values: Tensor) -> Tensor:
    """Sums over all rectangles from the top left, ``[b, C, H + 1, W + 1]``; they wrap around, as they may."""
    return torch.nn.functional.pad(values.cumsum(2).cumsum(3), (1, 0, 1, 0))
