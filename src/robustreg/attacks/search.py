"""What the iterated attacks share: look, keep the best point, let fooled samples leave, step.

All state is per sample, so what a sample gets depends neither on who travels with it nor on when the others leave.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.attacks.portions import slices
from robustreg.attacks.rows import Rows, Rule, apart, keep, only, stages, together
from robustreg.losses import Loss, RowLoss, bound_loss, needs_labels
from robustreg.modes import Mode
from robustreg.points import Point
from robustreg.probe import Probe
from robustreg.threat import Threat

_WORTH_IT = 16
"""Fooled rows are taken out when they are a sixteenth of all. The batch then shrinks geometrically: a device sees
few sizes of batch, for each of which it may choose its kernels anew, and at most a sixteenth of its work is idle."""


class Plain:
    """The steps of ``PGD``, with sizes ``sizes`` in the threat's norm."""

    def __init__(self, threat: Threat, sizes: Sequence[float]) -> None:
        self._threat, self._sizes = threat, sizes

    def step(self, i: int, rows: Rows, g: Tensor) -> Tensor:
        """A steepest step, projected."""
        return steepest_step(self._threat, rows.z, g, rows.x, self._sizes[i])


def steepest_step(threat: Threat, z: Tensor, g: Tensor, x: Tensor, size: float) -> Tensor:
    """From ``z [b, ...]`` a step of length ``size`` in the threat's norm up the gradients ``g``, projected; ``x`` is
    clean.
    """
    z = z + threat.with_eps(size).steepest(g)
    if threat.norm not in (1.0, 2.0, math.inf):
        # Steepest steps followed by the Euclidean projection settle beside the worst case for other norms, even on a
        # linear network; scaled back to the sphere they settle at it.
        delta = z - x
        length = threat.length(delta)
        factor = torch.where(length > threat.eps, threat.eps / length, 1.0)
        z = x + delta * numerics.as_rows(factor, delta).to(delta.dtype)
    return threat.project(z, x)


class Searching(Point):
    """An attack whose climbs are those of a ``Search``, from starts that are its parts."""

    mode: Mode
    early_exit: bool

    @property
    def refills(self) -> bool:
        """Unless nobody leaves, or a loss or a start runs the network on all samples at once."""
        loss = getattr(self, "loss", "margin")
        leaves = self.early_exit and self.mode == "eval" and needs_labels(loss) and bound_loss(loss) is None
        return leaves and not any(start.asks_network for start in self.parts())


def without_saturation(loss: Loss) -> Loss:
    """For attacks whose steps follow a gradient's direction alone: the cross-entropy as log-odds.

    The two have one direction, but that of the cross-entropy is lost in rounding where a network is confident.
    """
    return numerics.error_log_odds if loss == "ce" else loss


@dataclass(frozen=True)
class _Ready:
    """A loss that was bound before, which ``Probe.ascend`` would otherwise do at every step."""

    function: RowLoss
    reads_labels = True

    def bind(self, probe: Probe, mode: Mode) -> RowLoss:
        return self.function


class Search:
    """One search over a batch, in one climb or several (restarts, targets).

    Called as an attack (``probe.attacking``, ``early_exit``, mode ``"eval"``, a loss that reads labels) a sample that
    is fooled keeps the point which fooled it and takes part in no later climb. Otherwise every sample makes every step.
    Who is never fooled gets the point of highest score.

    Where there are more samples than ``probe.at_once``, those beyond it wait and take the places of who has left.

    Args:
        probe: the batch.
        point: the attack, for the record and the random streams.
        threat: in which the points lie.
        loss: that is climbed, to know whether it reads labels.
        mode: in which the network is run.
        early_exit: let fooled samples leave.
        draws: runs of the network over which losses and gradients are averaged; a sample is fooled if all of them are.
    """

    def __init__(
        self,
        probe: Probe,
        point: Point,
        threat: Threat,
        loss: Loss,
        mode: Mode,
        early_exit: bool,
        draws: int = 1,
    ) -> None:
        self._probe, self._point, self._mode, self._draws = probe, point, mode, draws
        self._leave = early_exit and probe.attacking and mode == "eval" and needs_labels(loss)
        x, n = probe.x, probe.x.shape[0]
        dtype = torch.promote_types(x.dtype, torch.float32)
        self._found = threat.project(x, x)
        self._highest = torch.full((n,), -math.inf, device=x.device, dtype=dtype)
        self._standing = torch.ones(n, dtype=torch.bool, device=x.device)
        if self._leave:
            self._standing &= probe.labels() >= 0  # nothing can be found where there is no label

    def dismiss(self, logits: Tensor) -> None:
        """Leave out the samples that are wrong by these logits ``[B, C]`` of the clean batch."""
        if self._leave:
            self._standing &= logits.argmax(1) == self._probe.labels()

    @property
    def leaves(self) -> bool:
        """Whether fooled samples leave."""
        return self._leave

    def standing(self) -> Tensor:
        """The places ``[b]`` of the samples that take part in the next climb."""
        if self._leave:
            return self._standing.nonzero().squeeze(1)
        return torch.arange(self._standing.shape[0], device=self._standing.device)

    def found(self) -> Tensor:
        """For every sample the point that fooled it or the best one, ``[B, ...]``."""
        return self._found

    def climb(
        self,
        index: Tensor,
        z: Tensor,
        rule: Rule,
        steps: int,
        loss: RowLoss | Sequence[RowLoss],
        *key: object,
        score: RowLoss | None = None,
    ) -> None:
        """Climb and note what was found.

        Args:
            index: the samples ``[b]``, those that stand.
            z: where they start ``[b, ...]``, within the threat.
            rule: how they move.
            steps: how often.
            loss: what they climb, or one for the start and each step.
            key: names the random stream of the network's runs.
            score: by which a sample's points are compared; the loss itself, unless that changes on the way.
        """
        rows = self._climb(index, z, rule, steps, loss, key, score, self._leave)
        self._note(rows)

    def take(self, index: Tensor, other: Search, first: int) -> None:
        """Note what another search found in its rows from ``first`` on, for the samples ``index [b]`` that stand."""
        part = slice(first, first + index.numel())
        stay = self._standing[index]
        found, highest, standing = (v[part][stay] for v in (other._found, other._highest, other._standing))
        index = index[stay]
        self._note(Rows(index, found, found, found, highest, ~standing, highest, ~standing))

    def approach(
        self, index: Tensor, z: Tensor, rule: Rule, steps: int, loss: RowLoss, *key: object
    ) -> Tensor:
        """Climb to where another climb is to start, maybe outside the threat: the best points ``[b, ...]``."""
        return self._climb(index, z, rule, steps, loss, key, None, leave=False).best

    def _climb(
        self,
        index: Tensor,
        z: Tensor,
        rule: Rule,
        steps: int,
        loss: RowLoss | Sequence[RowLoss],
        key: tuple[object, ...],
        score: RowLoss | None,
        leave: bool,
    ) -> Rows:
        losses = [loss] * (steps + 1) if callable(loss) else loss
        rows, most = self._rows(index, z), self._probe.at_once
        if most is None or index.numel() <= most:
            self._advance(rows, rule, range(steps + 1), losses, key, score, leave)
            return rows
        for looks in stages(steps + 1):
            portions = apart(rows, rule, most)
            for number, (some, own) in enumerate(portions):
                self._advance(some, own, looks, losses, (*key, "portion", number), score, leave)
                if leave:
                    self._take_out(some, own, None)
            rows, rule = together(portions)
        return rows

    def _advance(
        self,
        rows: Rows,
        rule: Rule,
        looks: range,
        losses: Sequence[RowLoss],
        key: tuple[object, ...],
        score: RowLoss | None,
        leave: bool,
    ) -> None:
        """Look after so many steps, and step from there; after the last look of the climb there is no step."""
        last = len(losses) - 1
        for i in looks if rows.index.numel() else ():
            logits, g, wrong = self._look(rows, losses[i], (*key, i), gradient=i < last)
            _judge(
                rows, rows.losses if score is None else score(logits, rows.index), wrong if leave else None
            )
            if leave and i < last:
                left = rows.index.numel() - int(rows.fooled.sum())
                if left == 0:
                    break
                if left * _WORTH_IT <= rows.index.numel() * (_WORTH_IT - 1):
                    g = self._take_out(rows, rule, g)
            if g is not None:
                rows.z = rule.step(i, rows, g)

    def _rows(self, index: Tensor, z: Tensor) -> Rows:
        x = self._probe.x[index]
        nobody = torch.zeros_like(index, dtype=torch.bool)
        lowest = torch.full_like(index, -math.inf, dtype=self._highest.dtype)
        return Rows(index, x, z, z, lowest, nobody, lowest, nobody)

    def _look(
        self, rows: Rows, loss: RowLoss, key: tuple[object, ...], gradient: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Run the network at ``rows.z``: logits, gradient, and who is misclassified."""

        parts = slices(rows.z, self._mode) if gradient and self._leave else [slice(None)]
        found = [
            self._probe.average(
                rows.z[part],
                rows.index[part],
                _Ready(loss),
                self._mode,
                self._draws,
                *(*key, *([number] if number else [])),
                point=self._point,
                gradient=gradient,
            )
            for number, part in enumerate(parts)
        ]
        runs, losses, gradients = zip(*found, strict=True)
        logits = [_whole(draw) for draw in zip(*runs, strict=True)]
        rows.losses = _whole(losses).to(self._highest.dtype)
        wrong = None
        if self._leave:
            y = self._probe.labels()[rows.index]
            # A network that draws numbers is fooled for good where every draw is: one lucky draw proves little.
            wrong = reduce(torch.logical_and, (draw.argmax(1) != y for draw in logits))
        return logits[-1], _whole(gradients) if gradient else None, wrong

    def _take_out(self, rows: Rows, rule: Rule, g: Tensor | None) -> Tensor | None:
        """Note the rows that are fooled and go on without them."""
        self._note(only(rows, rows.fooled))
        kept = (~rows.fooled).nonzero().squeeze(1)
        keep(rows, rule, kept)
        return None if g is None else g[kept]

    def _note(self, rows: Rows) -> None:
        better = rows.fooled | (rows.highest > self._highest[rows.index])
        index = rows.index
        self._found[index] = torch.where(numerics.as_rows(better, rows.best), rows.best, self._found[index])
        self._highest[index] = torch.where(better, rows.highest, self._highest[index])
        self._standing[index] &= ~rows.fooled
        self._probe.tell(index, rows.best, rows.fooled)


def _whole(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _judge(rows: Rows, scores: Tensor, wrong: Tensor | None) -> None:
    """Keep the better points; who is ``wrong`` keeps this one for good."""
    scores = scores.to(rows.highest.dtype)
    better = scores > rows.highest
    if wrong is not None:
        better = (better | wrong) & ~rows.fooled
        rows.fooled = rows.fooled | wrong
    rows.better = better
    rows.highest = torch.where(better, scores, rows.highest)
    rows.best = torch.where(numerics.as_rows(better, rows.z), rows.z, rows.best)
