"""Attacks that look for the nearest misclassified point, and not for any within a given radius.

They answer two questions. ``attack.minimal(model, x, y)`` gives the nearest misclassified points and their distances,
whatever the radius: robust accuracy at every radius, from one run. Called as any other attack, ``attack(model, x, y)``,
they give those points that lie within the threat; a sample whose nearest point is further away stays as it is.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from robustreg import numerics
from robustreg.modes import Mode, Model
from robustreg.points import Point
from robustreg.probe import Probe
from robustreg.threat import Threat


class Closest:
    """The nearest misclassified point of each sample so far.

    Attributes:
        points: ``[B, ...]``; the sample itself where there is none.
        distance: in the threat's norm ``[B]``; infinite where there is none.
    """

    def __init__(self, x: Tensor, threat: Threat) -> None:
        self._x, self._threat = x, threat
        self.points = x.clone()
        self.distance = torch.full_like(threat.length(x), math.inf)

    def offer(self, rows: Tensor, z: Tensor, wrong: Tensor) -> None:
        """Take points ``z [b, ...]`` of the samples ``rows [b]``, where they are ``wrong [b]`` and nearer."""
        distance = self._threat.length(z - self._x[rows])
        better = wrong & (distance < self.distance[rows])
        self.points[rows] = torch.where(numerics.as_rows(better, z), z, self.points[rows])
        self.distance[rows] = torch.where(better, distance, self.distance[rows])

    def inside(self, rows: Tensor) -> Tensor:
        """Which of the samples have a point within ``eps``, ``[b]``."""
        return self.distance[rows] <= self._threat.eps


class MinimalNorm(Point, ABC):
    """An attack for the nearest misclassified point. Subclasses are frozen dataclasses that implement ``search``."""

    threat: Threat
    mode: Mode

    @property
    def reads_labels(self) -> bool:
        """It looks for points that are not of the label's class."""
        return True

    @abstractmethod
    def search(self, probe: Probe, rows: Tensor, logits: Tensor, closest: Closest, bounded: bool) -> None:
        """Offer ``closest`` misclassified points of the samples ``rows [b]``, which are right as they are.

        Args:
            probe: the batch.
            rows: places in the batch.
            logits: ``[b, C]``, without an attack.
            closest: where the points go.
            bounded: any point within ``eps`` will do: samples leave when they have one.
        """

    def nearest(self, probe: Probe, bounded: bool) -> Closest:
        """The nearest misclassified points that the search finds.

        Samples that are wrong as they are have distance 0; unlabelled ones have no such point.
        """
        closest, y = Closest(probe.x, self.threat), probe.labels()
        rows = (y >= 0).nonzero().squeeze(1)
        if rows.numel():
            logits, wrong, _ = self.look(probe, probe.x[rows], rows, "clean")
            closest.offer(rows, probe.x[rows], wrong)
            if not wrong.all():
                self.search(probe, rows[~wrong], logits[~wrong], closest, bounded)
        return closest

    def look(self, probe: Probe, z: Tensor, rows: Tensor, *key: object) -> tuple[Tensor, Tensor, Tensor]:
        """Run the network at points ``z [b, ...]`` of the samples ``rows [b]``.

        Returns:
            The logits ``[b, C]``, which points are misclassified ``[b]``, and by how much: the largest other logit
            minus the label's, ``[b]``.
        """
        logits, gap, _ = probe.ascend(z, rows, "margin", self.mode, self, *key, point=self, gradient=False)
        return logits, logits.argmax(1) != probe.labels()[rows], gap

    def locate(self, probe: Probe) -> Tensor:
        """The nearest misclassified points where they lie within the threat, the sample itself elsewhere."""
        x, points = probe.x, self.nearest(probe, bounded=True).points
        return torch.where(numerics.as_rows(self.threat.contains(points, x), x), points, x)

    def minimal(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        *,
        generator: torch.Generator | None = None,
        noise: Mapping[Point, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The nearest misclassified points, however far they are.

        Args:
            model: maps ``[B, ...]`` to logits ``[B, C]``; it is left as it is.
            x: clean samples ``[B, ...]`` within the threat's bounds.
            y: labels ``[B]``, -1 for a sample without one.
            generator: source of randomness; without it ``torch.initial_seed()`` decides.
            noise: the draws of the random points inside, as ``draw_per_sample`` makes them.

        Returns:
            The points ``[B, ...]`` in the bounds, and their distances ``[B]`` in the threat's norm, 0 for samples that
            are wrong as they are. Where no point was found the distance is infinite and the point is the sample; for a
            sample without label the distance is NaN.

        Raises:
            ValueError: inputs outside the threat's bounds or not finite; labels missing or of the wrong shape.
            TypeError: inputs or labels of the wrong type.
        """
        found = _Nearest(self)(model, x, y, generator=generator, noise=noise)
        none = numerics.flatten(found).isnan().any(1)
        points = torch.where(numerics.as_rows(none, x), x, found)
        distance = torch.where(none, math.inf, self.threat.length(points - x))
        return points, torch.where(y >= 0, distance, math.nan)


@dataclass(frozen=True)
class _Nearest(Point):
    """The nearest misclassified points of an attack wherever they lie, NaN where there are none.

    It exists so that ``minimal`` checks its arguments and draws its random numbers exactly as every attack does.
    """

    attack: MinimalNorm

    @property
    def reads_labels(self) -> bool:
        return True

    def locate(self, probe: Probe) -> Tensor:
        closest = self.attack.nearest(probe, bounded=False)
        return torch.where(numerics.as_rows(closest.distance.isinf(), probe.x), math.nan, closest.points)


def nearest_boundary(
    attack: MinimalNorm, probe: Probe, z: Tensor, rows: Tensor, others: Tensor, *key: object
) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest of the boundaries of a network linearised at ``z [b, ...]``, in the threat's norm and without a box.

    Args:
        attack: for whom.
        probe: the batch.
        z: points of the samples ``rows``.
        rows: places ``[b]`` in the batch.
        others: the classes ``[b, K]`` behind the boundaries.
        key: names the random stream of the network's run.

    Returns:
        The gap ``z_k - z_y`` to the class behind it ``[b]``, the gap's gradient ``[b, ...]``, and how far it is,
        ``|gap| / ||gradient||_{p*}``, ``[b]``: infinite where there is no way to it.
    """
    chosen: tuple[Tensor, Tensor, Tensor] | None = None
    own = probe.labels()[rows]
    for gap, normal in probe.boundaries(z, own, others, attack.mode, attack, *key, point=attack):
        steepness = attack.threat.dual_norm(normal)
        distance = torch.where(steepness > 0, gap.abs() / steepness, math.inf)
        if chosen is None:
            chosen = gap, normal, distance
        else:
            nearer = distance < chosen[2]
            chosen = (
                torch.where(nearer, gap, chosen[0]),
                torch.where(numerics.as_rows(nearer, normal), normal, chosen[1]),
                torch.where(nearer, distance, chosen[2]),
            )
    assert chosen is not None  # a network has at least two classes
    return chosen
