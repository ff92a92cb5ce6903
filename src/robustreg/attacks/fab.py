"""FAB: the nearest misclassified point, by steps onto the linearised boundary that lean towards the sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.attacks.in_box import Slopes
from robustreg.attacks.minimal import Closest, MinimalNorm, nearest_boundary
from robustreg.attacks.portions import climbs_at_once, side_by_side, slices
from robustreg.attacks.row_numbers import draw_keys, normal, uniform, words
from robustreg.attacks.targets import others_by_rank
from robustreg.modes import Mode, check_mode
from robustreg.probe import Probe
from robustreg.threat import Threat


@dataclass(frozen=True)
class FAB(MinimalNorm):
    """The fast adaptive boundary attack (Croce and Hein 2020, "Minimally distorted adversarial examples with a fast
    adaptive boundary attack", algorithm 1), by default in its targeted form, FAB-T.

    At each step the boundary is linearised at the iterate. Iterate and sample are projected onto it within the box, and
    the next iterate is between the two projections, a little beyond them; once it is misclassified, it is drawn back
    towards the sample. Scale and shift of the logits play no part. Projections are exact in every norm, so any norm
    from 1 to infinity will do; the authors have linf, l2 and l1.

    Args:
        threat: the norm in which near is meant, the box, and the radius when it is called as a bounded attack.
        steps: for each restart and target; each is two forwards and a backward.
        restarts: number of starts for each target: first the sample, then random points within half of ``eps`` or of
            the nearest point's distance.
        targets: the classes that are tried one after the other, most likely first; at most all others. None for the
            untargeted form, where each step goes to the nearest boundary of all: a backward for each class.
        alpha_max: largest share of the sample's projection in a step.
        eta: how far a step goes beyond the boundary, 1 for onto it.
        beta: how far a misclassified iterate stays away from the sample, as a share.
        final_search: forwards that in the end search the line between the sample and its nearest point; the paper has
            3, the authors' code in the standard ensemble none.
        mode: the mode in which the network is run.
    """

    threat: Threat
    steps: int = 100
    restarts: int = 1
    targets: int | None = 9
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    final_search: int = 3
    mode: Mode = "eval"

    def __post_init__(self) -> None:
        check_mode(self.mode)
        if self.steps < 1 or self.restarts < 1:
            raise ValueError(f"FAB needs steps >= 1 and restarts >= 1, got {self.steps} and {self.restarts}")
        if self.targets is not None and self.targets < 1:
            raise ValueError(
                f"targets is a number of classes from 1, or None for all at once, got {self.targets}"
            )
        if not (0 <= self.alpha_max <= 1 and 0 < self.beta < 1):
            raise ValueError(
                f"alpha_max must lie in [0, 1] and beta in (0, 1), got {self.alpha_max} and {self.beta}"
            )
        if not self.eta >= 1:
            raise ValueError(f"eta is 1 for a step onto the boundary and more beyond it, got {self.eta}")
        if self.final_search < 0:
            raise ValueError(f"final_search is a number of forwards from 0, got {self.final_search}")

    def draw(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """A key ``[B, 2]`` for every sample's random numbers."""
        return draw_keys(x, generator)

    def search(self, probe: Probe, rows: Tensor, logits: Tensor, closest: Closest, bounded: bool) -> None:
        """All targets and restarts, then the line to what they found."""
        y = probe.labels()
        ranked = torch.zeros(y.shape[0], logits.shape[1] - 1, dtype=torch.int64, device=y.device)
        ranked[rows] = others_by_rank(logits, y[rows], None)
        climbs = [ranked] if self.targets is None else torch.split(ranked[:, : self.targets], 1, dim=1)
        number = 0
        while number < len(climbs) * self.restarts:
            rows = _standing(rows, closest, bounded)
            if rows.numel() == 0:
                return
            at_once = 1
            if self.restarts == 1 and self.mode == "eval":  # a random start depends on what was found before
                at_once = climbs_at_once(probe, rows.numel(), len(climbs) - number)
            if at_once == 1:
                self._climb(probe, rows, climbs[number // self.restarts], closest, bounded, number)
            else:
                self._climb_together(probe, rows, climbs[number : number + at_once], closest, bounded, number)
            number += at_once
        self._search_line(probe, _standing(rows, closest, bounded), closest)

    def _climb_together(
        self,
        probe: Probe,
        rows: Tensor,
        climbs: Sequence[Tensor],
        closest: Closest,
        bounded: bool,
        number: int,
    ) -> None:
        """Climbs towards several targets side by side, for few samples; what they find is noted in their order."""
        several = side_by_side(probe, rows, len(climbs))
        others = torch.cat([climb[rows] for climb in climbs])
        found = Closest(several.x, self.threat)
        every = torch.arange(others.shape[0], device=rows.device)
        self._climb(several, every, others, found, bounded, number)
        count = rows.numel()
        for points, distance in zip(
            torch.split(found.points, count), torch.split(found.distance, count), strict=True
        ):
            better = distance.isfinite()
            if bounded:
                better &= ~closest.inside(rows)
            closest.offer(rows, points, better)
        if bounded:
            probe.tell(rows, closest.points[rows], closest.inside(rows))

    def _climb(
        self, probe: Probe, rows: Tensor, others: Tensor, closest: Closest, bounded: bool, number: int
    ) -> None:
        x, others = probe.x[rows], others[rows]
        z = x if number % self.restarts == 0 else self._random_start(probe, rows, closest, number)
        for i in range(self.steps):
            gap, slope = self._boundary(probe, z, rows, others, number, i)
            z = self._step(z, x, gap, slope)
            _, wrong, _ = self.look(probe, z, rows, number, i, "after")
            if not wrong.any():  # nobody comes nearer, leaves or is drawn back
                continue
            closest.offer(rows[wrong], z[wrong], wrong[wrong])
            if bounded:
                stay = ~closest.inside(rows)
                if not stay.all():
                    probe.tell(rows, closest.points[rows], ~stay)
                    rows, others, x, z, wrong = (v[stay] for v in (rows, others, x, z, wrong))
                if rows.numel() == 0:
                    return
            z = torch.where(numerics.as_rows(wrong, z), torch.lerp(x, z, self.beta), z)

    def _boundary(
        self, probe: Probe, z: Tensor, rows: Tensor, others: Tensor, number: int, i: int
    ) -> tuple[Tensor, Tensor]:
        """The gap ``[b]`` to the class behind the nearest boundary, and its gradient ``[b, ...]``."""
        found = [
            self._boundary_of(probe, z[part], rows[part], others[part], number, i, *([k] if k else []))
            for k, part in enumerate(slices(z, self.mode))
        ]
        if len(found) == 1:
            return found[0]
        gaps, slopes = zip(*found, strict=True)
        return torch.cat(gaps), torch.cat(slopes)

    def _boundary_of(
        self, probe: Probe, z: Tensor, rows: Tensor, others: Tensor, *key: object
    ) -> tuple[Tensor, Tensor]:
        if others.shape[1] > 1:
            return nearest_boundary(self, probe, z, rows, others, *key)[:2]
        own = probe.labels()[rows]
        return next(probe.boundaries(z, own, others, self.mode, self, *key, point=self))

    def _step(self, z: Tensor, x: Tensor, gap: Tensor, slope: Tensor) -> Tensor:
        """The next iterate, from the gap and its gradient at ``z``."""
        wide_z, wide_x, slope = numerics.upcast(z), numerics.upcast(x), numerics.upcast(slope)
        gap_x = gap + numerics.flatten(slope * (wide_x - wide_z)).sum(1)
        slopes = Slopes(slope, self.threat)
        from_z, from_x = slopes.to_zero(wide_z, gap), slopes.to_zero(wide_x, gap_x)
        near, far = self.threat.length(from_z), self.threat.length(from_x)
        whole = near + far
        alpha = torch.where(whole > 0, near / torch.where(whole > 0, whole, 1.0), 0.0).clamp(
            max=self.alpha_max
        )
        start = torch.lerp(wide_z, wide_x, numerics.as_rows(alpha, wide_z))
        step = start + self.eta * torch.lerp(from_z, from_x, numerics.as_rows(alpha, from_z))
        return self.threat.clip(step.to(x.dtype))

    def _random_start(self, probe: Probe, rows: Tensor, closest: Closest, number: int) -> Tensor:
        x, p = probe.x[rows], self.threat.norm
        entropy = words(probe.noise(self)[rows], number, 0, 1, x[0].numel())[:, 0]
        dtype = closest.distance.dtype
        noise = 2 * uniform(entropy, dtype) - 1 if p == math.inf else normal(entropy, dtype)
        radius = closest.distance[rows].clamp(max=self.threat.eps) / 2
        noise = noise * (radius / numerics.norm(noise, p)).unsqueeze(1)
        return self.threat.clip(x + noise.reshape(x.shape).to(x.dtype))

    def _search_line(self, probe: Probe, rows: Tensor, closest: Closest) -> None:
        """Look for the boundary between each sample and its nearest point by false position.

        Each guess lies a tenth of the way back from where a straight line would cross, towards the wrong end: most are
        then wrong too, and the wrong end is what we want to move.
        """
        rows = rows[closest.distance[rows].isfinite()]
        if rows.numel() == 0 or self.final_search == 0:
            return
        x, end = probe.x[rows], closest.points[rows]
        _, _, below = self.look(probe, x, rows, "line", "sample")
        _, _, above = self.look(probe, end, rows, "line", "end")
        low, high = torch.zeros_like(below), torch.ones_like(below)
        for i in range(self.final_search):
            rise = above - below
            crossing = torch.where(rise > 0, -below / torch.where(rise > 0, rise, 1.0), 0.5).clamp(0, 1)
            t = low + (high - low) * (0.9 * crossing + 0.1)
            z = torch.lerp(x, end, numerics.as_rows(t, x).to(x.dtype))
            _, wrong, gap = self.look(probe, z, rows, "line", i)
            closest.offer(rows, z, wrong)
            low, below = torch.where(wrong, low, t), torch.where(wrong, below, gap)
            high, above = torch.where(wrong, t, high), torch.where(wrong, gap, above)


def _standing(rows: Tensor, closest: Closest, bounded: bool) -> Tensor:
    return rows[~closest.inside(rows)] if bounded else rows
