"""Square: random search by queries alone, for networks whose gradients may mislead."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robustreg.attacks.corner_walk import CornerWalk
from robustreg.attacks.portions import Ahead
from robustreg.attacks.row_numbers import draw_keys, words
from robustreg.attacks.square_moves import Bumps, Corners, Moves, window
from robustreg.losses import Loss, check_loss, needs_labels
from robustreg.modes import Mode, check_mode
from robustreg.points import Point
from robustreg.probe import Probe
from robustreg.threat import Threat

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of p, for 10,000 queries
_AT_ONCE = 256  # queries whose random numbers are made together


@dataclass(frozen=True)
class Square(Point):
    """The Square attack (Andriushchenko, Croce, Flammarion and Hein 2020): random search with square windows.

    Each query changes the best point so far in one random window and keeps the change if the loss rises. It reads
    logits and no gradients, so it also works where gradients are masked. Every sample walks by random numbers of its
    own and leaves once it is fooled; one that is never fooled gives the point of highest loss that was seen.

    Windows are places in an image: inputs are read as ``[B, C, H, W]``, ``[B, C, L]`` as C channels of length L, rows
    of features ``[B, D]`` as one channel of length D, where a window is an interval, and further dimensions are joined
    with the height.

    Args:
        threat: ball and box; linf, l2 or l1.
        queries: runs of the network for each restart, the start's included.
        p_init: share of the image that a window covers at first.
        loss: the loss that is to rise.
        restarts: number of starts.
        rescale: stretch the schedule by which the windows shrink, made for 10,000 queries, to ``queries``, as the paper
            does; the published standard ensemble does not, and sees its first half.
        mode: the mode in which the network is run.
    """

    threat: Threat
    queries: int = 5000
    p_init: float = 0.8
    loss: Loss = "margin"
    restarts: int = 1
    rescale: bool = True
    mode: Mode = "eval"

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_mode(self.mode)
        if self.threat.norm not in (1.0, 2.0, math.inf):
            raise ValueError(f"Square has moves for linf, l2 and l1, not for {self.threat.name}")
        if self.queries < 1 or self.restarts < 1:
            raise ValueError(
                f"Square needs queries >= 1 and restarts >= 1, got {self.queries} and {self.restarts}"
            )
        if not 0 < self.p_init <= 1:
            raise ValueError(f"p_init is a share of the image, in (0, 1], got {self.p_init}")

    def draw(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """A key ``[B, 2]`` for every sample's random numbers."""
        return draw_keys(x, generator)

    def share(self, query: int) -> float:
        """The share of the image that a window covers at a query, counted from 0 after the start."""
        at = query * 10_000 // self.queries if self.rescale else query
        return self.p_init * 0.5 ** sum(at > place for place in _HALVINGS)

    def locate(self, probe: Probe) -> Tensor:
        """The end of the search, within ball and box."""
        search = _Search(self, probe)
        search.look_at_samples()
        for restart in range(self.restarts):
            search.walk(restart)
        return search.found


class _Search:
    """The state of a search over a batch: the best point of every sample, and who still stands."""

    def __init__(self, attack: Square, probe: Probe) -> None:
        self._attack, self._probe = attack, probe
        self._moves: Moves = (Corners if attack.threat.norm == math.inf else Bumps)(attack.threat)
        self._image = _image(probe.x.shape[1:])
        self._ahead = Ahead(probe)
        x, labelled = probe.x, probe.y is not None and needs_labels(attack.loss)
        self._leave = labelled and attack.mode == "eval"
        self.found = x.clone()
        dtype = torch.promote_types(x.dtype, torch.float32)
        self._highest = torch.full(x.shape[:1], -math.inf, device=x.device, dtype=dtype)
        self._standing = torch.arange(x.shape[0], device=x.device)
        if labelled:
            self._standing = self._standing[probe.labels() >= 0]  # the others have no loss that could rise

    def look_at_samples(self) -> None:
        """Samples that are wrong as they are need no search."""
        rows = self._standing
        if self._leave and rows.numel():
            losses, wrong = self._query(self._images(self._probe.x[rows]), rows, "clean")
            self._highest[rows] = losses
            self._standing = rows[~wrong]

    def walk(self, restart: int) -> None:
        """One restart, for the samples still standing."""
        rows = self._standing
        if rows.numel() == 0:
            return
        keys, x = self._probe.noise(self._attack)[rows], self._images(self._probe.x[rows])
        first = words(keys, restart, 0, 1, self._moves.start_words(self._image))
        z = self._moves.start(x, first[:, 0])
        best, fooled = self._query(z, rows, restart, 0)
        walk = _Walk(rows, keys, self._moves.frame(x), z, best, fooled)
        if isinstance(self._moves, Corners):
            self._walk_corners(walk, restart)
        else:
            self._walk_all(walk, restart)
        self._keep(walk)
        self._standing = walk.rows[~walk.fooled]

    def _walk_all(self, walk: _Walk, restart: int) -> None:
        """Every query of every sample, in stretches of one size of window.

        A query that is turned down changes nothing, and most are: each sample is asked several at once where few are
        left, goes to the first that is better, and is asked again what came after it.
        """
        for first, end in self._stretches():
            self._leave_out(walk, ~walk.fooled)
            if walk.rows.numel() == 0:
                break
            size = window(self._attack.share(first), self._image, self._moves.least)
            self._walk_stretch(walk, size, self._numbers(walk, restart, first, end), restart, first)

    def _walk_stretch(
        self, walk: _Walk, size: tuple[int, int], numbers: Tensor, restart: int, first: int
    ) -> None:
        count, turn = numbers.shape[1], 0
        done = torch.zeros_like(walk.rows)  # how many of the stretch's queries a sample is through with
        while True:
            walking = ((done < count) & ~walk.fooled).nonzero().squeeze(1)
            if walking.numel() == 0:
                return
            some = torch.arange(self._ahead.of(walking.numel()), device=done.device)
            number = done[walking].unsqueeze(1) + some
            asked = (number < count).flatten()
            number, at = number.flatten()[asked], walking.repeat_interleave(some.numel())[asked]
            frame = tuple(v[at] for v in walk.frame)
            trial = self._moves.step(walk.z[at], frame, size, numbers[at, number])
            losses, wrong = self._query(trial, walk.rows[at], restart, 1 + first, turn)
            taken = walk.first(at, (losses > walk.best[at]) | wrong)
            through = done.scatter_reduce(0, at, number + 1, "amax")
            moved = at[taken]
            walk.z[moved], walk.best[moved], walk.fooled[moved] = trial[taken], losses[taken], wrong[taken]
            through[moved] = number[taken] + 1
            self._ahead.note(int((through - done).sum()), moved.numel())
            done = through
            turn += 1

    def _stretches(self) -> list[tuple[int, int]]:
        """The queries from where to where whose windows are of one size; not too many for their random numbers."""
        last, starts = self._attack.queries - 1, [0]
        for query in range(1, last):
            if query - starts[-1] == _AT_ONCE or self._attack.share(query) != self._attack.share(starts[-1]):
                starts.append(query)
        return list(zip(starts, [*starts[1:], last], strict=True)) if last else []

    def _walk_corners(self, walk: _Walk, restart: int) -> None:
        """The queries that lead to new points, each sample at its own."""
        last = self._attack.queries - 1
        corners = CornerWalk(walk.frame, walk.z, self._attack.queries)
        for query in range(0, last, _AT_ONCE):
            stay = ~walk.fooled
            if not stay.all():
                self._leave_out(walk, stay)
                corners.keep(stay)
            if walk.rows.numel() == 0:
                break
            count = min(_AT_ONCE, last - query)
            shares = (self._attack.share(query + i) for i in range(count))
            corners.plan(
                [window(share, self._image, 1) for share in shares],
                self._numbers(walk, restart, query, query + count),
            )
            turn = 0
            while True:
                at, number, trial = corners.next(~walk.fooled, self._ahead)
                if at.numel() == 0:
                    break
                losses, wrong = self._query(trial, walk.rows[at], restart, 1 + query, turn)
                taken = corners.move(at, number, trial, (losses > walk.best[at]) | wrong, self._ahead)
                moved = at[taken]
                walk.best[moved], walk.fooled[moved] = losses[taken], wrong[taken]
                turn += 1
            walk.z = corners.z

    def _numbers(self, walk: _Walk, restart: int, first: int, end: int) -> Tensor:
        """Random words ``[b, K, count]`` for the queries from ``first`` to before ``end``."""
        count = self._moves.step_words(self._image[0])
        return words(walk.keys, restart, 1 + first, end - first, count)

    def _leave_out(self, walk: _Walk, stay: Tensor) -> None:
        if not stay.all():
            self._keep(walk)
            walk.keep(stay)

    def _query(self, z: Tensor, rows: Tensor, *key: object) -> tuple[Tensor, Tensor]:
        """The losses ``[b]`` and which rows are misclassified ``[b]``; none in a search that nobody leaves."""
        attack, z = self._attack, z.reshape(-1, *self._probe.x.shape[1:])
        logits, losses, _ = self._probe.ascend(
            z, rows, attack.loss, attack.mode, attack, *key, point=attack, gradient=False
        )
        wrong = (
            logits.argmax(1) != self._probe.labels()[rows]
            if self._leave
            else torch.zeros_like(rows, dtype=torch.bool)
        )
        return losses.to(self._highest.dtype), wrong

    def _keep(self, walk: _Walk) -> None:
        """Note what a restart found, where it is better than before."""
        better = walk.fooled | (walk.best > self._highest[walk.rows])
        at, z = walk.rows[better], walk.z[better].reshape(-1, *self._probe.x.shape[1:])
        self.found[at], self._highest[at] = z, walk.best[better]
        self._probe.tell(at, z, walk.fooled[better])

    def _images(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], *self._image)


@dataclass
class _Walk:
    """The samples of one restart, row by row: where they are in the batch, their best points, and who is fooled."""

    rows: Tensor
    keys: Tensor
    frame: tuple[Tensor, ...]
    z: Tensor
    best: Tensor
    fooled: Tensor

    def keep(self, stay: Tensor) -> None:
        """Go on with the samples that ``stay [b]``."""
        self.rows, self.keys, self.z = self.rows[stay], self.keys[stay], self.z[stay]
        self.best, self.fooled = self.best[stay], self.fooled[stay]
        self.frame = tuple(v[stay] for v in self.frame)

    def first(self, at: Tensor, better: Tensor) -> Tensor:
        """The places among ``at [m]`` of the first that is ``better [m]`` of each row, for rows that have one."""
        count = at.shape[0]
        order = torch.where(better, torch.arange(count, device=at.device), count)
        first = torch.full_like(self.rows, count).scatter_reduce(0, at, order, "amin")
        return first[first < count]


def _image(shape: torch.Size) -> torch.Size:
    """A sample's shape read as channels, height and width."""
    sizes = list(shape) or [1]
    if len(sizes) == 1:
        return torch.Size([1, 1, sizes[0]])
    return torch.Size([sizes[0], math.prod(sizes[1:-1]), sizes[-1]])
