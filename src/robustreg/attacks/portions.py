"""How much of a search goes through the network together."""

from __future__ import annotations

from torch import Tensor

from robustreg.modes import Mode
from robustreg.probe import Probe

_AT_ONCE = 1 << 17
"""So many input values a CPU works on at once where it goes back through the network: 167 grey images of 28x28 pixels.
What a network keeps for the way back then stays near the processor: on small convolutional networks 64 to 128 images at
a time took a quarter less than 256."""


_ROWS, _SMALL = 256, 1 << 15
_SHARE, _MEMORY = 0.25, 0.95


def rows_at_once(probe: Probe) -> int:
    """So many rows go together at most where each of a few samples has several, its targets or its queries.

    256, and more of small inputs, 512 of 64 values: what each run of the network costs besides its rows counts there.
    Whoever wants fewer than 256 samples together has a reason, and gets no more rows either.
    """
    most = probe.at_once
    if most is not None and most < _ROWS:
        return most
    return max(_ROWS, _SMALL // max(probe.x[:1].numel(), 1))


class Ahead:
    """How many queries of a sample a random search asks before it knows the answers.

    Most queries change nothing, and then those after them are the same: asked together they fill a batch of few
    samples. But what comes after one that does change something was asked for nothing. As often as that happened of
    late, so few are asked: an eighth of the queries is lost. Of small inputs more are, since each run of the network
    costs besides its rows.

    Args:
        probe: the batch.
    """

    def __init__(self, probe: Probe) -> None:
        self._most = rows_at_once(probe)
        self._cheap = min(self._most, _SMALL // max(probe.x[:1].numel(), 1))
        self._answered = self._moved = 1.0

    def of(self, samples: int) -> int:
        """So many of each, where ``samples`` walk."""
        worth = round(_SHARE * self._answered / self._moved)
        return max(1, self._cheap // samples, min(self._most // samples, worth))

    def note(self, answered: int, moved: int) -> None:
        """So many queries counted, and ``moved`` of them changed something."""
        self._answered = _MEMORY * self._answered + answered
        self._moved = _MEMORY * self._moved + moved


def climbs_at_once(probe: Probe, rows: int, climbs: int) -> int:
    """How many climbs of a few samples (their targets) go together: as many as make one portion of a batch."""
    features = max(probe.x[:1].numel(), 1)
    return max(1, min(climbs, _AT_ONCE // max(rows * features, 1), rows_at_once(probe) // max(rows, 1)))


def side_by_side(probe: Probe, rows: Tensor, climbs: int) -> Probe:
    """A probe of the samples ``rows [b]`` once for each of ``climbs``, the first climb's first.

    Of several climbs that fool a sample the first counts, whichever is there first. So only what the first one finds is
    told at once, and an interrupted search has kept the points that it would have returned.
    """
    several = probe.among(rows.repeat(climbs))
    tell = several.found
    if tell is not None:

        def found(chosen: Tensor, points: Tensor) -> None:
            first = chosen < rows.numel()
            tell(chosen[first], points[first])

        several.found = found
    return several


def slices(z: Tensor, mode: Mode) -> list[slice]:
    """The rows of ``z [b, ...]`` in portions for a backward pass; one portion unless it pays and changes nothing."""
    rows = z.shape[0]
    if z.device.type != "cpu" or mode != "eval":  # with statistics of the batch it is the batch that matters
        return [slice(0, rows)]
    return evenly(rows, max(_AT_ONCE // max(z[:1].numel(), 1), 16))


def evenly(rows: int, most: int) -> list[slice]:
    """So many rows in as few portions as hold at most ``most``, all of one size but the last; one of no rows."""
    portions = max(-(-rows // most), 1)
    size = max(-(-rows // portions), 1)
    return [slice(first, min(first + size, rows)) for first in range(0, max(rows, 1), size)]
