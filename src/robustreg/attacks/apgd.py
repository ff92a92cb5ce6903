"""Auto-PGD: projected gradient ascent that finds its step sizes itself (Croce and Hein 2020; for l1 2021)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.attacks.in_box import project_l1_in_box
from robustreg.attacks.pgd import PGD
from robustreg.attacks.portions import climbs_at_once, side_by_side
from robustreg.attacks.rows import Rows, Rule
from robustreg.attacks.search import Search, Searching, without_saturation
from robustreg.attacks.targets import check_targets, clean_logits, others_by_rank, outspoken, towards
from robustreg.losses import Loss, RowLoss, check_loss
from robustreg.modes import Mode, check_mode
from robustreg.points import Gaussian, Point, Uniform
from robustreg.probe import Probe
from robustreg.threat import Threat, steepest_direction


@dataclass(frozen=True)
class APGD(Searching):
    """Auto-PGD (Croce and Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", algorithm 1), and for l1 its sparse form (Croce and Hein 2021, "Mind the box").

    Steps of length ``2 eps`` with momentum; at checkpoints that come closer and closer, a sample whose loss rose in
    fewer than ``rho`` of the steps, or whose best loss stands still, halves its step and goes on from its best point.
    In l1 a step moves a share of the coordinates equally, those of largest gradient; the share follows from how sparse
    the best point is, and points are projected onto ball and box together.

    The cross-entropy is climbed as the log-odds of an error, ``log((1 - p_y) / p_y)``, of which it is a rising
    function: every step is the same, but where a confident network's cross-entropy and its gradient are 0 in rounding,
    the log-odds go on. How strong it is depends on the scale of the logits all the same, see ``rescale``.

    Called as an attack it works sample by sample, see ``PGD``. As a point of training all samples make all steps. In
    both cases who is not fooled gets the point of highest loss.

    Args:
        threat: ball and box, of norm linf, l2 or l1.
        steps: number of steps (the authors take 100).
        restarts: number of random starts.
        loss: the loss that is climbed. ``"dlr"`` is the margin for networks of fewer than 4 classes.
        start: where to start; by default uniform in the ball, for l1 normal noise that is projected onto it.
        rho: which share of the steps between two checkpoints must have raised the loss.
        alpha: share of the new step in ``x + alpha (step) + (1 - alpha) (last move)``; 1 is without momentum.
        eot_iter: average losses and gradients over so many runs, for networks that draw random numbers. A sample then
            counts as fooled if all runs are wrong; the averages are of what is climbed, here the log-odds.
        multi_eps: make 30 % of the steps within ``3 eps`` and 30 % within ``2 eps`` before the rest within ``eps``,
            each from the projected best point of the one before; by default in l1 only, as the authors do.
        rescale: multiply each sample's logits by what makes its margin at the clean sample so many nats, so that the
            scale of the logits plays no part; the authors leave them as they are. 8 was as strong as the scale that
            training gave on our small networks, and 1 was weaker.
        mode: the mode in which the network is run while searching.
        early_exit: let fooled samples leave when called as an attack.
    """

    threat: Threat
    steps: int = 100
    restarts: int = 1
    loss: Loss = "ce"
    start: Point | None = None
    rho: float = 0.75
    alpha: float = 0.75
    eot_iter: int = 1
    multi_eps: bool | None = None
    rescale: float | None = None
    mode: Mode = "eval"
    early_exit: bool = True

    def __post_init__(self) -> None:
        check_loss(self.loss)
        check_mode(self.mode)
        if self.threat.norm not in (1.0, 2.0, math.inf):
            raise ValueError(f"APGD is made for linf, l2 and l1, got {self.threat.name}: use PGD")
        if self.steps < 1 or self.restarts < 1 or self.eot_iter < 1:
            got = f"{self.steps}, {self.restarts} and {self.eot_iter}"
            raise ValueError(f"APGD needs steps >= 1, restarts >= 1 and eot_iter >= 1, got {got}")
        if not (0 <= self.rho <= 1 and 0 < self.alpha <= 1):
            raise ValueError(f"rho must lie in [0, 1] and alpha in (0, 1], got {self.rho} and {self.alpha}")
        if self.rescale is not None and not self.rescale > 0:
            raise ValueError(f"rescale is a margin in nats and must be positive, got {self.rescale}")
        self.starts()

    def starts(self) -> list[Point]:
        """The start of each climb: the same rule, each with a draw of its own."""
        start = self.start
        if start is None:
            # In l1 the projection of noise is sparse; the ratio is that of the authors' noise to their radius.
            start = Uniform(self.threat) if self.threat.norm > 1 else Gaussian(self.threat.eps / 12)
        if self.restarts == 1 and not any(start.sources()):
            return [start] * self._climbs()
        return PGD(self.threat, start=start, restarts=self._climbs()).starts()

    def parts(self) -> Iterator[Point]:
        """The starts."""
        yield from self.starts()

    def radii(self) -> list[tuple[float, int]]:
        """The stages of a climb: the radius as a multiple of ``eps``, and the number of steps."""
        multi = self.threat.norm == 1 if self.multi_eps is None else self.multi_eps
        third = math.ceil(0.3 * self.steps)
        if not multi or self.steps <= 2 * third:
            return [(1.0, self.steps)]
        return [(3.0, third), (2.0, third), (1.0, self.steps - 2 * third)]

    def locate(self, probe: Probe) -> Tensor:
        """The end of the search, within ball and box."""
        search = self._search(probe)
        loss = outspoken(probe.loss_function(without_saturation(self.loss), self.mode), self.loss)
        if self.rescale is not None:  # a run that the others save
            loss = self._rescaled(loss, clean_logits(probe, self, self.mode))
        for start in self.starts():
            self._climb(probe, search, start, loss)
        return search.found()

    def _climbs(self) -> int:
        return self.restarts

    def _search(self, probe: Probe) -> Search:
        return Search(probe, self, self.threat, self.loss, self.mode, self.early_exit, self.eot_iter)

    def _rescaled(self, loss: RowLoss, clean: Tensor) -> RowLoss:
        """The loss at logits ``[b, C]`` whose clean margin is ``rescale``; samples without a margin as they are."""
        if self.rescale is None:
            return loss
        top = clean.topk(2, dim=1).values
        margin = (top[:, 0] - top[:, 1]).unsqueeze(1)
        factor = torch.where(margin > 0, self.rescale / torch.where(margin > 0, margin, 1.0), 1.0)
        return lambda logits, rows: loss(logits * (factor if rows is None else factor[rows]), rows)

    def _climb(self, probe: Probe, search: Search, start: Point, loss: RowLoss) -> None:
        index = search.standing()
        if index.numel() == 0:
            return
        self._climb_from(probe, search, index, probe.at(start)[index], start, loss)

    def _climb_from(
        self, probe: Probe, search: Search, index: Tensor, z: Tensor, start: Point, loss: RowLoss
    ) -> None:
        x, stages = probe.x[index], self.radii()
        for k, (radius, steps) in enumerate(stages):
            threat = self.threat.with_eps(radius * self.threat.eps)
            z = project_l1_in_box(z - x, x, threat) if threat.norm == 1 else threat.project(z, x)
            rule = self._rule(threat, steps)
            if k == len(stages) - 1:
                search.climb(index, z, rule, steps, loss, self, start, k)
            else:
                z = search.approach(index, z, rule, steps, loss, self, start, k)

    def _rule(self, threat: Threat, steps: int) -> Rule:
        if threat.norm == 1:
            return Sparse(threat, steps, warm=len(self.radii()) > 1)
        return Momentum(threat, steps, self.rho, self.alpha)


@dataclass(frozen=True)
class APGDT(APGD):
    """Targeted Auto-PGD: towards the classes beside the label, from the most to the least likely at the clean sample.

    Each climb is one of ``APGD`` with the samples that still stand and a start of its own. Samples that are wrong
    without an attack stay as they are.

    Args:
        threat: ball and box, of norm linf, l2 or l1.
        steps: number of steps of a climb.
        restarts: number of random starts for each target.
        loss: ``"dlr"`` (the authors' choice; the margin for networks of fewer than 4 classes), ``"margin"`` or
            ``"ce"``, each towards the target.
        start: as in ``APGD``.
        rho: as in ``APGD``.
        alpha: as in ``APGD``.
        eot_iter: as in ``APGD``.
        multi_eps: as in ``APGD``.
        rescale: as in ``APGD``; only ``"ce"`` depends on the scale.
        mode: the mode in which the network is run while searching.
        early_exit: let fooled samples leave when called as an attack.
        targets: how many classes; all that there are if there are fewer. The authors take 9, and 5 in l1.
    """

    loss: Loss = "dlr"
    targets: int = 9

    def __post_init__(self) -> None:
        check_targets(self.loss, self.targets)
        super().__post_init__()

    def locate(self, probe: Probe) -> Tensor:
        """The end of the search, within ball and box."""
        y, logits = probe.labels(), clean_logits(probe, self, self.mode)
        targets = others_by_rank(logits, y, self.targets)
        search = self._search(probe)
        search.dismiss(logits)
        starts, k = self.starts()[: self.restarts * targets.shape[1]], 0
        while k < len(starts):
            index = search.standing()
            at_once = 1
            if search.leaves:
                at_once = climbs_at_once(probe, index.numel(), len(starts) - k)
            goals = [targets[:, number // self.restarts] for number in range(k, k + at_once)]
            if at_once == 1:
                loss = outspoken(towards(self.loss, y, goals[0]), self.loss)
                self._climb(probe, search, starts[k], self._rescaled(loss, logits))
            else:
                self._climb_together(probe, search, index, starts[k : k + at_once], goals, logits)
            k += at_once
        return search.found()

    def _climb_together(
        self,
        probe: Probe,
        search: Search,
        index: Tensor,
        starts: list[Point],
        goals: list[Tensor],
        logits: Tensor,
    ) -> None:
        """Several climbs of the few samples that stand, side by side; what they find is noted in their order."""
        several = side_by_side(probe, index, len(starts))
        target = torch.cat([goal[index] for goal in goals])
        loss = outspoken(towards(self.loss, several.labels(), target), self.loss)
        together = self._search(several)
        z = torch.cat([probe.at(start)[index] for start in starts])
        loss = self._rescaled(loss, logits[index].repeat(len(starts), 1))
        self._climb_from(several, together, together.standing(), z, starts[0], loss)
        for number in range(len(starts)):
            search.take(index, together, number * index.numel())

    def _climbs(self) -> int:
        return self.restarts * self.targets


class Momentum:
    """The steps of APGD in linf and l2.

    Args:
        threat: ball and box.
        steps: of the climb.
        rho: see ``APGD``.
        alpha: see ``APGD``.
    """

    def __init__(self, threat: Threat, steps: int, rho: float, alpha: float) -> None:
        self._threat, self._rho, self._alpha = threat, rho, alpha
        self._checkpoints, self._last_check = checkpoints(steps), 0

    def step(self, i: int, rows: Rows, g: Tensor) -> Tensor:
        """The next points ``[b, ...]``."""
        z = rows.z
        if i == 0:
            self.before, self.best_g, self.size = z, g, torch.full_like(rows.losses, 2 * self._threat.eps)
            if (
                self._threat.norm == math.inf
            ):  # the set is a box: its sides are found once, and clamped to after
                eps = torch.full_like(rows.x, self._threat.eps)
                self.low, self.high = (self._threat.project(rows.x + side, rows.x) for side in (-eps, eps))
            self.rises, self.halved = torch.zeros_like(rows.losses), torch.ones_like(rows.fooled)
            self.highest, self.losses = rows.highest, rows.losses
        else:
            self.best_g = torch.where(numerics.as_rows(rows.better, g), g, self.best_g)
            self.rises = self.rises + (rows.losses > self.losses)
        self.losses = rows.losses
        if i in self._checkpoints:
            z, g = self._check(i, rows, g)
        new = self._move(z, rows.x, g, self._alpha if i else 1.0)
        self.before = z
        return new

    def _check(self, i: int, rows: Rows, g: Tensor) -> tuple[Tensor, Tensor]:
        """Conditions 1 and 2 of the paper; who meets one halves the step and goes back to the best point."""
        stuck = self.rises < self._rho * (i - self._last_check)
        self.halved = stuck | (~self.halved & (rows.highest <= self.highest))
        self.size = torch.where(self.halved, self.size / 2, self.size)
        self.rises, self.highest, self._last_check = torch.zeros_like(self.rises), rows.highest, i
        # The next rise is counted from where the step begins.
        self.losses = torch.where(self.halved, rows.highest, self.losses)
        back = numerics.as_rows(self.halved, g)
        return torch.where(back, rows.best, rows.z), torch.where(back, self.best_g, g)

    def _move(self, z: Tensor, x: Tensor, g: Tensor, alpha: float) -> Tensor:
        size = numerics.as_rows(self.size, z).to(z.dtype)
        ahead = self._within(z + size * steepest_direction(g, self._threat.norm), x)
        if alpha == 1:
            return ahead
        return self._within(torch.lerp(z, ahead, alpha).add_(z - self.before, alpha=1 - alpha), x)

    def _within(self, z: Tensor, x: Tensor) -> Tensor:
        return z.clamp(self.low, self.high) if self._threat.norm == math.inf else self._threat.project(z, x)


def checkpoints(steps: int) -> list[int]:
    """After which of the steps the step size is looked at: ``ceil(p_j steps)``, ``p_1 = 0.22`` and
    ``p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06)``, in hundredths so that nothing is rounded on the way.
    """
    before, p, found = 0, 22, []
    while p < 100:
        found.append(-(-p * steps // 100))
        before, p = p, p + max(p - before - 3, 6)
    return sorted(set(found))


class Sparse:
    """The steps of APGD in l1.

    Args:
        threat: ball and box.
        steps: of the climb.
        warm: take the share of coordinates over from the point where it starts; otherwise, and from the sample itself,
            begin with a fifth of them.
    """

    def __init__(self, threat: Threat, steps: int, warm: bool) -> None:
        self._threat, self._every, self._warm = threat, max(int(0.04 * steps), 1), warm

    def step(self, i: int, rows: Rows, g: Tensor) -> Tensor:
        """The next points ``[b, ...]``."""
        z = rows.z
        if i == 0:
            self.best_g, self.size = g, torch.full_like(rows.losses, self._threat.eps)
            features = torch.full_like(rows.losses, z[0].numel())
            far = moved(z, rows.x).to(features.dtype)
            warm = (far > 0) & self._warm
            self.moved, self.count = (
                torch.where(warm, far, features),
                torch.where(warm, far / 1.5, features / 5),
            )
        else:
            self.best_g = torch.where(numerics.as_rows(rows.better, g), g, self.best_g)
            if i % self._every == 0:
                z, g = self._check(rows, g)
        step = numerics.as_rows(self.size, z) * sparse_direction(g, self.count)
        return project_l1_in_box(z + step.to(z.dtype) - rows.x, rows.x, self._threat)

    def _check(self, rows: Rows, g: Tensor) -> tuple[Tensor, Tensor]:
        """Where the best point became sparser, the largest step from there; elsewhere a shorter one."""
        now, eps = moved(rows.best, rows.x).to(self.moved.dtype), self._threat.eps
        sparser = now < 0.95 * self.moved
        self.size = torch.where(sparser, eps, (self.size / 1.5).clamp(min=eps / 10))
        self.moved, self.count = now, now / 1.5
        back = numerics.as_rows(sparser, g)
        return torch.where(back, rows.best, rows.z), torch.where(back, self.best_g, g)


def moved(z: Tensor, x: Tensor) -> Tensor:
    """How many coordinates of each sample are not where they were, ``[B]``."""
    return (z != x).flatten(1).sum(1)


def sparse_direction(g: Tensor, count: Tensor) -> Tensor:
    """The signs of the ``count [B]`` largest gradient entries of a sample, together of l1 length 1, ``[B, ...]``.

    Entries that tie for the last place are all taken. A zero gradient gives zero.
    """
    rows = torch.nan_to_num(numerics.flatten(numerics.upcast(g)), nan=0.0)
    size = rows.abs()
    place = count.long().clamp(1, rows.shape[1]).unsqueeze(1) - 1
    least = size.sort(dim=1, descending=True).values.gather(1, place)
    signs = torch.where(size >= least, rows.sign(), 0.0)
    return (signs / signs.abs().sum(1, keepdim=True).clamp(min=1)).reshape(g.shape).to(g.dtype)
